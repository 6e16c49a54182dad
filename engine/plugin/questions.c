/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What a program asks before it answers: the functions of the host, the very same that plugins in this process call.
 * What differs is that the program is trusted with nothing that this process depends on: memory goes out in files of
 * the engine's own, which are sealed; the engine makes the sockets that it connects, which nobody else can make wait;
 * and of what the program gives it takes only regular files, whose content nobody has to answer for. They are written
 * with pwrite(2) and read with pread(2), never mapped: what is cut short is an error, no signal. */

#include "mountinfo.h"
#include "plugin-process.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMORY_MAX (64ull << 20)

/* File systems whose answers come from somebody, whom nobody here can make answer: it could be the program itself. */
static bool is_served(const char *type) {
  static const char *const types[] = {"fuse", "fuseblk", "9p", "virtiofs", "nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "autofs"};
  for (size_t i = 0; i < G_N_ELEMENTS(types); i++)
    if (!strcmp(type, types[i]))
      return true;
  return g_str_has_prefix(type, "fuse.");
}

/* Of a mount that has no place, nothing is known. */
static bool is_of_the_kernel(guint64 mount_id) {
  int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
  g_autoptr(GArray) mounts = fd < 0 ? NULL : mountinfo_read(fd, NULL);
  bool found = false;
  for (guint i = 0; mounts && i < mounts->len; i++) {
    const MountInfo *m = &g_array_index(mounts, MountInfo, i);
    found |= (guint64)m->id == mount_id && !is_served(m->fstype);
  }
  if (fd >= 0)
    (void)close(fd);
  return found;
}

/* A regular file that can be read and written without anybody's help. No question here reaches a file system: memory files
 * (memfd, tmpfs) are known by their seals, of others only what the kernel remembers is looked at. */
static int check_file(int fd, bool writes) {
  struct statx st;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MNT_ID, &st) < 0 || !S_ISREG(st.stx_mode))
    return -EINVAL;
  if (writes && (flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY))
    return -EBADF;
  if (!(flags & O_PATH) && fcntl(fd, F_GET_SEALS) >= 0)
    return 0;
  return st.stx_mask & STATX_MNT_ID && is_of_the_kernel(st.stx_mnt_id) ? 0 : -EINVAL;
}

static int seal(int fd) {
  return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ? -errno : 0;
}

/* All or nothing. */
static int copy_memory(const Plugin *p, const PluginQuestion *q, int fd) {
  if (ftruncate(fd, (off_t)q->size) < 0)
    return -errno;
  void *map = mmap(NULL, q->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED)
    return -errno;
  int r = p->host.memory_read(&p->host, q->pid, q->address, map, q->size);
  (void)munmap(map, q->size); /* nothing is sealed against writing while it can be */
  return r < 0 ? r : seal(fd);
}

static int give(int fd, int r, int *ret_fd) {
  if (r >= 0)
    *ret_fd = fd;
  else if (fd >= 0)
    (void)close(fd);
  return r;
}

static int ask_memory(const Plugin *p, const PluginQuestion *q, int *ret_fd) {
  if (!q->size || q->size > MEMORY_MAX)
    return q->size ? -E2BIG : -EINVAL;
  int fd = memfd_create("checkpoint-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return give(fd, fd < 0 ? -errno : copy_memory(p, q, fd), ret_fd);
}

static int ask_connection(const Plugin *p, const PluginQuestion *q, int *ret_fd) {
  if (!q->has_uid || !q->has_gid)
    return -EINVAL;
  int fd = socket(AF_UNIX, q->socket_type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return give(fd, fd < 0 ? -errno : p->host.connect_as(&p->host, fd, q->name, q->uid, q->gid), ret_fd);
}

static int ask_record(const Plugin *p, const PluginQuestion *q, PluginRequest *m) {
  const void *data = NULL;
  size_t size = 0;
  int r = p->host.record_get(&p->host, q->id, q->index, &data, &size);
  m->has_record = r == 0;
  m->record = (ProtobufCBinaryData){.len = size, .data = (guint8 *)data};
  return r;
}

static int ask_content(const Plugin *p, int fd, PluginRequest *m, PluginContent *content) {
  struct checkpoint_content all = {.size = sizeof all};
  int r = fd < 0 ? 0 : check_file(fd, true);
  if (r == 0)
    r = p->host.content_get(&p->host, fd, &all);
  if (r < 0)
    return r;
  content->has_length = content->has_mode = content->has_uid = content->has_gid = content->has_hash = true;
  content->has_mtime_sec = content->has_mtime_nsec = true;
  content->length = all.length;
  content->mode = all.mode;
  content->uid = all.uid;
  content->gid = all.gid;
  content->mtime_sec = all.mtime_sec;
  content->mtime_nsec = all.mtime_nsec;
  content->hash = all.hash;
  m->content = content;
  return 0;
}

static int ask_hash(const Plugin *p, int fd, PluginRequest *m, PluginContent *content) {
  guint64 hash = 0;
  int r = check_file(fd, false);
  if (r == 0)
    r = p->host.content_hash(&p->host, fd, &hash);
  content->has_hash = r == 0;
  content->hash = hash;
  m->content = r == 0 ? content : NULL;
  return r;
}

bool question_takes_descriptor(const PluginQuestion *q) {
  return q->what == PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET || q->what == PLUGIN_ASK__PLUGIN_ASK_CONTENT_HASH;
}

static int question_ask(
    Plugin *p, const PluginQuestion *q, int fd, PluginRequest *m, PluginContent *content, int *ret_fd) {
  switch (q->what) {
  case PLUGIN_ASK__PLUGIN_ASK_RECORD_ADD:
    return p->host.record_add(&p->host, q->id, q->record.data, q->has_record ? q->record.len : 0);
  case PLUGIN_ASK__PLUGIN_ASK_RECORD_GET:
    return ask_record(p, q, m);
  case PLUGIN_ASK__PLUGIN_ASK_MEMORY_READ:
    return ask_memory(p, q, ret_fd);
  case PLUGIN_ASK__PLUGIN_ASK_HAS_TASK:
    return p->host.has_task(&p->host, q->pid);
  case PLUGIN_ASK__PLUGIN_ASK_CONNECT_AS:
    return ask_connection(p, q, ret_fd);
  case PLUGIN_ASK__PLUGIN_ASK_CONTENT_GET:
    return ask_content(p, fd, m, content);
  case PLUGIN_ASK__PLUGIN_ASK_CONTENT_HASH:
    return ask_hash(p, fd, m, content);
  case PLUGIN_ASK__PLUGIN_ASK_PROGRESS:
    return p->host.progress(&p->host, q->done, q->total);
  default: /* of a later one: it has not looked at the revision */
    return -ENOSYS;
  }
}

void question_answer(
    Plugin *p, const PluginQuestion *q, int fd, PluginRequest *m, PluginContent *content, int *ret_fd) {
  *ret_fd = -1;
  m->operation = PLUGIN_OPERATION__PLUGIN_ANSWER;
  m->result = question_ask(p, q, fd, m, content, ret_fd);
  m->has_result = true;
}

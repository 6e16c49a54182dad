/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

FdPath fd_path(int fd) {
  FdPath path;
  (void)snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
  return path;
}

static struct timespec timespec_of(struct statx_timestamp t) {
  return (struct timespec){.tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec};
}

bool probe_stat(FileProbe *probe, GError **error) {
  struct statx sx = {0};
  bool ok = statx(probe->local, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &sx) == 0;
  if (!ok && (errno == ENOENT || errno == ESRCH)) /* /proc/PID/fd of a process that is gone */
    sx.stx_mode = S_IFDIR;
  else if (!ok)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat fd %d of pid %d", probe->fd, probe->pid);
  probe->st = (struct stat){
      .st_dev = makedev(sx.stx_dev_major, sx.stx_dev_minor),
      .st_ino = sx.stx_ino,
      .st_mode = sx.stx_mode,
      .st_nlink = sx.stx_nlink,
      .st_uid = sx.stx_uid,
      .st_gid = sx.stx_gid,
      .st_rdev = makedev(sx.stx_rdev_major, sx.stx_rdev_minor),
      .st_size = (off_t)sx.stx_size,
      .st_blksize = sx.stx_blksize,
      .st_blocks = (blkcnt_t)sx.stx_blocks,
      .st_atim = timespec_of(sx.stx_atime),
      .st_mtim = timespec_of(sx.stx_mtime),
      .st_ctim = timespec_of(sx.stx_ctime),
  };
  probe->mnt_id = sx.stx_mask & STATX_MNT_ID ? sx.stx_mnt_id : 0;
  probe->flags = fcntl(probe->local, F_GETFL);
  if (probe->flags < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the flags of fd %d of pid %d", probe->fd, probe->pid);
  bool has_pos = (S_ISREG(sx.stx_mode) || S_ISDIR(sx.stx_mode)) && !(probe->flags & O_PATH);
  off_t pos = has_pos ? lseek(probe->local, 0, SEEK_CUR) : 0;
  probe->pos = MAX(pos, 0);
  return true;
}

bool probe_readlink_at(int self_fd, int fd, char *buffer, size_t size, GError **error) {
  char number[16];
  (void)snprintf(number, sizeof number, "%d", fd);
  ssize_t n = readlinkat(self_fd, number, buffer, size);
  int reason = errno;
  if (n < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot read the link /proc/self/fd/%d", fd);
    errno = reason; /* callers may look at it */
    return false;
  }
  if ((size_t)n >= size)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "A path is longer than %zu bytes", size);
  buffer[n] = '\0';
  return true;
}

bool probe_readlink(int fd, char *buffer, size_t size, GError **error) {
  _cleanup_fd_ int self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  return probe_readlink_at(self_fd, fd, buffer, size, error);
}

char *file_probe_name(const FileProbe *probe) {
  if (probe->carrier)
    return g_strdup_printf("pid %d (%s) fd %d, on its way in it", probe->carrier, probe->comm, probe->carrier_fd);
  if (probe->fd < 0)
    return g_strdup_printf("pid %d (%s)", probe->pid, probe->comm);
  return g_strdup_printf("pid %d (%s) fd %d", probe->pid, probe->comm, probe->fd);
}

void collector_block(Collector *c, const FileProbe *probe, const char *what, const char *reason, const char *cure) {
  g_autofree char *name = file_probe_name(probe);
  g_autofree char *object = g_strdup_printf("%s: %s", name, what);
  job_block(collector_job(c), what, probe->carrier ? probe->carrier : probe->pid,
      probe->carrier ? probe->carrier_fd : probe->fd, object, reason, cure);
}

FownEntry *fown_none(void) {
  return MESSAGE_NEW(FownEntry, fown_entry__init);
}

void probe_owner(FileProbe *probe) {
  struct f_owner_ex owner = {0};
  probe->owner.known = true;
  if (probe->flags & O_PATH)
    return;
  if (fcntl(probe->local, F_GETOWN_EX, &owner) == 0 && owner.pid > 0) {
    probe->owner.type = owner.type;
    probe->owner.pid = owner.pid;
  }
  probe->owner.signal = fcntl(probe->local, F_GETSIG);
  if (probe->owner.signal < 0)
    probe->owner.signal = 0;
}

FownEntry *collector_fown(const FileProbe *given) {
  FileProbe probe = *given;
  if (!probe.owner.known)
    probe_owner(&probe);
  FownEntry *fown = fown_none();
  fown->signum = (guint32)probe.owner.signal;
  uid_t uids[2] = {0, 0};
  if (!probe.owner.pid)
    return fown;
  fown->pid_type = (guint32)probe.owner.type;
  fown->pid = (guint32)probe.owner.pid;
  if (fcntl(probe.local, F_GETOWNER_UIDS, uids) == 0) {
    fown->uid = uids[0];
    fown->euid = uids[1];
  }
  return fown;
}

/* Small ones, nearly all, take one read. */
static char *read_all(int fd) {
  gsize size = 0, room = 1024;
  char *text = g_malloc(room);
  ssize_t n;
  while ((n = read(fd, text + size, room - size - 1)) > 0) {
    size += (gsize)n;
    if (room - size < 512)
      text = g_realloc(text, room *= 4);
  }
  text[size] = '\0';
  if (n == 0)
    return text;
  g_free(text);
  return NULL;
}

char *file_probe_fdinfo(const FileProbe *probe, GError **error) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", probe->local);
  _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
  char *text = fd < 0 ? NULL : read_all(fd);
  if (text)
    return text;
  int reason = errno;
  g_autofree char *name = file_probe_name(probe);
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot read the fdinfo of %s", name);
  return NULL;
}

const char *fdinfo_value(const char *text, const char *key) {
  size_t n = strlen(key);
  for (const char *line = text; line && *line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, key, n) == 0 && line[n] == ':')
      return line + n + 1 + strspn(line + n + 1, " \t");
  }
  return NULL;
}

bool fdinfo_number(const char *text, const char *key, int base, guint64 *ret_value) {
  const char *value = fdinfo_value(text, key);
  char *end = NULL;
  if (!value)
    return false;
  guint64 number = g_ascii_strtoull(value, &end, (guint)base);
  if (end == value)
    return false;
  *ret_value = number;
  return true;
}

bool probe_is_anon(const FileProbe *probe, const char *name) {
  const char *link = probe->link;
  if (!g_str_has_prefix(link, "anon_inode:"))
    return false;
  link += strlen("anon_inode:");
  size_t n = strlen(name);
  if (*link != '[')
    return strcmp(link, name) == 0;
  return strncmp(link + 1, name, n) == 0 && strcmp(link + 1 + n, "]") == 0;
}

static dev_t dev_of(int fd) {
  struct stat st;
  return fd >= 0 && fstat(fd, &st) == 0 ? st.st_dev : 0;
}

static KernelDevs kernel_devs_learn(void) {
  KernelDevs devs = {0};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) == 0) {
    devs.pipes = dev_of(ends[0]);
    (void)close(ends[0]);
    (void)close(ends[1]);
  }
  _cleanup_fd_ int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  devs.sockets = dev_of(sock);
  _cleanup_fd_ int memfd = memfd_create("probe", MFD_CLOEXEC);
  devs.shmem = dev_of(memfd);
  return devs;
}

const KernelDevs *kernel_devs(void) {
  static KernelDevs devs;
  static gsize learned;
  if (g_once_init_enter(&learned)) {
    devs = kernel_devs_learn();
    g_once_init_leave(&learned, 1);
  }
  return &devs;
}

void raise_fd_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
}

#define BIND_TRIES 400
#define BIND_PAUSE_USEC 5000

int bind_patiently(int fd, const void *address, guint32 size) {
  for (int i = 0; i < BIND_TRIES; i++) {
    if (bind(fd, address, size) == 0)
      return 0;
    if (errno != EADDRINUSE)
      return -1;
    g_usleep(BIND_PAUSE_USEC);
  }
  errno = EADDRINUSE;
  return -1;
}

guint32 socket_memory(int fd) {
  guint32 info[9] = {0}; /* SK_MEMINFO_VARS, of which newer kernels may have more */
  socklen_t size = sizeof info;
  return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) == 0 ? info[0] : 0;
}

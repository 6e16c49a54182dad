/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "watched.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define DELETED " (deleted)"

typedef struct Handle {
  struct file_handle head;
  unsigned char bytes[WATCHED_HANDLE_BYTES];
} Handle;

int watched_mount(guint32 sdev, char **ret_path) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
    return -1;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **l = lines; *l; l++) {
    unsigned maj, min;
    char place[PATH_MAX];
    if (sscanf(*l, "%*d %*d %u:%u %*s %4095s", &maj, &min, place) != 3 || (maj << 20 | min) != sdev)
      continue;
    g_autofree char *path = g_strcompress(place); /* \040 for blanks */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && ret_path)
      *ret_path = g_steal_pointer(&path);
    if (fd >= 0)
      return fd;
  }
  return -1;
}

static int open_handle(guint32 sdev, guint32 type, const void *bytes, guint32 size) {
  _cleanup_fd_ int mount = watched_mount(sdev, NULL);
  Handle h = {.head = {.handle_bytes = size, .handle_type = (int)type}};
  if (mount < 0 || size > WATCHED_HANDLE_BYTES)
    return -1;
  memcpy(h.head.f_handle, bytes, size);
  return open_by_handle_at(mount, &h.head, O_PATH | O_CLOEXEC);
}

bool watched_parse(const char *line, Watched *w) {
  char hex[2 * WATCHED_HANDLE_BYTES + 1] = "";
  const char *at = strstr(line, "fhandle-bytes:");
  if (!at || sscanf(at, "fhandle-bytes:%x fhandle-type:%x f_handle:%256[0-9a-f]", &w->bytes, &w->type, hex) != 3 ||
      w->bytes > WATCHED_HANDLE_BYTES || strlen(hex) < 2 * (size_t)w->bytes)
    return false;
  for (guint32 i = 0; i < w->bytes; i++)
    w->handle[i] = (unsigned char)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
  return true;
}

FhEntry *watched_entry(const Watched *w, const char *path) {
  FhEntry *h = MESSAGE_NEW(FhEntry, fh_entry__init);
  h->bytes = w->bytes, h->type = w->type;
  h->n_handle = WATCHED_HANDLE_BYTES / sizeof *h->handle;
  h->handle = g_malloc0(WATCHED_HANDLE_BYTES);
  memcpy(h->handle, w->handle, w->bytes);
  h->path = g_strdup(path);
  return h;
}

/* A deleted file that somebody in the tree has open comes back with that. */
static guint32 find_open(Collector *c, const struct stat *st) {
  const GPtrArray *files = collector_checkpoint(c)->files;
  for (guint i = 0; i < files->len; i++) {
    const FileEntry *e = files->pdata[i];
    FileProbe probe;
    if (e->type == FD_TYPES__REG && collector_probe_of(c, e->id, &probe) && probe.st.st_ino == st->st_ino && probe.st.st_dev == st->st_dev)
      return e->id;
  }
  return 0;
}

bool watched_find(Collector *c, const Watched *w, char path[static PATH_MAX], guint32 *ret_target, const char **ret_reason) {
  _cleanup_fd_ int fd = open_handle(w->sdev, w->type, w->handle, w->bytes);
  struct stat st;
  *path = '\0';
  *ret_target = 0;
  *ret_reason = "cannot be found again (its file system has no file handles)";
  if (fd < 0 || fstat(fd, &st) < 0 || !probe_readlink(fd, path, PATH_MAX, NULL))
    return false;
  if (st.st_nlink && !g_str_has_suffix(path, DELETED))
    return true;
  *ret_reason = "was deleted, and nobody in the tree has it open";
  *ret_target = find_open(c, &st);
  return *ret_target != 0;
}

void watched_note(Collector *c, guint32 file_id, guint32 number, guint32 target) {
  CkptWatch *w = MESSAGE_NEW(CkptWatch, ckpt_watch__init);
  w->file_id = file_id, w->number = number, w->target = target;
  g_ptr_array_add(collector_checkpoint(c)->watches, w);
}

static const CkptWatch *find_watch(const Checkpoint *c, guint32 file_id, guint32 number) {
  for (guint i = 0; i < c->watches->len; i++) {
    const CkptWatch *w = c->watches->pdata[i];
    if (w->file_id == file_id && w->number == number)
      return w;
  }
  return NULL;
}

static int open_target(Restorer *r, guint32 target, GError **error) {
  int fd = restorer_fd_of(r, target, error);
  int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0 && copy < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot duplicate a descriptor");
  return copy;
}

int watched_open(Restorer *r, guint32 file_id, guint32 number, guint32 sdev, guint64 ino, const FhEntry *h, GError **error) {
  struct stat st;
  const CkptWatch *w = find_watch(restorer_checkpoint(r), file_id, number);
  if (w)
    return open_target(r, w->target, error);
  int fd = h->bytes <= h->n_handle * sizeof *h->handle ? open_handle(sdev, h->type, h->handle, h->bytes) : -1;
  if (fd >= 0 && (!h->path || (fstat(fd, &st) == 0 && st.st_ino == ino)))
    return fd;
  if (fd >= 0)
    (void)close(fd);
  fd = h->path ? open(h->path, O_PATH | O_CLOEXEC) : -1;
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, h->path ? errno : ESTALE, "The watched file (%s) cannot be found",
        h->path ? h->path : "no path known");
  return fd;
}

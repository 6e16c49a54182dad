/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* inotify(7). What a watch is on is known by a file handle only (proc(5), fdinfo); open_by_handle_at(2) finds the file, its
 * path goes into the image, too. At the restore the handle is tried first, then the path. Watch descriptors count upwards
 * and are never given twice, so the wanted one comes after as many tries. */

#include "internal.h"
#include "fsnotify.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define MAX_WD (1 << 20) /* tries at the restore */
#define HANDLE_WORDS 16  /* of fh_entry.handle, as CRIU writes it: MAX_HANDLE_SZ of 128 bytes */
#define HANDLE_BYTES (HANDLE_WORDS * 8)
#define DELETED " (deleted)"

typedef struct Handle {
  struct file_handle head;
  unsigned char bytes[HANDLE_BYTES];
} Handle;

/* A place in the file system with that kernel device number (as fdinfo shows it: major << 20 | minor); -1: none. */
static int open_mount(guint32 sdev) {
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
    if (fd >= 0)
      return fd;
  }
  return -1;
}

static int open_handle(guint32 sdev, guint32 type, const void *bytes, guint32 size) {
  _cleanup_fd_ int mount = open_mount(sdev);
  Handle h = {.head = {.handle_bytes = size, .handle_type = (int)type}};
  if (mount < 0 || size > HANDLE_BYTES)
    return -1;
  memcpy(h.head.f_handle, bytes, size);
  return open_by_handle_at(mount, &h.head, O_PATH | O_CLOEXEC);
}

/* --- collect --- */

typedef struct Watch {
  guint32 wd, sdev, mask, ignored, bytes, type;
  guint64 ino;
  unsigned char handle[HANDLE_BYTES];
} Watch;

/* "inotify wd:1 ino:2 sdev:fe00000 mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0200000000000000" */
static bool parse_watch(const char *line, Watch *w) {
  char hex[2 * HANDLE_BYTES + 1] = "";
  unsigned long ino;
  if (sscanf(line, "inotify wd:%x ino:%lx sdev:%x mask:%x ignored_mask:%x fhandle-bytes:%x fhandle-type:%x f_handle:%256[0-9a-f]",
          &w->wd, &ino, &w->sdev, &w->mask, &w->ignored, &w->bytes, &w->type, hex) != 8 ||
      w->bytes > HANDLE_BYTES || strlen(hex) < 2 * (size_t)w->bytes)
    return false;
  w->ino = ino;
  for (guint32 i = 0; i < w->bytes; i++)
    w->handle[i] = (unsigned char)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
  return true;
}

static InotifyWdEntry *watch_entry(const Watch *w, guint32 id, const char *path) {
  InotifyWdEntry *e = MESSAGE_NEW(InotifyWdEntry, inotify_wd_entry__init);
  FhEntry *h = e->f_handle = MESSAGE_NEW(FhEntry, fh_entry__init);
  e->id = id;
  e->i_ino = w->ino, e->mask = w->mask, e->ignored_mask = w->ignored, e->s_dev = w->sdev, e->wd = w->wd;
  h->bytes = w->bytes, h->type = w->type;
  h->n_handle = HANDLE_WORDS;
  h->handle = g_malloc0(HANDLE_BYTES);
  memcpy(h->handle, w->handle, w->bytes);
  h->path = g_strdup(path);
  return e;
}

static bool collect_watch(Collector *c, const FileProbe *probe, const char *line, InotifyFileEntry *entry) {
  Watch w = {0};
  char path[PATH_MAX] = "";
  bool parsed = parse_watch(line, &w);
  _cleanup_fd_ int fd = parsed ? open_handle(w.sdev, w.type, w.handle, w.bytes) : -1;
  if (fd < 0 || !probe_readlink(fd, path, sizeof path, NULL) || g_str_has_suffix(path, DELETED)) {
    g_autofree char *why = g_strdup_printf("watch %u is on a file that %s", w.wd,
        !parsed ? "the kernel does not name" : *path ? "was deleted" : "cannot be found again (its file system has no file handles)");
    collector_block(c, probe, "inotify", why, "let the program remove that watch before the dump");
    return false;
  }
  entry->wd = g_renew(InotifyWdEntry *, entry->wd, entry->n_wd + 1);
  entry->wd[entry->n_wd++] = watch_entry(&w, entry->id, path);
  return true;
}

static bool inotify_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "inotify");
}

static bool inotify_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  if (!text)
    return false;
  int pending = 0;
  if (ioctl(probe->local, FIONREAD, &pending) == 0 && pending > 0)
    collector_block(c, probe, "inotify", "there are events that the program has not read yet, and they cannot be made again",
        "try again when it has read them");
  InotifyFileEntry *ify = entry->ify = MESSAGE_NEW(InotifyFileEntry, inotify_file_entry__init);
  ify->id = entry->id;
  ify->flags = (guint32)probe->flags;
  ify->fown = collector_fown(probe);
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **l = lines; *l; l++)
    if (g_str_has_prefix(*l, "inotify wd:"))
      (void)collect_watch(c, probe, *l, ify);
  return true;
}

/* --- restore --- */

/* The inode is what the handle names; without it (another machine, a restored backup) the path is. */
static int open_watched(const InotifyWdEntry *e, GError **error) {
  struct stat st;
  const FhEntry *h = e->f_handle;
  int fd = h->bytes <= h->n_handle * sizeof *h->handle ? open_handle(e->s_dev, h->type, h->handle, h->bytes) : -1;
  if (fd >= 0 && (!h->path || (fstat(fd, &st) == 0 && st.st_ino == e->i_ino)))
    return fd;
  if (fd >= 0)
    (void)close(fd);
  fd = h->path ? open(h->path, O_PATH | O_CLOEXEC) : -1;
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, h->path ? errno : ESTALE, "inotify: the file of watch %u (%s) cannot be found",
        e->wd, h->path ? h->path : "no path known");
  return fd;
}

static bool add_watch(int fd, const InotifyWdEntry *e, GError **error) {
  _cleanup_fd_ int file = open_watched(e, error);
  if (file < 0)
    return false;
  FdPath path = fd_path(file);
  for (;;) {
    int wd = inotify_add_watch(fd, path.text, e->mask);
    if (wd < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno,
          "inotify: cannot watch %s (is fs.inotify.max_user_watches too small?)", e->f_handle->path ? e->f_handle->path : "a file");
    if ((guint32)wd == e->wd)
      return true;
    if ((guint32)wd > e->wd || e->wd > MAX_WD)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "inotify: watch %u cannot be made after watch %d", e->wd, wd);
    (void)inotify_rm_watch(fd, wd);
  }
}

/* Removing watches made events. */
static void drain(int fd) {
  char events[4096];
  while (read(fd, events, sizeof events) > 0)
    ;
}

static int compare_watches(gconstpointer a, gconstpointer b) {
  const InotifyWdEntry *x = *(InotifyWdEntry *const *)a, *y = *(InotifyWdEntry *const *)b;
  return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static int inotify_open(Restorer *r, const FileEntry *entry, GError **error) {
  const InotifyFileEntry *ify = entry->ify;
  if (!ify) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no inotify_file_entry");
    return -1;
  }
  _cleanup_fd_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make an inotify instance");
    return -1;
  }
  g_autofree InotifyWdEntry **sorted = ify->n_wd ? g_memdup2(ify->wd, ify->n_wd * sizeof *ify->wd) : NULL;
  if (sorted)
    qsort(sorted, ify->n_wd, sizeof *sorted, compare_watches);
  for (size_t i = 0; i < ify->n_wd; i++) {
    if (!add_watch(fd, sorted[i], error))
      return -1;
    drain(fd);
  }
  return restorer_set_flags(fd, ify->flags, error) ? fd_take(&fd) : -1;
}

static const FownEntry *inotify_fown(const FileEntry *entry) {
  return entry->ify ? entry->ify->fown : NULL;
}

const ObjectOps inotify_ops = {
    .name = "inotify",
    .type = FD_TYPES__INOTIFY,
    .claims = inotify_claims,
    .collect = inotify_collect,
    .open = inotify_open,
    .fown = inotify_fown,
};

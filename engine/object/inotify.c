/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* inotify(7). What a watch is on is known by a file handle only (proc(5), fdinfo); open_by_handle_at(2) finds the file, its
 * path goes into the image, too. At the restore the handle is tried first, then the path. Watch descriptors count upwards
 * and are never given twice, so the wanted one comes after as many tries. */

#include "watched.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#define MAX_WD (1 << 20) /* tries at the restore */

/* --- collect --- */

typedef struct Watch {
  guint32 wd, mask, ignored;
  Watched file;
} Watch;

/* "inotify wd:1 ino:2 sdev:fe00000 mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0200000000000000" */
static bool parse_watch(const char *line, Watch *w) {
  unsigned long ino;
  if (sscanf(line, "inotify wd:%x ino:%lx sdev:%x mask:%x ignored_mask:%x", &w->wd, &ino, &w->file.sdev, &w->mask, &w->ignored) != 5)
    return false;
  w->file.ino = ino;
  return watched_parse(line, &w->file);
}

static InotifyWdEntry *watch_entry(const Watch *w, guint32 id, const char *path) {
  InotifyWdEntry *e = MESSAGE_NEW(InotifyWdEntry, inotify_wd_entry__init);
  e->id = id;
  e->i_ino = w->file.ino, e->mask = w->mask, e->ignored_mask = w->ignored, e->s_dev = w->file.sdev, e->wd = w->wd;
  e->f_handle = watched_entry(&w->file, path);
  return e;
}

static void collect_watch(Collector *c, const FileProbe *probe, const char *line, InotifyFileEntry *entry) {
  Watch w = {0};
  char path[PATH_MAX] = "";
  guint32 target = 0;
  const char *reason = "the kernel does not name";
  if (!parse_watch(line, &w) || !watched_find(c, &w.file, path, &target, &reason)) {
    g_autofree char *why = g_strdup_printf("watch %u is on a file that %s", w.wd, reason);
    collector_block(c, probe, "inotify", why, "let the program remove that watch before the dump");
    return;
  }
  entry->wd = g_renew(InotifyWdEntry *, entry->wd, entry->n_wd + 1);
  entry->wd[entry->n_wd++] = watch_entry(&w, entry->id, path);
  if (target)
    watched_note(c, entry->id, w.wd, target);
}

/* When all open files are known: a watched one may be deleted. */
static bool collect_watches(Collector *c, guint32 id, GError **error) {
  FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), id);
  FileProbe probe;
  if (!entry || !collector_probe_of(c, id, &probe))
    return true;
  g_autofree char *text = file_probe_fdinfo(&probe, error);
  g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;
  for (char **l = lines; l && *l; l++)
    if (g_str_has_prefix(*l, "inotify wd:"))
      collect_watch(c, &probe, *l, entry->ify);
  return text != NULL;
}

static gpointer ids_new(void) {
  return g_array_new(FALSE, FALSE, sizeof(guint32));
}

static GArray *ids_of(Collector *c) {
  return collector_state(c, &inotify_ops, ids_new, (GDestroyNotify)g_array_unref);
}

static bool inotify_collect_finish(Collector *c, GError **error) {
  const GArray *ids = ids_of(c);
  for (guint i = 0; i < ids->len; i++)
    if (!collect_watches(c, g_array_index(ids, guint32, i), error))
      return false;
  return true;
}

static bool inotify_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "inotify");
}

static bool inotify_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  int pending = 0;
  if (ioctl(probe->local, FIONREAD, &pending) == 0 && pending > 0)
    collector_block(c, probe, "inotify", "there are events that the program has not read yet, and they cannot be made again",
        "try again when it has read them");
  InotifyFileEntry *ify = entry->ify = MESSAGE_NEW(InotifyFileEntry, inotify_file_entry__init);
  ify->id = entry->id;
  ify->flags = (guint32)probe->flags;
  ify->fown = collector_fown(probe);
  g_array_append_val(ids_of(c), entry->id);
  return true;
}

/* --- restore --- */

static bool add_watch(Restorer *r, int fd, guint32 id, const InotifyWdEntry *e, GError **error) {
  _cleanup_fd_ int file = watched_open(r, id, e->wd, e->s_dev, e->i_ino, e->f_handle, error);
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
    if (!add_watch(r, fd, entry->id, sorted[i], error))
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
    .collect_finish = inotify_collect_finish,
    .open = inotify_open,
    .fown = inotify_fown,
};

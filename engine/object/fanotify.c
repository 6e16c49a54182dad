/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* fanotify(7). Groups with marks on files, mounts and file systems. What the kernel has queued for the program cannot be made
 * again, so there must be nothing. Who asks for permissions would have to be asked for whatever the engine opens
 * while it stands still: such a group ends the dump at once. */

#include "as-process.h"
#include "watched.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x00000400
#endif
#define MARK_EVICTABLE 0x00000200u
#define PRE_ACCESS 0x00100000u /* since 6.14 */
#define PERMISSIONS (FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | PRE_ACCESS)
#define KEPT_MARK_FLAGS (FAN_MARK_IGNORED_SURV_MODIFY | MARK_EVICTABLE | FAN_MARK_IGNORE)
/* What anybody may make (since 5.13). */
#define ANYBODYS_FLAGS (FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME | 0x1000u /* TARGET_FID */)

/* --- collect --- */

typedef struct Mark {
  guint32 flags, mask, ignored, mnt_id;
  Watched file;
} Mark;

static bool fanotify_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "fanotify");
}

static FanotifyMarkEntry *mark_new(FanotifyFileEntry *ffy, const Mark *m, MarkType type) {
  FanotifyMarkEntry *e = MESSAGE_NEW(FanotifyMarkEntry, fanotify_mark_entry__init);
  e->id = ffy->id;
  e->type = type;
  e->mflags = m->flags, e->mask = m->mask, e->ignored_mask = m->ignored, e->s_dev = m->file.sdev;
  ffy->mark = g_renew(FanotifyMarkEntry *, ffy->mark, ffy->n_mark + 1);
  ffy->mark[ffy->n_mark++] = e;
  return e;
}

/* NULL: no such mount here. */
static char *mount_point(guint32 id, guint32 *ret_sdev) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
    return NULL;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **l = lines; *l; l++) {
    unsigned mnt, maj, min;
    char place[PATH_MAX];
    if (sscanf(*l, "%u %*d %u:%u %*s %4095s", &mnt, &maj, &min, place) != 4 || mnt != id)
      continue;
    *ret_sdev = maj << 20 | min;
    return g_strcompress(place);
  }
  return NULL;
}

static const char *collect_inode(Collector *c, FanotifyFileEntry *ffy, const Mark *m, const char *line) {
  char path[PATH_MAX] = "";
  guint32 target = 0;
  const char *reason = "the kernel does not name";
  Mark mark = *m;
  if (!watched_parse(line, &mark.file) || !watched_find(c, &mark.file, path, &target, &reason))
    return reason;
  FanotifyMarkEntry *e = mark_new(ffy, &mark, MARK_TYPE__INODE);
  e->ie = MESSAGE_NEW(FanotifyInodeMarkEntry, fanotify_inode_mark_entry__init);
  e->ie->i_ino = mark.file.ino;
  e->ie->f_handle = watched_entry(&mark.file, path);
  if (target)
    watched_note(c, ffy->id, (guint32)ffy->n_mark - 1, target);
  return NULL;
}

static const char *collect_mount(FanotifyFileEntry *ffy, const Mark *m) {
  Mark mark = *m;
  g_autofree char *path = mount_point(m->mnt_id, &mark.file.sdev);
  if (!path)
    return "is mounted in another mount namespace";
  FanotifyMarkEntry *e = mark_new(ffy, &mark, MARK_TYPE__MOUNT);
  e->me = MESSAGE_NEW(FanotifyMountMarkEntry, fanotify_mount_mark_entry__init);
  e->me->mnt_id = m->mnt_id;
  e->me->path = g_strdup(path);
  return NULL;
}

static const char *collect_fs(Collector *c, guint32 id, const Mark *m) {
  g_autofree char *path = NULL;
  _cleanup_fd_ int fd = watched_mount(m->file.sdev, &path);
  if (fd < 0)
    return "is on a file system that is mounted nowhere here";
  CkptFsMark *e = MESSAGE_NEW(CkptFsMark, ckpt_fs_mark__init);
  e->file_id = id, e->flags = m->flags, e->mask = m->mask, e->ignored_mask = m->ignored;
  e->path = g_strdup(path);
  g_ptr_array_add(collector_checkpoint(c)->fs_marks, e);
  return NULL;
}

#define MASKS "mflags:%x mask:%x ignored_mask:%x"

/* "fanotify ino:2 sdev:fe00000 mflags:0 mask:…", "fanotify mnt_id:1d mflags:…", "fanotify sdev:fe00000 mflags:…" */
static void collect_mark(Collector *c, const FileProbe *probe, FanotifyFileEntry *ffy, const char *line) {
  Mark m = {0};
  unsigned long ino;
  const char *reason = "is of a kind that is not known";
  if (sscanf(line, "fanotify ino:%lx sdev:%x " MASKS, &ino, &m.file.sdev, &m.flags, &m.mask, &m.ignored) == 5) {
    m.file.ino = ino;
    reason = collect_inode(c, ffy, &m, line);
  } else if (sscanf(line, "fanotify mnt_id:%x " MASKS, &m.mnt_id, &m.flags, &m.mask, &m.ignored) == 4) {
    reason = collect_mount(ffy, &m);
  } else if (sscanf(line, "fanotify sdev:%x " MASKS, &m.file.sdev, &m.flags, &m.mask, &m.ignored) == 4) {
    reason = collect_fs(c, ffy->id, &m);
  }
  if (!reason)
    return;
  g_autofree char *why = g_strdup_printf("it has a mark on something that %s (%s)", reason, line);
  collector_block(c, probe, "fanotify", why, "let the program remove that mark before the dump");
}

static gpointer ids_new(void) {
  return g_array_new(FALSE, FALSE, sizeof(guint32));
}

static GArray *ids_of(Collector *c) {
  return collector_state(c, &fanotify_ops, ids_new, (GDestroyNotify)g_array_unref);
}

static bool asks_permissions(char *const *lines) {
  for (char *const *l = lines; *l; l++) {
    const char *mask = g_str_has_prefix(*l, "fanotify ") ? strstr(*l, " mask:") : NULL;
    if (mask && strtoul(mask + strlen(" mask:"), NULL, 16) & PERMISSIONS)
      return true;
  }
  return false;
}

static bool fanotify_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error), *name = file_probe_name(probe);
  const char *head = text ? strstr(text, "fanotify flags:") : NULL;
  g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;
  FanotifyFileEntry *ffy = entry->ffy = MESSAGE_NEW(FanotifyFileEntry, fanotify_file_entry__init);
  ffy->id = entry->id;
  ffy->flags = (guint32)probe->flags;
  ffy->fown = collector_fown(probe);
  if (!text)
    return false;
  if (!head || sscanf(head, "fanotify flags:%x event-flags:%x", &ffy->faflags, &ffy->evflags) != 2)
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show the state of a fanotify group");
  if (asks_permissions(lines))
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "%s: a fanotify group that decides about permissions (FAN_OPEN_PERM and the like): while it stands still, everybody would "
        "wait for it, this engine, too; let the program remove those marks before the dump", name);
  int pending = 0;
  if (ioctl(probe->local, FIONREAD, &pending) == 0 && pending > 0)
    collector_block(c, probe, "fanotify", "there are events that the program has not read yet, and they cannot be made again",
        "try again when it has read them");
  g_array_append_val(ids_of(c), entry->id);
  return true;
}

/* When all open files are known: a marked one may be deleted. */
static bool collect_marks(Collector *c, guint32 id, GError **error) {
  FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), id);
  FileProbe probe;
  if (!entry || !collector_probe_of(c, id, &probe))
    return true;
  g_autofree char *text = file_probe_fdinfo(&probe, error);
  g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;
  for (char **l = lines; l && *l; l++)
    if (g_str_has_prefix(*l, "fanotify ") && !g_str_has_prefix(*l, "fanotify flags:"))
      collect_mark(c, &probe, entry->ffy, *l);
  return text != NULL;
}

static bool fanotify_collect_finish(Collector *c, GError **error) {
  const GArray *ids = ids_of(c);
  for (guint i = 0; i < ids->len; i++)
    if (!collect_marks(c, g_array_index(ids, guint32, i), error))
      return false;
  return true;
}

/* --- restore --- */

static bool set_mark(int group, unsigned kind, guint32 flags, guint32 mask, guint32 ignored, const char *path, GError **error) {
  unsigned kept = kind | (flags & MARK_EVICTABLE);
  unsigned ignore = flags & FAN_MARK_IGNORE ? FAN_MARK_IGNORE | (flags & FAN_MARK_IGNORED_SURV_MODIFY)
                                            : FAN_MARK_IGNORED_MASK | (flags & FAN_MARK_IGNORED_SURV_MODIFY);
  if ((mask && fanotify_mark(group, FAN_MARK_ADD | kept, mask, AT_FDCWD, path) < 0) ||
      (ignored && fanotify_mark(group, FAN_MARK_ADD | kept | ignore, ignored, AT_FDCWD, path) < 0))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "fanotify: cannot mark %s", path);
  return true;
}

static bool add_mark(Restorer *r, int group, const FanotifyFileEntry *ffy, guint32 number, GError **error) {
  const FanotifyMarkEntry *e = ffy->mark[number];
  if (e->type == MARK_TYPE__MOUNT && e->me && e->me->path)
    return set_mark(group, FAN_MARK_MOUNT, e->mflags, e->mask, e->ignored_mask, e->me->path, error);
  if (e->type != MARK_TYPE__INODE || !e->ie)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "fanotify: a mark on a mount without a path");
  _cleanup_fd_ int file = watched_open(r, ffy->id, number, e->s_dev, e->ie->i_ino, e->ie->f_handle, error);
  return file >= 0 && set_mark(group, 0, e->mflags, e->mask, e->ignored_mask, fd_path(file).text, error);
}

typedef struct Init {
  const FanotifyFileEntry *ffy;
  int fd;
} Init;

static int make_group(void *data) {
  Init *i = data;
  i->fd = (int)syscall(SYS_fanotify_init, i->ffy->faflags | FAN_CLOEXEC, i->ffy->evflags);
  return i->fd < 0 ? -errno : 0;
}

/* Those that anybody may make tell less about others; who has no rights gets such a one. */
static AsWho maker_of(Restorer *r, const FanotifyFileEntry *ffy) {
  AsWho who = {.uid = geteuid(), .gid = getegid()};
  const Task *task = restorer_holder_of(r, ffy->id);
  const CredsEntry *creds = task && task->core->thread_core ? task->core->thread_core->creds : NULL;
  bool anybodys = !(ffy->faflags & ~(guint32)ANYBODYS_FLAGS) && ffy->faflags & FAN_REPORT_FID;
  if (creds && creds->euid && anybodys)
    who.uid = creds->euid, who.gid = creds->egid;
  return who;
}

static bool add_marks(Restorer *r, int group, const FanotifyFileEntry *ffy, GError **error) {
  const GPtrArray *marks = restorer_checkpoint(r)->fs_marks;
  for (size_t i = 0; i < ffy->n_mark; i++)
    if (!add_mark(r, group, ffy, (guint32)i, error))
      return false;
  for (guint i = 0; i < marks->len; i++) {
    const CkptFsMark *m = marks->pdata[i];
    if (m->file_id == ffy->id && !set_mark(group, FAN_MARK_FILESYSTEM, m->flags, m->mask, m->ignored_mask, m->path, error))
      return false;
  }
  return true;
}

static int fanotify_open(Restorer *r, const FileEntry *entry, GError **error) {
  const FanotifyFileEntry *ffy = entry->ffy;
  if (!ffy) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no fanotify_file_entry");
    return -1;
  }
  Init init = {ffy, -1};
  AsWho who = maker_of(r, ffy);
  int e = as_process(&who, make_group, &init, NULL);
  _cleanup_fd_ int fd = init.fd;
  if (e < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -e, "Cannot make a fanotify group%s",
        e == -EMFILE ? " (is fs.fanotify.max_user_groups too small?)" : "");
  if (e < 0 || !add_marks(r, fd, ffy, error))
    return -1;
  return restorer_set_flags(fd, ffy->flags, error) ? fd_take(&fd) : -1;
}

static const FownEntry *fanotify_fown(const FileEntry *entry) {
  return entry->ffy ? entry->ffy->fown : NULL;
}

const ObjectOps fanotify_ops = {
    .name = "fanotify",
    .type = FD_TYPES__FANOTIFY,
    .claims = fanotify_claims,
    .collect = fanotify_collect,
    .collect_finish = fanotify_collect_finish,
    .open = fanotify_open,
    .fown = fanotify_fown,
};

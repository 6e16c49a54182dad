/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File locks and leases are taken again. What belongs to an open file description (flock(2), OFD locks, leases) is taken
 * here, before any task exists, by the process that made it; what belongs to a process (POSIX locks) by its program. Nobody
 * waits: a lock that somebody else has by now fails the restore. */
#include "file-lock.pb-c.h"
#include "proc.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#define LOCK_KIND_POSIX 1
#define LOCK_KIND_FLOCK 2
#define LOCK_KIND_LEASE 32
#define LOCK_KIND_OFD 1024

static const FdinfoEntry *find_fd(const Checkpoint *c, const FileLockEntry *e) {
  const Task *t = checkpoint_find_task(c, e->pid);
  for (guint i = 0; t && i < t->fds->len; i++) {
    const FdinfoEntry *fd = t->fds->pdata[i];
    if (fd->fd == (guint32)e->fd)
      return fd;
  }
  return NULL;
}

static struct flock range_of(const FileLockEntry *e) {
  return (struct flock){.l_type = (short)e->type, .l_whence = SEEK_SET, .l_start = e->start, .l_len = e->len};
}

static int take(const FileLockEntry *e, int fd) {
  struct flock range = range_of(e);
  switch (e->flag) {
  case LOCK_KIND_FLOCK:
    return flock(fd, (e->type == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB);
  case LOCK_KIND_OFD:
    return fcntl(fd, F_OFD_SETLK, &range);
  case LOCK_KIND_LEASE:
    return fcntl(fd, F_SETLEASE, (int)e->type);
  default:
    errno = EINVAL;
    return -1;
  }
}

static bool fail_lock(Restore *r, const FileLockEntry *e, guint32 file_id, int err, GError **error) {
  const FileEntry *entry = checkpoint_find_file(r->checkpoint, file_id);
  g_autofree char *name = entry ? file_entry_name(entry) : g_strdup("?");
  bool taken = err == EAGAIN || err == EACCES;
  return engine_fail_errno(error, taken ? ENGINE_ERROR_CODE__BUSY : ENGINE_ERROR_CODE__FAILED, err, "pid %d fd %d: the %s on %s %s",
      e->pid, e->fd, e->flag == LOCK_KIND_LEASE ? "lease" : "file lock", name,
      taken ? "is somebody else's now (see /proc/locks); end that program first" : "cannot be taken again");
}

static const FileLockEntry *nth_lock(const Restore *r, guint i) {
  const Record *record = r->checkpoint->records[RECORD_FILE_LOCKS]->pdata[i];
  return (const FileLockEntry *)record->message;
}

/* Who has it is known before there is a task. */
static bool is_free(Restore *r, const FileLockEntry *e, int fd, guint32 file_id, GError **error) {
  struct flock range = range_of(e);
  if (fcntl(fd, F_GETLK, &range) < 0 || range.l_type == F_UNLCK)
    return true; /* what is wrong will show when it is taken */
  const FileEntry *entry = checkpoint_find_file(r->checkpoint, file_id);
  g_autofree char *name = entry ? file_entry_name(entry) : g_strdup("?");
  char comm[64] = "?";
  if (range.l_pid > 0)
    proc_comm(range.l_pid, comm);
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY, "pid %d fd %d: the file lock on %s is held by pid %d (%s) now; end it first", e->pid,
      e->fd, name, (int)range.l_pid, comm);
}

/* On the open file that the mapping will be made from. */
static bool take_mapped(Restore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->mapped_locks->len; i++) {
    const CkptMappedLock *m = r->checkpoint->mapped_locks->pdata[i];
    int fd = restorer_fd_for_mapping(r->restorer, m->file_id, (int)m->flags, error);
    if (fd < 0)
      return false;
    if (flock(fd, (m->type == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
      continue;
    int err = errno;
    g_autofree char *name = file_entry_name(checkpoint_find_file(r->checkpoint, m->file_id));
    return engine_fail_errno(error, err == EAGAIN ? ENGINE_ERROR_CODE__BUSY : ENGINE_ERROR_CODE__FAILED, err,
        "The file lock on %s, which is mapped, cannot be taken again (see /proc/locks)", name);
  }
  return true;
}

bool locks_take(Restore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->records[RECORD_FILE_LOCKS]->len; i++) {
    const FileLockEntry *e = nth_lock(r, i);
    const FdinfoEntry *fd = find_fd(r->checkpoint, e);
    if (!fd || e->type > F_WRLCK)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "filelocks.img: pid %d has no fd %d, or the lock is of no known type (%u)",
          e->pid, e->fd, e->type);
    int local = restore_fd(r, fd->id, error);
    if (local < 0)
      return false;
    if (e->flag == LOCK_KIND_POSIX && !is_free(r, e, local, fd->id, error))
      return false;
    if (e->flag != LOCK_KIND_POSIX && take(e, local) < 0)
      return fail_lock(r, e, fd->id, errno, error);
  }
  return take_mapped(r, error);
}

void locks_build(Restore *r, const PlanTask *t, Program *p) {
  for (guint i = 0; i < r->checkpoint->records[RECORD_FILE_LOCKS]->len; i++) {
    const FileLockEntry *e = nth_lock(r, i);
    if (e->flag != LOCK_KIND_POSIX || e->pid != t->pid)
      continue;
    struct flock range = range_of(e);
    size_t at = program_data(p, &range, sizeof range);
    PROGRAM_CALL(p, "fcntl F_SETLK (a file lock that somebody else has now?)", SYS_fcntl, ARG(e->fd), ARG(F_SETLK), ARG_DATA(at));
  }
}

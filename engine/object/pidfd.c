/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* pidfd_open(2). What it refers to is a process of the tree, which exists only when descriptors have their numbers already: it
 * is made late, here, and every holder fetches it (pidfd_getfd(2)). One of a process that has ended and was waited for
 * refers to nobody any more; such a one is made with a process of our own. */

#include "internal.h"
#include "pidfd.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PIDFD_THREAD_ O_EXCL     /* since 6.9 */
#define PIDFD_NONBLOCK_ O_NONBLOCK

/* --- collect --- */

static bool pidfd_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "pidfd");
}

static void block_target(Collector *c, const FileProbe *probe, gint64 pid) {
  const Task *task = pid > 0 ? checkpoint_find_task(collector_checkpoint(c), (pid_t)pid) : NULL;
  if (task || pid < 0)
    return;
  g_autofree char *reason = pid == 0 ? g_strdup("it refers to a process of another pid namespace")
                                     : g_strdup_printf("it refers to %d, which is no process of the tree", (int)pid);
  collector_block(c, probe, "pidfd", reason, "checkpoint both under a common parent, or close it before the dump");
}

/* Since 6.9 a pidfd can be one of a thread. */
static bool is_of_thread(const PidfdEntry *e) {
  return e->flags & PIDFD_THREAD_;
}

static bool pidfd_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  if (!text)
    return false;
  const char *value = fdinfo_value(text, "Pid");
  if (!value)
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show the process of a pidfd");
  gint64 pid = g_ascii_strtoll(value, NULL, 10);
  PidfdEntry *e = entry->pidfd = MESSAGE_NEW(PidfdEntry, pidfd_entry__init);
  e->id = entry->id;
  e->ino = (guint32)probe->st.st_ino;
  e->flags = (guint32)probe->flags;
  e->nspid = pid < 0 ? -1 : (gint32)pid;
  e->fown = collector_fown(probe);
  block_target(c, probe, pid);
  return true;
}

/* --- restore --- */

static int open_pidfd(pid_t pid, const PidfdEntry *e, GError **error) {
  unsigned flags = (e->flags & PIDFD_NONBLOCK_) | (is_of_thread(e) ? PIDFD_THREAD_ : 0u);
  int fd = (int)syscall(SYS_pidfd_open, pid, flags);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a pidfd of process %d", (int)pid);
  return fd;
}

/* Of a process that has just ended. */
static int open_dead(const PidfdEntry *e, GError **error) {
  pid_t pid = fork();
  if (pid == 0)
    for (;;)
      (void)pause();
  if (pid < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot fork");
    return -1;
  }
  int fd = open_pidfd(pid, e, error);
  (void)kill(pid, SIGKILL);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
  return fd;
}

static int pidfd_open_early(Restorer *r, const FileEntry *entry, GError **error) {
  const PidfdEntry *e = entry->pidfd;
  if (!e || e->nspid == 0 || e->nspid < -1) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no valid pidfd_entry");
    return -1;
  }
  if (e->nspid < 0)
    return open_dead(e, error);
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* keeps its place */
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open /dev/null");
  return fd;
}

static int pidfd_open_late(Restorer *r, const FileEntry *entry, GError **error) {
  const PidfdEntry *e = entry->pidfd;
  if (!checkpoint_find_task(restorer_checkpoint(r), e->nspid)) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "file id %u: a pidfd of process %d, which is not in the tree", entry->id, e->nspid);
    return -1;
  }
  return open_pidfd(e->nspid, e, error);
}

static bool pidfd_is_late(const FileEntry *entry) {
  return entry->pidfd && entry->pidfd->nspid > 0;
}

static const FownEntry *pidfd_fown(const FileEntry *entry) {
  return entry->pidfd ? entry->pidfd->fown : NULL;
}

const ObjectOps pidfd_ops = {
    .name = "pidfd",
    .type = FD_TYPES__PIDFD,
    .claims = pidfd_claims,
    .collect = pidfd_collect,
    .open = pidfd_open_early,
    .is_late = pidfd_is_late,
    .open_late = pidfd_open_late,
    .fown = pidfd_fown,
};

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

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* Field 22 of /proc/PID/stat, of threads as well; 0: there is no such process. */
static guint64 start_time_of(pid_t pid) {
  char path[32];
  g_autofree char *text = NULL;
  (void)g_snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  if (!g_file_get_contents(path, &text, NULL, NULL))
    return 0;
  const char *p = strrchr(text, ')');
  for (int field = 2; p && field < 22; field++)
    p = strchr(p + 1, ' ');
  return p ? g_ascii_strtoull(p + 1, NULL, 10) : 0;
}

static bool is_thread_of(const Checkpoint *c, pid_t tid) {
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *task = c->tasks->pdata[i];
    for (guint k = 1; k < task->threads->len; k++)
      if (((const Thread *)task->threads->pdata[k])->tid == tid)
        return true;
  }
  return false;
}

static bool is_of_thread(const PidfdEntry *e);

bool pidfd_is_last(const Checkpoint *c, guint32 file_id) {
  const FileEntry *entry = checkpoint_find_file(c, file_id);
  return entry && entry->pidfd && entry->pidfd->nspid > 0 && is_of_thread(entry->pidfd) &&
         !checkpoint_find_task(c, entry->pidfd->nspid) && is_thread_of(c, entry->pidfd->nspid);
}

static const CkptPidfd *find_outside(const Checkpoint *c, guint32 file_id) {
  for (guint i = 0; i < c->pidfds->len; i++) {
    const CkptPidfd *p = c->pidfds->pdata[i];
    if (p->file_id == file_id)
      return p;
  }
  return NULL;
}

static void block_shared(Collector *c, const FileProbe *probe, guint32 id) {
  const Checkpoint *checkpoint = collector_checkpoint(c);
  guint holders = 0;
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    bool has = false;
    for (guint i = 0; !checkpoint_repeats_fds(checkpoint, task) && i < task->fds->len; i++)
      has = has || ((const FdinfoEntry *)task->fds->pdata[i])->id == id;
    holders += has;
  }
  if (holders > 1)
    collector_block(c, probe, "pidfd", "it refers to a thread, and several processes share it", "let each open its own");
}

/* Of a process outside it is enough to know which one. */
static void collect_target(Collector *c, const FileProbe *probe, guint32 id, gint64 pid) {
  const Task *task = pid > 0 ? checkpoint_find_task(collector_checkpoint(c), (pid_t)pid) : NULL;
  if (task || pid < 0 || is_thread_of(collector_checkpoint(c), (pid_t)pid))
    return;
  if (pid == 0) {
    collector_block(c, probe, "pidfd", "it refers to a process of another pid namespace",
        "checkpoint both under a common parent, or close it before the dump");
    return;
  }
  g_autofree char *boot = NULL;
  (void)g_file_get_contents(BOOT_ID, &boot, NULL, NULL);
  CkptPidfd *p = MESSAGE_NEW(CkptPidfd, ckpt_pidfd__init);
  p->file_id = id;
  p->pid = (guint32)pid;
  p->start_time = start_time_of((pid_t)pid);
  p->boot = g_strdup(boot ? g_strchomp(boot) : "");
  g_ptr_array_add(collector_checkpoint(c)->pidfds, p);
}

/* Since 6.9 a pidfd can be one of a thread. */
static bool is_of_thread(const PidfdEntry *e) {
  return e->flags & PIDFD_THREAD_;
}

static gpointer ids_new(void) {
  return g_array_new(FALSE, FALSE, sizeof(guint32));
}

static GArray *ids_of(Collector *c) {
  return collector_state(c, &pidfd_ops, ids_new, (GDestroyNotify)g_array_unref);
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
  collect_target(c, probe, entry->id, pid);
  g_array_append_val(ids_of(c), entry->id);
  return true;
}

static bool pidfd_collect_finish(Collector *c, GError **error) {
  const GArray *ids = ids_of(c);
  for (guint i = 0; i < ids->len; i++) {
    guint32 id = g_array_index(ids, guint32, i);
    FileProbe probe;
    if (pidfd_is_last(collector_checkpoint(c), id) && collector_probe_of(c, id, &probe))
      block_shared(c, &probe, id);
  }
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

/* Whoever has ended meanwhile has ended for its watcher, too. */
static bool is_still_there(const CkptPidfd *p) {
  g_autofree char *boot = NULL;
  (void)g_file_get_contents(BOOT_ID, &boot, NULL, NULL);
  return p->start_time && boot && strcmp(g_strchomp(boot), p->boot) == 0 && start_time_of((pid_t)p->pid) == p->start_time;
}

static int pidfd_open_early(Restorer *r, const FileEntry *entry, GError **error) {
  const PidfdEntry *e = entry->pidfd;
  if (!e || e->nspid == 0 || e->nspid < -1) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no valid pidfd_entry");
    return -1;
  }
  const CkptPidfd *outside = find_outside(restorer_checkpoint(r), entry->id);
  if (e->nspid < 0 || (outside && !is_still_there(outside)))
    return open_dead(e, error);
  if (outside)
    return open_pidfd((pid_t)outside->pid, e, error);
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* keeps its place */
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open /dev/null");
  return fd;
}

static int pidfd_open_late(Restorer *r, const FileEntry *entry, GError **error) {
  const PidfdEntry *e = entry->pidfd;
  if (find_outside(restorer_checkpoint(r), entry->id) || pidfd_is_last(restorer_checkpoint(r), entry->id))
    return -1; /* made before, or by its task itself */
  if (!checkpoint_find_task(restorer_checkpoint(r), e->nspid)) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "file id %u: a pidfd of process %d, which is not in the tree", entry->id, e->nspid);
    return -1;
  }
  return open_pidfd(e->nspid, e, error);
}

/* Threads are there after the descriptors only. */
bool restorer_thread_pidfds(Restorer *r, const Task *task, Program *p) {
  bool any = false;
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->type != FD_TYPES__PIDFD || !pidfd_is_last(restorer_checkpoint(r), e->id))
      continue;
    const PidfdEntry *entry = checkpoint_find_file(restorer_checkpoint(r), e->id)->pidfd;
    const FdinfoEntry *first = NULL;
    for (guint k = 0; !first && k < i; k++)
      first = ((FdinfoEntry *)task->fds->pdata[k])->id == e->id ? task->fds->pdata[k] : NULL;
    if (first) {
      PROGRAM_CALL(p, "dup3", SYS_dup3, ARG(first->fd), ARG(e->fd), ARG(e->flags & 1 ? O_CLOEXEC : 0));
    } else {
      size_t made = PROGRAM_CALL(p, "pidfd_open of a thread", SYS_pidfd_open, ARG(entry->nspid), ARG(entry->flags & (PIDFD_NONBLOCK_ | PIDFD_THREAD_)));
      PROGRAM_CALL(p, "dup3", SYS_dup3, ARG_RESULT(made), ARG(e->fd), ARG(e->flags & 1 ? O_CLOEXEC : 0));
      PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(made));
    }
    any = true;
  }
  return any;
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
    .collect_finish = pidfd_collect_finish,
    .open = pidfd_open_early,
    .is_late = pidfd_is_late,
    .open_late = pidfd_open_late,
    .fown = pidfd_fown,
};

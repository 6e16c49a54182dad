/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Freezing by ptrace: PTRACE_SEIZE does not disturb the task, PTRACE_INTERRUPT stops it without a signal, and when the
 * tracer dies the kernel lets all of them run on. */
#include "alike.h"
#include "frozen.h"
#include "frozen-group.h"
#include "landlock.h"
#include "overruns.h"
#include "sharing.h"
#include "sleep.h"
#include "sweeper.h"
#include "tracee.h"
#include "tracers.h"
#include "warden.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define VFORK_PATIENCE 4000 /* two seconds: a child may have to be read from a slow disk */

static void frozen_thread_clear(FrozenThread *t) {
  sharing_free_table(t);
  g_free((void *)(uintptr_t)t->sight.traits);
}

static void frozen_task_free(void *p) {
  FrozenTask *t = p;
  if (t->owner[SHARE_MEMORY] == t)
    injection_free(t->injection);
  if (t->view_pidfd >= 0 && t->view_pidfd != t->pidfd)
    (void)close(t->view_pidfd);
  if (t->pidfd >= 0)
    (void)close(t->pidfd);
  facts_clear(&t->facts);
  g_clear_pointer(&t->fds, g_array_unref);
  g_free(t->xstates);
  for (guint k = 0; k < t->threads->len; k++)
    frozen_thread_clear(&g_array_index(t->threads, FrozenThread, k));
  g_array_unref(t->threads);
  g_clear_pointer(&t->provided, g_hash_table_unref);
  g_clear_pointer(&t->overruns, g_array_unref);
  g_clear_pointer(&t->sleep_notes, g_array_unref);
  g_clear_pointer(&t->policies, g_ptr_array_unref);
  g_free(t);
}

static FrozenTask *frozen_task_new(pid_t pid, pid_t ppid) {
  FrozenTask *t = g_new0(FrozenTask, 1);
  t->pid = t->view = pid;
  t->ppid = ppid;
  for (int kind = 0; kind < SHARE_KINDS; kind++)
    t->owner[kind] = t;
  t->pidfd = t->view_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  t->threads = g_array_new(FALSE, TRUE, sizeof(FrozenThread));
  return t;
}

FrozenHelpers helpers_start(pid_t root) {
  ProcStatus status = {0};
  FrozenHelpers h = {.sweeper = sweeper_new()};
  if (proc_status(root, root, &status, NULL)) {
    (void)stranger_new(status.uid[0], status.gid[0], &h.stranger, NULL);
    proc_status_clear(&status);
  }
  return h;
}

void helpers_wait(FrozenHelpers *h) {
  sweeper_wait(h->sweeper);
  if (stranger_wait(h->stranger, NULL))
    return;
  stranger_free(h->stranger);
  h->stranger = NULL; /* another one is tried, and says why */
}

void helpers_end(FrozenHelpers *h) {
  sweeper_free(h->sweeper);
  stranger_free(h->stranger);
  *h = (FrozenHelpers){NULL, NULL};
}

void frozen_tree_send_home(FrozenTree *tree) {
  helpers_end(&tree->helpers);
}

void frozen_tree_free(FrozenTree *tree) {
  if (!tree)
    return;
  frozen_tree_send_home(tree);
  g_ptr_array_unref(tree->tasks);
  ns_set_free(tree->namespaces);
  g_free(tree);
}

FrozenTask *frozen_tree_find(const FrozenTree *tree, pid_t pid) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *t = tree->tasks->pdata[i];
    if (t->pid == pid)
      return t;
  }
  return NULL;
}

static bool fail_seize(const FrozenTree *tree, pid_t pid, pid_t tid, int err, GError **error) {
  ProcStatus status = {0};
  pid_t tracer = 0;
  if (err == -EPERM && proc_status(pid, tid, &status, NULL)) {
    tracer = status.tracer;
    proc_status_clear(&status);
  }
  if (!tracer)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, err, "Cannot stop pid %d", (int)pid);
  char comm[64], name[64];
  proc_comm(tracer, name);
  proc_comm(pid, comm);
  const char *cure = frozen_tree_find(tree, tracer)
                         ? ", which is in the same tree: let that tracer (strace, gdb) detach, or checkpoint what it traces without it"
                         : ": a traced task cannot be checkpointed; detach that debugger first";
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY, "pid %d (%s) is traced by pid %d (%s)%s", (int)tid, comm, (int)tracer, name, cure);
}

static bool have_thread(const FrozenTask *task, pid_t tid) {
  /* the leader first, the others ascending */
  guint low = 1, high = task->threads->len;
  if (high && g_array_index(task->threads, FrozenThread, 0).state.tid == tid)
    return true;
  while (low < high) {
    guint mid = (low + high) / 2;
    pid_t at = g_array_index(task->threads, FrozenThread, mid).state.tid;
    if (at == tid)
      return true;
    if (at < tid)
      low = mid + 1;
    else
      high = mid;
  }
  return false;
}

int freeze_thread(pid_t tid, int *stop_signal) {
  int e = tracee_seize(tid, PTRACE_O_TRACESYSGOOD);
  if (e == 0)
    e = tracee_ask_interrupt(tid);
  return e < 0 ? e : tracee_wait_interrupted(tid, stop_signal);
}

/* For a moment an earlier engine's sweeper or warden may have it. */
static int seize(pid_t pid, pid_t tid) {
  for (int patience = 0;; patience++) {
    int e = tracee_seize(tid, PTRACE_O_TRACESYSGOOD);
    ProcStatus status = {0};
    char comm[64];
    if (e != -EPERM || patience == 1000 || !proc_status(pid, tid, &status, NULL))
      return e;
    proc_comm(status.tracer, comm);
    bool traced = status.tracer != 0;
    proc_status_clear(&status);
    if (!traced || (strcmp(comm, SWEEPER_COMM) != 0 && strcmp(comm, WARDEN_COMM) != 0))
      return traced ? e : tracee_seize(tid, PTRACE_O_TRACESYSGOOD);
    g_usleep(1000);
  }
}

static int compare_threads(gconstpointer a, gconstpointer b) {
  return ((const FrozenThread *)a)->state.tid - ((const FrozenThread *)b)->state.tid;
}

/* Some tracer may have yet to bury them. */
static bool all_have_ended(const GArray *tids) {
  for (guint i = 0; i < tids->len; i++)
    if (!proc_has_ended(g_array_index(tids, pid_t, i)))
      return false;
  return true;
}

/* The leader first: where ids have wrapped around, its threads may have lower ones. */
static void sort_threads(FrozenTask *task) {
  g_array_sort(task->threads, compare_threads);
  for (guint i = 1; i < task->threads->len; i++) {
    FrozenThread leader = g_array_index(task->threads, FrozenThread, i);
    if (leader.state.tid != task->pid)
      continue;
    g_array_remove_index(task->threads, i);
    g_array_prepend_val(task->threads, leader);
    return;
  }
}

/* A thread that job control has stopped traps when it is seized. An interrupt on top of that would be a second stop, in the
 * agent, which nobody waits for. */
static int interrupt(const FrozenTask *task, pid_t tid) {
  return task->stat.state == 'T' && tracee_has_stopped(tid) ? 0 : tracee_ask_interrupt(tid);
}

/* Job control has stopped it since we looked, before our interrupt or after: now there is one stop for sure. */
static int stop_once(pid_t tid, int *stop_signal) {
  int e = tracee_resume(tid, PTRACE_LISTEN);
  if (e == 0)
    e = tracee_ask_interrupt(tid);
  return e < 0 ? e : tracee_wait_interrupted(tid, stop_signal);
}

/* Does it wait for a child that has its memory? Only SIGKILL ends that wait, and the child. */
static bool is_in_vfork(pid_t pid, pid_t tid) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/syscall", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  char *p = NULL;
  guint64 nr = text && g_ascii_isdigit(*text) ? strtoull(text, &p, 10) : G_MAXUINT64, flags = p ? strtoull(p, NULL, 16) : 0;
  if (nr == SYS_clone3 && tracee_read(tid, flags, &flags, sizeof flags) < 0) /* the first member of what it points to */
    return false;
  return nr == SYS_vfork || ((nr == SYS_clone || nr == SYS_clone3) && flags & CLONE_VFORK);
}

#define GROUP_PATIENCE 100   /* some ten milliseconds */
#define STOP_PATIENCE 18000  /* ten seconds */

/* A thread that cannot be stopped says nothing to wait(2), nor does a main thread that ends now while others go on. -ESRCH:
 * that; -EBUSY: in a vfork(2) that does not end; -EDEADLK: in a frozen control group; -ETIMEDOUT: the kernel keeps it. */
static int wait_frozen(const FrozenTask *task, pid_t tid, int *stop_signal) {
  for (int patience = 0;; patience++) {
    int e = tracee_poll_interrupted(tid, stop_signal);
    if (e == 0 && *stop_signal && task->stat.state != 'T')
      return stop_once(tid, stop_signal);
    if (e != -EAGAIN)
      return e;
    if (patience > 20 && tid == task->pid && proc_has_ended(tid))
      return -ESRCH;
    if (patience > VFORK_PATIENCE && is_in_vfork(task->pid, tid))
      return -EBUSY;
    if (patience % (5 * GROUP_PATIENCE) == GROUP_PATIENCE && !frozen_group_check_v1(task->pid, task->stat.comm, NULL))
      return -EDEADLK;
    if (patience > STOP_PATIENCE)
      return -ETIMEDOUT;
    if (patience < 5)
      (void)sched_yield();
    else
      g_usleep(patience < 50 ? 10 : 500);
  }
}

static bool fail_vfork(const FrozenTask *task, pid_t tid, GError **error) {
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
      "pid %d (%s): thread %d waits in vfork(2) for a child that neither calls execve(2) nor ends; it cannot be stopped until then: have "
      "the child do so, then try again", (int)task->pid, task->stat.comm, (int)tid);
}

/* For a disk, or a server of a file system, that does not answer. */
static bool fail_stuck(const FrozenTask *task, pid_t tid, GError **error) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/wchan", (int)tid);
  g_autofree char *where = proc_read(task->pid, name, NULL, NULL);
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
      "pid %d (%s): thread %d could not be stopped in ten seconds: it waits in the kernel%s%s%s, for a device or a file server that does not "
      "answer; try again when that does", (int)task->pid, task->stat.comm, (int)tid, where && *where && *where != '0' ? " (" : "",
      where && *where != '0' ? where : "", where && *where && *where != '0' ? ")" : "");
}

/* Where a second tracer is worth its making. */
#define MANY_THREADS ALIKE_MANY

/* A thread that is being seized. */
typedef struct Seizure {
  FrozenThread thread;
  const ThreadGlimpse *glimpse; /* NULL: it was not seen */
  bool worker; /* of the kernel's: nobody traces it */
  int seized, interrupted, stopped; /* 0 or a negative errno */
  int stop_signal;
} Seizure;

typedef struct Seizures {
  FrozenTask *task;
  GArray *list; /* Seizure */
  guint shares;
} Seizures;

static bool has_many(const GArray *threads) {
  return threads->len >= MANY_THREADS;
}

/* @glimpses: of the same threads, or NULL. */
static Seizures find_new_threads(FrozenTask *task, const GArray *tids, const GArray *glimpses) {
  GArray *list = g_array_new(FALSE, TRUE, sizeof(Seizure));
  guint shares = has_many(tids) ? tracers_count() : 1;
  for (guint i = 0; i < tids->len; i++) {
    Seizure s = {.thread.state.tid = g_array_index(tids, pid_t, i), .glimpse = glimpses ? &g_array_index(glimpses, ThreadGlimpse, i) : NULL};
    if ((task->threads->len && have_thread(task, s.thread.state.tid)) || (task->headless && s.thread.state.tid == task->pid))
      continue;
    tracers_assign(s.thread.state.tid, shares > 1 ? list->len % shares : task->tracer);
    g_array_append_val(list, s);
  }
  return (Seizures){.task = task, .list = list, .shares = shares};
}

/* A tracer's share. All are interrupted before any is waited for. */
static void seize_share(void *data, unsigned which) {
  const Seizures *all = data;
  FrozenTask *task = all->task;
  for (guint i = which; i < all->list->len; i += all->shares) {
    Seizure *s = &g_array_index(all->list, Seizure, i);
    pid_t tid = s->thread.state.tid;
    s->worker = !sleep_observe(task, &s->thread, s->glimpse) && (s->glimpse ? s->glimpse->worker : proc_is_kernel_worker(task->pid, tid));
    if (s->worker)
      continue;
    s->seized = seize(task->pid, tid);
    if (s->seized == 0)
      s->interrupted = interrupt(task, tid);
  }
  for (guint i = which; i < all->list->len; i += all->shares) {
    Seizure *s = &g_array_index(all->list, Seizure, i);
    pid_t tid = s->thread.state.tid;
    if (s->worker || s->seized < 0 || (s->interrupted < 0 && s->interrupted != -ESRCH))
      continue;
    s->stopped = wait_frozen(task, tid, &s->stop_signal);
  }
}

/* Takes it into the tree, if it lives; *ret_new: look again. */
static bool take_seized(const FrozenTree *tree, FrozenTask *task, Seizure *s, bool *ret_new, GError **error) {
  pid_t tid = s->thread.state.tid;
  if (s->worker)
    return true;
  if (s->seized == -ESRCH || (s->seized == -EPERM && proc_has_ended(tid))) {
    *ret_new = true; /* meanwhile */
    return true;
  }
  if (s->seized < 0)
    return fail_seize(tree, task->pid, tid, s->seized, error);
  *ret_new = true;
  if (s->stopped == -ESRCH)
    return true;
  s->thread.state.group_stop = s->stop_signal != 0;
  if (s->stop_signal) {
    task->stopped = true;
    task->stop_signal = s->stop_signal;
  }
  g_array_append_val(task->threads, s->thread); /* also where something failed: it is to be let go */
  if (s->interrupted < 0 && s->interrupted != -ESRCH)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, s->interrupted, "Cannot interrupt tid %d", (int)tid);
  if (s->stopped == -EBUSY)
    return fail_vfork(task, tid, error);
  if (s->stopped == -ETIMEDOUT)
    return fail_stuck(task, tid, error);
  if (s->stopped == -EDEADLK && !frozen_group_check_v1(task->pid, task->stat.comm, error))
    return false;
  if (s->stopped < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, s->stopped, "Cannot wait for tid %d", (int)tid);
  return true;
}

/* Seizes the threads that are new; *ret_new tells whether there were any. */
static bool seize_threads(const FrozenTree *tree, FrozenTask *task, const GArray *tids, const GArray *glimpses, bool *ret_new, GError **error) {
  Seizures all = find_new_threads(task, tids, glimpses);
  g_autoptr(GArray) list = all.list;
  g_autoptr(GError) failure = NULL;
  task->split |= list->len && all.shares > 1;
  if (list->len && all.shares > 1)
    tracers_run_apart(seize_share, &all);
  else
    seize_share(&all, 0);
  for (guint i = 0; i < list->len; i++)
    (void)take_seized(tree, task, &g_array_index(list, Seizure, i), ret_new, failure ? NULL : &failure);
  sort_threads(task);
  if (!failure)
    return true;
  g_propagate_error(error, g_steal_pointer(&failure));
  return false;
}

static bool refuse_special(const FrozenTask *task, GError **error) {
  const char *why = task->pid == 1                           ? "it is the init process"
      : task->stat.flags & PROC_PF_KTHREAD                   ? "it is a kernel thread"
      : task->pid == getpid() || task->pid == getppid()      ? "it is the checkpoint engine itself"
                                                             : NULL;
  if (!why)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, "pid %d (%s) cannot be checkpointed: %s", (int)task->pid,
      task->stat.comm, why);
}

/* One look at one task: its threads and children. */
typedef struct Look {
  FrozenTask *task;
  GArray *children; /* pid_t; NULL: not asked for yet, other threads have turned up */
  bool postponed;   /* both tracers are needed for it */
  GError *error;
} Look;

typedef struct Looks {
  const FrozenTree *tree;
  GArray *list; /* Look */
} Looks;

/* Are all those that the kernel counts seized? */
static bool knows_all_threads(const FrozenTask *task) {
  return task->threads->len && task->stat.n_threads == task->threads->len + task->headless;
}

static GArray *known_tids(const FrozenTask *task) {
  GArray *tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
  for (guint k = 0; k < task->threads->len; k++)
    g_array_append_val(tids, g_array_index(task->threads, FrozenThread, k).state.tid);
  return tids;
}

/* *ret_glimpses: of the same, or NULL. */
static bool list_threads(const FrozenTask *task, GArray *tids, GArray **ret_glimpses, GError **error) {
  if (task->stat.n_threads >= ALIKE_MANY)
    alike_prepare();
  *ret_glimpses = task->stat.n_threads >= ALIKE_MANY ? alike_glimpse(task) : NULL;
  for (guint i = 0; *ret_glimpses && i < (*ret_glimpses)->len; i++)
    g_array_append_val(tids, g_array_index(*ret_glimpses, ThreadGlimpse, i).tid);
  if (task->stat.n_threads == 1 && task->stat.state != 'Z' && !task->threads->len) {
    g_array_append_val(tids, task->pid); /* the next look finds it out if it has got another one meanwhile */
    return true;
  }
  return *ret_glimpses || proc_threads(task->pid, tids, error);
}

/* Those that may have children: where all were looked at, only they need be asked. */
static GArray *parents_of(const FrozenTask *task, const GArray *tids) {
  GArray *parents = g_array_new(FALSE, FALSE, sizeof(pid_t));
  for (guint k = 0; task->looked && k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (!t->sight.tid || t->sight.parent)
      g_array_append_val(parents, t->state.tid);
  }
  if (!task->looked)
    g_array_append_vals(parents, tids->data, tids->len);
  return parents;
}

/* @alone: the other tracer has nothing to do meanwhile. */
static bool look_at(const FrozenTree *tree, Look *look, bool alone, GError **error) {
  FrozenTask *task = look->task;
  if (!proc_stat(task->pid, &task->stat, error) || !refuse_special(task, error))
    return false;
  bool grew = false, known = task->stat.state != 'Z' && knows_all_threads(task), many = task->stat.n_threads >= MANY_THREADS;
  look->postponed = many && !alone && (!known || !task->looked);
  if (look->postponed)
    return true;
  if (alone && task->stat.resident >= ALIKE_MANY_PAGES)
    alike_prepare();
  g_autoptr(GArray) tids = known ? known_tids(task) : g_array_new(FALSE, FALSE, sizeof(pid_t)), glimpses = NULL;
  if (!known && !list_threads(task, tids, &glimpses, error))
    return false;
  if (!known) {
    task->zombie = task->stat.state == 'Z' && all_have_ended(tids);
    task->headless = task->stat.state == 'Z' && !task->zombie;
  }
  if (many)
    tracers_begin();
  if (!known && !task->zombie && !seize_threads(tree, task, tids, glimpses, &grew, error))
    return false;
  if (glimpses && !grew && (!proc_threads(task->pid, tids, error) || !seize_threads(tree, task, tids, NULL, &grew, error)))
    return false; /* the last word is that of /proc */
  task->looked &= !grew;
  if (grew)
    return true; /* there will be another look: children are asked for when all threads stand */
  if (known && many && !task->looked) {
    alike_look(task);
    task->looked = true;
  }
  g_autoptr(GArray) parents = parents_of(task, tids);
  look->children = g_array_new(FALSE, FALSE, sizeof(pid_t));
  return proc_children(task->pid, parents, look->children, error);
}

static void look_share(void *data, unsigned which) {
  const Looks *looks = data;
  for (guint i = 0; i < looks->list->len; i++) {
    Look *l = &g_array_index(looks->list, Look, i);
    if (l->task->tracer == which)
      (void)look_at(looks->tree, l, false, &l->error);
  }
}

/* Where a second tracer is worth its making. */
#define MANY_TASKS 8u

static void look_at_all(const FrozenTree *tree, GArray *list) {
  Looks looks = {tree, list};
  if (list->len >= ALIKE_MANY_TASKS)
    alike_prepare();
  if (list->len >= MANY_TASKS)
    tracers_begin();
  bool share = list->len >= MANY_TASKS && tracers_count() > 1;
  for (guint i = 0; i < list->len; i++) {
    FrozenTask *task = g_array_index(list, Look, i).task;
    if (!task->threads->len)
      task->tracer = share ? i % tracers_count() : 0;
  }
  if (share)
    tracers_run(look_share, &looks);
  for (guint i = 0; i < list->len; i++) {
    Look *l = &g_array_index(list, Look, i);
    if (!share || l->postponed)
      (void)look_at(tree, l, true, &l->error);
  }
}

static bool take_children(FrozenTree *tree, const Look *look, bool *again, GError **error) {
  for (guint i = 0; i < look->children->len; i++) {
    pid_t child = g_array_index(look->children, pid_t, i);
    if (frozen_tree_find(tree, child))
      continue;
    if (child == getpid())
      return engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
          "pid %d (%s) is an ancestor of the checkpoint engine itself", (int)look->task->pid, look->task->stat.comm);
    g_ptr_array_add(tree->tasks, frozen_task_new(child, look->task->pid));
    *again = true;
  }
  return true;
}

/* What the look has brought; *again: one more is needed. */
static bool take_look(FrozenTree *tree, Look *look, bool *again, GError **error) {
  FrozenTask *task = look->task;
  if (!look->error && look->children)
    return take_children(tree, look, again, error);
  if (!look->error) {
    *again = true;
    return true;
  }
  if (task != tree->tasks->pdata[0] && engine_error_code(look->error) == ENGINE_ERROR_CODE__NO_SUCH_PROCESS) {
    g_ptr_array_remove(tree->tasks, task); /* reaped meanwhile */
    return true;
  }
  g_propagate_error(error, g_steal_pointer(&look->error));
  return false;
}

static void look_clear(void *data) {
  Look *l = data;
  g_clear_pointer(&l->children, g_array_unref);
  g_clear_error(&l->error);
}

static bool freeze_all(Job *job, FrozenTree *tree, GError **error) {
  for (bool again = true, ok = true; again;) {
    again = false;
    g_autoptr(GArray) looks = g_array_new(FALSE, TRUE, sizeof(Look));
    g_array_set_clear_func(looks, look_clear);
    for (guint i = 0; i < tree->tasks->len; i++) {
      Look l = {.task = tree->tasks->pdata[i]};
      g_array_append_val(looks, l);
    }
    look_at_all(tree, looks);
    for (guint i = 0; ok && i < looks->len; i++)
      ok = take_look(tree, &g_array_index(looks, Look, i), &again, error);
    if (!ok || !job_poll(job, error))
      return false;
  }
  return true;
}

/* What the main thread has left with it is the other threads' still. */
static bool take_view(FrozenTask *task, GError **error) {
  ProcStat s;
  task->view = g_array_index(task->threads, FrozenThread, 0).state.tid;
  task->view_pidfd = proc_thread_pidfd(task->view);
  if (task->view_pidfd < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE,
        "pid %d (%s): its main thread has ended while others go on; such a process can be checkpointed since Linux 6.9 only (pidfds of "
        "threads): have the main thread wait for the others", (int)task->pid, task->stat.comm);
  if (!proc_stat(task->view, &s, error))
    return false;
  ProcStat *own = &task->stat;
  own->start_code = s.start_code, own->end_code = s.end_code, own->start_stack = s.start_stack;
  own->start_data = s.start_data, own->end_data = s.end_data, own->start_brk = s.start_brk;
  own->arg_start = s.arg_start, own->arg_end = s.arg_end, own->env_start = s.env_start, own->env_end = s.env_end;
  return true;
}

static bool check_alive(const FrozenTree *tree, GError **error) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (i == 0 && task->zombie)
      return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Process %d (%s) has ended already (it is a zombie)",
          (int)task->pid, task->stat.comm);
    if (!task->zombie && (!task->threads->len || (!task->headless && g_array_index(task->threads, FrozenThread, 0).state.tid != task->pid)))
      return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "pid %d (%s) has just ended", (int)task->pid, task->stat.comm);
    if (task->headless && !take_view(task, error))
      return false;
  }
  return true;
}

FrozenTree *freeze_tree(Job *job, pid_t root, GError **error) {
  FrozenTree *tree = g_new0(FrozenTree, 1);
  tree->tasks = g_ptr_array_new_with_free_func(frozen_task_free);
  g_ptr_array_add(tree->tasks, frozen_task_new(root, 0));
  tree->frozen_at = g_get_monotonic_time();
  if (freeze_all(job, tree, error) && check_alive(tree, error))
    return tree;
  thaw_tree(job, tree, false);
  frozen_tree_free(tree);
  return NULL;
}

typedef struct Thaw {
  Job *job;
  FrozenTree *tree;
  bool owners; /* of the agents' memory, who take it away, or the others */
  GMutex log;
} Thaw;

static void cure_thread(Thaw *w, FrozenTask *task, FrozenThread *t) {
  g_autoptr(GError) error = NULL;
  if (!t->in_agent)
    return;
  bool ok = w->owners ? inject_cure_leader(task->injection, &t->state, &error) : inject_cure_thread(task->injection, &t->state, &error);
  if (!ok && engine_error_code(error) != ENGINE_ERROR_CODE__NO_SUCH_PROCESS) {
    g_mutex_lock(&w->log);
    job_log(w->job, 3, "%s", error->message);
    g_mutex_unlock(&w->log);
  }
  t->in_agent = false;
}

static void cure_share(void *data, unsigned which) {
  Thaw *w = data;
  for (guint i = 0; i < w->tree->tasks->len; i++) {
    FrozenTask *task = w->tree->tasks->pdata[i];
    for (guint k = 0; k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      bool owner = k == 0 && task->owner[SHARE_MEMORY] == task;
      if (owner == w->owners && tracers_owner(t->state.tid) == which)
        cure_thread(w, task, t);
    }
  }
}

static void detach_share(void *data, unsigned which) {
  const FrozenTree *tree = data;
  for (guint i = tree->tasks->len; i-- > 0;) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; k < task->threads->len; k++) {
      pid_t tid = g_array_index(task->threads, FrozenThread, k).state.tid;
      if (tracers_owner(tid) == which)
        (void)tracee_detach(tid); /* fails only for the dead */
    }
  }
}

/* Between the cure and the detach: an agent would take the signal for its own. */
static void stop_tasks(FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie)
      (void)syscall(SYS_pidfd_send_signal, task->pidfd, SIGSTOP, NULL, 0);
  }
}

/* A detached task takes its SIGSTOP when it runs next; whoever asked for a stopped tree is told when it is one. */
static void wait_stopped(const FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    ProcStat stat;
    for (int patience = 0; patience < 500 && proc_stat(task->pid, &stat, NULL) && !strchr("TZX", stat.state); patience++)
      g_usleep(1000);
  }
}

void thaw_tree(Job *job, FrozenTree *tree, bool stopped) {
  Thaw thaw = {.job = job, .tree = tree};
  for (guint i = 0; i < tree->tasks->len; i++)
    overruns_return(job, tree->tasks->pdata[i]);
  tracers_run(cure_share, &thaw);
  thaw.owners = true;
  tracers_run(cure_share, &thaw);
  if (stopped)
    stop_tasks(tree);
  for (guint i = 0; i < tree->tasks->len; i++)
    sleep_keep_notes(tree->tasks->pdata[i]);
  tracers_run_ahead(detach_share, tree);
  if (stopped)
    wait_stopped(tree);
  tree->thawed_at = g_get_monotonic_time();
}

/* Leaders end last. */
static void bury_share(void *data, unsigned which) {
  const FrozenTree *tree = data;
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = task->threads->len; k-- > 1;)
      if (k % tracers_count() == which)
        tracee_wait_end(g_array_index(task->threads, FrozenThread, k).state.tid);
  }
  for (guint i = which; i < tree->tasks->len; i += tracers_count()) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (task->threads->len)
      tracee_wait_end(g_array_index(task->threads, FrozenThread, 0).state.tid);
  }
}

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif
#define WORTH_RELEASING 4096 /* pages */

/* The dying give back their memory on one processor each, 60 ms a GiB; we do it beside them (process_mrelease(2), since 5.15). One that
 * is quicker has none left, and who shares it with somebody who lives keeps it. */
static void release_memory(const FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && task->stat.resident >= WORTH_RELEASING)
      (void)syscall(SYS_process_mrelease, task->pidfd, 0);
  }
}

void kill_tree(FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie)
      (void)syscall(SYS_pidfd_send_signal, task->pidfd, SIGKILL, NULL, 0); /* ESRCH is as good */
  }
  release_memory(tree);
  tracers_run(bury_share, tree);
  tree->thawed_at = g_get_monotonic_time();
}

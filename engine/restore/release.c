/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last step: every thread is stopped by ptrace in its agent, gets its registers, the agents' memory goes, and all are
 * let go in one short pass. */
#include "frame.h"
#include "guardian.h"
#include "proc.h"
#include "regs.h"
#include "sleep-note.h"
#include "stages.h"
#include "tiles.h"
#include "tracee.h"
#include "tracers.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define XSTATE_MAX 32768

static bool fail_thread(const PlanThread *th, const char *what, int e, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "tid %d: %s", (int)th->thread->tid, what);
}

/* Where a second tracer is worth its making. */
#define MANY_THREADS 64u

/* What both tracers do, each to its own threads. */
typedef struct Share {
  Restore *r;
  PlanTask *task; /* of one */
  GError *errors[2];
} Share;

static bool share_out(Share *s, TracersWork *work, GError **error) {
  tracers_run(work, s);
  return engine_first_error(s->errors[0], s->errors[1], error);
}

static void seize_share(void *data, unsigned which) {
  Share *s = data;
  for (guint i = 0; i < s->r->plan->tasks->len; i++) {
    const PlanTask *t = s->r->plan->tasks->pdata[i];
    for (guint k = 0; k < t->threads->len; k++) {
      const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (tracers_owner(th->thread->tid) != which)
        continue;
      /* all of them: one that was let go before another is killed would run */
      int e = th->seized ? 0 : tracee_seize(th->thread->tid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
      if (e == 0)
        e = tracee_ask_interrupt(th->thread->tid);
      if (e < 0) {
        fail_thread(th, "cannot be traced", e, &s->errors[which]);
        return;
      }
    }
  }
}

static bool seize_all(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    if (t->threads->len < MANY_THREADS)
      continue;
    tracers_begin();
    for (guint k = 0; k < t->threads->len; k++) {
      const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      tracers_assign(th->thread->tid, th->seized ? 0 : k % tracers_count());
    }
  }
  Share s = {.r = r};
  tracers_run_ahead(seize_share, &s);
  return engine_first_error(s.errors[0], s.errors[1], error);
}

/* Stopped in its agent; a sleeper inside its sleep or after it. @regs: of those that sleep, and of leaders. */
static bool wait_stopped(const PlanThread *th, bool leader, struct user_regs_struct *regs, GError **error) {
  for (int patience = 0; patience < 5000; patience++) {
    int e = patience ? tracee_interrupt(th->thread->tid) : tracee_wait_stop(th->thread->tid, NULL);
    if (e == 0 && (leader || th->op_sleep >= 0))
      e = tracee_get_regs(th->thread->tid, regs);
    if (e < 0)
      return fail_thread(th, "cannot be stopped", e, error);
    if (th->op_sleep < 0 || (int64_t)regs->rax == -516 || th->loaded.results[th->op_sleep] != RESULT_PENDING)
      return true;
    e = tracee_resume(th->thread->tid, PTRACE_CONT); /* not asleep yet */
    if (e < 0)
      return fail_thread(th, "cannot be resumed", e, error);
    g_usleep(100);
  }
  return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "tid %d: does not come to its sleep", (int)th->thread->tid);
}

/* What the application sees of the call it was in. */
static void finish_syscall(const PlanThread *th, const struct user_regs_struct *now, struct user_regs_struct *regs) {
  bool asleep = (int64_t)regs->rax == -516 && (int64_t)regs->orig_rax >= 0;
  if (!asleep)
    return; /* the kernel restarts -ERESTART* by itself when the thread is resumed */
  if (th->op_sleep >= 0 && (int64_t)now->rax == -516) {
    regs->orig_rax = th->thread->extra->sleep->syscall_nr; /* the restart block in the kernel is the new one */
    return;
  }
  if (th->op_sleep >= 0)
    regs->rax = (uint64_t)th->loaded.results[th->op_sleep]; /* it ended meanwhile */
  else
    regs->rax = (uint64_t)-EINTR;
  regs->orig_rax = (uint64_t)-1;
}

/* What a new thread has, into which the state of the image is put. */
typedef struct Fresh {
  unsigned char xstate[XSTATE_MAX], state[XSTATE_MAX];
  ssize_t size; /* 0: not asked for yet */
} Fresh;

/* All of a process are born with the same; one that has used tiles has more. */
static ssize_t take_fresh(const PlanThread *th, const CkptTiles *tiles, Fresh *fresh) {
  if (tiles)
    return tracee_get_xstate(th->thread->tid, fresh->state, XSTATE_MAX);
  if (fresh->size <= 0)
    fresh->size = tracee_get_xstate(th->thread->tid, fresh->xstate, XSTATE_MAX);
  if (fresh->size > 0)
    memcpy(fresh->state, fresh->xstate, (size_t)fresh->size);
  return fresh->size;
}

static bool set_state(const PlanThread *th, const struct user_regs_struct *now, Fresh *fresh, GError **error) {
  const CoreEntry *core = th->thread->core;
  struct user_regs_struct regs;
  const CkptTiles *tiles = th->thread->extra ? th->thread->extra->tiles : NULL;
  ssize_t size = take_fresh(th, tiles, fresh);
  void *xstate = fresh->state;
  if (size < 0)
    return fail_thread(th, "cannot read its floating-point state", (int)size, error);
  if (!regs_decode(core->thread_info, &regs, xstate, (size_t)size, error) || (tiles && !tiles_decode(tiles, xstate, (size_t)size, error))) {
    g_prefix_error(error, "core-%d.img: ", (int)th->thread->tid);
    return false;
  }
  if (th->thread->extra)
    frame_interrupt_syscall(&regs, th->thread->extra->interrupted);
  finish_syscall(th, now, &regs);
  regs.rip += th->ip_shift;
  uint64_t mask = core->thread_core->has_blk_sigset ? core->thread_core->blk_sigset : core->tc ? core->tc->blk_sigset : 0;
  int e = tracee_set_xstate(th->thread->tid, xstate, (size_t)size);
  if (e < 0)
    return fail_thread(th, "cannot set its floating-point state", e, error);
  if ((e = tracee_set_sigmask(th->thread->tid, mask)) < 0)
    return fail_thread(th, "cannot set its signal mask", e, error);
  if ((e = tracee_set_regs(th->thread->tid, &regs)) < 0)
    return fail_thread(th, "cannot set its registers", e, error);
  return true;
}

static int resume_to_syscall(pid_t tid) {
  int e = tracee_resume(tid, PTRACE_SYSCALL), status = 0;
  if (e == 0)
    e = tracee_wait_stop(tid, &status);
  return e < 0 ? e : WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : -EPROTO;
}

/* A system call made at the agent's own instruction; its end is a stop. Its result, or what went wrong. */
static int64_t call_at_agent(
    const Restore *r, const PlanThread *leader, const struct user_regs_struct *now, uint64_t nr, const uint64_t args[static 4]) {
  struct user_regs_struct regs = *now;
  const unsigned char *syscall_at = memmem(agent_start, (size_t)(agent_end - agent_start), "\x0f\x05", 2);
  regs.rip = region_agent(r->region) + (uint64_t)(syscall_at - agent_start);
  regs.rax = nr;
  regs.rdi = args[0], regs.rsi = args[1], regs.rdx = args[2], regs.r10 = args[3], regs.r8 = 0;
  regs.orig_rax = (uint64_t)-1;
  int e = tracee_set_regs(leader->thread->tid, &regs);
  for (int i = 0; e == 0 && i < 2; i++)
    e = resume_to_syscall(leader->thread->tid);
  if (e == 0)
    e = tracee_get_regs(leader->thread->tid, &regs);
  return e < 0 ? e : (int64_t)regs.rax;
}

/* Changes of credentials have reset it; all tasks have theirs by now. */
static bool set_dumpable(const Restore *r, const PlanTask *t, const PlanThread *leader, const struct user_regs_struct *now, GError **error) {
  const MmEntry *mm = t->task ? t->task->mm : NULL;
  if (!mm || !mm->has_dumpable || mm->dumpable > 1)
    return true;
  int64_t e = call_at_agent(r, leader, now, SYS_prctl, (uint64_t[4]){PR_SET_DUMPABLE, mm->dumpable});
  return e < 0 ? fail_thread(leader, "cannot be made dumpable", (int)e, error) : true;
}

/* The thread never returns to where it is then. */
static bool unmap_region(const Restore *r, const PlanThread *leader, const struct user_regs_struct *now, GError **error) {
  int64_t e = call_at_agent(r, leader, now, SYS_munmap, (uint64_t[4]){region_remote(r->region), region_size(r->region)});
  return e < 0 ? fail_thread(leader, "cannot unmap the agent", (int)e, error) : true;
}

static bool is_pending(const SignalQueueEntry *q, int signo) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    int si_signo = 0;
    if (q->signals[i]->siginfo.len >= sizeof si_signo)
      memcpy(&si_signo, q->signals[i]->siginfo.data, sizeof si_signo);
    if (si_signo == signo)
      return true;
  }
  return false;
}

/* That its child stands still is no news to @t: it has waited for that before the dump, or could have. */
static bool forget_stop(Restore *r, const PlanTask *t, const PlanTask *child, const struct user_regs_struct *now, GError **error) {
  const PlanThread *leader = &g_array_index(t->threads, PlanThread, 0);
  const CkptTask *x = child->task->extra;
  const uint64_t what[3] = {1ull << (SIGCHLD - 1)}; /* and no time to wait for it */
  uint64_t *there = region_alloc(r->region, sizeof what);
  if (!there)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "pid %d: its region is full", (int)t->pid);
  memcpy(there, what, sizeof what);
  int64_t e = tracee_set_sigmask(t->pid, ~0ull);
  if (e == 0 && !(x && x->stop_unreported))
    e = call_at_agent(r, leader, now, SYS_waitid, (uint64_t[4]){P_PID, (uint64_t)child->pid, 0, WSTOPPED | WNOHANG | __WALL});
  if (e < 0)
    return fail_thread(leader, "cannot wait for its stopped child", (int)e, error);
  const CoreEntry *core = leader->thread->core;
  if (is_pending(core->tc->signals_s, SIGCHLD) || is_pending(core->thread_core->signals_p, SIGCHLD))
    return true; /* it stays one signal */
  uint64_t at = region_to_remote(r->region, there);
  e = call_at_agent(r, leader, now, SYS_rt_sigtimedwait, (uint64_t[4]){at, 0, at + sizeof *what, sizeof *what});
  return e < 0 && e != -EAGAIN ? fail_thread(leader, "cannot take a signal back", (int)e, error) : true;
}

static bool forget_stops(Restore *r, const PlanTask *t, const struct user_regs_struct *now, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *child = r->plan->tasks->pdata[i];
    if (child->parent == t && child->stands && !forget_stop(r, t, child, now, error))
      return false;
  }
  return true;
}

/* All but the leader. */
static void set_share(void *data, unsigned which) {
  Share *s = data;
  g_autofree Fresh *fresh = g_new(Fresh, 1);
  fresh->size = 0;
  for (guint k = s->task->threads->len; k-- > 1;) {
    const PlanThread *th = &g_array_index(s->task->threads, PlanThread, k);
    struct user_regs_struct now;
    if (tracers_owner(th->thread->tid) != which)
      continue;
    if (!wait_stopped(th, false, &now, &s->errors[which]) || !set_state(th, &now, fresh, &s->errors[which]))
      return;
  }
}

static bool set_task(Restore *r, PlanTask *t, GError **error) {
  Share s = {.r = r, .task = t};
  if (!t->threads->len)
    return true;
  const PlanThread *leader = &g_array_index(t->threads, PlanThread, 0);
  struct user_regs_struct now;
  PlanTask *owner = t->owner[SHARE_MEMORY];
  g_autofree Fresh *fresh = g_new(Fresh, 1);
  fresh->size = 0;
  owner->left -= owner->left > 0; /* the last of those that share it takes the agents' memory away */
  /* (munmap leaves the restart block of a sleeper alone) */
  return (t->threads->len == 1 || share_out(&s, set_share, error)) && wait_stopped(leader, true, &now, error) &&
         forget_stops(r, t, &now, error) && set_dumpable(r, t, leader, &now, error) && (owner->left || unmap_region(r, leader, &now, error)) &&
         set_state(leader, &now, fresh, error);
}

static bool is_stopped(const PlanTask *t) {
  return t->task && !t->zombie && t->task->core->tc->task_state == TASK_STOPPED;
}

/* Until the group stop (ptrace(2)); SIGSTOP is seen before. */
static int continue_to_stop(pid_t tid) {
  int e = tracee_resume(tid, PTRACE_CONT), status = 0;
  for (int patience = 0; e == 0 && patience < 100; patience++) {
    if ((e = tracee_wait_stop(tid, &status)) < 0 || (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) == SIGSTOP))
      return e;
    uintptr_t signal = status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP ? SIGSTOP : 0;
    e = ptrace(PTRACE_CONT, tid, NULL, (void *)signal) < 0 ? -errno : 0;
  }
  return e < 0 ? e : -EPROTO;
}

/* Stopped by job control while it is still traced: the leader first, which is met by no other signal meanwhile; then the
 * others do not get to run anything. */
static bool stop_task(PlanTask *t, GError **error) {
  const PlanThread *leader = &g_array_index(t->threads, PlanThread, 0);
  uint64_t mask = 0;
  int e = tracee_get_sigmask(t->pid, &mask);
  if (e == 0)
    e = tracee_set_sigmask(t->pid, ~0ull);
  if (e == 0 && syscall(SYS_tgkill, t->pid, t->pid, SIGSTOP) < 0)
    e = -errno;
  for (guint k = 0; e == 0 && k < t->threads->len; k++)
    e = continue_to_stop(g_array_index(t->threads, PlanThread, k).thread->tid);
  if (e == 0)
    e = tracee_set_sigmask(t->pid, mask);
  t->stands = e == 0;
  return e < 0 ? fail_thread(leader, "cannot be stopped again", e, error) : true;
}

/* Those that stand still come first, children before parents: their parents' agents are needed then. */
static bool set_tasks(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    t->owner[SHARE_MEMORY]->left += t->threads->len != 0;
  }
  for (guint i = r->plan->tasks->len; i-- > 0;) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (is_stopped(t) && (!set_task(r, t, error) || !stop_task(t, error)))
      return false;
  }
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (!is_stopped(t) && !set_task(r, t, error))
      return false;
  }
  return true;
}

/* Those alone that had a SIGSTOP pending, if not @all; with those that stand already it stays pending. */
static void stop_tasks(const Restore *r, bool all) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    if (!t->zombie && !t->helper && ((all && !t->stands) || timers_has_stop(t)))
      (void)kill(t->pid, SIGSTOP);
  }
}

static void spare_share(void *data, unsigned which) {
  const Restore *r = data;
  for (guint i = r->plan->tasks->len; i-- > 0;) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = t->threads->len; k-- > 0;) {
      pid_t tid = g_array_index(t->threads, PlanThread, k).thread->tid;
      if (tracers_owner(tid) == which)
        (void)tracee_set_options(tid, 0);
    }
  }
}

static void detach_share(void *data, unsigned which) {
  const Restore *r = data;
  for (guint i = r->plan->tasks->len; i-- > 0;) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = t->threads->len; k-- > 0;) {
      pid_t tid = g_array_index(t->threads, PlanThread, k).thread->tid;
      if (tracers_owner(tid) == which)
        (void)tracee_detach(tid);
    }
  }
}

/* None dies with us any more before the first runs. */
static void detach_all(Restore *r) {
  tracers_run(spare_share, r);
  tracers_run_ahead(detach_share, r);
}

/* For the next engine that finds them asleep. */
static void keep_sleep_notes(const Restore *r) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    g_autoptr(GArray) notes = g_array_new(FALSE, FALSE, sizeof(SleepNote));
    for (guint k = 0; k < t->threads->len; k++) {
      const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (th->op_sleep < 0 || th->loaded.results[th->op_sleep] != RESULT_PENDING)
        continue;
      SleepNote n = {.tid = (guint32)th->thread->tid, .syscall_nr = (guint32)th->thread->extra->sleep->syscall_nr,
          .end_nsec = th->sleep_end_nsec, .runs = sleep_runs(t->pid, th->thread->tid)};
      g_array_append_val(notes, n);
    }
    ProcStat stat;
    if (notes->len && proc_stat(t->pid, &stat, NULL))
      sleep_notes_keep(t->pid, stat.start_time, notes);
  }
}

/* A main thread that had ended ends again, at once. */
static void wait_headless(const Restore *r) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    const CkptTask *x = t->task ? t->task->extra : NULL;
    ProcStat stat;
    for (int patience = 0; x && x->main_thread_ended && !t->stands && patience < 1000; patience++) {
      if (!proc_stat(t->pid, &stat, NULL) || stat.state == 'Z')
        break;
      g_usleep(patience < 20 ? 50 : 1000);
    }
  }
}

bool release_tree(Restore *r, GError **error) {
  if (!seize_all(r, error) || !set_tasks(r, error) || !job_poll(r->job, error))
    return false;
  /* A firewall of somebody else's opens first, since that may fail; ours follows, and after that nothing may. */
  bool unlocks = job_options(r->job)->tcp_established;
  if ((unlocks && !job_stage(r->job, "network-unlock", r->root, error)) || !restorer_release(r->restorer, error) ||
      !job_stage(r->job, "pre-resume", r->root, error))
    return false;
  job_commit(r->job);
  restorer_take_terminal(r->restorer);
  stop_tasks(r, job_options(r->job)->restore_stopped);
  keep_sleep_notes(r);
  guardian_arm(r->guardian);
  detach_all(r);
  if (!job_options(r->job)->restore_stopped)
    wait_headless(r);
  restorer_tell_terminal(r->restorer);
  return true;
}

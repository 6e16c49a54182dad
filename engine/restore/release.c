/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last step: every thread is stopped by ptrace in its agent, gets its registers, the agents' memory goes, and all are
 * let go in one short pass. */
#include "guardian.h"
#include "regs.h"
#include "stages.h"
#include "tracee.h"
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

static bool seize_all(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; k < t->threads->len; k++) {
      const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      int e = tracee_seize(th->thread->tid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
      if (e == 0 && ptrace(PTRACE_INTERRUPT, th->thread->tid, NULL, NULL) < 0)
        e = -errno;
      if (e < 0)
        return fail_thread(th, "cannot be traced", e, error);
    }
  }
  return true;
}

/* Stopped in its agent; a sleeper inside its sleep or after it. */
static bool wait_stopped(const PlanThread *th, struct user_regs_struct *regs, GError **error) {
  for (int patience = 0; patience < 5000; patience++) {
    int e = patience ? tracee_interrupt(th->thread->tid) : tracee_wait_stop(th->thread->tid, NULL);
    if (e == 0)
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

static bool set_state(const PlanThread *th, const struct user_regs_struct *now, void *xstate, GError **error) {
  const CoreEntry *core = th->thread->core;
  struct user_regs_struct regs;
  ssize_t size = tracee_get_xstate(th->thread->tid, xstate, XSTATE_MAX);
  if (size < 0)
    return fail_thread(th, "cannot read its floating-point state", (int)size, error);
  if (!regs_decode(core->thread_info, &regs, xstate, (size_t)size, error)) {
    g_prefix_error(error, "core-%d.img: ", (int)th->thread->tid);
    return false;
  }
  finish_syscall(th, now, &regs);
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

/* A system call made at the agent's own instruction; its end is a stop. */
static bool call_at_agent(const Restore *r, const PlanThread *leader, const struct user_regs_struct *now, uint64_t nr, uint64_t a,
    uint64_t b, const char *what, GError **error) {
  struct user_regs_struct regs = *now;
  const unsigned char *syscall_at = memmem(agent_start, (size_t)(agent_end - agent_start), "\x0f\x05", 2);
  regs.rip = region_agent(r->region) + (uint64_t)(syscall_at - agent_start);
  regs.rax = nr;
  regs.rdi = a;
  regs.rsi = b;
  regs.rdx = regs.r10 = regs.r8 = 0;
  regs.orig_rax = (uint64_t)-1;
  int e = tracee_set_regs(leader->thread->tid, &regs);
  for (int i = 0; e == 0 && i < 2; i++)
    e = resume_to_syscall(leader->thread->tid);
  if (e == 0)
    e = tracee_get_regs(leader->thread->tid, &regs);
  if (e == 0)
    e = (int)regs.rax;
  return e < 0 ? fail_thread(leader, what, e, error) : true;
}

/* Changes of credentials have reset it; all tasks have theirs by now. */
static bool set_dumpable(const Restore *r, const PlanTask *t, const PlanThread *leader, const struct user_regs_struct *now, GError **error) {
  const MmEntry *mm = t->task ? t->task->mm : NULL;
  if (!mm || !mm->has_dumpable || mm->dumpable > 1)
    return true;
  return call_at_agent(r, leader, now, SYS_prctl, PR_SET_DUMPABLE, mm->dumpable, "cannot be made dumpable", error);
}

/* The thread never returns to where it is then. */
static bool unmap_region(const Restore *r, const PlanThread *leader, const struct user_regs_struct *now, GError **error) {
  return call_at_agent(r, leader, now, SYS_munmap, region_remote(r->region), region_size(r->region), "cannot unmap the agent", error);
}

static bool set_task(Restore *r, PlanTask *t, void *xstate, GError **error) {
  for (guint k = t->threads->len; k-- > 0;) {
    const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
    struct user_regs_struct now;
    if (!wait_stopped(th, &now, error))
      return false;
    /* (munmap leaves the restart block of a sleeper alone) */
    if (k == 0 && (!set_dumpable(r, t, th, &now, error) || !unmap_region(r, th, &now, error)))
      return false;
    if (!set_state(th, &now, xstate, error))
      return false;
  }
  return true;
}

static void stop_again(const Restore *r) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    bool stopped = t->task && t->task->core->tc->task_state == TASK_STOPPED;
    if (!t->zombie && !t->helper && (stopped || job_options(r->job)->restore_stopped))
      (void)kill(t->pid, SIGSTOP);
  }
}

static void detach_all(const Restore *r) {
  for (int pass = 0; pass < 2; pass++)
    for (guint i = r->plan->tasks->len; i-- > 0;) {
      const PlanTask *t = r->plan->tasks->pdata[i];
      for (guint k = t->threads->len; k-- > 0;) {
        pid_t tid = g_array_index(t->threads, PlanThread, k).thread->tid;
        if (pass == 0)
          (void)ptrace(PTRACE_SETOPTIONS, tid, NULL, NULL);
        else
          (void)tracee_detach(tid);
      }
    }
}

bool release_tree(Restore *r, GError **error) {
  g_autofree void *xstate = g_malloc(XSTATE_MAX);
  if (!seize_all(r, error))
    return false;
  for (guint i = 0; i < r->plan->tasks->len; i++)
    if (!set_task(r, r->plan->tasks->pdata[i], xstate, error))
      return false;
  if (!job_poll(r->job, error))
    return false;
  if (!restorer_release(r->restorer, error))
    return false;
  job_commit(r->job);
  restorer_take_terminal(r->restorer);
  stop_again(r);
  guardian_arm(r->guardian);
  detach_all(r);
  restorer_tell_terminal(r->restorer);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tracee.h"
#include "proc.h"
#include "trace-call.h"
#include "tracers.h"
#include "warden.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG_ ((enum __ptrace_request)0x4211)
#define NT_X86_SHSTK_ 0x204

static int result(long r) {
  return r < 0 ? -errno : 0;
}

static void *number(uint64_t n) {
  return (void *)(uintptr_t)n;
}

/* --- the steps themselves --- */

/* Most are there at once; the longer it takes the less is asked. */
static void wait_a_moment(int patience) {
  if (patience < 20)
    (void)sched_yield();
  else
    (void)usleep(patience < 200 ? 20 : 500);
}

#define ENDED_AFTER 100 /* a look at /proc is no quick question */

/* A main thread that has been killed says nothing to wait(2) before the others of its process have been waited for, who may be
 * waited for later, by the same thread: nobody may wait for it for ever. */
static bool has_ended(pid_t tid, int patience) {
  return patience >= ENDED_AFTER && patience % 16 == 0 && proc_has_ended(tid);
}

static int wait_stop(pid_t tid, int *status) {
  int s = 0;
  for (int patience = 0;; patience++) {
    pid_t got = waitpid(tid, &s, __WALL | WNOHANG);
    if (got < 0 && errno != EINTR)
      return errno == ECHILD ? -ESRCH : -errno;
    if (got > 0)
      break;
    if (has_ended(tid, patience))
      return -ESRCH;
    wait_a_moment(patience);
  }
  if (status)
    *status = s;
  return WIFSTOPPED(s) ? 0 : -ESRCH;
}

/* Signals that are on their way take their course first. Their stops are only looked at: one that was waited for, of a tracer
 * that dies then, would lose its signal. */
static int wait_interrupted(pid_t tid, bool hurry) {
  for (int patience = 0;; patience++) {
    siginfo_t info = {0};
    int e = 0, status;
    if (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL | WNOHANG) < 0)
      e = errno == ECHILD ? -ESRCH : -errno;
    if (e == -EINTR)
      continue;
    if (e == 0 && !info.si_pid && (hurry || has_ended(tid, patience)))
      return hurry ? -EAGAIN : -ESRCH;
    if (e == 0 && !info.si_pid) {
      wait_a_moment(patience);
      continue;
    }
    if (e == 0 && info.si_code == CLD_TRAPPED && info.si_status >> 8 == 0) {
      e = ptrace(PTRACE_CONT, tid, NULL, number((uint64_t)info.si_status)) < 0 && errno != ESRCH ? -errno : 0;
      if (e == 0)
        continue;
    }
    if (e == 0)
      e = wait_stop(tid, &status);
    if (e < 0)
      return e;
    if (status >> 16 == PTRACE_EVENT_STOP)
      return WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    if (ptrace(PTRACE_CONT, tid, NULL, number(WSTOPSIG(status))) < 0 && errno != ESRCH)
      return -errno;
  }
}

/* Stops may come first; ECHILD: gone from us already. */
static int wait_end(pid_t tid) {
  int status = 0;
  for (pid_t r = 0; (r >= 0 && !(r == tid && (WIFEXITED(status) || WIFSIGNALED(status)))) || (r < 0 && errno == EINTR);)
    r = waitpid(tid, &status, __WALL);
  return 0;
}

/* One that has been killed is the tracer's to bury: until then its process does not end. */
static int detach(pid_t tid) {
  int e = result(ptrace(PTRACE_DETACH, tid, NULL, NULL));
  if (e == -ESRCH)
    (void)waitid(P_PID, (id_t)tid, NULL, WEXITED | WNOHANG | __WALL);
  return e;
}

static int has_stopped(pid_t tid) {
  siginfo_t info = {0};
  return waitid(P_PID, (id_t)tid, &info, WSTOPPED | WNOWAIT | WNOHANG | __WALL) == 0 && info.si_pid == tid && info.si_status >> 8;
}

static int pass_stop(pid_t tid) {
  siginfo_t info = {0};
  int status = 0;
  if (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WNOWAIT | WNOHANG | __WALL) < 0 || info.si_pid != tid || info.si_code != CLD_TRAPPED ||
      wait_stop(tid, &status) < 0)
    return 0;
  return ptrace(PTRACE_CONT, tid, NULL, number(status >> 16 ? 0 : (uint64_t)WSTOPSIG(status))) < 0 ? -errno : 1;
}

/* Signals that cannot be blocked take their course. */
static int wait_syscall_stop(pid_t tid) {
  for (;;) {
    int status = 0;
    int r = wait_stop(tid, &status);
    if (r < 0)
      return r;
    if (WSTOPSIG(status) == (SIGTRAP | 0x80))
      return 0;
    int signal = status >> 16 ? 0 : WSTOPSIG(status);
    if (ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(uintptr_t)signal) < 0)
      return -errno;
  }
}

static int to_syscall(pid_t tid) {
  return result(ptrace(PTRACE_SYSCALL, tid, NULL, NULL));
}

static int resume_to_syscall(pid_t tid) {
  int e = to_syscall(tid);
  return e < 0 ? e : wait_syscall_stop(tid);
}

static int set_up(const TraceCall *c) {
  uint64_t all = ~0ull;
  int e = result(ptrace(PTRACE_SETREGS, c->tid, NULL, c->data));
  return e < 0 ? e : result(ptrace(PTRACE_SETSIGMASK, c->tid, number(sizeof all), &all));
}

static int begin_call(const TraceCall *c) {
  int e = set_up(c);
  return e < 0 ? e : to_syscall(c->tid);
}

static int proceed_call(pid_t tid) {
  int e = wait_syscall_stop(tid);
  return e < 0 ? e : to_syscall(tid);
}

static int end_call(const TraceCall *c) {
  int e = wait_syscall_stop(c->tid);
  return e < 0 ? e : result(ptrace(PTRACE_GETREGS, c->tid, NULL, c->data));
}

static int run(const TraceCall *c) {
  int e = set_up(c);
  for (uint64_t stop = 0; e == 0 && stop < c->a; stop++)
    e = resume_to_syscall(c->tid);
  if (e == 0 && c->a)
    e = result(ptrace(PTRACE_GETREGS, c->tid, NULL, c->data));
  return e < 0 || !c->b ? e : result(ptrace(PTRACE_CONT, c->tid, NULL, NULL));
}

static int64_t peek_signals(const TraceCall *c) {
  struct __ptrace_peeksiginfo_args args = {c->b, c->a ? PTRACE_PEEKSIGINFO_SHARED : 0, (int)(c->size / sizeof(siginfo_t))};
  long r = ptrace(PTRACE_PEEKSIGINFO, c->tid, &args, c->data);
  return r < 0 ? -errno : r;
}

static int64_t get_filter(const TraceCall *c) {
  long r = ptrace(PTRACE_SECCOMP_GET_FILTER, c->tid, number(c->a), c->size ? c->data : NULL);
  return r < 0 ? -errno : r;
}

static int64_t get_regset(const TraceCall *c, uint64_t set) {
  struct iovec iov = {c->data, c->size};
  int r = result(ptrace(PTRACE_GETREGSET, c->tid, number(set), &iov));
  return r < 0 ? r : (int64_t)iov.iov_len;
}

static int set_xstate(const TraceCall *c) {
  struct iovec iov = {c->data, c->size};
  return result(ptrace(PTRACE_SETREGSET, c->tid, number(NT_X86_XSTATE), &iov));
}

int64_t trace_perform(const TraceCall *c) {
  int e;
  switch (c->op) {
  case TRACE_SEIZE:
    return result(ptrace(PTRACE_SEIZE, c->tid, NULL, number(c->a)));
  case TRACE_OPTIONS:
    return result(ptrace(PTRACE_SETOPTIONS, c->tid, NULL, number(c->a)));
  case TRACE_INTERRUPT:
    return result(ptrace(PTRACE_INTERRUPT, c->tid, NULL, NULL));
  case TRACE_STOP: /* a signal on its way would be lost with the stop that tells of it */
    e = result(ptrace(PTRACE_INTERRUPT, c->tid, NULL, NULL));
    return e < 0 ? e : MIN(wait_interrupted(c->tid, false), 0);
  case TRACE_WAIT:
    return wait_stop(c->tid, c->data);
  case TRACE_WAIT_INTERRUPTED:
    return wait_interrupted(c->tid, c->a);
  case TRACE_WAIT_END:
    return wait_end(c->tid);
  case TRACE_HAS_STOPPED:
    return has_stopped(c->tid);
  case TRACE_PASS_STOP:
    return pass_stop(c->tid);
  case TRACE_RESUME:
    return result(ptrace((enum __ptrace_request)c->a, c->tid, NULL, number(c->b)));
  case TRACE_DETACH:
    return detach(c->tid);
  case TRACE_RUN:
    return run(c);
  case TRACE_CALL_BEGIN:
    return begin_call(c);
  case TRACE_CALL_PROCEED:
    return proceed_call(c->tid);
  case TRACE_CALL_END:
    return end_call(c);
  case TRACE_GET_REGS:
    return result(ptrace(PTRACE_GETREGS, c->tid, NULL, c->data));
  case TRACE_SET_REGS:
    return result(ptrace(PTRACE_SETREGS, c->tid, NULL, c->data));
  case TRACE_GET_XSTATE:
    return get_regset(c, NT_X86_XSTATE);
  case TRACE_SET_XSTATE:
    return set_xstate(c);
  case TRACE_GET_SIGMASK:
    return result(ptrace(PTRACE_GETSIGMASK, c->tid, number(c->size), c->data));
  case TRACE_SET_SIGMASK:
    return result(ptrace(PTRACE_SETSIGMASK, c->tid, number(c->size), c->data));
  case TRACE_PEEK_SIGNALS:
    return peek_signals(c);
  case TRACE_GET_FILTER:
    return get_filter(c);
  case TRACE_GET_METADATA:
    return result(ptrace(PTRACE_SECCOMP_GET_METADATA, c->tid, number(c->size), c->data));
  case TRACE_GET_RSEQ:
    return result(ptrace(PTRACE_GET_RSEQ_CONFIGURATION, c->tid, number(c->size), c->data));
  case TRACE_GET_DISPATCH:
    return result(ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG_, c->tid, number(c->size), c->data));
  case TRACE_GET_SHADOW_STACK:
    return get_regset(c, NT_X86_SHSTK_);
  case TRACE_HOME:
  case TRACE_OWN:
    break;
  }
  return -EINVAL;
}

/* --- and who makes them --- */

static int64_t step_data(TraceOp op, pid_t tid, uint64_t a, uint64_t b, void *data, size_t size) {
  const TraceCall call = {op, tid, a, b, data, size};
  return warden_is_active() ? warden_perform(&call) : tracers_perform(&call);
}

static int step(TraceOp op, pid_t tid, uint64_t a, uint64_t b) {
  return (int)step_data(op, tid, a, b, NULL, 0);
}

int tracee_seize(pid_t tid, unsigned long options) {
  return step(TRACE_SEIZE, tid, options, 0);
}

int tracee_set_options(pid_t tid, unsigned long options) {
  return step(TRACE_OPTIONS, tid, options, 0);
}

int tracee_wait_stop(pid_t tid, int *status) {
  int s = 0, e = (int)step_data(TRACE_WAIT, tid, 0, 0, &s, sizeof s);
  if (status)
    *status = s;
  return e;
}

static int wait_for_interrupt(pid_t tid, bool hurry, int *stop_signal) {
  int e = step(TRACE_WAIT_INTERRUPTED, tid, hurry, 0);
  *stop_signal = MAX(e, 0);
  return MIN(e, 0);
}

int tracee_wait_interrupted(pid_t tid, int *stop_signal) {
  return wait_for_interrupt(tid, false, stop_signal);
}

int tracee_poll_interrupted(pid_t tid, int *stop_signal) {
  return wait_for_interrupt(tid, true, stop_signal);
}

void tracee_wait_end(pid_t tid) {
  (void)step(TRACE_WAIT_END, tid, 0, 0);
}

bool tracee_has_stopped(pid_t tid) {
  return step(TRACE_HAS_STOPPED, tid, 0, 0) > 0;
}

int tracee_ask_interrupt(pid_t tid) {
  return step(TRACE_INTERRUPT, tid, 0, 0);
}

int tracee_interrupt(pid_t tid) {
  return step(TRACE_STOP, tid, 0, 0);
}

int tracee_resume(pid_t tid, int request) {
  return step(TRACE_RESUME, tid, (uint64_t)request, 0);
}

bool tracee_pass_stop(pid_t tid) {
  return step(TRACE_PASS_STOP, tid, 0, 0) > 0;
}

int tracee_detach(pid_t tid) {
  return step(TRACE_DETACH, tid, 0, 0);
}

int tracee_run(pid_t tid, struct user_regs_struct *regs, int stops, bool goes_on) {
  return (int)step_data(TRACE_RUN, tid, (uint64_t)stops, goes_on, regs, sizeof *regs);
}

int tracee_call_begin(pid_t tid, const struct user_regs_struct *regs) {
  return (int)step_data(TRACE_CALL_BEGIN, tid, 0, 0, (void *)(uintptr_t)regs, sizeof *regs);
}

int tracee_call_proceed(pid_t tid) {
  return step(TRACE_CALL_PROCEED, tid, 0, 0);
}

int tracee_call_end(pid_t tid, struct user_regs_struct *regs) {
  return (int)step_data(TRACE_CALL_END, tid, 0, 0, regs, sizeof *regs);
}

int tracee_get_regs(pid_t tid, struct user_regs_struct *regs) {
  return (int)step_data(TRACE_GET_REGS, tid, 0, 0, regs, sizeof *regs);
}

int tracee_set_regs(pid_t tid, const struct user_regs_struct *regs) {
  return (int)step_data(TRACE_SET_REGS, tid, 0, 0, (void *)(uintptr_t)regs, sizeof *regs);
}

ssize_t tracee_get_xstate(pid_t tid, void *buffer, size_t size) {
  return step_data(TRACE_GET_XSTATE, tid, 0, 0, buffer, size);
}

int tracee_set_xstate(pid_t tid, const void *buffer, size_t size) {
  return (int)step_data(TRACE_SET_XSTATE, tid, 0, 0, (void *)(uintptr_t)buffer, size);
}

int tracee_get_sigmask(pid_t tid, uint64_t *mask) {
  return (int)step_data(TRACE_GET_SIGMASK, tid, 0, 0, mask, sizeof *mask);
}

int tracee_set_sigmask(pid_t tid, uint64_t mask) {
  return (int)step_data(TRACE_SET_SIGMASK, tid, 0, 0, &mask, sizeof mask);
}

int tracee_peek_signals(pid_t tid, bool shared, unsigned from, siginfo_t *infos, int n) {
  return (int)step_data(TRACE_PEEK_SIGNALS, tid, shared, from, infos, (size_t)n * sizeof *infos);
}

int tracee_count_seccomp_filters(pid_t tid) {
  for (uint64_t n = 0;; n++) {
    int64_t r = step_data(TRACE_GET_FILTER, tid, n, 0, NULL, 0);
    if (r >= 0)
      continue;
    if (r == -ENOENT || (r == -EINVAL && n == 0))
      return (int)n;
    return r == -EACCES ? -EACCES : (int)n + 1; /* a filter that cannot be shown is one, too */
  }
}

int tracee_get_seccomp_filter(pid_t tid, unsigned index, struct sock_filter *code, size_t room) {
  int64_t n = step_data(TRACE_GET_FILTER, tid, index, 0, NULL, 0);
  if (n < 0 || (size_t)n > room)
    return n < 0 ? (int)n : -E2BIG;
  return (int)step_data(TRACE_GET_FILTER, tid, index, 0, code, room * sizeof *code);
}

int tracee_get_seccomp_flags(pid_t tid, unsigned index, uint64_t *flags) {
  uint64_t metadata[2] = {index, 0}; /* struct seccomp_metadata */
  int e = (int)step_data(TRACE_GET_METADATA, tid, 0, 0, metadata, sizeof metadata);
  *flags = metadata[1];
  return e;
}

int tracee_get_rseq(pid_t tid, struct rseq_config *config) {
  struct {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
  } c = {0};
  int r = (int)step_data(TRACE_GET_RSEQ, tid, 0, 0, &c, sizeof c);
  if (r < 0)
    return r;
  *config = (struct rseq_config){c.pointer, c.size, c.signature};
  return 0;
}

int tracee_dispatches_syscalls(pid_t tid) {
  static int known = -1; /* to the kernel */
  uint64_t config[4] = {0}; /* struct ptrace_sud_config: mode, selector, offset, length */
  if (known < 0)
    known = !getenv("CHECKPOINTD_NO_DISPATCH_QUERY");
  int64_t r = known ? step_data(TRACE_GET_DISPATCH, tid, 0, 0, config, sizeof config) : -EIO;
  if (r == -EIO)
    known = 0;
  return r == -EIO ? -EIO : r == 0 && config[0] != 0;
}

bool tracee_has_shadow_stack(pid_t tid) {
  static bool unknown; /* to the kernel */
  uint64_t pointer;
  int64_t r = unknown ? -EINVAL : step_data(TRACE_GET_SHADOW_STACK, tid, 0, 0, &pointer, sizeof pointer);
  unknown |= r == -EINVAL;
  return r >= 0;
}

int tracee_home(const TraceHome *home) {
  return warden_is_active() ? (int)step_data(TRACE_HOME, home->tid, 0, 0, (void *)(uintptr_t)home, sizeof *home) : 0;
}

int tracee_read(pid_t pid, uint64_t address, void *buffer, size_t size) {
  struct iovec local = {buffer, size}, remote = {number(address), size};
  ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
  return n < 0 ? -errno : (size_t)n == size ? 0 : -EFAULT;
}

int tracee_write(pid_t pid, uint64_t address, const void *buffer, size_t size) {
  struct iovec local = {(void *)(uintptr_t)buffer, size}, remote = {number(address), size};
  ssize_t n = process_vm_writev(pid, &local, 1, &remote, 1, 0);
  return n < 0 ? -errno : (size_t)n == size ? 0 : -EFAULT;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* ptrace(2), typed. All calls are made by the thread that seized the task (tracers.h), or all by the warden (warden.h). They return
 * 0 or a negative errno. */

#include <linux/filter.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct rseq_config {
  uint64_t pointer;
  uint32_t size, signature;
};

/* How a thread comes back to itself: its registers and mask. @calls: before that it makes the system call for which it has
 * the registers @call. */
typedef struct TraceHome {
  pid_t tid;
  struct user_regs_struct regs;
  uint64_t sigmask;
  bool calls;
  struct user_regs_struct call;
} TraceHome;

int tracee_seize(pid_t tid, unsigned long options);
/* Of a stopped task: PTRACE_O_*. */
int tracee_set_options(pid_t tid, unsigned long options);
/* Interrupts and does not wait. */
int tracee_ask_interrupt(pid_t tid);
/* Interrupts and waits for the stop; *status as waitpid() gave it. -ESRCH when the task ended instead. */
int tracee_interrupt(pid_t tid);
/* Waits until the task stops. -ESRCH: it ended (*status has how). @status may be NULL. */
int tracee_wait_stop(pid_t tid, int *status);
/* After tracee_ask_interrupt(): waits for that very stop; signals take their course before. *stop_signal: by which signal it
 * stands still anyway, 0: none. */
int tracee_wait_interrupted(pid_t tid, int *stop_signal);
/* The same, but -EAGAIN where it had to wait. */
int tracee_poll_interrupted(pid_t tid, int *stop_signal);
/* Waits until it is dead, whatever it reports before. */
void tracee_wait_end(pid_t tid);
/* Has it stopped, but for a signal to be delivered, and nobody has waited for that yet? */
bool tracee_has_stopped(pid_t tid);
int tracee_resume(pid_t tid, int request);
/* One that was let run and stands in a stop of ptrace(2) all the same goes on: the SIGSTOP that is to be delivered is, and what job
 * control tells tracers, of a SIGCONT too, is heard. Whether it stood. */
bool tracee_pass_stop(pid_t tid);
int tracee_detach(pid_t tid);
/* Sets @regs and a mask that blocks everything, lets the thread run through that many stops of system calls, and gives its
 * registers then. After that it stays stopped, or goes on. */
int tracee_run(pid_t tid, struct user_regs_struct *regs, int stops, bool goes_on);
/* tracee_run() through the two stops of one call, for many threads at a time: each makes it while the others are seen to. Sets @regs and
 * a mask that blocks everything, and does not wait; waits for the first stop and lets it go on; waits for the second and gives its registers.
 * Not where a warden traces. */
int tracee_call_begin(pid_t tid, const struct user_regs_struct *regs);
int tracee_call_proceed(pid_t tid);
int tracee_call_end(pid_t tid, struct user_regs_struct *regs);
/* Tells the warden, if there is one, how to bring a thread home when this process dies; before its registers are
 * touched. */
int tracee_home(const TraceHome *home);

int tracee_get_regs(pid_t tid, struct user_regs_struct *regs);
int tracee_set_regs(pid_t tid, const struct user_regs_struct *regs);
/* NT_X86_XSTATE, at most @size bytes; the kernel's size is returned. */
ssize_t tracee_get_xstate(pid_t tid, void *buffer, size_t size);
int tracee_set_xstate(pid_t tid, const void *buffer, size_t size);
int tracee_get_sigmask(pid_t tid, uint64_t *mask);
int tracee_set_sigmask(pid_t tid, uint64_t mask);
/* Pending signals, oldest first, shared by the process or of the thread alone. Returns how many, at most @n. */
int tracee_peek_signals(pid_t tid, bool shared, unsigned from, siginfo_t *infos, int n);
/* seccomp(2): how many filters the task has; 0: none, or strict mode; -EACCES: this process may not ask. */
int tracee_count_seccomp_filters(pid_t tid);
/* Filter number @index, the oldest is 0, into room for that many instructions; their number. -EMEDIUMTYPE: it cannot be
 * shown. */
int tracee_get_seccomp_filter(pid_t tid, unsigned index, struct sock_filter *code, size_t room);
/* The flags it was installed with that the kernel remembers (SECCOMP_FILTER_FLAG_LOG). */
int tracee_get_seccomp_flags(pid_t tid, unsigned index, uint64_t *flags);
/* prctl(PR_SET_SYSCALL_USER_DISPATCH) is on: 1 or 0; -EIO: kernels before 6.4 (CHECKPOINTD_NO_DISPATCH_QUERY: all) do not tell. */
int tracee_dispatches_syscalls(pid_t tid);
bool tracee_has_shadow_stack(pid_t tid);
int tracee_get_rseq(pid_t tid, struct rseq_config *config);

/* Memory of another process; all or an error. */
int tracee_read(pid_t pid, uint64_t address, void *buffer, size_t size);
int tracee_write(pid_t pid, uint64_t address, const void *buffer, size_t size);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* ptrace(2), typed. All calls are made by the one thread that seized the task. They return 0 or a negative errno. */

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

int tracee_seize(pid_t tid, unsigned long options);
/* Interrupts and waits for the stop; *status as waitpid() gave it. -ESRCH when the task ended instead. */
int tracee_interrupt(pid_t tid);
/* Waits until the task stops. -ESRCH: it ended (*status has how). @status may be NULL. */
int tracee_wait_stop(pid_t tid, int *status);
int tracee_resume(pid_t tid, int request);
int tracee_detach(pid_t tid);

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
int tracee_get_rseq(pid_t tid, struct rseq_config *config);

/* Memory of another process; all or an error. */
int tracee_read(pid_t pid, uint64_t address, void *buffer, size_t size);
int tracee_write(pid_t pid, uint64_t address, const void *buffer, size_t size);

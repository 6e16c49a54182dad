/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tracee.h"
#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

static int result(long r) {
  return r < 0 ? -errno : 0;
}

static void *number(uint64_t n) {
  return (void *)(uintptr_t)n;
}

int tracee_seize(pid_t tid, unsigned long options) {
  return result(ptrace(PTRACE_SEIZE, tid, NULL, number(options)));
}

int tracee_wait_stop(pid_t tid, int *status) {
  int s = 0;
  for (;;) {
    pid_t got = waitpid(tid, &s, __WALL);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return errno == ECHILD ? -ESRCH : -errno;
    break;
  }
  if (status)
    *status = s;
  return WIFSTOPPED(s) ? 0 : -ESRCH;
}

int tracee_interrupt(pid_t tid) {
  int r = result(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL));
  return r < 0 ? r : tracee_wait_stop(tid, NULL);
}

int tracee_resume(pid_t tid, int request) {
  return result(ptrace(request, tid, NULL, NULL));
}

int tracee_detach(pid_t tid) {
  return result(ptrace(PTRACE_DETACH, tid, NULL, NULL));
}

int tracee_get_regs(pid_t tid, struct user_regs_struct *regs) {
  return result(ptrace(PTRACE_GETREGS, tid, NULL, regs));
}

int tracee_set_regs(pid_t tid, const struct user_regs_struct *regs) {
  return result(ptrace(PTRACE_SETREGS, tid, NULL, regs));
}

ssize_t tracee_get_xstate(pid_t tid, void *buffer, size_t size) {
  struct iovec iov = {buffer, size};
  int r = result(ptrace(PTRACE_GETREGSET, tid, number(NT_X86_XSTATE), &iov));
  return r < 0 ? r : (ssize_t)iov.iov_len;
}

int tracee_set_xstate(pid_t tid, const void *buffer, size_t size) {
  struct iovec iov = {(void *)(uintptr_t)buffer, size};
  return result(ptrace(PTRACE_SETREGSET, tid, number(NT_X86_XSTATE), &iov));
}

int tracee_get_sigmask(pid_t tid, uint64_t *mask) {
  return result(ptrace(PTRACE_GETSIGMASK, tid, number(sizeof *mask), mask));
}

int tracee_set_sigmask(pid_t tid, uint64_t mask) {
  return result(ptrace(PTRACE_SETSIGMASK, tid, number(sizeof mask), &mask));
}

int tracee_peek_signals(pid_t tid, bool shared, unsigned from, siginfo_t *infos, int n) {
  struct __ptrace_peeksiginfo_args args = {from, shared ? PTRACE_PEEKSIGINFO_SHARED : 0, n};
  long r = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos);
  return r < 0 ? -errno : (int)r;
}

int tracee_count_seccomp_filters(pid_t tid) {
  for (uint64_t n = 0;; n++) {
    if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, number(n), NULL) >= 0)
      continue;
    if (errno == ENOENT || (errno == EINVAL && n == 0))
      return (int)n;
    return errno == EACCES ? -EACCES : (int)n + 1; /* a filter that cannot be shown is one, too */
  }
}

int tracee_get_rseq(pid_t tid, struct rseq_config *config) {
  struct {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
  } c = {0};
  int r = result(ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, number(sizeof c), &c));
  if (r < 0)
    return r;
  *config = (struct rseq_config){c.pointer, c.size, c.signature};
  return 0;
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

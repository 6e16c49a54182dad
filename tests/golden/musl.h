/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the programs of tests/engine use and musl's headers do not have: they are linked with it for golden checkpoints. */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* glibc's names of what timer_create(2) takes. */
#undef sigev_notify_thread_id
#define _sigev_un __sev_fields
#define _tid sigev_notify_thread_id

/* musl knows no priorities. */
#define sched_setscheduler(pid, policy, param) ((int)syscall(SYS_sched_setscheduler, pid, policy, param))
#define sched_getscheduler(pid) ((int)syscall(SYS_sched_getscheduler, pid))

/* It keeps signal 34 for itself, too, and does not use it here. */
int __libc_sigaction(int signo, const struct sigaction *action, struct sigaction *old);
#define sigaction(signo, action, old) __libc_sigaction(signo, action, old)

/* Its own only tells where the heap ends. */
static inline void *grow_heap(intptr_t bytes) {
  char *end = (char *)syscall(SYS_brk, 0);
  if (bytes && (char *)syscall(SYS_brk, end + bytes) != end + bytes)
    return (void *)-1;
  return end;
}
#define sbrk(bytes) grow_heap(bytes)

enum { MUSL_TID_WORD = 12 }; /* of a thread's descriptor: struct pthread, which begins with its own address */

static inline int pthread_sigqueue(pthread_t thread, int signo, const union sigval value) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = signo, info.si_code = SI_QUEUE, info.si_pid = getpid(), info.si_uid = getuid(), info.si_value = value;
  return syscall(SYS_rt_tgsigqueueinfo, getpid(), ((const int *)thread)[MUSL_TID_WORD], signo, &info) < 0 ? errno : 0;
}

/* Only called by cases that are no golden ones. */
#ifndef PKEY_DISABLE_ACCESS
#define PKEY_DISABLE_ACCESS 1
#define PKEY_DISABLE_WRITE 2
#define pkey_alloc(flags, rights) (-1)
#define pkey_free(key) (-1)
#define pkey_set(key, rights) (-1)
#define pkey_get(key) (-1)
#define pkey_mprotect(address, size, protection, key) (-1)
#endif

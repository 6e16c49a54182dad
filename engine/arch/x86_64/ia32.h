/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* System calls of 32-bit programs (arch/x86/entry/syscalls/syscall_32.tbl), as far as it matters which one a thread is in, and
 * their structures. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>

enum {
  IA32_RESTART_SYSCALL = 0,
  IA32_EXIT = 1,
  IA32_NANOSLEEP = 162,
  IA32_POLL = 168,
  IA32_RT_SIGACTION = 174,
  IA32_FUTEX = 240,
  IA32_SET_THREAD_AREA = 243,
  IA32_GET_THREAD_AREA = 244,
  IA32_CLOCK_NANOSLEEP = 267,
  IA32_SET_ROBUST_LIST = 311,
  IA32_GET_ROBUST_LIST = 312,
  IA32_EPOLL_PWAIT = 319,
  IA32_CLOCK_NANOSLEEP_TIME64 = 407,
  IA32_FUTEX_TIME64 = 422,
};

#define IA32_ADDRESSES (1ull << 32) /* where they end */
#define IA32_N_TLS 3
#define IA32_FIRST_TLS 12 /* number of the first entry for thread-local storage in the GDT */

struct ia32_timespec {
  int32_t tv_sec, tv_nsec;
};

struct ia32_sigaction {
  uint32_t handler, flags, restorer, mask[2];
};

/* The 64-bit number of the call that does the same with arguments of the same order, for those that sleep or answer EINTR
 * when they are stopped; UINT64_MAX: it is none of them. ipc(2) and socketcall(2) count as one of what they do. @arg0: the
 * call's first argument. *ret_time32: its times are struct ia32_timespec. */
uint64_t ia32_native_call(uint64_t nr, uint64_t arg0, bool *ret_time32);
/* The arguments of a call, by the registers of either kind of task. */
void ia32_arguments(const struct user_regs_struct *regs, bool ia32, uint64_t ret_args[static 6]);

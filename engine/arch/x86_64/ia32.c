/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ia32.h"
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

#define IA32_SOCKETCALL 102
#define IA32_IPC 117
#define IPC_SEMOP 1
#define IPC_SEMTIMEDOP 4

static const struct {
  uint16_t nr, native;
  bool time32;
} calls[] = {
    {IA32_RESTART_SYSCALL, SYS_restart_syscall, false},
    {3, SYS_read, false},
    {4, SYS_write, false},
    {145, SYS_readv, false},
    {146, SYS_writev, false},
    {IA32_NANOSLEEP, SYS_nanosleep, true},
    {IA32_POLL, SYS_poll, false},
    {177, SYS_rt_sigtimedwait, true},
    {IA32_FUTEX, SYS_futex, true},
    {247, SYS_io_getevents, true},
    {256, SYS_epoll_wait, false},
    {IA32_CLOCK_NANOSLEEP, SYS_clock_nanosleep, true},
    {IA32_EPOLL_PWAIT, SYS_epoll_pwait, false},
    {337, SYS_recvmmsg, true},
    {345, SYS_sendmmsg, false},
    {362, SYS_connect, false},
    {364, SYS_accept4, false},
    {369, SYS_sendto, false},
    {370, SYS_sendmsg, false},
    {371, SYS_recvfrom, false},
    {372, SYS_recvmsg, false},
    {385, SYS_io_pgetevents, true},
    {IA32_CLOCK_NANOSLEEP_TIME64, SYS_clock_nanosleep, false},
    {416, SYS_io_pgetevents, false},
    {417, SYS_recvmmsg, false},
    {420, SYS_semtimedop, false},
    {421, SYS_rt_sigtimedwait, false},
    {IA32_FUTEX_TIME64, SYS_futex, false},
    {426, SYS_io_uring_enter, false},
    {441, SYS_epoll_pwait2, false},
};

uint64_t ia32_native_call(uint64_t nr, uint64_t arg0, bool *ret_time32) {
  *ret_time32 = false;
  if (nr == IA32_SOCKETCALL)
    return SYS_recvmsg;
  if (nr == IA32_IPC)
    return (arg0 & 0xffff) == IPC_SEMOP || (arg0 & 0xffff) == IPC_SEMTIMEDOP ? SYS_semtimedop : UINT64_MAX;
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (calls[i].nr == nr) {
      *ret_time32 = calls[i].time32;
      return calls[i].native;
    }
  return UINT64_MAX;
}

void ia32_arguments(const struct user_regs_struct *r, bool ia32, uint64_t ret_args[static 6]) {
  const uint64_t native[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
  const uint64_t compat[6] = {(uint32_t)r->rbx, (uint32_t)r->rcx, (uint32_t)r->rdx, (uint32_t)r->rsi, (uint32_t)r->rdi, (uint32_t)r->rbp};
  memcpy(ret_args, ia32 ? compat : native, sizeof native);
}

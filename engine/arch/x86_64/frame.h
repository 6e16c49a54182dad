/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Signal frames of x86-64 as arch/x86/kernel/signal_64.c lays them out: struct rt_sigframe (return address, ucontext,
 * siginfo) and above it the xsave area with its software-reserved words (arch/x86/include/uapi/asm/sigcontext.h). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* What a thread needs to go on. */
typedef struct FrameState {
  const struct user_regs_struct *regs;
  const void *xstate; /* as NT_X86_XSTATE gave it */
  size_t xstate_size;
  uint64_t sigmask;
} FrameState;

/* Bytes a frame may take, alignment included. */
size_t frame_size(size_t xstate_size);
/* Builds in @buffer (of frame_size()) the frame that will stand at the returned address, the highest possible one that
 * leaves the frame below @top. Its size is left in *ret_size. @restorer: address of `mov $15, %rax; syscall`. The system
 * call restart is worked into the registers. */
uint64_t frame_build(const FrameState *state, uint64_t top, uint64_t restorer, void *buffer, size_t *ret_size);

/* The registers with which a thread that was stopped in or out of a system call goes on when nobody can set orig_rax:
 * -ERESTART* is turned into the call again, -ERESTART_RESTARTBLOCK into -EINTR. */
void frame_restart_syscall(struct user_regs_struct *regs);
/* What frame_restart_syscall() worked in: 512, 513, 514, 516; 0 if it does nothing with these registers. */
uint32_t frame_interrupted(const struct user_regs_struct *regs);
/* The way back from frame_restart_syscall(), for who can set orig_rax: the kernel decides anew. @interrupted comes from an
 * image: nothing happens where it does not go with the registers. */
void frame_interrupt_syscall(struct user_regs_struct *regs, uint32_t interrupted);

/* Kernel-internal results of interrupted system calls (include/linux/errno.h) */
enum { KERNEL_ERESTARTSYS = 512, KERNEL_ERESTARTNOINTR = 513, KERNEL_ERESTARTNOHAND = 514, KERNEL_ERESTART_RESTARTBLOCK = 516 };

/* Finds `syscall; ret` and `mov $15, %(r|e)ax; syscall` in code; offsets into it, SIZE_MAX where there is none. */
void frame_find_gadgets(const unsigned char *code, size_t size, size_t *ret_syscall, size_t *ret_sigreturn);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Signal frames of x86-64 as arch/x86/kernel/signal_64.c lays them out: struct rt_sigframe (return address, ucontext,
 * siginfo) and above it the xsave area with its software-reserved words (arch/x86/include/uapi/asm/sigcontext.h). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#define USER_CS_64 0x33
#define USER_CS_64_XEN 0xe033 /* in a paravirtual guest */
#define USER_CS_32 0x23

/* In 32-bit code of a 32-bit program, or in a system call that it made. Then frames are those of
 * arch/x86/kernel/signal_32.c. They are left in 64-bit mode, too. */
bool frame_is_ia32(const struct user_regs_struct *regs);

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
 * leaves the frame below @top. Its size is left in *ret_size. @restorer: address of `mov $15, %rax; syscall`, or its like.
 * @pops: words that are popped before the return to it. The system call restart is worked into the registers. */
uint64_t frame_build(const FrameState *state, uint64_t top, uint64_t restorer, unsigned pops, void *buffer, size_t *ret_size);

/* A system call by 64-bit number (mmap, mprotect, munmap, getpid) made in the task that has @regs, at FrameCode.call; the
 * caller adds instruction and stack pointer. */
void frame_set_call(struct user_regs_struct *regs, long nr, const uint64_t args[static 6]);
/* The 32-bit number of one of these calls. */
long frame_ia32_number(long nr);

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

#define FRAME_CALL_SIZE 7u      /* bytes of code, at most */
#define FRAME_SIGRETURN_SIZE 9u
/* Finds `syscall; ret` and `mov $15, %(r|e)ax; syscall` in code; offsets into it, SIZE_MAX where there is none. @ia32: those
 * of 32-bit code, `int $0x80`, up to four pops, `ret` (as the vdso has it) and `mov $173, %eax; int $0x80`, which are the
 * same in 64-bit mode. */
void frame_find_gadgets(const unsigned char *code, size_t size, bool ia32, size_t *ret_syscall, size_t *ret_sigreturn);
/* Words that the code at such a system call pops before it returns. */
unsigned frame_count_pops(const unsigned char call[static FRAME_CALL_SIZE]);

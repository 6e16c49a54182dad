/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "frame.h"
#include "tiles.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#define RED_ZONE 128
#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define XSTATE_SW_BYTES 464 /* offset of the software-reserved words in the fxsave area */
#define UC_FLAGS 0x7        /* UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
#define SS_INVALID 0x40     /* not a value of ss_flags: the alternate stack stays as it is */

struct sw_bytes {
  uint32_t magic1, extended_size;
  uint64_t xfeatures;
  uint32_t xstate_size, padding[7];
};

/* struct ucontext of the kernel; glibc's differs behind uc_sigmask. */
struct kernel_ucontext {
  unsigned long flags, link;
  stack_t stack;
  struct sigcontext_64 {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
  } mcontext;
  uint64_t sigmask;
};

struct rt_sigframe {
  uint64_t return_address;
  struct kernel_ucontext uc;
  siginfo_t info;
};

size_t frame_size(size_t xstate_size) {
  return sizeof(struct rt_sigframe) + 16 + 64 + xstate_size + 4 + 64;
}

void frame_restart_syscall(struct user_regs_struct *regs) {
  if ((int64_t)regs->orig_rax < 0)
    return;
  switch (-(int64_t)regs->rax) {
  case KERNEL_ERESTARTSYS:
  case KERNEL_ERESTARTNOINTR:
  case KERNEL_ERESTARTNOHAND:
    regs->rax = regs->orig_rax;
    regs->rip -= 2;
    break;
  case KERNEL_ERESTART_RESTARTBLOCK:
    regs->rax = (uint64_t)-EINTR;
    break;
  }
}

uint32_t frame_interrupted(const struct user_regs_struct *regs) {
  struct user_regs_struct copy = *regs;
  frame_restart_syscall(&copy);
  return copy.rax != regs->rax ? (uint32_t)-regs->rax : 0;
}

void frame_interrupt_syscall(struct user_regs_struct *regs, uint32_t interrupted) {
  struct user_regs_struct copy = *regs;
  copy.rax = -(uint64_t)interrupted;
  copy.rip += interrupted == KERNEL_ERESTART_RESTARTBLOCK ? 0 : 2;
  struct user_regs_struct back = copy;
  frame_restart_syscall(&back);
  if (interrupted && frame_interrupted(&copy) == interrupted && back.rax == regs->rax && back.rip == regs->rip)
    *regs = copy;
}

static void fill_context(struct kernel_ucontext *uc, const FrameState *state, uint64_t fpstate) {
  struct user_regs_struct r = *state->regs;
  frame_restart_syscall(&r);
  uc->flags = UC_FLAGS;
  uc->stack.ss_flags = SS_INVALID;
  uc->sigmask = state->sigmask;
  struct sigcontext_64 *c = &uc->mcontext;
  c->r8 = r.r8, c->r9 = r.r9, c->r10 = r.r10, c->r11 = r.r11, c->r12 = r.r12, c->r13 = r.r13, c->r14 = r.r14, c->r15 = r.r15;
  c->di = r.rdi, c->si = r.rsi, c->bp = r.rbp, c->bx = r.rbx, c->dx = r.rdx, c->ax = r.rax, c->cx = r.rcx, c->sp = r.rsp;
  c->ip = r.rip, c->flags = r.eflags, c->cs = (uint16_t)r.cs, c->ss = (uint16_t)r.ss;
  c->fpstate = fpstate;
}

static void fill_xstate(unsigned char *area, const FrameState *state) {
  uint64_t features;
  size_t size = tiles_needed_size(state->xstate, state->xstate_size, &features);
  memcpy(area, state->xstate, size);
  struct sw_bytes sw = {.magic1 = XSTATE_MAGIC1, .extended_size = (uint32_t)size + 4, .xfeatures = features, .xstate_size = (uint32_t)size};
  memcpy(area + XSTATE_SW_BYTES, &sw, sizeof sw);
  uint32_t magic2 = XSTATE_MAGIC2;
  memcpy(area + size, &magic2, sizeof magic2);
}

uint64_t frame_build(const FrameState *state, uint64_t top, uint64_t restorer, void *buffer, size_t *ret_size) {
  uint64_t fpstate = (top - RED_ZONE - state->xstate_size - 4) & ~63ull;
  uint64_t start = ((fpstate - sizeof(struct rt_sigframe)) & ~15ull) - 8; /* as at a function's entry */
  size_t size = fpstate + state->xstate_size + 4 - start;
  memset(buffer, 0, size);
  struct rt_sigframe *frame = buffer;
  frame->return_address = restorer;
  fill_context(&frame->uc, state, fpstate);
  fill_xstate((unsigned char *)buffer + (fpstate - start), state);
  *ret_size = size;
  return start;
}

void frame_find_gadgets(const unsigned char *code, size_t size, size_t *ret_syscall, size_t *ret_sigreturn) {
  static const unsigned char mov_rax_15[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
  static const unsigned char mov_eax_15[] = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};
  static const unsigned char syscall_ret[] = {0x0f, 0x05, 0xc3};
  const unsigned char *p = memmem(code, size, mov_rax_15, sizeof mov_rax_15);
  if (!p)
    p = memmem(code, size, mov_eax_15, sizeof mov_eax_15);
  *ret_sigreturn = p ? (size_t)(p - code) : SIZE_MAX;
  p = memmem(code, size, syscall_ret, sizeof syscall_ret);
  *ret_syscall = p ? (size_t)(p - code) : SIZE_MAX;
}

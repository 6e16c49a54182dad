/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "frame.h"
#include "tiles.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
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

/* The same of 32-bit tasks (arch/x86/include/asm/sigframe.h). */
struct ucontext_ia32 {
  uint32_t flags, link;
  uint32_t stack_sp, stack_flags, stack_size;
  struct sigcontext_ia32 {
    uint16_t gs, gs_high, fs, fs_high, es, es_high, ds, ds_high;
    uint32_t di, si, bp, sp, bx, dx, cx, ax, trapno, err, ip;
    uint16_t cs, cs_high;
    uint32_t flags, sp_at_signal;
    uint16_t ss, ss_high;
    uint32_t fpstate, oldmask, cr2;
  } mcontext;
  uint32_t sigmask[2];
};

struct rt_sigframe_ia32 {
  uint32_t return_address, signal, info_address, uc_address, info[32];
  struct ucontext_ia32 uc;
  char code[8];
};

/* What fsave(2) would write, in front of the xsave area; the kernel takes the x87 state from here. */
struct fsave {
  uint32_t cwd, swd, twd, fip, fcs, foo, fos;
  unsigned char st[8][10];
  uint32_t status;
};
_Static_assert(sizeof(struct fsave) == 112 && sizeof(struct ucontext_ia32) == 116, "as the kernel has them");

bool frame_is_ia32(const struct user_regs_struct *regs) {
  return regs->cs == USER_CS_32;
}

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

static void fill_context_ia32(struct ucontext_ia32 *uc, const FrameState *state, uint32_t fpstate) {
  struct user_regs_struct r = *state->regs;
  frame_restart_syscall(&r);
  uc->stack_flags = SS_INVALID;
  memcpy(uc->sigmask, &state->sigmask, sizeof uc->sigmask);
  struct sigcontext_ia32 *c = &uc->mcontext;
  c->gs = (uint16_t)r.gs, c->fs = (uint16_t)r.fs, c->es = (uint16_t)r.es, c->ds = (uint16_t)r.ds;
  c->di = (uint32_t)r.rdi, c->si = (uint32_t)r.rsi, c->bp = (uint32_t)r.rbp, c->sp = (uint32_t)r.rsp;
  c->bx = (uint32_t)r.rbx, c->dx = (uint32_t)r.rdx, c->cx = (uint32_t)r.rcx, c->ax = (uint32_t)r.rax;
  c->ip = (uint32_t)r.rip, c->cs = (uint16_t)r.cs, c->flags = (uint32_t)r.eflags, c->ss = (uint16_t)r.ss;
  c->fpstate = fpstate;
}

/* From the fxsave area (Intel SDM volume 1, 10.5): a tag bit for each register in use becomes two, 00 or 11. */
static void fill_fsave(struct fsave *f, const unsigned char *fx) {
  uint16_t control[4];
  uint64_t pointers[2];
  memcpy(control, fx, sizeof control);
  memcpy(pointers, fx + 8, sizeof pointers);
  f->cwd = control[0] | 0xffff0000u, f->swd = control[1] | 0xffff0000u, f->twd = 0xffff0000u;
  for (unsigned i = 0; i < 8; i++) {
    f->twd |= control[2] & (1u << i) ? 0 : 3u << (2 * i);
    memcpy(f->st[i], fx + 32 + 16 * i, sizeof f->st[i]);
  }
  f->fip = (uint32_t)pointers[0], f->foo = (uint32_t)pointers[1];
  f->fcs = (uint32_t)control[3] << 16 | USER_CS_32, f->fos = 0xffff0000u;
}

static uint64_t build_ia32(const FrameState *state, uint64_t top, uint64_t restorer, unsigned pops, void *buffer, size_t *ret_size) {
  const size_t before = (pops + 1ull) * 8; /* popped in 64-bit mode; the frame begins in the second half of the last word */
  uint64_t xstate = (top - RED_ZONE - state->xstate_size - 4) & ~63ull, fpstate = xstate - sizeof(struct fsave);
  uint64_t at = (fpstate - sizeof(struct rt_sigframe_ia32) - 4) & ~15ull, start = at - before;
  size_t size = xstate + state->xstate_size + 4 - start;
  unsigned char *b = buffer;
  memset(b, 0, size);
  memcpy(b + 8ull * pops, &restorer, sizeof restorer);
  struct rt_sigframe_ia32 frame = {.return_address = (uint32_t)(restorer >> 32)};
  struct fsave fsave = {.status = 0};
  fill_context_ia32(&frame.uc, state, (uint32_t)fpstate);
  fill_fsave(&fsave, state->xstate);
  memcpy(b + before - 4, &frame, sizeof frame);
  memcpy(b + (fpstate - start), &fsave, sizeof fsave);
  fill_xstate(b + (xstate - start), state);
  *ret_size = size;
  return start;
}

uint64_t frame_build(const FrameState *state, uint64_t top, uint64_t restorer, unsigned pops, void *buffer, size_t *ret_size) {
  if (frame_is_ia32(state->regs))
    return build_ia32(state, top, restorer, pops, buffer, ret_size);
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

long frame_ia32_number(long nr) {
  return nr == SYS_mmap ? 192 /* mmap2 */ : nr == SYS_mprotect ? 125 : nr == SYS_munmap ? 91 : nr == SYS_getpid ? 20 : -1;
}

void frame_set_call(struct user_regs_struct *r, long nr, const uint64_t args[static 6]) {
  r->rax = (uint64_t)nr;
  r->orig_rax = (uint64_t)-1;
  r->eflags &= ~0x100ull; /* no single step */
  if (!frame_is_ia32(r)) {
    r->rdi = args[0], r->rsi = args[1], r->rdx = args[2], r->r10 = args[3], r->r8 = args[4], r->r9 = args[5];
    return;
  }
  r->cs = USER_CS_64;
  r->rax = (uint64_t)frame_ia32_number(nr);
  r->rbx = args[0], r->rcx = args[1], r->rdx = args[2], r->rsi = args[3], r->rdi = args[4];
  r->rbp = nr == SYS_mmap ? args[5] / 4096 : args[5];
}

unsigned frame_count_pops(const unsigned char call[static FRAME_CALL_SIZE]) {
  unsigned n = 0;
  while (n < FRAME_CALL_SIZE - 3 && call[2 + n] >= 0x58 && call[2 + n] <= 0x5f && call[2 + n] != 0x5c /* the stack pointer */)
    n++;
  return n;
}

static size_t find_int80(const unsigned char *code, size_t size) {
  static const unsigned char int80[] = {0xcd, 0x80};
  for (const unsigned char *p = code; (p = memmem(p, size - (size_t)(p - code), int80, sizeof int80)); p++) {
    unsigned char call[FRAME_CALL_SIZE] = {0};
    memcpy(call, p, size - (size_t)(p - code) < sizeof call ? size - (size_t)(p - code) : sizeof call);
    if (call[2 + frame_count_pops(call)] == 0xc3)
      return (size_t)(p - code);
  }
  return SIZE_MAX;
}

static size_t find_bytes(const unsigned char *code, size_t size, const void *bytes, size_t n) {
  const unsigned char *p = memmem(code, size, bytes, n);
  return p ? (size_t)(p - code) : SIZE_MAX;
}

void frame_find_gadgets(const unsigned char *code, size_t size, bool ia32, size_t *ret_syscall, size_t *ret_sigreturn) {
  static const unsigned char mov_rax_15[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
  static const unsigned char mov_eax_15[] = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05};
  static const unsigned char mov_eax_173[] = {0xb8, 0xad, 0, 0, 0, 0xcd, 0x80};
  static const unsigned char syscall_ret[] = {0x0f, 0x05, 0xc3};
  if (ia32) {
    *ret_sigreturn = find_bytes(code, size, mov_eax_173, sizeof mov_eax_173);
    *ret_syscall = find_int80(code, size);
    return;
  }
  *ret_sigreturn = find_bytes(code, size, mov_rax_15, sizeof mov_rax_15);
  if (*ret_sigreturn == SIZE_MAX)
    *ret_sigreturn = find_bytes(code, size, mov_eax_15, sizeof mov_eax_15);
  *ret_syscall = find_bytes(code, size, syscall_ret, sizeof syscall_ret);
}

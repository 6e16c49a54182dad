/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "regs.h"
#include "frame.h"
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

/* The fxsave area, the first 512 bytes of every xsave area (Intel SDM volume 1, 10.5). */
struct fxsave {
  uint16_t cwd, swd, twd, fop;
  uint64_t rip, rdp;
  uint32_t mxcsr, mxcsr_mask;
  uint32_t st_space[32], xmm_space[64], padding[12], software[12];
};
_Static_assert(sizeof(struct fxsave) == 512, "fxsave area");

#define XTILE_MASK ((1ull << 17) | (1ull << 18))

/* Components that user_x86_xsave_entry has a field for; sizes in bytes. */
enum { YMMH = 2, BNDREGS = 3, BNDCSR = 4, OPMASK = 5, ZMM_UPPER = 6, HI16_ZMM = 7, PKRU = 9 };

/* CPUID leaf 0xd, asked once: in a virtual machine every CPUID is a trip to the hypervisor. */
XsaveComponent regs_component(unsigned n) {
  static XsaveComponent known[XSTATE_COMPONENTS];
  static bool asked[XSTATE_COMPONENTS];
  if (!asked[n]) {
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid_count(0xd, n, &eax, &ebx, &ecx, &edx))
      known[n] = (XsaveComponent){eax, ebx};
    asked[n] = true;
  }
  return known[n];
}

static void *copy_out(const unsigned char *area, size_t area_size, unsigned n, size_t unit, size_t *ret_n) {
  XsaveComponent c = regs_component(n);
  if (!c.size || (size_t)c.offset + c.size > area_size)
    return NULL;
  void *p = malloc(c.size);
  memcpy(p, area + c.offset, c.size);
  *ret_n = c.size / unit;
  return p;
}

static UserX86XsaveEntry *xsave_encode(const unsigned char *area, size_t size) {
  UserX86XsaveEntry *x = malloc(sizeof *x);
  user_x86_xsave_entry__init(x);
  memcpy(&x->xstate_bv, area + XSTATE_BV, 8);
  x->xstate_bv &= ~XTILE_MASK; /* no field for them: tiles.h */
  x->ymmh_space = copy_out(area, size, YMMH, 4, &x->n_ymmh_space);
  x->bndreg_state = copy_out(area, size, BNDREGS, 8, &x->n_bndreg_state);
  x->bndcsr_state = copy_out(area, size, BNDCSR, 8, &x->n_bndcsr_state);
  x->opmask_reg = copy_out(area, size, OPMASK, 8, &x->n_opmask_reg);
  x->zmm_upper = copy_out(area, size, ZMM_UPPER, 8, &x->n_zmm_upper);
  x->hi16_zmm = copy_out(area, size, HI16_ZMM, 8, &x->n_hi16_zmm);
  x->pkru = copy_out(area, size, PKRU, 4, &x->n_pkru);
  return x;
}

static uint32_t *words(const void *p, size_t n) {
  uint32_t *w = malloc(n * 4);
  memcpy(w, p, n * 4);
  return w;
}

static UserX86FpregsEntry *fpregs_encode(const unsigned char *area, size_t size) {
  struct fxsave fx;
  memcpy(&fx, area, sizeof fx);
  UserX86FpregsEntry *f = malloc(sizeof *f);
  user_x86_fpregs_entry__init(f);
  f->cwd = fx.cwd, f->swd = fx.swd, f->twd = fx.twd, f->fop = fx.fop, f->rip = fx.rip, f->rdp = fx.rdp;
  f->mxcsr = fx.mxcsr, f->mxcsr_mask = fx.mxcsr_mask;
  f->n_st_space = 32, f->st_space = words(fx.st_space, 32);
  f->n_xmm_space = 64, f->xmm_space = words(fx.xmm_space, 64);
  if (size > XSTATE_LEGACY)
    f->xsave = xsave_encode(area, size);
  return f;
}

ThreadInfoX86 *regs_encode(const struct user_regs_struct *r, const void *xstate, size_t xstate_size) {
  UserX86RegsEntry *g = malloc(sizeof *g);
  user_x86_regs_entry__init(g);
  g->r15 = r->r15, g->r14 = r->r14, g->r13 = r->r13, g->r12 = r->r12, g->bp = r->rbp, g->bx = r->rbx;
  g->r11 = r->r11, g->r10 = r->r10, g->r9 = r->r9, g->r8 = r->r8, g->ax = r->rax, g->cx = r->rcx, g->dx = r->rdx;
  g->si = r->rsi, g->di = r->rdi, g->orig_ax = r->orig_rax, g->ip = r->rip, g->cs = r->cs, g->flags = r->eflags;
  g->sp = r->rsp, g->ss = r->ss, g->fs_base = r->fs_base, g->gs_base = r->gs_base;
  g->ds = r->ds, g->es = r->es, g->fs = r->fs, g->gs = r->gs;
  g->has_mode = true;
  g->mode = frame_is_ia32(r) ? USER_X86_REGS_MODE__COMPAT : USER_X86_REGS_MODE__NATIVE;
  ThreadInfoX86 *info = malloc(sizeof *info);
  thread_info_x86__init(info);
  info->gpregs = g;
  info->fpregs = fpregs_encode(xstate, xstate_size);
  return info;
}

static bool copy_in(unsigned char *area, size_t size, unsigned n, const void *from, size_t bytes, uint64_t bv, GError **error) {
  XsaveComponent c = regs_component(n);
  if (!bytes && !(bv & (1ull << n)))
    return true;
  if (!c.size || (size_t)c.offset + c.size > size) {
    if (!(bv & (1ull << n)))
      return true; /* in its initial state there */
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "The checkpoint has processor state (xsave component %u) that this CPU does not have; restore it on a CPU with all "
        "features of the one it was made on",
        n);
  }
  if (bytes > c.size)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "Processor state (xsave component %u) has %zu bytes instead of %u", n, bytes, c.size);
  if (bytes)
    memcpy(area + c.offset, from, bytes);
  return true;
}

static bool xsave_decode(const UserX86XsaveEntry *x, unsigned char *area, size_t size, GError **error) {
  uint64_t known = 0x3 | 1u << YMMH | 1u << BNDREGS | 1u << BNDCSR | 1u << OPMASK | 1u << ZMM_UPPER | 1u << HI16_ZMM | 1u << PKRU;
  uint64_t bv = x->xstate_bv;
  if (bv & ~known)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "The checkpoint has processor state that is not known here (xstate_bv 0x%" G_GINT64_MODIFIER "x)", bv);
  if (!copy_in(area, size, YMMH, x->ymmh_space, x->n_ymmh_space * 4, bv, error) ||
      !copy_in(area, size, BNDREGS, x->bndreg_state, x->n_bndreg_state * 8, bv, error) ||
      !copy_in(area, size, BNDCSR, x->bndcsr_state, x->n_bndcsr_state * 8, bv, error) ||
      !copy_in(area, size, OPMASK, x->opmask_reg, x->n_opmask_reg * 8, bv, error) ||
      !copy_in(area, size, ZMM_UPPER, x->zmm_upper, x->n_zmm_upper * 8, bv, error) ||
      !copy_in(area, size, HI16_ZMM, x->hi16_zmm, x->n_hi16_zmm * 8, bv, error) ||
      !copy_in(area, size, PKRU, x->pkru, x->n_pkru * 4, bv, error))
    return false;
  memcpy(area + XSTATE_BV, &bv, 8);
  return true;
}

static bool fpregs_decode(const UserX86FpregsEntry *f, unsigned char *area, size_t size, GError **error) {
  if (f->n_st_space != 32 || f->n_xmm_space != 64)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The floating-point registers of a thread are incomplete");
  struct fxsave fx = {.cwd = (uint16_t)f->cwd, .swd = (uint16_t)f->swd, .twd = (uint16_t)f->twd, .fop = (uint16_t)f->fop,
      .rip = f->rip, .rdp = f->rdp, .mxcsr = f->mxcsr & 0xffff, .mxcsr_mask = f->mxcsr_mask};
  memcpy(fx.st_space, f->st_space, sizeof fx.st_space);
  memcpy(fx.xmm_space, f->xmm_space, sizeof fx.xmm_space);
  memset(area, 0, size);
  memcpy(area, &fx, MIN(size, sizeof fx));
  if (size <= XSTATE_LEGACY)
    return true;
  if (f->xsave)
    return xsave_decode(f->xsave, area, size, error);
  uint64_t bv = 3;
  memcpy(area + XSTATE_BV, &bv, 8);
  return true;
}

bool regs_decode(const ThreadInfoX86 *info, struct user_regs_struct *r, void *xstate, size_t xstate_size, GError **error) {
  const UserX86RegsEntry *g = info->gpregs;
  *r = (struct user_regs_struct){.r15 = g->r15, .r14 = g->r14, .r13 = g->r13, .r12 = g->r12, .rbp = g->bp, .rbx = g->bx,
      .r11 = g->r11, .r10 = g->r10, .r9 = g->r9, .r8 = g->r8, .rax = g->ax, .rcx = g->cx, .rdx = g->dx, .rsi = g->si,
      .rdi = g->di, .orig_rax = g->orig_ax, .rip = g->ip, .cs = g->cs, .eflags = g->flags, .rsp = g->sp, .ss = g->ss,
      .fs_base = g->fs_base, .gs_base = g->gs_base, .ds = g->ds, .es = g->es, .fs = g->fs, .gs = g->gs};
  if (g->has_mode && g->mode == USER_X86_REGS_MODE__COMPAT) { /* where they were kept in 32 bits */
    r->orig_rax = (uint64_t)(int64_t)(int32_t)r->orig_rax;
    r->rax = (uint32_t)r->rax > (uint32_t)-4096 ? (uint64_t)(int64_t)(int32_t)r->rax : r->rax;
  }
  return fpregs_decode(info->fpregs, xstate, xstate_size, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a thread of a 32-bit program has of its own kind, by 32-bit system calls. */
#include "frame.h"
#include "ia32.h"
#include "stages.h"
#include <asm/ldt.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>

/* As the GDT has them before anybody sets them. */
static bool is_empty(const UserDescT *e) {
  return !e->base_addr && !e->limit && e->read_exec_only && e->seg_not_present;
}

static void build_tls(const UserDescT *e, Program *p) {
  struct user_desc d = {.entry_number = e->entry_number,
      .base_addr = e->base_addr,
      .limit = e->limit,
      .seg_32bit = e->seg_32bit,
      .contents = (e->contents_h ? 2u : 0u) | (e->contents_l ? 1u : 0u),
      .read_exec_only = e->read_exec_only,
      .limit_in_pages = e->limit_in_pages,
      .seg_not_present = e->seg_not_present,
      .useable = e->usable};
  size_t at = program_data(p, &d, sizeof d);
  PROGRAM_CALL(p, "set_thread_area", IA32_SET_THREAD_AREA, ARG_DATA(at));
  program_ia32(p);
}

void compat_build_areas(const CoreEntry *core, Program *p) {
  const ThreadInfoX86 *info = core->thread_info;
  const ThreadCoreEntry *tc = core->thread_core;
  for (size_t i = 0; i < info->n_tls; i++)
    if (!is_empty(info->tls[i]))
      build_tls(info->tls[i], p);
  if (tc->futex_rla_len) {
    PROGRAM_CALL(p, "set_robust_list", IA32_SET_ROBUST_LIST, ARG(tc->futex_rla), ARG(tc->futex_rla_len));
    program_ia32(p);
  }
}

long compat_build_sleep(const UserX86RegsEntry *g, guint32 nr, const struct timespec *left, guint64 msec, Program *p) {
  bool time32;
  long op = -1;
  guint64 native = ia32_native_call(nr, g->bx, &time32);
  const struct ia32_timespec left32 = {(gint32)MIN(left->tv_sec, G_MAXINT32), (gint32)left->tv_nsec};
  size_t at = time32 ? program_data(p, &left32, sizeof left32) : program_data(p, left, sizeof *left);
  if (native == SYS_nanosleep)
    op = (long)PROGRAM_CALL(p, "nanosleep", nr, ARG_DATA(at), ARG((guint32)g->cx));
  else if (native == SYS_clock_nanosleep)
    op = (long)PROGRAM_CALL(p, "clock_nanosleep", nr, ARG((guint32)g->bx), ARG(0), ARG_DATA(at), ARG((guint32)g->si));
  else if (native == SYS_poll && (gint32)g->dx >= 0)
    op = (long)PROGRAM_CALL(p, "poll", nr, ARG((guint32)g->bx), ARG((guint32)g->cx), ARG(msec));
  else if (native == SYS_futex && (g->cx & FUTEX_CMD_MASK) == FUTEX_WAIT)
    op = (long)PROGRAM_CALL(p, "futex", nr, ARG((guint32)g->bx), ARG((guint32)g->cx), ARG((guint32)g->dx), ARG_DATA(at), ARG((guint32)g->di),
        ARG((guint32)g->bp));
  if (op >= 0)
    program_ia32(p);
  return op;
}

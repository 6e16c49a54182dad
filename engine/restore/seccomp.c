/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* seccomp(2): a thread gets its filters, oldest first, while it still has every right, before its final credentials. The
 * agent goes on under them: so the thread is traced from before that on, and they are suspended until it is let go. */
#include "seccomp.pb-c.h"
#include "stages.h"
#include "tracee.h"
#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1ul << 2)
#endif

static const SeccompEntry *all_filters(const Checkpoint *c) {
  const GPtrArray *records = c->records[RECORD_SECCOMP];
  return records->len ? (const SeccompEntry *)((const Record *)records->pdata[0])->message : NULL;
}

/* CRIU's older images have it for the whole task. */
static guint32 mode_of(const PlanTask *t, const PlanThread *th, guint32 *ret_filter) {
  const ThreadCoreEntry *tc = th->thread->core->thread_core;
  const TaskCoreEntry *old = t->task->core->tc;
  if (tc && tc->has_seccomp_mode) {
    *ret_filter = tc->seccomp_filter;
    return tc->seccomp_mode;
  }
  *ret_filter = old->old_seccomp_filter;
  return old->has_old_seccomp_mode ? old->old_seccomp_mode : SECCOMP_MODE_DISABLED;
}

bool seccomp_is_used(const PlanTask *t, const PlanThread *th) {
  guint32 filter;
  return mode_of(t, th, &filter) != SECCOMP_MODE_DISABLED;
}

bool seccomp_seize(const PlanTask *t, PlanThread *th, GError **error) {
  if (!seccomp_is_used(t, th))
    return true;
  int e = tracee_seize(th->thread->tid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP);
  th->seized = e == 0;
  return e == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e,
                       "tid %d: its seccomp filters cannot be suspended; that needs root (CAP_SYS_ADMIN) without such a filter, "
                       "and a kernel with CONFIG_CHECKPOINT_RESTORE", (int)th->thread->tid);
}

static void build_filter(const SeccompFilter *f, Program *p) {
  struct {
    uint16_t length, pad[3];
    uint64_t code;
  } program = {.length = (uint16_t)(f->filter.len / 8)};
  size_t code = program_data(p, f->filter.data, f->filter.len), at = program_data(p, &program, sizeof program);
  program_data_pointer(p, at + 8, code);
  /* what the filter has done about speculation is put back by itself */
  unsigned long flags = (f->has_flags ? f->flags & SECCOMP_FILTER_FLAG_LOG : 0) | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  PROGRAM_CALL(p, "seccomp", SYS_seccomp, ARG(SECCOMP_SET_MODE_FILTER), ARG(flags), ARG_DATA(at));
}

bool seccomp_build(const Restore *r, const PlanTask *t, const PlanThread *th, Program *p, GError **error) {
  const SeccompEntry *all = all_filters(r->checkpoint);
  guint32 last, mode = mode_of(t, th, &last);
  if (mode == SECCOMP_MODE_DISABLED)
    return true;
  if (mode == SECCOMP_MODE_STRICT) {
    PROGRAM_CALL(p, "prctl SET_SECCOMP", SYS_prctl, ARG(PR_SET_SECCOMP), ARG(SECCOMP_MODE_STRICT), ARG(0), ARG(0), ARG(0));
    return true;
  }
  if (mode != SECCOMP_MODE_FILTER || !all || last >= all->n_seccomp_filters)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-%d.img: seccomp mode %u with filter %u, which is not in seccomp.img", (int)th->thread->tid, mode, last);
  g_autoptr(GPtrArray) chain = g_ptr_array_new();
  for (const SeccompFilter *f = all->seccomp_filters[last]; f; f = f->has_prev ? all->seccomp_filters[f->prev] : NULL)
    g_ptr_array_add(chain, (gpointer)f); /* each names an earlier one, see verify_seccomp() */
  for (guint i = chain->len; i-- > 0;)
    build_filter(chain->pdata[i], p);
  return true;
}

guint64 seccomp_room(const Checkpoint *c, const Thread *th) {
  const SeccompEntry *all = all_filters(c);
  const ThreadCoreEntry *tc = th->core->thread_core;
  guint64 room = 0;
  if (!all || !tc || !tc->has_seccomp_filter || tc->seccomp_filter >= all->n_seccomp_filters)
    return 0;
  for (const SeccompFilter *f = all->seccomp_filters[tc->seccomp_filter]; f; f = f->has_prev ? all->seccomp_filters[f->prev] : NULL)
    room += f->filter.len + 256;
  return room;
}

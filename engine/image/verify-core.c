/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"

/* A core file must hold what its state asks for; arrays that stand for fixed ones of the kernel must have their size.
 */

#define N_SIGNALS 64
#define N_RLIMITS 16
#define N_GROUPS 65536
#define USER_CS_32 0x23
#define IA32_ADDRESSES (1ull << 32)
#define IA32_FIRST_TLS 12 /* in the GDT */
#define IA32_N_TLS 3
#define SIGINFO_SIZE 128
#define COMM_SIZE 16

typedef struct Length {
  const char *what;
  size_t have;
  size_t least;
  size_t most;
} Length;

static bool verify_lengths(pid_t tid, const Length *lengths, size_t n, GError **error) {
  for (size_t i = 0; i < n; i++)
    if (lengths[i].have < lengths[i].least || lengths[i].have > lengths[i].most)
      return image_invalid(error, IMAGE_CORE, (guint64)tid, "%s: %zu elements, %zu to %zu are possible",
          lengths[i].what, lengths[i].have, lengths[i].least, lengths[i].most);
  return true;
}

static bool verify_registers(pid_t tid, const ThreadInfoX86 *info, GError **error) {
  const UserX86FpregsEntry *f = info->fpregs;
  const UserX86XsaveEntry empty = USER_X86_XSAVE_ENTRY__INIT;
  const UserX86XsaveEntry *x = f->xsave ?: &empty;
  const Length lengths[] = {
      {"st_space", f->n_st_space, 32, 32},
      {"xmm_space", f->n_xmm_space, 64, 64},
      {"padding", f->n_padding, 0, 24},
      {"ymmh_space", x->n_ymmh_space, 0, 64},
      {"bndreg_state", x->n_bndreg_state, 0, 8},
      {"bndcsr_state", x->n_bndcsr_state, 0, 8},
      {"opmask_reg", x->n_opmask_reg, 0, 8},
      {"zmm_upper", x->n_zmm_upper, 0, 64},
      {"hi16_zmm", x->n_hi16_zmm, 0, 128},
      {"pkru", x->n_pkru, 0, 2},
      {"tls", info->n_tls, 0, IA32_N_TLS},
  };
  return verify_lengths(tid, lengths, G_N_ELEMENTS(lengths), error);
}

/* 32-bit or not, all threads are of one kind. Other segments for code than the two there are would have to be of a table that
 * images do not have. */
static bool verify_mode(const Task *task, pid_t tid, const ThreadInfoX86 *info, GError **error) {
  const UserX86RegsEntry *g = info->gpregs;
  bool ia32 = g->has_mode && g->mode == USER_X86_REGS_MODE__COMPAT;
  if (ia32 != task_is_ia32(task))
    return image_invalid(error, IMAGE_CORE, (guint64)tid, "32-bit and 64-bit threads in one process");
  if (!ia32)
    return true;
  if (g->cs != USER_CS_32 || g->ip >= IA32_ADDRESSES)
    return image_invalid(error, IMAGE_CORE, (guint64)tid, "registers that are none of a 32-bit program");
  for (size_t i = 0; i < info->n_tls; i++)
    if (info->tls[i]->entry_number < IA32_FIRST_TLS || info->tls[i]->entry_number >= IA32_FIRST_TLS + IA32_N_TLS)
      return image_invalid(error, IMAGE_CORE, (guint64)tid, "tls: there is no entry %u", info->tls[i]->entry_number);
  return true;
}

static bool verify_creds(pid_t tid, const CredsEntry *c, GError **error) {
  const Length lengths[] = {
      {"cap_inh", c->n_cap_inh, 2, 2},
      {"cap_prm", c->n_cap_prm, 2, 2},
      {"cap_eff", c->n_cap_eff, 2, 2},
      {"cap_bnd", c->n_cap_bnd, 2, 2},
      {"cap_amb", c->n_cap_amb, 0, 2},
      {"groups", c->n_groups, 0, N_GROUPS},
  };
  return verify_lengths(tid, lengths, G_N_ELEMENTS(lengths), error);
}

static bool verify_signals(pid_t tid, const SignalQueueEntry *queue, GError **error) {
  for (size_t i = 0; queue && i < queue->n_signals; i++)
    if (queue->signals[i]->siginfo.len != SIGINFO_SIZE)
      return image_invalid(error, IMAGE_CORE, (guint64)tid, "pending signal %zu: siginfo of %zu bytes", i,
          queue->signals[i]->siginfo.len);
  return true;
}

static bool verify_comm(pid_t tid, const char *comm, GError **error) {
  if (comm && strlen(comm) >= COMM_SIZE)
    return image_invalid(error, IMAGE_CORE, (guint64)tid, "a name of %zu bytes", strlen(comm));
  return true;
}

static bool verify_task_core(pid_t tid, const TaskCoreEntry *tc, GError **error) {
  if (tc->task_state != TASK_ALIVE && tc->task_state != TASK_STOPPED)
    return image_invalid(error, IMAGE_CORE, (guint64)tid, "unknown task state %u", tc->task_state);
  const Length lengths[] = {
      {"sigactions", tc->n_sigactions, 0, N_SIGNALS},
      {"rlimits", tc->rlimits ? tc->rlimits->n_rlimits : 0, 0, N_RLIMITS},
  };
  return verify_lengths(tid, lengths, G_N_ELEMENTS(lengths), error) && verify_comm(tid, tc->comm, error) &&
         verify_signals(tid, tc->signals_s, error);
}

bool verify_core(const Task *task, const Thread *thread, GError **error) {
  const CoreEntry *core = thread->core;
  guint64 tid = (guint64)thread->tid;
  if (core->mtype != CORE_ENTRY__MARCH__X86_64)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "core-%d.img: made on another architecture (%d), not on x86-64", thread->tid, core->mtype);
  if (!core->thread_info || !core->thread_core)
    return image_invalid(error, IMAGE_CORE, tid, "there are no registers or no thread_core_entry");
  const ThreadCoreEntry *th = core->thread_core;
  if (core == task->core && !verify_task_core(thread->tid, core->tc, error))
    return false;
  return verify_registers(thread->tid, core->thread_info, error) && verify_mode(task, thread->tid, core->thread_info, error) &&
         (!th->creds || verify_creds(thread->tid, th->creds, error)) && verify_comm(thread->tid, th->comm, error) &&
         verify_signals(thread->tid, th->signals_p, error) && verify_tiles(task, thread, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "collect-seccomp.h"
#include "tracee.h"
#include "tracers.h"
#include "traits.h"
#include "user-dispatch.h"
#include "seccomp.pb-c.h"
#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#ifndef SECCOMP_RET_USER_NOTIF
#define SECCOMP_RET_USER_NOTIF 0x7fc00000u
#endif

/* A thread in strict mode is only ever in one of these calls. */
static bool may_be_strict(FrozenThread *t) {
  t->has_regs = tracee_get_regs(t->state.tid, &t->state.regs) == 0;
  if (!t->has_regs)
    return true;
  switch ((gint64)t->state.regs.orig_rax) {
  case SYS_read:
  case SYS_write:
  case SYS_restart_syscall:
    return true;
  default:
    return (gint64)t->state.regs.orig_rax < 0;
  }
}

/* The kernel's word is one file a thread; ptrace is quicker, and knows all but strict mode. */
static void look_at_thread(const FrozenTask *task, FrozenThread *t) {
  t->seccomp_filters = tracee_count_seccomp_filters(t->state.tid);
  if (t->seccomp_filters > 0 || (t->seccomp_filters == 0 && !may_be_strict(t)))
    return;
  ProcStatus s;
  if (!proc_status(task->pid, t->state.tid, &s, NULL))
    return; /* dead */
  t->seccomp_strict = s.seccomp == SECCOMP_MODE_STRICT;
  if (s.seccomp == SECCOMP_MODE_DISABLED)
    t->seccomp_filters = 0;
  proc_status_clear(&s);
}

static void look_share(void *data, unsigned which) {
  const FrozenTree *tree = data;
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      if (tracers_owner(t->state.tid) != which)
        continue;
      traits_look(t);
      if (t->sight.tid && !t->sight.ruled)
        t->seccomp_filters = 0;
      else
        look_at_thread(task, t);
    }
  }
}

bool seccomp_suspend(FrozenTree *tree) {
  bool any = false;
  tracers_run(look_share, tree);
  user_dispatch_look(tree);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      task->no_agent |= traits_forbid_agent(t);
      if (!t->seccomp_filters && !t->seccomp_strict)
        continue;
      int e = tracee_set_options(t->state.tid, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP);
      task->unsuspendable |= e < 0;
      task->no_agent |= e < 0;
      any |= e == 0;
    }
  }
  return any;
}

/* --- filters --- */

typedef struct Filters {
  Job *job;
  GPtrArray *list;   /* SeccompFilter, as in seccomp.img */
  GHashTable *known; /* GBytes (previous, flags, code) -> index + 1 */
  struct sock_filter *code;
} Filters;

/* Installing one makes a new connection to a supervisor; the one that it had cannot be made again. */
static bool asks_supervisor(const struct sock_filter *code, int n) {
  bool computed = false, named = false;
  for (int i = 0; i < n; i++) {
    bool returns = BPF_CLASS(code[i].code) == BPF_RET;
    bool is_notify = (code[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
    if (returns && BPF_RVAL(code[i].code) == BPF_K && is_notify)
      return true;
    computed |= returns && BPF_RVAL(code[i].code) == BPF_A;
    named |= is_notify;
  }
  return computed && named;
}

static bool block_thread(const Filters *f, const FrozenTask *task, pid_t tid, const char *reason, const char *cure) {
  g_autofree char *object = tid == task->pid ? g_strdup_printf("pid %d (%s)", (int)tid, task->stat.comm)
                                             : g_strdup_printf("pid %d (%s) thread %d", (int)task->pid, task->stat.comm, (int)tid);
  job_block(f->job, "task", task->pid, -1, object, reason, cure);
  return true;
}

/* The index of a filter in seccomp.img: threads with the same history share it. @previous: index + 1 of the one before. */
static guint32 intern_filter(Filters *f, guint32 previous, guint64 flags, const struct sock_filter *code, size_t n) {
  GByteArray *key = g_byte_array_new();
  g_byte_array_append(key, (const guint8 *)&previous, sizeof previous);
  g_byte_array_append(key, (const guint8 *)&flags, sizeof flags);
  g_byte_array_append(key, (const guint8 *)code, (guint)(n * sizeof *code));
  g_autoptr(GBytes) bytes = g_byte_array_free_to_bytes(key);
  guint32 known = GPOINTER_TO_UINT(g_hash_table_lookup(f->known, bytes));
  if (known)
    return known;
  SeccompFilter *e = malloc(sizeof *e);
  seccomp_filter__init(e);
  e->filter.len = n * sizeof *code;
  e->filter.data = malloc(MAX(e->filter.len, 1));
  memcpy(e->filter.data, code, e->filter.len);
  e->has_flags = true;
  e->flags = (guint32)flags;
  e->has_prev = previous != 0;
  e->prev = previous ? previous - 1 : 0;
  g_ptr_array_add(f->list, e);
  g_hash_table_insert(f->known, g_bytes_ref(bytes), GUINT_TO_POINTER(f->list->len));
  return f->list->len;
}

static bool collect_chain(Filters *f, const FrozenTask *task, FrozenThread *t, GError **error) {
  guint32 last = 0;
  for (int i = 0; i < t->seccomp_filters; i++) {
    guint64 flags = 0;
    int n = tracee_get_seccomp_filter(t->state.tid, (unsigned)i, f->code, BPF_MAXINSNS);
    if (n == -EMEDIUMTYPE)
      return block_thread(f, task, t->state.tid, "the kernel cannot show one of its seccomp filters", "start it without that filter");
    if (n < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, n, "tid %d: cannot read its seccomp filters", (int)t->state.tid);
    if (asks_supervisor(f->code, n))
      return block_thread(f, task, t->state.tid,
          "one of its seccomp filters asks a supervisor (SECCOMP_RET_USER_NOTIF), whose connection to it cannot be made again",
          "start it without that supervisor");
    int e = tracee_get_seccomp_flags(t->state.tid, (unsigned)i, &flags);
    if (e < 0 && e != -EIO) /* before Linux 4.16 */
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "tid %d: cannot read the flags of its seccomp filters", (int)t->state.tid);
    last = intern_filter(f, last, flags & SECCOMP_FILTER_FLAG_LOG, f->code, (size_t)n);
  }
  ThreadCoreEntry *tc = t->model->core->thread_core;
  tc->has_seccomp_mode = tc->has_seccomp_filter = true;
  tc->seccomp_mode = SECCOMP_MODE__filter;
  tc->seccomp_filter = last - 1;
  return true;
}

static bool collect_thread(Filters *f, const FrozenTask *task, FrozenThread *t, GError **error) {
  if (t->seccomp_strict) {
    t->model->core->thread_core->has_seccomp_mode = true;
    t->model->core->thread_core->seccomp_mode = SECCOMP_MODE__strict;
  }
  return t->seccomp_filters <= 0 || collect_chain(f, task, t, error);
}

static void store(Filters *f, Checkpoint *checkpoint) {
  SeccompEntry *s = malloc(sizeof *s);
  seccomp_entry__init(s);
  s->n_seccomp_filters = f->list->len;
  s->seccomp_filters = calloc(f->list->len + 1, sizeof *s->seccomp_filters);
  for (guint i = 0; i < f->list->len; i++)
    s->seccomp_filters[i] = f->list->pdata[i];
  checkpoint_add_record(checkpoint, RECORD_SECCOMP, &s->base, NULL);
}

bool seccomp_collect(Job *job, FrozenTree *tree, Checkpoint *checkpoint, GError **error) {
  g_autoptr(GPtrArray) list = g_ptr_array_new();
  g_autoptr(GHashTable) known = g_hash_table_new_full(g_bytes_hash, g_bytes_equal, (GDestroyNotify)g_bytes_unref, NULL);
  g_autofree struct sock_filter *code = g_new(struct sock_filter, BPF_MAXINSNS);
  Filters f = {.job = job, .list = list, .known = known, .code = code};
  bool ok = true;
  for (guint i = 0; ok && i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (task->refused_code)
      continue;
    if (task->unsuspendable) {
      block_thread(&f, task, task->pid, "it runs under seccomp, which can only be suspended by root (CAP_SYS_ADMIN) who has no seccomp filter",
          "run the engine as root outside of containers with such filters");
      continue;
    }
    for (guint k = 0; ok && k < task->threads->len; k++)
      ok = collect_thread(&f, task, &g_array_index(task->threads, FrozenThread, k), error);
  }
  store(&f, checkpoint);
  return ok;
}

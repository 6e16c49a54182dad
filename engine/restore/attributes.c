/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attributes of a process: signal actions, timers, limits, flags. Run by its leader after its threads were made. */
#include "ia32.h"
#include "proc.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct kernel_sigaction {
  guint64 handler, flags, restorer, mask;
};

/* The kernel makes frames for the handler as the call wants them that has set it. */
static void build_ia32_sigaction(int signo, const SaEntry *e, Program *p) {
  struct ia32_sigaction a = {(guint32)e->sigaction, (guint32)e->flags, (guint32)e->restorer, {(guint32)e->mask, (guint32)(e->mask >> 32)}};
  size_t at = program_data(p, &a, sizeof a);
  PROGRAM_CALL(p, "rt_sigaction", IA32_RT_SIGACTION, ARG(signo), ARG_DATA(at), ARG(0), ARG(8));
  program_ia32(p);
}

/* The actions of signals 1 to 64 without SIGKILL and SIGSTOP, in order. */
static bool build_sigactions(const PlanTask *t, const TaskCoreEntry *tc, Program *p, GError **error) {
  uint64_t all = ~0ull;
  size_t mask = program_data(p, &all, sizeof all);
  PROGRAM_CALL(p, "rt_sigprocmask", SYS_rt_sigprocmask, ARG(SIG_SETMASK), ARG_DATA(mask), ARG(0), ARG(8));
  if (tc->n_sigactions != 62)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-%d.img: %zu signal actions instead of 62", (int)t->pid, tc->n_sigactions);
  size_t i = 0;
  for (int s = 1; s <= 64; s++) {
    if (s == SIGKILL || s == SIGSTOP)
      continue;
    const SaEntry *e = tc->sigactions[i++];
    if (!e->sigaction && !e->flags && !e->mask)
      continue; /* the default, as it is already */
    if (e->has_compat_sigaction && e->compat_sigaction) {
      build_ia32_sigaction(s, e, p);
      continue;
    }
    struct kernel_sigaction a = {e->sigaction, e->flags, e->restorer, e->mask};
    size_t at = program_data(p, &a, sizeof a);
    PROGRAM_CALL(p, "rt_sigaction", SYS_rt_sigaction, ARG(s), ARG_DATA(at), ARG(0), ARG(8));
  }
  return true;
}

static bool may_raise_limits(void) {
  ProcStatus s;
  if (!proc_status(getpid(), getpid(), &s, NULL))
    return false;
  bool may = s.cap_eff & (1ull << CAP_SYS_RESOURCE);
  proc_status_clear(&s);
  return may;
}

static void build_limits(Restore *r, const PlanTask *t, const TaskRlimitsEntry *limits, Program *p) {
  for (size_t i = 0; limits && i < limits->n_rlimits && i < RLIM_NLIMITS; i++) {
    struct rlimit have, want = {limits->rlimits[i]->cur, limits->rlimits[i]->max};
    if (getrlimit((__rlimit_resource_t)i, &have) < 0 || (have.rlim_cur == want.rlim_cur && have.rlim_max == want.rlim_max))
      continue;
    if (want.rlim_max > have.rlim_max && !may_raise_limits()) {
      job_log(r->job, 4, "pid %d: resource limit %zu comes back as %" G_GUINT64_FORMAT " instead of %" G_GUINT64_FORMAT
          ": raising it needs CAP_SYS_RESOURCE", (int)t->pid, i, (guint64)have.rlim_max, (guint64)want.rlim_max);
      want.rlim_max = have.rlim_max;
      want.rlim_cur = MIN(want.rlim_cur, want.rlim_max);
    }
    size_t at = program_data(p, &want, sizeof want);
    PROGRAM_CALL(p, "prlimit64", SYS_prlimit64, ARG(0), ARG(i), ARG_DATA(at), ARG(0));
  }
}

bool attributes_build(Restore *r, PlanTask *t, Program *p, GError **error) {
  const TaskCoreEntry *tc = t->task->core->tc;
  if (!build_sigactions(t, tc, p, error) || !timers_build(t, p, error))
    return false;
  if (tc->has_child_subreaper && tc->child_subreaper)
    PROGRAM_CALL(p, "prctl SET_CHILD_SUBREAPER", SYS_prctl, ARG(PR_SET_CHILD_SUBREAPER), ARG(1), ARG(0), ARG(0), ARG(0));
  build_limits(r, t, tc->rlimits, p);
  return timers_queue_signals(t, NULL, tc->signals_s, p, error);
}

static bool write_proc(pid_t pid, const char *name, const char *value, GError **error) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : write(fd, value, strlen(value));
  int err = errno;
  if (fd >= 0)
    (void)close(fd);
  if (n < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot write %s to %s", value, path);
  return true;
}

static bool differs(pid_t pid, const char *name, int base, gint64 wanted) {
  g_autofree char *now = proc_read(pid, name, NULL, NULL);
  return !now || g_ascii_strtoll(now, NULL, (guint)base) != wanted;
}

bool attributes_write_proc(Restore *r, PlanTask *t, GError **error) {
  const TaskCoreEntry *tc = t->task->core->tc;
  char value[32];
  if (tc->has_oom_score_adj && differs(t->pid, "oom_score_adj", 10, tc->oom_score_adj)) {
    g_autoptr(GError) why = NULL;
    g_snprintf(value, sizeof value, "%d", tc->oom_score_adj);
    if (!write_proc(t->pid, "oom_score_adj", value, &why)) /* lowering it needs CAP_SYS_RESOURCE */
      job_log(r->job, 4, "pid %d: %s", (int)t->pid, why->message);
  }
  traits_finish(r, t);
  const CkptTask *x = t->task->extra;
  if (x && x->has_coredump_filter && differs(t->pid, "coredump_filter", 16, x->coredump_filter)) {
    g_snprintf(value, sizeof value, "0x%x", x->coredump_filter);
    if (!write_proc(t->pid, "coredump_filter", value, error))
      return false;
  }
  return true;
}

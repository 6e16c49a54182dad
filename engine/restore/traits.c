/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small things that a thread has said about itself by prctl(2) and its like; who it logged in as; the keys that it must not
 * have from the engine. */
#include "proc.h"
#include "stages.h"
#include <fcntl.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#define ARCH_SET_CPUID_ 0x1012
#define UNSET_LOGINUID ((guint32)-1)

static void build_speculation(const Restore *r, const Thread *th, Program *p) {
  const CkptThread *x = th->extra;
  for (size_t i = 0; i < x->n_speculation; i++) {
    guint32 value = x->speculation[i] & ~(guint32)PR_SPEC_PRCTL;
    int here = prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
    if (!value || here == (int)x->speculation[i])
      continue;
    if (here < 0 || !(here & PR_SPEC_PRCTL)) {
      job_log(r->job, 4, "tid %d: its processor's speculation (PR_SET_SPECULATION_CTRL %zu) is not for tasks to rule on this machine",
          (int)th->tid, i);
      continue;
    }
    PROGRAM_CALL(p, "prctl SET_SPECULATION_CTRL", SYS_prctl, ARG(PR_SET_SPECULATION_CTRL), ARG(i), ARG(value), ARG(0), ARG(0));
  }
}

void traits_build(const Restore *r, const Thread *th, Program *p) {
  const CkptThread *x = th->extra;
  if (!x)
    return;
  build_speculation(r, th, p);
  if (x->has_mce_kill)
    PROGRAM_CALL(p, "prctl MCE_KILL", SYS_prctl, ARG(PR_MCE_KILL), ARG(PR_MCE_KILL_SET), ARG(x->mce_kill), ARG(0), ARG(0));
  if (x->has_io_flusher && x->io_flusher)
    PROGRAM_CALL(p, "prctl SET_IO_FLUSHER (which needs CAP_SYS_RESOURCE)", SYS_prctl, ARG(PR_SET_IO_FLUSHER), ARG(1), ARG(0), ARG(0), ARG(0));
  if (x->has_no_tsc && x->no_tsc)
    PROGRAM_CALL(p, "prctl SET_TSC", SYS_prctl, ARG(PR_SET_TSC), ARG(PR_TSC_SIGSEGV));
  if (x->has_no_cpuid && x->no_cpuid)
    PROGRAM_CALL(p, "arch_prctl SET_CPUID (which not every processor can)", SYS_arch_prctl, ARG(ARCH_SET_CPUID_), ARG(0));
}

static guint32 number_in(pid_t pid, const char *name) {
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  return text ? (guint32)g_ascii_strtoull(text, NULL, 10) : UNSET_LOGINUID;
}

static guint32 loginuid_of(const PlanTask *t) {
  const TaskCoreEntry *tc = t && t->task && t->task->core ? t->task->core->tc : NULL;
  return tc && tc->has_loginuid ? tc->loginuid : UNSET_LOGINUID;
}

/* Only a task itself can write it; children have it from who makes them. */
static void build_loginuid(const PlanTask *t, Program *p) {
  guint32 wanted = loginuid_of(t), inherited = t->parent ? loginuid_of(t->parent) : number_in(getpid(), "loginuid");
  const TaskCoreEntry *tc = t->task ? t->task->core->tc : NULL;
  if (!tc || !tc->has_loginuid || (wanted == inherited && !t->adopted))
    return;
  char text[16];
  int n = g_snprintf(text, sizeof text, "%u", wanted);
  size_t path = program_string(p, "/proc/self/loginuid"), value = program_data(p, text, (size_t)n);
  size_t fd = PROGRAM_CALL(p, "open loginuid", SYS_openat, ARG(AT_FDCWD), ARG_DATA(path), ARG(O_WRONLY | O_CLOEXEC));
  program_expect(p, EXPECT_ANY, 0);
  PROGRAM_CALL(p, "write loginuid", SYS_write, ARG_RESULT(fd), ARG_DATA(value), ARG(n));
  program_expect(p, EXPECT_ANY, 0); /* see traits_finish() */
  PROGRAM_CALL(p, "close loginuid", SYS_close, ARG_RESULT(fd));
  program_expect(p, EXPECT_ANY, 0);
}

/* A session keyring of the engine's would be theirs to use. */
static bool has_session_keyring(void) {
  long session = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
  return session > 0 && session != syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_SESSION_KEYRING, 0);
}

void traits_build_early(const Restore *r, const PlanTask *t, Program *p) {
  if (job_options(r->job)->untrusted_images)
    return; /* those of the caller */
  build_loginuid(t, p);
  if (!t->parent && has_session_keyring())
    PROGRAM_CALL(p, "keyctl JOIN_SESSION_KEYRING", SYS_keyctl, ARG(KEYCTL_JOIN_SESSION_KEYRING), ARG(0));
}

static bool write_autogroup(pid_t pid, int nice) {
  char path[64], text[16];
  g_snprintf(path, sizeof path, "/proc/%d/autogroup", (int)pid);
  int n = g_snprintf(text, sizeof text, "%d", nice), fd = open(path, O_WRONLY | O_CLOEXEC);
  bool ok = fd >= 0 && write(fd, text, (size_t)n) == n;
  if (fd >= 0)
    (void)close(fd);
  return ok;
}

void traits_finish(const Restore *r, const PlanTask *t) {
  const CkptTask *x = t->task->extra;
  if (x && x->has_autogroup_nice && t->setsid && !write_autogroup(t->pid, x->autogroup_nice))
    job_log(r->job, 4, "pid %d: the niceness of its session's autogroup is not %d again (/proc/%d/autogroup: %m)", (int)t->pid,
        x->autogroup_nice, (int)t->pid);
  guint32 loginuid = number_in(t->pid, "loginuid");
  const TaskCoreEntry *tc = t->task->core->tc;
  if (tc->has_loginuid && tc->loginuid != loginuid && !job_options(r->job)->untrusted_images)
    job_log(r->job, 4, "pid %d: its login uid is %u instead of %u: changing it needs CAP_AUDIT_CONTROL, and rules of audit that allow it",
        (int)t->pid, loginuid, tc->loginuid);
}

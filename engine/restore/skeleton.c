/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making the tasks: the root by clone3(2) with set_tid out of this process, all others by their parents' programs. */
#include "proc.h"
#include "stages.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MASK_ALL_BUT_CHLD (~(1ull << (SIGCHLD - 1)))

#define APART_MSEC 60000
#define REAP_PATIENCE_USEC (5 * G_USEC_PER_SEC)

/* Whether the kernel has given the number away, to a process, thread, group or session: also in the moment in which a task that
 * was reaped is in /proc no more and still has it (since Linux 6.15). F_SETOWN_EX asks for nothing but that. @asker: any file, or -1. */
static bool is_taken(int asker, pid_t pid) {
  char path[32];
  struct f_owner_ex owner = {.type = F_OWNER_PID, .pid = pid};
  int status = fcntl(asker, F_SETOWN_EX, &owner), e = errno;
  g_snprintf(path, sizeof path, "/proc/%d", (int)pid);
  return status == 0 || (e != ESRCH && access(path, F_OK) == 0);
}

/* A task that lives and has @pid as its own number, or as that of its group or session; 0: there is none. */
static pid_t find_holder(pid_t pid) {
  ProcStat stat;
  if (proc_stat(pid, &stat, NULL))
    return strchr("ZX", stat.state) ? 0 : pid;
  pid_t found = 0;
  DIR *dir = opendir("/proc");
  for (struct dirent *e; dir && !found && (e = readdir(dir));) {
    pid_t other = (pid_t)strtol(e->d_name, NULL, 10);
    if (other > 0 && proc_stat(other, &stat, NULL) && !strchr("ZX", stat.state) && (stat.pgid == pid || stat.sid == pid))
      found = other;
  }
  if (dir)
    (void)closedir(dir);
  return found;
}

/* What was dumped and killed may not have been reaped yet; some init processes take seconds. */
static bool is_free_soon(int asker, pid_t pid, pid_t *ret_holder) {
  gint64 until = g_get_monotonic_time() + REAP_PATIENCE_USEC;
  *ret_holder = 0;
  for (int look = 0; is_taken(asker, pid); look++) {
    if ((look % 16 == 0 && (*ret_holder = find_holder(pid))) || g_get_monotonic_time() > until)
      return false; /* to look for one may take a millisecond */
    g_usleep(2000);
  }
  return true;
}

static bool pid_in_use(int asker, pid_t pid, GError **error) {
  char comm[64], parent[64];
  ProcStat stat;
  pid_t holder;
  if (is_free_soon(asker, pid, &holder))
    return false;
  proc_comm(holder ? holder : pid, comm);
  if (holder && holder != pid)
    engine_fail(error, ENGINE_ERROR_CODE__PID_IN_USE,
        "pid %d is in use as the id of the process group or session of pid %d (%s); the checkpoint needs it: end that process, or "
        "restore in a pid namespace of its own",
        (int)pid, (int)holder, comm);
  else if (holder)
    engine_fail(error, ENGINE_ERROR_CODE__PID_IN_USE,
        "pid %d is in use by a running process (%s); the checkpoint needs it: end that process, or restore in a pid namespace of "
        "its own",
        (int)pid, comm);
  else if (proc_stat(pid, &stat, NULL)) {
    proc_comm(stat.ppid, parent);
    engine_fail(error, ENGINE_ERROR_CODE__PID_IN_USE,
        "pid %d still belongs to a process (%s) that has ended, but whose parent, pid %d (%s), does not reap it; the checkpoint "
        "needs the number: end that parent, or restore in a pid namespace of its own",
        (int)pid, comm, (int)stat.ppid, parent);
  } else
    engine_fail(error, ENGINE_ERROR_CODE__PID_IN_USE, "pid %d is in use as the id of a process group or session", (int)pid);
  return true;
}

static bool is_planned(const Plan *plan, pid_t pid) {
  for (guint i = 0; i < plan->tasks->len; i++) {
    const PlanTask *t = plan->tasks->pdata[i];
    if (t->pid == pid || t->sid == pid || t->pgid == pid)
      return true;
    for (guint k = 1; k < t->threads->len; k++)
      if ((pid_t)g_array_index(t->threads, PlanThread, k).thread->tid == pid)
        return true;
  }
  return false;
}

/* From the end, where the kernel comes last. */
static pid_t choose_pid(const Plan *plan) {
  g_autofree char *text = NULL;
  char path[32];
  pid_t pid = g_file_get_contents("/proc/sys/kernel/pid_max", &text, NULL, NULL) ? (pid_t)g_ascii_strtoll(text, NULL, 10) : 32768;
  do
    g_snprintf(path, sizeof path, "/proc/%d", (int)--pid);
  while (pid > 1 && (is_planned(plan, pid) || access(path, F_OK) == 0));
  return pid;
}

/* The descriptor of a file that nothing is done with; -1: none, and less is known. */
static int open_asker(void) {
  return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static bool check_pids(Restore *r, int asker, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (!t->pid)
      t->pid = choose_pid(r->plan);
    if (pid_in_use(asker, t->pid, error))
      return false;
    for (guint k = 1; k < t->threads->len; k++)
      if (pid_in_use(asker, g_array_index(t->threads, PlanThread, k).thread->tid, error))
        return false;
  }
  return true;
}

bool skeleton_check_pids(Restore *r, GError **error) {
  int asker = open_asker();
  bool ok = check_pids(r, asker, error);
  if (asker >= 0)
    (void)close(asker);
  return ok;
}

/* A pid without a process can still be taken as the id of a group or session. */
static bool fail_clone(pid_t pid, int err, GError **error) {
  if (err != EEXIST)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot make a process with pid %d%s", (int)pid,
        err == EPERM ? " (this needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN)" : "");
  GError *in_use = NULL;
  if (pid_in_use(-1, pid, &in_use)) {
    g_propagate_error(error, in_use);
    return false;
  }
  return engine_fail(error, ENGINE_ERROR_CODE__PID_IN_USE, "pid %d is in use as the id of a process group or session", (int)pid);
}

/* The child of clone3: off to the agent, for good. Nothing of C may happen here. */
static _Noreturn void enter_agent(uint64_t agent, uint64_t lane) {
  __asm__ volatile("movq %1, %%rbx\n\tjmp *%0" : : "r"(agent), "r"(lane) : "rbx", "memory");
  __builtin_unreachable();
}

static long clone_root(const PlanTask *root, const Region *region, bool sibling) {
  pid_t set_tid[1] = {root->pid};
  struct clone_args args = {.flags = CLONE_CLEAR_SIGHAND | (sibling ? CLONE_PARENT : 0),
      .exit_signal = sibling ? 0 : SIGCHLD,
      .set_tid = (uintptr_t)set_tid,
      .set_tid_size = 1};
  uint64_t agent = region_agent(region), lane = region_to_remote(region, root->lane);
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0)
    enter_agent(agent, lane);
  return pid < 0 ? -errno : pid;
}

/* A root that wants a signal when its parent ends (PR_SET_PDEATHSIG) would get it from us, who end after the restore. */
static bool hears_of_us(const Restore *r, const PlanTask *root) {
  const EngineOptions *o = job_options(r->job);
  bool wants = false;
  for (guint k = 0; root->task && k < root->task->threads->len; k++) {
    const CoreEntry *core = ((const Thread *)root->task->threads->pdata[k])->core;
    wants = wants || (core && core->thread_core && core->thread_core->has_pdeath_sig && core->thread_core->pdeath_sig);
  }
  return wants && !o->restore_sibling && !o->restore_attached && geteuid() == 0; /* others might not trace it (Yama) */
}

/* In a process that is nobody's child but that of whom orphans go to: its sibling is that one's child from its birth on. */
static _Noreturn void clone_orphaned(const PlanTask *root, const Region *region, pid_t parent, int result) {
  while (getppid() == parent)
    (void)sched_yield();
  long pid = clone_root(root, region, true);
  _exit(write(result, &pid, sizeof pid) == sizeof pid ? 0 : 1);
}

/* clone_root(), but the root's parent is who ours will be when we have ended. */
static long clone_root_apart(const PlanTask *root, const Region *region) {
  int ends[2];
  long pid = -EIO;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  (void)prctl(PR_SET_CHILD_SUBREAPER, 0);
  pid_t parent = fork();
  if (parent == 0) {
    pid_t self = getpid(), child = fork();
    if (child == 0)
      clone_orphaned(root, region, self, ends[1]);
    _exit(child < 0 ? 1 : 0);
  }
  int status = 1, e = errno;
  while (parent > 0 && waitpid(parent, &status, 0) < 0 && errno == EINTR)
    continue;
  (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  struct pollfd p = {.fd = ends[0], .events = POLLIN};
  (void)close(ends[1]);
  if (parent < 0)
    pid = -e;
  else if (status == 0 && (poll(&p, 1, APART_MSEC) != 1 || read(ends[0], &pid, sizeof pid) != sizeof pid))
    pid = -EIO;
  (void)close(ends[0]);
  return pid;
}

bool skeleton_make_root(Restore *r, GError **error) {
  PlanTask *root = r->plan->tasks->pdata[0];
  uint64_t blocked = MASK_ALL_BUT_CHLD, before;
  (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, &before, sizeof blocked);
  long pid = hears_of_us(r, root) ? clone_root_apart(root, r->region) : clone_root(root, r->region, job_options(r->job)->restore_sibling);
  (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
  if (pid < 0)
    return fail_clone(root->pid, (int)-pid, error);
  root->created = true;
  r->root = (pid_t)pid;
  return true;
}

/* What the root has from this process and must lose: rseq area, memory, signal actions. */
static void build_reset(const Restore *r, Program *p) {
#ifdef RSEQ_SIG
  if (__rseq_size) {
    uint64_t area = (uint64_t)(uintptr_t)__builtin_thread_pointer() + (uint64_t)__rseq_offset;
    PROGRAM_CALL(p, "rseq unregister", SYS_rseq, ARG(area), ARG(32), ARG(1 /* RSEQ_FLAG_UNREGISTER */), ARG(RSEQ_SIG));
    program_expect(p, EXPECT_ANY, 0);
  }
#endif
  uint64_t start = r->plan->region_start, end = start + r->plan->region_size;
  PROGRAM_CALL(p, "munmap below", SYS_munmap, ARG(0), ARG(start));
  PROGRAM_CALL(p, "munmap above", SYS_munmap, ARG(end), ARG(mm_task_size() - end));
  uint64_t action[4] = {0};
  size_t at = program_data(p, action, sizeof action);
  for (int s = 1; s <= 64; s++)
    if (s != SIGKILL && s != SIGSTOP)
      PROGRAM_CALL(p, "rt_sigaction default", SYS_rt_sigaction, ARG(s), ARG_DATA(at), ARG(0), ARG(8));
  PROGRAM_CALL(p, "prctl SET_PDEATHSIG", SYS_prctl, ARG(PR_SET_PDEATHSIG), ARG(0));
}

static void build_unshare(guint64 flags, Program *p) {
  if (flags)
    PROGRAM_CALL(p, "unshare", SYS_unshare, ARG(flags));
}

static void build_clone(const Restore *r, const PlanTask *child, Program *p) {
  build_unshare(child->unshare_before, p);
  bool beside = child->adopted && !child->passed_on;
  struct clone_args args = {.flags = child->clone_flags | (beside ? CLONE_PARENT : 0),
      .exit_signal = beside ? 0 : (uint64_t)child->exit_signal, /* its maker's, then */
      .set_tid_size = 1};
  uint64_t tid = (uint64_t)child->pid;
  size_t data = program_data(p, &args, sizeof args);
  size_t set_tid = program_data(p, &tid, sizeof tid);
  /* the address of set_tid is only known in the lane: see program_data_pointer() */
  program_data_pointer(p, data + offsetof(struct clone_args, set_tid), set_tid);
  PROGRAM_CALL(p, "clone3", SYS_clone3, ARG_DATA(data), ARG(sizeof args));
  program_child_lane(p, region_to_remote(r->region, child->lane));
  program_expect(p, EXPECT_EQUAL, child->pid);
}

static void build_children(const Restore *r, const PlanTask *t, Program *p, bool late, bool before_setsid) {
  for (guint i = 0; i < t->children->len; i++) {
    PlanTask *c = t->children->pdata[i];
    bool needs_old_session = t->setsid && !c->setsid && c->sid != t->sid;
    if (c->late == late && needs_old_session == before_setsid) {
      build_clone(r, c, p);
      c->created = true;
    }
  }
}

bool skeleton_build_early(Restore *r, PlanTask *t, Program *p, GError **error) {
  if (!t->parent)
    build_reset(r, p);
  traits_build_early(r, t, p);
  namespaces_build(r, t, p);
  for (guint i = 0; i < t->children->len; i++) {
    PlanTask *c = t->children->pdata[i];
    if (t->setsid && !c->setsid && c->sid != t->sid)
      c->late = false; /* its session is more important than its shared pages */
  }
  build_children(r, t, p, false, true);
  if (t->setsid) {
    PROGRAM_CALL(p, "setsid", SYS_setsid);
    program_expect(p, EXPECT_EQUAL, t->pid);
    terminals_build_control(r, t, p); /* children have it from their parents */
  }
  build_children(r, t, p, false, false);
  return true;
}

bool skeleton_build_late(Restore *r, PlanTask *t, Program *p, GError **error) {
  build_children(r, t, p, true, false);
  build_unshare(t->unshare_last, p);
  return true;
}

bool skeleton_build_helpers(Restore *r, PlanTask *t, Program *p, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *h = r->plan->tasks->pdata[i];
    if (h->helper && !h->setsid && !h->brief && h->parent == t) {
      build_clone(r, h, p);
      h->created = true;
    }
  }
  return true;
}

bool skeleton_build_group(Restore *r, PlanTask *t, Program *p, GError **error) {
  if (!t->pgid || t->setsid)
    return true;
  PROGRAM_CALL(p, "setpgid", SYS_setpgid, ARG(0), ARG(t->pgid));
  return true;
}

static bool build_end(Restore *r, PlanTask *t, Program *p, GError **error) {
  unsigned code = t->task ? t->task->core->tc->exit_code : 0;
  int signal = (int)(code & 0x7f);
  if (t->task) {
    size_t name = program_string(p, t->task->core->tc->comm);
    PROGRAM_CALL(p, "prctl SET_NAME", SYS_prctl, ARG(PR_SET_NAME), ARG_DATA(name));
  }
  if (!signal) {
    PROGRAM_CALL(p, "exit_group", SYS_exit_group, ARG((code >> 8) & 0xff));
    return true;
  }
  uint64_t none = 0, no_core[2] = {0, 0};
  size_t limit = program_data(p, no_core, sizeof no_core), mask = program_data(p, &none, sizeof none);
  PROGRAM_CALL(p, "prlimit64 CORE", SYS_prlimit64, ARG(0), ARG(4 /* RLIMIT_CORE */), ARG_DATA(limit), ARG(0));
  PROGRAM_CALL(p, "kill itself", SYS_kill, ARG(t->pid), ARG(signal));
  PROGRAM_CALL(p, "rt_sigprocmask", SYS_rt_sigprocmask, ARG(SIG_SETMASK), ARG_DATA(mask), ARG(0), ARG(8));
  return true;
}

/* The parents see to it: a zombie is waited for without reaping, a helper is reaped. */
static bool build_wait(Restore *r, PlanTask *t, Program *p, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *dead = r->plan->tasks->pdata[i];
    if (dead->parent != t || dead->brief || !(dead->zombie || dead->helper))
      continue;
    size_t info = program_data(p, NULL, sizeof(siginfo_t));
    PROGRAM_CALL(p, "waitid", SYS_waitid, ARG(P_PID), ARG(dead->pid), ARG_DATA(info),
        ARG(WEXITED | __WALL | (dead->helper ? 0 : WNOWAIT)), ARG(0));
  }
  return true;
}

static bool start_end(Restore *r, PlanTask *t, GError **error) {
  g_autoptr(Program) p = program_new();
  LoadedProgram loaded;
  if (!build_end(r, t, p, error) || !region_load(r->region, p, NULL, &loaded, error))
    return false;
  region_start(r->region, t->lane, &loaded); /* never done */
  return true;
}

/* --- brief helpers --- */

static bool build_reaps(Restore *r, PlanTask *t, Program *p, GError **error) {
  PROGRAM_CALL(p, "prctl SET_CHILD_SUBREAPER", SYS_prctl, ARG(PR_SET_CHILD_SUBREAPER), ARG(1), ARG(0), ARG(0), ARG(0));
  return true;
}

/* Attributes come later. */
static bool build_reaps_no_more(Restore *r, PlanTask *t, Program *p, GError **error) {
  PROGRAM_CALL(p, "prctl SET_CHILD_SUBREAPER", SYS_prctl, ARG(PR_SET_CHILD_SUBREAPER), ARG(0), ARG(0), ARG(0), ARG(0));
  return true;
}

static bool build_reap_brief(Restore *r, PlanTask *t, Program *p, GError **error) {
  for (guint i = 0; i < t->children->len; i++) {
    const PlanTask *h = t->children->pdata[i];
    size_t info = program_data(p, NULL, sizeof(siginfo_t));
    if (h->ends)
      PROGRAM_CALL(p, "waitid", SYS_waitid, ARG(P_PID), ARG(h->pid), ARG_DATA(info), ARG(WEXITED | __WALL), ARG(0));
  }
  return true;
}

static bool run_one(Restore *r, PlanTask *t, const char *name, BuildFunc build, GError **error) {
  g_autoptr(GPtrArray) one = g_ptr_array_new();
  g_ptr_array_add(one, t);
  return stage_run(r, one, name, build, error);
}

static bool came_home(const PlanTask *orphan, GError **error) {
  ProcStat stat = {0};
  if (proc_stat(orphan->pid, &stat, NULL) && stat.ppid == orphan->parent->pid)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "pid %d came to pid %d, and not to its parent, pid %d", (int)orphan->pid,
      (int)stat.ppid, (int)orphan->parent->pid);
}

/* Nobody else reaps yet, so the orphan goes up to its parent. */
bool skeleton_pass_on(Restore *r, PlanTask *h, GError **error) {
  PlanTask *orphan = h->children->len ? h->children->pdata[0] : NULL; /* or somebody else has made it after all */
  h->ends = true;
  if ((orphan && !run_one(r, orphan->parent, "reaping for a moment", build_reaps, error)) || !start_end(r, h, error) ||
      !run_one(r, h->parent, "helper", build_reap_brief, error))
    return false;
  h->ends = h->created = false;
  return !orphan || (came_home(orphan, error) && run_one(r, orphan->parent, "reaping no more", build_reaps_no_more, error));
}

/* Made by one who is about to end as well: that one reaps it before. */
static bool is_of_dead(const PlanTask *t) {
  return t->helper && !t->setsid && !t->brief && t->parent && (t->parent->zombie || t->parent->helper);
}

static bool end_those_of_dead(Restore *r, GError **error) {
  g_autoptr(GPtrArray) makers = g_ptr_array_new();
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (!is_of_dead(t))
      continue;
    if (!start_end(r, t, error))
      return false;
    if (!g_ptr_array_find(makers, t->parent, NULL))
      g_ptr_array_add(makers, t->parent);
  }
  return !makers->len || stage_run(r, makers, "helpers", build_wait, error);
}

bool skeleton_end_dead(Restore *r, GError **error) {
  g_autoptr(GPtrArray) living = g_ptr_array_new();
  bool any = false;
  if (!end_those_of_dead(r, error))
    return false;
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (t->brief || is_of_dead(t))
      continue;
    if (!t->zombie && !t->helper)
      g_ptr_array_add(living, t);
    else if (!start_end(r, t, error))
      return false;
    else
      any = true;
  }
  return !any || stage_run(r, living, "zombies", build_wait, error);
}

/* A planned pid may have gone to a stranger; ours has the planned parent, or us since that one died. */
static bool is_ours(const Restore *r, const PlanTask *t) {
  ProcStat stat;
  if (!t->created || !t->parent)
    return t->created;
  return proc_stat(t->pid, &stat, NULL) &&
         (stat.ppid == t->parent->pid || stat.ppid == getpid() || (t->passed_on && is_planned(r->plan, stat.ppid)));
}

void skeleton_kill_all(Restore *r) {
  for (guint i = 0; r->plan && i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    t->created = is_ours(r, t);
    if (t->created)
      (void)kill(t->pid, SIGKILL);
  }
  /* orphans come to us, as their subreaper; the root is our child, our sibling, or whose child we are going to be no more */
  for (guint i = 0; r->plan && i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    for (int patience = 0; t->created && patience < 200; patience++) {
      if (waitpid(t->pid, NULL, __WALL | WNOHANG) == t->pid || (kill(t->pid, 0) < 0 && errno == ESRCH))
        break;
      g_usleep(1000);
    }
  }
}

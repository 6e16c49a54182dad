/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sweeper.h"
#include "collect.h"
#include "tracee.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define XSTATE_MAX 32768
#define TRIES 600 /* a minute: a task stopped by job control goes home when it is continued */
#define PAUSE_USEC 1000
#define PAUSE_USEC_MAX 100000
#define SIGRETURN_32 173
#define FRAME_ROOM 32 /* what 32-bit code may pop below the frame (inject.c) */
#define CODE_FLAGS (VMF_READ | VMF_EXEC | VMF_SHARED)

struct Sweeper {
  pid_t pid;
};

/* Where a thread is that still needs the region: in it, on a frame in it, or (the leader) at its frame on its stack. */
typedef struct Abroad {
  uint64_t start, end, frame;
} Abroad;

static bool is_abroad(const Abroad *a, uint64_t ip, uint64_t sp) {
  return (ip >= a->start && ip < a->end) || (sp >= a->start && sp < a->end) ||
         (a->frame && sp - (a->frame - FRAME_ROOM) <= FRAME_ROOM + 8);
}

/* Blocked in a system call of its own: seen without disturbing it. rt_sigreturn(2) may still read its frame. */
static bool sleeps_at_home(const Abroad *a, pid_t pid, pid_t tid) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/syscall", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  g_auto(GStrv) words = text ? g_strsplit(g_strchomp(text), " ", -1) : NULL;
  if (!words || g_strv_length(words) != 9) /* "running", or in no call */
    return false;
  gint64 nr = g_ascii_strtoll(words[0], NULL, 10);
  return nr >= 0 && nr != SYS_rt_sigreturn && nr != SIGRETURN_32 &&
         !is_abroad(a, g_ascii_strtoull(words[8], NULL, 16), g_ascii_strtoull(words[7], NULL, 16));
}

/* A thread that is home once is home for good. */
static bool is_home(const Abroad *a, pid_t pid, pid_t tid) {
  struct user_regs_struct regs;
  if (sleeps_at_home(a, pid, tid))
    return true;
  int stop_signal = 0, e = freeze_thread(tid, &stop_signal);
  if (e < 0)
    return e == -ESRCH;
  bool home = tracee_get_regs(tid, &regs) == 0 && !is_abroad(a, regs.rip, regs.rsp);
  (void)tracee_detach(tid);
  return home;
}

/* One mapping, or two: code and the rest (see inject.c). */
static bool find_region(const FrozenTask *task, const GArray *vmas, Abroad *ret) {
  for (guint i = 0; vmas && i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    if (v->start != task->region_at || (v->flags & CODE_FLAGS) != CODE_FLAGS)
      continue;
    *ret = (Abroad){.start = v->start, .end = v->end};
    const ProcVma *rest = i + 1 < vmas->len ? v + 1 : NULL;
    if (!(v->flags & VMF_WRITE) && rest && rest->start == v->end && rest->inode == v->inode && rest->flags & VMF_SHARED)
      ret->end = rest->end;
    return true;
  }
  return false;
}

static bool threads_are_home(const Abroad *region, const FrozenTask *task, pid_t speaker) {
  g_autoptr(GArray) tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
  if (!proc_threads(task->pid, tids, NULL))
    return false;
  for (guint i = 0; i < tids->len; i++) {
    pid_t tid = g_array_index(tids, pid_t, i);
    bool dead_leader = task->view != task->pid && tid == task->pid;
    if (tid != speaker && !dead_leader && !proc_is_kernel_worker(task->pid, tid) && !is_home(region, task->pid, tid))
      return false;
  }
  return true;
}

static bool is_the_same(const FrozenTask *task) {
  ProcStat stat;
  return !task->zombie && proc_stat(task->pid, &stat, NULL) && stat.start_time == task->stat.start_time &&
         (task->headless || !strchr("ZX", stat.state));
}

/* All that have the memory, but for the one that is looked at elsewhere. */
static bool others_are_home(const FrozenTree *tree, const Abroad *region, const FrozenTask *owner, pid_t speaker) {
  for (guint i = owner->index; i < tree->tasks->len && (tree->shares || i == owner->index); i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (task->owner[SHARE_MEMORY] == owner && is_the_same(task) && !threads_are_home(region, task, speaker))
      return false;
  }
  return true;
}

/* The leader is stopped: nobody else can move in meanwhile. */
static bool sweep_stopped(const FrozenTree *tree, const FrozenTask *owner, const FrozenTask *task, const Abroad *abroad, StoppedThread *leader) {
  static unsigned char xstate[XSTATE_MAX];
  siginfo_t info;
  ssize_t size = tracee_get_xstate(leader->tid, xstate, sizeof xstate);
  if (size < 0 || tracee_get_regs(leader->tid, &leader->regs) < 0 ||
      tracee_get_sigmask(leader->tid, &leader->sigmask) < 0 || is_abroad(abroad, leader->regs.rip, leader->regs.rsp))
    return false;
  leader->xstate = xstate;
  leader->xstate_size = (size_t)size;
  FrozenThread thread = {.state = *leader};
  undo_spurious_eintr(&thread, tracee_peek_signals(leader->tid, false, 0, &info, 1) > 0 ||
                                   tracee_peek_signals(leader->tid, true, 0, &info, 1) > 0);
  g_autoptr(GArray) vmas = proc_vmas(task->view, NULL);
  Abroad region;
  if (!find_region(owner, vmas, &region))
    return tracee_set_regs(leader->tid, &thread.state.regs) == 0;
  const FrozenTask now = {.pid = task->pid, .view = task->view, .facts.vmas = vmas, .lowest_sp = owner->lowest_sp};
  g_autofree InjectMap *maps = inject_maps(&now);
  return others_are_home(tree, &region, owner, leader->tid) &&
         inject_unmap(&thread.state, maps, vmas->len, region.start, region.end - region.start, NULL);
}

/* Who is left to unmap it: the one that mapped it, or another that shares the memory. */
static const FrozenTask *find_speaker(const FrozenTree *tree, const FrozenTask *owner) {
  for (guint i = 0; tree->shares && !is_the_same(owner) && i < tree->tasks->len; i++) {
    const FrozenTask *other = tree->tasks->pdata[i];
    if (other->owner[SHARE_MEMORY] == owner && is_the_same(other))
      return other;
  }
  return owner;
}

/* True when there is nothing (more) to do. The leader maps the region: before it is home, one may be yet to come. */
static bool sweep(const FrozenTree *tree, const FrozenTask *owner) {
  const FrozenTask *task = find_speaker(tree, owner);
  bool by_itself = owner->stopped && owner->threads->len == 1 && !tree->shares; /* when it is continued */
  if (by_itself || !owner->region_at || !is_the_same(task))
    return true;
  StoppedThread leader = g_array_index(task->threads, FrozenThread, 0).state;
  g_autofree InjectMap *maps = inject_maps(owner);
  const Abroad abroad = {owner->region_at, owner->region_at + 1, task == owner ? inject_leader_frame(&leader, maps, owner->facts.vmas->len) : 0};
  if (!is_home(&abroad, task->pid, leader.tid))
    return false;
  g_autoptr(GArray) vmas = proc_vmas(task->view, NULL);
  Abroad region;
  if (!find_region(owner, vmas, &region))
    return true;
  int stop_signal = 0;
  if (!others_are_home(tree, &region, owner, leader.tid) || freeze_thread(leader.tid, &stop_signal) < 0)
    return false;
  bool ok = sweep_stopped(tree, owner, task, &abroad, &leader);
  (void)tracee_detach(leader.tid);
  return ok;
}

static _Noreturn void sweeper_main(const FrozenTree *tree, int engine) {
  struct pollfd end = {.fd = 3, .events = POLLIN};
  (void)setsid();
  (void)prctl(PR_SET_NAME, SWEEPER_COMM);
  if (engine != 3)
    (void)dup3(engine, 3, 0);
  (void)syscall(SYS_close_range, 0, 2, 0);
  (void)syscall(SYS_close_range, 4, ~0u, 0);
  while (poll(&end, 1, -1) < 0 && errno == EINTR)
    ;
  for (int try = 0, left = 1; left && try < TRIES; try++) {
    left = 0;
    for (guint i = 0; i < tree->tasks->len; i++)
      left += !sweep(tree, tree->tasks->pdata[i]);
    if (left)
      g_usleep(MIN((gulong)PAUSE_USEC * (gulong)(try + 1), PAUSE_USEC_MAX));
  }
  _exit(0);
}

Sweeper *sweeper_new(const FrozenTree *tree) {
  int engine = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (engine < 0)
    return NULL;
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    sweeper_main(tree, engine);
  sigprocmask(SIG_SETMASK, &before, NULL);
  (void)close(engine);
  if (pid < 0)
    return NULL;
  Sweeper *s = g_new0(Sweeper, 1);
  s->pid = pid;
  return s;
}

pid_t sweeper_pid(const Sweeper *s) {
  return s ? s->pid : 0;
}

void sweeper_free(Sweeper *s) {
  if (!s)
    return;
  (void)kill(s->pid, SIGKILL);
  while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  g_free(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sweeper.h"
#include "collect.h"
#include "tracee.h"
#include <errno.h>
#include <fcntl.h>
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
  int told; /* where it hears what to look after; -1: it has been told */
  int apart; /* end of file: it has closed all that it was born with; -1: it has been waited for */
};

/* What it has to know of a task; it is forked while the engine is small, and hears this by a pipe. */
typedef struct Swept {
  pid_t pid, view, speaker; /* speaker: the thread that maps the region */
  guint64 start_time, region_at, frame, lowest_sp;
  guint32 owner; /* of its memory: an index */
  bool zombie, headless;
  bool by_itself; /* the region goes when the task is continued */
} Swept;

typedef struct SweptTree {
  Swept *tasks;
  guint n;
  bool shares;
} SweptTree;

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
static bool find_region(const Swept *task, const GArray *vmas, Abroad *ret) {
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

static bool threads_are_home(const Abroad *region, const Swept *task, pid_t speaker) {
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

static bool is_the_same(const Swept *task) {
  ProcStat stat;
  return !task->zombie && proc_stat(task->pid, &stat, NULL) && stat.start_time == task->start_time &&
         (task->headless || !strchr("ZX", stat.state));
}

/* All that have the memory, but for the one that is looked at elsewhere. */
static bool others_are_home(const SweptTree *tree, const Abroad *region, guint owner, pid_t speaker) {
  for (guint i = owner; i < tree->n && (tree->shares || i == owner); i++) {
    const Swept *task = &tree->tasks[i];
    if (task->owner == owner && is_the_same(task) && !threads_are_home(region, task, speaker))
      return false;
  }
  return true;
}

/* The leader is stopped: nobody else can move in meanwhile. */
static bool sweep_stopped(const SweptTree *tree, guint owner, const Swept *task, const Abroad *abroad, StoppedThread *leader) {
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
  if (!find_region(&tree->tasks[owner], vmas, &region))
    return tracee_set_regs(leader->tid, &thread.state.regs) == 0;
  g_autofree InjectMap *maps = inject_maps(vmas, tree->tasks[owner].lowest_sp);
  return others_are_home(tree, &region, owner, leader->tid) &&
         inject_unmap(&thread.state, maps, vmas->len, region.start, region.end - region.start, NULL);
}

/* Who is left to unmap it: the one that mapped it, or another that shares the memory. */
static const Swept *find_speaker(const SweptTree *tree, guint owner) {
  for (guint i = 0; tree->shares && !is_the_same(&tree->tasks[owner]) && i < tree->n; i++) {
    const Swept *other = &tree->tasks[i];
    if (other->owner == owner && is_the_same(other))
      return other;
  }
  return &tree->tasks[owner];
}

/* True when there is nothing (more) to do. The leader maps the region: before it is home, one may be yet to come. */
static bool sweep(const SweptTree *tree, guint i) {
  const Swept *owner = &tree->tasks[i], *task = find_speaker(tree, i);
  if (owner->by_itself || !owner->region_at || !is_the_same(task))
    return true;
  StoppedThread leader = {.tid = task->speaker};
  const Abroad abroad = {owner->region_at, owner->region_at + 1, task == owner ? owner->frame : 0};
  if (!is_home(&abroad, task->pid, leader.tid))
    return false;
  g_autoptr(GArray) vmas = proc_vmas(task->view, NULL);
  Abroad region;
  if (!find_region(owner, vmas, &region))
    return true;
  int stop_signal = 0;
  if (!others_are_home(tree, &region, i, leader.tid) || freeze_thread(leader.tid, &stop_signal) < 0)
    return false;
  bool ok = sweep_stopped(tree, i, task, &abroad, &leader);
  (void)tracee_detach(leader.tid);
  return ok;
}

static bool read_all(int fd, void *data, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t n = read(fd, (char *)data + got, size - got);
    if (n == 0 || (n < 0 && errno != EINTR))
      return false;
    got += n > 0 ? (size_t)n : 0;
  }
  return true;
}

static bool write_all(int fd, const void *data, size_t size) {
  for (size_t put = 0; put < size;) {
    ssize_t n = write(fd, (const char *)data + put, size - put);
    if (n < 0 && errno != EINTR)
      return false;
    put += n > 0 ? (size_t)n : 0;
  }
  return true;
}

/* Nothing to look after: the engine ended before it put anything into its targets. */
static bool hear(int fd, SweptTree *ret) {
  SweptTree t;
  if (!read_all(fd, &t, sizeof t))
    return false;
  t.tasks = g_new(Swept, t.n);
  *ret = t;
  return read_all(fd, t.tasks, t.n * sizeof(Swept));
}

enum { FD_ENGINE = 3, FD_TOLD };

static _Noreturn void sweeper_main(int engine, int told) {
  struct pollfd end = {.fd = FD_ENGINE, .events = POLLIN};
  SweptTree tree;
  (void)setsid();
  (void)prctl(PR_SET_NAME, SWEEPER_COMM);
  /* above what they become: neither is closed by the other */
  engine = fcntl(engine, F_DUPFD, FD_TOLD + 1);
  told = fcntl(told, F_DUPFD, FD_TOLD + 1);
  (void)dup2(engine, FD_ENGINE);
  (void)dup2(told, FD_TOLD);
  (void)syscall(SYS_close_range, 0, 2, 0);
  (void)syscall(SYS_close_range, FD_TOLD + 1, ~0u, 0);
  if (!hear(FD_TOLD, &tree))
    _exit(0);
  (void)close(FD_TOLD);
  while (poll(&end, 1, -1) < 0 && errno == EINTR)
    ;
  for (int try = 0, left = 1; left && try < TRIES; try++) {
    left = 0;
    for (guint i = 0; i < tree.n; i++)
      left += !sweep(&tree, i);
    if (left)
      g_usleep(MIN((gulong)PAUSE_USEC * (gulong)(try + 1), PAUSE_USEC_MAX));
  }
  _exit(0);
}

static pid_t fork_sweeper(int engine, int told) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    sweeper_main(engine, told);
  sigprocmask(SIG_SETMASK, &before, NULL);
  return pid;
}

static void close_all(const int *fds, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (fds[i] >= 0)
      (void)close(fds[i]);
}

Sweeper *sweeper_new(void) {
  enum { ENGINE, TOLD_READ, TOLD_WRITE, APART_READ, APART_WRITE, N };
  int fds[N] = {(int)syscall(SYS_pidfd_open, getpid(), 0), -1, -1, -1, -1};
  bool ok = fds[ENGINE] >= 0 && pipe2(&fds[TOLD_READ], O_CLOEXEC) == 0 && pipe2(&fds[APART_READ], O_CLOEXEC) == 0;
  pid_t pid = ok ? fork_sweeper(fds[ENGINE], fds[TOLD_READ]) : -1;
  if (pid < 0) {
    close_all(fds, N);
    return NULL;
  }
  close_all((const int[]){fds[ENGINE], fds[TOLD_READ], fds[APART_WRITE]}, 3);
  Sweeper *s = g_new0(Sweeper, 1);
  *s = (Sweeper){.pid = pid, .told = fds[TOLD_WRITE], .apart = fds[APART_READ]};
  return s;
}

void sweeper_wait(Sweeper *s) {
  char byte;
  if (!s || s->apart < 0)
    return;
  while (read(s->apart, &byte, 1) < 0 && errno == EINTR)
    ;
  (void)close(s->apart);
  s->apart = -1;
}

static Swept swept_of(const FrozenTree *tree, const FrozenTask *task) {
  Swept s = {.pid = task->pid,
      .view = task->view,
      .start_time = task->stat.start_time,
      .region_at = task->region_at,
      .lowest_sp = task->lowest_sp,
      .owner = task->owner[SHARE_MEMORY]->index,
      .zombie = task->zombie,
      .headless = task->headless,
      .by_itself = task->stopped && task->threads->len == 1 && !tree->shares};
  if (task->threads->len)
    s.speaker = g_array_index(task->threads, FrozenThread, 0).state.tid;
  if (!task->region_at)
    return s;
  g_autofree InjectMap *maps = inject_maps(task->facts.vmas, task->lowest_sp);
  s.frame = inject_leader_frame(&g_array_index(task->threads, FrozenThread, 0).state, maps, task->facts.vmas->len);
  return s;
}

bool sweeper_tell(Sweeper *s, const FrozenTree *tree) {
  if (!s || s->told < 0)
    return s != NULL;
  SweptTree told = {.n = tree->tasks->len, .shares = tree->shares};
  g_autofree Swept *tasks = g_new(Swept, told.n);
  for (guint i = 0; i < told.n; i++)
    tasks[i] = swept_of(tree, tree->tasks->pdata[i]);
  bool ok = write_all(s->told, &told, sizeof told) && write_all(s->told, tasks, told.n * sizeof *tasks);
  (void)close(s->told);
  s->told = -1;
  return ok;
}

pid_t sweeper_pid(const Sweeper *s) {
  return s ? s->pid : 0;
}

void sweeper_free(Sweeper *s) {
  if (!s)
    return;
  close_all((const int[]){s->told, s->apart}, 2);
  (void)kill(s->pid, SIGKILL);
  while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  g_free(s);
}

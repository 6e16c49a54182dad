/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Registers, signal masks and pending signals by ptrace; then the agents, in every thread at once. */
#include "collect.h"
#include "frame.h"
#include "frozen-group.h"
#include "ia32.h"
#include "landlock.h"
#include "overruns.h"
#include "regs.h"
#include "sleep.h"
#include "sweeper.h"
#include "tiles.h"
#include "traits.h"
#include "tracee.h"
#include "tracers.h"
#include "warden.h"
#include <errno.h>
#include <linux/rseq.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#define XSTATE_MAX 32768
#define ASK_ROOM 16384 /* for further programs, one at a time */

static SignalQueueEntry *signals_new(void) {
  SignalQueueEntry *q = malloc(sizeof *q);
  signal_queue_entry__init(q);
  return q;
}

SignalQueueEntry *collect_signals(pid_t tid, bool shared) {
  SignalQueueEntry *q = signals_new();
  siginfo_t infos[32];
  for (unsigned from = 0;;) {
    int n = tracee_peek_signals(tid, shared, from, infos, G_N_ELEMENTS(infos));
    if (n <= 0)
      return q;
    q->signals = realloc(q->signals, (q->n_signals + (size_t)n) * sizeof *q->signals);
    for (int i = 0; i < n; i++) {
      SiginfoEntry *e = malloc(sizeof *e);
      siginfo_entry__init(e);
      e->siginfo.len = sizeof(siginfo_t);
      e->siginfo.data = malloc(sizeof(siginfo_t));
      memcpy(e->siginfo.data, &infos[i], sizeof(siginfo_t));
      q->signals[q->n_signals++] = e;
    }
    from += (unsigned)n;
  }
}

static CoreEntry *core_new(bool leader) {
  CoreEntry *core = malloc(sizeof *core);
  core_entry__init(core);
  core->mtype = CORE_ENTRY__MARCH__X86_64;
  if (leader) {
    core->tc = malloc(sizeof *core->tc);
    task_core_entry__init(core->tc);
    core->tc->task_state = TASK_ALIVE;
  }
  core->thread_core = malloc(sizeof *core->thread_core);
  thread_core_entry__init(core->thread_core);
  return core;
}

/* What answers -EINTR when it is stopped, though nothing happened to the program (signal(7), at its end): waits for events and
 * semaphores, and calls on sockets that have a time-out. They have done nothing yet and are made again; not so if a signal is
 * about to be handled, which may be what the program waits for. */
static bool answers_stops(guint64 nr) {
  static const guint16 calls[] = {SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_io_getevents, SYS_io_pgetevents, SYS_semop,
      SYS_semtimedop, SYS_rt_sigtimedwait, SYS_read, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_accept, SYS_accept4, SYS_write,
      SYS_writev, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_connect,
      SYS_io_uring_enter /* which took nothing then: else it would tell how much */};
  for (size_t i = 0; i < G_N_ELEMENTS(calls); i++)
    if (calls[i] == nr)
      return true;
  return false;
}

void undo_spurious_eintr(FrozenThread *t, bool signal_pending) {
  struct user_regs_struct *r = &t->state.regs;
  bool ia32 = frame_is_ia32(r), time32;
  guint64 nr = r->orig_rax, call = ia32 ? ia32_native_call(nr, (guint32)r->rbx, &time32) : nr;
  guint64 msec = (guint64)(MAX(t->sleep_remaining_nsec, 0) + 999999) / 1000000;
  if (signal_pending || (int64_t)r->rax != -EINTR || (int64_t)nr < 0 || !answers_stops(call))
    return;
  bool waits = call == SYS_epoll_wait || call == SYS_epoll_pwait || call == SYS_epoll_pwait2;
  if (waits && t->sleep_nr == nr && msec <= INT32_MAX) {
    /* In milliseconds; system calls leave r10 to the caller, who passed it and does not read it again. The time of
     * epoll_pwait2(2) is in the program's memory; but for that argument it is epoll_pwait(2). */
    *(ia32 ? &r->rsi : &r->r10) = msec;
    nr = call != SYS_epoll_pwait2 ? nr : ia32 ? IA32_EPOLL_PWAIT : SYS_epoll_pwait;
  }
  r->rax = nr;
  r->rip -= 2;
  r->orig_rax = (uint64_t)-1;
}

static bool has_deliverable(const SignalQueueEntry *q, uint64_t mask) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info;
    memcpy(&info, q->signals[i]->siginfo.data, sizeof info);
    if (info.si_signo > 0 && info.si_signo <= 64 && !(mask & (1ull << (info.si_signo - 1))))
      return true;
  }
  return false;
}

static bool fail_thread(int e, const FrozenThread *t, const char *what, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "tid %d: cannot read its %s", (int)t->state.tid, what);
}

/* A thread that was taken off its processor in a critical section goes on at the section's abort handler (rseq(2)). The kernel
 * sees to that when the thread goes on by itself; once it has been in an agent, it has forgotten the section. */
static void leave_critical_section(FrozenThread *t, const struct rseq_config *config) {
  struct {
    guint32 version, flags;
    guint64 start, size, abort;
  } section;
  guint64 at = 0;
  guint32 signature = 0;
  struct user_regs_struct *r = &t->state.regs;
  pid_t tid = t->state.tid;
  if (tracee_read(tid, config->pointer + offsetof(struct rseq, rseq_cs), &at, sizeof at) < 0 || !at ||
      tracee_read(tid, at, &section, sizeof section) < 0 || section.version || section.flags || r->rip - section.start >= section.size ||
      tracee_read(tid, section.abort - sizeof signature, &signature, sizeof signature) < 0 || signature != config->signature)
    return; /* what is wrong there is the program's end as soon as it goes on, too */
  r->rip = section.abort;
  r->orig_rax = (uint64_t)-1;
}

static bool collect_rseq(FrozenThread *t, ThreadCoreEntry *tc, GError **error) {
  struct rseq_config config;
  int e = tracee_get_rseq(t->state.tid, &config);
  if (e == -EIO || e == -EINVAL)
    return true; /* a kernel without it */
  if (e < 0)
    return fail_thread(e, t, "rseq registration", error);
  if (!config.pointer)
    return true;
  if ((gint64)t->state.regs.orig_rax < 0) /* there are no system calls in critical sections */
    leave_critical_section(t, &config);
  RseqEntry *r = tc->rseq_entry = malloc(sizeof *r);
  rseq_entry__init(r);
  r->rseq_abi_pointer = config.pointer;
  r->rseq_abi_size = config.size;
  r->signature = config.signature;
  return true;
}

static void collect_sleep(FrozenTask *task, FrozenThread *t) {
  if (!t->sleep_nr || (gint64)t->state.regs.orig_rax < 0)
    return;
  CkptSleep *s = t->model->extra->sleep = malloc(sizeof *s);
  ckpt_sleep__init(s);
  s->syscall_nr = t->sleep_nr;
  s->remaining_nsec = (guint64)MAX(t->sleep_remaining_nsec, 0);
}

/* As the images have it: no call in progress. What the kernel would do with it is kept beside that. */
static ThreadInfoX86 *encode_registers(const FrozenThread *t, const void *xstate, size_t size) {
  struct user_regs_struct regs = t->state.regs;
  CkptThread *x = t->model->extra;
  x->interrupted = frame_interrupted(&regs);
  x->has_interrupted = x->interrupted != 0;
  frame_restart_syscall(&regs);
  return regs_encode(&regs, xstate, size);
}

/* A main thread that has ended has no registers: it comes back as one that is about to end (headless_finish()). */
static void collect_dead_leader(FrozenTask *task) {
  CoreEntry *core = core_new(true);
  task->model->core = core;
  g_ptr_array_add(task->model->threads, thread_new(task->pid, core));
  core->tc->comm = strdup(task->stat.comm);
  core->thread_core->comm = strdup(task->stat.comm);
  core->tc->blk_sigset = core->thread_core->blk_sigset = ~0ull;
  core->thread_core->has_blk_sigset = true;
}

static void add_thread(FrozenTask *task, FrozenThread *t, bool leader) {
  CoreEntry *core = core_new(leader);
  t->model = thread_new(t->state.tid, core);
  g_ptr_array_add(task->model->threads, t->model);
  CkptThread *x = t->model->extra = malloc(sizeof *x);
  ckpt_thread__init(x);
  x->tid = (guint32)t->state.tid;
  if (leader)
    task->model->core = core;
}

/* In the task's own block, made for as many threads of the size of the first one's: single ones would be thousands of
 * growths of a tracer's heap. */
static const void *keep_xstate(FrozenTask *task, const FrozenThread *t, const void *xstate, size_t size) {
  guint k = (guint)(t - (const FrozenThread *)(const void *)task->threads->data);
  if (!k) {
    task->xstates = g_malloc(size * task->threads->len);
    task->xstate_room = size;
  }
  return size > task->xstate_room ? g_memdup2(xstate, size) : memcpy(task->xstates + k * task->xstate_room, xstate, size);
}

static void drop_xstates(FrozenTask *task) {
  for (guint k = 0; k < task->threads->len; k++) {
    StoppedThread *s = &g_array_index(task->threads, FrozenThread, k).state;
    if (s->xstate && s->xstate_size > task->xstate_room)
      g_free((void *)(uintptr_t)s->xstate);
    s->xstate = NULL;
  }
  g_clear_pointer(&task->xstates, g_free);
}

/* By its tracer. */
static bool collect_thread(FrozenTask *task, FrozenThread *t, bool speaks, void *xstate, GError **error) {
  bool leader = speaks && !task->headless;
  CoreEntry *core = t->model->core;
  int e = t->has_regs ? 0 : tracee_get_regs(t->state.tid, &t->state.regs);
  if (e < 0)
    return fail_thread(e, t, "registers", error);
  ssize_t size = tracee_get_xstate(t->state.tid, xstate, XSTATE_MAX);
  if (size < 0)
    return fail_thread((int)size, t, "floating-point state", error);
  size = (ssize_t)tiles_needed_size(xstate, (size_t)size, NULL);
  if ((e = tracee_get_sigmask(t->state.tid, &t->state.sigmask)) < 0)
    return fail_thread(e, t, "signal mask", error);
  t->state.xstate_size = (size_t)size;
  t->state.xstate = keep_xstate(task, t, xstate, (size_t)size);
  ThreadCoreEntry *tc = core->thread_core;
  bool none = t->sight.tid && !t->sight.pending; /* a system call less */
  tc->signals_p = none ? signals_new() : collect_signals(t->state.tid, false);
  if (speaks)
    task->model->core->tc->signals_s = collect_signals(t->state.tid, true);
  SignalQueueEntry *shared = task->model->core->tc->signals_s;
  sleep_measure(t);
  undo_spurious_eintr(t, has_deliverable(tc->signals_p, t->state.sigmask) || has_deliverable(shared, t->state.sigmask));
  collect_sleep(task, t);
  if (!collect_rseq(t, tc, error))
    return false;
  core->thread_info = encode_registers(t, xstate, (size_t)size);
  t->model->extra->tiles = tiles_encode(xstate, (size_t)size);
  tc->has_blk_sigset = true;
  tc->blk_sigset = t->state.sigmask;
  if (leader)
    core->tc->blk_sigset = t->state.sigmask;
  return true;
}

static void collect_zombie(FrozenTask *task) {
  CoreEntry *core = core_new(true);
  g_clear_pointer(&core->thread_core, free);
  task->model->core = core;
  core->tc->task_state = TASK_DEAD;
  core->tc->exit_code = (guint32)task->stat.exit_code;
  core->tc->comm = strdup(task->stat.comm);
  g_ptr_array_add(task->model->threads, thread_new(task->pid, core));
}

/* Can one tracer do everything for it? */
static bool is_on_its_own(const FrozenTree *tree, const FrozenTask *task) {
  return !task->split && !tree->shares;
}

/* What each tracer does to its own. */
typedef struct TracersShare {
  const FrozenTree *tree;
  FrozenTask *task; /* NULL: all of the tree */
  bool leaders;     /* threads that speak for their processes, or the others */
  guint first;      /* thread of the task */
  const ThreadProgram *program;
  GError *errors[2]; /* of each tracer */
} TracersShare;

static bool run_by_tracers(TracersShare w, TracersWork *work, GError **error) {
  tracers_run_apart(work, &w);
  return engine_first_error(w.errors[0], w.errors[1], error);
}

static void collect_share(void *data, unsigned which) {
  TracersShare *w = data;
  g_autofree void *xstate = g_malloc(XSTATE_MAX);
  for (guint i = 0; i < w->tree->tasks->len; i++) {
    FrozenTask *task = w->tree->tasks->pdata[i];
    for (guint k = w->leaders ? 0 : 1; k < (w->leaders ? MIN(1, task->threads->len) : task->threads->len); k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      if (tracers_owner(t->state.tid) == which && !collect_thread(task, t, w->leaders, xstate, &w->errors[which]))
        return;
    }
  }
}

static void add_task(Checkpoint *checkpoint, FrozenTask *task, bool root) {
  PstreeEntry *ps = malloc(sizeof *ps);
  pstree_entry__init(ps);
  task->model = task_new();
  task->model->pstree = ps;
  ps->pid = (guint32)task->pid;
  ps->ppid = root ? 0 : (guint32)task->stat.ppid;
  ps->pgid = (guint32)task->stat.pgid;
  ps->sid = (guint32)task->stat.sid;
  ps->threads = calloc(task->threads->len + 1, sizeof *ps->threads);
  if (task->zombie || task->headless)
    ps->threads[ps->n_threads++] = (guint32)task->pid;
  for (guint k = 0; k < task->threads->len; k++)
    ps->threads[ps->n_threads++] = (guint32)g_array_index(task->threads, FrozenThread, k).state.tid;
  checkpoint_add_task(checkpoint, task->model);
  if (task->zombie)
    collect_zombie(task);
  if (task->headless)
    collect_dead_leader(task);
  for (guint k = 0; !task->zombie && k < task->threads->len; k++)
    add_thread(task, &g_array_index(task->threads, FrozenThread, k), k == 0 && !task->headless);
}

bool collect_registers(Job *job, FrozenTree *tree, Checkpoint *checkpoint, GError **error) {
  for (guint i = 0; i < tree->tasks->len; i++)
    add_task(checkpoint, tree->tasks->pdata[i], i == 0);
  TracersShare w = {.tree = tree};
  for (w.leaders = true;; w.leaders = false) { /* what is pending for a process is known before its other threads are asked */
    if (!run_by_tracers(w, collect_share, error) || !job_poll(job, error))
      return false;
    if (!w.leaders)
      break;
  }
  return true;
}

InjectMap *inject_maps(const GArray *vmas, uint64_t lowest_sp) {
  InjectMap *maps = g_new0(InjectMap, vmas->len);
  for (guint i = 0; i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    maps[i] = (InjectMap){.start = v->start,
        .end = v->end,
        .offset = v->offset,
        .dev = (guint64)v->dev_major << 32 | v->dev_minor,
        .inode = v->inode,
        .executable = v->flags & VMF_EXEC,
        .stack = strcmp(v->path, "[stack]") == 0,
        .path = v->path};
    if (maps[i].stack && lowest_sp > v->start && lowest_sp < v->end)
      maps[i].end = lowest_sp; /* what is above may be another's */
  }
  return maps;
}

#define REGION_ROOM(n_threads) ((256ull << 10) + ((uint64_t)(n_threads) << 16)) /* more than it will take */
#define VMA_ROOM 1024ull /* a question about each mapping, with the nodes of a large machine */
#define REGION_GAP (1ull << 20)

/* A place known beforehand, so that a region can be found whenever the engine dies: the highest hole that is large enough
 * and into which no stack grows. */
static uint64_t choose_region(const FrozenTree *tree, const FrozenTask *task) {
  uint64_t need = 2 * REGION_GAP;
  for (guint i = task->index; i < tree->tasks->len; i++) {
    const FrozenTask *other = tree->tasks->pdata[i];
    if (other->owner[SHARE_MEMORY] == task)
      need += REGION_ROOM(other->threads->len) + task->facts.vmas->len * VMA_ROOM;
    if (!tree->shares)
      break;
  }
  for (guint i = task->facts.vmas->len; i-- > 1;) {
    const ProcVma *above = &g_array_index(task->facts.vmas, ProcVma, i), *below = &g_array_index(task->facts.vmas, ProcVma, i - 1);
    if (above->start - below->end >= need && above->start < 1ull << 47 && !(above->flags & VMF_GROWSDOWN))
      return (above->start - need + REGION_GAP) & ~4095ull;
  }
  return 0;
}

#define SIGNALS_ROOM ((size_t)128 << 10)

/* For taking pending signals of timers and putting them back (overruns.c). */
static size_t signals_room(const FrozenTask *task) {
  size_t n = 0, most = 0;
  for (const char *p = task->facts.timers; p && (p = strstr(p, "ID: ")); p++)
    n++;
  for (guint k = 0; n && k < task->threads->len; k++) {
    const CoreEntry *core = g_array_index(task->threads, FrozenThread, k).model->core;
    size_t queued = core->thread_core->signals_p->n_signals + (k ? 0 : core->tc->signals_s->n_signals);
    most = MAX(most, queued);
  }
  return n ? MIN((n + most) * 400, SIGNALS_ROOM) : 0;
}

/* An agent with its program, which begins at once, and sleeps only when that is done. */
static bool inject_one_thread(const FrozenTask *task, FrozenThread *t, const Program *program, GError **error) {
  const FrozenTask *owner = task->owner[SHARE_MEMORY];
  Region *region = injection_region(task->injection);
  t->lane = inject_add_lane(task->injection, &t->state, error);
  if (!t->lane || !region_load(region, program, g_array_index(owner->threads, FrozenThread, 0).loaded.ops, &t->loaded, error))
    return false;
  region_prepare(region, t->lane, &t->loaded);
  t->in_agent = inject_thread(task->injection, &t->state, t->lane, error);
  return t->in_agent;
}

static void inject_share(void *data, unsigned which) {
  TracersShare *w = data;
  for (guint k = w->first; k < w->task->threads->len; k++) {
    FrozenThread *t = &g_array_index(w->task->threads, FrozenThread, k);
    if (!t->alike && tracers_owner(t->state.tid) == which && !inject_one_thread(w->task, t, thread_program_get(w->program), &w->errors[which]))
      return;
  }
}

/* Room for the agents of a task, and of those that share its memory. */
static size_t region_room(const FrozenTree *tree, const FrozenTask *task, const Program *thread_program, ProcessProgram *const *pps, guint *ret_threads) {
  size_t room = region_program_size(thread_program) + ASK_ROOM;
  *ret_threads = 0;
  for (guint i = task->index; i < tree->tasks->len && (tree->shares || i == task->index); i++) {
    const FrozenTask *other = tree->tasks->pdata[i];
    if (other->owner[SHARE_MEMORY] != task || !pps[i])
      continue;
    room += region_program_size(pps[i]->program) + signals_room(other);
    for (guint k = 0; k < other->threads->len; k++) {
      const FrozenThread *t = &g_array_index(other->threads, FrozenThread, k);
      *ret_threads += !t->alike;
      room += t->alike ? 0 : region_program_size_shared(thread_program) + inject_thread_room(t->state.xstate_size);
    }
  }
  return room;
}

/* The region of a task that has one of its own begins to come. */
static bool begin_leader(const FrozenTree *tree, FrozenTask *task, const Program *thread_program, ProcessProgram *const *pps, GadgetCache *cache,
    GError **error) {
  const FrozenThread *leader = &g_array_index(task->threads, FrozenThread, 0);
  guint n_threads;
  size_t room = region_room(tree, task, thread_program, pps, &n_threads);
  g_autofree InjectMap *maps = inject_maps(task->facts.vmas, task->lowest_sp);
  task->injection = inject_begin(&leader->state, n_threads, task->region_at, room, maps, task->facts.vmas->len, cache, error);
  return task->injection != NULL;
}

static bool drop_injection(FrozenTask *task) {
  injection_free(task->injection);
  task->injection = NULL;
  return false;
}

static bool proceed_leader(FrozenTask *task, GError **error) {
  const FrozenThread *leader = &g_array_index(task->threads, FrozenThread, 0);
  return inject_proceed(task->injection, &leader->state, error) || drop_injection(task);
}

/* It is there, and the agent of the leader begins. */
static bool finish_leader(FrozenTask *task, const Program *thread_program, GError **error) {
  FrozenThread *leader = &g_array_index(task->threads, FrozenThread, 0);
  if (!inject_finish(task->injection, &leader->state, task->region_at, error))
    return drop_injection(task);
  leader->lane = injection_leader_lane(task->injection);
  Region *region = injection_region(task->injection);
  if (!region_load(region, thread_program, NULL, &leader->loaded, error)) {
    inject_undo(task->injection, &leader->state);
    return drop_injection(task);
  }
  region_prepare(region, leader->lane, &leader->loaded);
  leader->in_agent = inject_leader(task->injection, &leader->state, error);
  return leader->in_agent || drop_injection(task);
}

/* An agent in every thread, each with its program prepared before it starts. Where memory is shared there is one region, and
 * all threads but its owner's leader, which has one, are alike. */
static bool inject_threads(const FrozenTree *tree, FrozenTask *task, const ThreadProgram *tp, GError **error) {
  const FrozenTask *owner = task->owner[SHARE_MEMORY];
  guint first = owner == task;
  task->injection = owner->injection;
  if (!is_on_its_own(tree, task))
    return run_by_tracers((TracersShare){.task = task, .first = first, .program = tp}, inject_share, error);
  for (guint k = first; k < task->threads->len; k++)
    if (!inject_one_thread(task, &g_array_index(task->threads, FrozenThread, k), thread_program_get(tp), error))
      return false;
  return true;
}

static bool ask_ambient(Region *region, const ThreadProgram *tp, FrozenThread *t, GError **error) {
  const Program *p = thread_program_ambient(tp, t);
  LoadedProgram loaded;
  if (!p)
    return true;
  size_t mark = region_mark(region);
  if (!region_load(region, p, NULL, &loaded, error))
    return false;
  region_start(region, t->lane, &loaded);
  if (!region_wait(region, t->lane, t->state.tid, error))
    return false;
  thread_program_decode_ambient(t, &loaded);
  region_release(region, mark);
  return true;
}

/* The leader's second program, after its thread program: signal actions, timers, limits. */
static bool start_process_program(FrozenTask *task, const ProcessProgram *pp, GError **error) {
  FrozenThread *leader = &g_array_index(task->threads, FrozenThread, 0);
  Region *region = injection_region(task->injection);
  memory_ops_set_region(&pp->memory, pp->program, region_remote(region));
  if (!region_load(region, pp->program, NULL, &task->leader_loaded, error))
    return false;
  region_start(region, leader->lane, &task->leader_loaded);
  return true;
}

/* The first is waited for before any other. */
static bool wait_thread(const FrozenTask *task, guint k, const ThreadProgram *tp, GError **error) {
  FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
  if (t->alike)
    return thread_program_decode_alike(tp, &g_array_index(task->threads, FrozenThread, 0), t, error);
  return region_wait(injection_region(task->injection), t->lane, t->state.tid, error) &&
         thread_program_decode(tp, t, k == 0 && !task->headless, error);
}

/* By its tracer, who alone can help it on when job control stops it meanwhile. */
static void wait_share(void *data, unsigned which) {
  TracersShare *w = data;
  for (guint k = 1; k < w->task->threads->len; k++)
    if (tracers_owner(g_array_index(w->task->threads, FrozenThread, k).state.tid) == which &&
        !wait_thread(w->task, k, w->program, &w->errors[which]))
      return;
}

/* The answers of its threads; then its process is asked. */
static bool wait_task(const FrozenTree *tree, FrozenTask *task, const ThreadProgram *tp, ProcessProgram *pp, GError **error) {
  FrozenThread *first = &g_array_index(task->threads, FrozenThread, 0);
  if (!wait_thread(task, 0, tp, error) || !ask_ambient(injection_region(task->injection), tp, first, error))
    return false;
  if (!is_on_its_own(tree, task)) {
    if (!run_by_tracers((TracersShare){.task = task, .program = tp}, wait_share, error))
      return false;
  } else {
    for (guint k = 1; k < task->threads->len; k++)
      if (!wait_thread(task, k, tp, error))
        return false;
  }
  for (guint k = 1; k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (!t->alike && !ask_ambient(injection_region(task->injection), tp, t, error))
      return false;
  }
  return start_process_program(task, pp, error);
}

/* The main thread that has ended calls exit(2) as soon as it is there again, with the credentials of those that go on
 * but for its own ids. */
static bool headless_finish(FrozenTask *task, GError **error) {
  const FrozenThread *speaker = &g_array_index(task->threads, FrozenThread, 0);
  CoreEntry *core = task->model->core;
  ThreadCoreEntry *tc = core->thread_core, *like = speaker->model->core->thread_core;
  ProcStatus status;
  if (!proc_status(task->view, task->pid, &status, error))
    return false;
  g_autofree uint8_t *packed = g_malloc(creds_entry__get_packed_size(like->creds));
  CredsEntry *c = tc->creds = creds_entry__unpack(NULL, creds_entry__pack(like->creds, packed), packed);
  c->uid = status.uid[0], c->euid = status.uid[1], c->suid = status.uid[2], c->fsuid = status.uid[3];
  c->gid = status.gid[0], c->egid = status.gid[1], c->sgid = status.gid[2], c->fsgid = status.gid[3];
  proc_status_clear(&status);
  struct user_regs_struct r = speaker->state.regs;
  r.rip = injection_syscall(task->injection);
  r.rax = task->ia32 ? IA32_EXIT : SYS_exit;
  *(task->ia32 ? &r.rbx : &r.rdi) = (uint64_t)(task->stat.exit_code >> 8) & 0xff;
  r.orig_rax = (uint64_t)-1;
  r.eflags &= ~0x100ull;
  core->thread_info = regs_encode(&r, speaker->state.xstate, speaker->state.xstate_size);
  tc->has_sched_nice = tc->has_sched_policy = true;
  tc->sched_nice = like->sched_nice;
  return true;
}

static bool wait_process_program(FrozenTask *task, const ProcessProgram *pp, GError **error) {
  FrozenThread *leader = &g_array_index(task->threads, FrozenThread, 0);
  return region_wait(injection_region(task->injection), leader->lane, leader->state.tid, error) && process_program_decode(pp, task, error) &&
         overruns_look_again(task, error) && (!task->headless || headless_finish(task, error));
}

/* A child hears of its parent's end when the thread ends that the kernel has made its parent; which one that is now nobody
 * can tell, and the thread that would be it after the restore is about to end. */
static void block_parent_signals(Job *job, const FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i], *parent = frozen_tree_find(tree, task->stat.ppid);
    if (task->zombie || !task->injection || !parent || !parent->headless)
      continue;
    for (guint k = 0; k < task->threads->len; k++) {
      const ThreadCoreEntry *tc = g_array_index(task->threads, FrozenThread, k).model->core->thread_core;
      if (!tc->has_pdeath_sig || !tc->pdeath_sig)
        continue;
      g_autofree char *object = g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
      job_block(job, "task", task->pid, -1, object, "it wants a signal when its parent ends, whose main thread has ended already",
          "have it call prctl(PR_SET_PDEATHSIG, 0), or have the main thread of its parent wait for the others");
      break;
    }
  }
}

static void block_segments(Job *job, const FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    g_autofree char *object = task->has_ldt ? g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm) : NULL;
    if (object)
      job_block(job, "task", task->pid, -1, object, "it has segments of its own (modify_ldt(2)), which are not supported",
          "checkpoint without it: use a 64-bit build of the program");
  }
}

bool ask_thread(void *data, pid_t pid, pid_t tid, const Program *p, gint64 *results, unsigned char *out, size_t size, GError **error) {
  FrozenTask *task = frozen_tree_find(data, pid);
  FrozenThread *thread = NULL;
  for (guint k = 0; task && k < task->threads->len; k++)
    if (g_array_index(task->threads, FrozenThread, k).state.tid == tid)
      thread = &g_array_index(task->threads, FrozenThread, k);
  if (!thread || !task->injection || !thread->in_agent)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "tid %d cannot be asked", (int)tid);
  Region *region = injection_region(task->injection);
  size_t mark = region_mark(region);
  LoadedProgram loaded;
  if (!region_load(region, p, NULL, &loaded, error))
    return false;
  region_start(region, thread->lane, &loaded);
  bool ok = region_wait(region, thread->lane, tid, error);
  if (ok)
    memcpy(results, loaded.results, program_n_ops(p) * sizeof *results);
  if (ok && out)
    memcpy(out, loaded.data, size);
  if (ok)
    region_release(region, mark);
  return ok;
}

typedef struct Injections {
  const FrozenTree *tree;
  ThreadProgram *const *tps; /* of 64-bit programs and of 32-bit ones */
  ProcessProgram **pps;
  GadgetCache *caches[2]; /* of each tracer */
  GError *errors[2];
} Injections;

typedef bool InjectStep(const Injections *w, guint i, unsigned which, GError **error);

static bool begin_one(const Injections *w, guint i, unsigned which, GError **error) {
  FrozenTask *task = w->tree->tasks->pdata[i];
  if (!w->pps[i])
    w->pps[i] = process_program_new(task);
  return task->owner[SHARE_MEMORY] != task ||
         begin_leader(w->tree, task, thread_program_get(w->tps[task->ia32]), w->pps, w->caches[which], error);
}

static bool proceed_one(const Injections *w, guint i, unsigned which, GError **error) {
  FrozenTask *task = w->tree->tasks->pdata[i];
  return task->owner[SHARE_MEMORY] != task || proceed_leader(task, error);
}

static bool finish_one(const Injections *w, guint i, unsigned which, GError **error) {
  FrozenTask *task = w->tree->tasks->pdata[i];
  const ThreadProgram *tp = w->tps[task->ia32];
  bool owns = task->owner[SHARE_MEMORY] == task;
  return (!owns || finish_leader(task, thread_program_get(tp), error)) && inject_threads(w->tree, task, tp, error);
}

static bool wait_one(const Injections *w, guint i, unsigned which, GError **error) {
  FrozenTask *task = w->tree->tasks->pdata[i];
  (void)which;
  return wait_task(w->tree, task, w->tps[task->ia32], w->pps[i], error);
}

static bool wait_one_process(const Injections *w, guint i, unsigned which, GError **error) {
  (void)which;
  return wait_process_program(w->tree->tasks->pdata[i], w->pps[i], error);
}

/* The first ones leave every task that has begun in the hands of its agents, or as it was. */
static InjectStep *const steps[] = {begin_one, proceed_one, finish_one, wait_one, wait_one_process};
enum { STEPS_OF_INJECTION = 3 };

static bool has_agents(const FrozenTask *task) {
  return !task->zombie && !task->no_agent;
}

/* The first error of a tracer's is kept. */
static void take_step(Injections *w, guint step, guint i, unsigned which) {
  GError *error = NULL;
  if (steps[step](w, i, which, &error))
    return;
  if (w->errors[which])
    g_error_free(error);
  else
    w->errors[which] = error;
}

/* Each step is taken by all of a tracer's tasks before the next, so that hardly anyone is waited for. What has begun is brought to its end even
 * where another has failed. */
static void inject_tasks_share(void *data, unsigned which) {
  Injections *w = data;
  for (guint step = 0; step < G_N_ELEMENTS(steps); step++)
    for (guint i = 0; i < w->tree->tasks->len; i++) {
      const FrozenTask *task = w->tree->tasks->pdata[i];
      bool begun = step && step < STEPS_OF_INJECTION;
      if (has_agents(task) && is_on_its_own(w->tree, task) && task->tracer == which && (begun ? task->injection != NULL : !w->errors[which]))
        take_step(w, step, i, which);
    }
}

/* Those whose threads have several tracers, or whose memory has several owners; the injection of all comes before the first is waited for. */
static void inject_others(Injections *w) {
  for (guint part = 0; part < 2; part++)
    for (guint i = 0; i < w->tree->tasks->len; i++) {
      const FrozenTask *task = w->tree->tasks->pdata[i];
      guint end = part ? G_N_ELEMENTS(steps) : STEPS_OF_INJECTION;
      for (guint step = part ? STEPS_OF_INJECTION : 0; step < end && !w->errors[0] && has_agents(task) && !is_on_its_own(w->tree, task); step++)
        take_step(w, step, i, 0);
    }
}

static bool inject_all(const FrozenTree *tree, ThreadProgram *const tps[2], ProcessProgram **pps, GError **error) {
  Injections w = {.tree = tree, .tps = tps, .pps = pps, .caches = {gadget_cache_new(), gadget_cache_new()}};
  tracers_run_apart(inject_tasks_share, &w);
  inject_others(&w);
  gadget_cache_free(w.caches[0]);
  gadget_cache_free(w.caches[1]);
  return engine_first_error(w.errors[0], w.errors[1], error);
}

bool collect_by_agents(Job *job, FrozenTree *tree, GError **error) {
  if (!frozen_group_check_v2(tree, error) || !stranger_wait(tree->helpers.stranger, error))
    return false;
  bool keys = traits_have_session_keys(tree);
  ThreadProgram *tps[2] = {thread_program_new(stranger_pid(tree->helpers.stranger), keys, false)};
  g_autofree ProcessProgram **pps = g_new0(ProcessProgram *, tree->tasks->len);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (task->zombie || task->no_agent)
      continue;
    if (tree->shares) /* room is made for all that share the memory */
      pps[i] = process_program_new(task);
    if (task->owner[SHARE_MEMORY] == task)
      task->region_at = choose_region(tree, task);
    if (task->ia32 && !tps[1])
      tps[1] = thread_program_new(stranger_pid(tree->helpers.stranger), keys, true);
  }
  if (!warden_is_active())
    (void)sweeper_tell(tree->helpers.sweeper, tree);
  bool ok = inject_all(tree, tps, pps, error);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    process_program_free(pps[i]);
    drop_xstates(task);
  }
  if (ok)
    traits_check(job, tree);
  ok = ok && landlock_check(job, tree, error);
  thread_program_free(tps[0]);
  thread_program_free(tps[1]);
  if (ok) {
    block_parent_signals(job, tree);
    block_segments(job, tree);
  }
  return ok && job_poll(job, error);
}

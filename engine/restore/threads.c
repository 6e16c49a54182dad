/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads: made by their leader's program, then each runs a program of its own. */
#include "frame.h"
#include "stages.h"
#include "tiles.h"
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define IOPRIO_WHO_PROCESS 1
#define ARCH_REQ_XCOMP_PERM_ 0x1023
#define SCHED_FLAG_UTIL_CLAMP_ 0x60
#define NSEC 1000000000ull

struct sched_attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max;
};

/* While there is one thread: with more of them the kernel waits for all processors. */
static void build_membarriers(const PlanTask *t, Program *p) {
  static const int registrations[] = {MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
      MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ};
  for (size_t i = 0; i < G_N_ELEMENTS(registrations) && t->owner[SHARE_MEMORY] == t; i++)
    if (t->task->extra && t->task->extra->membarrier & (guint32)registrations[i])
      PROGRAM_CALL(p, "membarrier", SYS_membarrier, ARG(registrations[i]), ARG(0), ARG(0));
}

static void build_clone(const Restore *r, const PlanThread *th, uint64_t more, Program *p) {
  const CkptThread *x = th->thread->extra;
  more |= x && x->table ? 0 : CLONE_FILES;
  struct clone_args args = {.flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | more, .set_tid_size = 1};
  uint64_t tid = (uint64_t)th->thread->tid;
  size_t data = program_data(p, &args, sizeof args), set_tid = program_data(p, &tid, sizeof tid);
  program_data_pointer(p, data + offsetof(struct clone_args, set_tid), set_tid);
  PROGRAM_CALL(p, "clone3 thread", SYS_clone3, ARG_DATA(data), ARG(sizeof args));
  program_child_lane(p, region_to_remote(r->region, th->lane));
  program_expect(p, EXPECT_EQUAL, th->thread->tid);
}

static const CkptThreadFs *fs_of(const PlanThread *th) {
  return th->thread->extra ? th->thread->extra->fs : NULL;
}

/* How many threads have the directory of the @k-th; *ret_first: whether it is the first of them. */
static guint count_sharers(const PlanTask *t, guint k, bool *ret_first) {
  guint n = 0;
  *ret_first = true;
  for (guint i = 1; i < t->threads->len; i++) {
    const CkptThreadFs *fs = fs_of(&g_array_index(t->threads, PlanThread, i));
    bool same = fs && fs->id == fs_of(&g_array_index(t->threads, PlanThread, k))->id;
    n += same;
    *ret_first &= !same || i >= k;
  }
  return n;
}

/* Threads with directories apart from their process: one alone gets a copy. Several get what the main thread has, which then
 * takes a copy for itself; that is possible only while no other process shares it (see verify-sharing.c). */
static void build_threads_apart(const Restore *r, const PlanTask *t, Program *p) {
  for (guint k = 1; k < t->threads->len; k++) {
    PlanThread *th = &g_array_index(t->threads, PlanThread, k);
    const CkptThreadFs *fs = fs_of(th);
    guint n = fs ? count_sharers(t, k, &th->sets_fs) : 0;
    if (n == 1)
      build_clone(r, th, 0, p);
    if (n < 2 || !th->sets_fs)
      continue;
    for (guint i = k; i < t->threads->len; i++) {
      const PlanThread *other = &g_array_index(t->threads, PlanThread, i);
      if (fs_of(other) && fs_of(other)->id == fs->id)
        build_clone(r, other, CLONE_FS, p);
    }
    PROGRAM_CALL(p, "unshare", SYS_unshare, ARG(CLONE_FS));
  }
}

bool threads_build_clones(Restore *r, PlanTask *t, Program *p, GError **error) {
  build_membarriers(t, p);
  if (t->task->extra && t->task->extra->has_tiles && t->task->extra->tiles)
    PROGRAM_CALL(p, "arch_prctl REQ_XCOMP_PERM (which needs a processor with AMX)", SYS_arch_prctl, ARG(ARCH_REQ_XCOMP_PERM_), ARG(TILES_FEATURE));
  PROGRAM_CALL(p, "personality", SYS_personality, ARG(t->task->core->tc->personality)); /* threads inherit it */
  /* SIGCHLD was let through, and ignored, while zombies ended; from here on signals are made pending again. */
  uint64_t all = ~0ull;
  size_t mask = program_data(p, &all, sizeof all);
  PROGRAM_CALL(p, "rt_sigprocmask", SYS_rt_sigprocmask, ARG(SIG_SETMASK), ARG_DATA(mask), ARG(0), ARG(sizeof all));
  build_threads_apart(r, t, p);
  for (guint k = 1; k < t->threads->len; k++)
    if (!fs_of(&g_array_index(t->threads, PlanThread, k)) && !g_array_index(t->threads, PlanThread, k).by_second)
      build_clone(r, &g_array_index(t->threads, PlanThread, k), CLONE_FS, p);
  return true;
}

/* What every thread of the tree is born with: this process's. */
typedef struct Inherited {
  bool known, plain; /* an ordinary policy */
  int32_t nice;
  guint64 timer_slack;
  long affinity_size;
  unsigned char affinity[1024];
} Inherited;

static const Inherited *inherited(void) {
  static Inherited i;
  struct sched_attributes a = {0};
  if (i.known)
    return &i;
  i.known = true;
  i.plain = syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0 && a.policy == SCHED_OTHER && !(a.flags & 1) && !a.util_min;
  i.nice = a.nice;
  i.timer_slack = (guint64)prctl(PR_GET_TIMERSLACK);
  i.affinity_size = syscall(SYS_sched_getaffinity, 0, sizeof i.affinity, i.affinity);
  return &i;
}

static bool has_plain_scheduling(const struct sched_attributes *a, const CkptThread *x) {
  const Inherited *i = inherited();
  return i->plain && a->policy == SCHED_OTHER && !a->flags && !a->priority && a->nice == i->nice && !(x && (x->has_util_min || x->has_sched_runtime));
}

static bool has_own_affinity(const CkptThread *x) {
  const Inherited *i = inherited();
  return x && x->has_affinity && x->affinity.len &&
         !((long)x->affinity.len == i->affinity_size && memcmp(x->affinity.data, i->affinity, x->affinity.len) == 0);
}

/* Of a thousand threads most have what they were born with. */
static void build_scheduling(const ThreadCoreEntry *tc, const CkptThread *x, Program *p) {
  struct sched_attributes a = {.size = offsetof(struct sched_attributes, util_min), .policy = tc->sched_policy, .nice = tc->sched_nice, .priority = tc->sched_prio};
  if (a.policy & SCHED_RESET_ON_FORK) { /* criu leaves it there */
    a.policy &= ~(uint32_t)SCHED_RESET_ON_FORK;
    a.flags = 1;
  }
  if (x && x->has_sched_flags)
    a.flags = x->sched_flags & 7; /* reset-on-fork, reclaim, overrun */
  if (x && x->has_sched_runtime)
    a.runtime = x->sched_runtime, a.deadline = x->sched_deadline, a.period = x->sched_period;
  bool plain = has_plain_scheduling(&a, x);
  if (!plain)
    PROGRAM_CALL(p, "setpriority", SYS_setpriority, ARG(PRIO_PROCESS), ARG(0), ARG((int64_t)tc->sched_nice));
  if (x && x->has_util_min) {
    a.size = sizeof a;
    a.flags |= SCHED_FLAG_UTIL_CLAMP_;
    a.util_min = x->util_min, a.util_max = x->util_max;
  }
  size_t at = plain ? 0 : program_data(p, &a, sizeof a);
  if (!plain)
    PROGRAM_CALL(p, a.runtime ? "sched_setattr with a deadline (are there processors enough to promise it?)" : "sched_setattr", SYS_sched_setattr,
        ARG(0), ARG_DATA(at), ARG(0));
  if (has_own_affinity(x)) {
    size_t mask = program_data(p, x->affinity.data, x->affinity.len);
    PROGRAM_CALL(p, "sched_setaffinity", SYS_sched_setaffinity, ARG(0), ARG(x->affinity.len), ARG_DATA(mask));
    program_expect(p, EXPECT_ANY, 0); /* another machine may have other processors */
  }
  if (x && x->has_ioprio && x->ioprio)
    PROGRAM_CALL(p, "ioprio_set", SYS_ioprio_set, ARG(IOPRIO_WHO_PROCESS), ARG(0), ARG(x->ioprio));
  if (x && x->has_timer_slack_nsec && x->timer_slack_nsec && x->timer_slack_nsec != inherited()->timer_slack)
    PROGRAM_CALL(p, "prctl SET_TIMERSLACK", SYS_prctl, ARG(PR_SET_TIMERSLACK), ARG(x->timer_slack_nsec), ARG(0), ARG(0), ARG(0));
}

static bool is_ia32(const CoreEntry *core) {
  return core->thread_info->gpregs->mode == USER_X86_REGS_MODE__COMPAT;
}

static void build_areas(const CoreEntry *core, const ThreadCoreEntry *tc, Program *p) {
  PROGRAM_CALL(p, "set_tid_address", SYS_set_tid_address, ARG(core->thread_info->clear_tid_addr));
  if (is_ia32(core))
    compat_build_areas(core, p);
  else if (tc->futex_rla_len)
    PROGRAM_CALL(p, "set_robust_list", SYS_set_robust_list, ARG(tc->futex_rla), ARG(tc->futex_rla_len));
  const ThreadSasEntry *sas = tc->sas;
  if (sas && !(sas->ss_flags & SS_DISABLE)) {
    /* SS_ONSTACK only says where it stands; the mode bit SS_AUTODISARM stays */
    struct {
      uint64_t sp;
      uint32_t flags, pad;
      uint64_t size;
    } ss = {sas->ss_sp, sas->ss_flags & ~1u, 0, sas->ss_size};
    size_t at = program_data(p, &ss, sizeof ss);
    PROGRAM_CALL(p, "sigaltstack", SYS_sigaltstack, ARG_DATA(at), ARG(0));
  }
  const RseqEntry *q = tc->rseq_entry;
  if (q && q->rseq_abi_pointer)
    PROGRAM_CALL(p, "rseq", SYS_rseq, ARG(q->rseq_abi_pointer), ARG(q->rseq_abi_size), ARG(0), ARG(q->signature));
}

/* The interrupted sleep is begun anew with what was left; it will be interrupted, too, but then its end lies in the kernel
 * as it did before the dump. */
static void build_sleep(PlanThread *th, Program *p) {
  const CkptSleep *s = th->thread->extra ? th->thread->extra->sleep : NULL;
  const UserX86RegsEntry *g = th->thread->core->thread_info->gpregs;
  if (!s || th->thread->extra->interrupted != KERNEL_ERESTART_RESTARTBLOCK)
    return;
  struct timespec left = {(time_t)(s->remaining_nsec / NSEC), (long)(s->remaining_nsec % NSEC)};
  size_t at = program_data(p, &left, sizeof left);
  guint64 msec = (s->remaining_nsec + 999999) / 1000000;
  if (is_ia32(th->thread->core)) {
    th->op_sleep = compat_build_sleep(g, s->syscall_nr, &left, msec, p);
    if (th->op_sleep >= 0)
      program_expect(p, EXPECT_ANY, 0);
    return;
  }
  switch (s->syscall_nr) {
  case SYS_nanosleep:
    th->op_sleep = (long)PROGRAM_CALL(p, "nanosleep", SYS_nanosleep, ARG_DATA(at), ARG(g->si));
    break;
  case SYS_clock_nanosleep:
    th->op_sleep = (long)PROGRAM_CALL(p, "clock_nanosleep", SYS_clock_nanosleep, ARG(g->di), ARG(0), ARG_DATA(at), ARG(g->r10));
    break;
  case SYS_poll:
    if ((int)g->dx < 0)
      return;
    th->op_sleep = (long)PROGRAM_CALL(p, "poll", SYS_poll, ARG(g->di), ARG(g->si), ARG(msec));
    break;
  case SYS_futex:
    if ((g->si & FUTEX_CMD_MASK) != FUTEX_WAIT)
      return; /* its end is no span of time */
    th->op_sleep = (long)PROGRAM_CALL(p, "futex", SYS_futex, ARG(g->di), ARG(g->si), ARG(g->dx), ARG_DATA(at), ARG(g->r8), ARG(g->r9));
    break;
  default:
    return;
  }
  program_expect(p, EXPECT_ANY, 0);
}

/* The kernel takes tiles only for a thread that has used some: it has no room for them before. */
static void build_tiles(const CkptThread *x, Program *p) {
  if (!x || !x->tiles)
    return;
  size_t config = program_data(p, x->tiles->config.data, x->tiles->config.len);
  PROGRAM_CALL(p, "arch_prctl REQ_XCOMP_PERM and ldtilecfg", SYS_arch_prctl, ARG(ARCH_REQ_XCOMP_PERM_), ARG(TILES_FEATURE), ARG_DATA(config));
  program_use_tiles(p);
}

static bool build_thread(Restore *r, PlanTask *t, PlanThread *th, bool leader, Program *p, GError **error) {
  const CoreEntry *core = th->thread->core;
  const ThreadCoreEntry *tc = core->thread_core;
  if (!tc || !core->thread_info || !tc->creds)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-%d.img has no thread state", (int)th->thread->tid);
  const char *comm = tc->comm ? tc->comm : t->task->core->tc->comm;
  size_t name = program_string(p, comm);
  PROGRAM_CALL(p, "prctl SET_NAME", SYS_prctl, ARG(PR_SET_NAME), ARG_DATA(name));
  build_tiles(th->thread->extra, p);
  if (!files_build_thread_table(r, th, p, error) || !files_build_thread_fs(r, t, th, p, error))
    return false;
  build_areas(core, tc, p);
  build_scheduling(tc, th->thread->extra, p);
  details_build_thread(r, th->thread, p);
  timers_build_taken(t, th->thread->tid, p);
  if (!timers_queue_signals(t, th, tc->signals_p, p, error))
    return false;
  traits_build(r, th->thread, p);
  if (!seccomp_build(r, t, th, p, error))
    return false;
  creds_build(r, tc->creds, p);
  if (leader && r->restorer && !restorer_late_program(r->restorer, t->task, p, error))
    return false;
  if (leader && !rings_build_late(r, t, p, error))
    return false;
  if (tc->has_pdeath_sig && tc->pdeath_sig)
    PROGRAM_CALL(p, "prctl SET_PDEATHSIG", SYS_prctl, ARG(PR_SET_PDEATHSIG), ARG(tc->pdeath_sig), ARG(0), ARG(0), ARG(0));
  if (th->thread->extra && leader && t->task->extra && t->task->extra->has_keepcaps && t->task->extra->keepcaps)
    PROGRAM_CALL(p, "prctl SET_KEEPCAPS", SYS_prctl, ARG(PR_SET_KEEPCAPS), ARG(1), ARG(0), ARG(0), ARG(0));
  build_sleep(th, p);
  return true;
}

bool threads_print(Restore *r, PlanTask *t, FILE *out, GError **error) {
  for (guint k = 0; k < t->threads->len; k++) {
    PlanThread *th = &g_array_index(t->threads, PlanThread, k);
    g_autoptr(Program) p = program_new();
    if (!build_thread(r, t, th, k == 0, p, error))
      return false;
    (void)fprintf(out, "  thread %d\n", (int)th->thread->tid);
    program_print(p, out);
  }
  return true;
}

static bool prepare_thread(Restore *r, PlanTask *t, guint k, GError **error) {
  PlanThread *th = &g_array_index(t->threads, PlanThread, k);
  if (th->program)
    return true;
  th->program = program_new();
  g_ptr_array_add(r->programs, th->program);
  return build_thread(r, t, th, k == 0, th->program, error);
}

static bool load_thread(Restore *r, PlanTask *t, guint k, GError **error) {
  PlanThread *th = &g_array_index(t->threads, PlanThread, k);
  if (!prepare_thread(r, t, k, error) || !region_load(r->region, th->program, NULL, &th->loaded, error))
    return false;
  for (size_t i = 0; i < program_n_ops(th->program); i++)
    th->loaded.results[i] = RESULT_PENDING;
  th->progress = THREAD_LOADED;
  return true;
}

static bool start_thread(Restore *r, PlanTask *t, guint k, GError **error) {
  PlanThread *th = &g_array_index(t->threads, PlanThread, k);
  if (th->progress >= THREAD_STARTED)
    return true;
  if ((th->progress == THREAD_UNBUILT && !load_thread(r, t, k, error)) || !seccomp_seize(t, th, error))
    return false;
  region_start(r->region, th->lane, &th->loaded);
  th->progress = THREAD_STARTED;
  return true;
}

/* What concerns nobody else, and needs nothing that a later stage brings. */
static bool is_private(uint32_t nr, uint64_t first) {
  return (nr == SYS_prctl && first == PR_SET_NAME) || nr == SYS_set_tid_address || nr == SYS_set_robust_list || nr == SYS_sigaltstack ||
         nr == SYS_rseq;
}

/* Where it is worth while to build programs beforehand, and that two threads make the others. */
#define MANY_THREADS 64u
#define MANY_TO_MAKE 256u

/* Of others it is yet to be seen what they have. */
static bool can_prepare(const PlanThread *th) {
  const CkptThread *x = th->thread->extra;
  return !x || (!x->table && !x->fs);
}

/* The second thread makes every other one, beside the main thread, if it is on its way as soon as it exists. */
static void share_making(const Restore *r, PlanTask *t) {
  PlanThread *second = &g_array_index(t->threads, PlanThread, 1);
  if (t->threads->len < MANY_TO_MAKE || !second->program || !program_all(second->program, is_private))
    return;
  for (guint k = 3; k < t->threads->len; k += 2) {
    PlanThread *th = &g_array_index(t->threads, PlanThread, k);
    th->by_second = can_prepare(th);
    if (th->by_second)
      build_clone(r, th, CLONE_FS, second->program);
  }
}

bool threads_prepare(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 1; t->threads->len >= MANY_THREADS && k < t->threads->len; k++)
      if (can_prepare(&g_array_index(t->threads, PlanThread, k)) && !prepare_thread(r, t, k, error))
        return false;
    if (t->threads->len > 1)
      share_making(r, t);
  }
  return true;
}

/* The second's is, but for those that it makes. */
static bool is_early(uint32_t nr, uint64_t first) {
  return is_private(nr, first) || nr == SYS_clone3;
}

/* In the order in which they are made. One that is born with a program does not have to be woken for it. */
bool threads_begin(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 1; t->threads->len >= MANY_THREADS && k < t->threads->len; k++) {
      PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (!can_prepare(th))
        continue;
      if (!load_thread(r, t, k, error))
        return false;
      if (!program_all(th->loaded.program, is_early))
        continue;
      region_start(r->region, th->lane, &th->loaded);
      th->progress = THREAD_STARTED;
    }
  }
  return true;
}

/* A sleeping thread is ready when it has come to its sleep: the op before has a result, and it is no error. */
static bool wait_sleeper(PlanThread *th, GError **error) {
  const volatile int64_t *before = &th->loaded.results[th->op_sleep - 1];
  for (int patience = 0; *before == RESULT_PENDING; patience++) {
    if (region_is_done(th->lane) || patience > 20000)
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "tid %d: its program stopped after %" G_GUINT64_FORMAT " system calls",
          (int)th->thread->tid, th->lane->stopped);
    g_usleep(patience < 10 ? 20 : 500);
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  guint64 left = MIN(th->thread->extra->sleep->remaining_nsec, (guint64)G_MAXINT64 / 4);
  th->sleep_end_nsec = now.tv_sec * (gint64)NSEC + now.tv_nsec + (gint64)left;
  return true;
}

static bool wait_thread(Restore *r, PlanTask *t, PlanThread *th, GError **error) {
  if (th->progress == THREAD_DONE)
    return true;
  th->progress = THREAD_DONE;
  if (th->op_sleep >= 0)
    return wait_sleeper(th, error);
  g_autofree char *who = g_strdup_printf("tid %d", (int)th->thread->tid);
  return region_wait(r->region, th->lane, th->thread->tid, error) && region_check(th->lane, &th->loaded, who, error);
}

bool threads_await_begun(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; k < t->threads->len; k++) {
      PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (th->progress == THREAD_STARTED && !wait_thread(r, t, th, error))
        return false;
    }
  }
  return true;
}

bool threads_run(Restore *r, GError **error) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = t->threads->len; k-- > 0;)
      if (!start_thread(r, t, k, error))
        return false;
  }
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; k < t->threads->len; k++)
      if (!wait_thread(r, t, &g_array_index(t->threads, PlanThread, k), error))
        return false;
  }
  return job_poll(r->job, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "overruns.h"
#include "collect.h"
#include "tracee.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#define NSEC 1000000000ll
#define N_LEGACY 32 /* signals below are not queued */
#define FIRE_NSEC 1000000 /* a timer armed in the past goes off within */

/* One pending signal: where it stands, and the ops that handle it. */
typedef struct Pending {
  siginfo_t info;
  bool shared;
  const PosixTimerEntry *timer; /* borrowed; NULL: not a timer's */
  size_t op_take, data, spec;
} Pending;

static bool is_cpu_clock(guint32 clock) {
  return (gint32)clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

static const TaskTimersEntry *timers_of(const FrozenTask *task) {
  return task->model && task->model->core && task->model->core->tc ? task->model->core->tc->timers : NULL;
}

static gint64 interval_of(const PosixTimerEntry *e) {
  return (gint64)e->isec * NSEC + (gint64)e->insec;
}

static const PosixTimerEntry *find_timer(const FrozenTask *task, const siginfo_t *info) {
  const TaskTimersEntry *t = timers_of(task);
  for (size_t i = 0; t && info->si_code == SI_TIMER && i < t->n_posix; i++)
    if ((gint32)t->posix[i]->it_id == info->si_timerid && t->posix[i]->si_signo == (guint32)info->si_signo)
      return t->posix[i];
  return NULL;
}

/* --- the second look --- */

static bool has_itimer(const ItimerEntry *e) {
  return e && (e->isec || e->iusec || e->vsec || e->vusec);
}

/* A single shot that has gone off is disarmed: it counts like one that runs. */
static bool has_timers(const FrozenTask *task) {
  const TaskTimersEntry *t = timers_of(task);
  if (!t)
    return false;
  for (size_t i = 0; i < t->n_posix; i++)
    if (t->posix[i]->it_sigev_notify != SIGEV_NONE)
      return true;
  return has_itimer(t->real) || has_itimer(t->virt) || has_itimer(t->prof);
}

static bool is_notified(const FrozenTask *task, pid_t tid) {
  const TaskTimersEntry *t = timers_of(task);
  for (size_t i = 0; i < t->n_posix; i++)
    if (t->posix[i]->has_notify_thread_id && t->posix[i]->notify_thread_id == tid)
      return true;
  return false;
}

static bool queue_has(const SignalQueueEntry *q, const PosixTimerEntry *timer) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info;
    memcpy(&info, q->signals[i]->siginfo.data, sizeof info);
    if (info.si_code == SI_TIMER && info.si_timerid == (gint32)timer->it_id && info.si_signo == (int)timer->si_signo)
      return true;
  }
  return false;
}

/* It went off between the two looks at it, the one at what is left and the one at its signal: what was left is the rest of
 * an interval that has passed. */
static void advance_timers(FrozenTask *task, const SignalQueueEntry *before, const SignalQueueEntry *now, gint64 looked) {
  TaskTimersEntry *t = task->model->core->tc->timers;
  for (size_t i = 0; i < t->n_posix; i++) {
    PosixTimerEntry *e = t->posix[i];
    gint64 left = (gint64)e->vsec * NSEC + (gint64)e->vnsec;
    if (!left || left > looked * 1000 || is_cpu_clock(e->clock_id) || queue_has(before, e) || !queue_has(now, e))
      continue;
    left = interval_of(e) ? left + interval_of(e) : 0;
    e->vsec = (guint64)(left / NSEC), e->vnsec = (guint64)(left % NSEC);
  }
}

static void replace_queue(FrozenTask *task, SignalQueueEntry **q, SignalQueueEntry *now, gint64 looked) {
  advance_timers(task, *q, now, looked);
  if (*q)
    signal_queue_entry__free_unpacked(*q, NULL);
  *q = now;
}

static bool stop_agent(const FrozenTask *task, const FrozenThread *t, GError **error) {
  int e = tracee_interrupt(t->state.tid);
  return e == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: cannot stop tid %d", (int)task->pid, (int)t->state.tid);
}

static bool resume_agent(const FrozenTask *task, const FrozenThread *t, GError **error) {
  int e = tracee_resume(t->state.tid, PTRACE_CONT);
  return e == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d: cannot resume tid %d", (int)task->pid, (int)t->state.tid);
}

bool overruns_look_again(FrozenTask *task, GError **error) {
  task->timers_at = g_get_monotonic_time();
  if (task->stopped || !has_timers(task)) /* what stands still for longer has its signals pending already */
    return true;
  for (guint k = 0; k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (k && !is_notified(task, t->state.tid))
      continue;
    if (!stop_agent(task, t, error))
      return false;
    SignalQueueEntry *own = collect_signals(t->state.tid, false), *shared = k ? NULL : collect_signals(t->state.tid, true);
    gint64 looked = g_get_monotonic_time() - task->timers_at + 1;
    replace_queue(task, &t->model->core->thread_core->signals_p, own, looked);
    if (shared)
      replace_queue(task, &task->model->core->tc->signals_s, shared, looked);
    if (!resume_agent(task, t, error))
      return false;
  }
  return true;
}

/* --- taking and putting back --- */

static void add_pending(const FrozenTask *task, const SignalQueueEntry *q, bool shared, GArray *all) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    Pending p = {.shared = shared};
    memcpy(&p.info, q->signals[i]->siginfo.data, sizeof p.info);
    p.timer = find_timer(task, &p.info);
    g_array_append_val(all, p);
  }
}

/* Would taking it change what the program sees? timer_getoverrun(2) speaks of the last signal that was taken. And of a legacy
 * number only timers have more than one signal pending: the kernel would not put a second one back. */
static bool may_take(const Pending *s, const GArray *all, bool ends) {
  const PosixTimerEntry *timer = s->timer;
  guint same = 0;
  for (guint i = 0; i < all->len; i++)
    same += g_array_index(all, Pending, i).info.si_signo == s->info.si_signo;
  return ends || (interval_of(timer) && !timer->overrun && !is_cpu_clock(timer->clock_id) && (same == 1 || s->info.si_signo >= N_LEGACY));
}

/* Keeps those whose number a timer uses that is to be asked. */
static void select_numbers(GArray *all, const bool wanted[static 65]) {
  for (guint i = all->len; i-- > 0;) {
    int signo = g_array_index(all, Pending, i).info.si_signo;
    if (signo < 1 || signo > 64 || !wanted[signo])
      g_array_remove_index(all, i);
  }
}

/* In the order in which they are taken: numbers apart, the thread's own first. */
static void add_takes(Program *p, GArray *all) {
  const struct timespec none = {0};
  size_t zero = program_data(p, &none, sizeof none);
  for (guint i = 0; i < all->len; i++) {
    Pending *s = &g_array_index(all, Pending, i);
    uint64_t mask = 1ull << (s->info.si_signo - 1);
    size_t set = program_data(p, &mask, sizeof mask);
    s->data = program_data(p, &s->info, sizeof s->info);
    s->op_take = PROGRAM_CALL(p, "rt_sigtimedwait", SYS_rt_sigtimedwait, ARG_DATA(set), ARG_DATA(s->data), ARG_DATA(zero), ARG(sizeof mask));
    program_expect(p, EXPECT_ANY, 0);
  }
}

/* As it was taken; nothing, where nothing was. */
static void add_put_back(const FrozenTask *task, const FrozenThread *t, const Pending *s, Program *p) {
  if (s->shared)
    PROGRAM_CALL(p, "rt_sigqueueinfo", SYS_rt_sigqueueinfo, ARG(task->pid), ARG_RESULT(s->op_take), ARG_DATA(s->data));
  else
    PROGRAM_CALL(p, "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, ARG(task->pid), ARG(t->state.tid), ARG_RESULT(s->op_take), ARG_DATA(s->data));
  program_expect(p, EXPECT_ANY, 0);
}

/* There may be more of them than there was room made for: then they stay as they are. */
static bool load(Job *job, const FrozenTask *task, const Program *p, LoadedProgram *ret) {
  g_autoptr(GError) why = NULL;
  bool ok = region_load(injection_region(task->injection), p, NULL, ret, &why);
  if (!ok)
    job_log(job, 3, "pid %d: overruns of its timers are not counted: %s", (int)task->pid, why->message);
  return ok;
}

/* Runs it in the thread's agent. */
static bool run(const FrozenTask *task, FrozenThread *t, LoadedProgram *ret, GError **error) {
  Region *region = injection_region(task->injection);
  region_start(region, t->lane, ret);
  g_autofree char *who = g_strdup_printf("tid %d", (int)t->state.tid);
  return region_wait(region, t->lane, t->state.tid, error) && region_check(t->lane, ret, who, error);
}

static void set_queue(SignalQueueEntry *q, const GArray *all, const LoadedProgram *l, bool shared) {
  size_t kept = 0;
  g_autofree bool *used = g_new0(bool, all->len + 1);
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info;
    memcpy(&info, q->signals[i]->siginfo.data, sizeof info);
    bool stale = false;
    for (guint k = 0; k < all->len; k++) {
      const Pending *s = &g_array_index(all, Pending, k);
      if (used[k] || s->shared != shared || memcmp(&s->info, &info, sizeof info) != 0)
        continue;
      used[k] = true;
      /* a timer that was set anew: the kernel (6.13) drops its old signal instead of handing it out */
      stale = l->results[s->op_take] != info.si_signo;
      if (!stale)
        memcpy(q->signals[i]->siginfo.data, l->data + s->data, sizeof info);
      break;
    }
    if (stale)
      siginfo_entry__free_unpacked(q->signals[i], NULL);
    else
      q->signals[kept++] = q->signals[i];
  }
  if (q)
    q->n_signals = kept;
}

/* What the taken signal counts, and since when; and how much of that was so when the timers were read. */
static void note_first(FrozenTask *task, guint thread, const PosixTimerEntry *timer, const struct itimerspec *left, siginfo_t *info) {
  struct timespec now;
  gint64 interval = interval_of(timer), count = MAX(info->si_overrun, 0);
  if (!interval || is_cpu_clock(timer->clock_id) || clock_gettime((clockid_t)timer->clock_id, &now) < 0)
    return;
  gint64 next = now.tv_sec * NSEC + now.tv_nsec + left->it_value.tv_sec * NSEC + left->it_value.tv_nsec, since = 0;
  TimerFirst f = {.id = (gint32)timer->it_id, .thread = thread, .interval = interval};
  if (__builtin_mul_overflow(count + 1, interval, &since))
    return;
  f.first = next - since;
  g_array_append_val(task->overruns, f);
  gint64 then = (gint64)timer->vsec * NSEC + (gint64)timer->vnsec - (g_get_monotonic_time() - task->timers_at) * 1000;
  gint64 later = (left->it_value.tv_sec * NSEC + left->it_value.tv_nsec - then + interval / 2) / interval;
  info->si_overrun = (int)CLAMP(count - MAX(later, 0), 0, count);
}

static bool take_of_thread(Job *job, FrozenTask *task, guint k, bool ends, GError **error) {
  FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
  SignalQueueEntry *own = t->model->core->thread_core->signals_p, *shared = k ? NULL : task->model->core->tc->signals_s;
  g_autoptr(GArray) all = g_array_new(FALSE, TRUE, sizeof(Pending));
  bool wanted[65] = {false}, any = false;
  add_pending(task, own, false, all);
  add_pending(task, shared, true, all);
  for (guint i = 0; i < all->len; i++) {
    const Pending *s = &g_array_index(all, Pending, i);
    if (s->timer && may_take(s, all, ends))
      wanted[s->info.si_signo] = any = true;
  }
  if (!any)
    return true;
  select_numbers(all, wanted);
  g_autoptr(Program) p = program_new();
  add_takes(p, all);
  for (guint i = 0; i < all->len; i++) {
    Pending *s = &g_array_index(all, Pending, i);
    s->spec = s->timer ? program_data(p, NULL, sizeof(struct itimerspec)) : 0;
    if (s->timer)
      PROGRAM_CALL(p, "timer_gettime", SYS_timer_gettime, ARG(s->timer->it_id), ARG_DATA(s->spec));
  }
  for (guint i = 0; i < all->len; i++)
    add_put_back(task, t, &g_array_index(all, Pending, i), p);
  Region *region = injection_region(task->injection);
  size_t mark = region_mark(region);
  LoadedProgram loaded;
  if (!load(job, task, p, &loaded))
    return true;
  if (!run(task, t, &loaded, error))
    return false;
  for (guint i = 0; i < all->len; i++) {
    const Pending *s = &g_array_index(all, Pending, i);
    siginfo_t *info = (siginfo_t *)(void *)(loaded.data + s->data);
    struct itimerspec left;
    if (!s->timer || loaded.results[s->op_take] != s->info.si_signo || find_timer(task, info) != s->timer)
      continue;
    memcpy(&left, loaded.data + s->spec, sizeof left);
    note_first(task, k, s->timer, &left, info);
  }
  set_queue(own, all, &loaded, false);
  set_queue(shared, all, &loaded, true);
  region_release(region, mark);
  return true;
}

bool overruns_take(Job *job, FrozenTree *tree, GError **error) {
  const EngineOptions *o = job_options(job);
  bool ends = !o->leave_running && !o->leave_stopped;
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    const TaskTimersEntry *timers = timers_of(task);
    if (task->zombie || !task->injection || !timers || !timers->n_posix)
      continue;
    task->overruns = g_array_new(FALSE, FALSE, sizeof(TimerFirst));
    for (guint k = 0; k < task->threads->len; k++)
      if (!take_of_thread(job, task, k, ends, error))
        return false;
  }
  return true;
}

/* --- the timers' own again --- */

/* Only once: what its timer has queued since is among what it counts. */
static const TimerFirst *claim_first(const FrozenTask *task, const Pending *s, bool *claimed) {
  for (guint i = 0; s->timer && i < task->overruns->len; i++) {
    const TimerFirst *f = &g_array_index(task->overruns, TimerFirst, i);
    if (f->id != (gint32)s->timer->it_id)
      continue;
    if (claimed[i])
      return NULL;
    claimed[i] = true;
    return f;
  }
  return NULL;
}

static bool has_first(const FrozenTask *task, const Pending *s) {
  for (guint i = 0; s->timer && i < task->overruns->len; i++)
    if (g_array_index(task->overruns, TimerFirst, i).id == (gint32)s->timer->it_id)
      return true;
  return false;
}

static void add_arm(const TimerFirst *f, Program *p) {
  struct itimerspec v = {{f->interval / NSEC, f->interval % NSEC}, {f->first / NSEC, f->first % NSEC}};
  const struct timespec moment = {.tv_nsec = FIRE_NSEC};
  size_t at = program_data(p, &v, sizeof v), pause = program_data(p, &moment, sizeof moment);
  PROGRAM_CALL(p, "timer_settime", SYS_timer_settime, ARG(f->id), ARG(TIMER_ABSTIME), ARG_DATA(at), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  /* What comes next is behind it. (Not nanosleep(2): that would take the restart block of a thread that sleeps in one.) */
  PROGRAM_CALL(p, "ppoll", SYS_ppoll, ARG(0), ARG(0), ARG_DATA(pause), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
}

static bool return_of_thread(Job *job, FrozenTask *task, guint k, GError **error) {
  FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
  g_autoptr(GArray) all = g_array_new(FALSE, TRUE, sizeof(Pending));
  g_autofree bool *claimed = g_new0(bool, task->overruns->len);
  bool mine = false;
  for (guint i = 0; i < task->overruns->len; i++)
    mine |= g_array_index(task->overruns, TimerFirst, i).thread == k;
  if (!mine)
    return true;
  bool wanted[65] = {false};
  if (!stop_agent(task, t, error))
    return false;
  SignalQueueEntry *own = collect_signals(t->state.tid, false), *shared = k ? NULL : collect_signals(t->state.tid, true);
  add_pending(task, own, false, all);
  add_pending(task, shared, true, all);
  signal_queue_entry__free_unpacked(own, NULL);
  if (shared)
    signal_queue_entry__free_unpacked(shared, NULL);
  if (!resume_agent(task, t, error))
    return false;
  for (guint i = 0; i < all->len; i++) {
    const Pending *s = &g_array_index(all, Pending, i);
    if (has_first(task, s))
      wanted[s->info.si_signo] = true;
  }
  select_numbers(all, wanted);
  g_autoptr(Program) p = program_new();
  add_takes(p, all);
  for (guint i = 0; i < all->len; i++) {
    const Pending *s = &g_array_index(all, Pending, i);
    const TimerFirst *f = claim_first(task, s, claimed);
    if (f)
      add_arm(f, p);
    else if (!has_first(task, s))
      add_put_back(task, t, s, p);
  }
  for (guint i = 0; i < task->overruns->len; i++) { /* a second signal of a legacy number is not put back by the kernel */
    const TimerFirst *f = &g_array_index(task->overruns, TimerFirst, i);
    if (f->thread == k && !claimed[i])
      add_arm(f, p);
  }
  LoadedProgram loaded;
  size_t mark = region_mark(injection_region(task->injection));
  bool ok = !load(job, task, p, &loaded) || run(task, t, &loaded, error);
  region_release(injection_region(task->injection), mark);
  return ok;
}

void overruns_return(Job *job, FrozenTask *task) {
  for (guint k = 0; task->overruns && task->overruns->len && k < task->threads->len; k++) {
    g_autoptr(GError) why = NULL;
    if (!return_of_thread(job, task, k, &why))
      job_log(job, 3, "%s", why->message);
  }
  g_clear_pointer(&task->overruns, g_array_unref);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Timers of a process and signals that are pending, for the ones are the other's. The signal of a POSIX timer that waits to be
 * taken counts the timer's further expirations, and only the timer's own does. The kernel makes it again: a timer that is armed
 * at a time in the past goes off at once, and when its signal is taken it counts the expirations since (timer_settime(2)). */
#include "stages.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define PR_TIMER_CREATE_RESTORE_IDS_ 77
#define MAX_TIMER_GAP 65536
#define NSEC 1000000000ll
#define FIRE_NSEC 1000000 /* a timer armed in the past goes off within */
#define TAKE_NSEC 500000000 /* or at most, when somebody waits for it */

static void build_itimer(int which, const ItimerEntry *e, Program *p) {
  if (!e || !(e->vsec || e->vusec || e->isec || e->iusec))
    return;
  struct itimerval v = {{(time_t)e->isec, (suseconds_t)e->iusec}, {(time_t)e->vsec, (suseconds_t)e->vusec}};
  if (!e->vsec && !e->vusec)
    v.it_value.tv_usec = 1; /* it has fired and waits for its signal to be taken: it does so again, at once */
  size_t at = program_data(p, &v, sizeof v);
  PROGRAM_CALL(p, "setitimer", SYS_setitimer, ARG(which), ARG_DATA(at), ARG(0));
}

/* Ids: asked for directly where the kernel can (6.15), else timers are made and deleted until the id comes up. */
static bool kernel_takes_timer_ids(void) {
  static int known = -1;
  if (known < 0) {
    known = prctl(PR_TIMER_CREATE_RESTORE_IDS_, 1, 0, 0, 0) == 0 && !g_getenv("CHECKPOINTD_NO_TIMER_IDS");
    (void)prctl(PR_TIMER_CREATE_RESTORE_IDS_, 0, 0, 0, 0);
  }
  return known;
}

static void create_timer(const PosixTimerEntry *e, guint32 id, Program *p) {
  struct sigevent event = {.sigev_notify = (int)e->it_sigev_notify, .sigev_signo = (int)e->si_signo};
  event.sigev_value.sival_ptr = (void *)(uintptr_t)e->sival_ptr;
  event._sigev_un._tid = e->notify_thread_id;
  int wanted = (int)id;
  size_t ev = program_data(p, &event, sizeof event), at = program_data(p, &wanted, sizeof wanted);
  PROGRAM_CALL(p, "timer_create", SYS_timer_create, ARG((gint64)(int)e->clock_id), ARG_DATA(ev), ARG_DATA(at));
}

/* When it went off first, by its clock, if it has done so @n_past times and goes on as it did; 0: that was before the clock
 * began (a clock of processor time, or of a machine that has just started). */
static gint64 first_of(const PosixTimerEntry *e, gint64 n_past) {
  struct timespec now;
  gint64 interval, since, next = (gint64)e->vsec * NSEC + (gint64)e->vnsec;
  if ((gint32)e->clock_id < 0 || e->clock_id == CLOCK_PROCESS_CPUTIME_ID || e->clock_id == CLOCK_THREAD_CPUTIME_ID ||
      __builtin_mul_overflow((gint64)e->isec, NSEC, &interval) || __builtin_add_overflow(interval, (gint64)e->insec, &interval) ||
      __builtin_mul_overflow(interval, n_past, &since) || clock_gettime((clockid_t)e->clock_id, &now) < 0)
    return 0;
  gint64 at = now.tv_sec * NSEC + now.tv_nsec;
  return next < 0 || next > G_MAXINT64 / 4 || at + next <= since ? 0 : MIN(at + next - since, at);
}

static void arm_in_past(const PosixTimerEntry *e, gint64 first, Program *p) {
  struct itimerspec v = {{(time_t)e->isec, (long)e->insec}, {first / NSEC, first % NSEC}};
  size_t at = program_data(p, &v, sizeof v);
  PROGRAM_CALL(p, "timer_settime ABSTIME", SYS_timer_settime, ARG(e->it_id), ARG(TIMER_ABSTIME), ARG_DATA(at), ARG(0));
}

static bool is_own_signal(const PosixTimerEntry *e, const siginfo_t *info, pid_t tid) {
  bool directed = e->has_notify_thread_id && e->notify_thread_id;
  return info->si_code == SI_TIMER && info->si_timerid == (gint32)e->it_id && (guint32)info->si_signo == e->si_signo &&
         (guint64)(uintptr_t)info->si_value.sival_ptr == e->sival_ptr && e->it_sigev_notify != SIGEV_NONE &&
         (directed ? e->notify_thread_id == tid : !tid);
}

static const SignalQueueEntry *queue_of(const PlanTask *t, const PosixTimerEntry *e) {
  if (!e->has_notify_thread_id || !e->notify_thread_id)
    return t->task->core->tc->signals_s;
  for (guint k = 0; k < t->threads->len; k++) {
    const Thread *th = g_array_index(t->threads, PlanThread, k).thread;
    if (th->tid == e->notify_thread_id)
      return th->core->thread_core->signals_p;
  }
  return NULL;
}

/* Where its own signal stands in its queue, -1: it has none that can be made again; *ret_first: how. */
static gssize own_signal(const PlanTask *t, const PosixTimerEntry *e, gint64 *ret_first) {
  const SignalQueueEntry *q = queue_of(t, e);
  pid_t tid = e->has_notify_thread_id ? e->notify_thread_id : 0;
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info;
    if (q->signals[i]->siginfo.len != sizeof info)
      continue;
    memcpy(&info, q->signals[i]->siginfo.data, sizeof info);
    bool runs = e->vsec || e->vnsec;
    if (!is_own_signal(e, &info, tid) || (!runs && (e->isec || e->insec)))
      continue;
    *ret_first = first_of(e, runs ? (gint64)MAX(info.si_overrun, 0) + 1 : 0);
    return *ret_first > 0 && (runs ? e->isec || e->insec : true) ? (gssize)i : -1;
  }
  return -1;
}

static const PosixTimerEntry *timer_of_signal(const PlanTask *t, const SignalQueueEntry *q, size_t i, gint64 *ret_first) {
  const TaskTimersEntry *timers = t->task->core->tc->timers;
  for (size_t k = 0; timers && k < timers->n_posix; k++)
    if (queue_of(t, timers->posix[k]) == q && own_signal(t, timers->posix[k], ret_first) == (gssize)i)
      return timers->posix[k];
  return NULL;
}

static bool number_follows(const SignalQueueEntry *q, size_t i, int signo) {
  for (size_t k = i + 1; k < q->n_signals; k++) {
    siginfo_t info;
    memcpy(&info, q->signals[k]->siginfo.data, MIN(sizeof info, q->signals[k]->siginfo.len));
    if (info.si_signo == signo)
      return true;
  }
  return false;
}

static bool queue_has_stop(const SignalQueueEntry *q) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info = {0};
    memcpy(&info, q->signals[i]->siginfo.data, MIN(sizeof info, q->signals[i]->siginfo.len));
    if (info.si_signo == SIGSTOP)
      return true;
  }
  return false;
}

bool timers_has_stop(const PlanTask *t) {
  bool found = t->task->core->tc && queue_has_stop(t->task->core->tc->signals_s);
  for (guint k = 0; !found && k < t->threads->len; k++)
    found = queue_has_stop(g_array_index(t->threads, PlanThread, k).thread->core->thread_core->signals_p);
  return found;
}

bool timers_queue_signals(const PlanTask *t, const PlanThread *th, const SignalQueueEntry *q, Program *p, GError **error) {
  for (size_t i = 0; q && i < q->n_signals; i++) {
    siginfo_t info;
    gint64 first = 0;
    if (q->signals[i]->siginfo.len != sizeof info)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-%d.img: a pending signal of %zu bytes",
          th ? (int)th->thread->tid : (int)t->pid, q->signals[i]->siginfo.len);
    memcpy(&info, q->signals[i]->siginfo.data, sizeof info);
    if (info.si_signo == SIGSTOP) /* would stop the agent: timers_has_stop() */
      continue;
    const PosixTimerEntry *timer = timer_of_signal(t, q, i, &first);
    if (timer) {
      arm_in_past(timer, first, p);
      const struct timespec moment = {.tv_nsec = FIRE_NSEC};
      if (number_follows(q, i, info.si_signo)) /* behind it */
        PROGRAM_CALL(p, "ppoll", SYS_ppoll, ARG(0), ARG(0), ARG_DATA(program_data(p, &moment, sizeof moment)), ARG(0), ARG(0));
      continue;
    }
    size_t at = program_data(p, &info, sizeof info);
    if (th)
      PROGRAM_CALL(p, "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, ARG(t->pid), ARG(th->thread->tid), ARG(info.si_signo), ARG_DATA(at));
    else
      PROGRAM_CALL(p, "rt_sigqueueinfo", SYS_rt_sigqueueinfo, ARG(t->pid), ARG(info.si_signo), ARG_DATA(at));
  }
  return true;
}

/* timer_getoverrun(2) tells about the signal that was taken last: so it is made and taken. */
static bool counts_taken(const PlanTask *t, const PosixTimerEntry *e, gint64 *ret_first) {
  if (!e->overrun || e->overrun > INT_MAX || !(e->isec || e->insec) || !(e->vsec || e->vnsec) || e->it_sigev_notify == SIGEV_NONE ||
      e->si_signo < 1 || e->si_signo > 64 || own_signal(t, e, ret_first) >= 0)
    return false;
  *ret_first = first_of(e, (gint64)e->overrun + 1);
  return *ret_first > 0;
}

void timers_build_taken(const PlanTask *t, pid_t tid, Program *p) {
  const TaskTimersEntry *timers = t->task->core->tc->timers;
  for (size_t i = 0; timers && i < timers->n_posix; i++) {
    const PosixTimerEntry *e = timers->posix[i];
    gint64 first;
    if ((e->has_notify_thread_id ? e->notify_thread_id : 0) != tid || !counts_taken(t, e, &first))
      continue;
    uint64_t mask = 1ull << (e->si_signo - 1);
    const struct timespec patience = {.tv_nsec = TAKE_NSEC};
    size_t set = program_data(p, &mask, sizeof mask), wait = program_data(p, &patience, sizeof patience);
    arm_in_past(e, first, p);
    PROGRAM_CALL(p, "rt_sigtimedwait", SYS_rt_sigtimedwait, ARG_DATA(set), ARG(0), ARG_DATA(wait), ARG(sizeof mask));
    program_expect(p, EXPECT_ANY, 0);
  }
}

static bool make_timer(const PlanTask *t, const PosixTimerEntry *e, guint32 *next, Program *p, GError **error) {
  if (e->it_id < *next || e->it_id - *next > MAX_TIMER_GAP)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "pid %d: the timer id %u cannot be made on this kernel", (int)t->pid, e->it_id);
  for (; !kernel_takes_timer_ids() && *next < e->it_id; (*next)++) {
    create_timer(e, *next, p);
    PROGRAM_CALL(p, "timer_delete", SYS_timer_delete, ARG(*next));
  }
  create_timer(e, e->it_id, p);
  *next = e->it_id + 1;
  return true;
}

/* Others are armed with their signals. */
static void arm_timer(const PlanTask *t, const PosixTimerEntry *e, Program *p) {
  gint64 first;
  if ((!e->vsec && !e->vnsec) || own_signal(t, e, &first) >= 0 || counts_taken(t, e, &first))
    return;
  struct itimerspec v = {{(time_t)e->isec, (long)e->insec}, {(time_t)e->vsec, (long)e->vnsec}};
  size_t at = program_data(p, &v, sizeof v);
  PROGRAM_CALL(p, "timer_settime", SYS_timer_settime, ARG(e->it_id), ARG(0), ARG_DATA(at), ARG(0));
}

static int compare_timers(gconstpointer a, gconstpointer b) {
  const PosixTimerEntry *const *x = a, *const *y = b;
  return (*x)->it_id < (*y)->it_id ? -1 : (*x)->it_id > (*y)->it_id;
}

bool timers_build(const PlanTask *t, Program *p, GError **error) {
  const TaskTimersEntry *timers = t->task->core->tc->timers;
  if (!timers)
    return true;
  build_itimer(ITIMER_REAL, timers->real, p);
  build_itimer(ITIMER_VIRTUAL, timers->virt, p);
  build_itimer(ITIMER_PROF, timers->prof, p);
  if (!timers->n_posix)
    return true;
  bool ids = kernel_takes_timer_ids();
  if (ids)
    PROGRAM_CALL(p, "prctl TIMER_CREATE_RESTORE_IDS", SYS_prctl, ARG(PR_TIMER_CREATE_RESTORE_IDS_), ARG(1), ARG(0), ARG(0), ARG(0));
  g_autofree PosixTimerEntry **sorted = g_memdup2(timers->posix, timers->n_posix * sizeof *sorted);
  qsort(sorted, timers->n_posix, sizeof *sorted, compare_timers);
  guint32 next = 0;
  for (size_t i = 0; i < timers->n_posix; i++)
    if (!make_timer(t, sorted[i], &next, p, error))
      return false;
  if (ids)
    PROGRAM_CALL(p, "prctl TIMER_CREATE_RESTORE_IDS", SYS_prctl, ARG(PR_TIMER_CREATE_RESTORE_IDS_), ARG(0), ARG(0), ARG(0), ARG(0));
  timers_build_taken(t, 0, p);
  for (size_t i = 0; i < timers->n_posix; i++)
    arm_timer(t, sorted[i], p);
  return true;
}

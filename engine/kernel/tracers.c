/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tracers.h"
#include "trace-call.h"
#include "warden.h"
#include <glib.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

static struct {
  bool made; /* a fork has none */
  GHashTable *tids;
  pthread_mutex_t mutex, tids_mutex;
  pthread_cond_t changed;
  TracersWork *work; /* NULL: it waits for some */
  pid_t tid;
  void *data;
} second = {.mutex = PTHREAD_MUTEX_INITIALIZER, .tids_mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static __thread bool is_second;

#define AHEAD_MOST 2000u /* of the second's: some ten milliseconds */

typedef struct Ahead {
  TracersWork *work;
  void *data;
} Ahead;

static void *serve(void *unused) {
  is_second = true;
  (void)pthread_mutex_lock(&second.mutex);
  second.tid = gettid();
  for (;;) {
    while (!second.work)
      (void)pthread_cond_wait(&second.changed, &second.mutex);
    (void)pthread_mutex_unlock(&second.mutex);
    second.work(second.data, 1);
    (void)pthread_mutex_lock(&second.mutex);
    second.work = NULL;
    (void)pthread_cond_broadcast(&second.changed);
  }
  return unused;
}

static void give(TracersWork *work, void *data) {
  (void)pthread_mutex_lock(&second.mutex);
  second.data = data;
  second.work = work;
  (void)pthread_cond_broadcast(&second.changed);
  (void)pthread_mutex_unlock(&second.mutex);
}

static void wait_for_it(void) {
  (void)pthread_mutex_lock(&second.mutex);
  while (second.work)
    (void)pthread_cond_wait(&second.changed, &second.mutex);
  (void)pthread_mutex_unlock(&second.mutex);
}

static bool is_there(void) {
  return second.made && !warden_is_active();
}

static void forget(void) {
  second.made = false;
}

void tracers_begin(void) {
  cpu_set_t set;
  sigset_t all, before;
  pthread_t thread;
  if (second.made || warden_is_active() || sched_getaffinity(0, sizeof set, &set) < 0 || CPU_COUNT(&set) < 2)
    return;
  (void)sigfillset(&all);
  (void)sigdelset(&all, SIGCHLD); /* it is ignored: blocked here, each stop would wake a thread that takes it */
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&thread, NULL, serve, NULL) == 0) {
    (void)pthread_detach(thread);
    second.tids = g_hash_table_new(NULL, NULL);
    second.made = true;
    (void)pthread_atfork(NULL, NULL, forget);
  }
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

unsigned tracers_count(void) {
  return is_there() ? 2 : 1;
}

void tracers_assign(pid_t tid, unsigned which) {
  if (!is_there())
    return;
  (void)pthread_mutex_lock(&second.tids_mutex);
  if (which)
    g_hash_table_add(second.tids, GINT_TO_POINTER(tid));
  else
    g_hash_table_remove(second.tids, GINT_TO_POINTER(tid));
  (void)pthread_mutex_unlock(&second.tids_mutex);
}

unsigned tracers_owner(pid_t tid) {
  if (!is_there())
    return 0;
  (void)pthread_mutex_lock(&second.tids_mutex);
  bool its = g_hash_table_contains(second.tids, GINT_TO_POINTER(tid));
  (void)pthread_mutex_unlock(&second.tids_mutex);
  return its;
}

void tracers_run(TracersWork *work, void *data) {
  if (!is_there()) {
    work(data, 0);
    return;
  }
  give(work, data);
  work(data, 0);
  wait_for_it();
}

/* The half in which the calling thread runs is its own. */
static void divide(const cpu_set_t *all, cpu_set_t *mine, cpu_set_t *its) {
  int half = CPU_COUNT(all) / 2, n = 0, here = sched_getcpu();
  cpu_set_t first, second_half;
  CPU_ZERO(&first);
  CPU_ZERO(&second_half);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, all))
      CPU_SET(cpu, n++ < half ? &first : &second_half);
  bool in_first = here >= 0 && CPU_ISSET(here, &first);
  *mine = in_first ? first : second_half;
  *its = in_first ? second_half : first;
}

static pid_t tid_of_second(void) {
  (void)pthread_mutex_lock(&second.mutex);
  pid_t tid = second.tid; /* 0: it has not begun yet */
  (void)pthread_mutex_unlock(&second.mutex);
  return tid;
}

void tracers_run_apart(TracersWork *work, void *data) {
  cpu_set_t all, mine, its;
  pid_t tid = is_there() ? tid_of_second() : 0;
  bool apart = tid && sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) > 1;
  if (apart) {
    divide(&all, &mine, &its);
    apart = sched_setaffinity(tid, sizeof its, &its) == 0 && sched_setaffinity(0, sizeof mine, &mine) == 0;
  }
  tracers_run(work, data);
  if (apart) {
    (void)sched_setaffinity(0, sizeof all, &all);
    (void)sched_setaffinity(tid, sizeof all, &all);
  }
}

/* A real-time priority, where we may have one; false: nothing is different. */
static bool go_ahead(int *ret_policy) {
  const struct sched_param lowest = {.sched_priority = 1};
  *ret_policy = sched_getscheduler(0); /* < 0 is none of these */
  int plain = *ret_policy & ~SCHED_RESET_ON_FORK;
  return (plain == SCHED_OTHER || plain == SCHED_BATCH || plain == SCHED_IDLE) && sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
}

static void work_ahead(void *data, unsigned which) {
  const Ahead *a = data;
  const struct sched_param none = {0};
  int policy;
  bool ahead = go_ahead(&policy);
  a->work(a->data, which);
  if (ahead)
    (void)sched_setscheduler(0, policy, &none);
}

/* Not for so many that anybody else would miss the processors. */
static bool are_few(void) {
  (void)pthread_mutex_lock(&second.tids_mutex);
  guint n = g_hash_table_size(second.tids);
  (void)pthread_mutex_unlock(&second.tids_mutex);
  return n && n <= AHEAD_MOST;
}

void tracers_run_ahead(TracersWork *work, void *data) {
  Ahead a = {work, data};
  if (is_there() && are_few())
    tracers_run(work_ahead, &a);
  else
    tracers_run(work, data);
}

typedef struct Errand {
  const TraceCall *call;
  int64_t result;
} Errand;

static void run_errand(void *data, unsigned which) {
  (void)which;
  Errand *e = data;
  e->result = trace_perform(e->call);
}

/* wait(2) is for any thread of the tracer's process, ptrace(2) for the tracer only. */
static bool is_for_anyone(TraceOp op) {
  return op == TRACE_WAIT || op == TRACE_WAIT_END || op == TRACE_HAS_STOPPED;
}

int64_t tracers_perform(const TraceCall *call) {
  if (!second.made || is_second || is_for_anyone(call->op) || !tracers_owner(call->tid))
    return trace_perform(call);
  Errand e = {.call = call};
  give(run_errand, &e);
  wait_for_it();
  return e.result;
}

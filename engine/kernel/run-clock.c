/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "run-clock.h"
#include "proc.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NSEC 1000000000ll
#define AT_ONCE_NSEC 1000000
#define COMPARE_TRIES 10

typedef struct RunClock {
  int cpu;
  bool known, failed;
  gint64 asked_usec, offset_nsec;
} RunClock;

static GMutex mutex;
static GCond changed;
static GHashTable *clocks; /* cpu + 1 -> RunClock; they stay */

/* Milliseconds with six decimals. */
bool run_clock_last(pid_t pid, pid_t tid, gint64 *ret_nsec) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/sched", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  const char *p = text ? strstr(text, "se.exec_start") : NULL;
  p = p ? strchr(p, ':') : NULL;
  if (!p)
    return false;
  char *end;
  gint64 msec = strtoll(p + 1, &end, 10);
  gint64 rest = *end == '.' ? strtoll(end + 1, NULL, 10) : 0;
  *ret_nsec = msec * 1000000 + rest;
  return *ret_nsec > 0;
}

static gint64 monotonic_nsec(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * NSEC + now.tv_nsec;
}

/* Both clocks at one moment. Who loses the processor between the two looks tries again. The offset is never too small:
 * a sleep would end too early. */
static bool compare_clocks(gint64 *ret_offset) {
  for (int i = 0;; i++) {
    gint64 before = monotonic_nsec(), start = 0;
    if (!run_clock_last(getpid(), gettid(), &start))
      return false;
    gint64 after = monotonic_nsec();
    *ret_offset = after - start;
    if (after - before < AT_ONCE_NSEC || i == COMPARE_TRIES)
      return true;
  }
}

static void *stand_there(void *data) {
  RunClock *c = data;
  cpu_set_t there;
  gint64 offset = 0;
  CPU_ZERO(&there);
  CPU_SET(c->cpu, &there);
  bool ok = sched_setaffinity(0, sizeof there, &there) == 0 && compare_clocks(&offset);
  g_mutex_lock(&mutex);
  c->known = ok;
  c->failed = !ok;
  c->offset_nsec = offset;
  g_cond_broadcast(&changed);
  g_mutex_unlock(&mutex);
  return NULL;
}

static RunClock *ask(int cpu) {
  if (!clocks)
    clocks = g_hash_table_new(NULL, NULL);
  RunClock *c = g_hash_table_lookup(clocks, GINT_TO_POINTER(cpu + 1));
  if (c)
    return c;
  c = g_new0(RunClock, 1);
  c->cpu = cpu;
  c->asked_usec = g_get_monotonic_time();
  g_hash_table_insert(clocks, GINT_TO_POINTER(cpu + 1), c);
  pthread_t thread;
  c->failed = pthread_create(&thread, NULL, stand_there, c) != 0;
  if (!c->failed)
    (void)pthread_detach(thread);
  return c;
}

int run_clock_offset(int cpu, gint64 patience_usec, gint64 *ret_nsec) {
  g_mutex_lock(&mutex);
  const RunClock *c = ask(cpu);
  while (!c->known && !c->failed && g_cond_wait_until(&changed, &mutex, c->asked_usec + patience_usec))
    ;
  int e = c->known ? 0 : c->failed ? -ENOENT : -EAGAIN;
  *ret_nsec = c->offset_nsec;
  g_mutex_unlock(&mutex);
  return e;
}

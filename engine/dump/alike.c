/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "alike.h"
#include "tracers.h"
#include <pthread.h>
#include <string.h>

static struct {
  bool begun;
  pthread_t thread;
  ThreadLook *look;
} prepared;

static void *prepare(void *unused) {
  prepared.look = thread_look_new();
  return unused;
}

void alike_prepare(void) {
  if (!prepared.begun)
    prepared.begun = pthread_create(&prepared.thread, NULL, prepare, NULL) == 0;
}

/* The first thread of each process with many is what the others are compared with. */
typedef struct Comparison {
  const ThreadLook *look;
  GHashTable *threads; /* tid: FrozenThread, of processes with many */
  bool failed[2];
} Comparison;

static void see(void *data, const ThreadSight *sight) {
  Comparison *c = data;
  FrozenThread *t = g_hash_table_lookup(c->threads, GINT_TO_POINTER(sight->tid));
  if (!t)
    return;
  t->sight = *sight;
  t->sight.traits = g_memdup2(sight->traits, thread_look_size(c->look));
}

static void look_share(void *data, unsigned which) {
  Comparison *c = data;
  c->failed[which] = !thread_look_at_traced(c->look, see, c);
}

/* A program of another kind has another agent; one that job control has stopped is not worth the thought. */
static bool may_have_alike(const FrozenTask *task) {
  return task->split && !task->zombie && !task->headless && !task->ia32 && !task->stopped && !task->no_agent;
}

static void compare_with_first(FrozenTask *task, size_t size) {
  const FrozenThread *first = &g_array_index(task->threads, FrozenThread, 0);
  for (guint k = 1; first->sight.traits && k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    const ThreadCoreEntry *tc = t->model->core->thread_core;
    t->alike = t->sight.traits && !t->sight.pending && !(tc->signals_p && tc->signals_p->n_signals) && !t->state.group_stop &&
               memcmp(t->sight.traits, first->sight.traits, size) == 0;
  }
}

static guint forget_traits(FrozenTask *task) {
  guint n = 0;
  for (guint k = 0; k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    g_free((void *)(uintptr_t)t->sight.traits);
    t->sight.traits = NULL;
    n += t->alike;
  }
  return n;
}

static void compare(Job *job, FrozenTree *tree, const ThreadLook *look) {
  g_autoptr(GHashTable) threads = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; may_have_alike(task) && k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      g_hash_table_insert(threads, GINT_TO_POINTER(t->state.tid), t);
    }
  }
  Comparison c = {.look = look, .threads = threads};
  tracers_run(look_share, &c);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (!may_have_alike(task))
      continue;
    if (!c.failed[0] && !c.failed[1])
      compare_with_first(task, thread_look_size(look));
    guint n = forget_traits(task);
    job_log(job, 6, "pid %d: %u of %u threads are like its main thread", (int)task->pid, n, task->threads->len);
  }
}

static ThreadLook *take_prepared(void) {
  if (prepared.begun)
    (void)pthread_join(prepared.thread, NULL);
  prepared.begun = false;
  return g_steal_pointer(&prepared.look);
}

void alike_find(Job *job, FrozenTree *tree) {
  g_autoptr(ThreadLook) look = take_prepared();
  if (look && !tree->shares)
    compare(job, tree, look);
}

void alike_end(void) {
  thread_look_free(take_prepared());
}

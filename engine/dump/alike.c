/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "alike.h"
#include "tracers.h"
#include <pthread.h>
#include <string.h>

static struct {
  bool begun;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool knows_threads; /* what follows is set, or stays NULL */
  ThreadLook *look;
  ProcessLook *processes; /* once the thread has ended */
} prepared = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Threads are wanted earlier. */
static void *prepare(void *unused) {
  g_autoptr(KernelTypes) types = kernel_types_open();
  ThreadLook *look = types ? thread_look_new(types) : NULL;
  (void)pthread_mutex_lock(&prepared.mutex);
  prepared.look = look;
  prepared.knows_threads = true;
  (void)pthread_cond_broadcast(&prepared.changed);
  (void)pthread_mutex_unlock(&prepared.mutex);
  prepared.processes = types ? process_look_new(types) : NULL;
  return unused;
}

void alike_prepare(void) {
  if (!prepared.begun && !prepared.knows_threads)
    prepared.begun = pthread_create(&prepared.thread, NULL, prepare, NULL) == 0;
}

/* NULL: nobody has prepared, or nobody may look. */
static const ThreadLook *take_look(void) {
  (void)pthread_mutex_lock(&prepared.mutex);
  while (prepared.begun && !prepared.knows_threads)
    (void)pthread_cond_wait(&prepared.changed, &prepared.mutex);
  (void)pthread_mutex_unlock(&prepared.mutex);
  return prepared.look;
}

ProcessLook *alike_processes(void) {
  if (prepared.begun)
    (void)pthread_join(prepared.thread, NULL);
  prepared.begun = false;
  return prepared.processes;
}

GArray *alike_glimpse(const FrozenTask *task) {
  const ThreadLook *look = take_look();
  g_autoptr(GArray) glimpses = g_array_new(FALSE, FALSE, sizeof(ThreadGlimpse));
  return look && thread_look_at_process(look, task->pid, task->pidfd, glimpses) ? g_steal_pointer(&glimpses) : NULL;
}

/* A look at the threads of one process, by each tracer at its own. */
typedef struct Looking {
  const ThreadLook *look;
  GHashTable *threads; /* tid: FrozenThread */
  guint left[2];       /* of each tracer's */
} Looking;

static bool see(void *data, const ThreadSight *sight) {
  Looking *l = data;
  FrozenThread *t = g_hash_table_lookup(l->threads, GINT_TO_POINTER(sight->tid));
  if (!t)
    return true;
  t->sight = *sight;
  t->sight.traits = g_memdup2(sight->traits, thread_look_size(l->look));
  return --l->left[tracers_owner(sight->tid)] > 0;
}

static void look_share(void *data, unsigned which) {
  const Looking *l = data;
  if (l->left[which])
    (void)thread_look_at_traced(l->look, see, data);
}

static void forget_sight(FrozenThread *t) {
  g_free((void *)(uintptr_t)t->sight.traits);
  t->sight = (ThreadSight){0};
}

void alike_look(FrozenTask *task) {
  const ThreadLook *look = take_look();
  if (!look)
    return;
  g_autoptr(GHashTable) threads = g_hash_table_new(NULL, NULL);
  Looking l = {.look = look, .threads = threads};
  for (guint k = 0; k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    forget_sight(t);
    g_hash_table_insert(threads, GINT_TO_POINTER(t->state.tid), t);
    l.left[tracers_owner(t->state.tid)]++;
  }
  tracers_run(look_share, &l);
}

/* A program of another kind has another agent; one that job control has stopped is not worth the thought. */
static bool may_have_alike(const FrozenTask *task) {
  return task->split && !task->zombie && !task->headless && !task->ia32 && !task->stopped && !task->no_agent;
}

/* The first thread of a process is what its others are compared with. */
static guint compare_with_first(FrozenTask *task, size_t size) {
  const FrozenThread *first = &g_array_index(task->threads, FrozenThread, 0);
  guint n = 0;
  for (guint k = 1; first->sight.traits && k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    const ThreadCoreEntry *tc = t->model->core->thread_core;
    t->alike = t->sight.traits && !t->sight.pending && !(tc->signals_p && tc->signals_p->n_signals) && !t->state.group_stop &&
               memcmp(t->sight.traits, first->sight.traits, size) == 0;
    n += t->alike;
  }
  return n;
}

void alike_find(Job *job, FrozenTree *tree) {
  const ThreadLook *look = take_look();
  for (guint i = 0; look && !tree->shares && i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (may_have_alike(task))
      job_log(job, 6, "pid %d: %u of %u threads are like its main thread", (int)task->pid, compare_with_first(task, thread_look_size(look)),
          task->threads->len);
  }
}

void alike_end(void) {
  (void)alike_processes();
  g_clear_pointer(&prepared.look, thread_look_free);
  g_clear_pointer(&prepared.processes, process_look_free);
  prepared.knows_threads = false;
}

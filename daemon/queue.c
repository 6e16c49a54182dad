/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "queue.h"

#include "daemon-error.h"

struct Queue {
  const Limits *limits;
  SpawnerClient *spawner;
  GPtrArray *jobs; /* not over, in the order they came */
  GQueue starting; /* those of them that wait for an engine */
};

Queue *queue_new(const Limits *limits, SpawnerClient *spawner) {
  Queue *queue = g_new0(Queue, 1);

  queue->limits = limits;
  queue->spawner = spawner;
  queue->jobs = g_ptr_array_new();
  g_queue_init(&queue->starting);
  return queue;
}

void queue_free(Queue *queue) {
  if (!queue)
    return;
  g_queue_clear(&queue->starting);
  g_ptr_array_unref(queue->jobs);
  g_free(queue);
}

static const Job *nth(const Queue *queue, size_t i) {
  return g_ptr_array_index(queue->jobs, i);
}

unsigned queue_waiting(const Queue *queue) {
  unsigned n = 0;

  for (size_t i = 0; i < queue->jobs->len; i++)
    n += nth(queue, i)->state == JOB_QUEUED ? 1 : 0;
  return n;
}

unsigned queue_running(const Queue *queue) {
  return queue->jobs->len - queue_waiting(queue);
}

/* Who only reads what a checkpoint holds is in nobody's way. */
static bool claims_name(const Job *job) {
  return job->name[0] != '\0' && job->operation != ENGINE_OPERATION__DESCRIBE;
}

bool queue_uses_name(const Queue *queue, uid_t uid, const char *name) {
  for (size_t i = 0; i < queue->jobs->len; i++)
    if (claims_name(nth(queue, i)) && nth(queue, i)->store_uid == uid && g_str_equal(nth(queue, i)->name, name))
      return true;
  return false;
}

/* One tree holds the other's root, whichever is the larger. */
static bool uses_tree_of(const Queue *queue, const Target *target) {
  for (size_t i = 0; target && i < queue->jobs->len; i++) {
    const Target *other = nth(queue, i)->target;

    if (other && (target_is_within(other->pid, target->pid) || target_is_within(target->pid, other->pid)))
      return true;
  }
  return false;
}

static unsigned count_of(const Queue *queue, uid_t owner) {
  unsigned n = 0;

  for (size_t i = 0; i < queue->jobs->len; i++)
    n += nth(queue, i)->owner == owner ? 1 : 0;
  return n;
}

bool queue_check(const Queue *queue, const Job *candidate, GError **error) {
  if (uses_tree_of(queue, candidate->target)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__BUSY, "pid %d: another job works on this process or its tree",
        (int)candidate->target->pid);
    return false;
  }
  if (claims_name(candidate) && queue_uses_name(queue, candidate->store_uid, candidate->name)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__BUSY, "Another job works on checkpoint '%s'", candidate->name);
    return false;
  }
  if (queue->jobs->len >= queue->limits->jobs_total ||
      count_of(queue, candidate->owner) >= queue->limits->jobs_per_user) {
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED,
        "Too many jobs: at most %u of one user and %u in all; wait for one to finish", queue->limits->jobs_per_user,
        queue->limits->jobs_total);
    return false;
  }
  return true;
}

static void start(Queue *queue, Job *job) {
  EngineLink *link;

  job->state = JOB_RUNNING;
  job->observer->changed(job, JOB_CHANGED_STATE, job->observer_data);
  link = spawner_client_take(queue->spawner);
  if (link)
    job_run(job, link, 0);
  else
    g_queue_push_tail(&queue->starting, job);
}

static void start_next(Queue *queue) {
  for (size_t i = 0; i < queue->jobs->len; i++) {
    Job *job = g_ptr_array_index(queue->jobs, i);

    if (job->state != JOB_QUEUED)
      continue;
    if (queue_running(queue) >= queue->limits->jobs_running)
      return;
    start(queue, job);
    i = (size_t)-1; /* a job that ends at once changes the array */
  }
}

void queue_add(Queue *queue, Job *job) {
  job->state = JOB_QUEUED;
  g_ptr_array_add(queue->jobs, job);
  start_next(queue);
}

void queue_remove(Queue *queue, Job *job) {
  /* A job in `starting` stays there as a gap: the engine it asked for is on its way. */
  GList *gap = g_queue_find(&queue->starting, job);

  if (gap)
    gap->data = NULL;
  (void)g_ptr_array_remove(queue->jobs, job);
  start_next(queue);
  if (queue->jobs->len == 0)
    spawner_client_prepare(queue->spawner);
}

void queue_engine_ready(Queue *queue, EngineLink *link, int error_number) {
  Job *job = g_queue_pop_head(&queue->starting);

  if (job)
    job_run(job, link, error_number);
  else
    engine_link_free(link);
}

Job *queue_find_engine(const Queue *queue, pid_t engine_pid) {
  for (size_t i = 0; i < queue->jobs->len; i++)
    if (nth(queue, i)->engine_pid == engine_pid)
      return g_ptr_array_index(queue->jobs, i);
  return NULL;
}

void queue_cancel_all(Queue *queue, int code, const char *message) {
  g_autoptr(GPtrArray) jobs = g_ptr_array_copy(queue->jobs, NULL, NULL);

  /* Those that wait first, or each end would start one. */
  for (size_t i = jobs->len; i > 0; i--)
    job_cancel(g_ptr_array_index(jobs, i - 1), g_error_new_literal(DAEMON_ERROR, code, message));
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A job's events become signals here, each to its owner and to subscribers only. */
#include "sd-auto.h"

#include "daemon-error.h"
#include "job-bus.h"
#include "manager-bus.h"
#include "subscriber.h"
#include "values.h"

#define LINGERING_MAX 32 /* jobs that are over, of one user */

static int on_signal_timer(sd_event_source *source, uint64_t usec, void *userdata) {
  bus_job_flush(userdata);
  return 0;
}

/* Not more often than ten times a second; what is over is told at once (on_finished). */
static void on_changed(Job *job, unsigned what, void *userdata) {
  BusJob *bus_job = userdata;
  int64_t due = bus_job->signalled + SIGNAL_INTERVAL_USEC - g_get_monotonic_time();

  if (what & JOB_CHANGED_STATE)
    manager_bus_update_counts(bus_job->manager);
  bus_job->dirty |= what;
  if (job_is_over(job) || bus_job->signal_timer)
    return;
  if (due <= 0)
    bus_job_flush(bus_job);
  else
    (void)sd_event_add_time_relative(bus_job->manager->event, &bus_job->signal_timer, CLOCK_MONOTONIC, (uint64_t)due,
        SIGNAL_INTERVAL_USEC / 10, on_signal_timer, bus_job);
}

static sd_bus_message *new_signal(const BusJob *bus_job, const char *member) {
  sd_bus_message *signal = NULL;

  (void)sd_bus_message_new_signal(bus_job->manager->bus, &signal, bus_job->path, JOB_INTERFACE, member);
  return signal;
}

static void on_object(Job *job, const EngineObject *object, void *userdata) {
  BusJob *bus_job = userdata;
  g_autoptr(sd_bus_message) signal = new_signal(bus_job, "ObjectHandled");
  g_autofree char *plugin = values_text(object->plugin), *kind = values_text(object->kind),
                  *action = values_text(object->action);
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);
  g_autoptr(GVariant) details = NULL;

  for (size_t i = 0; i < object->n_details; i++)
    values_insert_engine(&dict, object->details[i]);
  details = g_variant_ref_sink(g_variant_dict_end(&dict));
  if (signal && sd_bus_message_append(signal, "ssts", plugin, kind, object->id, action) >= 0 &&
      values_append(signal, details) >= 0)
    subscriber_notify(bus_job->manager, signal, bus_job->owner_name, job->owner);
}

static void on_log(Job *job, const EngineLog *log, void *userdata) {
  BusJob *bus_job = userdata;
  g_autoptr(sd_bus_message) signal = new_signal(bus_job, "LogMessage");
  g_autofree char *line = values_text(log->line);

  if (signal && sd_bus_message_append(signal, "us", log->priority, line) >= 0)
    subscriber_notify(bus_job->manager, signal, bus_job->owner_name, job->owner);
}

static void on_ready(Job *job, void *userdata) {
  bus_job_answer(userdata);
}

static void on_retired(Job *job, EngineLink *link, void *userdata) {
  manager_retire_engine(((BusJob *)userdata)->manager, link);
}

/* What Finished tells: the result, or the error with what the engine found. */
static GVariant *finished_details(const Job *job) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(job->error ? NULL : job->result);

  if (job->error) {
    g_variant_dict_insert(&dict, "error-name", "s", daemon_error_name(job->error->code));
    g_variant_dict_insert(&dict, "error-message", "s", job->error->message);
  }
  if (job->findings && g_variant_n_children(job->findings) > 0)
    g_variant_dict_insert_value(&dict, "findings", job->findings);
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

static void signal_finished(BusJob *bus_job) {
  g_autoptr(sd_bus_message) signal = new_signal(bus_job, "Finished");
  g_autoptr(GVariant) details = finished_details(bus_job->job);

  if (signal && sd_bus_message_append(signal, "s", job_result_name(bus_job->job)) >= 0 &&
      values_append(signal, details) >= 0)
    subscriber_notify(bus_job->manager, signal, bus_job->owner_name, bus_job->job->owner);
}

static int on_linger_timer(sd_event_source *source, uint64_t usec, void *userdata) {
  bus_job_remove(userdata);
  return 0;
}

/* Of too many jobs of one user that are over, the oldest goes. */
static void forget_oldest(Manager *manager, uid_t owner) {
  GHashTableIter iter;
  gpointer value;
  BusJob *oldest = NULL;
  unsigned n = 0;

  g_hash_table_iter_init(&iter, manager->jobs);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    BusJob *bus_job = value;

    if (bus_job->job->owner != owner || !job_is_over(bus_job->job) || !bus_job->linger_timer)
      continue;
    n++;
    if (!oldest || bus_job->job->id < oldest->job->id)
      oldest = bus_job;
  }
  if (n > LINGERING_MAX)
    bus_job_remove(oldest);
}

void bus_job_announce(BusJob *bus_job) {
  if (!bus_job->announced)
    manager_bus_signal_job(bus_job, true);
  bus_job->announced = true;
}

/* Who had what done: for the journal. One line, whatever a process calls itself. */
static void log_finished(const Job *job) {
  g_autofree char *target = job->target ? g_strdup_printf("pid %d", (int)job->target->pid) : g_strdup("");
  g_autofree char *line = g_strdup_printf("job %" G_GUINT64_FORMAT ": uid %u: %s %s%s%s: %s%s%s", (guint64)job->id,
      job->owner, job_operation_name(job), target, job->target && job->name[0] != '\0' ? " as " : "", job->name,
      job_result_name(job), job->error ? ": " : "", job->error ? job->error->message : "");

  for (char *c = line; *c; c++)
    if (g_ascii_iscntrl(*c))
      *c = '?';
  g_printerr("%s\n", line);
}

/* A job of its own, that nobody waits for. It comes after another one of the same user, so no limit keeps it away. */
static void remove_stale_lock(BusJob *after) {
  Manager *manager = after->manager;
  Job *job = job_new(manager->event, ENGINE_OPERATION__UNLOCK, &bus_job_observer, NULL);
  BusJob *bus_job;

  job->owner = after->job->owner;
  job->any_target = after->job->any_target;
  g_free(job->name);
  job->name = g_steal_pointer(&after->job->stale_lock);
  job->store_uid = after->job->store_uid;
  job->store = manager->store;
  job->limits = &manager->limits;
  job->id = store_next_job_id(manager->store);
  bus_job = bus_job_new(manager, job, after->owner_name);
  bus_job->released = true;
  queue_add(manager->queue, job);
  bus_job_announce(bus_job);
}

/* The answer goes first: it is what somebody waits for. */
static void on_finished(Job *job, void *userdata) {
  BusJob *bus_job = userdata;
  Manager *manager = bus_job->manager;

  g_clear_pointer(&bus_job->track, sd_bus_track_unref);
  bus_job_answer(bus_job);
  bus_job_announce(bus_job);
  bus_job_flush(bus_job);
  signal_finished(bus_job);
  log_finished(job);
  /* A released job has nobody who would look at it; its end is left to the timer all
   * the same, since whoever ended it may still hold it. */
  (void)sd_event_add_time_relative(manager->event, &bus_job->linger_timer, CLOCK_MONOTONIC,
      bus_job->released ? 0 : manager->linger_usec, 0, on_linger_timer, bus_job);
  if (job->stale_lock)
    remove_stale_lock(bus_job);
  queue_remove(manager->queue, job);
  manager_bus_update_counts(manager);
  forget_oldest(manager, job->owner);
}

void bus_job_remove(BusJob *bus_job) {
  Manager *manager = bus_job->manager;

  manager_bus_signal_job(bus_job, false);
  g_hash_table_remove(manager->jobs, &bus_job->job->id);
}

const JobObserver bus_job_observer = {
    .changed = on_changed,
    .object = on_object,
    .log = on_log,
    .ready = on_ready,
    .retired = on_retired,
    .finished = on_finished,
};

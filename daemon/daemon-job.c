/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon-job.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon-error.h"
#include "sd-auto.h"
#include "service-limits.h"
#include "values.h"

#define CANCEL_STEP_USEC (5 * G_USEC_PER_SEC)
#define UNTRUSTED_RESTORE_USEC (600 * G_USEC_PER_SEC)
#define OBITUARY_USEC (30 * G_USEC_PER_SEC) /* how long to wait for an engine's wait status; it is dead, or about to be */

static void set_timer(Job *job, uint64_t usec, sd_event_time_handler_t handler) {
  g_clear_pointer(&job->timer, sd_event_source_disable_unref);
  (void)sd_event_add_time_relative(job->event, &job->timer, CLOCK_MONOTONIC, usec, 0, handler, job);
}

Job *job_new(sd_event *event, EngineOperation operation, const JobObserver *observer, void *userdata) {
  Job *job = g_new0(Job, 1);

  job->event = event;
  job->operation = operation;
  job->observer = observer;
  job->observer_data = userdata;
  job->phase = g_strdup("");
  job->name = g_strdup("");
  job->images_fd = job->caller_pidfd = -EBADF;
  job->start_time = (uint64_t)g_get_real_time();
  return job;
}

void job_free(Job *job) {
  if (!job)
    return;
  (void)sd_event_source_disable_unref(job->timer);
  engine_link_free(job->link);
  store_draft_free(job->draft);
  target_free(job->target);
  hook_round_free(job->round);
  if (job->images_fd >= 0)
    (void)close(job->images_fd);
  if (job->caller_pidfd >= 0)
    (void)close(job->caller_pidfd);
  job_options_clear(&job->options);
  g_clear_pointer(&job->result, g_variant_unref);
  g_clear_pointer(&job->findings, g_variant_unref);
  description_free(job->description);
  g_clear_error(&job->error);
  g_clear_error(&job->cancel_reason);
  g_free(job->stale_lock);
  g_free(job->gids);
  g_free(job->phase);
  g_free(job->name);
  g_free(job);
}

bool job_is_untrusted(const Job *job) {
  return job->is_directory && job->owner != 0;
}

bool job_is_over(const Job *job) {
  return job->state == JOB_FINISHED;
}

const char *job_operation_name(const Job *job) {
  static const char *const names[] = {
      [ENGINE_OPERATION__DUMP] = "dump",
      [ENGINE_OPERATION__RESTORE] = "restore",
      [ENGINE_OPERATION__EXPLAIN] = "explain",
      [ENGINE_OPERATION__CHECK] = "check",
      [ENGINE_OPERATION__DESCRIBE] = "describe",
      [ENGINE_OPERATION__LIST_PLUGINS] = "list-plugins",
      [ENGINE_OPERATION__UNLOCK] = "unlock",
  };
  return names[job->operation];
}

const char *job_state_name(const Job *job) {
  static const char *const names[] = {
      [JOB_QUEUED] = "queued", [JOB_RUNNING] = "running", [JOB_CANCELLING] = "cancelling", [JOB_FINISHED] = "finished"};
  return names[job->state];
}

const char *job_result_name(const Job *job) {
  if (job->state != JOB_FINISHED)
    return "";
  if (!job->error)
    return "done";
  return g_error_matches(job->error, DAEMON_ERROR, ENGINE_ERROR_CODE__CANCELLED) ? "canceled" : "failed";
}

bool job_progress(const Job *job, double *ret_fraction) {
  *ret_fraction = 0;
  if (job->bytes_total == 0)
    return false;
  *ret_fraction = MIN((double)job->bytes_done / (double)job->bytes_total, 1.0);
  return true;
}

uint64_t job_rate(const Job *job) {
  int64_t elapsed = g_get_monotonic_time() - job->first_progress_time;

  if (job->first_progress_time == 0 || elapsed <= 0 || job->state == JOB_FINISHED)
    return 0;
  return (uint64_t)((double)job->bytes_done * G_USEC_PER_SEC / (double)elapsed);
}

uint64_t job_expected_end_time(const Job *job) {
  uint64_t rate = job_rate(job);

  if (rate == 0 || job->bytes_total <= job->bytes_done)
    return 0;
  return (uint64_t)g_get_real_time() +
         (uint64_t)((double)(job->bytes_total - job->bytes_done) / (double)rate * G_USEC_PER_SEC);
}

/* @error (handed over) NULL: done. The job may be freed on return. */
static void finish(Job *job, GError *error) {
  EngineLink *link = g_steal_pointer(&job->link);

  g_clear_pointer(&job->timer, sd_event_source_disable_unref);
  g_clear_pointer(&job->round, hook_round_free);
  job_options_close(&job->options);
  if (error && job->cancel_reason) {
    g_clear_error(&error);
    error = g_steal_pointer(&job->cancel_reason);
  }
  job->error = error;
  job->state = JOB_FINISHED;
  g_clear_pointer(&job->draft, store_draft_free);
  if (job->images_fd >= 0)
    (void)close(job->images_fd);
  if (job->caller_pidfd >= 0)
    (void)close(job->caller_pidfd);
  job->images_fd = job->caller_pidfd = -EBADF;
  target_unpin(job->target); /* the job is remembered for a while, and there may be many */
  if (link)
    job->observer->retired(job, link, job->observer_data);
  job->observer->changed(job, JOB_CHANGED_STATE | JOB_CHANGED_RESULT | JOB_CHANGED_PROGRESS, job->observer_data);
  job->observer->finished(job, job->observer_data);
}

static GVariant *make_result(const Job *job, const EngineResult *result) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);

  for (size_t i = 0; i < result->n_values; i++)
    values_insert_engine(&dict, result->values[i]);
  if (!g_variant_dict_contains(&dict, "total-usec"))
    g_variant_dict_insert(&dict, "total-usec", "t", (guint64)(g_get_monotonic_time() - job->begin_time));
  if (job->name[0] != '\0')
    g_variant_dict_insert(&dict, "name", "s", job->name);
  if (job->options.token)
    g_variant_dict_insert(&dict, "token", "s", job->options.token);
  if (job->operation == ENGINE_OPERATION__EXPLAIN)
    g_variant_dict_insert_value(&dict, "findings", job->findings);
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

/* The engine's values and those that the service knows by itself; a{sv}. */
static GVariant *make_note(const Job *job) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(job->result);

  g_variant_dict_remove(&dict, "token");
  g_variant_dict_insert(&dict, "created", "t", (guint64)job->start_time);
  g_variant_dict_insert(&dict, "pid", "u", (guint32)job->target->pid);
  g_variant_dict_insert_value(&dict, "comm", g_variant_new_take_string(values_text(job->target->comm)));
  g_variant_dict_insert(&dict, "any-target", "b", (gboolean)(job->any_target && job->owner != 0));
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

static char *lock_of(GVariant *note) {
  const char *lock = NULL;

  return note && g_variant_lookup(note, "network-lock", "&s", &lock) ? g_strdup(lock) : NULL;
}

/* What replaces a checkpoint takes the sense from its network lock, too; whoever runs jobs sees to that. */
static void commit(Job *job, GError **error) {
  g_autoptr(GVariant) note = make_note(job);
  g_autoptr(GVariant) older = store_describe(job->store, job->store_uid, job->name, NULL);
  g_autofree char *lock = lock_of(note), *older_lock = lock_of(older);

  if (store_draft_commit(job->draft, note, job->options.durable || job->limits->durable, error) &&
      g_strcmp0(lock, older_lock) != 0)
    job->stale_lock = g_steal_pointer(&older_lock);
}

static void on_result(Job *job, const EngineResult *result) {
  GError *error = NULL;

  job->findings = g_variant_ref_sink(values_from_findings(result->findings, result->n_findings));
  job->result = make_result(job, result);
  if (job->draft)
    commit(job, &error);
  /* A cancel that came too late changes nothing: what is done is done. */
  g_clear_error(&job->cancel_reason);
  finish(job, error);
}

static void on_error(Job *job, const EngineError *e) {
  g_autofree char *text = values_text(e->message);

  if (e->n_findings > 0)
    job->findings = g_variant_ref_sink(values_from_findings(e->findings, e->n_findings));
  if (e->code == ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET && !job->any_target && !job->is_directory && !strstr(text, "org.criu.Checkpoint."))
    finish(job, g_error_new(DAEMON_ERROR, (int)e->code, "%s (this needs the action org.criu.Checkpoint.%s-any)", text,
                    job->operation == ENGINE_OPERATION__RESTORE ? "restore" : "dump"));
  else
    finish(job, g_error_new_literal(DAEMON_ERROR, (int)e->code, text));
}

/* Refuses early what cannot end well, while the application still runs. */
static void check_space(Job *job) {
  uint64_t used = 0, missing = job->bytes_total - MIN(job->bytes_done, job->bytes_total);
  uint32_t count = 0;

  if (!job->draft || job->state != JOB_RUNNING)
    return;
  if (missing > store_free_bytes(job->store)) {
    job_cancel(job, g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SPACE,
                        "The checkpoint needs %" PRIu64 " more bytes than are free in the store", missing));
    return;
  }
  if (job->limits->bytes_per_user == 0 || job->owner == 0)
    return;
  store_usage(job->store, job->store_uid, &used, &count);
  if (used > job->limits->bytes_per_user || job->bytes_total > job->limits->bytes_per_user - used)
    job_cancel(job, g_error_new(DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED,
                        "uid %u may keep %" PRIu64 " bytes of checkpoints (bytes-per-user in checkpointd.conf); "
                        "%" PRIu64 " are used and %" PRIu64 " more are needed",
                        job->owner, job->limits->bytes_per_user, used, job->bytes_total));
}

static void on_progress(Job *job, const EngineProgress *progress) {
  bool news = progress->bytes_total != job->bytes_total;

  if (job->first_progress_time == 0)
    job->first_progress_time = g_get_monotonic_time();
  job->bytes_done = progress->bytes_done;
  job->bytes_total = progress->bytes_total;
  job->observer->changed(job, JOB_CHANGED_PROGRESS, job->observer_data);
  if (news)
    check_space(job);
}

static int on_no_obituary(sd_event_source *source, uint64_t usec, void *userdata) {
  finish(userdata,
      g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__ENGINE_CRASHED, "The engine stopped talking before it was done"));
  return 0;
}

void job_engine_exited(Job *job, int status) {
  GError *error = NULL;

  if (job->state == JOB_FINISHED)
    return;
  if (WIFSIGNALED(status))
    error = g_error_new(DAEMON_ERROR, job->killed ? ENGINE_ERROR_CODE__CANCELLED : ENGINE_ERROR_CODE__ENGINE_CRASHED,
        "The engine died of signal %d (%s) before it was done", WTERMSIG(status), g_strsignal(WTERMSIG(status)));
  else
    error = g_error_new(DAEMON_ERROR, job->killed ? ENGINE_ERROR_CODE__CANCELLED : ENGINE_ERROR_CODE__ENGINE_CRASHED,
        "The engine exited with status %d before it was done", WEXITSTATUS(status));
  finish(job, error);
}

static void on_event(EngineLink *link, const EngineEvent *event, void *userdata) {
  Job *job = userdata;

  if (!event) {
    /* Its wait status says why; an engine that only closed its socket gets one now. */
    engine_link_set_handler(link, NULL, NULL);
    (void)engine_link_kill(link, SIGKILL);
    set_timer(job, OBITUARY_USEC, on_no_obituary);
    return;
  }
  if (event->result) {
    on_result(job, event->result);
    return;
  }
  if (event->error) {
    on_error(job, event->error);
    return;
  }
  if (event->has_ready && !job->ready) {
    job->ready = true;
    job->observer->ready(job, job->observer_data);
  }
  if (event->phase) {
    g_free(job->phase);
    job->phase = values_text(event->phase);
    job->observer->changed(job, JOB_CHANGED_PHASE, job->observer_data);
  }
  if (event->row && job->description)
    description_add(job->description, event->row);
  if (event->object)
    job->observer->object(job, event->object, job->observer_data);
  if (event->log)
    job->observer->log(job, event->log, job->observer_data);
  if (event->progress)
    on_progress(job, event->progress); /* may cancel */
}

/* Descriptors on their way to the engine, each with what it is. */
typedef struct FdList {
  EngineFd kinds[ENGINE_LINK_FDS_MAX];
  int fds[ENGINE_LINK_FDS_MAX];
  size_t n;
} FdList;

static void add_fd(FdList *list, EngineFd kind, int fd) {
  if (fd < 0)
    return;
  list->kinds[list->n] = kind;
  list->fds[list->n++] = fd;
}

static void add_fds(FdList *list, const Job *job) {
  int hooks[APPLICATIONS_ROUND_MAX];
  size_t n = job->round ? hook_round_fds(job->round, hooks) : 0;

  add_fd(list, ENGINE_FD__IMAGES_DIRECTORY, job->draft ? store_draft_images_fd(job->draft) : job->images_fd);
  add_fd(list, ENGINE_FD__TARGET_PIDFD, job->target ? job->target->pidfd : -EBADF);
  add_fd(list, ENGINE_FD__CALLER_PIDFD, job->caller_pidfd);
  add_fd(list, ENGINE_FD__SELF_CONNECTION, job->options.connection > 0 ? job->options.connection : -EBADF);
  add_fd(list, ENGINE_FD__TERMINAL, job->options.terminal > 0 ? job->options.terminal : -EBADF);
  for (size_t i = 0; i < n; i++)
    add_fd(list, ENGINE_FD__HOOK_CONNECTION, hooks[i]);
  for (guint i = 0; job->options.inherit_fds && i < job->options.inherit_fds->len; i++)
    add_fd(list, ENGINE_FD__INHERITED, g_array_index(job->options.inherit_fds, int, i));
}

static int send_request(Job *job) {
  EngineRequest request = ENGINE_REQUEST__INIT;
  EngineOptions options = ENGINE_OPTIONS__INIT;
  EngineCaller caller = ENGINE_CALLER__INIT;
  FdList list = {};
  bool connected;
  int r;

  options.has_leave_running = options.has_leave_stopped = options.has_durable = options.has_shell_job = true;
  options.leave_running = job->options.leave_running;
  options.leave_stopped = job->options.stop;
  options.durable = job->options.durable || job->limits->durable;
  options.shell_job = job->options.shell_job;
  options.has_file_locks = options.file_locks = job->options.file_locks;
  options.has_link_remap = options.link_remap = job->options.link_remap;
  options.has_ghost_limit = job->options.ghost_limit > 0;
  options.ghost_limit = job->options.ghost_limit;
  options.manage_cgroups = (char *)(uintptr_t)job->options.manage_cgroups;
  options.has_foreign_session = options.foreign_session = true;
  options.has_tcp_established = options.tcp_established = job->options.tcp_established;
  options.has_tcp_close = options.tcp_close = job->options.tcp_close;
  options.has_skip_in_flight = options.skip_in_flight = job->options.skip_in_flight;
  options.has_ext_unix_sk = options.ext_unix_sk = job->options.ext_unix_sk;
  options.external = job->options.external;
  options.n_external = job->options.external ? g_strv_length(job->options.external) : 0;
  options.timeout_usec = job->options.timeout_usec;
  /* Its user can stop the tasks while they are made; the job shall not wait for ever. */
  if (job->operation == ENGINE_OPERATION__RESTORE && job_is_untrusted(job))
    options.timeout_usec = UNTRUSTED_RESTORE_USEC;
  options.has_timeout_usec = options.timeout_usec > 0;
  /* A service that is gone cannot give the checkpoint its name. */
  options.has_cancel_on_hangup = options.cancel_on_hangup = true;
  caller.uid = job->owner;
  caller.gid = job->gids;
  caller.n_gid = job->n_gids;
  caller.any_target = job->any_target;
  caller.has_pid = job->caller_pid > 0;
  caller.pid = (uint32_t)job->caller_pid;
  options.has_untrusted_images = options.has_images_as_caller = job_is_untrusted(job);
  options.has_clear_on_failure = options.clear_on_failure = job->is_directory;
  options.untrusted_images = options.images_as_caller = job_is_untrusted(job);
  request.operation = job->operation;
  request.options = &options;
  request.caller = &caller;
  if (job->name[0] != '\0')
    request.name = job->name;
  if (job->target) {
    request.has_pid = true;
    request.pid = (uint32_t)job->target->pid;
  }
  if (job->options.inherit_keys) {
    request.inherit_keys = (char **)job->options.inherit_keys->pdata;
    request.n_inherit_keys = job->options.inherit_keys->len;
  }
  add_fds(&list, job);
  request.fds = list.kinds;
  request.n_fds = list.n;
  r = engine_link_send_request(job->link, &request, list.fds, list.n);
  connected = job->options.connection > 0 || (job->round && hook_round_count(job->round) > 0);
  /* The engine alone has them now, and closes them when the tree is frozen. */
  if (job->round)
    hook_round_close(job->round);
  job->requested = true;
  job_options_close(&job->options);
  if (r >= 0 && connected)
    r = engine_link_send_released(job->link);
  return r;
}

/* The directory to write to, or to read from. */
static bool open_images(Job *job, GError **error) {
  if (job->is_directory)
    return true;
  if (job->operation == ENGINE_OPERATION__DUMP) {
    g_autoptr(GVariant) note = make_note(job);
    job->draft = store_draft_new(job->store, job->store_uid, job->name, job->id, note, error);
    return job->draft;
  }
  if (job->operation == ENGINE_OPERATION__RESTORE) {
    job->images_fd = store_open_images(job->store, job->store_uid, job->name, error);
    return job->images_fd >= 0;
  }
  return true;
}

static void begin(Job *job) {
  int r;

  engine_link_set_handler(job->link, on_event, job);
  r = send_request(job);
  if (r == -EPIPE || r == -ECONNRESET) /* it is dead already: its wait status says more */
    set_timer(job, OBITUARY_USEC, on_no_obituary);
  else if (r < 0)
    finish(job, g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED, "Cannot talk to the engine: %s", g_strerror(-r)));
}

static void on_hooks_ready(GError *error, void *userdata) {
  Job *job = userdata;

  if (error)
    finish(job, error);
  else
    begin(job);
}

void job_run(Job *job, EngineLink *link, int error_number) {
  GError *error = NULL;

  if (job->state == JOB_CANCELLING) { /* cancelled while it waited for its engine */
    engine_link_free(link);
    finish(job, g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__CANCELLED, "The job was cancelled"));
    return;
  }
  job->begin_time = g_get_monotonic_time();
  job->link = link;
  if (!link) {
    finish(job,
        g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED, "Cannot start an engine: %s", g_strerror(-error_number)));
    return;
  }
  job->engine_pid = engine_link_pid(link);
  if (!open_images(job, &error)) {
    finish(job, error);
    return;
  }
  if (!job->applications) {
    begin(job);
    return;
  }
  /* Who explains asks nobody; but the connections would be found to lead out of the application. */
  job->round = hook_round_new(job->applications, job->target->pid, job->is_self ? job->target->pid : 0,
      job->operation == ENGINE_OPERATION__EXPLAIN ? HOOKS_SKIP : job->options.hooks, job->options.hooks_timeout_usec);
  hook_round_begin(job->round, on_hooks_ready, job);
}

static uint64_t cancel_step_usec(void) {
  const char *text = getenv("CHECKPOINTD_CANCEL_USEC");

  return text ? g_ascii_strtoull(text, NULL, 10) : CANCEL_STEP_USEC;
}

static int on_cancel_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
  Job *job = userdata;

  job->killed = true;
  if (job->link)
    (void)engine_link_kill(job->link, job->cancel_step++ == 0 ? SIGTERM : SIGKILL);
  if (job->cancel_step < 2)
    set_timer(job, cancel_step_usec(), on_cancel_timeout);
  return 0;
}

void job_cancel(Job *job, GError *reason) {
  if (job->state != JOB_QUEUED && job->state != JOB_RUNNING) {
    g_clear_error(&reason);
    return;
  }
  job->cancel_reason =
      reason ? reason : g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__CANCELLED, "The job was cancelled");
  if (job->state == JOB_QUEUED) {
    finish(job, g_error_copy(job->cancel_reason));
    return;
  }
  if (job->round && !job->requested) { /* its engine knows of nothing yet */
    finish(job, g_error_copy(job->cancel_reason));
    return;
  }
  job->state = JOB_CANCELLING;
  job->observer->changed(job, JOB_CHANGED_STATE, job->observer_data);
  if (!job->link)
    return;
  (void)engine_link_send_cancel(job->link);
  set_timer(job, cancel_step_usec(), on_cancel_timeout);
}

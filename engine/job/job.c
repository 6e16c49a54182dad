/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job.h"
#include <stdarg.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <unistd.h>

#define PROGRESS_INTERVAL_USEC (50 * 1000)
#define HEAP_STEP (4 << 20)
#define DESCRIPTORS 1024

struct Job {
  const EngineOptions *options;
  const EngineCaller *caller;
  int images_fd;
  int terminal;
  JobSink sink;
  atomic_uint_fast64_t bytes_done;
  guint64 bytes_total;
  gint64 last_progress;
  gint64 deadline; /* 0: none */
  bool committed;
  GPtrArray *findings;
  GPtrArray *notes;
  GHashTable *inherited; /* key -> descriptor */
  GPtrArray *results;
};

static void finding_free(void *p) {
  engine_finding__free_unpacked(p, NULL);
}

static void value_free(void *p) {
  engine_value__free_unpacked(p, NULL);
}

static void fd_free(void *p) {
  (void)close(GPOINTER_TO_INT(p));
}

/* The kernel doubles a table of descriptors that is full and, where threads share it, waits until none of them looks at the old one: ten
 * milliseconds each time. As yet there are none. */
static void make_room_for_descriptors(void) {
  int any = open("/", O_PATH | O_CLOEXEC), last = any < 0 ? -1 : fcntl(any, F_DUPFD_CLOEXEC, DESCRIPTORS - 1);
  if (last >= 0)
    (void)close(last);
  if (any >= 0)
    (void)close(any);
}

Job *job_new(const EngineOptions *options, const EngineCaller *caller, int images_fd, const JobSink *sink) {
  Job *job = g_new0(Job, 1);
  make_room_for_descriptors();
  (void)mallopt(M_TOP_PAD, HEAP_STEP); /* else a system call for every page or two of the helpers' heaps */
  job->options = options;
  job->caller = caller;
  job->images_fd = images_fd;
  job->terminal = -1;
  if (sink)
    job->sink = *sink;
  if (options->timeout_usec)
    job->deadline = g_get_monotonic_time() + (gint64)options->timeout_usec;
  job->findings = g_ptr_array_new_with_free_func(finding_free);
  job->notes = g_ptr_array_new_with_free_func(finding_free);
  job->inherited = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, fd_free);
  job->results = g_ptr_array_new_with_free_func(value_free);
  return job;
}

void job_free(Job *job) {
  if (!job)
    return;
  g_ptr_array_unref(job->findings);
  g_ptr_array_unref(job->notes);
  g_hash_table_unref(job->inherited);
  g_ptr_array_unref(job->results);
  g_free(job);
}

const EngineOptions *job_options(const Job *job) {
  return job->options;
}

const EngineCaller *job_caller(const Job *job) {
  return job->caller;
}

int job_terminal(const Job *job) {
  return job->terminal;
}

void job_set_terminal(Job *job, int fd) {
  job->terminal = fd;
}

int job_images_fd(const Job *job) {
  return job->images_fd;
}

void job_phase(Job *job, const char *phase) {
  if (job->sink.phase)
    job->sink.phase(job->sink.data, phase);
}

bool job_stage(Job *job, const char *name, pid_t root, GError **error) {
  return !job->sink.stage || job->sink.stage(job->sink.data, name, root, error);
}

void job_frozen(Job *job) {
  if (job->sink.frozen)
    job->sink.frozen(job->sink.data);
}

void job_set_total(Job *job, guint64 bytes) {
  job->bytes_total = bytes;
}

void job_add_bytes(Job *job, guint64 bytes) {
  atomic_fetch_add_explicit(&job->bytes_done, bytes, memory_order_relaxed);
}

guint64 job_bytes_done(const Job *job) {
  return atomic_load_explicit(&job->bytes_done, memory_order_relaxed);
}

void job_log(Job *job, int priority, const char *format, ...) {
  if (!job->sink.log)
    return;
  va_list ap;
  va_start(ap, format);
  g_autofree char *line = g_strdup_vprintf(format, ap);
  va_end(ap);
  job->sink.log(job->sink.data, priority, line);
}

void job_tell_progress(Job *job) {
  job->last_progress = g_get_monotonic_time();
  if (job->sink.progress)
    job->sink.progress(job->sink.data, job_bytes_done(job), job->bytes_total);
}

bool job_poll(Job *job, GError **error) {
  gint64 now = g_get_monotonic_time();
  if (now - job->last_progress >= PROGRESS_INTERVAL_USEC)
    job_tell_progress(job);
  if (job->committed)
    return true;
  if (job->sink.cancelled && job->sink.cancelled(job->sink.data))
    return engine_fail(error, ENGINE_ERROR_CODE__CANCELLED, "The job was cancelled");
  if (job->deadline && now > job->deadline)
    return engine_fail(error, ENGINE_ERROR_CODE__TIMED_OUT,
        "The job took longer than its time-out of %" G_GUINT64_FORMAT " ms; give a longer `timeout`",
        job->options->timeout_usec / 1000);
  return true;
}

gint64 job_time_left(const Job *job) {
  return job->deadline ? MAX(job->deadline - g_get_monotonic_time(), 0) : -1;
}

void job_commit(Job *job) {
  job->committed = true;
}

bool job_is_committed(const Job *job) {
  return job->committed;
}

static EngineFinding *finding_new(
    const char *kind, pid_t pid, int fd, const char *object, const char *reason, const char *cure) {
  EngineFinding *f = g_new0(EngineFinding, 1);
  engine_finding__init(f);
  f->kind = g_strdup(kind);
  f->has_pid = pid > 0;
  f->pid = (guint32)pid;
  f->has_fd = fd >= 0;
  f->fd = fd;
  f->object = g_strdup(object);
  f->reason = g_strdup(reason);
  f->cure = g_strdup(cure);
  return f;
}

void job_block(
    Job *job, const char *kind, pid_t pid, int fd, const char *object, const char *reason, const char *cure) {
  g_ptr_array_add(job->findings, finding_new(kind, pid, fd, object, reason, cure));
}

void job_note(Job *job, const char *kind, pid_t pid, int fd, const char *object, const char *action, const char *rule) {
  EngineFinding *f = finding_new(kind, pid, fd, object, rule, "");
  f->action = g_strdup(action);
  g_ptr_array_add(job->notes, f);
}

void job_show_notes(Job *job) {
  while (job->notes->len)
    g_ptr_array_add(job->findings, g_ptr_array_steal_index(job->notes, 0));
}

void job_object(Job *job, const char *plugin, const char *kind, guint64 id, const char *action, const char *rule) {
  if (!job->sink.object)
    return;
  EngineObject object = ENGINE_OBJECT__INIT;
  EngineValue value = ENGINE_VALUE__INIT;
  EngineValue *details[] = {&value};
  object.plugin = (char *)(plugin ? plugin : "");
  object.kind = (char *)kind;
  object.id = id;
  object.action = (char *)action;
  value.key = (char *)"rule";
  value.text = (char *)rule;
  object.n_details = rule ? 1 : 0;
  object.details = details;
  job->sink.object(job->sink.data, &object);
}

bool job_inherit(Job *job, const char *key, int fd) {
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own >= 0)
    g_hash_table_replace(job->inherited, g_strdup(key), GINT_TO_POINTER(own));
  return own >= 0;
}

bool job_inherits(const Job *job) {
  return g_hash_table_size(job->inherited) > 0;
}

int job_inherited(const Job *job, const char *key) {
  gpointer fd;
  return g_hash_table_lookup_extended(job->inherited, key, NULL, &fd) ? GPOINTER_TO_INT(fd) : -1;
}

size_t job_n_findings(const Job *job) {
  return job->findings->len;
}

EngineFinding *const *job_findings(const Job *job) {
  return (EngineFinding *const *)job->findings->pdata;
}

bool job_check_findings(const Job *job, GError **error) {
  if (!job->findings->len)
    return true;
  g_autoptr(GString) text = g_string_new(NULL);
  for (guint i = 0; i < job->findings->len; i++) {
    const EngineFinding *f = job->findings->pdata[i];
    g_string_append_printf(text, "%s%s: %s (%s)", i ? "; " : "", f->object, f->reason, f->cure);
  }
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "%s", text->str);
}

void job_report_object(Job *job, const EngineObject *object) {
  if (job->sink.object)
    job->sink.object(job->sink.data, object);
}

void job_row(Job *job, const EngineRow *row) {
  if (job->sink.row)
    job->sink.row(job->sink.data, row);
}

static EngineValue *result_new(Job *job, const char *key) {
  EngineValue *v = g_new0(EngineValue, 1);
  engine_value__init(v);
  v->key = g_strdup(key);
  g_ptr_array_add(job->results, v);
  return v;
}

void job_result_u64(Job *job, const char *key, guint64 value) {
  EngineValue *v = result_new(job, key);
  v->has_u64 = true;
  v->u64 = value;
}

void job_result_text(Job *job, const char *key, const char *value) {
  result_new(job, key)->text = g_strdup(value);
}

size_t job_n_results(const Job *job) {
  return job->results->len;
}

EngineValue *const *job_results(const Job *job) {
  return (EngineValue *const *)job->results->pdata;
}

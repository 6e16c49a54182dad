/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "act.h"
#include "scripts.h"
#include <stdio.h>

static void sink_phase(void *data, const char *phase) {
  CriuSink *sink = data;
  criu_times_phase(&sink->times, phase);
  criu_log(sink->run->log, LOG_DEBUG, "phase", "Phase %s", phase);
}

static void sink_log(void *data, int priority, const char *line) {
  CriuSink *sink = data;
  criu_log(sink->run->log, priority, "engine", "%s", line);
}

/* "Plugin tun: dumped file 7 (DUMP_EXT_FILE pid 12 fd 5)" */
static void sink_object(void *data, const EngineObject *object) {
  CriuSink *sink = data;
  g_autoptr(GString) text = g_string_new(NULL);
  for (size_t i = 0; i < object->n_details; i++) {
    const EngineValue *v = object->details[i];
    if (v->text)
      g_string_append_printf(text, " %s %s", v->key, v->text);
    else if (v->has_u64)
      g_string_append_printf(text, " %s %" G_GUINT64_FORMAT, v->key, v->u64);
  }
  criu_log(sink->run->log, LOG_INFO, "object", "Plugin %s: %s, %s %" G_GUINT64_FORMAT " (%s)", object->plugin,
      object->action, object->kind, object->id, g_strchug(text->str));
}

static bool sink_stage(void *data, const char *name, pid_t root, GError **error) {
  CriuSink *sink = data;
  return scripts_run(sink->run, sink->job, name, root, error);
}

JobSink criu_sink(CriuSink *sink) {
  return (JobSink){.phase = sink_phase, .log = sink_log, .object = sink_object, .stage = sink_stage, .data = sink};
}

int criu_failed(CriuRun *run, const char *what, const GError *error) {
  const char *name = engine_error_name(engine_error_code(error));
  const char *message = error ? error->message : "unknown failure";
  criu_log(run->log, LOG_ERR, name, "%s", message);
  criu_log(run->log, LOG_ERR, "criu", "%s FAILED.", what);
  if (run->options->log_file && run->options->verbosity >= CRIU_VERBOSITY_ERROR)
    fprintf(stderr, "Error (%s): %s\n", name, message);
  return 1;
}

void criu_write_stats(CriuRun *run, const Job *job, CriuSink *sink,
    int (*write)(int dir_fd, const Job *job, const CriuTimes *times, bool show)) {
  criu_times_end(&sink->times);
  int status = write(run->work_fd, job, &sink->times, run->options->display_stats);
  if (run->images_fd != run->work_fd)
    (void)write(run->images_fd, job, &sink->times, false); /* images may be read-only */
  if (status < 0)
    criu_log(run->log, LOG_WARNING, "stats", "Cannot write the statistics: %s", g_strerror(-status));
}

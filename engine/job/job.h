/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One job of the engine: its immutable options, where its images are, and the way back to whoever asked: phases,
 * progress, log lines, findings. A job is used by the engine's main thread; job_add_bytes() and job_is_cancelled() may be
 * called from any thread. */

#include "engine.pb-c.h"
#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct Job Job;

/* Receives what a job says. Every pointer may be NULL. @data is the owner's. */
typedef struct JobSink {
  void (*phase)(void *data, const char *phase);
  void (*progress)(void *data, guint64 bytes_done, guint64 bytes_total);
  void (*log)(void *data, int priority, const char *line);
  void (*object)(void *data, const EngineObject *object);
  void (*row)(void *data, const EngineRow *row);
  void (*frozen)(void *data);
  /* Called from job_stage(): false with @error ends the job. */
  bool (*stage)(void *data, const char *name, pid_t root, GError **error);
  /* Called from job_poll(): true asks the job to stop. */
  bool (*cancelled)(void *data);
  void *data;
} JobSink;

/* @options and @caller (may be NULL) are borrowed and must outlive the job; @images_fd is borrowed too. */
Job *job_new(const EngineOptions *options, const EngineCaller *caller, int images_fd, const JobSink *sink);
void job_free(Job *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_free)

const EngineOptions *job_options(const Job *job);
const EngineCaller *job_caller(const Job *job); /* NULL: trusted like root */
int job_images_fd(const Job *job);
/* The terminal that takes the place of one outside the tree (shell_job); borrowed, -1: none. */
int job_terminal(const Job *job);
void job_set_terminal(Job *job, int fd);

void job_phase(Job *job, const char *phase);
void job_set_total(Job *job, guint64 bytes);
void job_add_bytes(Job *job, guint64 bytes);
guint64 job_bytes_done(const Job *job);
void job_log(Job *job, int priority, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Sends progress if some time has passed, looks for a cancel request and the time-out; false with CANCELLED or
 * TIMED_OUT. Cheap enough to be called once per megabyte or per object. */
bool job_poll(Job *job, GError **error);
/* Sends progress now: something is done that has no bytes. */
void job_tell_progress(Job *job);
/* What is left of its time-out, in microseconds, not below 0; -1: it has none. */
gint64 job_time_left(const Job *job);
/* From here on a job can no longer be cancelled: job_poll() only reports progress. */
void job_commit(Job *job);
bool job_is_committed(const Job *job);

/* A moment at which whoever runs the job may do something of its own, while the job waits: what criu calls its action scripts
 * at ("network-lock", "post-dump", "setup-namespaces", …). @root: of the tree, as it is seen here. */
bool job_stage(Job *job, const char *name, pid_t root, GError **error);

/* The tree stands, and the caller may have it; nothing of it was looked at yet. */
void job_frozen(Job *job);

/* Why a dump would fail. Collected all at once, so that a refusal names every blocker. */
void job_block(Job *job, const char *kind, pid_t pid, int fd, const char *object, const char *reason, const char *cure);
size_t job_n_findings(const Job *job);
EngineFinding *const *job_findings(const Job *job);
/* false with NOT_SUPPORTED and a message of all findings if there are any. */
bool job_check_findings(const Job *job, GError **error);

/* What is done about an external object, and by which rule: no blocker. Explain shows them (job_show_notes). */
void job_note(Job *job, const char *kind, pid_t pid, int fd, const char *object, const char *action, const char *rule);
/* Puts the notes behind the findings, when nobody counts blockers any more. */
void job_show_notes(Job *job);
/* Tells that something outside the ordinary was dealt with. @plugin NULL: by the engine itself. @rule may be NULL. */
void job_object(Job *job, const char *plugin, const char *kind, guint64 id, const char *action, const char *rule);

/* Descriptors that the restore's caller gives for external objects, by key. Duplicated here. */
/* false: there is no such descriptor. */
bool job_inherit(Job *job, const char *key, int fd);
bool job_inherits(const Job *job); /* whether there are any */
/* Borrowed; -1 if there is none of that key. */
int job_inherited(const Job *job, const char *key);

/* The same with more details; @object is borrowed. */
void job_report_object(Job *job, const EngineObject *object);
/* Sends one row of a table at once; @row is borrowed. */
void job_row(Job *job, const EngineRow *row);

/* Results, in the order they were set. Keys as on the bus. */
void job_result_u64(Job *job, const char *key, guint64 value);
void job_result_text(Job *job, const char *key, const char *value);
size_t job_n_results(const Job *job);
EngineValue *const *job_results(const Job *job);

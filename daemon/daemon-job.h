/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "application.h"
#include "description.h"
#include "engine-link.h"
#include "engine.pb-c.h"
#include "job-options.h"
#include "store.h"
#include "target.h"

typedef enum JobState { JOB_QUEUED, JOB_RUNNING, JOB_CANCELLING, JOB_FINISHED } JobState;

/* What changed; one bit a property that emits changes. */
enum {
  JOB_CHANGED_STATE = 1 << 0, /* State, Cancelable */
  JOB_CHANGED_PHASE = 1 << 1,
  JOB_CHANGED_PROGRESS = 1 << 2, /* Progress, ProgressValid, BytesTotal, ExpectedEndTime */
  JOB_CHANGED_RESULT = 1 << 3,   /* Result, ErrorName, ErrorMessage */
};

typedef struct Job Job;

/* Whoever runs jobs hears of them; no IPC in here. */
typedef struct JobObserver {
  void (*changed)(Job *job, unsigned what, void *userdata);
  void (*object)(Job *job, const EngineObject *object, void *userdata);
  void (*log)(Job *job, const EngineLog *log, void *userdata);
  void (*ready)(Job *job, void *userdata);
  /* The engine has had its last word; @link is handed over and may still have to exit. */
  void (*retired)(Job *job, EngineLink *link, void *userdata);
  void (*finished)(Job *job, void *userdata);
} JobObserver;

/* One dump, restore, explanation, check or description, from its acceptance until it is forgotten.
 * What was asked for never changes after job_new(). */
struct Job {
  uint64_t id;
  EngineOperation operation;
  uid_t owner; /* who asked */
  gid_t *gids;
  size_t n_gids;
  bool any_target; /* an administrator's action was granted */
  Target *target;  /* dump, explain */
  char *name;      /* dump, restore, describe; unlock: of the network lock; "" else */
  uid_t store_uid; /* whose checkpoint it is */
  JobOptions options;
  uint64_t start_time; /* CLOCK_REALTIME usec */

  JobState state;
  bool ready;
  char *phase;
  uint64_t bytes_done, bytes_total;
  int64_t first_progress_time; /* CLOCK_MONOTONIC usec; 0: none yet */
  GVariant *result;            /* a{sv}, once done */
  GVariant *findings;          /* aa{sv}, of Explain or an error; may be NULL */
  Description *description;    /* describe, list-plugins: what its answer will be */
  GError *error;               /* once failed or cancelled */

  EngineLink *link;
  pid_t engine_pid;
  StoreDraft *draft;
  char *stale_lock; /* dump: the network lock of the checkpoint that this one has replaced; NULL: none */
  int images_fd; /* restore; describe, and what uses a directory of the caller's: given to it */
  bool is_directory; /* images_fd is the caller's: nothing of it is in the store */
  Applications *applications; /* dump: whom to ask before; borrowed */
  bool is_self;               /* dump: the caller is the target */
  HookRound *round;           /* dump: those that were asked */
  bool requested;             /* the engine has its request */
  pid_t caller_pid;           /* the process that asked; 0: not known */
  int caller_pidfd;           /* restore from a directory */
  GError *cancel_reason;
  bool killed;
  unsigned cancel_step;
  sd_event *event;
  sd_event_source *timer;
  int64_t begin_time; /* CLOCK_MONOTONIC usec, when it began to run */
  Store *store;
  const struct Limits *limits;
  const JobObserver *observer;
  void *observer_data;
};

Job *job_new(sd_event *event, EngineOperation operation, const JobObserver *observer, void *userdata);
void job_free(Job *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_free)

/* Gives the job its engine (handed over, or NULL with @error_number: none to be had). */
void job_run(Job *job, EngineLink *link, int error_number);

/* Asks the engine to stop, and makes it, if it does not. @reason (handed over) becomes
 * the job's error; NULL for plain Cancelled. A finished job stays what it is. */
void job_cancel(Job *job, GError *reason);

/* The job's engine ended with wait status @status. */
void job_engine_exited(Job *job, int status);

/* The operation goes to, or comes from, a directory of a caller who is not root. */
bool job_is_untrusted(const Job *job);

bool job_is_over(const Job *job);
const char *job_operation_name(const Job *job);
const char *job_state_name(const Job *job);
const char *job_result_name(const Job *job); /* "", done, failed, canceled */

/* Honest progress: valid only while the engine knows how much there is. */
bool job_progress(const Job *job, double *ret_fraction);
uint64_t job_rate(const Job *job);              /* bytes a second, 0: unknown */
uint64_t job_expected_end_time(const Job *job); /* CLOCK_REALTIME usec, 0: unknown */

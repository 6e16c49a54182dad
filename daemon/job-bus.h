/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "call.h"
#include "daemon-job.h"
#include "manager.h"

/* How an answer that waits for a job's end (or its begin) looks. */
typedef enum ReplyForm {
  REPLY_RESULT,      /* a{sv} */
  REPLY_FINDINGS,    /* aa{sv} */
  REPLY_CHECK,       /* b a{sv} */
  REPLY_DESCRIPTION, /* a{sv}, also when the job failed */
  REPLY_PLUGINS,     /* a(sa{sv}) */
  REPLY_NOTHING,
  REPLY_PATH,        /* o, as soon as the engine is ready or the job has to queue */
} ReplyForm;

/* What a job's observer and the bus need besides the job. */
struct BusJob {
  Manager *manager;
  Job *job;
  char *path;
  char *owner_name; /* the connection that asked */
  GPtrArray *waiters;
  sd_bus_track *track; /* with on-disconnect=cancel */
  unsigned dirty;      /* JOB_CHANGED_* not yet signalled */
  int64_t signalled;   /* CLOCK_MONOTONIC usec */
  sd_event_source *signal_timer;
  sd_event_source *linger_timer;
  bool announced; /* JobNew was sent */
  bool released;
};

/* A job's changes are signalled at most this often, the first time a little after its begin. */
#define SIGNAL_INTERVAL_USEC (G_USEC_PER_SEC / 10)
#define SIGNAL_FIRST_USEC (G_USEC_PER_SEC / 100)

extern const JobObserver bus_job_observer;

/* Offers the Job interface below JOB_PATH_PREFIX. */
int job_bus_install(Manager *manager);

/* JobNew, once. */
void bus_job_announce(BusJob *bus_job);

/* Takes over @job and enters it in manager->jobs. @job's observer data is
 * the BusJob that is returned. */
BusJob *bus_job_new(Manager *manager, Job *job, const char *owner_name);
void bus_job_free(BusJob *bus_job);

BusJob *bus_job_find(Manager *manager, uint64_t id);

/* Answers @message (a new reference is taken) when it is time. */
int bus_job_add_waiter(BusJob *bus_job, sd_bus_message *message, ReplyForm form);

/* Answers @message with what is known, and why there is no more (@error, may be NULL). */
int bus_job_reply_description(sd_bus_message *message, Description *description, const GError *error);

/* The job's properties, a{sv}, with its token if it has one. */
GVariant *bus_job_describe(const BusJob *bus_job);

/* The job is over and forgotten. */
void bus_job_remove(BusJob *bus_job);

/* Answers those whose time has come: all of them when the job is over. */
void bus_job_answer(BusJob *bus_job);

/* PropertiesChanged of the job now, for what is dirty. */
void bus_job_flush(BusJob *bus_job);

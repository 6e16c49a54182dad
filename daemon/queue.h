/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "daemon-job.h"
#include "service-limits.h"
#include "spawner-client.h"

/* All jobs that are not over: which may come in, which run, which wait. */
typedef struct Queue Queue;

/* @limits and @spawner must live on. */
Queue *queue_new(const Limits *limits, SpawnerClient *spawner);
void queue_free(Queue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Queue, queue_free)

/* LimitsExceeded, or Busy: one job per tree and one per name. */
bool queue_check(const Queue *queue, const Job *candidate, GError **error);

/* A job works on checkpoint @name of @uid. */
bool queue_uses_name(const Queue *queue, uid_t uid, const char *name);

/* Takes @job in (it stays the caller's), running it now or as soon as there is room. */
void queue_add(Queue *queue, Job *job);

/* @job is over: the next ones get their turn. */
void queue_remove(Queue *queue, Job *job);

/* The spawner's answer for the job that has waited longest for its engine. */
void queue_engine_ready(Queue *queue, EngineLink *link, int error_number);

Job *queue_find_engine(const Queue *queue, pid_t engine_pid);
unsigned queue_running(const Queue *queue);
unsigned queue_waiting(const Queue *queue);

/* Cancels every job; @code and @message become their errors. */
void queue_cancel_all(Queue *queue, int code, const char *message);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "queue.h"
#include "service-limits.h"
#include "spawner-client.h"
#include "store.h"

#define SERVICE_NAME "org.criu.Checkpoint"

/* The whole of the bus process. One per process; passed around, never global. */
typedef struct Manager {
  sd_event *event;
  sd_bus *bus;
  Limits limits;
  Store *store;
  SpawnerClient *spawner;
  Queue *queue;
  GHashTable *jobs;                     /* &BusJob.job->id → BusJob, also those that are over */
  GHashTable *calls;                    /* Call → itself: those that wait for an authorization */
  GHashTable *subscribers;              /* unique bus name → Subscriber */
  Applications *applications;           /* registered ones */
  GHashTable *retired;                  /* engine pid → EngineLink, done but not yet gone */
  unsigned shown_running, shown_queued; /* as last signalled */
  bool shutting_down;
  bool releasing; /* the bus name is being given up */
  bool named;
  sd_event_source *idle_timer;
  uint64_t idle_usec;
  uint64_t linger_usec; /* how long jobs that are over stay */
} Manager;

typedef struct ManagerPaths {
  const char *store;
  const char *config;
} ManagerPaths;

/* Everything but the bus: limits, store, queue. Takes over @spawner_fd. */
Manager *manager_new(const ManagerPaths *paths, int spawner_fd, GError **error);
void manager_free(Manager *manager);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Manager, manager_free)

/* Connects to the bus and offers the objects; the name comes with manager_run(). */
int manager_connect(Manager *manager);

/* Takes the name and serves until idle, terminated or disconnected. The exit code, or
 * a negative errno. */
int manager_run(Manager *manager);

/* @pid is one of the service's own processes. */
bool manager_owns_process(const Manager *manager, pid_t pid);

/* Keeps an engine whose job is over until it has ended by itself (or the service ends). */
void manager_retire_engine(Manager *manager, EngineLink *link);

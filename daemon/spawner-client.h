/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <systemd/sd-event.h>

#include "engine-link.h"

/* The bus process' side of the spawner. Keeps one engine ready, so that a job does
 * not wait for an exec. */
typedef struct SpawnerClient SpawnerClient;

/* @link is handed over; NULL with a negative errno when no engine could be made. */
typedef void (*SpawnerReady)(EngineLink *link, int error, void *userdata);
/* An engine ended with wait status @status. */
typedef void (*SpawnerExited)(pid_t pid, int status, void *userdata);
/* The spawner itself is gone: the service cannot go on. */
typedef void (*SpawnerLost)(void *userdata);

typedef struct SpawnerHandlers {
  SpawnerReady ready;
  SpawnerExited exited;
  SpawnerLost lost;
} SpawnerHandlers;

/* Takes over @fd. @handlers must live on. */
int spawner_client_new(
    sd_event *event, int fd, const SpawnerHandlers *handlers, void *userdata, SpawnerClient **ret);
void spawner_client_free(SpawnerClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SpawnerClient, spawner_client_free)

/* A ready engine, or NULL after asking for one: then handlers->ready is called later. */
EngineLink *spawner_client_take(SpawnerClient *client);

/* Has one engine made ready in the background, if none is. */
void spawner_client_prepare(SpawnerClient *client);

/* @pid is the spawner or the engine kept ready. */
bool spawner_client_owns(const SpawnerClient *client, pid_t pid);

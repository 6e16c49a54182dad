/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "engine.pb-c.h"

/* The bus process' end of one engine: its socket (proto/engine.proto) and its pidfd. */
typedef struct EngineLink EngineLink;

#define ENGINE_LINK_FDS_MAX 160 /* of one request */

/* @event is NULL at end of file or after a message that cannot be understood: the link
 * is then dead, and the handler may free it. Otherwise @event is lent for the call. */
typedef void (*EngineLinkHandler)(EngineLink *link, const EngineEvent *event, void *userdata);

/* Takes over @fd and @pidfd, also on failure. */
int engine_link_new(sd_event *event, int fd, int pidfd, pid_t pid, EngineLink **ret);

/* Kills an engine that has not ended. */
void engine_link_free(EngineLink *link);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineLink, engine_link_free)

pid_t engine_link_pid(const EngineLink *link);
/* The process has not ended. */
bool engine_link_is_alive(const EngineLink *link);
void engine_link_set_handler(EngineLink *link, EngineLinkHandler handler, void *userdata);

/* @fds stay the caller's; they are what request->fds announces. Negative errno. */
int engine_link_send_request(EngineLink *link, const EngineRequest *request, const int *fds, size_t n_fds);

/* After the caller has closed those of the request's descriptors that are connections of the target: the engine's copies
 * are the last, and it may begin. */
int engine_link_send_released(EngineLink *link);

/* Asks for a cooperative cancel. */
int engine_link_send_cancel(EngineLink *link);

/* The engine has had its last word: its socket is closed, and it gets ten seconds to exit. */
void engine_link_retire(EngineLink *link);

int engine_link_kill(EngineLink *link, int signo);

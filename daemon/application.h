/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Applications that want to know before they are checkpointed (RegisterApplication). Each has given us one end of a
 * seqpacket socket; the packets are in libcheckpoint's protocol (docs/self-dump.md):
 *   service: "pre-dump"    application: "ready", or "refuse: TEXT"
 * and the end of the connection, once the tree is frozen, says that the dump is over. */

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "target.h"

#define APPLICATIONS_ROUND_MAX 128 /* of one tree; as many as fit beside the others into an engine's request */

/* All that are registered now. */
typedef struct Applications Applications;
Applications *applications_new(sd_event *event);
void applications_free(Applications *applications);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Applications, applications_free)
size_t applications_count(const Applications *applications);

/* Process @target (handed over) of user @uid has registered; @fd is taken over, too, also on failure. LimitsExceeded.
 */
bool applications_add(Applications *applications, Target *target, uid_t uid, int fd, GError **error);

typedef enum HooksMode { HOOKS_REQUIRE, HOOKS_TRY, HOOKS_SKIP } HooksMode;

/* One dump's asking of all registered applications in the tree below @root. They leave the table. */
typedef struct HookRound HookRound;

/* Called once, maybe before hook_round_begin() returns. @error (handed over) is why the dump must not be made. */
typedef void (*HookRoundHandler)(GError *error, void *userdata);

/* @myself: the caller of a self-dump, which knows of it; its connections are only closed. 0: none. */
HookRound *hook_round_new(Applications *applications, pid_t root, pid_t myself, HooksMode mode, uint64_t timeout_usec);
void hook_round_begin(HookRound *round, HookRoundHandler handler, void *userdata);
/* Those to be closed when the tree is frozen; they stay the round's. */
size_t hook_round_fds(const HookRound *round, int fds[static APPLICATIONS_ROUND_MAX]);
size_t hook_round_count(const HookRound *round);
/* Closes all connections: whoever else has them decides when the applications see their end. */
void hook_round_close(HookRound *round);
/* At the end of the dump: those that live are expected to register again in a moment, and a next round waits for them. */
void hook_round_free(HookRound *round);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HookRound, hook_round_free)

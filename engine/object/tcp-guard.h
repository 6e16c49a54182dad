/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The guard of sockets in repair mode. A socket in that mode is dead for its application, and stays so when the engine
 * dies. So a tiny process, forked beforehand, holds duplicates of all of them and the end of a pipe: if the engine
 * dies, it takes every socket out of the mode and removes the network lock that would have stayed.
 *
 * The agents of the frozen tasks must not go home before that: a call on a socket in repair mode fails. So the guard
 * holds their robust futexes meanwhile (region.h): for them we live as long as it does. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct TcpGuard TcpGuard;

typedef struct GuardedSocket {
  int fd;
  int reuse; /* SO_REUSEADDR, which leaving the mode clears */
} GuardedSocket;

/* @sockets: copied. @lock: the table to remove, or NULL; @lock_fds: net_lock_socket() of each network namespace that has it. @alive: the alive words (uint32_t *), or NULL; borrowed, must
 * stay as long as the guard. */
TcpGuard *tcp_guard_new(
    const GuardedSocket *sockets, size_t n, const char *lock, const GArray *lock_fds, const GPtrArray *alive, GError **error);
/* Ends it: nothing is to be done any more. */
void tcp_guard_free(TcpGuard *guard);
/* Takes one socket out of the mode. @mode: as for tcp_repair_set(). Async-signal-safe. */
void tcp_guard_release(const GuardedSocket *socket, int mode);

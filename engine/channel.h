/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The engine's end of the socket it was started with (proto/engine.proto): one request in, events out, cancel packets
 * in between. A peer that does not read loses progress, objects and log lines, never time of a frozen tree; only the
 * last event, result or error, waits for it, and the rows of a description do. */

#include "engine.pb-c.h"
#include "job.h"
#include <signal.h>

/* Some kinds there are once, HOOK_CONNECTION many times. */
#define CHANNEL_MAX_FDS 160

typedef struct Channel Channel;

/* @fd is taken over and made CLOEXEC. */
Channel *channel_new(int fd);
void channel_free(Channel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Channel, channel_free)

/* Waits for the request; owned by the channel, its descriptors too. NULL with *@error set if it is none, NULL without
 * an error if the peer left first. */
const EngineRequest *channel_receive(Channel *channel, GError **error);
/* The descriptor that came as @kind, borrowed; -1 if none did. */
int channel_fd(const Channel *channel, EngineFd kind);
/* Waits until the starter has released the connections that came along, and for the packet on SELF_CONNECTION by which the
 * application says that it may be frozen; true at once if there are none. CANCELLED if the application closed it, TIMED_OUT if it says nothing. */
bool channel_await_application(Channel *channel, Job *job, GError **error);

/* The same for kinds that may come several times: number @n (from 0), -1 behind the last. */
int channel_nth_fd(const Channel *channel, EngineFd kind, size_t n);

void channel_ready(Channel *channel);
/* The last event: exactly one of the two is sent. */
void channel_result(Channel *channel, const Job *job);
void channel_error(Channel *channel, const Job *job, const GError *failure);

/* @flag (borrowed) counts as a cancel request once it is set, by a signal handler say. */
void channel_watch(Channel *channel, const volatile sig_atomic_t *flag);
/* What a job needs to speak through @channel. */
JobSink channel_sink(Channel *channel);

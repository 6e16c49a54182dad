/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The warden: a process that traces in place of this one, and outlives it.
 *
 * A task under seccomp(2) may be killed for any system call that its filters do not know, and an agent makes many. A
 * tracer can suspend the filters (PTRACE_O_SUSPEND_SECCOMP), but only as long as it lives: if the engine were the tracer,
 * its death would leave agents alone with the filters on their way home. So a fork of the engine, which does nothing else,
 * traces the tree, makes each step that tracee.h asks for, and holds the alive words of the regions: for agents it is the
 * coordinator. When the engine dies, the warden stops every thread, lets the leaders unmap their regions, gives all of
 * them their registers and masks back while their filters are still suspended, and ends; they run on under their filters
 * and have not made a single call of their own without them. */

#include "error.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Its name (comm): a task that it has is let go soon. */
#define WARDEN_COMM "ckpt-warden"

struct TraceCall;

/* Starts it: all of tracee.h goes there from now on. One at a time; nothing may be traced yet. */
bool warden_start(GError **error);
bool warden_is_active(void);
int64_t warden_perform(const struct TraceCall *call);
/* It takes the robust mutex (alive.h) at @offset of the shared mapping of @size bytes at @address of @pid. 0 or -errno. */
int warden_own(pid_t pid, uint64_t address, uint64_t size, uint64_t offset);
/* A process that holds this descriptor, too, keeps the warden waiting after our end until its own. -1: there is no
 * warden. */
int warden_lifeline(void);
/* Ends it; nothing may be traced any more. Nothing happens when there is none. */
void warden_stop(void);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Clocks of run queues (rq_clock_task of the kernel's scheduler): each processor has one of its own, which leaves out interrupts
 * and stolen time. /proc/PID/task/TID/sched tells by it when a thread ran last. */

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* se.exec_start of a thread, in nanoseconds of its processor's clock. False where it is not known: the scheduler forgets it when
 * the thread goes to another processor. */
bool run_clock_last(pid_t pid, pid_t tid, gint64 *ret_nsec);
/* What has to be added to the clock of @cpu to get CLOCK_MONOTONIC. A thread finds it out by standing there for a moment, which it
 * may have to wait for: -EAGAIN if it does so for longer than @patience_usec since somebody asked first. -ENOENT: it may not stand
 * there. */
int run_clock_offset(int cpu, gint64 patience_usec, gint64 *ret_nsec);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Time left of a sleep. A thread that is stopped in nanosleep(2), poll(2) or futex(2) with a time-out leaves the moment it
 * would have woken up inside the kernel only. What can be known from outside: when the thread went to sleep
 * (se.exec_start of /proc/PID/task/TID/sched, before it is disturbed) and how long it asked for (its arguments). */

#include "frozen.h"

/* Before the thread is interrupted: if it sleeps in such a call, notes the call and the moment it began. False if it was not
 * seen in a program's system call: it runs, has ended, or is a worker of the kernel's. @glimpse: what has been seen of it already, or
 * NULL. */
bool sleep_observe(FrozenTask *task, FrozenThread *thread, const ThreadGlimpse *glimpse);
/* After it was stopped and its registers are known: what is left, into thread->sleep_*. */
void sleep_measure(FrozenThread *thread);
/* Before stopped threads run on, all at once: for the next engine that finds them in the same sleeps. */
void sleep_keep_notes(const FrozenTask *task);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The threads that trace. ptrace(2) binds a task to the very thread that seized it, so that one tracer is what limits a dump
 * of many threads. With a second one each has half of them: what is to be done to all is done by tracers_run(), each tracer
 * looking after its own; any single request of the main thread's finds its way by itself; work may only ask what its own tracer has. */

#include <stdint.h>
#include <sys/types.h>

/* Makes the second tracer, if there is a processor for it. It lives until the process ends: its tasks would run on without it.
 * There is none while a warden traces (warden.h). */
void tracers_begin(void);
/* 1 or 2. */
unsigned tracers_count(void);
/* Who is going to seize @tid (0: the main thread). In tracers_run() only the tracer that seizes it may say so. */
void tracers_assign(pid_t tid, unsigned which);
unsigned tracers_owner(pid_t tid);

/* Called once in each tracer at the same time; @data is shared. */
typedef void TracersWork(void *data, unsigned which);
void tracers_run(TracersWork *work, void *data);

/* The same for work that wakes many tasks: each tracer has half of the processors meanwhile. Left to itself the kernel puts both, and all
 * whom they wake, on one: in a virtual machine it takes a processor that has nothing to do for one that the host has taken away. */
void tracers_run_apart(TracersWork *work, void *data);

/* The same for work that asks each of many tasks for something and waits for none of them: they come when both have done, by a real-time
 * priority if this process may have one (sched_setscheduler(2), CAP_SYS_NICE). Else each runs as soon as it is woken, before the next. */
void tracers_run_ahead(TracersWork *work, void *data);

struct TraceCall;
/* trace_perform() by the tracer of the task. */
int64_t tracers_perform(const struct TraceCall *call);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Threads that are like the first of their process: of a thousand that is nearly everyone. What an agent would ask them is known from
 * that one, and from a look at what the kernel keeps of them (thread-look.h); where nobody may look, each has an agent. */

#include "frozen.h"

/* Where a look at the kernel's own is quicker than a question for each thread. */
#define ALIKE_MANY 64u

/* The same for processes: many, or one whose pages take long to walk through. */
#define ALIKE_MANY_TASKS 32u
#define ALIKE_MANY_PAGES 32768u

/* Begins to find out where to look; by the main thread. Nothing waits for it before one of the others is called. */
void alike_prepare(void);
/* For processes that are looked at instead of read about; NULL: nobody has prepared, or nobody may look. Lives until alike_end(). */
ProcessLook *alike_processes(void);
/* The threads of a process that runs (ThreadGlimpse); NULL if they cannot be seen. */
GArray *alike_glimpse(const FrozenTask *task);
/* Fills FrozenThread.sight of all threads of @task, which stand still, where that can be seen; by the main thread, while the other tracer
 * has nothing to do. */
void alike_look(FrozenTask *task);
/* Sets FrozenThread.alike where it is so. The tree stands still, and its registers and signals are known. */
void alike_find(Job *job, FrozenTree *tree);
/* Forgets what was found out. */
void alike_end(void);

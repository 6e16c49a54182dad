/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Threads that are like the first of their process: of a thousand that is nearly everyone. What an agent would ask them is known from
 * that one, and from a look at what the kernel keeps of them (thread-look.h); where nobody may look, each has an agent. */

#include "frozen.h"

/* Begins to find out where to look; by the main thread, once there are many threads. Nothing waits for it before alike_find(). */
void alike_prepare(void);
/* Sets FrozenThread.alike where it is so. The tree stands still, and its registers and signals are known. */
void alike_find(Job *job, FrozenTree *tree);
/* For a dump that ended before. */
void alike_end(void);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Takes the regions away that an engine leaves in its targets when it is killed. When it dies the threads go home, each by
 * a frame in the region, and none of them can know when the last one has: rt_sigreturn(2) reads its frame to the end, and
 * nothing of ours runs after it. So somebody outside looks: a process that waits for the engine's end. */

#include "frozen.h"

#define SWEEPER_COMM "ckpt-sweeper"

typedef struct Sweeper Sweeper;

/* Forks it, while the engine is small: a fork later is a fault for every page that the engine writes to from then on. NULL if
 * there is none: then a killed engine leaves its regions behind, which harms nobody. */
Sweeper *sweeper_new(void);
/* Until none of the engine's descriptors is open in it any more. NULL is apart. */
void sweeper_wait(Sweeper *sweeper);
/* What there will be to sweep. From here on the tree's regions must be at the tasks' region_at. False: it does not listen. */
bool sweeper_tell(Sweeper *sweeper, const FrozenTree *tree);
/* 0: there is none. */
pid_t sweeper_pid(const Sweeper *sweeper);
/* The regions are gone, or their tasks are. */
void sweeper_free(Sweeper *sweeper);

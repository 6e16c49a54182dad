/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* seccomp(2): which threads are under it, and their filters. */

#include "frozen.h"

/* Which threads have filters or are in strict mode; suspends it where they are. True if there are any whose agents need a
 * warden (warden.h). Tasks whose seccomp cannot be suspended are marked: they get no agents. */
bool seccomp_suspend(FrozenTree *tree);
/* Modes and filters into the model: seccomp.img, and the threads' cores. Blockers go to the job. After the registers. */
bool seccomp_collect(Job *job, FrozenTree *tree, Checkpoint *checkpoint, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Signals of timers that are pending while the tree stands still, and what they count. A POSIX timer keeps the expirations
 * that its pending signal stands for to itself and adds them to the signal when that is taken: so it is taken, and put back
 * at once by the same program. What was put back is not the timer's own any more; a tree that runs on gets it back as the
 * timer's own, by arming the timer at the first of these expirations: the kernel counts again then. */

#include "frozen.h"

/* Looks for pending signals again, after the timers were read: what has gone off since the first look is in both. */
bool overruns_look_again(FrozenTask *task, GError **error);
/* Into the models' pending signals (si_overrun). Nothing is lost if the engine dies in between. */
bool overruns_take(Job *job, FrozenTree *tree, GError **error);
/* Before a task runs on. What fails is logged: then its program gets two signals for the same number of expirations. */
void overruns_return(Job *job, FrozenTask *task);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The guardian of a release. Until the first task is let go the kernel kills all of them if we die (agents see it, and
 * PTRACE_O_EXITKILL); after the last one they live on. In between, a tiny process watches: if we die there, it kills the
 * whole tree, so that no half of it is left. */

#include <sys/types.h>

typedef struct Guardian Guardian;

/* Forks it; it holds nothing but the end of a pipe. @pids: the whole tree, at most @n. NULL: could not be made. */
Guardian *guardian_new(const pid_t *pids, size_t n);
/* From here on the tree is killed if we die … */
void guardian_arm(Guardian *guardian);
/* … until here. Ends it. */
void guardian_disarm(Guardian *guardian);

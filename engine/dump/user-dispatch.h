/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Threads that dispatch their own system calls (prctl(2), PR_SET_SYSCALL_USER_DISPATCH), on kernels that do not tell
 * ptrace so (before 6.4): read where the kernel has it (kernel-types.h). */

#include "frozen.h"

/* Sets own_dispatch of the threads whose dispatch_hidden is set, and clears that; it stays where nothing can be read.
 * Only threads of processes that catch SIGSYS are looked at, since dispatch is by that signal; of others it is cleared.
 */
void user_dispatch_look(FrozenTree *tree);

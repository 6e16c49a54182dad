/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Landlock (Documentation/userspace-api/landlock.rst): nothing shows whether a task has restricted itself, nor to what. But a
 * restricted task may not look at a task that is not restricted like it, whatever its user ids: so a stranger is started,
 * a process that has nothing and does nothing, with the ids of the thread that is asked, and the thread asks for its
 * robust list (get_robust_list(2), PTRACE_MODE_READ_REALCREDS). */

#include "frozen.h"

typedef struct Stranger Stranger;

/* Begins to make one with these ids. *ret stays NULL where the kernel has no Landlock, or it is off. */
bool stranger_new(uid_t uid, gid_t gid, Stranger **ret, GError **error);
/* Waits until it is one; before it is looked at. NULL is. */
bool stranger_wait(Stranger *stranger, GError **error);
/* Is there one, and with these ids? */
bool stranger_is(const Stranger *stranger, uid_t uid, gid_t gid);
/* 0 for NULL. */
pid_t stranger_pid(const Stranger *stranger);
void stranger_free(Stranger *stranger);

/* Asks those threads again, by strangers like themselves, that could not look at the first one; blocks what is restricted. */
bool landlock_check(Job *job, FrozenTree *tree, GError **error);

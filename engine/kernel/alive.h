/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A word that tells whether a process lives: a robust mutex that it holds (Documentation/locking/robust-futexes.rst). The
 * kernel marks the word with FUTEX_OWNER_DIED and wakes a waiter when the process ends, in whatever way. */

#include <stddef.h>

#define ALIVE_SIZE 64 /* bytes to keep for it */

/* Makes one in shared memory, and holds it: the calling thread must be the last to end. Its futex word is the first one. */
void alive_take(void *place);
void alive_give(void *place);

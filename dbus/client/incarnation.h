/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Is this the process that it was, or one restored from its checkpoint? Memory cannot tell. A socket can: the kernel
 * gives each a number (SO_COOKIE) that it never gives again until the next boot, and what a restore makes is a new one.
 * Boots are told apart by boot_id, machines too. */

#include <stdbool.h>
#include <stdint.h>

typedef struct Incarnation {
  uint64_t cookie;
  char boot[40];
} Incarnation;

/* 0 or a negative errno. */
int checkpoint_incarnation_note(Incarnation *ret, int socket_fd);
/* The same socket of the same boot: the original. */
bool checkpoint_incarnation_is_same(const Incarnation *before, int socket_fd);

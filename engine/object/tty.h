/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What collecting and restoring terminals share. */

#include "internal.h"
#include "tty-queue.h"
#include <sys/sysmacros.h>

#define TTY_MASTER_RDEV makedev(5, 2)
#define TTY_CURRENT_RDEV makedev(5, 0)
#define TTY_SLAVE_MAJOR 136

/* Ids of tty-info.img: two a pseudo terminal, and one for its descriptions that were opened as /dev/tty. */
enum { TTY_INFO_SLAVE = 0, TTY_INFO_MASTER = 1, TTY_INFO_CURRENT = 2 };
static inline guint32 tty_info_id(guint32 index, int which) {
  return (index + 1) * 4 + (guint32)which;
}

/* Which of the three an entry is, also those of other programs; -1: a terminal that is no pseudo terminal. */
int tty_info_which(const TtyInfoEntry *info);

/* --- tty-outside.c --- */

/* Number of a pseudo terminal -> "pid 812 (sshd)" outside the tree that has its master. The ancestors of the root are
 * quickly asked; everybody only for the text of a blocker. */
GHashTable *tty_masters_of_ancestors(const Collector *c);
GHashTable *tty_masters_of_everybody(const Collector *c);

/* --- restore, tty-restore.c --- */

int tty_open(Restorer *r, const FileEntry *entry, GError **error);

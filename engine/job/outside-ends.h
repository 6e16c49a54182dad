/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a job's option `external` says about networks and mounts, as criu has it: KIND[ID]:VALUE.
 *
 *   veth[IN]:OUT@BRIDGE   restore: the other end of the pair is OUT, a port of BRIDGE (without it: of none)
 *   netdev[NAME]          dump: the link is brought from outside at the restore
 *   netdev[IN]:OUT        restore: it is the link OUT, which gets the name IN there
 *   net[INODE]:KEY        dump: that namespace is given at the restore as the descriptor KEY
 *   mnt[MOUNTPOINT]:NAME  dump: what is mounted there is given at the restore, under that name
 *   mnt[NAME]:PATH        restore: it is what is at PATH outside */

#include "job.h"

/* Is it one of these, and no rule about an object (checkpoint-external(5))? */
bool outside_end_is(const char *text);
/* INVALID_ARGS for one that is none of these. */
bool outside_ends_check(Job *job, GError **error);
/* What follows the colon for @kind[@id], newly allocated, "" where nothing does; NULL: it is not mentioned. */
char *outside_end_find(const Job *job, const char *kind, const char *id);

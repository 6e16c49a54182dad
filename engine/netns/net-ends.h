/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a job's option `external` says about networks, as criu has it: KIND[ID]:VALUE.
 *
 *   veth[IN]:OUT@BRIDGE   restore: the other end of the pair is OUT, a port of BRIDGE (without it: of none)
 *   netdev[NAME]          dump: the link is brought from outside at the restore
 *   netdev[IN]:OUT        restore: it is the link OUT, which gets the name IN there
 *   net[INODE]:KEY        dump: that namespace is given at the restore as the descriptor KEY */

#include "job.h"

/* Is it one of these, and no rule about an object (checkpoint-external(5))? */
bool net_end_is(const char *text);
/* INVALID_ARGS for one that is none of the four. */
bool net_ends_check(Job *job, GError **error);
/* What follows the colon for @kind[@id], newly allocated, "" where nothing does; NULL: it is not mentioned. */
char *net_end_find(Job *job, const char *kind, const char *id);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The settings of a network namespace (/proc/sys/net), which shows those of the thread's. */

#include "checkpoint.h"
#include "job.h"

/* Those of the thread's namespace that are others than in a new one; not those of single links. */
bool net_settings_collect(CkptNetns *ns, GError **error);
/* Those of one link, all of them. */
void net_settings_collect_link(CkptNetLink *link, const char *name);
/* What is another value now is written; what cannot be is told in the log. */
void net_settings_restore(Job *job, const CkptNetns *ns);
/* @name: of the link now. @link may be NULL. Addresses shall not have to wait until nobody else has them: so accept_dad is 0
 * until the last; net_settings_hold_dad() answers with what it was (newly allocated; NULL: there is no IPv6). */
void net_settings_restore_link(Job *job, const CkptNetLink *link, const char *name);
char *net_settings_hold_dad(const char *name);
void net_settings_release_dad(Job *job, const CkptNetLink *link, const char *name, const char *before);

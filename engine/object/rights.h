/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* With whose rights paths are opened at a restore. A path is only the name under which a file was open: between the dump and
 * the restore whoever may change its directories can put another file there, by a symbolic link for instance. So for a user
 * who restores what is theirs, every path is looked up with that user's rights, never with the engine's. */

#include "job.h"

typedef struct CallerRights {
  bool changed;
  uid_t uid; /* what they were before */
  gid_t gid;
  int n_groups;
  gid_t *groups;
} CallerRights;

/* From here on this thread, and what it forks off, looks paths up with the rights of the job's caller; does nothing for one who
 * is trusted like root. caller_rights_end() must follow, also after false. */
bool caller_rights_begin(const Job *job, CallerRights *saved, GError **error);
void caller_rights_end(CallerRights *saved);
/* Whether the above changes anything. */
bool caller_is_limited(const Job *job);

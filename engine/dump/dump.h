/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "job.h"

/* The dump pipeline: freeze, authorize, collect, objects, memory, write, finish. Dumps the tree of @pid into the job's
 * images directory and then kills it, stops it or lets it run, as the options say. @pidfd (borrowed, -1: none) pins the
 * target. On failure the tree runs on as it was and the directory holds no inventory. */
bool dump_run(Job *job, pid_t pid, int pidfd, const char *name, GError **error);

/* What would block a dump of the tree; the findings are left in the job. Freezes the tree for a moment, changes nothing. */
bool dump_explain(Job *job, pid_t pid, int pidfd, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "job.h"
#include <stdio.h>

/* Moves process @pid to the control group @path of the hierarchy with these controllers ("": the unified one), which is
 * made if it is not there. 0, or a negative errno. */
int cgroup_enter(pid_t pid, const char *controllers, const char *path);

/* The restore pipeline: load, plan, files, skeletons, memory, threads, release. On success the tree runs, *@ret_pid is its
 * root, which is a child of the calling process (of its parent with options.restore_sibling). On failure, or if the
 * calling process dies before the last step, no task of it is left. */
bool restore_run(Job *job, pid_t *ret_pid, GError **error);

/* Prints the plan of a restore (tree, files, programs) to @out and changes nothing. Needs no privileges. */
bool restore_plan_print(Job *job, FILE *out, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Control groups that somebody has frozen (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; cgroup.freeze of
 * cgroup-v2.rst): a task in one cannot be stopped (version 1), or runs no agent (version 2), until it is thawed. */

#include "frozen.h"

/* Is the process in a frozen group of version 1? Then BUSY, which names the group. Asked when a stop takes long. */
bool frozen_group_check_v1(pid_t pid, const char *comm, GError **error);
/* The same of version 2, of all tasks of the tree, whose facts are known. */
bool frozen_group_check_v2(const FrozenTree *tree, GError **error);

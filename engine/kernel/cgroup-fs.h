/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Control groups as files (cgroups(7)): where a hierarchy is, and which of a group's files are properties of its own. */

#include <glib.h>
#include <stdbool.h>

/* What is mounted where, for the next. Newly allocated. */
char *cgroup_fs_mounts(void);
/* Where the hierarchy with these controllers is mounted, newly allocated; "" is the unified one, "name=systemd" a named one.
 * NULL: nowhere. */
char *cgroup_fs_mount(const char *mounts, const char *controllers);
/* Is it a path of a group that may be used: absolute, and without ".."? */
bool cgroup_fs_is_path(const char *path);

/* The names of properties that can be written and are not about processes, in the order in which they are set; NULL at the
 * end. */
const char *const *cgroup_fs_properties(bool unified);
/* Can a group of the hierarchy with these controllers have that property? */
bool cgroup_fs_may_have(const char *controllers, const char *property);
/* Before the tasks of a group: what its children may use. */
#define CGROUP_SUBTREE_CONTROL "cgroup.subtree_control"
#define CGROUP_TYPE "cgroup.type"
/* Who is in a group, thread by thread: of version 2, and 1. */
#define CGROUP_THREADS "cgroup.threads"
#define CGROUP_TASKS "tasks"
#define CGROUP_DEVICES "devices.list"

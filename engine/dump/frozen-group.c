/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "frozen-group.h"
#include "cgroup-fs.h"
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

static bool fail_frozen(pid_t pid, const char *comm, const char *group, GError **error) {
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
      "pid %d (%s) is in a frozen control group (%s): have it thawed (systemctl thaw, cgroup.freeze or freezer.state; a container: unpause "
      "it), then try again", (int)pid, comm, group);
}

/* The path in the line of /proc/PID/cgroup (cgroups(7)) of a hierarchy that has this controller, "" for version 2; newly allocated, NULL: in none. */
static char *group_of(const char *text, const char *controller) {
  g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
  for (size_t i = 0; lines[i]; i++) {
    g_auto(GStrv) f = g_strsplit(lines[i], ":", 3);
    if (g_strv_length(f) != 3)
      continue;
    g_auto(GStrv) controllers = g_strsplit(f[1], ",", -1);
    if (*controller ? g_strv_contains((const char *const *)controllers, controller) : !*f[1])
      return g_strdup(f[2]);
  }
  return NULL;
}

static bool file_says(const char *mount, const char *group, const char *name, const char *what) {
  g_autofree char *path = g_strdup_printf("%s%s/%s", mount, group, name), *text = NULL;
  return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, what);
}

bool frozen_group_check_v1(pid_t pid, const char *comm, GError **error) {
  g_autofree char *text = proc_read(pid, "cgroup", NULL, NULL), *group = group_of(text, "freezer"), *mounts = cgroup_fs_mounts();
  g_autofree char *mount = group ? cgroup_fs_mount(mounts, "freezer") : NULL;
  bool frozen = mount && (file_says(mount, group, "freezer.state", "FROZEN") || file_says(mount, group, "freezer.state", "FREEZING"));
  return !frozen || fail_frozen(pid, comm, group, error);
}

static bool is_unified(const char *path) {
  struct statfs fs;
  return statfs(path, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* Where it nearly always is; looking through all mounts takes longer. */
static char *unified_mount(void) {
  static const char *const usual[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
  for (size_t i = 0; i < G_N_ELEMENTS(usual); i++)
    if (is_unified(usual[i]))
      return g_strdup(usual[i]);
  g_autofree char *mounts = cgroup_fs_mounts();
  return cgroup_fs_mount(mounts, "");
}

bool frozen_group_check_v2(const FrozenTree *tree, GError **error) {
  g_autofree char *mount = NULL;
  const char *last = NULL;
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    const char *text = task->facts.cgroup;
    if (task->zombie || !text || (last && strcmp(text, last) == 0))
      continue;
    last = text;
    g_autofree char *group = group_of(text, "");
    if (!group || strcmp(group, "/") == 0 || (!mount && !(mount = unified_mount())))
      continue;
    if (file_says(mount, group, "cgroup.events", "frozen 1"))
      return fail_frozen(task->pid, task->stat.comm, group, error);
  }
  return true;
}

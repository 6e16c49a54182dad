/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cgroup-fs.h"
#include <string.h>

static const char *const unified_properties[] = {CGROUP_TYPE, CGROUP_SUBTREE_CONTROL, "cgroup.max.depth", "cgroup.max.descendants", "cpuset.cpus",
    "cpuset.mems", "cpuset.cpus.partition", "cpu.idle", "cpu.weight", "cpu.max", "cpu.max.burst", "cpu.uclamp.min", "cpu.uclamp.max",
    "io.weight", "io.bfq.weight", "io.max", "io.latency", "memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.high",
    "memory.swap.max", "memory.zswap.max", "memory.zswap.writeback", "memory.oom.group", "pids.max", "hugetlb.2MB.max", "hugetlb.1GB.max",
    "rdma.max", "misc.max", NULL};

static const char *const v1_properties[] = {"cgroup.clone_children", "notify_on_release", "cpuset.cpus", "cpuset.mems",
    "cpuset.cpu_exclusive", "cpuset.mem_exclusive", "cpuset.mem_hardwall", "cpuset.memory_migrate", "cpuset.memory_spread_page",
    "cpuset.memory_spread_slab", "cpuset.sched_load_balance", "cpuset.sched_relax_domain_level", "cpu.idle", "cpu.shares",
    "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.rt_period_us", "cpu.rt_runtime_us", "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.kmem.tcp.limit_in_bytes", "memory.swappiness",
    "memory.oom_control", "blkio.weight", "blkio.bfq.weight", "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device", "pids.max", "net_cls.classid", "net_prio.ifpriomap",
    "hugetlb.2MB.limit_in_bytes", "hugetlb.1GB.limit_in_bytes", CGROUP_DEVICES, NULL};

const char *const *cgroup_fs_properties(bool unified) {
  return unified ? unified_properties : v1_properties;
}

bool cgroup_fs_may_have(const char *controllers, const char *property) {
  const char *dot = strchr(property, '.');
  gsize n = dot ? (gsize)(dot - property) : 0;
  if (!*controllers || !dot || g_str_has_prefix(property, "cgroup."))
    return true;
  for (const char *at = controllers; at; at = strchr(at, ',')) {
    at += *at == ',';
    if (strncmp(at, property, n) == 0 && (!at[n] || at[n] == ','))
      return true;
  }
  return false;
}

bool cgroup_fs_is_path(const char *path) {
  return path[0] == '/' && !strstr(path, "/../") && !g_str_has_suffix(path, "/..");
}

static bool is_mount_of(char *const *tail, const char *controllers) {
  if (strcmp(tail[0], "cgroup2") == 0)
    return !*controllers;
  g_auto(GStrv) options = g_strsplit(tail[2], ",", -1);
  g_auto(GStrv) wanted = g_strsplit(controllers, ",", -1);
  /* (name=systemd is one option, so the first controller decides) */
  return strcmp(tail[0], "cgroup") == 0 && *controllers && g_strv_contains((const char *const *)options, wanted[0]);
}

char *cgroup_fs_mounts(void) {
  char *text = NULL;
  return g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL) ? text : g_strdup("");
}

char *cgroup_fs_mount(const char *mounts, const char *controllers) {
  g_auto(GStrv) lines = g_strsplit(mounts, "\n", -1);
  for (char **l = lines; *l; l++) {
    char *dash = strstr(*l, " - ");
    g_auto(GStrv) head = dash ? g_strsplit(*l, " ", 6) : NULL;
    g_auto(GStrv) tail = dash ? g_strsplit(dash + 3, " ", 3) : NULL;
    if (dash && g_strv_length(head) >= 5 && g_strv_length(tail) >= 3 && is_mount_of(tail, controllers))
      return g_strdup(head[4]);
  }
  return NULL;
}

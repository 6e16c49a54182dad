/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Back into the control groups that the tasks came from (cgroups(7)). A group that is gone is made again without its
 * limits: nobody is left in the group of the engine, which goes away with it. */
#include "proc.h"
#include "restore.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the hierarchy with these controllers is mounted: "" is the unified one, "name=systemd" a named one. */
static char *find_mount(const char *mountinfo, const char *controllers) {
  g_auto(GStrv) lines = g_strsplit(mountinfo, "\n", -1);
  for (char **l = lines; *l; l++) {
    char *dash = strstr(*l, " - ");
    g_auto(GStrv) head = dash ? g_strsplit(*l, " ", 6) : NULL;
    g_auto(GStrv) tail = dash ? g_strsplit(dash + 3, " ", 3) : NULL;
    if (!dash || g_strv_length(head) < 5 || g_strv_length(tail) < 3)
      continue;
    bool unified = strcmp(tail[0], "cgroup2") == 0 && !*controllers;
    g_auto(GStrv) options = g_strsplit(tail[2], ",", -1);
    g_auto(GStrv) wanted = g_strsplit(controllers, ",", -1);
    bool v1 = strcmp(tail[0], "cgroup") == 0 && *controllers && g_strv_contains((const char *const *)options, wanted[0]);
    /* (name=systemd is one option, so the first controller decides) */
    if (unified || v1)
      return g_strdup(head[4]);
  }
  return NULL;
}

static bool move_to(const char *mount, const char *path, pid_t pid) {
  g_autofree char *directory = g_strconcat(mount, path, NULL);
  g_autofree char *procs = g_strconcat(directory, "/cgroup.procs", NULL);
  if (g_mkdir_with_parents(directory, 0755) < 0)
    return false;
  int fd = open(procs, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  char text[16];
  int n = g_snprintf(text, sizeof text, "%d", (int)pid);
  bool ok = write(fd, text, (size_t)n) == n;
  int err = errno;
  (void)close(fd);
  errno = err;
  return ok;
}

static bool is_there(const char *current, const CkptCgroup *c) {
  g_autofree char *line = g_strdup_printf(":%s:%s\n", c->controllers, c->path);
  return current && strstr(current, line);
}

void cgroup_move_tasks(Restore *r) {
  g_autofree char *mountinfo = NULL;
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    const CkptTask *x = t->task ? t->task->extra : NULL;
    if (!x || t->zombie || job_options(r->job)->keep_cgroup || job_options(r->job)->untrusted_images)
      continue;
    g_autofree char *current = proc_read(t->pid, "cgroup", NULL, NULL);
    for (size_t k = 0; k < x->n_cgroups; k++) {
      const CkptCgroup *c = x->cgroups[k];
      if (is_there(current, c) || strstr(c->path, ".."))
        continue;
      if (!mountinfo)
        mountinfo = proc_read(getpid(), "mountinfo", NULL, NULL);
      g_autofree char *mount = find_mount(mountinfo ? mountinfo : "", c->controllers);
      if (!mount || !move_to(mount, c->path, t->pid))
        job_log(r->job, 4, "pid %d stays where it is in the control group hierarchy \"%s\": cannot move it to %s: %s", (int)t->pid,
            c->controllers, c->path, mount ? g_strerror(errno) : "not mounted here");
    }
  }
}

int cgroup_enter(pid_t pid, const char *controllers, const char *path) {
  g_autofree char *mountinfo = proc_read(getpid(), "mountinfo", NULL, NULL);
  g_autofree char *mount = mountinfo ? find_mount(mountinfo, controllers) : NULL;
  if (!mount || strstr(path, ".."))
    return -ENOENT;
  return move_to(mount, path, pid) ? 0 : -errno;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Who else has the master of a pseudo terminal? All masters are one device file; which of them a descriptor is stands in
 * its fdinfo. */

#include "proc.h"
#include "tty.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_master_of(int dir_fd, const char *name, pid_t pid, guint32 index) {
  char target[64], path[64], text[512];
  guint64 number = 0;
  ssize_t n = readlinkat(dir_fd, name, target, sizeof target - 1);
  if (n <= 0)
    return false;
  target[n] = '\0';
  if (!g_str_has_suffix(target, "/ptmx"))
    return false;
  (void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%s", (int)pid, name);
  _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
  n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (n <= 0)
    return false;
  text[n] = '\0';
  return fdinfo_number(text, "tty-index", 10, &number) && number == index;
}

static bool has_master(pid_t pid, guint32 index) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
  DIR *dir = opendir(path);
  bool found = false;
  for (const struct dirent *e; dir && !found && (e = readdir(dir));)
    found = g_ascii_isdigit(e->d_name[0]) && is_master_of(dirfd(dir), e->d_name, pid, index);
  if (dir)
    (void)closedir(dir);
  return found;
}

static char *name_of(pid_t pid) {
  char comm[64];
  proc_comm(pid, comm);
  return g_strdup_printf("pid %d (%s)", (int)pid, comm);
}

char *tty_master_of_ancestor(const Collector *c, guint32 index) {
  const GPtrArray *tasks = collector_checkpoint(c)->tasks;
  ProcStat s;
  if (!tasks->len)
    return NULL;
  for (pid_t pid = task_pid(tasks->pdata[0]); proc_stat(pid, &s, NULL) && s.ppid > 0; pid = s.ppid)
    if (s.ppid != getpid() && has_master(s.ppid, index))
      return name_of(s.ppid);
  return NULL;
}

char *tty_master_of_anybody(const Collector *c, guint32 index) {
  DIR *proc = opendir("/proc");
  char *found = NULL;
  for (const struct dirent *e; proc && !found && (e = readdir(proc));) {
    pid_t pid = (pid_t)atoi(e->d_name);
    if (pid > 0 && pid != getpid() && !collector_has_task(c, pid) && has_master(pid, index))
      found = name_of(pid);
  }
  if (proc)
    (void)closedir(proc);
  return found;
}

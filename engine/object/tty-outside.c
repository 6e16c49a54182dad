/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Who else has the master of a pseudo terminal? All masters are one device file; which of them a descriptor is stands in
 * its fdinfo. */

#include "proc.h"
#include "tty.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

/* The number of the pseudo terminal whose master a descriptor is; -1: it is none, -2: nothing may be read here. */
static gint64 index_of(int dir_fd, const char *name, pid_t pid) {
  char target[64], path[320], text[512];
  guint64 number = 0;
  ssize_t n = readlinkat(dir_fd, name, target, sizeof target - 1);
  if (n <= 0)
    return n < 0 && errno == EACCES ? -2 : -1;
  target[n] = '\0';
  if (!g_str_has_suffix(target, "/ptmx"))
    return -1;
  (void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%s", (int)pid, name);
  _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
  n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (n <= 0)
    return -1;
  text[n] = '\0';
  return fdinfo_number(text, "tty-index", 10, &number) ? (gint64)number : -1;
}

/* Who was found first stays. */
static void note_masters(GHashTable *masters, pid_t pid) {
  char path[64], comm[64];
  (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
  DIR *dir = opendir(path);
  for (const struct dirent *e; dir && (e = readdir(dir));) {
    gint64 index = g_ascii_isdigit(e->d_name[0]) ? index_of(dirfd(dir), e->d_name, pid) : -1;
    if (index == -2)
      break;
    gpointer key = GUINT_TO_POINTER((guint)index);
    if (index < 0 || g_hash_table_contains(masters, key))
      continue;
    proc_comm(pid, comm);
    g_hash_table_insert(masters, key, g_strdup_printf("pid %d (%s)", (int)pid, comm));
  }
  if (dir)
    (void)closedir(dir);
}

GHashTable *tty_masters_of_ancestors(const Collector *c) {
  const GPtrArray *tasks = collector_checkpoint(c)->tasks;
  GHashTable *masters = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  ProcStat s;
  for (pid_t pid = tasks->len ? task_pid(tasks->pdata[0]) : 0; pid > 0 && proc_stat(pid, &s, NULL) && s.ppid > 0; pid = s.ppid)
    if (s.ppid != getpid())
      note_masters(masters, s.ppid);
  return masters;
}

GHashTable *tty_masters_of_everybody(const Collector *c) {
  GHashTable *masters = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  DIR *proc = opendir("/proc");
  for (const struct dirent *e; proc && (e = readdir(proc));) {
    pid_t pid = (pid_t)atoi(e->d_name);
    if (pid > 0 && pid != getpid() && !collector_has_task(c, pid))
      note_masters(masters, pid);
  }
  if (proc)
    (void)closedir(proc);
  return masters;
}

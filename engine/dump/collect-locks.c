/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File locks and leases (/proc/locks, proc(5)): they are not brought back yet, so they are told and not lost. */
#include "collect.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

typedef struct LockLine {
  char kind[16];
  pid_t pid; /* who took it; -1 for locks of an open file description; 0: in another pid namespace */
  unsigned major, minor;
  unsigned long inode;
} LockLine;

static bool parse_line(const char *line, LockLine *ret) {
  const char *p = strchr(line, ':');
  if (!p)
    return false;
  p += p[1] == ' ' && p[2] == '-' ? strlen(": -> ") : 1;
  return sscanf(p, " %15s %*s %*s %d %x:%x:%lu", ret->kind, &ret->pid, &ret->major, &ret->minor, &ret->inode) == 5;
}

static void block_lock(Job *job, const FrozenTask *task, int fd, const LockLine *lock) {
  g_autofree char *object = fd < 0 ? g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm)
                                   : g_strdup_printf("pid %d (%s) fd %d", (int)task->pid, task->stat.comm, fd);
  const char *kind = strcmp(lock->kind, "POSIX") == 0 ? "fcntl" : strcmp(lock->kind, "FLOCK") == 0 ? "flock" : lock->kind;
  g_autofree char *reason = g_strdup_printf("it holds or waits for a file lock (%s, inode %lu)", kind, lock->inode);
  job_block(job, "fd", task->pid, fd, object, reason, "release the lock before the dump; locks are not supported yet");
}

/* Which descriptor of the tree leads to the file of a lock that belongs to no living process. */
static bool find_holder(Job *job, const FrozenTree *tree, const LockLine *lock) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; task->fds && k < task->fds->len; k++) {
      int fd = g_array_index(task->fds, CollectedFd, k).fd;
      char path[64];
      struct stat st;
      g_snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)task->pid, fd);
      if (stat(path, &st) == 0 && st.st_ino == lock->inode && major(st.st_dev) == lock->major && minor(st.st_dev) == lock->minor) {
        block_lock(job, task, fd, lock);
        return true;
      }
    }
  }
  return false;
}

bool collect_locks(Job *job, const FrozenTree *tree, GError **error) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/locks", &text, NULL, NULL))
    return true; /* a kernel without file locking */
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **l = lines; *l; l++) {
    LockLine lock;
    if (!parse_line(*l, &lock))
      continue;
    const FrozenTask *task = lock.pid > 0 ? frozen_tree_find(tree, lock.pid) : NULL;
    if (task)
      block_lock(job, task, -1, &lock);
    else if (lock.pid < 0 || (lock.pid > 0 && kill(lock.pid, 0) < 0 && errno == ESRCH))
      (void)find_holder(job, tree, &lock);
  }
  return job_poll(job, error);
}

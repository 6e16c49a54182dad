/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file system in user space that a process of the tree serves: while that one stands still, whoever looks at a file on it waits
 * for ever, and that would be us. So it is found before any file is looked at, by links in /proc alone. */
#include "collect.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool has_fuse_mounts(void) {
  g_autofree char *text = NULL;
  return g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL) && strstr(text, " - fuse");
}

bool collect_fuse(Job *job, const FrozenTree *tree) {
  bool found = false;
  for (guint i = has_fuse_mounts() ? 0 : tree->tasks->len; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; !task->zombie && task->facts.fd_numbers && k < task->facts.fd_numbers->len; k++) {
      char path[64], link[32];
      int fd = g_array_index(task->facts.fd_numbers, int, k);
      g_snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)task->pid, fd);
      ssize_t n = readlink(path, link, sizeof link);
      if (n != (ssize_t)strlen("/dev/fuse") || memcmp(link, "/dev/fuse", (size_t)n) != 0)
        continue;
      g_autofree char *object = g_strdup_printf("pid %d (%s) fd %d: /dev/fuse", (int)task->pid, task->stat.comm, fd);
      job_block(job, "fd", task->pid, fd, object, "it serves a mounted file system (FUSE), which stands still with it",
          "unmount that first (fusermount -u), or checkpoint its users only");
      found = true;
    }
  }
  return found;
}

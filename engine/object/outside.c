/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Who is at the other end? Only asked for the text of a blocker, so it may be slow: it looks at every descriptor of
 * every process. */

#include "internal.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

static void closedir_cleanup(DIR **dir) {
  if (*dir)
    (void)closedir(*dir);
}
#define _cleanup_dir_ __attribute__((cleanup(closedir_cleanup)))

/* Each container has terminals of its own, by the same names: one of this path is the one that it leads to here. */
static bool is_that_terminal(int dir_fd, const char *name, const char *link) {
  struct stat here, there;
  return !g_str_has_prefix(link, "/dev/pts/") || stat(link, &here) < 0 ||
         (fstatat(dir_fd, name, &there, 0) == 0 && there.st_dev == here.st_dev && there.st_ino == here.st_ino);
}

/* The mode of a link in /proc/PID/fd says what the descriptor is open for. */
static bool holds_link(pid_t pid, const char *link, mode_t access) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
  _cleanup_dir_ DIR *dir = opendir(path);
  const struct dirent *e;
  while (dir && (e = readdir(dir))) {
    char target[64];
    ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof target - 1);
    if (n <= 0)
      continue;
    target[n] = '\0';
    struct stat st;
    if (strcmp(target, link) == 0 && is_that_terminal(dirfd(dir), e->d_name, link) &&
        (!access || (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_mode & access)))
      return true;
  }
  return false;
}

static pid_t search(const Collector *c, const char *link, mode_t access, char **ret_comm) {
  _cleanup_dir_ DIR *proc = opendir("/proc");
  const struct dirent *e;
  while (proc && (e = readdir(proc))) {
    pid_t pid = (pid_t)atoi(e->d_name);
    if (pid <= 0 || pid == getpid() || (c && collector_has_task(c, pid)) || !holds_link(pid, link, access))
      continue;
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/comm", pid);
    g_autofree char *comm = NULL;
    if (!g_file_get_contents(path, &comm, NULL, NULL))
      continue;
    *ret_comm = g_strdup(g_strchomp(comm));
    return pid;
  }
  return 0;
}

pid_t outside_holder(const Collector *c, const char *link, mode_t access, char **ret_comm) {
  return search(c, link, access, ret_comm);
}

/* The first link of @links that the process has open, NULL: none. */
static const char *holds_any(pid_t pid, GHashTable *links) {
  char path[64], target[64];
  (void)snprintf(path, sizeof path, "/proc/%d/fd", pid);
  _cleanup_dir_ DIR *dir = opendir(path);
  const struct dirent *e;
  gpointer key;
  while (dir && (e = readdir(dir))) {
    ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof target - 1);
    if (n <= 0)
      continue;
    target[n] = '\0';
    if (g_hash_table_lookup_extended(links, target, &key, NULL))
      return key;
  }
  return NULL;
}

char *outside_holder_of_any(const Collector *c, GHashTable *links, guint32 *ret_value) {
  _cleanup_dir_ DIR *proc = opendir("/proc");
  const struct dirent *e;
  while (proc && (e = readdir(proc))) {
    pid_t pid = (pid_t)atoi(e->d_name);
    const char *link = pid <= 0 || pid == getpid() || (c && collector_has_task(c, pid)) ? NULL : holds_any(pid, links);
    if (!link)
      continue;
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/comm", pid);
    g_autofree char *comm = NULL;
    if (!g_file_get_contents(path, &comm, NULL, NULL))
      continue;
    *ret_value = GPOINTER_TO_UINT(g_hash_table_lookup(links, link));
    return g_strdup_printf("pid %d (%s)", (int)pid, g_strchomp(comm));
  }
  return NULL;
}

char *find_outside_holder(const Collector *c, const char *link, mode_t access) {
  g_autofree char *comm = NULL;
  pid_t pid = outside_holder(c, link, access, &comm);
  return pid ? g_strdup_printf("pid %d (%s)", (int)pid, comm) : NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "file-tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 32

static void directory_close(DIR *directory) {
  (void)closedir(directory);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DIR, directory_close)

int file_tree_open(int dirfd, const char *name) {
  int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

  return fd < 0 ? -errno : fd;
}

static DIR *open_directory(int dirfd, const char *name) {
  int fd = file_tree_open(dirfd, name);
  DIR *directory = fd < 0 ? NULL : fdopendir(fd);

  if (fd >= 0 && !directory)
    (void)close(fd);
  return directory;
}

static const char *next_entry(DIR *directory) {
  const struct dirent *entry;

  while ((entry = readdir(directory)))
    if (!g_str_equal(entry->d_name, ".") && !g_str_equal(entry->d_name, ".."))
      return entry->d_name;
  return NULL;
}

static int remove_at_depth(int at, const char *name, unsigned depth) {
  g_autoptr(DIR) directory = NULL;
  const char *entry;
  int r = 0;

  if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
    return 0;
  if (errno != EISDIR && errno != EPERM)
    return -errno;
  if (depth == 0)
    return -ELOOP;
  directory = open_directory(at, name);
  if (!directory)
    return -errno;
  while (r == 0 && (entry = next_entry(directory)))
    r = remove_at_depth(dirfd(directory), entry, depth - 1);
  if (r < 0)
    return r;
  return unlinkat(at, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int file_tree_remove(int at, const char *name) {
  return remove_at_depth(at, name, DEPTH_MAX);
}

static uint64_t bytes_at_depth(int at, const char *name, unsigned depth) {
  g_autoptr(DIR) directory = NULL;
  const char *entry;
  struct stat st;
  uint64_t sum;

  if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return 0;
  sum = (uint64_t)st.st_blocks * 512;
  if (!S_ISDIR(st.st_mode) || depth == 0)
    return sum;
  directory = open_directory(at, name);
  while (directory && (entry = next_entry(directory)))
    sum += bytes_at_depth(dirfd(directory), entry, depth - 1);
  return sum;
}

uint64_t file_tree_bytes(int at, const char *name) {
  return bytes_at_depth(at, name, DEPTH_MAX);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is in a tmpfs of the tree's own: a compressed archive of tar(1), as criu has it. */
#include "catalog.h"
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGE_MAX 4096

/* What tar has to say, until it says no more. */
static char *read_words(int fd) {
  char *text = g_malloc0(MESSAGE_MAX);
  size_t have = 0;
  char rest[512];
  for (ssize_t n = 1; n > 0;) {
    bool room = have < MESSAGE_MAX - 1;
    n = read(fd, room ? text + have : rest, room ? MESSAGE_MAX - 1 - have : sizeof rest);
    have += room && n > 0 ? (size_t)n : 0;
  }
  g_strchomp(g_strdelimit(text, "\n", ';'));
  return text;
}

/* In the directory @root, with @file as standard input or output. */
static bool run_tar(const char *const *argv, int root, int file, bool reads, char **ret_words, GError **error) {
  static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
  posix_spawn_file_actions_t actions;
  int ends[2], status = 0;
  pid_t pid = -1;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "pipe");
  (void)posix_spawn_file_actions_init(&actions);
  (void)posix_spawn_file_actions_addfchdir_np(&actions, root);
  (void)posix_spawn_file_actions_adddup2(&actions, file, reads ? 0 : 1);
  (void)posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  int r = posix_spawnp(&pid, "tar", &actions, NULL, (char *const *)argv, (char *const *)environment);
  (void)posix_spawn_file_actions_destroy(&actions);
  (void)close(ends[1]);
  *ret_words = r == 0 ? read_words(ends[0]) : NULL;
  (void)close(ends[0]);
  if (r != 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot run tar(1), which keeps file systems in memory");
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
         engine_fail(error, ENGINE_ERROR_CODE__FAILED, "tar(1) failed (%d): %s", status, *ret_words);
}

bool tmpfs_pack(int images_fd, guint32 number, int root, GError **error) {
  static const char *const argv[] = {"tar", "--create", "--gzip", "--one-file-system", "--sparse", "--numeric-owner", "--xattrs", "--acls",
      "--xattrs-include=*", "--warning=no-file-ignored", ".", NULL};
  char name[IMAGE_NAME_MAX];
  g_autofree char *words = NULL;
  image_name(name, IMAGE_TMPFS, number);
  int fd = openat(images_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return engine_fail_errno(error, errno == EEXIST ? ENGINE_ERROR_CODE__CHECKPOINT_EXISTS : ENGINE_ERROR_CODE__FAILED, errno, "%s", name);
  bool ok = run_tar(argv, root, fd, false, &words, error);
  (void)close(fd);
  if (!ok)
    g_prefix_error(error, "%s: ", name);
  return ok;
}

bool tmpfs_unpack(int images_fd, guint32 number, int root, GError **error) {
  static const char *const argv[] = {"tar", "--extract", "--gzip", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs",
      "--acls", "--xattrs-include=*", "--delay-directory-restore", NULL};
  char name[IMAGE_NAME_MAX];
  g_autofree char *words = NULL;
  image_name(name, IMAGE_TMPFS, number);
  int fd = openat(images_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "%s", name);
  bool ok = run_tar(argv, root, fd, true, &words, error);
  (void)close(fd);
  if (!ok)
    g_prefix_error(error, "%s: ", name);
  return ok;
}

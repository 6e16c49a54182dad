/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the plugins of the two old doors do: they keep their state in a file of the images directory, since they have no
 * records, and make the objects of tests/plugin/outside.c again. */

#include "misbehave.h"
#include <errno.h>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

extern int criu_get_image_dir(void);

/* With the name that the number has in the network namespace of the call. */
static inline void test_note_link(const char *callback, int index, int type, const char *kind) {
  char name[IF_NAMESIZE] = "?";
  (void)if_indextoname((unsigned)index, name);
  test_note("%s %d %d %s is %s", callback, index, type, kind, name);
}

static inline int old_state(int id, int flags) {
  char name[64];
  (void)snprintf(name, sizeof name, "old-door-%d", id);
  return openat(criu_get_image_dir(), name, flags | O_CLOEXEC, 0600);
}

static inline int old_save(int id, const char *text) {
  int fd = old_state(id, O_CREAT | O_TRUNC | O_WRONLY);
  if (fd < 0)
    return -errno;
  ssize_t n = write(fd, text, strlen(text));
  (void)close(fd);
  return n == (ssize_t)strlen(text) ? 0 : -EIO;
}

static inline int old_load(int id, char text[128]) {
  int fd = old_state(id, O_RDONLY);
  if (fd < 0)
    return -errno;
  ssize_t n = read(fd, text, 127);
  (void)close(fd);
  text[n < 0 ? 0 : n] = '\0';
  return n < 0 ? -EIO : 0;
}

/* The socket's peer is told to a restore. */
static inline int old_dump_unix(int fd, int id) {
  struct sockaddr_un a = {0};
  socklen_t size = sizeof a;
  if (getpeername(fd, (struct sockaddr *)&a, &size) < 0)
    return -errno;
  return a.sun_path[0] ? old_save(id, a.sun_path) : -ENOTSUP;
}

/* As the server's path says. */
static inline int socket_type(const char *path) {
  return strstr(path, ".seqpacket") ? SOCK_SEQPACKET : SOCK_STREAM;
}

static inline int old_connect(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, socket_type(path) | SOCK_CLOEXEC, 0);
  (void)snprintf(a.sun_path, sizeof a.sun_path, "%.107s", path);
  if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0) {
    int e = errno;
    (void)close(fd);
    return -e;
  }
  return fd;
}

static inline int old_restore_unix(int id) {
  char path[128];
  int r = old_load(id, path);
  return r < 0 ? r : old_connect(path);
}

static inline int old_dump_file(int fd, int id) {
  struct stat st;
  if (fstat(fd, &st) < 0)
    return -errno;
  return S_ISCHR(st.st_mode) && major(st.st_rdev) == 10 ? old_save(id, "/dev/loop-control") : -ENOTSUP;
}

static inline int old_restore_file(int id) {
  char path[128];
  int r = old_load(id, path);
  int fd = r < 0 ? r : open(path, O_RDONLY | O_CLOEXEC);
  return fd < 0 && r == 0 ? -errno : fd;
}

/* A mount whose place is called plugged-…: what is to be there after a restore lies beside it, under that name and ".from". */
static inline int old_dump_mount(const char *mountpoint, int id) {
  const char *name = strrchr(mountpoint, '/');
  return name && strncmp(name, "/plugged-", 9) == 0 ? old_save(id, mountpoint) : -ENOTSUP;
}

static inline int old_restore_mount(int id, const char *mountpoint, const char *old_root) {
  char was[128], from[4096];
  int r = old_load(id, was);
  size_t n = strlen(mountpoint), k = strlen(was);
  if (r < 0)
    return r;
  if (n < k || strcmp(mountpoint + n - k, was) != 0)
    return -EINVAL;
  (void)snprintf(from, sizeof from, "%s%s.from", old_root, was);
  return mount(from, mountpoint, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

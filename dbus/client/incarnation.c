/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "incarnation.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

static void read_boot(char *ret, size_t size) {
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, ret, size - 1) : -1;

  ret[n > 0 ? n : 0] = '\0'; /* without /proc the cookie has to do */
  if (fd >= 0)
    (void)close(fd);
}

int checkpoint_incarnation_note(Incarnation *ret, int socket_fd) {
  socklen_t size = sizeof ret->cookie;

  memset(ret, 0, sizeof *ret);
  if (getsockopt(socket_fd, SOL_SOCKET, SO_COOKIE, &ret->cookie, &size) < 0)
    return -errno;
  read_boot(ret->boot, sizeof ret->boot);
  return 0;
}

bool checkpoint_incarnation_is_same(const Incarnation *before, int socket_fd) {
  Incarnation now;

  return checkpoint_incarnation_note(&now, socket_fd) == 0 && now.cookie == before->cookie &&
         strcmp(now.boot, before->boot) == 0;
}

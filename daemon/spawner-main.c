/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* checkpointd-spawner UNIT: the spawner where systemd starts it, one for each connection
 * to its socket (dbus/checkpointd-spawner.socket). An engine is root, so who connected
 * must be more than some process of root's, which may be as locked down as our own bus
 * process: it must be the main process of UNIT, and systemd says who that is. */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "config.h"
#include "sd-auto.h"
#include "spawner.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static int main_pid(const char *unit, pid_t *ret) {
  g_autoptr(sd_bus) bus = NULL;
  char *path = NULL;
  uint32_t pid = 0;
  int r = sd_bus_open_system(&bus);

  if (r >= 0)
    r = sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit, &path);
  if (r >= 0)
    r = sd_bus_get_property_trivial(
        bus, "org.freedesktop.systemd1", path, "org.freedesktop.systemd1.Service", "MainPID", NULL, 'u', &pid);
  free(path);
  if (r >= 0)
    *ret = (pid_t)pid;
  return r < 0 ? r : 0;
}

/* Whoever connected, rather than somebody who got its pid since; always true where the
 * kernel (before 6.5) cannot tell. */
static bool peer_lives(int fd) {
  struct pollfd p = {.fd = -1, .events = POLLIN};
  socklen_t size = sizeof p.fd;
  bool lives;

  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &p.fd, &size) < 0)
    return errno == ENOPROTOOPT;
  lives = poll(&p, 1, 0) == 0;
  (void)close(p.fd);
  return lives;
}

static int check_peer(int fd, const char *unit) {
  struct ucred peer = {};
  socklen_t size = sizeof peer;
  pid_t wanted = 0;
  int r;

  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
    return -errno;
  if (peer.uid != 0 || peer.pid <= 0)
    return -EPERM;
  r = main_pid(unit, &wanted);
  if (r < 0)
    return r;
  return peer.pid == wanted && peer_lives(fd) ? 0 : -EPERM;
}

int main(int argc, char **argv) {
  const char *engine = getenv("CHECKPOINTD_ENGINE");
  int r;

  if (argc != 2 || sd_listen_fds(1) != 1) {
    g_printerr("usage: checkpointd-spawner UNIT, with a connection from systemd\n");
    return 2;
  }
  r = check_peer(SD_LISTEN_FDS_START, argv[1]);
  if (r < 0) {
    g_printerr("Engines are for the main process of %s only: %s\n", argv[1], g_strerror(-r));
    return EXIT_FAILURE;
  }
  r = spawner_serve(engine ? engine : CHECKPOINTD_LIBEXECDIR "/checkpointd-engine", SD_LISTEN_FDS_START);
  if (r < 0)
    g_printerr("Cannot go on: %s\n", g_strerror(-r));
  return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

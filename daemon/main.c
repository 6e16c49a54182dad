/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* checkpointd: gets a spawner (forks one, or connects to that of systemd), opens what it needs, locks itself down,
 * serves. The environment is root's: the bus and systemd set it, never a caller. */
#include <glib.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "config.h"
#include "manager.h"
#include "sandbox.h"
#include "spawner.h"

static const char *from_environment(const char *name, const char *otherwise) {
  const char *value = getenv(name);

  return value ? value : otherwise;
}

/* Signals that the event loop takes are blocked before anything runs. */
static void block_signals(void) {
  sigset_t mask;

  (void)sigemptyset(&mask);
  (void)sigaddset(&mask, SIGTERM);
  (void)sigaddset(&mask, SIGINT);
  (void)sigprocmask(SIG_BLOCK, &mask, NULL);
  (void)signal(SIGPIPE, SIG_IGN);
}

static int fail(const char *what, int r) {
  g_printerr("checkpointd: %s: %s\n", what, g_strerror(-r));
  return EXIT_FAILURE;
}

/* Under systemd it is not our child: we are locked down from the start there. */
static int get_spawner(int *ret_fd) {
  const char *path = getenv("CHECKPOINTD_SPAWNER");

  if (path)
    return spawner_connect(path, ret_fd);
  return spawner_fork(from_environment("CHECKPOINTD_ENGINE", CHECKPOINTD_LIBEXECDIR "/checkpointd-engine"), ret_fd);
}

int main(void) {
  const ManagerPaths paths = {
      .store = from_environment("CHECKPOINTD_STORE", "/var/lib/checkpointd"),
      .config = from_environment("CHECKPOINTD_CONFIG", "/etc/checkpointd/checkpointd.conf"),
  };
  g_autoptr(GError) error = NULL;
  g_autoptr(Manager) manager = NULL;
  int spawner_fd = -1, r;

  (void)umask(077);
  r = get_spawner(&spawner_fd);
  if (r < 0)
    return fail("Cannot start the spawner", r);
  block_signals();
  manager = manager_new(&paths, spawner_fd, &error);
  if (!manager) {
    g_printerr("checkpointd: %s\n", error->message);
    return EXIT_FAILURE;
  }
  r = manager_connect(manager);
  if (r < 0)
    return fail("Cannot connect to the system bus", r);
  r = sandbox_enter(paths.store);
  if (r < 0)
    return fail("Cannot enter the sandbox", r);
  r = manager_run(manager);
  return r < 0 ? fail("Cannot go on", r) : r;
}

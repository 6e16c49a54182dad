/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hooked FILE MODE: registers hooks, which append a line each to FILE: "registered", "pre-dump", "post-dump",
 * "post-restore". MODE: thread (the library's), poll (a loop of our own), refuse (pre-dump does), hang (pre-dump takes
 * a minute), self NAME (checkpoints itself once, too). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcheckpoint.h"

static const char *file, *mode;

static void note(const char *line) {
  int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

  if (fd < 0 || dprintf(fd, "%s\n", line) < 0)
    exit(3);
  (void)close(fd);
}

static int before(void *userdata) {
  note("pre-dump");
  if (strcmp(mode, "hang") == 0)
    (void)sleep(60);
  return strcmp(mode, "refuse") == 0 ? -EBUSY : 0;
}

static void after(void *userdata) {
  note("post-dump");
}

static void again(void *userdata) {
  note("post-restore");
}

static void loop(checkpoint_registration *registration) {
  struct pollfd p = {.fd = checkpoint_registration_fd(registration), .events = POLLIN};

  while (poll(&p, 1, -1) >= 0 || errno == EINTR)
    while (checkpoint_registration_dispatch(registration) == -EAGAIN)
      (void)usleep(100000);
}

static void dump_self(const char *name) {
  checkpoint_options options = CHECKPOINT_OPTIONS_INIT;
  char *message = NULL;
  int r;

  options.name = name;
  r = checkpoint_self(&options, &message);
  note(r == 0 ? "original" : r == 1 ? "restored" : message);
  free(message);
}

int main(int argc, char **argv) {
  checkpoint_hooks hooks = CHECKPOINT_HOOKS_INIT;
  checkpoint_registration *registration = NULL;
  char *message = NULL;

  if (argc < 3)
    return 2;
  file = argv[1];
  mode = argv[2];
  hooks.pre_dump = before;
  hooks.post_dump = after;
  hooks.post_restore = again;
  if (checkpoint_register(&hooks, NULL, &registration, &message) < 0) {
    note(message);
    return 1;
  }
  note("registered");
  if (strcmp(mode, "poll") == 0)
    loop(registration);
  if (checkpoint_registration_run_thread(registration) < 0)
    return 1;
  if (strcmp(mode, "self") == 0)
    dump_self(argv[3]);
  for (;;)
    (void)pause();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* go-back NAME FILE: does something risky to its own memory and goes back to where it was when that fails.
 *
 *   cc go-back.c $(pkg-config --cflags --libs libcheckpoint) -o go-back
 *
 * checkpoint_self() returns twice, like fork(2): 0 in the process that goes on, 1 in the one that is brought back. */
#include <libcheckpoint.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N 1000

static int numbers[N];

static int check(void) {
  for (int i = 0; i < N; i++)
    if (numbers[i] != i * i)
      return -1;
  return 0;
}

/* Something that goes wrong halfway. */
static int risky_step(void) {
  for (int i = 0; i < N / 2; i++)
    numbers[i] = -1;
  return -1;
}

static int careful_step(void) {
  return check();
}

/* Nobody can be restored while it still lives, so somebody else has to ask for it, afterwards. */
static void go_back(const char *name) {
  struct pollfd me = {.events = POLLIN};

  me.fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (fork() == 0) {
    (void)setsid();
    (void)poll(&me, 1, -1); /* readable when we have ended */
    (void)execlp("checkpoint", "checkpoint", "restore", name, NULL);
    _exit(127);
  }
  _exit(1);
}

int main(int argc, char **argv) {
  checkpoint_options options = CHECKPOINT_OPTIONS_INIT;
  char *message = NULL;
  FILE *log;
  int r;

  if (argc != 3)
    return 2;
  for (int i = 0; i < N; i++)
    numbers[i] = i * i;
  options.name = argv[1];
  options.flags = CHECKPOINT_REPLACE;
  r = checkpoint_self(&options, &message);
  log = fopen(argv[2], "a");
  if (!log)
    return 3;
  if (r < 0) {
    (void)fprintf(log, "no checkpoint, so no risk: %s\n", message);
    free(message);
    return careful_step() < 0;
  }
  if (r == 1) {
    (void)fprintf(log, "back, and all numbers are %s\n", careful_step() == 0 ? "right" : "wrong");
    return fclose(log) != 0;
  }
  (void)fprintf(log, "trying\n");
  (void)fclose(log);
  if (risky_step() < 0)
    go_back(options.name);
  return 0;
}

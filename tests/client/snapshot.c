/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* snapshot NAME|@DIRECTORY FILE [OPTION…]: checkpoints itself and writes into FILE what came of it, a line "RESULT
 * CALLS MESSAGE" for each return of checkpoint_self() (CALLS: the hooks that ran, as letters). Options: end, thread
 * (from a thread, with others at work), child PROGRAM (has a child of that program), replace, refuse (its pre-dump hook
 * does), size (with options of another version), bus RULE (has a
 * connection to the bus of its own; RULE says what about it). It waits afterwards, if it is not an error. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <systemd/sd-bus.h>

#include "libcheckpoint.h"

static char calls[16];
static bool refuses;
static volatile unsigned long beats;
static checkpoint_options options = CHECKPOINT_OPTIONS_INIT;
static const char *file;

static void note(const char *letter) {
  strncat(calls, letter, sizeof calls - strlen(calls) - 1);
}

static int before(void *userdata) {
  note("p");
  return refuses ? -EAGAIN : 0;
}

static void after(void *userdata) {
  note("d");
}

static void again(void *userdata) {
  note("r");
}

static void *beat(void *userdata) {
  while (beats < (unsigned long)-1) {
    beats++;
    (void)usleep(1000);
  }
  return NULL;
}

static void *snapshot(void *userdata) {
  char *message = NULL;
  int r = checkpoint_self(&options, &message);
  FILE *out = fopen(file, "ae");

  if (!out)
    exit(3);
  (void)fprintf(out, "%d %s %s\n", r, *calls ? calls : "-", message ? message : "");
  (void)fclose(out);
  free(message);
  if (r < 0)
    exit(1);
  return NULL;
}

static void connect_to_bus(const char *rule) {
  static const char *rules[2];
  sd_bus *bus = NULL;

  if (sd_bus_open_system(&bus) < 0)
    exit(3);
  if (*rule)
    options.external = rules;
  rules[0] = rule;
}

static void take_option(char **argv, int *i) {
  if (strcmp(argv[*i], "end") == 0)
    options.flags |= CHECKPOINT_END;
  if (strcmp(argv[*i], "replace") == 0)
    options.flags |= CHECKPOINT_REPLACE;
  if (strcmp(argv[*i], "any") == 0)
    options.flags |= CHECKPOINT_ANY_TARGET;
  refuses |= strcmp(argv[*i], "refuse") == 0;
  if (strcmp(argv[*i], "size") == 0)
    options.size--;
  if (strcmp(argv[*i], "bus") == 0)
    connect_to_bus(argv[++*i]);
  if (strcmp(argv[*i], "child") == 0) {
    (*i)++;
    if (fork() == 0) {
      (void)execl(argv[*i], argv[*i], "1000", NULL);
      _exit(127);
    }
    (void)usleep(200000);
  }
}

int main(int argc, char **argv) {
  pthread_t thread[3];
  bool threads = false;

  if (argc < 3)
    return 2;
  file = argv[2];
  if (argv[1][0] == '@')
    options.directory_fd = open(argv[1] + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  else
    options.name = argv[1];
  options.hooks.pre_dump = before;
  options.hooks.post_dump = after;
  options.hooks.post_restore = again;
  for (int i = 3; i < argc; i++) {
    threads |= strcmp(argv[i], "thread") == 0;
    take_option(argv, &i);
  }
  if (!threads) {
    (void)snapshot(NULL);
    for (;;)
      (void)pause();
  }
  for (int i = 0; i < 3; i++)
    if (pthread_create(&thread[i], NULL, i ? beat : snapshot, NULL) != 0)
      return 3;
  for (;;)
    (void)pause();
}

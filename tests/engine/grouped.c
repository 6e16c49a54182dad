/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A process of two threads with a child, for whoever puts them into control groups. */

#include "subject.h"
#include <pthread.h>

static void *wait_for_ever(void *arg) {
  while (!subject_failed())
    subject_tick();
  return arg;
}

int main(int argc, char **argv) {
  pthread_t thread;
  subject_begin(argc, argv);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0)
    (void)wait_for_ever(NULL);
  check_call(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
  subject_ready();
  (void)wait_for_ever(NULL);
  return 0;
}

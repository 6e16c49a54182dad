/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "at-a-time.h"
#include <pthread.h>

void at_a_time(bool worth, void *(*work)(void *data), void *first, void *second) {
  pthread_t thread;
  bool helped = worth && pthread_create(&thread, NULL, work, second) == 0;
  (void)work(first);
  if (helped)
    (void)pthread_join(thread, NULL);
  else
    (void)work(second);
}

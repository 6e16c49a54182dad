/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* For how long a program did not run: it was in a checkpoint, or had no processor. Who measures a sleep has to know. */

#include "subject.h"
#include <pthread.h>

#define PAUSES_GAP_NSEC 20000000ULL

static uint64_t pauses_total; /* nanoseconds */
static int pauses_looks;
static bool pauses_ended;

static inline void *pauses_run(void *unused) {
  uint64_t last = subject_nsec(CLOCK_MONOTONIC);
  while (!__atomic_load_n(&pauses_ended, __ATOMIC_SEQ_CST)) {
    subject_tick();
    uint64_t now = subject_nsec(CLOCK_MONOTONIC);
    if (now - last > PAUSES_GAP_NSEC)
      __atomic_fetch_add(&pauses_total, now - last, __ATOMIC_SEQ_CST);
    last = now;
    __atomic_fetch_add(&pauses_looks, 1, __ATOMIC_SEQ_CST);
  }
  return unused;
}

static inline pthread_t pauses_begin(void) {
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, pauses_run, NULL) == 0);
  return thread;
}

static inline void pauses_end(pthread_t thread) {
  __atomic_store_n(&pauses_ended, true, __ATOMIC_SEQ_CST);
  check_call(pthread_join(thread, NULL) == 0);
}

/* Nanoseconds since the beginning, with a pause that has just ended. */
static inline uint64_t pauses_until_now(void) {
  for (int looks = __atomic_load_n(&pauses_looks, __ATOMIC_SEQ_CST); __atomic_load_n(&pauses_looks, __ATOMIC_SEQ_CST) - looks < 2;)
    subject_tick();
  return __atomic_load_n(&pauses_total, __ATOMIC_SEQ_CST);
}

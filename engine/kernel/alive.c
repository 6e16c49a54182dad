/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "alive.h"
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

_Static_assert(sizeof(pthread_mutex_t) <= ALIVE_SIZE, "a mutex has room");

void alive_take(void *place) {
  pthread_mutex_t *mutex = place;
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(mutex, &attr);
  pthread_mutexattr_destroy(&attr);
  pthread_mutex_lock(mutex);
  /* The kernel wakes waiters only if it is told that there are some. The futex word is the first of the mutex. */
  atomic_fetch_or((_Atomic uint32_t *)place, FUTEX_WAITERS);
}

void alive_give(void *place) {
  pthread_mutex_unlock(place);
}

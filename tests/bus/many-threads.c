/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* many-threads FILE N: N threads that count, each with a value in its own thread-local storage; the main thread writes a
 * numbered line whenever every thread has counted on. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_ulong *counts;
static atomic_ulong bad;
static useconds_t pause_usec = 20000;
static __thread unsigned long mine;

static void *count(void *arg) {
  unsigned long k = (unsigned long)arg;
  for (mine = k * 1000003;; mine++) {
    unsigned long seen = atomic_fetch_add(&counts[k], 1);
    if (mine != k * 1000003 + seen)
      atomic_fetch_add(&bad, 1);
    usleep(pause_usec);
  }
  return NULL;
}

int main(int argc, char **argv) {
  unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 10;
  FILE *out = argc > 1 ? fopen(argv[1], "w") : NULL;
  if (!out)
    return 1;
  if (n > 100)
    pause_usec = 100000; /* so many would keep a slow processor busy with nothing but waking them */
  counts = calloc(n, sizeof *counts);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 64 << 10);
  for (unsigned long k = 1; k < n; k++) {
    pthread_t thread;
    if (pthread_create(&thread, &attr, count, (void *)k))
      return 1;
  }
  unsigned long *last = calloc(n, sizeof *last);
  for (unsigned long line = 1;; line++) {
    for (unsigned long k = 1; k < n; k++)
      while (atomic_load(&counts[k]) == last[k])
        usleep(1000);
    for (unsigned long k = 1; k < n; k++)
      last[k] = atomic_load(&counts[k]);
    fprintf(out, "%lu bad=%lu\n", line, atomic_load(&bad));
    fflush(out);
  }
}

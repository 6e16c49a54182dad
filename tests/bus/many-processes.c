/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* many-processes FILE N: a tree of N processes, three levels deep, that count in shared memory and check pages they
 * share copy-on-write; the root writes a numbered line whenever every one has counted on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096 };

static volatile unsigned long *counts;
static unsigned char *inherited;

static void child(unsigned long k) {
  pid_t self = getpid(), parent = getppid();
  inherited[(k % PAGES) * PAGE] = (unsigned char)k;
  for (;;) {
    for (unsigned long p = 0; p < PAGES; p++)
      if (inherited[p * PAGE + 1] != 7 || (p == k % PAGES && inherited[p * PAGE] != (unsigned char)k))
        counts[0]++;
    if (getpid() != self || getppid() != parent)
      counts[0]++;
    counts[k]++;
    usleep(10000);
  }
}

/* Process k forks k * 5 + 1 … k * 5 + 5. */
static void grow(unsigned long k, unsigned long n) {
  for (unsigned long c = k * 5 + 1; c <= k * 5 + 5 && c < n; c++) {
    pid_t pid = fork();
    if (pid < 0)
      exit(1);
    if (pid == 0) {
      grow(c, n);
      child(c);
    }
  }
}

int main(int argc, char **argv) {
  unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 10;
  inherited = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(inherited, 7, PAGES * PAGE);
  counts = mmap(NULL, n * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  grow(0, n);
  FILE *out = argc > 1 ? fopen(argv[1], "w") : NULL;
  if (!out)
    return 1;
  unsigned long *last = calloc(n, sizeof *last);
  for (unsigned long line = 1;; line++) {
    for (unsigned long k = 1; k < n; k++) {
      while (counts[k] == last[k])
        usleep(1000);
      last[k] = counts[k];
    }
    fprintf(out, "%lu bad=%lu\n", line, counts[0]);
    fflush(out);
  }
}

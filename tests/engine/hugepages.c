/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Mappings of huge pages, private and shared, and a memfd of them. Skipped where the machine cannot reserve any. */

#include "subject.h"
#include <sys/mman.h>
#include <sys/syscall.h>

enum { HUGE = 2 << 20, N = 3 };

static void fill(uint8_t *p, int seed) {
  for (size_t i = 0; i < (size_t)HUGE * N; i += 64)
    p[i] = (uint8_t)(i / 64 * 7 + (size_t)seed);
}

static void verify(const char *what, const uint8_t *p, int seed) {
  for (size_t i = 0; i < (size_t)HUGE * N; i += 64)
    check(p[i] == (uint8_t)(i / 64 * 7 + (size_t)seed), "%s: byte %zu", what, i);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  enum { RW = PROT_READ | PROT_WRITE };
  uint8_t *own = mmap(NULL, (size_t)HUGE * N, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  uint8_t *shared = mmap(NULL, (size_t)HUGE * N, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  int fd = (int)syscall(SYS_memfd_create, "huge", 4U /* MFD_HUGETLB */ | MFD_CLOEXEC);
  if (own == MAP_FAILED || shared == MAP_FAILED || fd < 0)
    subject_skip("no huge pages of 2 MiB can be had (echo 16 > /proc/sys/vm/nr_hugepages)");
  uint8_t *of_memfd = ftruncate(fd, (off_t)HUGE * N) == 0 ? mmap(NULL, (size_t)HUGE * N, RW, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (of_memfd == MAP_FAILED)
    subject_skip("too few huge pages (echo 16 > /proc/sys/vm/nr_hugepages)");
  fill(own, 1);
  fill(shared, 2);
  fill(of_memfd, 3);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify("private huge pages", own, 1);
  verify("shared huge pages", shared, 2);
  verify("memfd of huge pages", of_memfd, 3);
  char *maps = subject_read("/proc/self/smaps", NULL);
  int found = 0;
  for (char *at = maps; (at = strstr(at, "KernelPageSize:     2048 kB")); at++)
    found++;
  check(found >= 3, "%d mappings of huge pages, not 3", found);
  return subject_pass();
}

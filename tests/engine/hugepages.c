/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A mapping of huge pages: argv[2] is private, shared or memfd. Skipped where the machine has none to give. */

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

static uint8_t *make(const char *kind) {
  enum { RW = PROT_READ | PROT_WRITE };
  size_t size = (size_t)HUGE * N;
  if (!strcmp(kind, "private"))
    return mmap(NULL, size, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (!strcmp(kind, "shared"))
    return mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  int fd = (int)syscall(SYS_memfd_create, "huge", 4U /* MFD_HUGETLB */ | MFD_CLOEXEC);
  return fd < 0 || ftruncate(fd, (off_t)size) < 0 ? MAP_FAILED : mmap(NULL, size, RW, MAP_SHARED, fd, 0);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *kind = argc > 2 ? argv[2] : "private";
  uint8_t *p = make(kind);
  if (p == MAP_FAILED)
    subject_skip("no huge pages of 2 MiB can be had (/proc/sys/vm/nr_hugepages)");
  fill(p, 1);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify(kind, p, 1);
  char *maps = subject_read("/proc/self/smaps", NULL);
  check(strstr(maps, "KernelPageSize:     2048 kB") != NULL, "the mapping has ordinary pages");
  fill(p, 2);
  verify(kind, p, 2);
  return subject_pass();
}

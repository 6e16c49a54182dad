/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Much memory of which little must be written: a private mapping of a big file, read in full and written in a few
 * places; anonymous memory that was only read (the zero page) or never touched. The runner bounds the size of the
 * images. */

#include "subject.h"
#include <sys/mman.h>

enum { PAGE = 4096 };
#define FILE_BYTES ((size_t)64 << 20)
#define UNTOUCHED_BYTES ((size_t)4 << 30)
#define READ_BYTES ((size_t)128 << 20)

static uint64_t word(size_t page) {
  return (uint64_t)page * 0x9e3779b97f4a7c15ULL + 1;
}

static void make_file(int fd) {
  static uint64_t block[PAGE / 8];
  for (size_t page = 0; page < FILE_BYTES / PAGE; page++) {
    for (size_t i = 0; i < PAGE / 8; i++)
      block[i] = word(page) + i;
    check_call(write(fd, block, PAGE) == PAGE);
  }
}

static void verify(const uint8_t *file, const uint8_t *only_read) {
  for (size_t page = 0; page < FILE_BYTES / PAGE; page++) {
    uint64_t expected = page % 1000 == 7 ? 42 : word(page);
    check(*(const uint64_t *)(file + page * PAGE) == expected, "page %zu of the file", page);
  }
  for (size_t at = 0; at < READ_BYTES; at += PAGE)
    check(only_read[at] == 0, "page %zu of what was only read", at / PAGE);
}

int main(int argc, char **argv) {
  char path[4200];
  subject_begin(argc, argv);
  (void)snprintf(path, sizeof path, "%s.big", subject_base);
  int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  check_call(fd >= 0);
  make_file(fd);
  uint8_t *file = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  uint8_t *untouched =
      mmap(NULL, UNTOUCHED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  uint8_t *only_read = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call(file != MAP_FAILED && untouched != MAP_FAILED && only_read != MAP_FAILED);
  check_call(madvise(only_read, READ_BYTES, MADV_NOHUGEPAGE) == 0);
  for (size_t page = 7; page < FILE_BYTES / PAGE; page += 1000)
    *(uint64_t *)(file + page * PAGE) = 42;
  verify(file, only_read);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify(file, only_read);
  untouched[UNTOUCHED_BYTES / 2] = 1;
  return subject_pass();
}

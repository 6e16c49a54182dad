/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *sealed_setup(const char *dir) {
  REQUIRE(case_place(memfd_create("held", MFD_ALLOW_SEALING), 10) && write(10, "memfd", 5) == 5);
  REQUIRE(fcntl(10, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  REQUIRE(
      case_place(memfd_create("plain", 0), 11) && ftruncate(11, 10000000) == 0 && pwrite(11, "far", 3, 9000000) == 3);
  REQUIRE(case_place(memfd_create("done", MFD_ALLOW_SEALING), 12) && write(12, "final", 5) == 5);
  REQUIRE(fcntl(12, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
  REQUIRE(fchmod(11, 0604) == 0 && fchown(11, 12, 34) == 0);
  REQUIRE(case_place(open("/proc/self/fd/11", O_RDONLY), 13) && lseek(13, 9000000, SEEK_SET) == 9000000);
  REQUIRE(case_place(memfd_create("empty", 0), 14));
  return NULL;
}

static const char *sealed_verify(const char *dir) {
  char buffer[8];
  struct stat a, b;
  REQUIRE(fcntl(10, F_GET_SEALS) == F_SEAL_SHRINK && lseek(10, 0, SEEK_CUR) == 5 && fstat(10, &a) == 0);
  REQUIRE(a.st_size == 5 && pread(10, buffer, 8, 0) == 5 && memcmp(buffer, "memfd", 5) == 0);
  REQUIRE(case_link_is(10, "/memfd:held (deleted)") && fcntl(11, F_GET_SEALS) == F_SEAL_SEAL);
  REQUIRE(fcntl(12, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
  REQUIRE(pwrite(12, "x", 1, 0) == -1 && errno == EPERM);
  REQUIRE(fstat(11, &a) == 0 && fstat(13, &b) == 0 && a.st_ino == b.st_ino && a.st_size == 10000000);
  REQUIRE((a.st_mode & 07777) == 0604 && a.st_uid == 12 && a.st_gid == 34 && a.st_blocks < 100);
  REQUIRE(pread(13, buffer, 3, lseek(13, 0, SEEK_CUR)) == 3 && memcmp(buffer, "far", 3) == 0);
  REQUIRE((fcntl(13, F_GETFL) & O_ACCMODE) == O_RDONLY && (fcntl(11, F_GETFL) & O_ACCMODE) == O_RDWR);
  REQUIRE(fstat(14, &a) == 0 && a.st_size == 0);
  return NULL;
}

/* No new writable mappings, though there may be old ones. */
static const char *future_setup(const char *dir) {
  REQUIRE(case_place(memfd_create("future", MFD_ALLOW_SEALING), 20) && ftruncate(20, 4096) == 0);
  REQUIRE(fcntl(20, F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */) == 0);
  return NULL;
}

static const char *future_verify(const char *dir) {
  REQUIRE(fcntl(20, F_GET_SEALS) == 0x10 && pwrite(20, "x", 1, 0) == -1);
  return NULL;
}

static const char *huge_setup(const char *dir) {
  int fd = memfd_create("huge", MFD_HUGETLB);
  REQUIRE(case_place(fd, 30));
  return NULL;
}

/* Its content would need huge pages that are set aside; tests/engine/hugepages.c does that. */
static const char *huge_verify(const char *dir) {
  struct stat st;
  REQUIRE(fstat(30, &st) == 0);
  REQUIRE(st.st_blksize >= 2 << 20);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"sealed", sealed_setup, sealed_verify},
    {"future-write", future_setup, future_verify},
    {"huge", huge_setup, huge_verify},
    {0},
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int queued(int fd) {
  int n = -1;
  return ioctl(fd, FIONREAD, &n) == 0 ? n : -1;
}

static const char *both_setup(const char *dir) {
  const char *path = case_path(dir, "fifo");
  REQUIRE(mkfifo(path, 0640) == 0 && case_place(open(path, O_RDONLY | O_NONBLOCK), 10));
  REQUIRE(case_place(open(path, O_WRONLY), 11) && case_place(open(path, O_WRONLY | O_NONBLOCK), 12));
  REQUIRE(write(11, "in the fifo", 11) == 11 && fcntl(10, F_SETPIPE_SZ, 8192) == 8192);
  return NULL;
}

static const char *both_verify(const char *dir) {
  char buffer[32];
  REQUIRE(case_link_is(10, case_path(dir, "fifo")) && queued(10) == 11 && fcntl(10, F_GETPIPE_SZ) == 8192);
  REQUIRE(read(10, buffer, sizeof buffer) == 11 && memcmp(buffer, "in the fifo", 11) == 0);
  REQUIRE(write(12, "in the fifo", 11) == 11 && !(fcntl(11, F_GETFL) & O_NONBLOCK) && !case_same(11, 12));
  return NULL;
}

/* A server that waits for its first writer, and a FIFO open for both by one descriptor. */
static const char *alone_setup(const char *dir) {
  const char *path = case_path(dir, "alone"), *both = case_path(dir, "both");
  REQUIRE(mkfifo(path, 0600) == 0 && case_place(open(path, O_RDONLY | O_NONBLOCK), 20));
  REQUIRE(mkfifo(both, 0600) == 0 && case_place(open(both, O_RDWR), 21) && write(21, "kept", 4) == 4);
  return NULL;
}

static const char *alone_verify(const char *dir) {
  char c;
  struct pollfd p = {.fd = 20, .events = POLLIN};
  REQUIRE(read(20, &c, 1) == 0 && queued(21) == 4);
  int writer = open(case_path(dir, "alone"), O_WRONLY | O_NONBLOCK);
  REQUIRE(writer >= 0 && write(writer, "x", 1) == 1 && poll(&p, 1, 0) == 1 && read(20, &c, 1) == 1);
  REQUIRE(close(writer) == 0);
  return NULL;
}

static const char *gone_setup(const char *dir) {
  const char *path = case_path(dir, "gone");
  REQUIRE(mkfifo(path, 0600) == 0 && case_place(open(path, O_RDWR), 30) && unlink(path) == 0 && write(30, "left", 4) == 4);
  return NULL;
}

static const char *gone_verify(const char *dir) {
  char buffer[8];
  struct stat st;
  REQUIRE(fstat(30, &st) == 0 && S_ISFIFO(st.st_mode) && st.st_nlink == 0 && (st.st_mode & 0777) == 0600);
  REQUIRE(read(30, buffer, 8) == 4 && memcmp(buffer, "left", 4) == 0 && write(30, "left", 4) == 4);
  REQUIRE(case_link_is(30, case_path(dir, "gone (deleted)")) && access(case_path(dir, "gone"), F_OK) < 0);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"both", both_setup, both_verify},
    {"alone", alone_setup, alone_verify},
    {"deleted", gone_setup, gone_verify},
    {0},
};

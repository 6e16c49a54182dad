/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char *make(int reader, int writer, int flags) {
  int ends[2];
  REQUIRE(pipe2(ends, flags) == 0);
  REQUIRE(case_place(fcntl(ends[0], F_DUPFD, 200), reader) && case_place(fcntl(ends[1], F_DUPFD, 200), writer));
  REQUIRE(close(ends[0]) == 0 && close(ends[1]) == 0);
  return NULL;
}

static int queued(int fd) {
  int n = -1;
  return ioctl(fd, FIONREAD, &n) == 0 ? n : -1;
}

static const char *content_setup(const char *dir) {
  const char *failure = make(10, 11, O_NONBLOCK);
  if (failure)
    return failure;
  REQUIRE(write(11, "in the pipe", 11) == 11 && dup2(11, 12) == 12);
  return NULL;
}

static const char *content_verify(const char *dir) {
  char buffer[32];
  REQUIRE(queued(10) == 11 && read(10, buffer, sizeof buffer) == 11 && memcmp(buffer, "in the pipe", 11) == 0);
  REQUIRE(read(10, buffer, 1) == -1 && write(12, "in the pipe", 11) == 11);
  REQUIRE(fcntl(10, F_GETPIPE_SZ) == 65536 && case_same(11, 12) && fcntl(10, F_GETFL) == O_NONBLOCK);
  return NULL;
}

/* Full to the last byte, in a pipe of another size. */
static const char *full_setup(const char *dir) {
  const char *failure = make(13, 14, O_NONBLOCK);
  if (failure)
    return failure;
  static const char block[4096];
  REQUIRE(fcntl(13, F_SETPIPE_SZ, 131072) == 131072);
  for (int i = 0; i < 32; i++)
    REQUIRE(write(14, block, sizeof block) == sizeof block);
  return NULL;
}

static const char *full_verify(const char *dir) {
  struct pollfd p = {.fd = 14, .events = POLLOUT};
  REQUIRE(fcntl(13, F_GETPIPE_SZ) == 131072 && queued(13) == 131072 && poll(&p, 1, 0) == 0);
  return NULL;
}

/* Many small writes, which the kernel may keep in one buffer each when pages were full. */
static const char *empty_setup(const char *dir) {
  const char *failure = make(15, 16, 0);
  if (failure)
    return failure;
  REQUIRE(fcntl(15, F_SETPIPE_SZ, 4096) == 4096);
  return NULL;
}

static const char *empty_verify(const char *dir) {
  REQUIRE(fcntl(15, F_GETPIPE_SZ) == 4096 && queued(15) == 0 && !(fcntl(15, F_GETFL) & O_NONBLOCK));
  REQUIRE(fcntl(16, F_GETFL) == O_WRONLY);
  return NULL;
}

static const char *half_setup(const char *dir) {
  const char *failure = make(17, 18, O_NONBLOCK);
  if (!failure)
    failure = make(19, 20, O_NONBLOCK);
  if (failure)
    return failure;
  REQUIRE(write(18, "last words", 10) == 10 && close(18) == 0 && close(19) == 0);
  return NULL;
}

static const char *half_verify(const char *dir) {
  struct pollfd p[2] = {{.fd = 17, .events = POLLIN}, {.fd = 20, .events = POLLOUT}};
  REQUIRE(queued(17) == 10 && poll(p, 2, 0) == 2 && p[0].revents & POLLHUP && p[1].revents & POLLERR);
  return NULL;
}

/* Packet mode: reads do not join what was written apart. */
static const char *packets_setup(const char *dir) {
  const char *failure = make(21, 22, O_DIRECT | O_NONBLOCK);
  if (failure)
    return failure;
  REQUIRE(write(22, "one", 3) == 3 && write(22, "three", 5) == 5);
  return NULL;
}

static const char *packets_verify(const char *dir) {
  char buffer[32];
  REQUIRE(read(21, buffer, sizeof buffer) == 3 && memcmp(buffer, "one", 3) == 0);
  REQUIRE(read(21, buffer, sizeof buffer) == 5 && memcmp(buffer, "three", 5) == 0);
  REQUIRE(fcntl(22, F_GETFL) & O_DIRECT);
  REQUIRE(write(22, "one", 3) == 3 && write(22, "three", 5) == 5);
  return NULL;
}

/* A second description of each end, made through /proc. */
static const char *twice_setup(const char *dir) {
  const char *failure = make(23, 24, O_NONBLOCK);
  if (failure)
    return failure;
  REQUIRE(case_place(open("/proc/self/fd/23", O_RDONLY), 25) && case_place(open("/proc/self/fd/23", O_RDWR), 26));
  REQUIRE(case_place(open("/proc/self/fd/24", O_WRONLY | O_NONBLOCK), 27) && write(27, "x", 1) == 1);
  return NULL;
}

static const char *twice_verify(const char *dir) {
  REQUIRE(!case_same(23, 25) && !case_same(24, 27) && queued(25) == 1 && (fcntl(26, F_GETFL) & O_ACCMODE) == O_RDWR);
  return NULL;
}

static const char *outside_setup(const char *dir) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  bool forked = false;
  pid_t tested = getpid();
  if (case_fork_outside(&forked)) {
    (void)close(ends[0]);
    case_outlive(tested, 0);
  }
  REQUIRE(forked && case_place(ends[0], 28) && close(ends[1]) == 0);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"content", content_setup, content_verify},
    {"full", full_setup, full_verify},
    {"empty", empty_setup, empty_verify},
    {"half-closed", half_setup, half_verify},
    {"packets", packets_setup, packets_verify},
    {"twice", twice_setup, twice_verify},
    {"outside", outside_setup, .blocked = "its write end is held by"},
    {0},
};

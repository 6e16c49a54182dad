/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that is refused says what it is. */
#include "object-case.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *uffd_setup(const char *dir) {
  REQUIRE(case_place((int)syscall(SYS_userfaultfd, O_CLOEXEC), 10));
  return NULL;
}

static const char *terminal_setup(const char *dir) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
  REQUIRE(case_place(open(ptsname(master), O_RDWR | O_NOCTTY), 10));
  pid_t other = fork(); /* has the other end */
  REQUIRE(other >= 0);
  if (other == 0)
    for (;;)
      (void)pause();
  REQUIRE(close(master) == 0);
  return NULL;
}

static const char *console_setup(const char *dir) {
  static const char *const names[] = {"/dev/tty0", "/dev/ttyS0", "/dev/console"};
  int fd = -1;
  for (size_t i = 0; i < sizeof names / sizeof *names && fd < 0; i++)
    fd = open(names[i], O_RDWR | O_NOCTTY | O_NONBLOCK);
  REQUIRE(case_place(fd, 10));
  return NULL;
}

static const char *device_setup(const char *dir) {
  REQUIRE(case_place(open("/dev/kmsg", O_RDONLY), 10));
  return NULL;
}

static const char *namespace_setup(const char *dir) {
  /* One that lives by this descriptor alone. */
  int ends[2];
  char path[64];
  REQUIRE(pipe(ends) == 0);
  pid_t other = fork();
  REQUIRE(other >= 0);
  if (other == 0) {
    (void)!write(ends[1], unshare(CLONE_NEWNET) == 0 ? "y" : "n", 1);
    for (;;)
      (void)pause();
  }
  char done;
  (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)other);
  REQUIRE(read(ends[0], &done, 1) == 1 && done == 'y' && case_place(open(path, O_RDONLY), 10));
  REQUIRE(close(ends[0]) == 0 && close(ends[1]) == 0 && kill(other, SIGKILL) == 0 && waitpid(other, NULL, 0) == other);
  return NULL;
}

static const char *proc_setup(const char *dir) {
  REQUIRE(case_place(open("/proc/1/status", O_RDONLY), 10));
  return NULL;
}

const ObjectCase object_cases[] = {
    {"userfaultfd", uffd_setup, .blocked = "fd 10: userfaultfd: "},
    {"terminal", terminal_setup, .blocked = "fd 10: terminal /dev/pts/"},
    {"console", console_setup, .blocked = "consoles and serial lines are hardware"},
    {"device", device_setup, .blocked = "fd 10: character device /dev/kmsg (1:11): "},
    {"namespace", namespace_setup, .blocked = "fd 10: namespace net:["},
    {"proc", proc_setup, .blocked = "fd 10: file /proc/"},
    {0},
};

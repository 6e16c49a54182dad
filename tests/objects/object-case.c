/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const char *case_failure(const char *file, int line, const char *condition) {
  static char text[512];
  const char *base = strrchr(file, '/');
  (void)snprintf(text, sizeof text, "%s:%d: %s (errno %d)", base ? base + 1 : file, line, condition, errno);
  return text;
}

bool case_final = true;

bool case_fork_outside(bool *ret_ok) {
  pid_t pid = fork();
  if (pid == 0) {
    pid = fork();
    if (pid == 0)
      return true;
    _exit(pid < 0);
  }
  int status = 1;
  *ret_ok = pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
  return false;
}

_Noreturn void case_outlive(pid_t pid, unsigned seconds) {
  for (unsigned away = 0; away <= seconds * 100; (void)usleep(10000))
    away = kill(pid, 0) == 0 ? 0 : away + 1;
  _exit(0);
}

bool case_place(int fd, int number) {
  if (fd < 0 || dup2(fd, number) < 0)
    return false;
  if (fd != number)
    (void)close(fd);
  return true;
}

const char *case_path(const char *dir, const char *name) {
  static char paths[4][4096];
  static unsigned int next;
  char *path = paths[next++ % 4];
  (void)snprintf(path, sizeof paths[0], "%s/%s", dir, name);
  return path;
}

bool case_same(int a, int b) {
  return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0;
}

bool case_link_is(int fd, const char *text) {
  char path[64], link[4096];
  (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, link, sizeof link - 1);
  if (n < 0)
    return false;
  link[n] = '\0';
  return strcmp(link, text) == 0;
}

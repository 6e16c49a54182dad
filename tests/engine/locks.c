/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A file lock of the kind in argv[2] (flock, posix, ofd, or inherited: an flock taken by a process that is gone). The dump
 * must refuse it and the lock must still be there. */

#include "subject.h"
#include <sys/file.h>
#include <sys/wait.h>

static const char *kind = "flock";

static bool is_locked(const char *path) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  check(fd >= 0, "open again");
  bool posix = strcmp(kind, "posix") == 0;
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  bool locked;
  if (posix) {
    pid_t pid = fork();
    if (pid == 0)
      _exit(fcntl(fd, F_SETLK, &lock) < 0);
    int status;
    check(waitpid(pid, &status, 0) == pid, "waitpid");
    locked = WEXITSTATUS(status) == 1;
  } else if (strcmp(kind, "ofd") == 0) {
    locked = fcntl(fd, F_OFD_SETLK, &lock) < 0;
  } else {
    locked = flock(fd, LOCK_EX | LOCK_NB) < 0;
  }
  if (!posix)
    (void)close(fd);
  return locked;
}

static void take(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (strcmp(kind, "posix") == 0)
    check_call(fcntl(fd, F_SETLK, &lock) == 0);
  else if (strcmp(kind, "ofd") == 0)
    check_call(fcntl(fd, F_OFD_SETLK, &lock) == 0);
  else
    check_call(flock(fd, LOCK_EX) == 0);
}

int main(int argc, char **argv) {
  char path[4200];
  subject_begin(argc, argv);
  if (argc > 2)
    kind = argv[2];
  (void)snprintf(path, sizeof path, "%s.lock", subject_base);
  int fd = open(path, O_CREAT | O_RDWR, 0600);
  check_call(fd >= 0);
  if (strcmp(kind, "inherited") == 0) {
    pid_t pid = fork();
    if (pid == 0) {
      take(fd);
      _exit(0);
    }
    check_call(waitpid(pid, NULL, 0) == pid);
  } else {
    take(fd);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(is_locked(path), "the lock is gone");
  return subject_pass();
}

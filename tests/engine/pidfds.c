/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* pidfds: of a child, of the process itself, of a zombie, of a child that was waited for, one that parent and child share,
 * one that does not block, one that an epoll instance watches. */

#include "subject.h"
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { CHILD = 20, SELF, ZOMBIE, DEAD, SHARED, NONBLOCKING };

static volatile int *signalled; /* -1: the child can be signalled */

static void place(pid_t pid, unsigned flags, int number) {
  int fd = (int)syscall(SYS_pidfd_open, pid, flags);
  check_call(fd >= 0 && dup2(fd, number) == number && close(fd) == 0);
  check_call(number == SHARED || fcntl(number, F_SETFD, FD_CLOEXEC) == 0);
}

static pid_t pid_of(int fd) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  char *text = subject_read(path, NULL), *line = strstr(text, "\nPid:");
  check(line != NULL, "fd %d is no pidfd", fd);
  pid_t pid = (pid_t)strtol(line + 5, NULL, 10);
  free(text);
  return pid;
}

static void on_signal(int signo) {
  *signalled = signo;
}

static bool has_ended(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 0) == 1;
}

static pid_t child_that_ends(int status) {
  pid_t pid = fork();
  if (pid == 0)
    _exit(status);
  check_call(pid > 0);
  siginfo_t info;
  check_call(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
  return pid;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  signalled = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(signalled != MAP_FAILED);
  place(getpid(), 0, SELF);
  place(getpid(), 0, SHARED);
  pid_t child = fork();
  if (child == 0) {
    (void)signal(SIGUSR1, on_signal);
    *signalled = -1;
    for (;;)
      subject_tick();
  }
  check_call(child > 0);
  while (!*signalled)
    subject_tick();
  pid_t zombie = child_that_ends(7), dead = child_that_ends(8);
  place(child, 0, CHILD);
  place(child, O_NONBLOCK, NONBLOCKING);
  place(zombie, 0, ZOMBIE);
  place(dead, 0, DEAD);
  check_call(waitpid(dead, NULL, 0) == dead);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = 4711};
  check_call(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, CHILD, &event) == 0);
  subject_tick();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(pid_of(SELF) == getpid() && pid_of(SHARED) == getpid() && pid_of(CHILD) == child, "they refer to others");
  check(pid_of(ZOMBIE) == zombie && pid_of(DEAD) == -1, "the dead are %d and %d", (int)pid_of(ZOMBIE), (int)pid_of(DEAD));
  check(syscall(SYS_kcmp, getpid(), child, 0 /* KCMP_FILE */, SHARED, SHARED) == 0, "the shared one is two");
  check(fcntl(NONBLOCKING, F_GETFL) & O_NONBLOCK && !(fcntl(CHILD, F_GETFL) & O_NONBLOCK), "flags differ");
  check(fcntl(CHILD, F_GETFD) == FD_CLOEXEC && fcntl(SHARED, F_GETFD) == 0, "close-on-exec differs");
  check(has_ended(DEAD) && has_ended(ZOMBIE) && !has_ended(CHILD), "the wrong ones have ended");
  check(epoll_wait(epoll, &event, 1, 0) == 0, "the child has not ended");
  siginfo_t info = {0};
  check(waitid(P_PIDFD, ZOMBIE, &info, WEXITED) == 0 && info.si_status == 7, "the zombie's status is %d", info.si_status);
  check_call(syscall(SYS_pidfd_send_signal, CHILD, SIGUSR1, NULL, 0) == 0);
  check(subject_await(*signalled == SIGUSR1), "the child got no signal");
  check_call(syscall(SYS_pidfd_send_signal, NONBLOCKING, SIGKILL, NULL, 0) == 0);
  check(epoll_wait(epoll, &event, 1, 30000) == 1 && event.data.u32 == 4711, "epoll does not see the end");
  check_call(waitid(P_PIDFD, CHILD, &info, WEXITED) == 0);
  return subject_pass();
}

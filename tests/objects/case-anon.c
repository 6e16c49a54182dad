/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* eventfd, timerfd, signalfd, epoll */
#include "object-case.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* --- eventfd --- */

static const char *eventfd_setup(const char *dir) {
  REQUIRE(case_place(eventfd(41, EFD_NONBLOCK), 10) && case_place(eventfd(3, EFD_SEMAPHORE), 11));
  REQUIRE(case_place(eventfd(0, EFD_NONBLOCK), 12));
  uint64_t most = UINT64_MAX - 1;
  REQUIRE(write(12, &most, sizeof most) == sizeof most && case_place(eventfd(0, EFD_NONBLOCK), 13));
  /* one and none are told from each other by a look only where they are semaphores, too */
  REQUIRE(case_place(eventfd(1, EFD_SEMAPHORE), 14) && case_place(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK), 15));
  REQUIRE(case_place(eventfd(1, 0), 16));
  return NULL;
}

static const char *eventfd_verify(const char *dir) {
  uint64_t value = 0, one = 1;
  REQUIRE(read(10, &value, 8) == 8 && value == 41 && write(10, &value, 8) == 8);
  REQUIRE(read(11, &value, 8) == 8 && value == 1 && write(11, &one, 8) == 8);
  REQUIRE(read(12, &value, 8) == 8 && value == UINT64_MAX - 1 && write(12, &value, 8) == 8);
  REQUIRE(read(13, &value, 8) == -1 && errno == EAGAIN && !(fcntl(11, F_GETFL) & O_NONBLOCK));
  uint64_t two = 2;
  REQUIRE(write(14, &two, 8) == 8 && read(14, &value, 8) == 8 && value == 1 && read(14, &value, 8) == 8 && value == 1);
  REQUIRE(read(15, &value, 8) == -1 && errno == EAGAIN && write(15, &two, 8) == 8 && read(15, &value, 8) == 8 && value == 1);
  REQUIRE(read(15, &value, 8) == 8 && value == 1 && read(15, &value, 8) == -1);
  REQUIRE(write(16, &two, 8) == 8 && read(16, &value, 8) == 8 && value == 3 && write(16, &one, 8) == 8);
  return NULL;
}

/* --- timerfd --- */

static struct itimerspec left(int fd) {
  struct itimerspec its = {0};
  (void)timerfd_gettime(fd, &its);
  return its;
}

static const char *timerfd_setup(const char *dir) {
  struct itimerspec far = {.it_value = {.tv_sec = 1000}, .it_interval = {.tv_sec = 7, .tv_nsec = 5}};
  REQUIRE(case_place(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 20) && timerfd_settime(20, 0, &far, NULL) == 0);
  struct itimerspec soon = {.it_value = {.tv_nsec = 1}};
  REQUIRE(case_place(timerfd_create(CLOCK_BOOTTIME, 0), 21) && timerfd_settime(21, 0, &soon, NULL) == 0);
  struct itimerspec at = {0};
  REQUIRE(clock_gettime(CLOCK_REALTIME, &at.it_value) == 0);
  at.it_value.tv_sec += 5000;
  REQUIRE(case_place(timerfd_create(CLOCK_REALTIME, 0), 22));
  REQUIRE(timerfd_settime(22, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL) == 0);
  REQUIRE(case_place(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 23)); /* not armed */
  return NULL;
}

static const char *timerfd_verify(const char *dir) {
  uint64_t ticks = 0;
  struct itimerspec far = left(20), at = left(22), none = left(23);
  REQUIRE(far.it_value.tv_sec > 900 && far.it_value.tv_sec < 1001);
  REQUIRE(far.it_interval.tv_sec == 7 && far.it_interval.tv_nsec == 5 && read(20, &ticks, 8) == -1);
  struct pollfd p = {.fd = 21, .events = POLLIN};
  REQUIRE(poll(&p, 1, 0) == 1);
  REQUIRE(at.it_value.tv_sec > 4900 && at.it_value.tv_sec < 5001);
  REQUIRE(none.it_value.tv_sec == 0 && none.it_value.tv_nsec == 0 && read(23, &ticks, 8) == -1);
  return NULL;
}

/* Three ticks that nobody read; reads take them, so this runs once only. */
static const char *ticks_setup(const char *dir) {
  struct itimerspec its = {.it_value = {.tv_nsec = 1000000}, .it_interval = {.tv_sec = 1000}};
  REQUIRE(case_place(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 24) && timerfd_settime(24, 0, &its, NULL) == 0);
  (void)usleep(20000);
  uint64_t ticks = 3;
  REQUIRE(ioctl(24, _IOW('T', 0, uint64_t), &ticks) == 0);
  return NULL;
}

static const char *ticks_verify(const char *dir) {
  static bool once;
  uint64_t ticks = 0;
  REQUIRE(once || (read(24, &ticks, 8) == 8 && ticks == 3));
  once = true;
  struct itimerspec its = left(24);
  REQUIRE(its.it_value.tv_sec >= 990 && its.it_interval.tv_sec == 1000);
  return NULL;
}

/* --- signalfd --- */

static const char *signalfd_setup(const char *dir) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGRTMAX);
  REQUIRE(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && case_place(signalfd(-1, &set, SFD_NONBLOCK), 30));
  return NULL;
}

static const char *signalfd_verify(const char *dir) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGRTMAX);
  REQUIRE(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  struct signalfd_siginfo info;
  REQUIRE(read(30, &info, sizeof info) == -1 && errno == EAGAIN);
  REQUIRE(kill(getpid(), SIGRTMAX) == 0 && read(30, &info, sizeof info) == sizeof info);
  REQUIRE(info.ssi_signo == (uint32_t)SIGRTMAX && kill(getpid(), SIGUSR2) == 0);
  REQUIRE(read(30, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2);
  return NULL;
}

/* --- epoll --- */

static bool watch(int epoll, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static const char *epoll_setup(const char *dir) {
  int ends[2];
  REQUIRE(pipe(ends) == 0 && case_place(ends[0], 40) && case_place(ends[1], 41) && write(41, "x", 1) == 1);
  REQUIRE(case_place(eventfd(0, EFD_NONBLOCK), 42) && case_place(epoll_create1(0), 43));
  REQUIRE(watch(43, 40, EPOLLIN, 0x1122334455667788) && watch(43, 42, EPOLLIN | EPOLLET, 42));
  REQUIRE(case_place(epoll_create1(0), 44) && watch(44, 43, EPOLLIN, 44)); /* nested */
  /* the same pipe under a second number; and one whose number is gone, but not the file */
  REQUIRE(dup2(40, 45) == 45 && watch(44, 45, EPOLLIN, 45));
  REQUIRE(dup2(41, 46) == 46 && watch(44, 46, EPOLLOUT, 46) && close(46) == 0);
  return NULL;
}

static const char *epoll_verify(const char *dir) {
  struct epoll_event events[8];
  uint64_t one = 1;
  REQUIRE(epoll_wait(43, events, 8, 0) == 1 && events[0].data.u64 == 0x1122334455667788);
  REQUIRE(write(42, &one, 8) == 8 && epoll_wait(43, events, 8, 0) == 2 && read(42, &one, 8) == 8);
  REQUIRE(epoll_wait(43, events, 8, 0) == 1);
  uint64_t sum = 0;
  REQUIRE(epoll_wait(44, events, 8, 0) == 3);
  for (int i = 0; i < 3; i++)
    sum += events[i].data.u64;
  REQUIRE(sum == 44 + 45 + 46);
  REQUIRE(!watch(43, 40, EPOLLIN, 0) && errno == EEXIST);
  return NULL;
}

static const char *sockets_setup(const char *dir) {
  int ends[2];
  REQUIRE(case_place(epoll_create1(0), 60));
  for (int fd = 61; fd < 69; fd += 2) {
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && case_place(ends[1], fd + 1) && case_place(ends[0], fd));
    REQUIRE(watch(60, fd, EPOLLIN | EPOLLRDHUP, (uint64_t)fd) && write(fd + 1, "x", 1) == 1);
  }
  /* the number of one means another now; its file lives on under a third */
  REQUIRE(dup2(61, 70) == 70 && dup2(64, 61) == 61);
  return NULL;
}

static const char *sockets_verify(const char *dir) {
  struct epoll_event events[8];
  uint64_t sum = 0;
  REQUIRE(epoll_wait(60, events, 8, 0) == 4);
  for (int i = 0; i < 4; i++)
    sum += events[i].data.u64;
  REQUIRE(sum == 61 + 63 + 65 + 67 && case_same(61, 64) && !case_same(61, 70));
  return NULL;
}

/* A file that only the epoll of this process can still reach: its pipe end lives in a child. */
static const char *stale_setup(const char *dir) {
  int fd = eventfd(0, 0);
  REQUIRE(case_place(epoll_create1(0), 47) && watch(47, fd, EPOLLIN, 1));
  bool forked = false;
  pid_t tested = getpid();
  if (case_fork_outside(&forked)) {
    case_outlive(tested, 0);
  }
  REQUIRE(forked && close(fd) == 0);
  return NULL;
}

/* --- owner and signal --- */

static const char *owner_setup(const char *dir) {
  int ends[2];
  REQUIRE(pipe(ends) == 0 && case_place(ends[0], 50) && case_place(ends[1], 51));
  struct f_owner_ex owner = {.type = F_OWNER_PGRP, .pid = getpgid(getppid())};
  REQUIRE(fcntl(50, F_SETOWN_EX, &owner) == 0 && fcntl(50, F_SETSIG, SIGRTMIN + 3) == 0);
  REQUIRE(fcntl(51, F_SETFL, O_ASYNC | O_NONBLOCK) == 0 && fcntl(51, F_SETSIG, SIGUSR1) == 0);
  return NULL;
}

static const char *owner_verify(const char *dir) {
  struct f_owner_ex owner = {0};
  REQUIRE(fcntl(50, F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PGRP && owner.pid > 0);
  REQUIRE(fcntl(50, F_GETSIG) == SIGRTMIN + 3);
  REQUIRE(fcntl(51, F_GETFL) == (O_WRONLY | O_ASYNC | O_NONBLOCK));
  REQUIRE(fcntl(51, F_GETSIG) == SIGUSR1 && fcntl(51, F_GETOWN) == 0);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"eventfd", eventfd_setup, eventfd_verify},
    {"timerfd", timerfd_setup, timerfd_verify},
    {"timerfd-ticks", ticks_setup, ticks_verify, .racy = true},
    {"signalfd", signalfd_setup, signalfd_verify},
    {"epoll", epoll_setup, epoll_verify},
    {"epoll-sockets", sockets_setup, sockets_verify},
    {"epoll-stale", stale_setup, .blocked = "closed or another file now"},
    {"owner", owner_setup, owner_verify, .racy = true},
    {0},
};

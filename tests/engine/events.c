/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is waited for. argv[2]:
 *   epoll    registered under a number that is closed, in another process's table, edge-triggered, for one event (armed, and
 *            delivered), exclusive, five deep, a pidfd of a thread, parameters of busy polling
 *   timerfd  clocks, with CANCEL_ON_SET, ticks unread
 *   pidfd    of a process outside the tree that lives, of one that ends meanwhile, of a thread, of a thread that ended */

#include "subject.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#define PIDFD_THREAD_ O_EXCL

typedef struct BusyPoll {
  uint32_t usecs;
  uint16_t budget;
  uint8_t prefer, pad;
} BusyPoll;

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

static int epoll_new(void) {
  int fd = epoll_create1(EPOLL_CLOEXEC);
  check_call(fd >= 0);
  return fd;
}

static void add(int epoll, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void expect(int epoll, uint32_t events, uint64_t data) {
  struct epoll_event got = {0};
  check(epoll_wait(epoll, &got, 1, 30000) == 1 && got.events == events && got.data.u64 == data, "event %x of %d, expected %x of %d",
      got.events, (int)got.data.u64, events, (int)data);
}

static void expect_nothing(int epoll, const char *which) {
  struct epoll_event got = {0};
  check(epoll_wait(epoll, &got, 1, 0) == 0, "%s: event %x of %d", which, got.events, (int)got.data.u64);
}

static volatile pid_t tids[2];

static void *live(void *data) {
  tids[*(int *)data] = (pid_t)syscall(SYS_gettid);
  while (*(int *)data == 0 && tids[0])
    subject_tick();
  return NULL;
}

/* -1: this kernel has none (before 6.9). */
static int thread_pidfd(pid_t tid) {
  int fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD_);
  check_call(fd >= 0 || errno == EINVAL);
  return fd;
}

static pid_t tid_of(int fd) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  char *text = subject_read(path, NULL), *line = strstr(text, "\nPid:");
  pid_t pid = line ? (pid_t)strtol(line + 5, NULL, 10) : 0;
  free(text);
  return pid;
}

static void epolls(void) {
  int pipes[6][2], deep[5], epoll = epoll_new(), edge = epoll_new(), once = epoll_new(), alive = 0;
  pthread_t thread;
  for (int i = 0; i < 6; i++)
    check_call(pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK) == 0);
  int copy = fcntl(pipes[0][0], F_DUPFD_CLOEXEC, 200);
  add(epoll, pipes[0][0], EPOLLIN, 1); /* lives through its copy */
  check_call(copy >= 0 && close(pipes[0][0]) == 0);
  add(epoll, pipes[1][0], EPOLLIN | EPOLLEXCLUSIVE, 2);
  add(edge, pipes[2][0], EPOLLIN | EPOLLET, 3);
  check_call(write(pipes[2][1], "x", 1) == 1);
  expect(edge, EPOLLIN, 3);
  expect_nothing(edge, "edge");
  add(once, pipes[3][0], EPOLLIN | EPOLLONESHOT, 4); /* stays armed */
  add(once, pipes[4][0], EPOLLIN | EPOLLONESHOT, 5);
  check_call(write(pipes[4][1], "x", 1) == 1);
  expect(once, EPOLLIN, 5);
  check_call(close(pipes[4][1]) == 0); /* a hang-up that nobody is to hear of */
  expect_nothing(once, "once");
  for (int i = 0; i < 5; i++) {
    deep[i] = epoll_new();
    add(deep[i], i ? deep[i - 1] : pipes[5][0], EPOLLIN, (uint64_t)(10 + i));
  }
  BusyPoll params = {.usecs = 50, .budget = 8, .prefer = 1}, got = {0};
  bool busy = ioctl(deep[0], _IOW(0x8A, 0x01, BusyPoll), &params) == 0;
  check_call(pthread_create(&thread, NULL, live, &alive) == 0);
  while (!tids[0])
    subject_tick();
  int of_thread = thread_pidfd(tids[0]);
  if (of_thread >= 0)
    add(epoll, of_thread, EPOLLIN, 20);
  int away = epoll_new(), only[2], stay[2], there[2];
  check_call(pipe2(only, O_CLOEXEC | O_NONBLOCK) == 0 && pipe2(stay, O_CLOEXEC) == 0 && pipe2(there, O_CLOEXEC) == 0);
  add(away, only[0], EPOLLIN, 30);
  pid_t child = fork();
  if (child == 0) {
    (void)close(away); /* only this process has the other end then, and not the epoll */
    (void)close(pipes[1][0]); /* registered, but not in this table */
    (void)close(of_thread);
    (void)close(stay[1]);
    (void)close(there[0]);
    (void)close(there[1]); /* all is closed */
    while (!subject_checking())
      subject_tick();
    char told;
    _exit(read(stay[0], &told, 1) < 0); /* until then it is the only reader of that pipe */
  }
  char nothing;
  check_call(close(there[1]) == 0 && read(there[0], &nothing, 1) == 0 && close(there[0]) == 0);
  check_call(dup2(copy, only[0]) == only[0]); /* its number means another file now */
  wait_for_check();
  expect_nothing(epoll, "numbers");
  expect_nothing(away, "away");
  check_call(write(only[1], "x", 1) == 1);
  expect(away, EPOLLIN, 30);
  check_call(write(stay[1], "x", 1) == 1);
  check_call(write(pipes[0][1], "x", 1) == 1);
  expect(epoll, EPOLLIN, 1);
  check_call(read(copy, &got, 1) == 1 && write(pipes[1][1], "x", 1) == 1);
  expect(epoll, EPOLLIN, 2);
  check_call(read(pipes[1][0], &got, 1) == 1);
  struct epoll_event again;
  (void)epoll_wait(edge, &again, 1, 0); /* a restore may tell once more */
  expect_nothing(edge, "edge");
  check_call(write(pipes[2][1], "x", 1) == 1);
  expect(edge, EPOLLIN, 3);
  expect_nothing(once, "once");
  check_call(write(pipes[3][1], "x", 1) == 1);
  expect(once, EPOLLIN, 4);
  expect_nothing(once, "once");
  struct epoll_event rearm = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 6};
  check_call(epoll_ctl(once, EPOLL_CTL_MOD, pipes[4][0], &rearm) == 0);
  expect(once, EPOLLIN | EPOLLHUP, 6);
  expect_nothing(deep[4], "deep");
  check_call(write(pipes[5][1], "x", 1) == 1);
  expect(deep[4], EPOLLIN, 14);
  expect(deep[0], EPOLLIN, 10);
  memset(&got, 0, sizeof got);
  check(!busy || (ioctl(deep[0], _IOR(0x8A, 0x02, BusyPoll), &got) == 0 && memcmp(&got, &params, sizeof got) == 0), "parameters are lost");
  tids[0] = 0; /* ends */
  if (of_thread >= 0)
    expect(epoll, EPOLLIN | EPOLLHUP, 20);
  check_call(pthread_join(thread, NULL) == 0 && waitpid(child, NULL, 0) == child);
}

static int timer(int clock, int flags, long seconds, long interval_msec) {
  int fd = timerfd_create(clock, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0 && errno == EPERM)
    return -1; /* no CAP_WAKE_ALARM */
  struct timespec now = {0};
  check_call(fd >= 0 && (!(flags & TFD_TIMER_ABSTIME) || clock_gettime(clock, &now) == 0));
  struct itimerspec its = {.it_value.tv_sec = now.tv_sec + seconds, .it_value.tv_nsec = now.tv_nsec,
      .it_interval.tv_nsec = interval_msec * 1000000};
  if (!seconds)
    its.it_value.tv_nsec = interval_msec * 1000000;
  check_call(timerfd_settime(fd, flags, &its, NULL) == 0);
  return fd;
}

static void timerfds(void) {
  static const struct {
    int clock, flags;
  } kinds[] = {{CLOCK_MONOTONIC, 0}, {CLOCK_REALTIME, 0}, {CLOCK_BOOTTIME, 0}, {CLOCK_REALTIME_ALARM, 0}, {CLOCK_BOOTTIME_ALARM, 0},
      {CLOCK_REALTIME, TFD_TIMER_ABSTIME}, {CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET},
      {CLOCK_MONOTONIC, TFD_TIMER_ABSTIME}, {CLOCK_BOOTTIME, TFD_TIMER_ABSTIME}};
  enum { N = sizeof kinds / sizeof *kinds };
  int fds[N];
  for (int i = 0; i < N; i++)
    fds[i] = timer(kinds[i].clock, kinds[i].flags, 1000, 0);
  int ticking = timer(CLOCK_BOOTTIME, 0, 0, 5), idle = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  for (int i = 0; i < 20; i++)
    subject_tick();
  wait_for_check();
  struct itimerspec left;
  uint64_t ticks = 0;
  for (int i = 0; i < N; i++) {
    check_call(fds[i] < 0 || timerfd_gettime(fds[i], &left) == 0);
    check(fds[i] < 0 || (left.it_value.tv_sec > 900 && left.it_value.tv_sec <= 1000), "timer %d: %ld s are left", i, (long)left.it_value.tv_sec);
    check(fds[i] < 0 || (read(fds[i], &ticks, sizeof ticks) < 0 && errno == EAGAIN), "timer %d went off", i);
  }
  uint64_t before = subject_nsec(CLOCK_BOOTTIME), more = 0;
  check(read(ticking, &ticks, sizeof ticks) == sizeof ticks && ticks >= 15, "%d ticks", (int)ticks);
  check(subject_await(read(ticking, &ticks, sizeof ticks) == sizeof ticks && (more += ticks) >= 3), "it does not tick any more");
  check(more <= (subject_nsec(CLOCK_BOOTTIME) - before) / 5000000 + 1, "it ticks %d times at once", (int)more);
  check_call(timerfd_gettime(idle, &left) == 0);
  check(!left.it_value.tv_sec && !left.it_value.tv_nsec, "the idle one runs");
}

/* A process that is nobody's child here; it ends after a while, or with this process if @ends, as it does in a dump. */
static pid_t stranger(bool ends) {
  pid_t self = getpid();
  int ends_of[2];
  pid_t pid = 0;
  check_call(pipe(ends_of) == 0);
  pid_t middle = fork();
  if (middle == 0) {
    pid = fork();
    if (pid) {
      (void)!write(ends_of[1], &pid, sizeof pid);
      _exit(0);
    }
    (void)setsid();
    (void)syscall(SYS_close_range, 0, ~0u, 0);
    for (int i = 0; i < 60000 && (!ends || kill(self, 0) == 0); i++)
      (void)usleep(2000);
    _exit(0);
  }
  check_call(read(ends_of[0], &pid, sizeof pid) == sizeof pid && waitpid(middle, NULL, 0) == middle);
  check_call(close(ends_of[0]) == 0 && close(ends_of[1]) == 0);
  return pid;
}

static bool has_ended(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 0) == 1;
}

static void check_of_threads(int of_thread, int of_leader, int second, pthread_t thread) {
  check(tid_of(of_thread) == tids[0] && tid_of(of_leader) == getpid() && !has_ended(of_thread), "they refer to others");
  check(fcntl(of_thread, F_GETFL) & PIDFD_THREAD_, "it is one of a process now");
  check(syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, of_thread, second) == 0, "the second is another one");
  tids[0] = 0;
  check_call(pthread_join(thread, NULL) == 0);
  check(subject_await(has_ended(second)), "the thread has not ended");
}

static void pidfds(void) {
  static int numbers[] = {0, 1};
  pthread_t threads[2];
  pid_t alive = stranger(false);
  int outside = (int)syscall(SYS_pidfd_open, alive, 0), ending = (int)syscall(SYS_pidfd_open, stranger(true), 0);
  check_call(outside >= 0 && ending >= 0);
  for (int i = 0; i < 2; i++) {
    check_call(pthread_create(&threads[i], NULL, live, &numbers[i]) == 0);
    while (!tids[i])
      subject_tick();
  }
  int of_thread = thread_pidfd(tids[0]), of_leader = thread_pidfd(getpid()), second = dup(of_thread);
  check_call(pthread_join(threads[1], NULL) == 0 && (second >= 0 || of_thread < 0));
  wait_for_check();
  check(tid_of(outside) == alive && !has_ended(outside), "the process outside is %d", (int)tid_of(outside));
  if (of_thread >= 0)
    check_of_threads(of_thread, of_leader, second, threads[0]);
  tids[0] = 0;
  check_call(syscall(SYS_pidfd_send_signal, outside, SIGKILL, NULL, 0) == 0);
  check(subject_await(has_ended(outside)), "the process outside has not ended");
  check(subject_await(has_ended(ending)), "the one that ended meanwhile lives");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "epoll";
  if (strcmp(what, "epoll") == 0)
    epolls();
  else if (strcmp(what, "timerfd") == 0)
    timerfds();
  else
    pidfds();
  return subject_pass();
}

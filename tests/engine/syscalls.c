/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads that are inside a system call when the dump comes. Those that wait with a time-out must neither end early nor
 * begin anew (the runner dumps in the middle, see --settle); those that wait for an event must still wait afterwards,
 * and then get it. No call may fail with EINTR, but epoll_wait(2), which signal(7) excepts. And two threads hand a
 * counter to and fro through pipes, to see that no call is lost or done twice. */

#include "pauses.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifdef __i386__ /* built with times of 64 bits */
#undef SYS_futex
#define SYS_futex SYS_futex_time64
#endif

#define DURATION_NSEC 4000000000ULL
/* What a dump and a restore may take, and a slow machine add. A call that begins anew is 2 seconds late. */
#define SLACK_NSEC 1200000000ULL

/* Comes and goes all the time: not to be compared. */
#define PASSING_FD 99

static int data_pipe[2], quiet_pipe[2], poll_pipe[2], epoll_pipe[2], listener, there[2], back[2];
static int futex_word;
static volatile bool released;
static volatile bool ending;
static volatile unsigned long handed;

typedef struct Case {
  const char *name;
  void (*run)(struct Case *self);
  pthread_t thread;
  volatile bool begun, done;
  volatile pid_t child;
  uint64_t began;
} Case;

static struct timespec timespec_of(uint64_t nsec) {
  return (struct timespec){.tv_sec = (time_t)(nsec / 1000000000U), .tv_nsec = (long)(nsec % 1000000000U)};
}

static void slept(const Case *self) {
  uint64_t took = subject_nsec(CLOCK_MONOTONIC) - self->began, missed = pauses_until_now();
  check(took >= DURATION_NSEC - 1000000, "%s ended after %lu ms", self->name, (unsigned long)(took / 1000000));
  check(took < DURATION_NSEC + SLACK_NSEC + missed, "%s lasted %lu ms, of which we missed %lu", self->name, (unsigned long)(took / 1000000),
      (unsigned long)(missed / 1000000));
}

static void waited(const Case *self) {
  check(released, "%s ended before its event", self->name);
}

static void run_nanosleep(Case *self) {
  struct timespec time = timespec_of(DURATION_NSEC);
  check(nanosleep(&time, NULL) == 0, "nanosleep: %s", strerror(errno));
  slept(self);
}

static void run_clock_relative(Case *self) {
  struct timespec time = timespec_of(DURATION_NSEC), rest;
  int err = clock_nanosleep(CLOCK_BOOTTIME, 0, &time, &rest);
  check(err == 0, "clock_nanosleep: %s", strerror(err));
  slept(self);
}

static void run_clock_absolute(Case *self) {
  struct timespec time = timespec_of(self->began + DURATION_NSEC);
  int err = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
  check(err == 0, "absolute clock_nanosleep: %s", strerror(err));
  slept(self);
}

static void run_poll(Case *self) {
  struct pollfd p = {.fd = quiet_pipe[0], .events = POLLIN};
  int n = poll(&p, 1, DURATION_NSEC / 1000000);
  check(n == 0, "poll: %d, %s", n, strerror(errno));
  slept(self);
}

static void run_poll_endless(Case *self) {
  struct pollfd p = {.fd = poll_pipe[0], .events = POLLIN};
  int n = poll(&p, 1, -1);
  check(n == 1 && p.revents == POLLIN, "poll without end: %d, %s", n, strerror(errno));
  waited(self);
}

static void run_select(Case *self) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(quiet_pipe[0], &set);
  struct timeval time = {.tv_sec = DURATION_NSEC / 1000000000};
  int n = select(quiet_pipe[0] + 1, &set, NULL, NULL, &time);
  check(n == 0, "select: %d, %s", n, strerror(errno));
  slept(self);
}

static void run_futex_timed(Case *self) {
  int word = 0;
  struct timespec time = timespec_of(DURATION_NSEC);
  long n = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
  check(n < 0 && errno == ETIMEDOUT, "timed futex: %ld, %s", n, strerror(errno));
  slept(self);
}

/* As glibc waits with a time-out for conditions and semaphores. */
static void wait_until_moment(Case *self, int clock_flag, clockid_t clock) {
  int word = 0;
  struct timespec end = timespec_of(subject_nsec(clock) + DURATION_NSEC);
  long n = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | clock_flag, 0, &end, NULL, FUTEX_BITSET_MATCH_ANY);
  check(n < 0 && errno == ETIMEDOUT, "absolute futex: %ld, %s", n, strerror(errno));
  slept(self);
}

static void run_futex_monotonic(Case *self) {
  wait_until_moment(self, 0, CLOCK_MONOTONIC);
}

static void run_futex_realtime(Case *self) {
  wait_until_moment(self, FUTEX_CLOCK_REALTIME, CLOCK_REALTIME);
}

static void run_epoll_timed(Case *self) {
  int epfd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  check_call(epoll_ctl(epfd, EPOLL_CTL_ADD, quiet_pipe[0], &event) == 0);
  uint64_t end = self->began + DURATION_NSEC;
  int n = -1;
  for (uint64_t now = self->began; now < end && n != 0; now = subject_nsec(CLOCK_MONOTONIC)) {
    n = epoll_wait(epfd, &event, 1, (int)((end - now) / 1000000) + 1);
    check(n == 0 || (n < 0 && errno == EINTR), "timed epoll_wait: %d, %s", n, strerror(errno));
  }
  slept(self);
}

static void run_epoll_pwait2(Case *self) {
  int epfd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  struct timespec time = timespec_of(DURATION_NSEC);
  check_call(epoll_ctl(epfd, EPOLL_CTL_ADD, quiet_pipe[0], &event) == 0);
  long n = syscall(SYS_epoll_pwait2, epfd, &event, 1, &time, NULL, 0);
  check(n == 0 && time.tv_sec == DURATION_NSEC / 1000000000, "epoll_pwait2: %ld, %s", n, strerror(errno));
  slept(self);
}

static void run_ppoll(Case *self) {
  struct pollfd p = {.fd = quiet_pipe[0], .events = POLLIN};
  struct timespec time = timespec_of(DURATION_NSEC);
  int n = ppoll(&p, 1, &time, NULL);
  check(n == 0, "ppoll: %d, %s", n, strerror(errno));
  slept(self);
}

static void run_pselect(Case *self) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(quiet_pipe[0], &set);
  struct timespec time = timespec_of(DURATION_NSEC);
  int n = pselect(quiet_pipe[0] + 1, &set, NULL, NULL, &time, NULL);
  check(n == 0, "pselect: %d, %s", n, strerror(errno));
  slept(self);
}

/* A lock that is never given back, until a time of day. */
static void run_lock_pi_timed(Case *self) {
  static int word = 1;
  word = (int)getpid(); /* held by the main thread */
  struct timespec time = timespec_of(subject_nsec(CLOCK_REALTIME) + DURATION_NSEC);
  long n = syscall(SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, &time, NULL, 0);
  check(n < 0 && errno == ETIMEDOUT, "timed lock_pi: %ld, %s", n, strerror(errno));
  slept(self);
}

static void run_waitv_timed(Case *self) {
  int word = 0;
  struct {
    uint64_t value, address;
    uint32_t flags, reserved;
  } waiter = {0, (uintptr_t)&word, 2 | 128 /* 32 bits, private */, 0};
  struct timespec time = timespec_of(subject_nsec(CLOCK_MONOTONIC) + DURATION_NSEC);
  long n = syscall(SYS_futex_waitv, &waiter, 1, 0, &time, CLOCK_MONOTONIC);
  check(n < 0 && errno == ETIMEDOUT, "timed futex_waitv: %ld, %s", n, strerror(errno));
  slept(self);
}

/* Clocks that run on while nobody does; and relative ones, which the kernel makes of other clocks. */
static void run_realtime_absolute(Case *self) {
  struct timespec time = timespec_of(subject_nsec(CLOCK_REALTIME) + DURATION_NSEC);
  int err = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &time, NULL);
  check(err == 0, "absolute clock_nanosleep: %s", strerror(err));
  slept(self);
}

static void run_tai_relative(Case *self) {
  struct timespec time = timespec_of(DURATION_NSEC);
  int err = clock_nanosleep(CLOCK_TAI, 0, &time, NULL);
  check(err == 0, "clock_nanosleep: %s", strerror(err));
  slept(self);
}

/* Their time is in the program's memory, where it stays: what was waited before the checkpoint is waited again. */
static void waited_whole(const Case *self) {
  uint64_t took = subject_nsec(CLOCK_MONOTONIC) - self->began;
  check(took >= DURATION_NSEC - 1000000 && took < 2 * DURATION_NSEC + pauses_until_now(), "%s lasted %lu ms", self->name,
      (unsigned long)(took / 1000000));
}

static void run_sigtimedwait(Case *self) {
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGUSR1);
  int n = sigtimedwait(&set, NULL, &(struct timespec){.tv_sec = DURATION_NSEC / 1000000000});
  check(n < 0 && errno == EAGAIN, "sigtimedwait: %d, %s", n, strerror(errno));
  waited_whole(self);
}

static void run_recv_timed(Case *self) {
  int ends[2];
  char byte;
  struct timeval time = {.tv_sec = DURATION_NSEC / 1000000000};
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
  ssize_t n = recv(ends[0], &byte, 1, 0);
  check(n < 0 && errno == EAGAIN, "recv: %zd, %s", n, strerror(errno));
  waited_whole(self);
}

static void run_read(Case *self) {
  char byte = 0;
  ssize_t n = read(data_pipe[0], &byte, 1);
  check(n == 1 && byte == 'x', "read: %zd, %s", n, strerror(errno));
  waited(self);
}

static void run_futex(Case *self) {
  long n = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
  check(n == 0, "futex: %s", strerror(errno));
  waited(self);
}

static void run_accept(Case *self) {
  int fd = accept(listener, NULL, NULL);
  check(fd >= 0, "accept: %s", strerror(errno));
  (void)close(fd);
  waited(self);
}

static void run_epoll(Case *self) {
  int epfd = epoll_create1(EPOLL_CLOEXEC), n;
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcULL};
  check_call(epoll_ctl(epfd, EPOLL_CTL_ADD, epoll_pipe[0], &event) == 0);
  do
    n = epoll_wait(epfd, &event, 1, -1);
  while (n < 0 && errno == EINTR);
  check(n == 1 && event.data.u64 == 0x123456789abcULL, "epoll_wait: %d, %s", n, strerror(errno));
  waited(self);
}

static void run_wait(Case *self) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) {
    while (!subject_checking() && getppid() != 1)
      subject_tick();
    _exit(17);
  }
  self->child = pid;
  pid_t got = waitpid(pid, &status, 0);
  check(
      got == pid && WIFEXITED(status) && WEXITSTATUS(status) == 17, "wait4: %d, %x, %s", got, status, strerror(errno));
}

static void on_signal(int signo) {}

static void run_sigsuspend(Case *self) {
  sigset_t none, before, after;
  (void)sigfillset(&none);
  (void)sigdelset(&none, SIGUSR1);
  check_call(pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);
  int n = sigsuspend(&none);
  check(n < 0 && errno == EINTR, "sigsuspend: %d", n);
  check_call(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
  check(!memcmp(&before, &after, 8), "sigsuspend left another signal mask behind");
  waited(self);
}

static void run_pause(Case *self) {
  sigset_t usr2;
  (void)sigemptyset(&usr2);
  (void)sigaddset(&usr2, SIGUSR2);
  check_call(pthread_sigmask(SIG_UNBLOCK, &usr2, NULL) == 0);
  check(pause() < 0 && errno == EINTR, "pause: %s", strerror(errno));
  waited(self);
}

static void hand(int from, int to, unsigned long first) {
  for (unsigned long expected = first;; expected += 2) {
    unsigned long value;
    ssize_t n = read(from, &value, sizeof value);
    if (n == 0)
      break;
    check(n == sizeof value && value == expected, "handed %lu for %lu (%zd bytes)", value, expected, n);
    handed = ++value;
    if (ending)
      break;
    check_call(write(to, &value, sizeof value) == sizeof value);
  }
}

static void run_hand_there(Case *self) {
  hand(there[0], back[1], 0);
  (void)close(back[1]);
}

static void run_hand_back(Case *self) {
  hand(back[0], there[1], 1);
  (void)close(there[1]);
}

static void run_plain_calls(Case *self) {
  pid_t pid = getpid();
  for (unsigned n = 0; !ending; n++) {
    int fd = dup2(data_pipe[0], PASSING_FD);
    check(fd == PASSING_FD && syscall(SYS_getpid) == pid, "a system call gave another's result: %d", fd);
    check_call(close(fd) == 0);
    check(subject_nsec(CLOCK_MONOTONIC) > self->began, "time runs backwards");
  }
}

static Case cases[] = {{"nanosleep", run_nanosleep}, {"relative clock_nanosleep", run_clock_relative},
    {"absolute clock_nanosleep", run_clock_absolute}, {"poll", run_poll}, {"poll without end", run_poll_endless},
    {"select", run_select}, {"timed futex", run_futex_timed}, {"absolute futex", run_futex_monotonic},
    {"absolute futex by the clock", run_futex_realtime}, {"timed epoll_wait", run_epoll_timed}, {"read", run_read},
    {"epoll_pwait2", run_epoll_pwait2}, {"ppoll", run_ppoll}, {"pselect", run_pselect}, {"timed lock_pi", run_lock_pi_timed},
    {"timed futex_waitv", run_waitv_timed}, {"clock_nanosleep until a time of day", run_realtime_absolute},
    {"clock_nanosleep by CLOCK_TAI", run_tai_relative}, {"sigtimedwait", run_sigtimedwait}, {"timed recv", run_recv_timed},
    {"futex", run_futex}, {"accept", run_accept}, {"epoll_wait", run_epoll}, {"wait4", run_wait},
    {"sigsuspend", run_sigsuspend}, {"pause", run_pause}, {"hand there", run_hand_there}, {"hand back", run_hand_back},
    {"plain calls", run_plain_calls}};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static void *run_case(void *data) {
  Case *self = data;
  self->began = subject_nsec(CLOCK_MONOTONIC);
  self->begun = true;
  self->run(self);
  self->done = true;
  return NULL;
}

static Case *case_of(const char *name) {
  for (int i = 0; i < N_CASES; i++)
    if (!strcmp(cases[i].name, name))
      return &cases[i];
  subject_fail("no case %s", name);
}

static struct sockaddr_un address_of_listener(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "checkpointd-syscalls-%d", (int)getpid());
  return address;
}

static void set_up(void) {
  check_call(pipe(data_pipe) == 0 && pipe(quiet_pipe) == 0 && pipe(epoll_pipe) == 0 && pipe(poll_pipe) == 0 &&
             pipe(there) == 0 && pipe(back) == 0);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = address_of_listener();
  check_call(
      listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 4) == 0);
  struct sigaction action = {.sa_handler = on_signal};
  check_call(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0);
  sigset_t mine;
  (void)sigemptyset(&mine);
  (void)sigaddset(&mine, SIGUSR1);
  (void)sigaddset(&mine, SIGUSR2);
  check_call(pthread_sigmask(SIG_BLOCK, &mine, NULL) == 0);
}

static void release(void) {
  static const char *const waiting[] = {
      "read", "futex", "accept", "epoll_wait", "poll without end", "sigsuspend", "pause"};
  for (size_t i = 0; i < sizeof waiting / sizeof waiting[0]; i++)
    check(!case_of(waiting[i])->done, "%s does not wait any more", waiting[i]);
  released = true;
  struct sockaddr_un address = address_of_listener();
  int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check_call(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
  check_call(write(data_pipe[1], "x", 1) == 1 && write(epoll_pipe[1], "x", 1) == 1 && write(poll_pipe[1], "x", 1) == 1);
  check(subject_await(syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1), "nobody waits for the futex");
  check_call(pthread_kill(case_of("sigsuspend")->thread, SIGUSR1) == 0);
  const Case *pausing = case_of("pause"); /* it may be on its way into the call again, where it would miss a signal */
  check(subject_await(pausing->done || (pthread_kill(pausing->thread, SIGUSR2) != 0)), "pause does not end");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  set_up();
  if (argc > 2 && !strcmp(argv[2], "crowd"))
    subject_crowd(80);
  else if (argc > 2) /* several checkpoints: these would begin anew each time */
    case_of("sigtimedwait")->run = case_of("timed recv")->run = run_nanosleep;
  pthread_t pauses = pauses_begin();
  for (int i = 0; i < N_CASES; i++) {
    check_call(pthread_create(&cases[i].thread, NULL, run_case, &cases[i]) == 0);
    while (!cases[i].begun)
      subject_tick();
  }
  const unsigned long first = 0;
  check_call(write(there[1], &first, sizeof first) == sizeof first);
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  unsigned long then = handed;
  check(subject_await(handed != then), "the counter is not handed on");
  release();
  ending = true;
  for (int i = 0; i < N_CASES; i++)
    check_call(pthread_join(cases[i].thread, NULL) == 0);
  pauses_end(pauses);
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Actions of all signals, bit for bit as the kernel gives them; masks; pending signals of the process and of one
 * thread, with everything in their siginfo, real-time ones in their order; a handler that is running while the dump
 * comes. */

#include "subject.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define N_SIGNALS 64
#define N_QUEUED 24
#ifdef __i386__
enum { SIGINFO_HEAD = 12, SIGINFO_KEPT = 24 };
#else
enum { SIGINFO_HEAD = 16, SIGINFO_KEPT = 48 };
#endif

typedef struct KernelAction {
  void *handler;
  unsigned long flags;
  void *restorer;
  uint64_t mask;
} KernelAction;

static volatile int inside, leave_handler, left;
static pthread_t other;
static volatile pid_t other_tid;
static int code_of_tgkill; /* SI_TKILL, or SI_USER on some kernels */
static volatile bool other_may_take, other_done;

static void on_any(int signo, siginfo_t *info, void *context) {}

/* Stays in the handler over the dump: its frame must survive, and the way back to the main program. */
static void on_long(int signo) {
  inside = 1;
  while (!leave_handler)
    subject_tick();
  left = 1;
}

static KernelAction action_of(int signo) {
  KernelAction action;
  memset(&action, 0, sizeof action);
  check(syscall(SYS_rt_sigaction, signo, NULL, &action, 8) == 0, "rt_sigaction %d: %s", signo, strerror(errno));
  return action;
}

static void set_actions(void) {
  static const int flags[] = {SA_SIGINFO, SA_SIGINFO | SA_RESTART, SA_ONSTACK, SA_NODEFER | SA_SIGINFO, SA_NOCLDSTOP,
      SA_RESTART, SA_RESETHAND | SA_SIGINFO};
  for (int signo = 1; signo <= N_SIGNALS; signo++) {
    if (signo == SIGKILL || signo == SIGSTOP || signo == 32 || signo == 33)
      continue;
    struct sigaction action = {.sa_sigaction = on_any, .sa_flags = flags[signo % 7]};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaddset(&action.sa_mask, signo % 31 + 1);
    if (signo % 5 == 0)
      action = (struct sigaction){.sa_handler = SIG_IGN, .sa_flags = SA_RESTART};
    if (signo % 11 == 0 || signo == SIGSEGV || signo == SIGBUS)
      continue; /* some stay as they were */
    check(sigaction(signo, &action, NULL) == 0, "sigaction %d: %s", signo, strerror(errno));
  }
  struct sigaction longer = {.sa_handler = on_long};
  check_call(sigaction(SIGHUP, &longer, NULL) == 0);
}

static sigset_t taken(void) {
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGUSR1);
  (void)sigaddset(&set, SIGUSR2);
  (void)sigaddset(&set, SIGWINCH);
  (void)sigaddset(&set, SIGRTMIN + 1);
  (void)sigaddset(&set, SIGRTMIN + 2);
  (void)sigaddset(&set, SIGCHLD);
  return set;
}

static siginfo_t take(const char *who, int signo) {
  sigset_t set;
  siginfo_t info;
  const struct timespec now = {0};
  (void)sigemptyset(&set);
  (void)sigaddset(&set, signo);
  check(sigtimedwait(&set, &info, &now) == signo, "%s: signal %d is not pending any more (%s)", who, signo,
      strerror(errno));
  return info;
}

static void expect_none(const char *who) {
  sigset_t set = taken();
  siginfo_t info;
  const struct timespec now = {0};
  int signo = sigtimedwait(&set, &info, &now);
  check(signo < 0 && errno == EAGAIN, "%s: signal %d too much", who, signo);
}

static void *live(void *data) {
  other_tid = (pid_t)syscall(SYS_gettid);
  while (!other_may_take)
    subject_tick();
  for (int i = 0; i < N_QUEUED; i++) {
    siginfo_t info = take("thread", SIGRTMIN + 2);
    check(info.si_code == SI_QUEUE && info.si_value.sival_int == 5000 + i && info.si_pid == getpid() &&
              info.si_uid == getuid(),
        "thread: queued signal %d has code %d, value %d, pid %d", i, info.si_code, info.si_value.sival_int,
        info.si_pid);
  }
  siginfo_t info = take("thread", SIGUSR2);
  check(info.si_code == code_of_tgkill && info.si_pid == getpid(), "thread: SIGUSR2 has code %d", info.si_code);
  other_done = true;
  while (!leave_handler)
    subject_tick();
  return NULL;
}

static void *stay_in_handler(void *data) {
  check_call(raise(SIGHUP) == 0);
  check(left, "the handler was left before its end");
  return NULL;
}

static void *value_of(int i) {
  return (void *)(uintptr_t)(0x1122334400000000ULL + (unsigned)i); /* in the lower half for 32-bit programs */
}

static void send_all(void) {
  sigval_t value;
  for (int i = 0; i < N_QUEUED; i++) {
    value.sival_ptr = value_of(i);
    check_call(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
    value.sival_int = 5000 + i;
    check_call(pthread_sigqueue(other, SIGRTMIN + 2, value) == 0);
  }
  check_call(kill(getpid(), SIGUSR1) == 0);
  check_call(pthread_kill(other, SIGUSR2) == 0);
  /* A siginfo of the program's own making, in all bytes that the kernel keeps. */
  siginfo_t made;
  memset(&made, 0, sizeof made);
  memset(&made, 0x5a, SIGINFO_KEPT);
  made.si_signo = SIGWINCH;
  made.si_errno = 7;
  made.si_code = -77;
  check_call(syscall(SYS_rt_sigqueueinfo, getpid(), SIGWINCH, &made) == 0);
  pid_t pid = fork();
  if (pid == 0)
    _exit(33);
  siginfo_t info;
  check_call(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
}

static void take_all(void) {
  for (int i = 0; i < N_QUEUED; i++) {
    siginfo_t info = take("process", SIGRTMIN + 1);
    check(info.si_code == SI_QUEUE && info.si_value.sival_ptr == value_of(i),
        "queued signal %d has code %d, value %p", i, info.si_code, info.si_value.sival_ptr);
  }
  siginfo_t info = take("process", SIGUSR1);
  check(info.si_code == SI_USER && info.si_pid == getpid(), "SIGUSR1: code %d, pid %d", info.si_code, info.si_pid);
  info = take("process", SIGWINCH);
  unsigned char expected[SIGINFO_KEPT - SIGINFO_HEAD];
  memset(expected, 0x5a, sizeof expected);
  check(info.si_errno == 7 && info.si_code == -77 && !memcmp((char *)&info + SIGINFO_HEAD, expected, sizeof expected),
      "the siginfo of SIGWINCH has changed: errno %d, code %d", info.si_errno, info.si_code);
  info = take("process", SIGCHLD);
  check(
      info.si_code == CLD_EXITED && info.si_status == 33, "SIGCHLD: code %d, status %d", info.si_code, info.si_status);
  expect_none("process");
}

int main(int argc, char **argv) {
  KernelAction before[N_SIGNALS + 1];
  sigset_t set = taken(), mask_before, mask_after;
  subject_begin(argc, argv);
  check_call(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
  check_call(syscall(SYS_tgkill, getpid(), getpid(), SIGUSR2) == 0);
  code_of_tgkill = take("process", SIGUSR2).si_code;
  check_call(pthread_create(&other, NULL, live, NULL) == 0);
  while (!other_tid)
    subject_tick();
  set_actions();
  struct sigaction child = {.sa_handler = SIG_DFL};
  check_call(sigaction(SIGCHLD, &child, NULL) == 0);
  for (int signo = 1; signo <= N_SIGNALS; signo++)
    before[signo] = action_of(signo);
  check_call(pthread_sigmask(SIG_BLOCK, NULL, &mask_before) == 0);
  send_all();

  pthread_t busy;
  check_call(pthread_create(&busy, NULL, stay_in_handler, NULL) == 0);
  while (!inside)
    subject_tick();
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();

  for (int signo = 1; signo <= N_SIGNALS; signo++) {
    KernelAction now = action_of(signo);
    check(!memcmp(&now, &before[signo], sizeof now), "the action of signal %d has changed: %p %lx %p %lx", signo,
        now.handler, now.flags, now.restorer, (unsigned long)now.mask);
  }
  check_call(pthread_sigmask(SIG_BLOCK, NULL, &mask_after) == 0);
  check(!memcmp(&mask_before, &mask_after, 8), "the signal mask has changed");
  take_all();
  other_may_take = true;
  check(subject_await(other_done || subject_failed()), "the thread did not take its signals");
  leave_handler = 1;
  check_call(pthread_join(other, NULL) == 0 && pthread_join(busy, NULL) == 0);
  check(left, "the handler never came to its end");
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Children that stand still: many threads of one, one inside another, with a signal waiting for it. Their parent has waited
 * for the stops, but for one, and hears nothing of them again: neither by waitpid(2) nor by SIGCHLD. */

#include "subject.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { THREADS = 8 };

typedef struct Board {
  volatile unsigned long steps[THREADS];
  volatile unsigned long inner_steps;
  volatile int signals;
  volatile pid_t inner;
} Board;

static Board *board;
static volatile sig_atomic_t sigchlds;

static void on_sigchld(int signo) {
  sigchlds++;
}

static void on_usr1(int signo) {
  board->signals++;
}

static void *step(void *argument) {
  volatile unsigned long *counter = argument;
  for (;;) {
    (*counter)++;
    if (*counter % 1000 == 0)
      (void)sched_yield();
  }
  return NULL;
}

static pid_t spawn(void) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0)
    check_call(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
  return pid;
}

__attribute__((noreturn)) static void run_threads(void) {
  pthread_t thread;
  check_call(signal(SIGUSR1, on_usr1) != SIG_ERR);
  for (int i = 1; i < THREADS; i++)
    check_call(pthread_create(&thread, NULL, step, (void *)(uintptr_t)&board->steps[i]) == 0);
  (void)step((void *)(uintptr_t)&board->steps[0]);
  _exit(1);
}

/* Stops its own child, waits for that, and sleeps. */
__attribute__((noreturn)) static void run_outer(void) {
  pid_t inner = spawn();
  siginfo_t info;
  if (inner == 0)
    (void)step((void *)(uintptr_t)&board->inner_steps);
  check_call(kill(inner, SIGSTOP) == 0 && waitid(P_PID, (id_t)inner, &info, WSTOPPED) == 0);
  board->inner = inner;
  for (int status = 0;;) {
    pid_t pid = waitpid(inner, &status, WNOHANG | WUNTRACED);
    check(pid == 0, "something of the inner child is reported: %d, status %x", (int)pid, status);
    subject_tick();
  }
}

static pid_t stop(pid_t pid) {
  siginfo_t info;
  check_call(kill(pid, SIGSTOP) == 0 && waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT) == 0);
  return pid;
}

static void check_still(pid_t pid, const char *what) {
  unsigned long then = 0, now = 0;
  int status = 0;
  for (int i = 0; i < THREADS; i++)
    then += board->steps[i];
  then += board->inner_steps;
  (void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
  for (int i = 0; i < THREADS; i++)
    now += board->steps[i];
  now += board->inner_steps;
  check(now == then, "%s runs", what);
  pid_t reported = waitpid(pid, &status, WNOHANG | WUNTRACED);
  check(reported == 0, "the stop of %s is reported again: %d, status %x", what, (int)reported, status);
}

static void check_goes_on(pid_t pid) {
  unsigned long then[THREADS];
  int status = 0;
  check(board->signals == 0, "a stopped process handled its signal");
  for (int i = 0; i < THREADS; i++)
    then[i] = board->steps[i];
  check_call(kill(pid, SIGCONT) == 0);
  check(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status), "it is not continued: %x", status);
  for (int i = 0; i < THREADS; i++)
    for (int patience = 0; board->steps[i] == then[i]; patience++) {
      check(patience < SUBJECT_PATIENCE, "thread %d does not go on", i);
      subject_tick();
    }
  for (int patience = 0; !board->signals; patience++) {
    check(patience < SUBJECT_PATIENCE, "its signal got lost");
    subject_tick();
  }
  check(board->signals == 1, "its signal came %d times", board->signals);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  int status = 0;
  struct sigaction action = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART};
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(board != MAP_FAILED && sigaction(SIGCHLD, &action, NULL) == 0);
  pid_t threads = spawn();
  if (threads == 0)
    run_threads();
  pid_t outer = spawn();
  if (outer == 0)
    run_outer();
  pid_t unheard = spawn();
  if (unheard == 0)
    for (;;)
      (void)pause();
  while (!board->inner || !board->steps[THREADS - 1])
    subject_tick();
  check_call(waitpid(stop(threads), &status, WUNTRACED) == threads && kill(threads, SIGUSR1) == 0);
  check_call(waitpid(stop(outer), &status, WUNTRACED) == outer);
  (void)stop(unheard);
  check_still(threads, "a stopped process");
  int before = sigchlds;
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  check_still(threads, "a stopped process");
  check_still(outer, "a stopped process with a stopped child");
  check(sigchlds == before, "SIGCHLD came %d times", sigchlds - before);
  check(waitpid(unheard, &status, WNOHANG | WUNTRACED) == unheard && WIFSTOPPED(status), "a stop that nobody waited for is lost: %x", status);
  check_still(unheard, "that process");
  check_goes_on(threads);
  check_call(kill(outer, SIGCONT) == 0);
  (void)nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); /* it looks for its child */
  (void)stop(outer); /* or it sees the end of its child */
  check_call(kill(board->inner, SIGCONT) == 0 && kill(board->inner, SIGKILL) == 0);
  check_call(kill(threads, SIGKILL) == 0 && kill(outer, SIGKILL) == 0 && kill(unheard, SIGKILL) == 0);
  while (waitpid(-1, &status, 0) > 0)
    ;
  return subject_pass();
}

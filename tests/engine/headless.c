/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes whose main thread has ended while others go on: this one, and a child of it that has one more thread, whose own
 * end must be told to its parent as before: once, when the last thread ends. */

#include "subject.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { LEFT = 9, N_THREADS = 3 };

static volatile int *shared;
static pid_t child;
static bool wishes; /* with an argument: the child wants to hear of our end, which is refused */
static volatile int chld_signals;
static int out[2], back[2];
static pthread_barrier_t there;

static char state_of(pid_t pid) {
  char path[64], *text, state;
  (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  text = subject_read(path, NULL);
  const char *after = strrchr(text, ')');
  state = after ? after[2] : '?';
  free(text);
  return state;
}

static void wait_dead(pid_t pid) {
  for (int patience = 0; state_of(pid) != 'Z'; patience++) {
    check(patience < SUBJECT_PATIENCE, "the main thread of %d lives", (int)pid);
    subject_tick();
  }
}

static void on_chld(int signo) {
  (void)signo;
  chld_signals++;
}

/* Of the child: gives back what it gets, until there is no more. */
static void *echo(void *data) {
  (void)data;
  wait_dead(getppid());
  if (wishes)
    check_call(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
  for (char byte; read(out[0], &byte, 1) == 1;)
    check_call(write(back[1], &byte, 1) == 1);
  (void)syscall(SYS_exit, LEFT); /* the last thread's status is the process's */
  return NULL;
}

static void run_child(void) {
  pthread_t thread;
  (void)close(out[1]);
  (void)close(back[0]);
  check_call(pthread_create(&thread, NULL, echo, NULL) == 0);
  (void)syscall(SYS_exit, 7);
}

static void *work(void *data) {
  long number = (long)data;
  (void)pthread_barrier_wait(&there);
  for (unsigned long n = 0; !subject_checking() && !subject_failed(); n++) {
    check(syscall(SYS_getpid) == shared[0] && getppid() != shared[0], "thread %ld is in another process", number);
    subject_tick();
  }
  return NULL;
}

static void ping(void) {
  char byte = 'x';
  check_call(write(out[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
  check(byte == 'x', "the child says %c", byte);
}

static void check_child(void) {
  int status = 0;
  check(waitpid(child, &status, WNOHANG) == 0, "the child has ended: %x", status);
  check(chld_signals == 0, "%d signals from a child that has not ended", chld_signals);
  check(state_of(child) == 'Z', "the main thread of the child is '%c'", state_of(child));
  ping();
  (void)close(out[1]);
  check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == LEFT, "the child left %x", status);
  check(chld_signals == 1, "%d signals for the end of the child", chld_signals);
}

static void *lead(void *data) {
  wait_dead(getpid());
  wait_dead(child);
  ping();
  subject_ready();
  (void)work(data);
  check(state_of(getpid()) == 'Z', "our main thread is '%c'", state_of(getpid()));
  check_child();
  exit(subject_pass());
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  wishes = argc > 2;
  if (!subject_has_thread_pidfds())
    subject_skip("this kernel has no pidfds of threads, and such processes are refused");
  shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(shared != MAP_FAILED && pipe(out) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, back) == 0);
  shared[0] = (int)getpid();
  struct sigaction action = {.sa_handler = on_chld, .sa_flags = SA_RESTART};
  check_call(sigaction(SIGCHLD, &action, NULL) == 0);
  child = fork();
  if (child == 0)
    run_child();
  (void)close(out[0]);
  (void)close(back[1]);
  check_call(pthread_barrier_init(&there, NULL, N_THREADS) == 0);
  pthread_t thread;
  for (long i = 0; i < N_THREADS; i++)
    check_call(pthread_create(&thread, NULL, i ? work : lead, (void *)i) == 0);
  pthread_exit(NULL);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A child of many threads, stopped by job control: it stays stopped, and goes on with all of them. argv[2]:
 *   again     a second SIGSTOP is pending
 *   flood     another child stops and continues it all the time, so that a SIGSTOP may be on its way */

#include "subject.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define N_THREADS 8

static unsigned long volatile *beats;

static void *beat(void *index) {
  for (;;) {
    beats[(size_t)index]++;
    subject_tick();
  }
  return NULL;
}

static void live(void) {
  pthread_t thread;
  for (size_t i = 1; i < N_THREADS; i++)
    check(pthread_create(&thread, NULL, beat, (void *)i) == 0, "no thread %zu", i);
  (void)beat(NULL);
}

static bool all_beat(const unsigned long *then) {
  for (size_t i = 0; i < N_THREADS; i++)
    if (beats[i] == then[i])
      return false;
  return true;
}

static void note(unsigned long *then) {
  for (size_t i = 0; i < N_THREADS; i++)
    then[i] = beats[i];
}

static _Noreturn void flood(pid_t pid) {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    (void)kill(pid, SIGSTOP);
    (void)kill(pid, SIGCONT);
  }
}

static void flooded(pid_t pid) {
  unsigned long then[N_THREADS];
  pid_t other = fork();
  check_call(other >= 0);
  if (other == 0)
    flood(pid);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  note(then);
  check(subject_await(all_beat(then)), "some thread stands still");
  check_call(kill(other, SIGKILL) == 0 && waitpid(other, NULL, 0) == other);
}

int main(int argc, char **argv) {
  unsigned long then[N_THREADS] = {0};
  siginfo_t info;
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "";
  beats = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(beats != MAP_FAILED);
  pid_t pid = fork();
  if (pid == 0)
    live();
  while (!all_beat(then))
    subject_tick();
  if (strcmp(what, "flood") == 0)
    flooded(pid);
  check_call(kill(pid, SIGSTOP) == 0 && waitid(P_PID, (id_t)pid, &info, WSTOPPED) == 0);
  if (strcmp(what, "again") == 0)
    check_call(kill(pid, SIGSTOP) == 0);
  note(then);
  if (strcmp(what, "flood") != 0)
    subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  for (size_t i = 0; i < N_THREADS; i++)
    check(beats[i] == then[i], "thread %zu ran though it must not", i);
  check_call(kill(pid, SIGCONT) == 0);
  check(subject_await(all_beat(then)), "some thread does not go on");
  check_call(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
  return subject_pass();
}

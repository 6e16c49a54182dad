/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A task that is traced: by a debugger "outside" of the tree, or by its parent, which is in the tree ("inside"). The dump is
 * refused, and the debugger has lost nothing. */

#include "subject.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

static void debug(pid_t pid) {
  check_call(ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACESYSGOOD) == 0);
}

static pid_t tracer_of_self(void) {
  char *status = subject_read("/proc/self/status", NULL);
  pid_t tracer = atoi(strstr(status, "TracerPid:") + strlen("TracerPid:"));
  free(status);
  return tracer;
}

/* Not of the tree: its parent has ended. */
static void start_outside(void) {
  pid_t me = getpid();
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    (void)setsid();
    if (fork() > 0)
      _exit(0);
    check_call(prctl(PR_SET_NAME, "ckpt-debugger") == 0);
    while (getppid() == me)
      subject_tick();
    debug(me);
    int status = 0;
    while (waitpid(me, &status, __WALL) == me && WIFSTOPPED(status))
      (void)ptrace(PTRACE_CONT, me, NULL, (void *)(intptr_t)(status >> 16 ? 0 : WSTOPSIG(status)));
    _exit(0);
  }
  check_call(waitpid(child, NULL, 0) == child);
  while (!tracer_of_self())
    subject_tick();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  bool outside = argc > 2 && !strcmp(argv[2], "outside");
  pid_t child = 0, tracer = 0;
  if (outside) {
    start_outside();
    tracer = tracer_of_self();
  } else {
    child = fork();
    check_call(child >= 0);
    if (child == 0)
      for (;;)
        subject_tick();
    debug(child);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(tracer_of_self() == tracer, "the tracer was %d, is %d", (int)tracer, (int)tracer_of_self());
  if (child) {
    int status = 0;
    check_call(ptrace(PTRACE_INTERRUPT, child, NULL, NULL) == 0);
    check(waitpid(child, &status, __WALL) == child && WIFSTOPPED(status), "the child does not stop: %x", status);
    check_call(kill(child, SIGKILL) == 0 && waitpid(child, &status, __WALL) == child);
  }
  return subject_pass();
}

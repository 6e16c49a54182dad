/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A child of vfork(2) that goes on with its parent's memory: the parent can not be stopped, and no dump may wait for it. */

#include "subject.h"
#include <signal.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  int status = 0;
  pid_t pid = vfork();
  if (pid == 0) {
    subject_ready();
    while (!subject_checking())
      (void)usleep(5000);
    _exit(33);
  }
  check_call(pid > 0 && waitpid(pid, &status, 0) == pid);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 33, "the child left %x", status);
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* refused BASE CASE: what a dump refuses and no other program of the suite has. Explain and the dump name the same
 * (tests/refusals/refusals). BASE.root may name another process that is to be looked at. */

#include "refused.h"
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static pid_t root;

char *place(const char *name) {
  char *path = NULL;
  check_call(asprintf(&path, "%s.%s", subject_base, name) > 0);
  return path;
}

int kept(int fd) {
  check(fd >= 0, "a descriptor is missing: %s", strerror(errno));
  return fd;
}

/* Until the program has its verdict, or is gone. */
__attribute__((noreturn)) void idle(void) {
  char check_path[4096];
  subject_path(check_path, sizeof check_path, "check");
  while (kill(root, 0) == 0 && access(check_path, F_OK) < 0)
    subject_tick();
  _exit(0);
}

static void keep_only(const int *fds, int n) {
  for (int fd = 0; fd < 256; fd++) {
    bool keep = fd < 3;
    for (int i = 0; i < n; i++)
      keep = keep || fds[i] == fd;
    if (!keep)
      (void)close(fd);
  }
}

void outside(void (*work)(void), const int *fds, int n) {
  int ends[2], all[8] = {0};
  check_call(pipe2(ends, O_CLOEXEC) == 0);
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    if (fork() != 0)
      _exit(0);
    check_call(setsid() > 0 && prctl(PR_SET_NAME, "outside") == 0);
    memcpy(all, fds, (size_t)n * sizeof *fds);
    all[n] = ends[1];
    keep_only(all, n + 1);
    if (work)
      work();
    check_call(write(ends[1], "x", 1) == 1 && close(ends[1]) == 0);
    idle();
  }
  char byte;
  check_call(waitpid(middle, NULL, 0) == middle && close(ends[1]) == 0);
  check(read(ends[0], &byte, 1) == 1, "the process outside did not get ready");
  check_call(close(ends[0]) == 0);
}

void child(void (*work)(void)) {
  int ends[2];
  check_call(pipe2(ends, O_CLOEXEC) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0) {
    check_call(close(ends[0]) == 0);
    work();
    check_call(write(ends[1], "x", 1) == 1 && close(ends[1]) == 0);
    idle();
  }
  char byte;
  check_call(close(ends[1]) == 0);
  check(read(ends[0], &byte, 1) == 1, "a child did not get ready");
  check_call(close(ends[0]) == 0);
}

void look_at(pid_t pid) {
  char text[32];
  (void)snprintf(text, sizeof text, "%d", (int)pid);
  subject_say("root", text);
}

int main(int argc, char **argv) {
  static const RefusedTable *const tables[] = {&kernel_cases, &file_cases, &socket_cases, &task_cases};
  const RefusedCase *found = NULL;
  subject_begin(argc, argv);
  root = getpid();
  for (size_t t = 0; argc > 2 && t < sizeof tables / sizeof *tables; t++) {
    tables[t]->begin(argc, argv);
    for (const RefusedCase *one = tables[t]->cases; one->name; one++)
      if (strcmp(one->name, argv[2]) == 0)
        found = one;
  }
  if (!found)
    return 2;
  found->set_up();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  if (found->clean_up)
    found->clean_up();
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Who is restricted by Landlock is noticed, and refused: "root" (the main thread), "thread" (one of several, the others are
 * free), "user" (a child with another user id). "free": ids that differ all over a tree are no reason. */

#include "subject.h"
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define NR_CREATE_RULESET 444
#define NR_RESTRICT_SELF 446
#define ACCESS_FS_MAKE_SOCK (1ULL << 9)

static atomic_int settled;

static void restrict_self(void) {
  uint64_t handled = ACCESS_FS_MAKE_SOCK;
  long ruleset = syscall(NR_CREATE_RULESET, &handled, sizeof handled, 0);
  if (ruleset < 0)
    subject_skip("the kernel has no Landlock");
  check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(NR_RESTRICT_SELF, ruleset, 0) == 0);
  (void)close((int)ruleset);
}

static void become(uid_t uid) {
  check_call(syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, uid, uid, uid) == 0 && syscall(SYS_setresuid, uid, uid, uid) == 0);
}

static void *other_thread(void *restricted) {
  if (restricted)
    restrict_self();
  else
    become(2005); /* the thread alone */
  atomic_fetch_add(&settled, 1);
  while (!subject_failed())
    subject_tick();
  return NULL;
}

static pid_t start_child(uid_t uid, bool restricted) {
  int fds[2];
  char byte;
  check_call(pipe(fds) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0) {
    become(uid);
    if (restricted)
      restrict_self();
    (void)close(fds[1]);
    for (;;)
      subject_tick();
  }
  (void)close(fds[1]);
  check_call(read(fds[0], &byte, 1) == 0);
  (void)close(fds[0]);
  return pid;
}

int main(int argc, char **argv) {
  pthread_t threads[2];
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "root";
  bool in_thread = !strcmp(what, "thread");
  for (int i = 0; i < 2; i++)
    check_call(pthread_create(&threads[i], NULL, other_thread, in_thread && i ? threads : NULL) == 0);
  while (settled < 2)
    subject_tick();
  pid_t child = start_child(2000, !strcmp(what, "user"));
  if (!strcmp(what, "root"))
    restrict_self();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_call(kill(child, SIGKILL) == 0 || (!strcmp(what, "user") && errno == EPERM));
  return subject_pass();
}

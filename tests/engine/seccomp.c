/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A thread under seccomp that dies by any call it does not expect: "strict" mode, or a "filter" that kills. The dump must be
 * refused and everybody must live. */

#include "subject.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static atomic_ulong beats;
static int feed[2];
static bool strict;

static void confine(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (strict)
    check_call(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
  else
    check_call(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void *confined(void *arg) {
  char byte;
  confine();
  while (syscall(SYS_read, feed[0], &byte, 1) == 1)
    atomic_fetch_add(&beats, 1);
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t thread;
  subject_begin(argc, argv);
  strict = argc > 2 && strcmp(argv[2], "strict") == 0;
  check_call(pipe(feed) == 0);
  check(pthread_create(&thread, NULL, confined, NULL) == 0, "pthread_create");
  check_call(write(feed[1], "x", 1) == 1);
  while (!atomic_load(&beats))
    subject_tick();
  subject_ready();
  while (!subject_checking()) {
    unsigned long before = atomic_load(&beats);
    check_call(write(feed[1], "x", 1) == 1);
    for (int i = 0; i < 1000 && atomic_load(&beats) == before; i++)
      subject_tick();
    check(atomic_load(&beats) == before + 1, "the confined thread is gone");
  }
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Tasks that share what each of them would get for itself after a restore, in all combinations of CLONE_FILES, CLONE_FS,
 * CLONE_SIGHAND and CLONE_VM without CLONE_THREAD: a "child", or a "sibling" of a child (CLONE_PARENT), which only its
 * sister shares with; "vfork" without execve(2); a "thread" that has a directory or a descriptor table of its own. argv[3]
 * names what is shared, so many letters: f, d (directory), s, v. All are refused. "exec" has called execve(2) after vfork(2)
 * and shares nothing any more. */

#include "subject.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static atomic_int settled;
static int flags_of(const char *letters) {
  int flags = 0;
  for (; letters && *letters; letters++)
    flags |= *letters == 'f' ? CLONE_FILES : *letters == 'd' ? CLONE_FS : *letters == 's' ? CLONE_SIGHAND : CLONE_VM;
  return flags;
}

static int idle(void *arg) {
  for (;;)
    subject_tick();
  return 0;
}

static pid_t start(int flags) {
  size_t size = 64 << 10;
  char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  check_call(stack != MAP_FAILED);
  pid_t pid = clone(idle, stack + size, flags | SIGCHLD, NULL);
  check_call(pid > 0);
  return pid;
}

static void *apart(void *flags) {
  check_call(unshare((int)(intptr_t)flags) == 0);
  atomic_store(&settled, 1);
  while (!subject_failed())
    subject_tick();
  return NULL;
}

static void *vfork_forever(void *arg) {
  pid_t *child = arg;
  pid_t pid = vfork();
  if (pid == 0) {
    *child = (pid_t)syscall(SYS_getpid);
    for (;;)
      (void)syscall(SYS_pause);
  }
  return NULL;
}

static pid_t start_vfork(bool execs, pid_t *child) {
  pthread_t thread;
  if (!execs) {
    check_call(pthread_create(&thread, NULL, vfork_forever, child) == 0);
    while (!*(volatile pid_t *)child)
      subject_tick();
    return *child;
  }
  pid_t pid = vfork();
  if (pid == 0) {
    execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    _exit(1);
  }
  return pid;
}

int main(int argc, char **argv) {
  static pid_t vforked;
  pthread_t thread;
  pid_t children[2] = {0};
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "child";
  int flags = flags_of(argc > 3 ? argv[3] : "f");
  if (!strcmp(what, "child")) {
    children[0] = start(flags);
  } else if (!strcmp(what, "sibling")) {
    int fds[2];
    check_call(pipe(fds) == 0);
    children[0] = fork();
    if (children[0] == 0) {
      pid_t pid = start(flags | CLONE_PARENT);
      check_call(write(fds[1], &pid, sizeof pid) == sizeof pid);
      (void)idle(NULL);
    }
    check_call(read(fds[0], &children[1], sizeof(pid_t)) == sizeof(pid_t));
  } else if (!strcmp(what, "thread")) {
    check_call(pthread_create(&thread, NULL, apart, (void *)(intptr_t)flags) == 0);
    while (!settled)
      subject_tick();
  } else {
    children[0] = start_vfork(!strcmp(what, "exec"), &vforked);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  for (int i = 0; i < 2; i++)
    if (children[i])
      check_call(kill(children[i], 0) == 0 && kill(children[i], SIGKILL) == 0);
  return subject_pass();
}

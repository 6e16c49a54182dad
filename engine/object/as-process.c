/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "as-process.h"
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNCHANGED ((uid_t)-1)

/* SO_PEERCRED tells the effective ids, SCM_CREDENTIALS the real ones. Of this process alone: the functions of the C library would change all threads of what they take for their process. */
static int become(const AsWho *who) {
  bool other_gid = who->gid != getegid(), other_uid = who->uid != geteuid();
  uid_t fsuid = geteuid();
  if (who->groups && syscall(SYS_setgroups, who->n_groups, who->groups) < 0)
    return -errno;
  if (other_gid && syscall(SYS_setresgid, who->gid, who->gid, UNCHANGED) < 0)
    return -errno;
  if (other_uid && syscall(SYS_setresuid, who->uid, who->uid, UNCHANGED) < 0)
    return -errno;
  if (other_uid)
    (void)syscall(SYS_setfsuid, fsuid);
  return 0;
}

/* clone3(2) as vfork does it: the child runs on this very stack, below this frame, until it ends. As an instruction, not a
 * call: the child's calls would write over the return address of one. */
static long clone_here(struct clone_args *args) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"((long)SYS_clone3), "D"(args), "S"(sizeof *args)
                   : "rcx", "r11", "memory");
  return result;
}

__attribute__((noinline)) static long run_child(
    const AsWho *who, struct clone_args *args, int (*work)(void *), void *data, volatile int *result) {
  long pid = clone_here(args);
  if (pid == 0) {
    int r = become(who);
    *result = r < 0 ? r : work(data);
    (void)syscall(SYS_exit, 0);
    __builtin_unreachable();
  }
  return pid;
}

int as_process(const AsWho *who, int (*work)(void *data), void *data, bool *ret_other) {
  volatile int result = -ECHILD;
  pid_t wanted = who->pid;
  struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES};
  args.set_tid = wanted > 0 ? (uint64_t)(uintptr_t)&wanted : 0;
  args.set_tid_size = wanted > 0;
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  long pid = run_child(who, &args, work, data, &result);
  bool other = pid < 0 && wanted > 0;
  if (other) {
    args.set_tid = args.set_tid_size = 0;
    pid = run_child(who, &args, work, data, &result);
  }
  while (pid > 0 && waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
    ;
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  if (ret_other && other)
    *ret_other = true;
  return pid < 0 ? (int)pid : result;
}

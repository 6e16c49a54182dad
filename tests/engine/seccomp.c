/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads and processes under seccomp, which die by any call that they do not expect. argv[2]:
 *   strict   a thread in strict mode
 *   filter   a thread that may read and nothing else
 *   chain    every task of a tree, with filters inherited, added, and different in each thread: they allow what this program
 *            does, and nothing that an agent would need to come or go
 *   dropped  filters installed with a capability that was given up since, without no_new_privs
 *   notify   a filter that asks a supervisor: refused */

#include "subject.h"
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LENGTH(a) (sizeof(a) / sizeof *(a))
#define LOAD_NR BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, (what))

static atomic_ulong beats;
static int feed[2];

static void install(struct sock_filter *code, size_t n, unsigned flags) {
  struct sock_fprog program = {(unsigned short)n, code};
  check_call(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

/* One call is answered so, all others are allowed. */
static void install_for(long nr, uint32_t what, unsigned flags) {
  struct sock_filter code[] = {LOAD_NR, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1), RETURN(what), RETURN(SECCOMP_RET_ALLOW)};
  install(code, LENGTH(code), flags);
}

static void no_new_privs(void) {
  check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

/* --- strict and filter: one thread beside an ordinary one --- */

static void confine_to_read(void) {
  struct sock_filter code[] = {
      LOAD_NR, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS), RETURN(SECCOMP_RET_ALLOW)};
  no_new_privs();
  install(code, LENGTH(code), 0);
}

static void *reader(void *strict) {
  char byte;
  if (strict)
    check_call(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
  else
    confine_to_read();
  while (syscall(SYS_read, feed[0], &byte, 1) == 1)
    atomic_fetch_add(&beats, 1);
  return NULL;
}

static void beat(void) {
  unsigned long before = atomic_load(&beats);
  check_call(write(feed[1], "x", 1) == 1);
  check(subject_await(atomic_load(&beats) != before) && atomic_load(&beats) == before + 1, "the confined thread is gone");
}

static int run_reader(bool strict) {
  pthread_t thread;
  check_call(pipe(feed) == 0);
  check(pthread_create(&thread, NULL, reader, strict ? &feed : NULL) == 0, "pthread_create");
  beat();
  subject_ready();
  while (!subject_checking())
    beat();
  beat();
  return subject_pass();
}

/* --- chain --- */

/* What this program calls from then on, and clone(2)'s companions are not among it: no futex, no mapping, no signal return
 * (but where signals are handled), no prctl. */
static void confine_to_own(bool signals) {
  static const uint16_t mine[] = {SYS_read, SYS_write, SYS_openat, SYS_close, SYS_access, SYS_faccessat, SYS_clock_nanosleep, SYS_nanosleep,
      SYS_restart_syscall, SYS_rename, SYS_exit_group, SYS_exit, SYS_kill, SYS_getpid, SYS_getppid, SYS_getpgid, SYS_getuid, SYS_sysinfo, SYS_wait4};
  struct sock_filter code[2 * LENGTH(mine) + 8];
  size_t n = 0;
  code[n++] = (struct sock_filter)LOAD_NR;
  for (size_t i = 0; i < LENGTH(mine); i++) {
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mine[i], 0, 1);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
  }
  if (signals) {
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 0, 1);
    code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
  }
  code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS);
  install(code, n, 0);
}

static _Thread_local volatile sig_atomic_t trapped;

/* The mask stays as it is, for the runner to compare at any moment. */
static void on_trap(int signo, siginfo_t *info, void *context) {
  trapped = info->si_syscall == SYS_getpgid ? info->si_errno : -1;
}

static int filters_of_self(void) {
  char status[4096]; /* no heap, which would need calls */
  int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
  ssize_t got = read(fd, status, sizeof status - 1);
  check_call(fd >= 0 && got > 0 && close(fd) == 0);
  status[got] = 0;
  const char *line = strstr(status, "Seccomp_filters:");
  return line ? atoi(line + strlen("Seccomp_filters:")) : -1;
}

/* The oldest filter of all: who am I is EPERM. Then one more for each generation. */
static void verify_filters(int id, int expected) {
  errno = 0;
  check(syscall(SYS_getppid) == -1 && errno == 77, "task %d: getppid gives %s", id, strerror(errno));
  check(syscall(SYS_getuid) == -1 && errno == 100 + id, "task %d: getuid gives %d", id, errno);
  trapped = 0;
  (void)syscall(SYS_getpgid, 0);
  check(trapped == 55, "task %d: getpgid is not trapped: %d", id, (int)trapped);
  int n = filters_of_self();
  check(n < 0 || n == expected, "task %d: %d filters, not %d", id, n, expected);
}

typedef struct Member {
  int id, expected;
} Member;

static void *confined_thread(void *data) {
  const Member *m = data;
  install_for(SYS_getuid, SECCOMP_RET_ERRNO | (uint32_t)(100 + m->id), 0);
  for (int i = 0; i < m->id; i++)
    install_for(SYS_sysinfo, SECCOMP_RET_ERRNO | (uint32_t)(200 + i), 0);
  confine_to_own(true);
  check_call(write(feed[1], "r", 1) == 1);
  while (!subject_checking() && !subject_failed()) {
    verify_filters(m->id, m->expected);
    subject_tick();
  }
  verify_filters(m->id, m->expected);
  /* the last one installed answers first among equals */
  check(m->id == 0 || (syscall(SYS_sysinfo, NULL) == -1 && errno == 200 + m->id - 1), "task %d: sysinfo gives %d", m->id, errno);
  check_call(write(feed[1], "d", 1) == 1);
  for (;;)
    subject_tick();
}

static void await(int n, char what) {
  char byte;
  for (int i = 0; i < n; i++)
    check(read(feed[0], &byte, 1) == 1 && byte == what, "a member says %c", byte);
}

/* A tree of three processes of two threads, each confined further than the one it came from. */
static int run_chain(void) {
  static Member members[] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 0}};
  enum { N = 3 };
  pid_t children[2] = {0};
  pthread_t thread;
  check_call(pipe(feed) == 0);
  check_call(sigaction(SIGSYS, &(struct sigaction){.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER}, NULL) == 0);
  no_new_privs();
  install_for(SYS_getppid, SECCOMP_RET_ERRNO | 77, 0);
  install_for(SYS_getpgid, SECCOMP_RET_TRAP | 55, 0);
  install_for(SYS_syslog, SECCOMP_RET_ERRNO | 1, SECCOMP_FILTER_FLAG_LOG);
  for (int i = 0; i < 2; i++) {
    children[i] = fork();
    check_call(children[i] >= 0);
    if (children[i] == 0) {
      install_for(SYS_getpgrp, SECCOMP_RET_ERRNO | 1, 0);
      Member *mine = &members[3 + i];
      mine->expected = 3 + 1 + 1 + mine->id + 1;
      (void)confined_thread(mine);
    }
  }
  for (int i = 0; i < N; i++) {
    members[i].expected = 3 + 1 + members[i].id + 1;
    if (i > 0)
      check(pthread_create(&thread, NULL, confined_thread, &members[i]) == 0, "pthread_create");
  }
  await(N - 1 + 2, 'r');
  install_for(SYS_getuid, SECCOMP_RET_ERRNO | 100, 0);
  confine_to_own(true);
  subject_ready();
  while (!subject_checking() && !subject_failed()) {
    verify_filters(0, members[0].expected);
    subject_tick();
  }
  verify_filters(0, members[0].expected);
  await(N - 1 + 2, 'd');
  for (int i = 0; i < 2; i++)
    check_call(kill(children[i], SIGKILL) == 0);
  return subject_pass();
}

/* --- dropped --- */

static int run_dropped(void) {
  install_for(SYS_getppid, SECCOMP_RET_ERRNO | 77, 0);
  install_for(SYS_seccomp, SECCOMP_RET_KILL_PROCESS, 0);
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {{0}};
  check_call(syscall(SYS_setresuid, 2000, 2000, 2000) == 0 && syscall(SYS_capset, &header, none) == 0);
  check_call(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(syscall(SYS_getppid) == -1 && errno == 77, "getppid gives %d", errno);
  check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "no_new_privs is set");
  int n = filters_of_self();
  check(n < 0 || n == 2, "%d filters", n);
  return subject_pass();
}

static int run_notify(void) {
  no_new_privs();
  install_for(SYS_getppid, SECCOMP_RET_USER_NOTIF, 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(syscall(SYS_getppid) == -1 && errno == ENOSYS, "getppid gives %d", errno);
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "chain";
  if (!strcmp(what, "strict") || !strcmp(what, "filter"))
    return run_reader(what[0] == 's');
  if (!strcmp(what, "dropped"))
    return run_dropped();
  return !strcmp(what, "notify") ? run_notify() : run_chain();
}

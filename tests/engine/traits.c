/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Small things that tasks say about themselves: "all" of them, each in a thread of its own where it is a thread's, what the
 * machine lacks left out; refused: "segments" (of its own), "dispatch" (of its own system calls), "keys" (in a keyring of its own). "deadline": a
 * thread that is scheduled so. */

#include "subject.h"
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ARCH_GET_CPUID_ 0x1011
#define ARCH_SET_CPUID_ 0x1012
#define N_SPECULATION 3
#define N_THREADS 6

typedef struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} SchedAttr;

typedef struct Traits {
  int mce, tsc, cpuid, speculation[N_SPECULATION];
  SchedAttr sched;
} Traits;

static atomic_int settled, verified;
static atomic_bool verify_now;

static Traits traits_get(void) {
  Traits t;
  memset(&t, 0, sizeof t);
  t.mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
  check_call(prctl(PR_GET_TSC, &t.tsc) == 0);
  t.cpuid = (int)syscall(SYS_arch_prctl, ARCH_GET_CPUID_, 0);
  for (int i = 0; i < N_SPECULATION; i++)
    t.speculation[i] = prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
  check_call(syscall(SYS_sched_getattr, 0, &t.sched, sizeof t.sched, 0) == 0);
  return t;
}

static void traits_compare(int id, const Traits *a, const Traits *b) {
  check(a->mce == b->mce, "thread %d: machine check policy was %d, is %d", id, a->mce, b->mce);
  check(a->tsc == b->tsc, "thread %d: PR_GET_TSC was %d, is %d", id, a->tsc, b->tsc);
  check(a->cpuid == b->cpuid, "thread %d: ARCH_GET_CPUID was %d, is %d", id, a->cpuid, b->cpuid);
  for (int i = 0; i < N_SPECULATION; i++)
    check(a->speculation[i] == b->speculation[i], "thread %d: speculation %d was %x, is %x", id, i, a->speculation[i], b->speculation[i]);
  check(!memcmp(&a->sched, &b->sched, sizeof a->sched), "thread %d: scheduling", id);
}

static void set(int id) {
  if (id == 0)
    check_call(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
  else if (id == 1)
    check_call(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0) == 0);
  else if (id == 2)
    check_call(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
  else if (id == 3)
    (void)syscall(SYS_arch_prctl, ARCH_SET_CPUID_, 0); /* not every processor can */
  else if (id == 4)
    (void)prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
  else
    (void)prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE, 0, 0);
}

static void *thread_main(void *data) {
  int id = (int)(intptr_t)data;
  set(id);
  const Traits before = traits_get();
  atomic_fetch_add(&settled, 1);
  while (!verify_now)
    subject_tick();
  const Traits now = traits_get();
  traits_compare(id, &before, &now);
  atomic_fetch_add(&verified, 1);
  return NULL;
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
  (void)close(fd);
}

static char *text_of(const char *path) {
  return access(path, R_OK) == 0 ? subject_read(path, NULL) : strdup("");
}

static int nice_of_autogroup(void) {
  char *text = text_of("/proc/self/autogroup"), *nice = strstr(text, " nice ");
  int n = nice ? atoi(nice + 6) : 0;
  free(text);
  return n;
}

/* A child in a session of its own, with another autogroup and login uid. */
static pid_t start_child(void) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid > 0)
    return pid;
  check_call(setsid() > 0);
  if (access("/proc/self/autogroup", W_OK) == 0)
    write_file("/proc/self/autogroup", "7");
  if (access("/proc/self/loginuid", W_OK) == 0)
    write_file("/proc/self/loginuid", "4343");
  int nice = nice_of_autogroup();
  char *loginuid = text_of("/proc/self/loginuid");
  atomic_fetch_add(&settled, 1);
  subject_say("child", "");
  while (!subject_checking())
    subject_tick();
  check(nice_of_autogroup() == nice, "niceness of the autogroup was %d, is %d", nice, nice_of_autogroup());
  char *now = text_of("/proc/self/loginuid");
  check(!strcmp(now, loginuid), "login uid was %s, is %s", loginuid, now);
  exit(0);
}

static int run_all(void) {
  pthread_t threads[N_THREADS];
  char path[4096];
  if (access("/proc/self/loginuid", W_OK) == 0)
    write_file("/proc/self/loginuid", "4242");
  pid_t child = start_child();
  for (intptr_t i = 0; i < N_THREADS; i++)
    check_call(pthread_create(&threads[i], NULL, thread_main, (void *)i) == 0);
  subject_path(path, sizeof path, "child");
  while (settled < N_THREADS || access(path, F_OK) < 0)
    subject_tick();
  char *loginuid = text_of("/proc/self/loginuid");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify_now = true;
  for (int i = 0; i < N_THREADS; i++)
    check_call(pthread_join(threads[i], NULL) == 0);
  char *now = text_of("/proc/self/loginuid");
  check(!strcmp(now, loginuid), "login uid was %s, is %s", loginuid, now);
  int status = 0;
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  return subject_pass();
}

static int run_deadline(void) {
  SchedAttr a = {.size = sizeof a, .policy = 6, .runtime = 2000000, .deadline = 20000000, .period = 100000000}, now;
  if (syscall(SYS_sched_setattr, 0, &a, 0) < 0)
    subject_skip("no SCHED_DEADLINE here");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_call(syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) == 0);
  check(now.policy == 6 && now.runtime == a.runtime && now.deadline == a.deadline && now.period == a.period, "policy %u, %lu of %lu in %lu",
      now.policy, (unsigned long)now.runtime, (unsigned long)now.deadline, (unsigned long)now.period);
  return subject_pass();
}

static volatile char selector; /* SYSCALL_DISPATCH_FILTER_ALLOW */
static volatile sig_atomic_t dispatched;

static void on_sigsys(int signo) {
  selector = 0;
  dispatched++;
}

/* Its next call is dispatched, and that is all there is to see of it. */
static void *dispatch(void *way) {
  if (prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector) < 0)
    subject_skip("the kernel has no user dispatch of system calls");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  selector = 1; /* SYSCALL_DISPATCH_FILTER_BLOCK */
  (void)syscall(SYS_getpid);
  check(dispatched == 1 && selector == 0, "its call was dispatched %d times", (int)dispatched);
  return way;
}

static int run_dispatch(bool in_thread) {
  pthread_t thread;
  check_call(signal(SIGSYS, on_sigsys) != SIG_ERR);
  if (in_thread)
    check_call(pthread_create(&thread, NULL, dispatch, NULL) == 0 && pthread_join(thread, NULL) == 0);
  else
    (void)dispatch(NULL);
  return subject_pass();
}

static int run_segments(void) {
  struct user_desc d = {.entry_number = 3, .base_addr = 0x1000, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
  unsigned char table[64], now[64];
  if (syscall(SYS_modify_ldt, 0x11, &d, sizeof d) < 0)
    subject_skip("the kernel has no modify_ldt(2)");
  check_call(syscall(SYS_modify_ldt, 0, table, sizeof table) > 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(syscall(SYS_modify_ldt, 0, now, sizeof now) > 0 && memcmp(table, now, sizeof now) == 0, "the segments differ");
  return subject_pass();
}

static int run_keys(void) {
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
    subject_skip("the kernel has no keys");
  check_call(syscall(SYS_add_key, "user", "checkpointd-test", "session", 7, KEY_SPEC_SESSION_KEYRING) > 0); /* no obstacle */
  long key = syscall(SYS_add_key, "user", "checkpointd-test", "secret", 6, KEY_SPEC_PROCESS_KEYRING);
  check_call(key > 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char text[8];
  check(syscall(SYS_keyctl, KEYCTL_READ, key, text, sizeof text) == 6, "the key is gone");
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "all";
  if (!strcmp(what, "segments"))
    return run_segments();
  return !strcmp(what, "deadline") ? run_deadline() : !strncmp(what, "dispatch", 8) ? run_dispatch(what[8] != '\0') : !strcmp(what, "keys") ? run_keys() : run_all();
}

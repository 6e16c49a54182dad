/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A hundred and more threads: most are alike, and some have each one thing of their own, of all the things that a thread can be asked
 * for. Every thread asks itself before and after. argv[2]: how many. */

#include "subject.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LAST_CAP 40
#define N_SPECULATION 3
#define IOPRIO_BEST_EFFORT_6 ((2 << 13) | 6)
#define RESET_ON_FORK 0x40000000

typedef struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} SchedAttr;

/* Everything is zero where it was not asked for. */
typedef struct Facts {
  char name[16];
  uid_t uids[3];
  gid_t gids[3], groups[8];
  int n_groups, bounding[LAST_CAP + 1], securebits, nnp, mce, speculation[N_SPECULATION], pdeath, priority, ioprio, seccomp, mode;
  struct __user_cap_data_struct caps[2];
  SchedAttr sched;
  unsigned char affinity[128];
  unsigned long nodes[16];
  long slack;
  stack_t sas;
  void *tid_address, *robust;
  size_t robust_size;
  sigset_t pending;
  char cwd[256];
} Facts;

#define N_THREADS 110

static bool filters;
static atomic_int settled, verified;
static atomic_bool verify_now;

static void ask(Facts *f) {
  memset(f, 0, sizeof *f);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  check_call(prctl(PR_GET_NAME, f->name) == 0);
  check_call(getresuid(&f->uids[0], &f->uids[1], &f->uids[2]) == 0);
  check_call(getresgid(&f->gids[0], &f->gids[1], &f->gids[2]) == 0);
  f->n_groups = (int)syscall(SYS_getgroups, 8, f->groups);
  check_call(syscall(SYS_capget, &header, f->caps) == 0);
  for (int cap = 0; cap <= LAST_CAP; cap++)
    f->bounding[cap] = prctl(PR_CAPBSET_READ, cap);
  f->securebits = prctl(PR_GET_SECUREBITS);
  f->nnp = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
  f->mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
  for (int i = 0; i < N_SPECULATION; i++)
    f->speculation[i] = prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
  check_call(prctl(PR_GET_PDEATHSIG, &f->pdeath) == 0);
  f->priority = (int)syscall(SYS_getpriority, PRIO_PROCESS, 0);
  f->ioprio = (int)syscall(SYS_ioprio_get, 1, 0);
  f->seccomp = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
  check_call(syscall(SYS_sched_getattr, 0, &f->sched, sizeof f->sched, 0) == 0);
  if (f->sched.policy != 6)
    f->sched.runtime = 0; /* the kernel's slice */
  check_call(syscall(SYS_sched_getaffinity, 0, sizeof f->affinity, f->affinity) > 0);
  (void)syscall(SYS_get_mempolicy, &f->mode, f->nodes, sizeof f->nodes * 8, 0, 0);
  f->slack = prctl(PR_GET_TIMERSLACK);
  check_call(sigaltstack(NULL, &f->sas) == 0);
  check_call(prctl(40 /* PR_GET_TID_ADDRESS */, &f->tid_address) == 0);
  check_call(syscall(SYS_get_robust_list, 0, &f->robust, &f->robust_size) == 0);
  check_call(sigpending(&f->pending) == 0);
  check_call(syscall(SYS_getcwd, f->cwd, sizeof f->cwd) > 0);
}

#define same(member) check(!memcmp(&a->member, &b->member, sizeof a->member), "thread %d: its " #member " have changed", id)

static void compare(int id, const Facts *a, const Facts *b) {
  same(name);
  same(uids);
  same(gids);
  same(n_groups);
  same(groups);
  same(bounding);
  same(securebits);
  same(nnp);
  same(mce);
  same(speculation);
  same(pdeath);
  same(priority);
  same(ioprio);
  same(seccomp);
  same(caps);
  same(sched);
  same(affinity);
  same(mode);
  same(nodes);
  same(slack);
  same(sas);
  same(tid_address);
  same(robust);
  same(pending);
  same(cwd);
}

static void set_policy(int policy, int nice) {
  SchedAttr a = {.size = sizeof a, .policy = (uint32_t)policy & ~(uint32_t)RESET_ON_FORK, .flags = policy & RESET_ON_FORK ? 1 : 0, .nice = nice};
  check_call(syscall(SYS_sched_setattr, 0, &a, 0) == 0);
}

/* Without the raw calls glibc would do it to all threads. */
static void drop_capability(int cap) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  check_call(syscall(SYS_capget, &header, data) == 0);
  data[0].effective &= ~(1u << cap);
  check_call(syscall(SYS_capset, &header, data) == 0);
}

static void filter_nothing(void) {
  struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog p = {1, allow};
  check_call(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p) == 0);
}

/* Where the machine lacks something, that thread is like the others. */
static void set(int id) {
  const gid_t groups[] = {7, 77};
  unsigned long node = 1;
  cpu_set_t first;
  stack_t stack = {.ss_sp = malloc(16384), .ss_size = 16384, .ss_flags = id % 2 ? (int)(1u << 31) : 0};
  char name[16];
  (void)snprintf(name, sizeof name, "crowd-%d", id);
  if (id % 3 == 0)
    check_call(prctl(PR_SET_NAME, name) == 0);
  if (id % 4 == 1)
    check_call(sigaltstack(&stack, NULL) == 0);
  if (id % 5 == 1)
    check_call(prctl(PR_SET_PDEATHSIG, SIGURG) == 0); /* who restores it, ends: it comes, and nothing happens */
  switch (id) {
  case 2:
    set_policy(SCHED_OTHER, 5);
    break;
  case 4:
    set_policy(SCHED_BATCH, 0);
    break;
  case 6:
    set_policy(SCHED_OTHER | RESET_ON_FORK, 0);
    break;
  case 8:
    set_policy(SCHED_IDLE, getpriority(PRIO_PROCESS, 0)); /* it keeps its niceness, whatever is said; but /proc would tell another one */
    break;
  case 10:
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    check_call(syscall(SYS_sched_setaffinity, 0, sizeof first, &first) == 0);
    break;
  case 12:
    check_call(prctl(PR_SET_TIMERSLACK, 123456) == 0);
    break;
  case 14:
    check_call(syscall(SYS_setgroups, 2, groups) == 0);
    break;
  case 16:
    check_call(syscall(SYS_setresgid, -1, 12, -1) == 0);
    break;
  case 18:
    drop_capability(CAP_NET_RAW);
    break;
  case 20:
    check_call(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0) == 0);
    break;
  case 22:
    check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    break;
  case 24:
    check_call(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
    break;
  case 26:
    (void)prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
    break;
  case 28:
    check_call(syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT_6) == 0);
    break;
  case 30:
    (void)syscall(SYS_set_mempolicy, MPOL_BIND, &node, sizeof node * 8);
    break;
  case 32:
    check_call(unshare(CLONE_FS) == 0 && chdir("/usr") == 0);
    break;
  case 34:
    check_call(pthread_kill(pthread_self(), SIGUSR2) == 0); /* blocked */
    break;
  case 36:
    if (filters)
      filter_nothing();
    break;
  case 38:
    check_call(prctl(PR_SET_SECUREBITS, 1 << 4 /* SECBIT_KEEP_CAPS */) == 0);
    break;
  default:
    break;
  }
}

#define MOTHER 40

static pid_t make_child(void) {
  pid_t child = fork();
  check_call(child >= 0);
  while (child == 0 && getppid() != 1)
    (void)usleep(20000);
  if (child == 0)
    _exit(1);
  return child;
}

static void end_child(pid_t child) {
  int status = 0;
  check(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status), "the child of a thread is not its process's");
}

static void *live(void *data) {
  int id = (int)(intptr_t)data;
  Facts before, after;
  set(id);
  pid_t child = id == MOTHER ? make_child() : 0;
  ask(&before);
  atomic_fetch_add(&settled, 1);
  while (!verify_now && !subject_failed())
    (void)usleep(50000 + (useconds_t)id * 1000);
  ask(&after);
  compare(id, &before, &after);
  if (child)
    end_child(child);
  atomic_fetch_add(&verified, 1);
  while (verified < N_THREADS && !subject_failed())
    (void)usleep(10000);
  return data;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  filters = argc > 2 && !strcmp(argv[2], "filter");
  pthread_t threads[N_THREADS];
  pthread_attr_t attr;
  sigset_t blocked;
  check_call(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 128 << 10) == 0);
  (void)sigemptyset(&blocked);
  (void)sigaddset(&blocked, SIGUSR2);
  check_call(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
  for (int i = 0; i < N_THREADS; i++)
    check_call(pthread_create(&threads[i], &attr, live, (void *)(intptr_t)i) == 0);
  check(subject_await(settled == N_THREADS), "%d of %d threads are there", settled, N_THREADS);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify_now = true;
  for (int i = 0; i < N_THREADS; i++)
    check_call(pthread_join(threads[i], NULL) == 0);
  check(verified == N_THREADS, "%d of %d threads have verified themselves", verified, N_THREADS);
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Everything that belongs to a task and is neither memory nor a file: names, directories, limits, scheduling, identity,
 * capabilities. argv[2] picks who the task is: root, user (another uid, with less), caps (odd sets), chroot, threads
 * (each one different). What is asked of the kernel before is asked again after. */

#include "subject.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define IOPRIO_BEST_EFFORT(n) (2 << 13 | (n))

/* --- what the kernel says of the calling thread --- */

typedef struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} SchedAttr;

typedef struct Facts {
  uid_t uid[3];
  gid_t gid[3];
  gid_t groups[32];
  int n_groups;
  struct __user_cap_data_struct caps[2];
  uint64_t bounding, ambient;
  int securebits, keepcaps, dumpable, no_new_privs, subreaper, pdeathsig, timer_slack, personality, nice, ioprio;
  SchedAttr sched;
  cpu_set_t cpus;
  char name[16];
} Facts;

static void facts_get(Facts *f) {
  memset(f, 0, sizeof *f);
  check_call(getresuid(&f->uid[0], &f->uid[1], &f->uid[2]) == 0 && getresgid(&f->gid[0], &f->gid[1], &f->gid[2]) == 0);
  f->n_groups = getgroups(32, f->groups);
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  check_call(syscall(SYS_capget, &header, f->caps) == 0);
  for (int cap = 0; cap <= CAP_LAST_CAP; cap++) {
    f->bounding |= (uint64_t)(prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1) << cap;
    f->ambient |= (uint64_t)(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1) << cap;
  }
  f->securebits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
  f->keepcaps = prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0);
  f->dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
  f->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
  check_call(prctl(PR_GET_CHILD_SUBREAPER, &f->subreaper) == 0 && prctl(PR_GET_PDEATHSIG, &f->pdeathsig) == 0);
  f->timer_slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
  f->personality = personality(0xffffffff);
  f->nice = getpriority(PRIO_PROCESS, 0);
  f->ioprio = (int)syscall(SYS_ioprio_get, 1, 0);
  check_call(syscall(SYS_sched_getattr, 0, &f->sched, sizeof f->sched, 0) == 0);
  check_call(sched_getaffinity(0, sizeof f->cpus, &f->cpus) == 0);
  check_call(prctl(PR_GET_NAME, f->name) == 0);
}

#define SAME(field, format, cast)                                                                                      \
  check(!memcmp(&a->field, &b->field, sizeof a->field), "%s: " #field " was " format ", is " format, who,              \
      (cast)a->field, (cast)b->field)

static void facts_compare(const char *who, const Facts *a, const Facts *b) {
  for (int i = 0; i < 3; i++) {
    SAME(uid[i], "%u", unsigned);
    SAME(gid[i], "%u", unsigned);
  }
  check(a->n_groups == b->n_groups && !memcmp(a->groups, b->groups, sizeof a->groups), "%s: groups", who);
  for (int i = 0; i < 2; i++) {
    SAME(caps[i].effective, "%x", unsigned);
    SAME(caps[i].permitted, "%x", unsigned);
    SAME(caps[i].inheritable, "%x", unsigned);
  }
  SAME(bounding, "%lx", unsigned long);
  SAME(ambient, "%lx", unsigned long);
  SAME(securebits, "%x", unsigned);
  SAME(keepcaps, "%d", int);
  SAME(dumpable, "%d", int);
  SAME(no_new_privs, "%d", int);
  SAME(subreaper, "%d", int);
  SAME(pdeathsig, "%d", int);
  SAME(timer_slack, "%d", int);
  SAME(personality, "%x", unsigned);
  SAME(nice, "%d", int);
  SAME(ioprio, "%x", unsigned);
  SAME(sched.policy, "%u", unsigned);
  SAME(sched.flags, "%lx", unsigned long);
  SAME(sched.priority, "%u", unsigned);
  check(!memcmp(&a->sched, &b->sched, sizeof a->sched), "%s: scheduling attributes", who);
  check(CPU_EQUAL(&a->cpus, &b->cpus), "%s: CPU affinity", who);
  check(!strcmp(a->name, b->name), "%s: name was %s, is %s", who, a->name, b->name);
}

/* --- what it says of the process --- */

static const char *const proc_files[] = {"cmdline", "environ", "auxv", "limits", "oom_score_adj", "personality",
    "coredump_filter", "comm", "timerslack_ns", "loginuid"};
enum { N_FILES = sizeof proc_files / sizeof proc_files[0] };

typedef struct Process {
  char *text[N_FILES];
  size_t size[N_FILES];
  char exe[4096], cwd[4096], root[4096];
  unsigned long layout[9]; /* startcode, endcode, startstack, start_data … env_end */
  mode_t mask;
} Process;

static void read_link(const char *path, char *target) {
  ssize_t n = readlink(path, target, 4095);
  target[n > 0 ? n : 0] = 0;
}

static mode_t mask_get(void) {
  mode_t mask = umask(0);
  (void)umask(mask);
  return mask;
}

static void process_get(Process *p) {
  char path[64];
  memset(p, 0, sizeof *p);
  p->mask = mask_get();
  for (int i = 0; i < N_FILES; i++) {
    (void)snprintf(path, sizeof path, "/proc/self/%s", proc_files[i]);
    if (access(path, R_OK) == 0)
      p->text[i] = subject_read(path, &p->size[i]);
  }
  read_link("/proc/self/exe", p->exe);
  read_link("/proc/self/cwd", p->cwd);
  read_link("/proc/self/root", p->root);
  if (access("/proc/self/stat", R_OK) < 0)
    return; /* a changed root without /proc */
  char *stat = subject_read("/proc/self/stat", NULL), *at = strrchr(stat, ')') + 2;
  static const int fields[] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51};
  for (int n = 3, found = 0; found < 9; n++, at = strchr(at, ' ') + 1)
    if (n == fields[found])
      p->layout[found++] = strtoul(at, NULL, 10);
  free(stat);
}

static void process_compare(const Process *a, const Process *b) {
  for (int i = 0; i < N_FILES; i++)
    check(a->size[i] == b->size[i] && (!a->size[i] || !memcmp(a->text[i], b->text[i], a->size[i])),
        "/proc/self/%s was %.300s, is %.300s", proc_files[i], a->text[i], b->text[i]);
  check(!strcmp(a->exe, b->exe), "exe was %s, is %s", a->exe, b->exe);
  check(!strcmp(a->cwd, b->cwd) && !strcmp(a->root, b->root), "directories were %s and %s, are %s and %s", a->cwd,
      a->root, b->cwd, b->root);
  for (int i = 0; i < 9; i++)
    check(a->layout[i] == b->layout[i], "field %d of the memory layout was %lx, is %lx", i, a->layout[i], b->layout[i]);
  check(a->mask == b->mask, "umask was %o, is %o", a->mask, b->mask);
}

/* --- setting it up --- */

static void write_self(const char *file, const char *text) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/%s", file);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path, strerror(errno));
  (void)close(fd);
}

static void limit(int which, rlim_t soft, rlim_t hard) {
  struct rlimit old, limits = {soft, hard};
  check_call(getrlimit(which, &old) == 0);
  if (limits.rlim_max > old.rlim_max)
    limits.rlim_max = old.rlim_max;
  if (limits.rlim_cur > limits.rlim_max)
    limits.rlim_cur = limits.rlim_max;
  check(setrlimit(which, &limits) == 0, "rlimit %d: %s", which, strerror(errno));
}

static void set_process(void) {
  char directory[4200];
  (void)snprintf(directory, sizeof directory, "%s.dir ünïcode", subject_base);
  check_call(mkdir(directory, 0755) == 0 && chdir(directory) == 0);
  (void)umask(0117);
  write_self("oom_score_adj", "123");
  write_self("coredump_filter", "0x5");
  limit(RLIMIT_NOFILE, 321, 654);
  limit(RLIMIT_CORE, 4096, 8192);
  limit(RLIMIT_STACK, 7 << 20, 9 << 20);
  limit(RLIMIT_NPROC, 5000, 6000);
  limit(RLIMIT_CPU, 5000, RLIM_INFINITY);
  limit(RLIMIT_AS, (rlim_t)1 << 40, (rlim_t)1 << 41);
  limit(RLIMIT_SIGPENDING, 777, 888);
  limit(RLIMIT_MSGQUEUE, 11111, 22222);
  limit(RLIMIT_MEMLOCK, 64 << 10, 65 << 10);
  check_call(personality(ADDR_NO_RANDOMIZE) >= 0);
  check_call(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && prctl(PR_SET_TIMERSLACK, 123456) == 0);
  check_call(setpriority(PRIO_PROCESS, 0, 7) == 0 && syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT(6)) == 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  check_call(sched_setaffinity(0, sizeof one, &one) == 0);
  struct sched_param batch = {0};
  check_call(sched_setscheduler(0, SCHED_BATCH, &batch) == 0 && prctl(PR_SET_NAME, "at) R 1 (\\n") == 0);
}

static void set_caps(uint64_t permitted, uint64_t effective, uint64_t inheritable) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++) {
    data[i].permitted = (uint32_t)(permitted >> 32 * i);
    data[i].effective = (uint32_t)(effective >> 32 * i);
    data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
  }
  check_call(syscall(SYS_capset, &header, data) == 0);
}

#define CAP(x) (1ULL << (x))

/* Five sets that differ from each other, under securebits of its own. */
static void become_caps(void) {
  check_call(prctl(PR_CAPBSET_DROP, CAP_MAC_ADMIN, 0, 0, 0) == 0 && prctl(PR_CAPBSET_DROP, CAP_SYSLOG, 0, 0, 0) == 0);
  check_call(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED,
                 0, 0, 0) == 0);
  const gid_t groups[] = {7, 1234, 65534};
  check_call(setgroups(3, groups) == 0 && setresgid(11, 12, 13) == 0 && setresuid(1001, 1002, 1003) == 0);
  uint64_t permitted =
      CAP(CAP_CHOWN) | CAP(CAP_NET_RAW) | CAP(CAP_KILL) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_CHECKPOINT_RESTORE);
  set_caps(permitted, CAP(CAP_DAC_OVERRIDE) | CAP(CAP_KILL), CAP(CAP_CHOWN) | CAP(CAP_NET_RAW));
  check_call(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0) == 0);
  check_call(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
}

static void become_user(void) {
  const gid_t groups[] = {2000, 2001};
  check_call(setgroups(2, groups) == 0 && setresgid(2000, 2000, 2000) == 0 && setresuid(2000, 2000, 2000) == 0);
  check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
}

static void become_root(void) {
  check_call(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
}

/* The new root is the directory of BASE, which has another name from now on. */
static void become_chroot(void) {
  char *slash = strrchr(subject_base, '/');
  char name[256];
  (void)snprintf(name, sizeof name, "%s", slash);
  *slash = 0;
  check_call(chroot(subject_base) == 0 && (mkdir("/inside", 0700) == 0 || errno == EEXIST) && chdir("/inside") == 0);
  (void)snprintf(subject_base, sizeof subject_base, "%s", name);
}

/* --- threads that differ --- */

enum { N_THREADS = 9 };
static volatile int settled, known;
static volatile bool verify_now;

static void *live(void *data) {
  int number = (int)(intptr_t)data;
  Facts before, now;
  char who[32];
  (void)snprintf(who, sizeof who, "thread %d", number);
  check_call(setpriority(PRIO_PROCESS, 0, 8 + number) == 0 && prctl(PR_SET_NAME, who) == 0);
  check_call(syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT(number % 8)) == 0);
  check_call(prctl(PR_SET_TIMERSLACK, 60000 + number) == 0);
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(number % 2 ? (int)sysconf(_SC_NPROCESSORS_ONLN) - 1 : 0, &cpus);
  check_call(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
  struct sched_param param = {.sched_priority = number % 3 == 1 ? number + 1 : 0};
  static const int policies[] = {SCHED_OTHER, SCHED_FIFO, SCHED_IDLE};
  int policy = number == 4 ? SCHED_RR : policies[number % 3];
  check_call(sched_setscheduler(0, policy | (number == 7 ? SCHED_RESET_ON_FORK : 0), &param) == 0);
  if (number % 2)
    check_call(syscall(SYS_setresgid, 500 + number, 600 + number, 700 + number) == 0);
  if (number % 4 == 3)
    check_call(syscall(SYS_setresuid, 500 + number, 0, 700 + number) == 0);
  if (number == 6)
    check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  /* What one does may change what all see (dumpable). */
  __atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
  while (settled < N_THREADS)
    subject_tick();
  facts_get(&before);
  __atomic_add_fetch(&known, 1, __ATOMIC_SEQ_CST);
  while (!verify_now)
    subject_tick();
  facts_get(&now);
  facts_compare(who, &before, &now);
  return NULL;
}

int main(int argc, char **argv) {
  static Facts before, now;
  static Process process_before, process_now;
  pthread_t threads[N_THREADS];
  subject_begin(argc, argv);
  const char *who = argc > 2 ? argv[2] : "root";
  int n_threads = !strcmp(who, "threads") ? N_THREADS : 0;
  set_process();
  for (int i = 0; i < n_threads; i++)
    check_call(pthread_create(&threads[i], NULL, live, (void *)(intptr_t)i) == 0);
  while (known < n_threads && !subject_failed())
    subject_tick();
  if (!strcmp(who, "user"))
    become_user();
  else if (!strcmp(who, "caps"))
    become_caps();
  else if (!strcmp(who, "root"))
    become_root();
  check_call(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
  if (strcmp(who, "root") != 0) /* it would be the end of the restored one, whose first parent the engine must not be */
    (void)signal(SIGUSR1, SIG_IGN);
  if (!strcmp(who, "chroot"))
    become_chroot();
  facts_get(&before);
  process_get(&process_before);
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  facts_get(&now);
  facts_compare(who, &before, &now);
  process_get(&process_now);
  process_compare(&process_before, &process_now);
  verify_now = true;
  for (int i = 0; i < n_threads; i++)
    check_call(pthread_join(threads[i], NULL) == 0);
  return subject_pass();
}

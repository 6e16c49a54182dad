/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What only a 32-bit program has: entries of its own in the GDT, frames and actions of signals of its kind, a list of robust
 * futexes, sleeps with times of 32 bits, a personality. compat BASE [mixed PROGRAM]: with the child PROGRAM, of the other
 * kind. Built for 64 bits it is the other half of such a tree; compat BASE code: it runs 32-bit code itself, which is refused. */

#include "pauses.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifdef __i386__
#include <asm/ldt.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/personality.h>
#include <sys/utsname.h>
#include <ucontext.h>

#define SLEEP_NSEC 1500000000ULL
#define SLACK_NSEC 1200000000ULL

/* --- entries of the GDT --- */

static int areas[2][1024];
static volatile bool leave;
static _Atomic int n_begun; /* threads */

static unsigned own_segment(int *area, int mark) {
  struct user_desc d = {.entry_number = (unsigned)-1, .base_addr = (unsigned)area, .limit = sizeof areas[0] - 1, .seg_32bit = 1, .useable = 1};
  check_call(syscall(SYS_set_thread_area, &d) == 0);
  area[5] = mark;
  __asm__ volatile("mov %w0, %%fs" : : "r"(d.entry_number * 8 + 3));
  return d.entry_number;
}

static void verify_segment(unsigned entry, const int *area, int mark) {
  struct user_desc d = {.entry_number = entry};
  int value;
  __asm__ volatile("mov %%fs:20, %0" : "=r"(value));
  check(value == mark, "the segment has %d at 20, not %d", value, mark);
  check_call(syscall(SYS_get_thread_area, &d) == 0);
  check(d.base_addr == (unsigned)area && d.limit == sizeof areas[0] - 1 && d.useable && d.seg_32bit && !d.limit_in_pages,
      "entry %u is another one: %x, %x", entry, d.base_addr, d.limit);
}

static void *stay_in_segment(void *unused) {
  unsigned entry = own_segment(areas[1], 2222);
  n_begun++;
  while (!leave) {
    verify_segment(entry, areas[1], 2222);
    subject_tick();
  }
  return unused;
}

/* --- robust futexes --- */

static pthread_mutex_t robust;

static void *hold_robust(void *unused) {
  check_call(pthread_mutex_lock(&robust) == 0);
  n_begun++;
  while (!leave)
    subject_tick();
  return unused;
}

static pthread_t make_robust(void) {
  pthread_mutexattr_t attributes;
  pthread_t holder;
  check_call(pthread_mutexattr_init(&attributes) == 0 && pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
  check_call(pthread_mutex_init(&robust, &attributes) == 0 && pthread_create(&holder, NULL, hold_robust, NULL) == 0);
  return holder;
}

/* --- signals --- */

static volatile sig_atomic_t inside, taken;
static char stack[65536];

static void on_usr1(int signo, siginfo_t *info, void *context) {
  const ucontext_t *uc = context;
  const char *here = (const char *)&uc;
  bool framed = signo == SIGUSR1 && info->si_signo == SIGUSR1 && info->si_pid == getpid() && here > stack && here < stack + sizeof stack &&
                uc->uc_mcontext.gregs[REG_CS] == 0x23 && uc->uc_mcontext.fpregs;
  taken += framed ? 1 : 1000;
}

static void on_usr2(int signo) {
  (void)signo;
  inside = 1;
  n_begun++;
  while (!leave)
    subject_tick();
  inside = 2;
}

static void *stay_in_handler(void *data) {
  volatile double number = 0.25;
  check_call(raise(SIGUSR2) == 0);
  check(inside == 2 && number * 4 == 1, "the handler was left before its end");
  return data;
}

static void make_signals(void) {
  const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction one = {.sa_flags = SA_SIGINFO | SA_ONSTACK}, two = {.sa_handler = on_usr2};
  one.sa_sigaction = on_usr1;
  check_call(sigaltstack(&other, NULL) == 0 && sigaction(SIGUSR1, &one, NULL) == 0 && sigaction(SIGUSR2, &two, NULL) == 0);
}

/* --- sleeps with times of 32 bits --- */

struct time32 {
  int sec, nsec;
};

static const struct time32 duration = {SLEEP_NSEC / 1000000000, SLEEP_NSEC % 1000000000};

static long sleep_nanosleep(void) {
  struct time32 left = {0, 0};
  return syscall(SYS_nanosleep, &duration, &left);
}

static long sleep_clock(void) {
  return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &duration, NULL);
}

static long sleep_futex(void) {
  int word = 0;
  long r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &duration, NULL, 0);
  return r < 0 && errno == ETIMEDOUT ? 0 : -1;
}

static long sleep_poll(void) {
  return poll(NULL, 0, (int)(SLEEP_NSEC / 1000000));
}

static const struct Sleep {
  const char *name;
  long (*begin)(void);
} sleeps[] = {{"nanosleep", sleep_nanosleep}, {"clock_nanosleep", sleep_clock}, {"futex", sleep_futex}, {"poll", sleep_poll}};
enum { N_SLEEPS = sizeof sleeps / sizeof *sleeps };

static void *run_sleep(void *data) {
  const struct Sleep *s = data;
  n_begun++;
  uint64_t began = subject_nsec(CLOCK_MONOTONIC);
  long r = s->begin();
  uint64_t took = subject_nsec(CLOCK_MONOTONIC) - began;
  check(r == 0, "%s: %ld, %s", s->name, r, strerror(errno));
  check(took >= SLEEP_NSEC - 1000000 && took < SLEEP_NSEC + SLACK_NSEC + pauses_until_now(), "%s lasted %u ms", s->name, (unsigned)(took / 1000000));
  return data;
}

/* --- memory --- */

static void verify_memory(void) {
  char *end = sbrk(0);
  check(sbrk(1 << 16) == end, "the heap does not grow");
  memset(end, 7, 1 << 16);
  for (int i = 0; i < 64; i++) {
    char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check_call(p != MAP_FAILED);
    p[i] = 1;
  }
}

static void verify_calls(const char *machine, const char *auxv, size_t size) {
  struct utsname now;
  pid_t pid;
  size_t now_size;
  __asm__ volatile("int $0x80" : "=a"(pid) : "a"(SYS_getpid));
  check(pid == getpid(), "int $0x80 gives %d", pid);
  check_call(uname(&now) == 0);
  check(strcmp(now.machine, machine) == 0, "the machine is a %s now", now.machine);
  char *there = subject_read("/proc/self/auxv", &now_size);
  check(now_size == size && memcmp(there, auxv, size) == 0, "the auxiliary vector is another one");
  free(there);
  for (int i = 0; i < 2; i++) {
    pid_t child = fork();
    int status = 0;
    if (child == 0)
      i ? execl("/bin/true", "true", (char *)NULL) : _exit(3);
    check(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == (i ? 0 : 3), "a child ended with %x", status);
  }
}

static void run_own(void) {
  struct utsname before;
  pthread_t segment, handler, holder = make_robust(), sleeper[N_SLEEPS], pauses = pauses_begin();
  size_t size;
  check_call(personality(PER_LINUX32) >= 0 && uname(&before) == 0);
  check(strcmp(before.machine, "i686") == 0, "the machine is a %s", before.machine);
  char *auxv = subject_read("/proc/self/auxv", &size);
  unsigned entry = own_segment(areas[0], 1111);
  make_signals();
  check_call(pthread_create(&segment, NULL, stay_in_segment, NULL) == 0 && pthread_create(&handler, NULL, stay_in_handler, NULL) == 0);
  for (int i = 0; i < N_SLEEPS; i++)
    check_call(pthread_create(&sleeper[i], NULL, run_sleep, (void *)&sleeps[i]) == 0);
  while (n_begun < 3 + N_SLEEPS)
    subject_tick();
  subject_ready();
  while (!subject_checking() && !subject_failed()) {
    verify_segment(entry, areas[0], 1111);
    subject_tick();
  }
  verify_segment(entry, areas[0], 1111);
  for (int i = 0; i < 3; i++)
    check_call(raise(SIGUSR1) == 0 || kill(getpid(), SIGUSR1) == 0);
  check(taken == 3, "the handler was called otherwise: %d", (int)taken);
  leave = true;
  check_call(pthread_join(segment, NULL) == 0 && pthread_join(handler, NULL) == 0 && pthread_join(holder, NULL) == 0);
  int e = pthread_mutex_lock(&robust);
  check(e == EOWNERDEAD, "nobody tells that the lock's owner is dead: %s", strerror(e));
  for (int i = 0; i < N_SLEEPS; i++)
    check_call(pthread_join(sleeper[i], NULL) == 0);
  pauses_end(pauses);
  verify_memory();
  verify_calls(before.machine, auxv, size);
  free(auxv);
}

static void run_code(void) {
  subject_fail("all of it is 32-bit code");
}
#else

/* In low memory, by a far return: *runs = 1, pause until *flag, then a far jump back to a `ret`. */
static void *run_low(void *memory) {
  unsigned char *code = memory;
  uint32_t flag = (uint32_t)(uintptr_t)(code + 64), back = (uint32_t)(uintptr_t)(code + 32), runs = flag + 4;
  static const unsigned char loop[] = {0xc6, 0x05, 0, 0, 0, 0, 1, 0xf3, 0x90, 0x83, 0x3d, 0, 0, 0, 0, 0, 0x74, 0xf5, 0xea, 0, 0, 0, 0, 0x33, 0};
  memcpy(code, loop, sizeof loop);
  memcpy(code + 2, &runs, sizeof runs);
  memcpy(code + 11, &flag, sizeof flag);
  memcpy(code + 19, &back, sizeof back);
  code[32] = 0xc3;
  __asm__ volatile("mov $0x2b, %%eax\n\tmov %%eax, %%ds\n\tsub $128, %%rsp\n\tlea 1f(%%rip), %%rax\n\tpush %%rax\n\tpush $0x23\n\tpush %0\n\tlretq\n1:\tadd $128, %%rsp" : : "r"((uint64_t)(uintptr_t)code) : "rax", "memory");
  return memory;
}

static void run_own(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

static void run_code(void) {
  char *low = mmap(NULL, 1 << 18, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  pthread_attr_t attributes;
  pthread_t thread;
  check_call(low != MAP_FAILED && pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, low + 4096, (1 << 18) - 4096) == 0);
  check_call(pthread_create(&thread, &attributes, run_low, low) == 0);
  check(subject_await(*(volatile char *)(low + 68)), "the code does not run");
  run_own();
  *(volatile int *)(low + 64) = 1;
  check_call(pthread_join(thread, NULL) == 0);
}
#endif

/* --- a child of the other kind --- */

static void touch(const char *path) {
  int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  check_call(fd >= 0 && close(fd) == 0);
}

static void run_mixed(const char *program) {
  char base[4000], ready[4096], ending[4096];
  int status = 0;
  subject_path(base, sizeof base, "other");
  (void)snprintf(ready, sizeof ready, "%s.ready", base);
  (void)snprintf(ending, sizeof ending, "%s.check", base);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    execl(program, program, base, (char *)NULL);
    _exit(9);
  }
  while (access(ready, F_OK) < 0 && waitpid(child, &status, WNOHANG) == 0)
    subject_tick();
  check(status == 0, "the child ended with %x", status);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  touch(ending);
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  if (argc > 3 && strcmp(argv[2], "mixed") == 0)
    run_mixed(argv[3]);
  else if (argc > 2 && strcmp(argv[2], "code") == 0)
    run_code();
  else
    run_own();
  return subject_pass();
}

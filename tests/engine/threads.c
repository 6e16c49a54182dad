/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Many threads, each with a name, a signal mask, an alternate stack and thread-local data of its own; a robust mutex
 * whose owner dies afterwards, an ordinary mutex and a condition in use; all of them are joined at the end, which needs
 * clear_child_tid; rseq must go on being registered. argv[2]: how many. */

#include "subject.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#define STACK_BYTES (64 * 1024)

static int n_threads = 120;
static volatile bool ending;
static volatile int settled;
static volatile int hits;
static pthread_mutex_t robust, plain = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ring = PTHREAD_COND_INITIALIZER;
static __thread uint64_t mark[512];

typedef struct Self {
  pthread_t thread;
  int number;
  pid_t tid;
  sigset_t mask;
  stack_t stack;
  char name[16];
  volatile unsigned long beats;
} Self;

static Self *selves;
static pthread_key_t key;

static void on_signal(int signo, siginfo_t *info, void *context) {
  const Self *self = pthread_getspecific(key);
  char here;
  if (&here < (char *)self->stack.ss_sp || &here >= (char *)self->stack.ss_sp + self->stack.ss_size)
    subject_fail("thread %d: the handler does not run on its alternate stack", self->number);
  __atomic_add_fetch(&hits, 1, __ATOMIC_SEQ_CST);
}

static void set_up(Self *self) {
  self->tid = (pid_t)syscall(SYS_gettid);
  (void)snprintf(self->name, sizeof self->name, "t%d ) x", self->number);
  check_call(prctl(PR_SET_NAME, self->name) == 0);
  (void)sigemptyset(&self->mask);
  (void)sigaddset(&self->mask, SIGRTMIN + self->number % 20);
  (void)sigaddset(&self->mask, self->number % 2 ? SIGUSR2 : SIGHUP);
  check_call(pthread_sigmask(SIG_SETMASK, &self->mask, NULL) == 0);
  self->stack = (stack_t){.ss_sp = malloc(16384), .ss_size = 16384};
  check_call(sigaltstack(&self->stack, NULL) == 0);
  check_call(pthread_setspecific(key, self) == 0);
  for (size_t i = 0; i < 512; i++)
    mark[i] = (uint64_t)self->number << 32 | i;
}

static void verify(const Self *self) {
  char name[16];
  stack_t stack;
  sigset_t mask;
  check(syscall(SYS_gettid) == self->tid, "thread %d has another tid", self->number);
  check(pthread_getspecific(key) == self, "thread %d: its specific data is another's", self->number);
  for (size_t i = 0; i < 512; i++)
    check(mark[i] == ((uint64_t)self->number << 32 | i), "thread %d: its TLS has changed", self->number);
  check(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, self->name), "thread %d is called %s", self->number, name);
  check(sigaltstack(NULL, &stack) == 0 && stack.ss_sp == self->stack.ss_sp && stack.ss_size == self->stack.ss_size &&
            stack.ss_flags == 0,
      "thread %d: alternate stack %p, %zu, %x", self->number, stack.ss_sp, stack.ss_size, stack.ss_flags);
  check(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0 && !memcmp(&mask, &self->mask, 8), "thread %d: signal mask",
      self->number);
  /* What the kernel keeps current in the registered area, and nobody else. */
  const volatile struct rseq *area = (const volatile struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
  if (__rseq_size) {
    int cpu = -1, now = -2;
    for (int tries = 0; tries < 1000 && now != cpu; tries++) { /* it may be moved at any time */
      cpu = (int)area->cpu_id;
      now = sched_getcpu();
      check(cpu >= 0, "thread %d: no rseq, cpu_id %d", self->number, cpu);
    }
    check(now == cpu, "thread %d: rseq says cpu %d, it is %d", self->number, cpu, now);
  }
}

static void *live(void *data) {
  Self *self = data;
  set_up(self);
  __atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
  while (!ending) {
    verify(self);
    check_call(pthread_mutex_lock(&plain) == 0);
    self->beats++;
    check_call(pthread_mutex_unlock(&plain) == 0);
    (void)usleep(20000 + (useconds_t)self->number * 100);
  }
  return self;
}

static void *wait_for_ring(void *data) {
  check_call(pthread_mutex_lock(&plain) == 0);
  while (!ending)
    check_call(pthread_cond_wait(&ring, &plain) == 0);
  check_call(pthread_mutex_unlock(&plain) == 0);
  return data;
}

/* Dies with the mutex held: the kernel tells the next one, by the list that was registered. */
static void *hold_robust(void *data) {
  check_call(pthread_mutex_lock(&robust) == 0);
  __atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
  while (!ending)
    (void)usleep(10000);
#ifdef __GLIBC__
  syscall(SYS_exit, 0);
#endif
  return data; /* other libraries would not hear of that end: they tell the next one themselves */
}

static void start(pthread_t *thread, void *(*run)(void *), void *data) {
  pthread_attr_t attr;
  check_call(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, STACK_BYTES) == 0);
  int err = pthread_create(thread, &attr, run, data);
  check(err == 0, "pthread_create: %s", strerror(err));
  (void)pthread_attr_destroy(&attr);
}

static void check_signals(void) {
  int sent = 0;
  for (int i = 0; i < n_threads; i += 7, sent++)
    check_call(pthread_kill(selves[i].thread, SIGUSR1) == 0);
  check(subject_await(hits >= sent) && hits == sent, "%d of %d signals arrived", hits, sent);
}

static void check_beats(void) {
  unsigned long *then = calloc((size_t)n_threads, sizeof *then);
  for (int i = 0; i < n_threads; i++)
    then[i] = selves[i].beats;
  for (int i = 0; i < n_threads; i++)
    for (int tries = 0; selves[i].beats == then[i]; tries++) {
      check(tries < SUBJECT_PATIENCE, "thread %d stands still", i);
      subject_tick();
    }
  free(then);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  n_threads = argc > 2 ? atoi(argv[2]) : n_threads;
  selves = calloc((size_t)n_threads, sizeof *selves);
  pthread_mutexattr_t attr;
  check_call(pthread_mutexattr_init(&attr) == 0 && pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
  check_call(pthread_mutex_init(&robust, &attr) == 0 && pthread_key_create(&key, NULL) == 0);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
  check_call(sigaction(SIGUSR1, &action, NULL) == 0);

  pthread_t waiter, holder;
  start(&holder, hold_robust, NULL);
  start(&waiter, wait_for_ring, &n_threads);
  for (int i = 0; i < n_threads; i++) {
    selves[i].number = i;
    start(&selves[i].thread, live, &selves[i]);
  }
  while (settled < n_threads + 1)
    subject_tick();
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();

  check_beats();
  check_signals();
  check(pthread_mutex_trylock(&robust) == EBUSY, "the robust mutex is free though its holder lives");
  ending = true;
  int err = pthread_mutex_lock(&robust);
  check(err == EOWNERDEAD, "the robust mutex of a dead thread says %s", strerror(err));
  check_call(
      pthread_mutex_lock(&plain) == 0 && pthread_cond_broadcast(&ring) == 0 && pthread_mutex_unlock(&plain) == 0);
  void *result;
  check(pthread_join(waiter, &result) == 0 && result == &n_threads, "the waiter returned %p", result);
  for (int i = 0; i < n_threads; i++)
    check(pthread_join(selves[i].thread, &result) == 0 && result == &selves[i], "thread %d returned %p", i, result);
  return subject_pass();
}

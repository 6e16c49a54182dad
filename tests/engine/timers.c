/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Interval timers and POSIX timers: ids with gaps, every way of notification, intervals, what remains of long ones,
 * disarmed ones; those that fire go on firing at their rate and with their value, and count overruns. */

#include "subject.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define LONG_NSEC 900000000000ULL
#define BEAT_NSEC 20000000U
#define REAL_NSEC 30000000U
#define MANY 24

static volatile int beats_process, beats_thread, beats_real, beats_prof, beats_slow_clock;
static volatile int wrong;
static timer_t beat, beat_thread, overrun, fine_cpu, absolute, wake;
static timer_t many[MANY], silent;
static volatile pid_t thread_tid;
static volatile bool ending;
static uint64_t set_at;

static void on_beat(int signo, siginfo_t *info, void *context) {
  if (info->si_code != SI_TIMER || info->si_value.sival_ptr != (void *)0xfedcba987654UL)
    wrong = 1;
  beats_process += 1 + info->si_overrun;
}

static void on_thread_beat(int signo, siginfo_t *info, void *context) {
  if (syscall(SYS_gettid) != thread_tid || info->si_value.sival_int != 321)
    wrong = 2;
  beats_thread += 1 + info->si_overrun;
}

static void on_real(int signo) {
  beats_real++;
}

static void on_prof(int signo) {
  beats_prof++;
}

static void on_cpu(int signo) {
  beats_slow_clock++;
}

static void handle(int signo, void (*simple)(int), void (*with_info)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_flags = SA_RESTART | SA_NODEFER}; /* the mask stays as it is, for the runner to compare at any moment */
  if (with_info) {
    action.sa_sigaction = with_info;
    action.sa_flags |= SA_SIGINFO;
  } else {
    action.sa_handler = simple;
  }
  check_call(sigaction(signo, &action, NULL) == 0);
}

static int id_of(timer_t timer) {
  return (int)(intptr_t)timer;
}

/* The kernel's own call, as libc hides the ids of some. */
static timer_t make(clockid_t clock, int notify, int signo, sigval_t value, pid_t tid) {
  struct sigevent event = {.sigev_notify = notify, .sigev_signo = signo, .sigev_value = value};
  int id = -1;
  event._sigev_un._tid = tid;
  check_call(syscall(SYS_timer_create, clock, &event, &id) == 0);
  return (timer_t)(intptr_t)id;
}

static void arm(timer_t timer, int flags, uint64_t first, uint64_t interval) {
  struct itimerspec spec = {.it_value = {(time_t)(first / 1000000000), (long)(first % 1000000000)},
      .it_interval = {(time_t)(interval / 1000000000), (long)(interval % 1000000000)}};
  check_call(syscall(SYS_timer_settime, id_of(timer), flags, &spec, NULL) == 0);
}

static struct itimerspec left_of(timer_t timer) {
  struct itimerspec spec = {0};
  check(syscall(SYS_timer_gettime, id_of(timer), &spec) == 0, "timer %d is gone: %s", id_of(timer), strerror(errno));
  return spec;
}

static uint64_t nsec_of(struct timespec time) {
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void *live(void *data) {
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGRTMIN + 3);
  check_call(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
  thread_tid = (pid_t)syscall(SYS_gettid);
  for (volatile unsigned n = 0; !ending; n++)
    if (n % 4096 == 0)
      (void)usleep(500);
  return NULL;
}

static void set_up(void) {
  sigval_t value = {.sival_ptr = (void *)0xfedcba987654UL}, number = {.sival_int = 321};
  handle(SIGRTMIN + 2, NULL, on_beat);
  handle(SIGRTMIN + 3, NULL, on_thread_beat);
  handle(SIGALRM, on_real, NULL);
  handle(SIGPROF, on_prof, NULL);
  handle(SIGVTALRM, on_prof, NULL);
  handle(SIGRTMIN + 4, on_cpu, NULL);
  set_at = subject_nsec(CLOCK_MONOTONIC);
  beat = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, value, 0);
  arm(beat, 0, BEAT_NSEC, BEAT_NSEC);
  beat_thread = make(CLOCK_REALTIME, SIGEV_THREAD_ID, SIGRTMIN + 3, number, thread_tid);
  arm(beat_thread, 0, BEAT_NSEC, BEAT_NSEC);
  for (int i = 0; i < MANY; i++) {
    many[i] = make(i % 2 ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, SIGEV_NONE, 0, number, 0);
    arm(many[i], 0, LONG_NSEC + (uint64_t)i * 1000000000U, (uint64_t)i * 777U);
  }
  for (int i = 0; i < MANY; i += 3)
    check_call(syscall(SYS_timer_delete, id_of(many[i])) == 0);
  silent = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 5, value, 0);
  overrun = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 6, value, 0);
  absolute = make(CLOCK_REALTIME, SIGEV_NONE, 0, value, 0);
  arm(absolute, TIMER_ABSTIME, subject_nsec(CLOCK_REALTIME) + LONG_NSEC, 0);
  fine_cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 4, value, 0);
  arm(fine_cpu, 0, 5000000, 5000000);
  wake = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 7, value, 0);
  arm(wake, 0, 1500000000, 0);
  arm(overrun, 0, 1000000, 1000000);
  struct itimerval real = {{0, 30000}, {0, 30000}}, prof = {{0, 10000}, {0, 10000}},
                   virtual = {{0, 11000}, {5000, 11000}};
  check_call(setitimer(ITIMER_REAL, &real, NULL) == 0 && setitimer(ITIMER_PROF, &prof, NULL) == 0 &&
             setitimer(ITIMER_VIRTUAL, &virtual, NULL) == 0);
}

static void check_itimers(void) {
  static const struct {
    int which;
    long usec;
  } expected[] = {{ITIMER_REAL, 30000}, {ITIMER_PROF, 10000}, {ITIMER_VIRTUAL, 11000}};
  for (size_t i = 0; i < 3; i++) {
    struct itimerval now;
    check_call(getitimer(expected[i].which, &now) == 0);
    check(now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == expected[i].usec, "itimer %d has interval %ld us",
        expected[i].which, (long)now.it_interval.tv_usec);
    check(now.it_value.tv_sec || now.it_value.tv_usec, "itimer %d does not run", expected[i].which);
    check(expected[i].which != ITIMER_VIRTUAL || (now.it_value.tv_sec > 4000 && now.it_value.tv_sec <= 5000),
        "%ld s of the virtual timer remain", (long)now.it_value.tv_sec);
  }
}

static void check_long_timers(void) {
  for (int i = 0; i < MANY; i++) {
    if (i % 3 == 0) {
      struct itimerspec spec;
      check(syscall(SYS_timer_gettime, id_of(many[i]), &spec) < 0, "timer %d was deleted and is there", id_of(many[i]));
      continue;
    }
    struct itimerspec now = left_of(many[i]);
    uint64_t remains = nsec_of(now.it_value), whole = LONG_NSEC + (uint64_t)i * 1000000000U, passed = subject_nsec(CLOCK_MONOTONIC) - set_at;
    check(nsec_of(now.it_interval) == (uint64_t)i * 777U, "timer %d has interval %lu", i,
        (unsigned long)nsec_of(now.it_interval));
    /* What the dump lasted may or may not have passed for it. */
    check(remains + passed + 1000000 >= whole && remains <= whole, "timer %d: %lu ms remain of %lu ms after %lu ms", i,
        (unsigned long)(remains / 1000000), (unsigned long)(whole / 1000000), (unsigned long)(passed / 1000000));
  }
  check(nsec_of(left_of(silent).it_value) == 0, "the disarmed timer runs");
  check(nsec_of(left_of(absolute).it_value) <= LONG_NSEC, "the absolute timer has too much left");
}

/* Signals come all the time: sleeps end early. */
static void spend(uint64_t nsec) {
  for (uint64_t begin = subject_nsec(CLOCK_MONOTONIC); subject_nsec(CLOCK_MONOTONIC) - begin < nsec;)
    subject_tick();
}

/* Those that we had no processor for are counted as overruns; the itimer has none, so of its beats there may be too few. */
static bool beat_right(bool may_be_late) {
  uint64_t begin = subject_nsec(CLOCK_MONOTONIC);
  int process = beats_process, thread = beats_thread, real;
  check(subject_await(beats_process != process && beats_thread != thread), "a timer does not beat"); /* and what was owed is counted */
  process = beats_process, thread = beats_thread, real = beats_real;
  uint64_t least = subject_nsec(CLOCK_MONOTONIC);
  spend(600000000);
  least = subject_nsec(CLOCK_MONOTONIC) - least;
  process = beats_process - process;
  thread = beats_thread - thread;
  real = beats_real - real;
  uint64_t most = subject_nsec(CLOCK_MONOTONIC) - begin;
  int expected = (int)(least / BEAT_NSEC), limit = (int)(most / BEAT_NSEC) + 5, limit_real = (int)(most / REAL_NSEC) + 4;
  check(process <= limit && thread <= limit && real <= limit_real, "%d beats, %d of the thread's timer and %d of the real itimer in %d ms",
      process, thread, real, (int)(most / 1000000));
  if (process >= expected - 10 && thread >= expected - 10 && real >= (int)(least / REAL_NSEC) - 8)
    return true;
  check(may_be_late, "%d beats, %d of the thread's timer and %d of the real itimer in %d ms", process, thread, real, (int)(least / 1000000));
  return false;
}

static void check_beats(void) {
  for (int i = 0; !beat_right(i < 30); i++)
    ;
  int prof = beats_prof, cpu = beats_slow_clock;
  for (clock_t end = clock() + CLOCKS_PER_SEC / 5; clock() < end;)
    ;
  check(beats_prof > prof && beats_slow_clock > cpu, "timers of processor time stand still: %d, %d", beats_prof - prof,
      beats_slow_clock - cpu);
  check(!wrong, "a signal of a timer came with wrong data or to the wrong thread (%d)", wrong);
}

/* Its signal has been blocked since the beginning: one is pending, the rest are overruns (overruns.c counts them). */
static void check_overrun(int signo) {
  sigset_t set;
  siginfo_t info;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, signo);
  uint64_t last = 0, before_last = 0;
  for (int i = 0; i < 3; i++) {
    spend(100000000);
    before_last = last;
    last = subject_nsec(CLOCK_MONOTONIC);
    check(sigwaitinfo(&set, &info) == signo && info.si_code == SI_TIMER, "signal %d", signo);
    check(info.si_value.sival_ptr == (void *)0xfedcba987654UL, "the value is %p", info.si_value.sival_ptr);
  }
  long count = syscall(SYS_timer_getoverrun, id_of(overrun));
  uint64_t most = (subject_nsec(CLOCK_MONOTONIC) - before_last) / 1000000;
  check(count >= 50 && count <= (long)most + 5, "%ld overruns in %lu ms of a timer of 1 ms", count, (unsigned long)most);
}

/* Due 1.5 s after it was set, and once only. */
static void check_single_shot(int signo) {
  sigset_t set;
  siginfo_t info;
  int got = -1;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, signo);
  for (int i = 0; i < SUBJECT_PATIENCE && got < 0; i++)
    got = sigtimedwait(&set, &info, &(struct timespec){.tv_nsec = 10000000});
  check(got == signo, "the single shot never came");
  uint64_t passed = subject_nsec(CLOCK_MONOTONIC) - set_at;
  check(passed >= 1499000000, "the single shot came after %lu ms", (unsigned long)(passed / 1000000));
  check(sigtimedwait(&set, &info, &(struct timespec){0}) < 0, "the single shot came twice");
}

/* Ids go on where they were: the next one is none that is in use, and all can be deleted. */
static void check_ids(void) {
  sigval_t value = {0};
  timer_t fresh = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, value, 0);
  for (int i = 0; i < MANY; i++)
    check(i % 3 == 0 || fresh != many[i], "timer id %d is given twice", id_of(fresh));
  const timer_t all[] = {beat, beat_thread, silent, overrun, absolute, fine_cpu, wake, fresh};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    check(syscall(SYS_timer_delete, id_of(all[i])) == 0, "timer %zu with id %d: %s", i, id_of(all[i]), strerror(errno));
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGRTMIN + 3);
  (void)sigaddset(&set, SIGRTMIN + 6);
  (void)sigaddset(&set, SIGRTMIN + 7);
  check_call(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, live, NULL) == 0);
  while (!thread_tid)
    subject_tick();
  set_up();
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  check_long_timers();
  check_itimers();
  check_beats();
  check_overrun(SIGRTMIN + 6);
  check_single_shot(SIGRTMIN + 7);
  check_ids();
  ending = true;
  check_call(pthread_join(thread, NULL) == 0);
  return subject_pass();
}

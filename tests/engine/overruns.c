/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Signals of POSIX timers that wait to be taken while the timers go on: what they count, on several clocks, by queued and by
 * legacy numbers, for the process and for one thread; their order among others with the same number; what
 * timer_getoverrun(2) says about one that was taken. Every expiration is counted once: those seen and those that the seen ones
 * stand for are as many as intervals have passed, but for the time in which the program was not there. */

#include "subject.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#define MSEC 1000000ULL
#define GAP_NSEC (15 * MSEC)
#define FAR_SEC 1000
#define LONG_MSEC 30000 /* for what is there already */

typedef struct Counter {
  const char *name;
  clockid_t clock;
  int signo;
  uint64_t interval;
  bool directed;
  int id;
  uint64_t armed, armed_surely, counted;
} Counter;

/* The two with the legacy number are pending at the same time. */
static Counter counters[] = {{"monotonic", CLOCK_MONOTONIC, 40, MSEC, false, -1, 0, 0, 0},
    {"realtime", CLOCK_REALTIME, 41, 2 * MSEC, false, -1, 0, 0, 0}, {"boottime", CLOCK_BOOTTIME, 42, 3 * MSEC, false, -1, 0, 0, 0},
    {"legacy", CLOCK_MONOTONIC, SIGUSR1, 2 * MSEC, false, -1, 0, 0, 0},
    {"second legacy", CLOCK_REALTIME, SIGUSR1, 5 * MSEC, false, -1, 0, 0, 0},
    {"directed", CLOCK_MONOTONIC, 43, MSEC, true, -1, 0, 0, 0}, {"directed legacy", CLOCK_BOOTTIME, SIGUSR2, 4 * MSEC, true, -1, 0, 0, 0}};
enum { N_COUNTERS = sizeof counters / sizeof counters[0] };

static int far_timer, far_directed, ordered, ordered_directed, once;
static volatile pid_t thread_tid;
static volatile bool thread_ready, ending;
static uint64_t missed; /* nanoseconds in which we did not run */
static bool ran_on;     /* of two signals with one legacy number the counts may be missing in a checkpoint of a tree that ran on */

static int make(clockid_t clock, int signo, pid_t tid, int value) {
  struct sigevent event = {.sigev_notify = tid ? SIGEV_THREAD_ID : SIGEV_SIGNAL, .sigev_signo = signo, .sigev_value = {.sival_int = value}};
  int id = -1;
  event._sigev_un._tid = tid;
  check_call(syscall(SYS_timer_create, clock, &event, &id) == 0);
  return id;
}

static void arm(int id, int flags, uint64_t first, uint64_t interval) {
  struct itimerspec spec = {.it_value = {(time_t)(first / 1000000000), (long)(first % 1000000000)},
      .it_interval = {(time_t)(interval / 1000000000), (long)(interval % 1000000000)}};
  check_call(syscall(SYS_timer_settime, id, flags, &spec, NULL) == 0);
}

static bool take(int signo, siginfo_t *info, int msec) {
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, signo);
  return sigtimedwait(&set, info, &(struct timespec){.tv_sec = msec / 1000, .tv_nsec = msec % 1000 * 1000000L}) == signo;
}

static void queue(int signo, pid_t tid, int value) {
  siginfo_t info = {.si_signo = signo, .si_code = SI_QUEUE};
  info.si_value.sival_int = value;
  info.si_pid = getpid();
  check_call((tid ? syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, signo, &info)
                  : syscall(SYS_rt_sigqueueinfo, getpid(), signo, &info)) == 0);
}

/* Seven times in the past, then not for long; taken. */
static int make_far(int signo, pid_t tid) {
  siginfo_t info;
  int id = make(CLOCK_REALTIME, signo, tid, 5);
  arm(id, TIMER_ABSTIME, subject_nsec(CLOCK_REALTIME) - 7500000000000ULL, FAR_SEC * 1000000000ULL);
  check(take(signo, &info, LONG_MSEC), "the timer set in the past does not go off");
  return id;
}

static void check_far(int id, const char *name) {
  struct itimerspec left;
  long n = syscall(SYS_timer_getoverrun, id);
  check(n == 7, "%s: timer_getoverrun says %ld, not 7", name, n);
  check_call(syscall(SYS_timer_gettime, id, &left) == 0);
  check(left.it_interval.tv_sec == FAR_SEC && left.it_value.tv_sec > 440 && left.it_value.tv_sec < 501, "%s: %ld s are left of %ld",
      name, (long)left.it_value.tv_sec, (long)left.it_interval.tv_sec);
}

/* Between two others. */
static int make_ordered(int signo, pid_t tid) {
  queue(signo, tid, 1);
  int id = make(CLOCK_REALTIME, signo, tid, 2);
  arm(id, TIMER_ABSTIME, subject_nsec(CLOCK_REALTIME) - 3500000000000ULL, FAR_SEC * 1000000000ULL);
  (void)usleep(20000);
  queue(signo, tid, 3);
  return id;
}

static void check_ordered(int signo, int id, const char *name) {
  siginfo_t info;
  for (int i = 1; i <= 3; i++) {
    check(take(signo, &info, LONG_MSEC), "%s: signal %d of 3 is lost", name, i);
    check(info.si_value.sival_int == i && info.si_code == (i == 2 ? SI_TIMER : SI_QUEUE), "%s: signal %d has value %d and code %d", name, i,
        info.si_value.sival_int, info.si_code);
    check(i != 2 || (info.si_overrun == 3 && info.si_timerid == id), "%s: it counts %d, not 3", name, info.si_overrun);
  }
  check(!take(signo, &info, 0), "%s: there is a signal more", name);
  check(syscall(SYS_timer_getoverrun, id) == 3, "%s: timer_getoverrun does not say 3", name);
}

static void count(Counter *c, const siginfo_t *info) {
  check(info->si_code == SI_TIMER && info->si_value.sival_int == (int)(c - counters), "%s: a signal with value %d", c->name,
      info->si_value.sival_int);
  check(info->si_overrun >= 0, "%s: %d overruns", c->name, info->si_overrun);
  c->counted += 1 + (uint64_t)info->si_overrun;
}

/* All that is there, then one more, so that the count ends at a known time. */
static void check_counter(int signo, Counter **of_number, int n) {
  siginfo_t info;
  int seen[2] = {0, 0};
  uint64_t end[2] = {0, 0}, end_surely[2] = {0, 0}; /* it was taken before the one and after the other */
  for (int more = 0; more < 2 * n || !take(signo, &info, 0); more++) {
    uint64_t before = subject_nsec(CLOCK_MONOTONIC);
    check(more < 200 && take(signo, &info, LONG_MSEC), "signal %d does not come", signo);
    int which = n > 1 && info.si_value.sival_int == (int)(of_number[1] - counters);
    count(of_number[which], &info);
    seen[which]++;
    end[which] = subject_nsec(CLOCK_MONOTONIC);
    end_surely[which] = before;
    if (seen[0] >= 2 && (n == 1 || seen[1] >= 2))
      break;
  }
  for (int i = 0; i < n; i++) {
    Counter *c = of_number[i];
    uint64_t most = (end[i] - c->armed) / c->interval + 2, least = (end_surely[i] - c->armed_surely) / c->interval + 2;
    uint64_t lost = missed / c->interval + 3;
    check(c->counted <= most && (c->counted + lost >= least || (ran_on && n > 1)), "%s: %lu expirations in %lu ms, of which we missed %lu, of one each %lu us", c->name,
        (unsigned long)c->counted, (unsigned long)((end[i] - c->armed) / MSEC), (unsigned long)(missed / MSEC),
        (unsigned long)(c->interval / 1000));
  }
}

static void check_counters(bool directed) {
  for (int i = 0; i < N_COUNTERS; i++) {
    if (counters[i].directed != directed)
      continue;
    Counter *of_number[2] = {&counters[i], &counters[i]};
    int n = i + 1 < N_COUNTERS && counters[i + 1].signo == counters[i].signo ? 2 : 1;
    of_number[1] += n - 1;
    check_counter(counters[i].signo, of_number, n);
    i += n - 1;
  }
}

static void start_counters(bool directed) {
  for (int i = 0; i < N_COUNTERS; i++) {
    Counter *c = &counters[i];
    if (c->directed != directed)
      continue;
    c->id = make(c->clock, c->signo, directed ? thread_tid : 0, i);
    c->armed = subject_nsec(CLOCK_MONOTONIC);
    arm(c->id, 0, c->interval, c->interval);
    c->armed_surely = subject_nsec(CLOCK_MONOTONIC);
  }
}

static void *live(void *data) {
  (void)data;
  thread_tid = (pid_t)syscall(SYS_gettid);
  far_directed = make_far(48, thread_tid);
  ordered_directed = make_ordered(49, thread_tid);
  start_counters(true);
  thread_ready = true;
  while (!ending && !subject_failed())
    subject_tick();
  check_counters(true);
  check_far(far_directed, "directed");
  check_ordered(49, ordered_directed, "directed");
  return NULL;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  ran_on = argc > 2;
  sigset_t all;
  (void)sigfillset(&all);
  check_call(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, live, NULL) == 0);
  far_timer = make_far(50, 0);
  ordered = make_ordered(51, 0);
  once = make(CLOCK_MONOTONIC, 52, 0, 9);
  arm(once, 0, MSEC, 0);
  while (!thread_ready && !subject_failed())
    subject_tick();
  start_counters(false);
  subject_ready();
  for (uint64_t last = subject_nsec(CLOCK_MONOTONIC), now; !subject_checking() && !subject_failed(); last = now) {
    subject_tick();
    now = subject_nsec(CLOCK_MONOTONIC);
    missed += now - last > GAP_NSEC ? now - last : 0;
  }
  check_counters(false);
  check_far(far_timer, "far");
  check_ordered(51, ordered, "ordered");
  siginfo_t info;
  check(take(52, &info, LONG_MSEC) && info.si_value.sival_int == 9 && info.si_overrun == 0, "the single shot is lost");
  check(!take(52, &info, 20), "the single shot came twice");
  ending = true;
  check_call(pthread_join(thread, NULL) == 0);
  return subject_pass();
}

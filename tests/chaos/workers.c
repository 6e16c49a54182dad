/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chaos.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A thread that waits in some call, and must wait there until it is woken; or one that counts. */
typedef enum Place {
  PLACE_FUTEX,
  PLACE_MOMENT,
  PLACE_CONDITION,
  PLACE_READ,
  PLACE_POLL,
  PLACE_EPOLL,
  PLACE_SLEEP,
  PLACE_COUNT,
  N_PLACES
} Place;

typedef struct Worker {
  bool there;
  Place place;
  pthread_t thread;
  int pipe[2];
  _Atomic uint32_t word, begun, left, bad;
  pthread_mutex_t mutex;
  pthread_cond_t condition;
} Worker;

static Worker workers[N_WORKERS];

static struct timespec in_an_hour(clockid_t clock) {
  struct timespec t;
  (void)clock_gettime(clock, &t);
  t.tv_sec += 3600;
  return t;
}

/* No call may end before it was woken; a wait for a condition may, by its contract. */
static void wait_there(Worker *w) {
  struct timespec hour = {.tv_sec = 3600}, moment = in_an_hour(CLOCK_REALTIME);
  struct pollfd p = {.fd = w->pipe[0], .events = POLLIN};
  struct epoll_event e = {.events = EPOLLIN};
  int epfd;
  char byte;
  switch (w->place) {
  case PLACE_FUTEX:
    (void)syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    break;
  case PLACE_MOMENT:
    (void)syscall(SYS_futex, &w->word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &moment, NULL, -1);
    break;
  case PLACE_CONDITION:
    (void)pthread_mutex_lock(&w->mutex);
    while (!w->word && pthread_cond_timedwait(&w->condition, &w->mutex, &moment) == 0)
      ;
    (void)pthread_mutex_unlock(&w->mutex);
    break;
  case PLACE_READ:
    w->bad |= read(w->pipe[0], &byte, 1) != 1;
    break;
  case PLACE_POLL:
    (void)poll(&p, 1, -1);
    break;
  case PLACE_EPOLL:
    epfd = epoll_create1(EPOLL_CLOEXEC);
    (void)epoll_ctl(epfd, EPOLL_CTL_ADD, w->pipe[0], &e);
    while (epoll_wait(epfd, &e, 1, 3600 * 1000) < 0 && errno == EINTR)
      ;
    (void)close(epfd);
    break;
  case PLACE_SLEEP: /* cannot be woken, but by a signal */
    (void)nanosleep(&hour, NULL);
    break;
  default:
    for (volatile double x = 1; !w->word; x = x * 3 / 3)
      if (x != 1)
        w->bad = 1;
  }
}

static void *work(void *data) {
  Worker *w = data;
  w->begun = 1;
  wait_there(w);
  w->bad |= !w->word;
  w->left = 1;
  return NULL;
}

void worker_start(uint64_t *r) {
  Worker *w = &workers[draw(r) % N_WORKERS];
  if (w->there)
    return;
  memset(w, 0, sizeof *w);
  w->there = true;
  w->place = (Place)(draw(r) % N_PLACES);
  if (w->place == PLACE_COUNT && draw(r) % 4)
    w->place = PLACE_FUTEX; /* few that burn time */
  (void)pthread_mutex_init(&w->mutex, NULL);
  (void)pthread_cond_init(&w->condition, NULL);
  must(pipe(w->pipe) == 0, "pipe: %s", strerror(errno));
  pthread_attr_t attributes;
  (void)pthread_attr_init(&attributes);
  (void)pthread_attr_setstacksize(&attributes, 128 << 10);
  must(pthread_create(&w->thread, &attributes, work, w) == 0, "no thread");
  (void)pthread_attr_destroy(&attributes);
  while (!w->begun)
    (void)poll(NULL, 0, 1);
}

void worker_wake(uint64_t *r) {
  Worker *w = &workers[draw(r) % N_WORKERS];
  if (!w->there)
    return;
  (void)pthread_mutex_lock(&w->mutex);
  w->word = 1;
  (void)pthread_cond_signal(&w->condition);
  (void)pthread_mutex_unlock(&w->mutex);
  must(write(w->pipe[1], "x", 1) == 1, "write: %s", strerror(errno));
  while (!w->left) { /* it may not have come to its call yet */
    (void)syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    if (w->place == PLACE_SLEEP)
      (void)pthread_kill(w->thread, SIGURG);
    (void)poll(NULL, 0, 1);
  }
  must(pthread_join(w->thread, NULL) == 0, "join");
  must(!w->bad, "a thread in place %d went on by itself", w->place);
  (void)close(w->pipe[0]);
  (void)close(w->pipe[1]);
  w->there = false;
}

void workers_verify(void) {
  for (int i = 0; i < N_WORKERS; i++)
    must(!workers[i].there || (!workers[i].left && !workers[i].bad), "a thread in place %d does not wait any more",
        workers[i].place);
}

void workers_forget(void) {
  for (int i = 0; i < N_WORKERS; i++)
    if (workers[i].there) {
      (void)close(workers[i].pipe[0]);
      (void)close(workers[i].pipe[1]);
      workers[i].there = false;
    }
}

/* --- signals that wait, and timers --- */

enum { N_QUEUED = 16 };
static int queued[N_QUEUED], n_queued; /* values, in order; all of one blocked signal */
static timer_t timers[4];
static bool timer_there[4];
static struct timespec timer_end[4];

static void on_signal(int signo) {
  (void)signo;
}

void signals_begin(void) {
  sigset_t set;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGRTMIN + 3);
  must(sigprocmask(SIG_BLOCK, &set, NULL) == 0, "sigprocmask");
  struct sigaction action = {.sa_handler = on_signal};
  must(sigaction(SIGURG, &action, NULL) == 0, "sigaction");
}

void signal_queue(uint64_t *r) {
  if (n_queued == N_QUEUED)
    return;
  union sigval value = {.sival_int = (int)(draw(r) % 100000)};
  must(sigqueue(getpid(), SIGRTMIN + 3, value) == 0, "sigqueue: %s", strerror(errno));
  queued[n_queued++] = value.sival_int;
}

void signal_take(uint64_t *r) {
  (void)r;
  sigset_t set;
  siginfo_t info;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGRTMIN + 3);
  int got = sigtimedwait(&set, &info, &(struct timespec){0});
  if (!n_queued) {
    must(got < 0 && errno == EAGAIN, "a signal that nobody sent");
    return;
  }
  must(got == SIGRTMIN + 3 && info.si_value.sival_int == queued[0] && info.si_pid == getpid(),
      "signal %d with %d, not %d", got, info.si_value.sival_int, queued[0]);
  memmove(queued, queued + 1, sizeof queued[0] * (size_t)(--n_queued));
}

void timers_forget(void) {
  memset(timer_there, 0, sizeof timer_there);
  n_queued = 0;
}

static void timer_check(int i) {
  struct itimerspec left;
  struct timespec now;
  must(timer_gettime(timers[i], &left) == 0, "timer_gettime: %s", strerror(errno));
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  long off = (long)(now.tv_sec + left.it_value.tv_sec - timer_end[i].tv_sec);
  must(off >= -1 && off < 120, "a timer is %ld s off", off); /* while it was gone its time stood still */
  timer_end[i].tv_sec += off;
}

void timer_change(uint64_t *r) {
  int i = (int)(draw(r) % 4);
  if (timer_there[i]) {
    timer_check(i);
    timer_there[i] = draw(r) % 2;
    if (!timer_there[i])
      must(timer_delete(timers[i]) == 0, "timer_delete");
    return;
  }
  struct sigevent event = {.sigev_notify = draw(r) % 2 ? SIGEV_NONE : SIGEV_SIGNAL, .sigev_signo = SIGURG};
  must(timer_create(CLOCK_MONOTONIC, &event, &timers[i]) == 0, "timer_create: %s", strerror(errno));
  struct itimerspec spec = {
      .it_value.tv_sec = 1000 + (time_t)(draw(r) % 1000), .it_interval.tv_sec = (time_t)(draw(r) % 3)};
  must(timer_settime(timers[i], 0, &spec, NULL) == 0, "timer_settime");
  timer_there[i] = true;
  (void)clock_gettime(CLOCK_MONOTONIC, &timer_end[i]);
  timer_end[i].tv_sec += spec.it_value.tv_sec;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* POSIX message queues. argv[2]:
 *   deleted   without a name: messages of several priorities, descriptors for reading and writing, one that does not block,
 *             another queue under the old name; a thread that waits for a message
 *   named     that outlives the tree
 *   shared    by parent and child, which answers what it is asked
 *   notify    refused: a notification */

#include "subject.h"
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char name[64];
static mqd_t empty;
static volatile bool heard;

static mqd_t make(const char *path, int flags) {
  struct mq_attr attr = {.mq_maxmsg = 10, .mq_msgsize = 64};
  mqd_t q = mq_open(path, O_CREAT | O_CLOEXEC | flags, 0640, &attr);
  if (q < 0 && errno == ENOSYS)
    subject_skip("this kernel has no POSIX message queues");
  check_call(q >= 0);
  return q;
}

static void send_all(mqd_t q) {
  check_call(mq_send(q, "low", 4, 1) == 0 && mq_send(q, "first", 6, 7) == 0 && mq_send(q, "second", 7, 7) == 0);
  check_call(mq_send(q, "", 0, 3) == 0 && mq_send(q, "high", 5, 30000) == 0);
}

static void expect(mqd_t q, const char *text, unsigned priority) {
  char buffer[64] = "";
  unsigned p = 0;
  ssize_t n = mq_receive(q, buffer, sizeof buffer, &p);
  check(n == (ssize_t)(*text ? strlen(text) + 1 : 0) && strcmp(buffer, text) == 0 && p == priority,
      "received '%s' (%d) of priority %u instead of '%s' of %u", buffer, (int)n, p, text, priority);
}

static void receive_all(mqd_t q) {
  expect(q, "high", 30000);
  expect(q, "first", 7);
  expect(q, "second", 7);
  expect(q, "", 3);
  expect(q, "low", 1);
}

static void *wait_for_one(void *data) {
  char buffer[64];
  ssize_t n = mq_receive(empty, buffer, sizeof buffer, NULL);
  check(n == 5 && strcmp(buffer, "wake") == 0, "the thread received %d: %s", (int)n, strerror(errno));
  heard = true;
  return data;
}

static void deleted(void) {
  pthread_t thread;
  struct stat st;
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = 7};
  struct timespec now;
  mqd_t writer = make(name, O_WRONLY), reader = mq_open(name, O_RDONLY | O_NONBLOCK);
  check_call(reader >= 0 && mq_unlink(name) == 0);
  send_all(writer);
  mqd_t other = make(name, O_RDWR);
  check_call(mq_send(other, "other", 6, 0) == 0 && mq_unlink(name) == 0);
  empty = make(name, O_RDWR);
  check_call(mq_unlink(name) == 0);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  check_call(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, reader, &event) == 0);
  check_call(pthread_create(&thread, NULL, wait_for_one, NULL) == 0);
  subject_tick();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  struct mq_attr attr;
  check_call(mq_getattr(reader, &attr) == 0);
  check(attr.mq_maxmsg == 10 && attr.mq_msgsize == 64 && attr.mq_curmsgs == 5 && attr.mq_flags == O_NONBLOCK, "other attributes");
  check_call(mq_getattr(writer, &attr) == 0 && fstat(writer, &st) == 0);
  check(attr.mq_flags == 0 && (st.st_mode & 0777) == 0640 && st.st_nlink == 0, "the writer's attributes are others");
  check(epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u32 == 7, "epoll sees no messages");
  receive_all(reader);
  char buffer[64];
  check(mq_receive(reader, buffer, sizeof buffer, NULL) < 0 && errno == EAGAIN, "the queue is not empty");
  check(mq_receive(writer, buffer, sizeof buffer, NULL) < 0 && errno == EBADF, "the writer can read");
  check_call(mq_send(writer, "again", 6, 2) == 0);
  expect(reader, "again", 2);
  expect(other, "other", 0);
  check(!heard, "the thread heard something");
  check_call(mq_send(empty, "wake", 5, 0) == 0);
  check_call(clock_gettime(CLOCK_REALTIME, &now) == 0);
  now.tv_sec += 2;
  check(pthread_timedjoin_np(thread, NULL, &now) == 0, "the thread still waits");
}

static void named(void) {
  mqd_t q = make(name, O_RDWR), second = mq_open(name, O_RDONLY);
  check_call(second >= 0);
  send_all(q);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  mqd_t third = mq_open(name, O_RDONLY);
  check_call(third >= 0);
  expect(third, "high", 30000);
  expect(second, "first", 7);
  check_call(mq_send(q, "more", 5, 29999) == 0);
  expect(third, "more", 29999);
  check_call(mq_unlink(name) == 0);
}

static _Noreturn void answer(mqd_t questions, mqd_t answers) {
  char buffer[64];
  unsigned p = 0;
  for (;;) {
    ssize_t n = mq_receive(questions, buffer, sizeof buffer, &p);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 || mq_send(answers, buffer, (size_t)n, p + 1) < 0)
      _exit(1);
  }
}

static void shared(void) {
  char buffer[64];
  unsigned p = 0;
  mqd_t questions = make(name, O_RDWR);
  check_call(mq_unlink(name) == 0);
  (void)strcat(name, "-answers");
  mqd_t answers = make(name, O_RDWR);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    answer(questions, answers);
  }
  check_call(mq_send(questions, "one", 4, 1) == 0);
  expect(answers, "one", 2);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_call(mq_send(questions, "two", 4, 5) == 0);
  check(mq_receive(answers, buffer, sizeof buffer, &p) == 4 && strcmp(buffer, "two") == 0 && p == 6, "another answer");
  mqd_t again = mq_open(name, O_RDWR);
  check_call(again >= 0 && mq_send(again, "three", 6, 3) == 0);
  expect(answers, "three", 3);
  check_call(mq_unlink(name) == 0 && kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

static void notify(void) {
  mqd_t q = make(name, O_RDWR);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 11};
  check_call(mq_notify(q, &event) == 0 && mq_unlink(name) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(mq_notify(q, &event) < 0 && errno == EBUSY, "the notification is gone");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "deleted";
  (void)snprintf(name, sizeof name, "/subject-%d", (int)getpid());
  if (strcmp(what, "deleted") == 0)
    deleted();
  else if (strcmp(what, "named") == 0)
    named();
  else if (strcmp(what, "shared") == 0)
    shared();
  else
    notify();
  return subject_pass();
}

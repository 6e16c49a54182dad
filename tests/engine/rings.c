/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rings of io_uring(7), used by their system calls alone. argv[2]: what is tried.
 *   idle      requests done, completions read and unread, requests written and not handed over; read files afterwards
 *   issuer    a ring of one thread (SINGLE_ISSUER, DEFER_TASKRUN), its descriptor registered, which waits in it
 *   things    registered files and buffers, with holes
 *   shared    a child that has the ring, too
 *   big, small, array   other sizes and layouts
 *   thread    two rings with a submitting thread (SQPOLL), one of them in an epoll, unread completions
 *   worker    a worker of the kernel's among the threads
 * Refused:
 *   poll, timeout, eventfd, buffers, multishot */

#include "subject.h"
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SINGLE_ISSUER (1u << 12)
#define DEFER_TASKRUN (1u << 13)
#define NO_SQARRAY (1u << 16)
#define REGISTERED_RING (1u << 4)

typedef struct Ring {
  int fd;
  bool registered;
  struct io_uring_params p;
  unsigned char *rings, *sqes;
  unsigned submitted, reaped; /* as a library keeps them: never read from the ring */
} Ring;

static unsigned *word(const Ring *r, unsigned at) {
  return (unsigned *)(void *)(r->rings + at);
}

static Ring ring_new(unsigned entries, unsigned flags) {
  Ring r = {.p = {.flags = flags}};
  r.fd = (int)syscall(SYS_io_uring_setup, entries, &r.p);
  if (r.fd < 0 && (errno == ENOSYS || errno == EPERM))
    subject_skip("this kernel has no io_uring, or does not allow it");
  if (r.fd < 0 && errno == EINVAL)
    subject_skip("this kernel has no such rings");
  check_call(r.fd >= 0);
  size_t sqe = flags & IORING_SETUP_SQE128 ? 128 : 64, cqe = flags & IORING_SETUP_CQE32 ? 32 : 16;
  size_t size = r.p.cq_off.cqes + r.p.cq_entries * cqe + r.p.sq_entries * sizeof(unsigned);
  if (flags & NO_SQARRAY)
    size = r.p.cq_off.cqes + r.p.cq_entries * cqe;
  r.rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r.fd, IORING_OFF_SQ_RING);
  r.sqes = mmap(NULL, r.p.sq_entries * sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r.fd, (off_t)IORING_OFF_SQES);
  check_call(r.rings != MAP_FAILED && r.sqes != MAP_FAILED);
  for (unsigned i = 0; !(flags & NO_SQARRAY) && i < r.p.sq_entries; i++)
    word(&r, r.p.sq_off.array)[i] = i;
  return r;
}

static struct io_uring_sqe *next(Ring *r, int opcode, int fd, const void *buffer, unsigned size, uint64_t data) {
  unsigned at = r->submitted++ & (r->p.sq_entries - 1);
  struct io_uring_sqe *sqe = (struct io_uring_sqe *)(void *)(r->sqes + at * (r->p.flags & IORING_SETUP_SQE128 ? 128 : 64));
  memset(sqe, 0, sizeof *sqe);
  sqe->opcode = (uint8_t)opcode;
  sqe->fd = fd;
  sqe->addr = (uintptr_t)buffer;
  sqe->len = size;
  sqe->user_data = data;
  return sqe;
}

static void publish(Ring *r) {
  __atomic_store_n(word(r, r->p.sq_off.tail), r->submitted, __ATOMIC_RELEASE);
}

static int enter(const Ring *r, unsigned submit, unsigned wait) {
  long n = syscall(SYS_io_uring_enter, r->registered ? 0 : r->fd, submit, wait,
      (wait ? IORING_ENTER_GETEVENTS : 0u) | (r->registered ? REGISTERED_RING : 0u), NULL, 0);
  return n < 0 ? -errno : (int)n;
}

static const struct io_uring_cqe *peek(Ring *r) {
  unsigned tail = __atomic_load_n(word(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE);
  if (tail == r->reaped)
    return NULL;
  size_t at = r->reaped & (r->p.cq_entries - 1), size = r->p.flags & IORING_SETUP_CQE32 ? 32 : 16;
  return (const struct io_uring_cqe *)(const void *)(r->rings + r->p.cq_off.cqes + at * size);
}

static void seen(Ring *r) {
  __atomic_store_n(word(r, r->p.cq_off.head), ++r->reaped, __ATOMIC_RELEASE);
}

static void expect(Ring *r, uint64_t data, int result) {
  const struct io_uring_cqe *cqe = peek(r);
  for (int i = 0; !cqe && i < 400; i++, cqe = peek(r)) {
    (void)enter(r, 0, 0);
    subject_tick();
  }
  check(cqe, "no completion of %d", (int)data);
  check(cqe->user_data == data && cqe->res == result, "completion %d with %d, expected %d with %d", (int)cqe->user_data,
      cqe->res, (int)data, result);
  seen(r);
}

static void nops(Ring *r, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    next(r, IORING_OP_NOP, -1, NULL, 0, i);
    publish(r);
    check(enter(r, 1, 0) == 1, "a request was not taken");
    expect(r, i, 0);
  }
}

static int make_file(const char *suffix, const char *text) {
  char path[4096];
  subject_path(path, sizeof path, suffix);
  int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  check_call(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  return fd;
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

/* A file is read through it. */
static void use(Ring *r, int file) {
  char text[8] = "";
  next(r, IORING_OP_READ, file, text, 5, 77);
  publish(r);
  check(enter(r, 1, 1) == 1, "the read was not taken: %s", strerror(errno));
  expect(r, 77, 5);
  check(strcmp(text, "hello") == 0, "read %s", text);
}

/* By a thread of the kernel's, which stays for a while. */
static void use_worker(Ring *r, int file) {
  char text[8] = "";
  next(r, IORING_OP_READ, file, text, 5, 78)->flags = IOSQE_ASYNC;
  publish(r);
  check(enter(r, 1, 1) == 1, "the read was not taken: %s", strerror(errno));
  expect(r, 78, 5);
}

static void idle(unsigned entries, unsigned flags, unsigned requests) {
  Ring r = ring_new(entries, flags);
  int file = make_file("file", "hello");
  nops(&r, requests);
  for (uint64_t i = 0; i < 3; i++)
    next(&r, IORING_OP_NOP, -1, NULL, 0, 1000 + i);
  publish(&r);
  check(enter(&r, 3, 0) == 3, "three requests were not taken");
  seen(&r); /* two stay unread */
  next(&r, IORING_OP_NOP, -1, NULL, 0, 2000);
  publish(&r);
  wait_for_check();
  expect(&r, 1001, 0);
  expect(&r, 1002, 0);
  check(!peek(&r), "a completion of nothing");
  check(enter(&r, 1, 0) == 1, "the request that waited was not taken");
  expect(&r, 2000, 0);
  use(&r, file);
  nops(&r, 3 * entries);
}

static void worker(void) {
  Ring r = ring_new(8, 0);
  int file = make_file("file", "hello");
  use_worker(&r, file);
  wait_for_check();
  use_worker(&r, file);
  use(&r, file);
}

/* The thread takes it by itself. */
static void polled_nop(Ring *r, uint64_t data) {
  next(r, IORING_OP_NOP, -1, NULL, 0, data);
  publish(r);
  if (__atomic_load_n(word(r, r->p.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
    check_call(syscall(SYS_io_uring_enter, r->fd, 1, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) >= 0);
}

static void polled(void) {
  Ring r = ring_new(8, IORING_SETUP_SQPOLL), other = ring_new(64, IORING_SETUP_SQPOLL);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 4711}, got;
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  check_call(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, r.fd, &event) == 0);
  for (uint64_t i = 0; i < 50; i++) {
    polled_nop(&r, i);
    expect(&r, i, 0);
  }
  polled_nop(&other, 1);
  polled_nop(&other, 2);
  wait_for_check();
  check(epoll_wait(epoll, &got, 1, 0) == 0, "an event of nothing");
  polled_nop(&r, 99);
  check(epoll_wait(epoll, &got, 1, 2000) == 1 && got.data.u64 == 4711, "no event of a completion");
  expect(&r, 99, 0);
  expect(&other, 1, 0);
  expect(&other, 2, 0);
  polled_nop(&other, 3);
  expect(&other, 3, 0);
}

static Ring issued;
static volatile int woken;

static void *issue(void *data) {
  int end = *(int *)data, e;
  issued = ring_new(16, SINGLE_ISSUER | DEFER_TASKRUN);
  struct io_uring_rsrc_update self = {.offset = -1U, .data = (uint64_t)issued.fd};
  check_call(syscall(SYS_io_uring_register, issued.fd, IORING_REGISTER_RING_FDS, &self, 1) == 1);
  issued.registered = true;
  nops(&issued, 100);
  woken = 1;
  while ((e = enter(&issued, 0, 1)) == 0) /* nothing is in flight: until it is interrupted */
    ;
  check(e == -EINTR, "the wait ended with %d", e);
  check(woken == 2, "the wait was interrupted by nobody");
  nops(&issued, 100);
  use(&issued, end);
  woken = 3;
  return NULL;
}

static void on_signal(int signo) {
  (void)signo;
}

static void issuer(void) {
  pthread_t thread;
  int file = make_file("file", "hello");
  struct sigaction action = {.sa_handler = on_signal};
  check_call(sigaction(SIGUSR1, &action, NULL) == 0);
  check_call(pthread_create(&thread, NULL, issue, &file) == 0);
  while (!woken)
    subject_tick();
  subject_tick();
  wait_for_check();
  woken = 2;
  for (int i = 0; i < 400 && woken != 3; i++) {
    (void)pthread_kill(thread, SIGUSR1);
    subject_tick();
  }
  check(woken == 3, "the thread does not come out of its ring");
  check_call(pthread_join(thread, NULL) == 0);
}

static void things(void) {
  static char buffers[2][4096];
  Ring r = ring_new(8, 0);
  int hello = make_file("file", "hello"), other = make_file("other", "other");
  int files[4] = {-1, hello, -1, other};
  struct iovec iov[2] = {{buffers[0], 4096}, {buffers[1], 4096}};
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_FILES, files, 4) == 0);
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, iov, 2) == 0);
  unsigned limits[2] = {3, 5};
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2) == 0);
  nops(&r, 20);
  wait_for_check();
  limits[0] = limits[1] = 0;
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2) == 0);
  check(limits[0] == 3 && limits[1] == 5, "at most %u and %u workers", limits[0], limits[1]);
  struct io_uring_sqe *sqe = next(&r, IORING_OP_READ_FIXED, 3, buffers[1], 5, 5);
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->buf_index = 1;
  publish(&r);
  check(enter(&r, 1, 1) == 1, "the read was not taken");
  expect(&r, 5, 5);
  check(strcmp(buffers[1], "other") == 0, "read %s", buffers[1]);
  next(&r, IORING_OP_READ, 2, buffers[0], 5, 6)->flags = IOSQE_FIXED_FILE;
  publish(&r);
  check(enter(&r, 1, 1) == 1, "the read was not taken");
  expect(&r, 6, -EBADF);
}

static void shared(void) {
  Ring r = ring_new(8, 0);
  int file = make_file("file", "hello");
  nops(&r, 5);
  pid_t child = fork();
  if (child == 0) {
    while (!subject_checking())
      subject_tick();
    use(&r, file);
    _exit(0);
  }
  int status = -1;
  wait_for_check();
  check_call(waitpid(child, &status, 0) == child);
  check(status == 0, "the child could not use it");
  r.submitted++, r.reaped++; /* the child's */
  nops(&r, 20);
}

/* --- refused --- */

static void in_flight(int opcode) {
  Ring r = ring_new(8, 0);
  struct __kernel_timespec long_time = {.tv_sec = 1000};
  int ends[2];
  check_call(pipe(ends) == 0);
  nops(&r, 5);
  struct io_uring_sqe *sqe = next(&r, opcode, opcode == IORING_OP_TIMEOUT ? -1 : ends[0], &long_time, 1, 9);
  if (opcode == IORING_OP_POLL_ADD)
    sqe->addr = 0, sqe->len = 0, sqe->poll32_events = POLLIN;
  publish(&r);
  check(enter(&r, 1, 0) == 1, "it was not taken");
  wait_for_check();
  check(!peek(&r), "it is done, or was cancelled");
}

static void multishot(void) {
  Ring r = ring_new(8, 0);
  int ends[2];
  check_call(pipe(ends) == 0);
  struct io_uring_sqe *sqe = next(&r, IORING_OP_POLL_ADD, ends[0], NULL, IORING_POLL_ADD_MULTI, 9);
  sqe->poll32_events = POLLIN;
  publish(&r);
  check(enter(&r, 1, 0) == 1, "it was not taken");
  check_call(write(ends[1], "x", 1) == 1);
  expect(&r, 9, POLLIN);
  check_call(close(ends[1]) == 0);
  expect(&r, 9, POLLIN | POLLHUP);
  (void)next(&r, IORING_OP_POLL_REMOVE, -1, (void *)9, 0, 10); /* it is not in flight any more; the counters do not tell */
  publish(&r);
  check(enter(&r, 1, 1) == 1, "the end of it was not taken");
  wait_for_check();
}

static void registered(bool buffers) {
  Ring r = ring_new(8, 0);
  int fd = eventfd(0, EFD_CLOEXEC);
  struct {
    uint64_t address;
    uint32_t entries;
    uint16_t group, flags;
    uint64_t reserved[3];
  } group = {.entries = 4, .group = 3};
  group.address = (uintptr_t)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (buffers)
    check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_PBUF_RING, &group, 1) == 0);
  else
    check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_EVENTFD, &fd, 1) == 0);
  wait_for_check();
  uint64_t count = 0;
  next(&r, IORING_OP_NOP, -1, NULL, 0, 1);
  publish(&r);
  check(enter(&r, 1, 0) == 1, "it was not taken");
  check(buffers || read(fd, &count, sizeof count) == sizeof count, "the eventfd was not told");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "idle";
  if (strcmp(what, "idle") == 0)
    idle(8, 0, 1001);
  else if (strcmp(what, "big") == 0)
    idle(256, IORING_SETUP_SQE128 | IORING_SETUP_CQE32, 700);
  else if (strcmp(what, "small") == 0)
    idle(4, IORING_SETUP_SQE128 | IORING_SETUP_CQE32, 30);
  else if (strcmp(what, "array") == 0)
    idle(8, NO_SQARRAY, 50);
  else if (strcmp(what, "thread") == 0)
    polled();
  else if (strcmp(what, "worker") == 0)
    worker();
  else if (strcmp(what, "issuer") == 0)
    issuer();
  else if (strcmp(what, "things") == 0)
    things();
  else if (strcmp(what, "shared") == 0)
    shared();
  else if (strcmp(what, "poll") == 0)
    in_flight(IORING_OP_POLL_ADD);
  else if (strcmp(what, "timeout") == 0)
    in_flight(IORING_OP_TIMEOUT);
  else if (strcmp(what, "multishot") == 0)
    multishot();
  else
    registered(strcmp(what, "buffers") == 0);
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rings of io_uring(7), used by their system calls alone. argv[2]: what is tried.
 *   idle      requests done, completions read and unread, requests written and not handed over; read files afterwards
 *   issuer    a ring of one thread (SINGLE_ISSUER, DEFER_TASKRUN), its descriptor registered, which waits in it
 *   things    registered files and buffers, with holes
 *   shared    a child that has the ring, too
 *   big, small, array   other sizes and layouts
 *   thread    two rings with a submitting thread (SQPOLL), one of them in an epoll, unread completions
 *   worker    a worker of the kernel's among the threads
 *   waits, waits-issuer   requests that wait for something: polls, accepts, receipts, reads, time-outs
 *   buffers, buffers-issuer, buffers-multishot   groups of buffers to choose from
 *   drained   writes and an fsync that are under way
 *   counted   a time-out that ends with other requests
 *   poll, timeout, eventfd, buffers, multishot   each by itself: refused where the kernel cannot be read
 * Refused:
 *   message   a request whose memory the kernel has copied
 *   busy      a worker waits */

#include "subject.h"
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
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
  for (int i = 0; !cqe && i < SUBJECT_PATIENCE; i++, cqe = peek(r)) {
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
  check(epoll_wait(epoll, &got, 1, 30000) == 1 && got.data.u64 == 4711, "no event of a completion");
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
  for (int i = 0; i < SUBJECT_PATIENCE && woken != 3; i++) {
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
  int file = make_file("file", "hello"), ends[2], told[2];
  char byte = 0;
  check_call(pipe2(ends, O_CLOEXEC) == 0 && pipe2(told, O_CLOEXEC) == 0);
  nops(&r, 5);
  pid_t child = fork();
  if (child == 0) {
    next(&r, IORING_OP_POLL_ADD, ends[0], NULL, 0, 55)->poll32_events = POLLIN; /* it is the child that is told */
    publish(&r);
    check(enter(&r, 1, 0) == 1 && write(told[1], "x", 1) == 1, "the poll was not taken");
    while (!subject_checking())
      subject_tick();
    check_call(write(ends[1], "x", 1) == 1);
    expect(&r, 55, POLLIN);
    use(&r, file);
    _exit(0);
  }
  int status = -1;
  check_call(read(told[0], &byte, 1) == 1);
  wait_for_check();
  check_call(waitpid(child, &status, 0) == child);
  check(status == 0, "the child could not use it");
  r.submitted += 2, r.reaped += 2; /* the child's */
  nops(&r, 20);
}

/* --- in flight --- */

static void submit(Ring *r) {
  publish(r);
  check(enter(r, 1, 0) == 1, "a request was not taken");
}

/* Whatever comes, in any order: results[user_data], -1: nothing, and how many of each. */
#define N_WAITS 16
typedef struct Seen {
  int result[N_WAITS], times[N_WAITS];
  unsigned flags[N_WAITS];
} Seen;

static void look(Ring *r, Seen *s) {
  (void)syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
  for (const struct io_uring_cqe *cqe; (cqe = peek(r)); seen(r)) {
    check(cqe->user_data < N_WAITS, "a completion of %llu", (unsigned long long)cqe->user_data);
    s->result[cqe->user_data] = cqe->res;
    s->flags[cqe->user_data] = cqe->flags;
    s->times[cqe->user_data]++;
  }
}

static int await(Ring *r, Seen *s, int which, int times) {
  for (int i = 0; i < SUBJECT_PATIENCE && s->times[which] < times; i++) {
    look(r, s);
    if (s->times[which] < times)
      subject_tick();
  }
  check(s->times[which] == times, "request %d has %d completions, not %d (the last: %d)", which, s->times[which], times, s->result[which]);
  return s->result[which];
}

enum { POLL = 1, POLLS, ACCEPT, ACCEPTS, RECV, READ_PIPE, READ_EVENT, SHORT, LONG, COUNTED, READ_SOCKET, HUNG, REPEATED, FIXED };

static int listener(const char *suffix, struct sockaddr_un *address) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "rings-%d-%s", (int)getpid(), suffix);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && bind(fd, (struct sockaddr *)address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) == 0 && listen(fd, 8) == 0);
  return fd;
}

static void call(const struct sockaddr_un *address) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  size_t n = strlen(address->sun_path + 1);
  check_call(fd >= 0 && connect(fd, (const struct sockaddr *)address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) == 0);
}

static struct __kernel_timespec short_time = {.tv_sec = 1}, long_time = {.tv_sec = 1000}, period = {.tv_nsec = 300000000};

typedef struct Waits {
  int pipes[5][2], event, events, socket[2], other[2], listen, listens;
  struct sockaddr_un address, addresses;
  char text[4][16];
  uint64_t count;
} Waits;

static void begin_waits(Ring *r, Waits *w) {
  check_call((w->event = eventfd(0, EFD_CLOEXEC)) >= 0 && (w->events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->socket) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->other) == 0);
  w->listen = listener("one", &w->address), w->listens = listener("many", &w->addresses);
  next(r, IORING_OP_POLL_ADD, w->pipes[0][0], NULL, 0, POLL)->poll32_events = POLLIN;
  submit(r);
  next(r, IORING_OP_POLL_ADD, w->events, NULL, IORING_POLL_ADD_MULTI, POLLS)->poll32_events = POLLIN;
  submit(r);
  next(r, IORING_OP_POLL_ADD, w->pipes[3][0], NULL, 0, HUNG)->poll32_events = POLLPRI;
  submit(r);
  next(r, IORING_OP_ACCEPT, w->listen, NULL, 0, ACCEPT)->accept_flags = SOCK_CLOEXEC;
  submit(r);
  next(r, IORING_OP_ACCEPT, w->listens, NULL, 0, ACCEPTS)->ioprio = 1; /* IORING_ACCEPT_MULTISHOT */
  submit(r);
  (void)next(r, IORING_OP_RECV, w->socket[0], w->text[0], 16, RECV);
  submit(r);
  (void)next(r, IORING_OP_READ, w->pipes[1][0], w->text[1], 16, READ_PIPE);
  submit(r);
  (void)next(r, IORING_OP_READ, w->other[0], w->text[2], 16, READ_SOCKET);
  submit(r);
  (void)next(r, IORING_OP_READ, w->event, &w->count, 8, READ_EVENT);
  submit(r);
  next(r, IORING_OP_READ, 1, w->text[3], 16, FIXED)->flags = IOSQE_FIXED_FILE;
  submit(r);
}

static void begin_timeouts(Ring *r) {
  (void)next(r, IORING_OP_TIMEOUT, -1, &short_time, 1, SHORT);
  submit(r);
  (void)next(r, IORING_OP_TIMEOUT, -1, &long_time, 1, LONG);
  submit(r);
  struct io_uring_sqe *sqe = next(r, IORING_OP_TIMEOUT, -1, &period, 1, REPEATED);
  sqe->timeout_flags = 1u << 6; /* IORING_TIMEOUT_MULTISHOT */
  sqe->off = 3;
  submit(r);
}

static void end_waits(Ring *r, Waits *w, Seen *s) {
  check_call(write(w->pipes[0][1], "x", 1) == 1 && write(w->socket[1], "recv", 4) == 4 && write(w->pipes[1][1], "pipe", 4) == 4);
  check_call(write(w->other[1], "sock", 4) == 4 && write(w->event, &(uint64_t){3}, 8) == 8 && write(w->pipes[4][1], "fixed", 5) == 5);
  check_call(close(w->pipes[3][1]) == 0);
  check(await(r, s, POLL, 1) == POLLIN, "the poll has 0x%x", s->result[POLL]);
  check(await(r, s, HUNG, 1) == POLLHUP, "the hang-up is 0x%x", s->result[HUNG]);
  check(await(r, s, RECV, 1) == 4 && memcmp(w->text[0], "recv", 5) == 0, "recv: %d, %s", s->result[RECV], w->text[0]);
  check(await(r, s, READ_PIPE, 1) == 4 && memcmp(w->text[1], "pipe", 5) == 0, "read: %d, %s", s->result[READ_PIPE], w->text[1]);
  check(await(r, s, READ_SOCKET, 1) == 4 && memcmp(w->text[2], "sock", 5) == 0, "read: %d, %s", s->result[READ_SOCKET], w->text[2]);
  check(await(r, s, READ_EVENT, 1) == 8 && w->count == 3, "read %d, %d", s->result[READ_EVENT], (int)w->count);
  check(await(r, s, FIXED, 1) == 5 && memcmp(w->text[3], "fixed", 6) == 0, "read: %d, %s", s->result[FIXED], w->text[3]);
  for (int i = 2; i < 4; i++) { /* one it had before */
    check_call(write(w->events, &(uint64_t){1}, 8) == 8);
    check(await(r, s, POLLS, i) == POLLIN && s->flags[POLLS] & IORING_CQE_F_MORE, "poll %d of many: 0x%x", i, s->result[POLLS]);
    check_call(read(w->events, &w->count, 8) == 8);
  }
  call(&w->address);
  check(await(r, s, ACCEPT, 1) > 0, "the accept has %d", s->result[ACCEPT]);
  check(fcntl(s->result[ACCEPT], F_GETFD) == FD_CLOEXEC, "the accepted one is not closed on exec");
  for (int i = 3; i < 5; i++) { /* two it had before */
    call(&w->addresses);
    check(await(r, s, ACCEPTS, i) > 0 && s->flags[ACCEPTS] & IORING_CQE_F_MORE, "accept %d of many: %d", i, s->result[ACCEPTS]);
  }
}

static void end_timeouts(Ring *r, Seen *s) {
  check(await(r, s, SHORT, 1) == -ETIME, "the time-out has %d", s->result[SHORT]);
  if (s->result[REPEATED] != -EINVAL) /* before 6.4 there are none */
    check(await(r, s, REPEATED, 3) == -ETIME && !(s->flags[REPEATED] & IORING_CQE_F_MORE), "the repeated time-out has %d", s->result[REPEATED]);
  check(s->times[LONG] == 0, "the long time-out has %d", s->result[LONG]);
  (void)next(r, 12 /* TIMEOUT_REMOVE */, -1, (void *)LONG, 0, 0);
  submit(r);
  check(await(r, s, 0, 1) == 0 && await(r, s, LONG, 1) == -ECANCELED, "the long time-out was not there: %d", s->result[0]);
}

/* Whether the kernel knows how many requests are in flight (since Linux 6.16), so that some may have ended without a word. */
static bool counts_requests(void) {
  size_t size = 0;
  char *types = subject_read("/sys/kernel/btf/vmlinux", &size);
  bool counts = memmem(types, size, "nr_req_allocated", 16);
  free(types);
  return counts;
}

/* Everything that can be made again, after requests with several completions and with none. */
static void waits(unsigned flags) {
  static Waits w;
  static Seen s;
  Ring r = ring_new(8, flags);
  for (int i = counts_requests() ? 0 : 3; i < 3; i++) {
    next(&r, IORING_OP_NOP, -1, NULL, 0, 0)->flags = 1u << 6; /* IOSQE_CQE_SKIP_SUCCESS */
    submit(&r);
  }
  int files[2] = {-1, -1};
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_FILES, files, 2) == 0);
  check_call(pipe2(w.pipes[4], O_CLOEXEC) == 0);
  int spare[2] = {w.pipes[4][0], w.pipes[4][1]};
  struct {
    uint32_t offset, reserved;
    uint64_t data;
  } update = {.offset = 1, .data = (uintptr_t)&spare[0]};
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_FILES_UPDATE, &update, 1) == 1);
  for (int i = 0; i < 4; i++)
    check_call(pipe2(w.pipes[i], O_CLOEXEC) == 0);
  begin_waits(&r, &w);
  begin_timeouts(&r);
  check_call(write(w.events, &(uint64_t){1}, 8) == 8);
  check(await(&r, &s, POLLS, 1) == POLLIN, "the poll of many has 0x%x", s.result[POLLS]);
  check_call(read(w.events, &w.count, 8) == 8);
  for (int i = 1; i < 3; i++) {
    call(&w.addresses);
    check(await(&r, &s, ACCEPTS, i) > 0, "the accept of many has %d", s.result[ACCEPTS]);
  }
  uint64_t begun = subject_nsec(CLOCK_MONOTONIC);
  wait_for_check();
  look(&r, &s);
  check(s.times[POLL] == 0 && s.times[POLLS] <= 2 && s.times[ACCEPT] == 0 && s.times[RECV] == 0 && s.times[READ_EVENT] == 0,
      "something came of nothing: %d, %d, %d (0x%x), %d, %d, %d", s.times[POLL], s.times[POLLS], s.times[ACCEPT], s.result[ACCEPT], s.times[RECV],
      s.times[READ_EVENT], s.result[READ_EVENT]);
  s.times[POLLS] = 1; /* it may be told once more */
  end_waits(&r, &w, &s);
  end_timeouts(&r, &s);
  (void)begun;
  for (uint64_t i = 0; i < 20; i++) {
    next(&r, IORING_OP_NOP, -1, NULL, 0, COUNTED);
    submit(&r);
    check(await(&r, &s, COUNTED, (int)i + 1) == 0, "nothing has %d", s.result[COUNTED]);
  }
}

/* It ends with the third completion of others. */
static void counted(void) {
  static Seen s;
  Ring r = ring_new(8, 0);
  nops(&r, 5);
  next(&r, IORING_OP_TIMEOUT, -1, &long_time, 1, COUNTED)->off = 3;
  submit(&r);
  next(&r, IORING_OP_NOP, -1, NULL, 0, SHORT);
  submit(&r);
  check(await(&r, &s, SHORT, 1) == 0 && s.times[COUNTED] == 0, "it ended too early");
  wait_for_check();
  for (int i = 2; i < 4; i++) {
    look(&r, &s);
    check(s.times[COUNTED] == 0, "it ended after %d of 3", i - 1);
    next(&r, IORING_OP_NOP, -1, NULL, 0, SHORT);
    submit(&r);
    check(await(&r, &s, SHORT, i) == 0, "nothing has %d", s.result[SHORT]);
  }
  check(await(&r, &s, COUNTED, 1) == 0, "it has %d", s.result[COUNTED]);
}

static void message(int opcode) {
  static char text[16];
  static struct iovec iov = {text, 16};
  static struct msghdr head = {.msg_iov = &iov, .msg_iovlen = 1};
  Ring r = ring_new(8, 0);
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  nops(&r, 5);
  (void)next(&r, opcode, ends[0], &head, 1, 9);
  submit(&r);
  wait_for_check();
  check(!peek(&r), "it is done, or was cancelled");
  check_call(write(ends[1], "x", 1) == 1);
  expect(&r, 9, 1);
}

static void in_flight(int opcode) {
  Ring r = ring_new(8, 0);
  int ends[2];
  check_call(pipe(ends) == 0);
  nops(&r, 5);
  struct io_uring_sqe *sqe = next(&r, opcode, opcode == IORING_OP_TIMEOUT ? -1 : ends[0], &long_time, 1, 9);
  if (opcode == IORING_OP_POLL_ADD)
    sqe->addr = 0, sqe->len = 0, sqe->poll32_events = POLLIN;
  submit(&r);
  wait_for_check();
  check(!peek(&r), "it is done, or was cancelled");
  if (opcode != IORING_OP_POLL_ADD)
    return;
  check_call(write(ends[1], "x", 1) == 1);
  expect(&r, 9, POLLIN);
}

/* A worker of the kernel's waits for what could be moved. */
static void busy(void) {
  Ring r = ring_new(8, 0);
  int from[2], to[2];
  check_call(pipe2(from, O_CLOEXEC) == 0 && pipe2(to, O_CLOEXEC) == 0);
  struct io_uring_sqe *sqe = next(&r, IORING_OP_SPLICE, to[1], NULL, 1, 9);
  sqe->splice_fd_in = from[0];
  sqe->splice_off_in = sqe->off = (uint64_t)-1;
  submit(&r);
  wait_for_check();
  check(!peek(&r), "it is done, or was cancelled");
  check_call(write(from[1], "x", 1) == 1);
  expect(&r, 9, 1);
}

/* Something that takes a moment: it is done, and nothing of it is lost. */
static void drained(void) {
  Ring r = ring_new(8, 0);
  int file = make_file("file", "hello");
  static char block[1 << 20];
  for (uint64_t i = 0; i < 6; i++)
    next(&r, IORING_OP_WRITE, file, block, sizeof block, i)->flags = IOSQE_ASYNC;
  next(&r, IORING_OP_FSYNC, file, NULL, 0, 6)->flags = IOSQE_IO_DRAIN;
  publish(&r);
  check(enter(&r, 7, 0) == 7, "the requests were not taken");
  wait_for_check();
  for (int i = 0, seen_ = 0; seen_ != 0x7f; i++) {
    const struct io_uring_cqe *cqe = peek(&r);
    check(cqe || i < SUBJECT_PATIENCE, "only some of the requests were done (0x%x)", seen_);
    if (!cqe) {
      subject_tick();
      continue;
    }
    check(cqe->res == (cqe->user_data == 6 ? 0 : (int)sizeof block), "request %d has %d", (int)cqe->user_data, cqe->res);
    seen_ |= 1 << cqe->user_data;
    seen(&r);
  }
}

static void multishot(void) {
  Ring r = ring_new(8, 0);
  int ends[2];
  check_call(pipe(ends) == 0);
  struct io_uring_sqe *sqe = next(&r, IORING_OP_POLL_ADD, ends[0], NULL, IORING_POLL_ADD_MULTI, 9);
  sqe->poll32_events = POLLIN;
  submit(&r);
  check_call(write(ends[1], "x", 1) == 1);
  expect(&r, 9, POLLIN);
  check_call(close(ends[1]) == 0);
  expect(&r, 9, POLLIN | POLLHUP);
  (void)next(&r, IORING_OP_POLL_REMOVE, -1, (void *)9, 0, 10); /* it is not in flight any more; the counters do not tell */
  publish(&r);
  check(enter(&r, 1, 1) == 1, "the end of it was not taken");
  for (int i = 0; i < 20 && r.reaped < *word(&r, r.p.cq_off.tail); i++)
    seen(&r);
  wait_for_check();
  nops(&r, 30);
}

static void registered(void) {
  Ring r = ring_new(8, 0);
  int fd = eventfd(0, EFD_CLOEXEC);
  check_call(syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_EVENTFD, &fd, 1) == 0);
  check_call(dup2(eventfd(7, EFD_CLOEXEC), 200) == 200); /* another one */
  wait_for_check();
  uint64_t count = 0;
  next(&r, IORING_OP_NOP, -1, NULL, 0, 1);
  submit(&r);
  check(read(fd, &count, sizeof count) == sizeof count && count == 1, "the eventfd was told %d times", (int)count);
}

/* --- groups of buffers --- */

#define GROUP_MAP 1u
#define GROUP_INC 2u

typedef struct Entry {
  uint64_t address;
  uint32_t size;
  uint16_t id, tail;
} Entry;

typedef struct Group {
  Entry *list; /* shared with the kernel */
  unsigned entries, id, size;
  uint16_t tail, head; /* as the program counts */
  char *memory;
} Group;

static void give(Group *g, uint16_t id) {
  Entry *e = &g->list[g->tail & (g->entries - 1)];
  e->address = (uintptr_t)g->memory + (uintptr_t)id * g->size;
  e->size = g->size;
  e->id = id;
  __atomic_store_n(&g->list[0].tail, ++g->tail, __ATOMIC_RELEASE);
}

typedef struct GroupReg {
  uint64_t address;
  uint32_t entries;
  uint16_t group, flags;
  uint64_t reserved[3];
} GroupReg;

/* Of those before IOU_PBUF_RING_INC the kernel does not tell where they are, and a dump refuses them. */
static void need_groups(void) {
  static char list[4096] __attribute__((aligned(4096)));
  struct io_uring_params p = {0};
  int fd = (int)syscall(SYS_io_uring_setup, 4, &p);
  GroupReg reg = {.address = (uintptr_t)list, .entries = 4, .flags = GROUP_INC};
  if (syscall(SYS_io_uring_register, fd, 22 /* PBUF_RING */, &reg, 1) < 0)
    subject_skip("this kernel has no such buffers");
  check_call(close(fd) == 0);
}

static void group_new(Ring *r, Group *g, unsigned id, unsigned entries, unsigned size, unsigned flags) {
  GroupReg reg = {.entries = entries, .group = (uint16_t)id, .flags = (uint16_t)flags};
  size_t bytes = (entries * sizeof(Entry) + 4095) & ~4095UL;
  *g = (Group){.entries = entries, .id = id, .size = size, .memory = calloc(entries, size)};
  if (!(flags & GROUP_MAP))
    g->list = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  reg.address = (uintptr_t)g->list;
  if (syscall(SYS_io_uring_register, r->fd, 22 /* PBUF_RING */, &reg, 1) < 0)
    subject_skip("this kernel has no such buffers");
  if (flags & GROUP_MAP)
    g->list = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, (off_t)(0x80000000UL | id << 16));
  check_call(g->list != MAP_FAILED && g->memory);
  for (unsigned i = 0; i < entries; i++)
    give(g, (uint16_t)i);
}

/* One buffer is chosen: the one that is next. */
static void choose(Ring *r, Group *g, const int ends[2], const char *text) {
  int size = (int)strlen(text);
  uint16_t wanted = g->list[g->head++ & (g->entries - 1)].id;
  check_call(write(ends[1], text, (size_t)size) == size);
  struct io_uring_sqe *sqe = next(r, IORING_OP_RECV, ends[0], NULL, g->size, 5);
  sqe->flags = IOSQE_BUFFER_SELECT;
  sqe->buf_group = (uint16_t)g->id;
  submit(r);
  const struct io_uring_cqe *cqe = peek(r);
  for (int i = 0; !cqe && i < SUBJECT_PATIENCE; i++, cqe = peek(r)) {
    (void)enter(r, 0, 0);
    subject_tick();
  }
  check(cqe && cqe->res == size && cqe->flags >> 16 == wanted, "group %u: %d with buffer %u, expected %u", g->id, cqe ? cqe->res : -1,
      cqe ? cqe->flags >> 16 : 0, wanted);
  check(memcmp(g->memory + wanted * g->size, text, (size_t)size) == 0, "group %u: the buffer has something else", g->id);
  seen(r);
}

static void chosen(unsigned flags) {
  static Group own, mapped, eaten;
  Ring r = ring_new(8, flags);
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  group_new(&r, &own, 3, 16, 32, 0);
  group_new(&r, &mapped, 70, 256, 16, GROUP_MAP);
  group_new(&r, &eaten, 4, 4, 8, GROUP_INC);
  for (int i = 0; i < 45; i++) {
    choose(&r, &own, ends, "own");
    give(&own, (uint16_t)((i * 7) % 16));
  }
  for (int i = 0; i < 700; i++) {
    choose(&r, &mapped, ends, "mapped");
    give(&mapped, (uint16_t)(i % 256));
  }
  choose(&r, &eaten, ends, "eight by");
  choose(&r, &eaten, ends, "eight by");
  give(&eaten, 0), give(&eaten, 1);
  for (int i = 0; i < 3; i++) { /* some are left out */
    choose(&r, &own, ends, "last");
    choose(&r, &mapped, ends, "last");
  }
  wait_for_check();
  for (int i = 0; i < 13; i++)
    choose(&r, &own, ends, "again");
  next(&r, IORING_OP_RECV, ends[0], NULL, 32, 9)->flags = IOSQE_BUFFER_SELECT;
  ((struct io_uring_sqe *)(void *)(r.sqes + ((r.submitted - 1) & (r.p.sq_entries - 1)) * 64))->buf_group = 3;
  submit(&r);
  expect(&r, 9, -ENOBUFS);
  for (int i = 0; i < 253; i++)
    choose(&r, &mapped, ends, "once");
  for (int i = 0; i < 4; i++)
    choose(&r, &eaten, ends, "eight by");
  give(&own, 5);
  choose(&r, &own, ends, "given");
}

/* A request that waits with the buffers: many completions of one. */
static void chosen_multishot(unsigned flags) {
  static Group g;
  static Seen s;
  need_groups();
  Ring r = ring_new(8, flags);
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  group_new(&r, &g, 0, 8, 16, 0);
  for (int i = 0; i < 3; i++) {
    next(&r, IORING_OP_NOP, -1, NULL, 0, 0);
    submit(&r);
  }
  struct io_uring_sqe *sqe = next(&r, IORING_OP_RECV, ends[0], NULL, 0, RECV);
  sqe->flags = IOSQE_BUFFER_SELECT;
  sqe->ioprio = 2; /* IORING_RECV_MULTISHOT */
  submit(&r);
  for (int i = 0; i < 20; i++) {
    uint16_t wanted = g.list[g.head++ & 7].id;
    check_call(write(ends[1], "packet", 6) == 6);
    check(await(&r, &s, RECV, i + 1) == 6 && s.flags[RECV] >> 16 == wanted && s.flags[RECV] & IORING_CQE_F_MORE, "packet %d: %d, buffer %u, not %u", i,
        s.result[RECV], s.flags[RECV] >> 16, wanted);
    give(&g, wanted);
    if (i == 10)
      wait_for_check();
  }
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
  else if (strcmp(what, "waits") == 0)
    waits(0);
  else if (strcmp(what, "waits-issuer") == 0)
    waits(SINGLE_ISSUER | DEFER_TASKRUN);
  else if (strcmp(what, "counted") == 0)
    counted();
  else if (strcmp(what, "message") == 0)
    message(IORING_OP_RECVMSG);
  else if (strcmp(what, "busy") == 0)
    busy();
  else if (strcmp(what, "drained") == 0)
    drained();
  else if (strcmp(what, "buffers") == 0)
    chosen(0);
  else if (strcmp(what, "buffers-issuer") == 0)
    chosen(SINGLE_ISSUER | DEFER_TASKRUN);
  else if (strcmp(what, "buffers-multishot") == 0)
    chosen_multishot(0);
  else
    registered();
  return subject_pass();
}

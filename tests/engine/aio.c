/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Asynchronous I/O (io_setup(2)).
 *   rings    rings with completed requests, before and behind their end, of several sizes; direct I/O that goes on while the
 *            dump begins; a thread that waits in io_getevents(2); a child with a ring of its own
 *   fork     a child that has its parent's ring: refused */

#include "subject.h"
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

typedef struct Header {
  unsigned id, nr, head, tail, magic, compat, incompat, length;
} Header;

enum { SIZE = 1 << 20, PAGE = 4096 };

static int file = -1, event = -1;
static aio_context_t small, wrapped, large, busy, waiting;
static unsigned char *buffer;

static int submit(aio_context_t ring, int opcode, int fd, void *buf, size_t size, off_t offset, uint64_t data) {
  struct iocb iocb = {.aio_data = data, .aio_lio_opcode = (uint16_t)opcode, .aio_fildes = (uint32_t)fd, .aio_buf = (uint64_t)buf,
      .aio_nbytes = size, .aio_offset = offset}, *list = &iocb;
  return (int)syscall(SYS_io_submit, ring, 1, &list);
}

static int fetch(aio_context_t ring, int n, struct io_event *events) {
  struct timespec none = {0, 0};
  return (int)syscall(SYS_io_getevents, ring, 0, n, events, &none);
}

static void complete(aio_context_t ring, int n, uint64_t first) {
  static char text[] = "x";
  for (int i = 0; i < n; i++)
    check_call(submit(ring, IOCB_CMD_PWRITE, file, text, 1, 0, first + (uint64_t)i) == 1);
}

/* @n of them, in their order. */
static void verify_events(const char *what, aio_context_t ring, int n, uint64_t first) {
  struct io_event events[256];
  int got = fetch(ring, 256, events);
  check(got == n, "%s: %d events, not %d: %s", what, got, n, strerror(errno));
  for (int i = 0; i < n; i++)
    check(events[i].data == first + (uint64_t)i && events[i].res == 1, "%s: event %d is %lx, %ld", what, i, (unsigned long)events[i].data,
        (long)events[i].res);
}

static const Header *header(aio_context_t ring) {
  return (const Header *)ring; /* NOLINT(performance-no-int-to-ptr) */
}

static void make_file(void) {
  char path[4096];
  subject_path(path, sizeof path, "file");
  file = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
  check_call(file >= 0 && ftruncate(file, SIZE) == 0);
}

static int direct_file(void) {
  char path[4096];
  subject_path(path, sizeof path, "file");
  int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  return fd < 0 ? open(path, O_RDONLY | O_CLOEXEC) : fd; /* not every file system has it */
}

static void make_rings(void) {
  struct io_event events[256];
  check_call(syscall(SYS_io_setup, 1, &small) == 0 && syscall(SYS_io_setup, 10, &wrapped) == 0);
  check_call(syscall(SYS_io_setup, 1000, &large) == 0 && syscall(SYS_io_setup, 64, &busy) == 0 && syscall(SYS_io_setup, 3, &waiting) == 0);
  complete(small, 3, 100);
  for (int i = 0; i < 3; i++) { /* once around and a half */
    complete(wrapped, 60, 0);
    check(fetch(wrapped, 60, events) == 60, "60 events");
  }
  complete(wrapped, 100, 200);
  check(header(wrapped)->head > header(wrapped)->tail, "head %u, tail %u", header(wrapped)->head, header(wrapped)->tail);
  for (int i = 0; i < 10; i++) {
    complete(large, 200, 0);
    check(fetch(large, 200, events) == 200, "200 events");
  }
  buffer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call(buffer != MAP_FAILED);
}

/* What is under way when the dump begins. */
static void keep_busy(int direct) {
  for (int i = 0; i < 64; i++)
    check_call(submit(busy, IOCB_CMD_PREAD, direct, buffer + i * PAGE, PAGE, (off_t)i * PAGE, (uint64_t)i) == 1);
}

static unsigned fetch_busy(void) {
  struct io_event events[64];
  unsigned total = 0;
  for (int tries = 0; total < 64 && tries < SUBJECT_PATIENCE; tries++) {
    int n = fetch(busy, 64, events);
    check_call(n >= 0);
    for (int i = 0; i < n; i++)
      check(events[i].res == PAGE && events[i].data < 64, "read %lu gave %ld", (unsigned long)events[i].data, (long)events[i].res);
    total += (unsigned)n;
    if (total < 64)
      subject_tick();
  }
  return total;
}

static void *wait_for_event(void *unused) {
  struct io_event one;
  long n = syscall(SYS_io_getevents, waiting, 1, 1, &one, NULL);
  check(n == 1 && one.data == 4711, "io_getevents gave %ld: %s", n, strerror(errno));
  return unused;
}

static int child_main(void) {
  aio_context_t own = 0;
  check_call(munmap((void *)small, PAGE) == 0); /* NOLINT(performance-no-int-to-ptr) */
  check_call(syscall(SYS_io_setup, 1, &own) == 0);
  complete(own, 5, 500);
  uint64_t one = 1;
  check_call(write(event, &one, sizeof one) == sizeof one);
  while (!subject_checking())
    subject_tick();
  verify_events("the child's", own, 5, 500);
  complete(own, 1, 600);
  verify_events("the child's", own, 1, 600);
  return 0;
}

static int run_fork(void) {
  check_call(syscall(SYS_io_setup, 1, &small) == 0);
  pid_t child = fork();
  check_call(child >= 0);
  while (!child || !subject_checking()) {
    if (child && !subject_checking())
      subject_say("ready", "");
    subject_tick();
    if (!child && subject_checking())
      _exit(0);
  }
  check_call(waitpid(child, NULL, 0) == child);
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  if (argc > 2 && strcmp(argv[2], "fork") == 0)
    return run_fork();
  make_file();
  event = eventfd(0, EFD_CLOEXEC);
  check_call(syscall(SYS_io_setup, 1, &small) == 0);
  pid_t child = fork(); /* before there are more, which it would have to unmap */
  check_call(child >= 0);
  if (child == 0)
    _exit(child_main());
  uint64_t started;
  check_call(read(event, &started, sizeof started) == sizeof started && syscall(SYS_io_destroy, small) == 0);
  small = 0;
  make_rings();
  pthread_t waiter;
  check_call(pthread_create(&waiter, NULL, wait_for_event, NULL) == 0);
  int direct = direct_file();
  keep_busy(direct);
  subject_ready();
  while (!subject_checking()) {
    check(fetch_busy() == 64, "requests are lost");
    keep_busy(direct);
    subject_tick();
  }
  check(fetch_busy() == 64, "requests are lost");
  verify_events("small", small, 3, 100);
  verify_events("wrapped", wrapped, 100, 200);
  verify_events("large", large, 0, 0);
  for (int i = 0; i < 4; i++) {
    complete(wrapped, 90, 300);
    verify_events("wrapped, again", wrapped, 90, 300);
    complete(large, 150, 300);
    verify_events("large, again", large, 150, 300);
  }
  check_call(submit(waiting, IOCB_CMD_PWRITE, file, (char[]){"y"}, 1, 0, 4711) == 1);
  check_call(pthread_join(waiter, NULL) == 0);
  int status = 0;
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  check_call(syscall(SYS_io_destroy, small) == 0 && syscall(SYS_io_destroy, large) == 0);
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chaos.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 3000
#define QUEUE_MAX 6000 /* less than any of them holds */

static int *fd_of(int object, int end) {
  return &shared->actors[self].fds[object][end];
}

static bool is_pair(const Object *o) {
  return o->kind >= KIND_PIPE && o->kind <= KIND_TERMINAL;
}

bool end_is_held(int object, int end) {
  for (int a = 0; a < N_ACTORS; a++)
    if (shared->actors[a].alive && shared->actors[a].fds[object][end] >= 0)
      return true;
  return false;
}

/* --- making --- */

static void make_tcp(int fds[static 2]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  must(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
           getsockname(listener, (struct sockaddr *)&address, &size) == 0,
      "listen: %s", strerror(errno));
  fds[0] = socket(AF_INET, SOCK_STREAM, 0);
  must(fds[0] >= 0 && connect(fds[0], (struct sockaddr *)&address, size) == 0, "connect: %s", strerror(errno));
  fds[1] = accept(listener, NULL, NULL);
  must(fds[1] >= 0, "accept: %s", strerror(errno));
  (void)close(listener);
}

/* End 0 is the slave, raw; end 1 the master. */
static void make_terminal(int fds[static 2]) {
  int unlock = 0;
  struct termios t;
  fds[1] = open("/dev/ptmx", O_RDWR | O_NOCTTY);
  must(fds[1] >= 0 && ioctl(fds[1], TIOCSPTLCK, &unlock) == 0, "ptmx: %s", strerror(errno));
  fds[0] = ioctl(fds[1], TIOCGPTPEER, O_RDWR | O_NOCTTY);
  must(fds[0] >= 0 && tcgetattr(fds[0], &t) == 0, "pts: %s", strerror(errno));
  cfmakeraw(&t);
  must(tcsetattr(fds[0], TCSANOW, &t) == 0, "raw: %s", strerror(errno));
}

static void make_file(Object *o, int fds[static 2], uint64_t *r) {
  char path[300];
  (void)snprintf(path, sizeof path, "%s/file-%u", shared->directory, o->id);
  o->flags = draw(r) % 2 ? O_APPEND : 0;
  fds[0] = open(path, O_CREAT | O_EXCL | O_RDWR | (int)o->flags, 0640);
  must(fds[0] >= 0, "%s: %s", path, strerror(errno));
  o->unlinked = draw(r) % 2;
  if (o->unlinked)
    must(unlink(path) == 0, "unlink: %s", strerror(errno));
}

static void make_timerfd(Object *o, int fds[static 2], uint64_t *r) {
  fds[0] = timerfd_create(CLOCK_MONOTONIC, 0);
  o->value = 1000 + draw(r) % 1000;
  o->flags = (uint32_t)(draw(r) % 100);
  struct itimerspec spec = {.it_value.tv_sec = (time_t)o->value, .it_interval.tv_sec = (time_t)o->flags};
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  o->value += (uint64_t)now.tv_sec;
  must(fds[0] >= 0 && timerfd_settime(fds[0], 0, &spec, NULL) == 0, "timerfd: %s", strerror(errno));
}

static void make_signalfd(Object *o, int fds[static 2], uint64_t *r) {
  sigset_t set;
  (void)sigemptyset(&set);
  o->value = 1 + draw(r) % 31;
  (void)sigaddset(&set, (int)o->value);
  fds[0] = signalfd(-1, &set, 0);
}

static void make_listener(const Object *o, int fds[static 2]) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path, sizeof address.sun_path, "%.80s/sock-%u", shared->directory, o->id);
  fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
  must(fds[0] >= 0 && bind(fds[0], (struct sockaddr *)&address, sizeof address) == 0 && listen(fds[0], 5) == 0,
      "listen: %s", strerror(errno));
}

static void make(Object *o, int fds[static 2], uint64_t *r) {
  static const int types[] = {
      [KIND_STREAM] = SOCK_STREAM, [KIND_DATAGRAM] = SOCK_DGRAM, [KIND_PACKET] = SOCK_SEQPACKET};
  int e = 0;
  switch (o->kind) {
  case KIND_PIPE:
    e = pipe(fds); /* end 0 reads what end 1 wrote */
    break;
  case KIND_STREAM:
  case KIND_DATAGRAM:
  case KIND_PACKET:
    e = socketpair(AF_UNIX, types[o->kind], 0, fds);
    break;
  case KIND_TCP:
    make_tcp(fds);
    break;
  case KIND_TERMINAL:
    make_terminal(fds);
    break;
  case KIND_EVENTFD:
    o->value = draw(r) % 1000;
    o->flags = draw(r) % 2 ? EFD_SEMAPHORE : 0;
    fds[0] = eventfd((unsigned)o->value, (int)o->flags);
    break;
  case KIND_TIMERFD:
    make_timerfd(o, fds, r);
    break;
  case KIND_SIGNALFD:
    make_signalfd(o, fds, r);
    break;
  case KIND_EPOLL:
    o->member = -1;
    fds[0] = epoll_create1(0);
    break;
  case KIND_FILE:
    make_file(o, fds, r);
    break;
  case KIND_MEMFD:
    fds[0] = memfd_create("chaos", 0);
    break;
  case KIND_LISTENER:
    make_listener(o, fds);
    break;
  default:
    return;
  }
  must(e == 0 && fds[0] >= 0, "kind %d: %s", o->kind, strerror(errno));
}

void object_create(uint64_t *r) {
  int k = (int)(draw(r) % N_OBJECTS);
  Object *o = &shared->objects[k];
  if (o->kind)
    return;
  *o = (Object){.kind = (Kind)(1 + draw(r) % (N_KINDS - 1)), .id = ++shared->next_id, .member = -1};
  int fds[2] = {-1, -1};
  make(o, fds, r);
  for (int i = 0; i < 2; i++) {
    *fd_of(k, i) = fds[i];
    if (fds[i] >= 0 && draw(r) % 2)
      must(fcntl(fds[i], F_SETFD, FD_CLOEXEC) == 0, "F_SETFD");
    if (fds[i] >= 0)
      must(fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK) == 0, "F_SETFL");
  }
}

/* --- pairs --- */

static Way *way_read_at(Object *o, int end) {
  return &o->ways[end];
}

static bool goes_from(const Object *o, int end) {
  return o->kind != KIND_PIPE || end == 1;
}

static void pair_write(int k, int end, uint64_t *r) {
  Object *o = &shared->objects[k];
  Way *w = way_read_at(o, !end);
  size_t n = 1 + draw(r) % CHUNK;
  uint8_t bytes[CHUNK];
  if (!goes_from(o, end) || !end_is_held(k, !end) || w->tail - w->head + n > QUEUE_MAX)
    return;
  if ((o->kind == KIND_DATAGRAM || o->kind == KIND_PACKET) && (w->tail - w->head) / 8 >= 5)
    return; /* unix sockets hold so many datagrams */
  if (o->kind == KIND_DATAGRAM || o->kind == KIND_PACKET)
    n = 8;
  for (size_t i = 0; i < n; i++)
    bytes[i] = byte_at(o->id, w->tail + i);
  ssize_t done = write(*fd_of(k, end), bytes, n);
  must(done > 0 || (o->kind >= KIND_TCP && errno == EAGAIN), "write to object %d of kind %d: %s", k, o->kind,
      strerror(errno));
  w->tail += done > 0 ? (uint64_t)done : 0;
}

/* What is written to a TCP connection or a terminal arrives a little later. */
static ssize_t read_soon(int fd, uint8_t *bytes, size_t n) {
  ssize_t done = read(fd, bytes, n);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  if (done < 0 && errno == EAGAIN && poll(&p, 1, 5000) == 1)
    done = read(fd, bytes, n);
  return done;
}

static void pair_read(int k, int end, uint64_t *r) {
  Object *o = &shared->objects[k];
  Way *w = way_read_at(o, end);
  size_t n = 1 + draw(r) % CHUNK;
  uint8_t bytes[CHUNK];
  if (!goes_from(o, !end) || (w->head == w->tail && o->broken))
    return;
  if (w->head == w->tail) {
    must(read(*fd_of(k, end), bytes, n) < 0 && errno == EAGAIN, "object %d of kind %d is not empty", k, o->kind);
    return;
  }
  if (o->kind == KIND_DATAGRAM || o->kind == KIND_PACKET)
    n = 8;
  ssize_t done = read_soon(*fd_of(k, end), bytes, n);
  must(done > 0 && (uint64_t)done <= w->tail - w->head, "read from object %d of kind %d: %zd, %s", k, o->kind, done,
      strerror(errno));
  for (ssize_t i = 0; i < done; i++)
    must(bytes[i] == byte_at(o->id, w->head + (uint64_t)i), "object %d of kind %d: wrong byte at %lu", k, o->kind,
        (unsigned long)w->head + (unsigned long)i);
  w->head += (uint64_t)done;
}

/* --- single ones --- */

static void change_eventfd(Object *o, int fd, uint64_t *r) {
  uint64_t n = 1 + draw(r) % 100;
  if (draw(r) % 2) {
    must(write(fd, &n, 8) == 8, "eventfd: %s", strerror(errno));
    o->value += n;
    return;
  }
  ssize_t done = read(fd, &n, 8);
  uint64_t expected = o->flags ? 1 : o->value;
  must(o->value ? done == 8 && n == expected : done < 0, "eventfd: %ld, had %lu", (long)n, (unsigned long)o->value);
  o->value -= o->value ? n : 0;
}

static void change_file(Object *o, int fd, uint64_t *r) {
  uint8_t bytes[CHUNK];
  size_t n = 1 + draw(r) % CHUNK;
  if (draw(r) % 2 && o->value + n < 100000) { /* longer */
    for (size_t i = 0; i < n; i++)
      bytes[i] = byte_at(o->id, o->value + i);
    must(lseek(fd, (off_t)o->value, SEEK_SET) >= 0 && write(fd, bytes, n) == (ssize_t)n, "write: %s", strerror(errno));
    o->value += n;
    o->offset = o->value;
    return;
  }
  if (draw(r) % 3 == 0 && o->value) {
    o->offset = draw(r) % o->value;
    must(lseek(fd, (off_t)o->offset, SEEK_SET) >= 0, "lseek");
  }
  ssize_t done = read(fd, bytes, n);
  must(done == (ssize_t)(n < o->value - o->offset ? n : o->value - o->offset), "file of %lu bytes at %lu: %zd of %zu",
      (unsigned long)o->value, (unsigned long)o->offset, done, n);
  for (ssize_t i = 0; i < done; i++)
    must(bytes[i] == byte_at(o->id, o->offset + (uint64_t)i), "file: wrong byte at %lu",
        (unsigned long)o->offset + (unsigned long)i);
  o->offset += (uint64_t)done;
}

/* Joins a pair of the same process, or lets it go. */
static void change_epoll(int k, int fd, uint64_t *r) {
  Object *o = &shared->objects[k];
  if (o->member >= 0) {
    int member = *fd_of(o->member, 0);
    if (member >= 0 && epoll_ctl(fd, EPOLL_CTL_DEL, member, NULL) == 0)
      o->member = -1;
    return;
  }
  int m = (int)(draw(r) % N_OBJECTS);
  if (!is_pair(&shared->objects[m]) || *fd_of(m, 0) < 0)
    return;
  static const uint32_t choices[] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLOUT, EPOLLIN | EPOLLOUT | EPOLLONESHOT, EPOLLPRI};
  struct epoll_event e = {.events = choices[draw(r) % 5], .data.u64 = (uint64_t)m << 32 | o->id};
  must(epoll_ctl(fd, EPOLL_CTL_ADD, *fd_of(m, 0), &e) == 0, "epoll_ctl: %s", strerror(errno));
  o->member = m;
  o->events = (int)e.events;
}

static void change_listener(const Object *o) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path, sizeof address.sun_path, "%.80s/sock-%u", shared->directory, o->id);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  must(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect: %s", strerror(errno));
  (void)close(fd);
}

static void drain_listener(int fd) {
  for (int got; (got = accept(fd, NULL, NULL)) >= 0;)
    (void)close(got);
}

void object_change(uint64_t *r) {
  int k = (int)(draw(r) % N_OBJECTS), end = (int)(draw(r) % 2);
  Object *o = &shared->objects[k];
  int fd = *fd_of(k, is_pair(o) ? end : 0);
  if (!o->kind || fd < 0)
    return;
  if (is_pair(o)) {
    (draw(r) % 2 ? pair_write : pair_read)(k, end, r);
    return;
  }
  switch (o->kind) {
  case KIND_EVENTFD:
    change_eventfd(o, fd, r);
    break;
  case KIND_FILE:
  case KIND_MEMFD:
    change_file(o, fd, r);
    break;
  case KIND_EPOLL:
    change_epoll(k, fd, r);
    break;
  case KIND_LISTENER:
    change_listener(o);
    drain_listener(fd);
    break;
  default:
    break;
  }
}

/* --- holding --- */

void object_close(uint64_t *r) {
  int k = (int)(draw(r) % N_OBJECTS), end = (int)(draw(r) % 2);
  int *fd = fd_of(k, end);
  if (*fd < 0)
    return;
  (void)close(*fd);
  *fd = -1;
}

/* To another number, as far away as it likes. */
void object_duplicate(uint64_t *r) {
  int k = (int)(draw(r) % N_OBJECTS), end = (int)(draw(r) % 2);
  int *fd = fd_of(k, end);
  /* registrations of an epoll go by number: those of a member stay where they are */
  for (int i = 0; i < N_OBJECTS; i++)
    if (shared->objects[i].kind == KIND_EPOLL && shared->objects[i].member == k)
      return;
  if (*fd < 0)
    return;
  int there = fcntl(*fd, draw(r) % 2 ? F_DUPFD : F_DUPFD_CLOEXEC, (int)(draw(r) % 900));
  must(there >= 0, "F_DUPFD: %s", strerror(errno));
  (void)close(*fd);
  *fd = there;
}

void objects_settle(void) {
  for (int k = 0; k < N_OBJECTS; k++) {
    Object *o = &shared->objects[k];
    bool held[2] = {end_is_held(k, 0), end_is_held(k, 1)};
    if (!o->kind)
      continue;
    if (!held[0] && !held[1]) {
      o->kind = KIND_NONE;
      for (int i = 0; i < N_OBJECTS; i++)
        if (shared->objects[i].kind == KIND_EPOLL && shared->objects[i].member == k)
          shared->objects[i].member = -1;
    } else if (is_pair(o) && !(held[0] && held[1])) {
      o->broken = true;
      o->ways[held[0]] = (Way){0}; /* nobody can read it any more */
      if (o->kind == KIND_TERMINAL || o->kind == KIND_TCP)
        o->ways[0] = o->ways[1] = (Way){0};
    }
  }
}

/* --- what can be seen without changing anything --- */

static void verify_pair(int k, int end) {
  const Object *o = &shared->objects[k];
  const Way *w = &o->ways[end];
  int there = 0;
  if (!goes_from(o, !end) || o->broken || o->kind == KIND_TERMINAL)
    return;
  must(ioctl(*fd_of(k, end), FIONREAD, &there) == 0, "FIONREAD: %s", strerror(errno));
  uint64_t expected = w->tail - w->head;
  if (o->kind == KIND_DATAGRAM && expected)
    expected = 8; /* of the first one */
  must((uint64_t)there == expected, "object %d of kind %d has %d bytes, not %lu", k, o->kind, there,
      (unsigned long)expected);
}

static void verify_timerfd(Object *o, int fd) {
  struct itimerspec left;
  struct timespec now;
  must(timerfd_gettime(fd, &left) == 0 && left.it_interval.tv_sec == (time_t)o->flags, "timerfd: interval %ld",
      (long)left.it_interval.tv_sec);
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  long off = (long)(now.tv_sec + left.it_value.tv_sec) - (long)o->value;
  must(off >= -1 && off < 120, "a timerfd is %ld s off", off); /* while it was gone its time stood still */
  o->value += (uint64_t)off;
}

static void verify_file(const Object *o, int fd) {
  struct stat st;
  must(lseek(fd, 0, SEEK_CUR) == (off_t)o->offset, "offset %ld, not %lu", (long)lseek(fd, 0, SEEK_CUR),
      (unsigned long)o->offset);
  must(fstat(fd, &st) == 0 && (uint64_t)st.st_size == o->value, "%ld bytes, not %lu", (long)st.st_size,
      (unsigned long)o->value);
  must(o->kind == KIND_MEMFD || st.st_nlink == (o->unlinked ? 0 : 1), "%lu links", (unsigned long)st.st_nlink);
  uint8_t bytes[CHUNK];
  for (uint64_t at = 0; at < o->value;) {
    ssize_t n = pread(fd, bytes, sizeof bytes, (off_t)at);
    must(n > 0, "pread: %s", strerror(errno));
    for (ssize_t i = 0; i < n; i++)
      must(bytes[i] == byte_at(o->id, at + (uint64_t)i), "file: wrong byte at %lu",
          (unsigned long)at + (unsigned long)i);
    at += (uint64_t)n;
  }
}

static void verify_eventfd(const Object *o, int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
  must(poll(&p, 1, 0) == 1 && !!(p.revents & POLLIN) == (o->value > 0), "eventfd with %lu: %x", (unsigned long)o->value,
      p.revents);
}

/* The line of fdinfo that tells of the member. */
static void verify_epoll(const Object *o, int fd) {
  char path[64], line[256], expected[100];
  bool found = false;
  if (o->member < 0 || *fd_of(o->member, 0) < 0)
    return;
  (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  (void)snprintf(expected, sizeof expected, "data: %16lx", (unsigned long)((uint64_t)o->member << 32 | o->id));
  FILE *f = fopen(path, "re");
  must(f != NULL, "%s: %s", path, strerror(errno));
  while (fgets(line, sizeof line, f))
    found |= strstr(line, expected) != NULL;
  (void)fclose(f);
  must(found, "an epoll has lost its member %d", o->member);
}

void objects_verify(void) {
  for (int k = 0; k < N_OBJECTS; k++) {
    Object *o = &shared->objects[k];
    int fd = *fd_of(k, 0);
    for (int end = 0; is_pair(o) && end < 2; end++)
      if (*fd_of(k, end) >= 0)
        verify_pair(k, end);
    if (is_pair(o) || !o->kind || fd < 0)
      continue;
    must(fcntl(fd, F_GETFD) >= 0, "descriptor %d of object %d is gone", fd, k);
    if (o->kind == KIND_TIMERFD)
      verify_timerfd(o, fd);
    else if (o->kind == KIND_FILE || o->kind == KIND_MEMFD)
      verify_file(o, fd);
    else if (o->kind == KIND_EVENTFD)
      verify_eventfd(o, fd);
    else if (o->kind == KIND_EPOLL)
      verify_epoll(o, fd);
  }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a self-checking program for run-one looks like. argv[1] is BASE:
 *   subject_begin(argc, argv);
 *   …set everything up…
 *   subject_ready();                                    makes BASE.ready
 *   while (!subject_checking()) { …verify what can be…; subject_tick(); }
 *   …verify the rest…
 *   return subject_pass();                              "PASS" into BASE.result
 * check(condition, format…) at any place writes "FAIL: …" and ends the whole process group of checks at once. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char subject_base[3072];

static inline void subject_path(char *path, size_t size, const char *suffix) {
  (void)snprintf(path, size, "%s.%s", subject_base, suffix);
}

/* All or nothing: the runner must never see half a verdict. */
static inline void subject_say(const char *suffix, const char *text) {
  char path[4096], temporary[4096];
  subject_path(path, sizeof path, suffix);
  (void)snprintf(temporary, sizeof temporary, "%s.%s.%d", subject_base, suffix, (int)getpid());
  int fd = open(temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  if (fd < 0)
    _exit(99);
  ssize_t n = write(fd, text, strlen(text));
  (void)close(fd);
  if (n != (ssize_t)strlen(text) || rename(temporary, path) < 0)
    _exit(98);
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void subject_fail(const char *format, ...) {
  char text[2048] = "FAIL: ";
  va_list ap;
  va_start(ap, format);
  (void)vsnprintf(text + 6, sizeof text - 6, format, ap);
  va_end(ap);
  char path[4096];
  subject_path(path, sizeof path, "result");
  if (access(path, F_OK) < 0) /* the first failure tells most */
    subject_say("result", text);
  _exit(1);
}

/* SUBJECT_FORGIVES="part of a text|another": what another criu's images do not hold (tests/interop). */
static inline bool subject_forgives(const char *text) {
  const char *part = getenv("SUBJECT_FORGIVES");
  for (size_t n; part && *part; part += n + (part[n] == '|')) {
    n = strcspn(part, "|");
    if (n && memmem(text, strlen(text), part, n))
      return true;
  }
  return false;
}

__attribute__((format(printf, 1, 2))) static inline void subject_miss(const char *format, ...) {
  char text[2048];
  va_list ap;
  va_start(ap, format);
  (void)vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (!subject_forgives(text))
    subject_fail("%s", text);
}

#define check(condition, ...)                                                                                          \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      subject_miss(__VA_ARGS__);                                                                                       \
  } while (0)
/* The same for calls that set errno. */
#define check_call(condition)                                                                                          \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      subject_fail("%s line %d: %s: %s", __FILE__, __LINE__, #condition, strerror(errno));                             \
  } while (0)

__attribute__((noreturn)) static inline void subject_skip(const char *why) {
  char text[1024];
  (void)snprintf(text, sizeof text, "SKIP: %s", why);
  subject_say("result", text);
  _exit(77);
}

/* pidfds of threads (PIDFD_THREAD), since Linux 6.9; or that there are none is what is tested. */
static inline bool subject_has_thread_pidfds(void) {
  if (getenv("CHECKPOINTD_NO_THREAD_PIDFDS"))
    return true;
  int fd = (int)syscall(SYS_pidfd_open, getpid(), O_EXCL);
  if (fd >= 0)
    (void)close(fd);
  return fd >= 0;
}

static inline void subject_begin(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s BASE\n", argv[0]);
    _exit(2);
  }
  (void)snprintf(subject_base, sizeof subject_base, "%s", argv[1]);
}

static inline void subject_ready(void) {
  subject_say("ready", "");
}

static inline bool subject_checking(void) {
  char path[4096];
  subject_path(path, sizeof path, "check");
  return access(path, F_OK) == 0;
}

/* Children and threads may fail too: whoever is first. */
static inline bool subject_failed(void) {
  char path[4096];
  subject_path(path, sizeof path, "result");
  return access(path, F_OK) == 0;
}

static inline int subject_pass(void) {
  if (subject_failed())
    return 1;
  subject_say("result", "PASS");
  return 0;
}

static inline uint64_t subject_nsec(clockid_t clock) {
  struct timespec now;
  (void)clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static inline void subject_tick(void) {
  const struct timespec pause = {.tv_nsec = 5000000};
  (void)nanosleep(&pause, NULL);
}

/* As long as a loaded machine may need for what takes no time: half a minute of ticks, not of the clock, since others may be
 * what keeps us from looking. */
#define SUBJECT_PATIENCE 6000

/* Waits until @condition is true: whether it is. It is looked at again and again. */
#define subject_await(condition)                                                                                       \
  ({                                                                                                                   \
    int patience_ = SUBJECT_PATIENCE;                                                                                  \
    while (!(condition) && --patience_ > 0)                                                                            \
      subject_tick();                                                                                                  \
    patience_ > 0;                                                                                                     \
  })

/* A small file in full, 0-terminated, allocated; *@ret_size may be NULL. */
static inline char *subject_read(const char *path, size_t *ret_size) {
  size_t size = 0, room = 65536;
  char *text = malloc(room);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  check(fd >= 0 && text, "%s: %s", path, strerror(errno));
  for (ssize_t n; (n = read(fd, text + size, room - size - 1)) > 0;) {
    size += (size_t)n;
    if (room - size < 4096 && !(text = realloc(text, room *= 2)))
      _exit(97);
  }
  (void)close(fd);
  text[size] = 0;
  if (ret_size)
    *ret_size = size;
  return text;
}

static inline void *subject_pause(void *data) {
  for (;;)
    (void)pause();
  return data;
}

/* Threads that do nothing, until the program ends: many have other ways of being looked at. */
static inline void subject_crowd(int n) {
  pthread_attr_t attr;
  pthread_t thread;
  check_call(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 64 << 10) == 0);
  for (int i = 0; i < n; i++)
    check(pthread_create(&thread, &attr, subject_pause, NULL) == 0, "pthread_create");
  (void)pthread_attr_destroy(&attr);
}

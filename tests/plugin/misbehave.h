/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the test plugins share: they note every call in a file and do as they are told. PLUGIN_CALLS names the file;
 * PLUGIN_DO is a list of CALLBACK=ACTION, separated by blanks: a number is the answer; crash, hang, leak (descriptors),
 * close (the engine's standard error). */

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *test_calls, *test_do;

/* Where the environment is somebody else's, both stand in $CHECKPOINTD_PLUGINS/orders, on two lines. */
static inline void test_begin(void) {
  static char path[4096], orders[4096];
  const char *directory = getenv("CHECKPOINTD_PLUGINS");
  test_calls = getenv("PLUGIN_CALLS");
  test_do = getenv("PLUGIN_DO");
  if (test_calls || !directory)
    return;
  (void)snprintf(path, sizeof path, "%s/orders", directory);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, orders, sizeof orders - 1);
  orders[n < 0 ? 0 : n] = '\0';
  if (fd >= 0)
    (void)close(fd);
  char *line = strchr(orders, '\n');
  if (line)
    *line++ = '\0';
  test_calls = orders;
  test_do = line;
}

__attribute__((format(printf, 1, 2))) static inline void test_note(const char *format, ...) {
  char line[1024];
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(line, sizeof line - 1, format, ap);
  va_end(ap);
  line[n] = '\n';
  int fd = test_calls ? open(test_calls, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
  if (fd >= 0) {
    (void)!write(fd, line, (size_t)n + 1);
    (void)close(fd);
  }
}

static inline void test_leak(void) {
  for (int i = 0; i < 3; i++)
    (void)!open("/dev/zero", O_RDONLY | O_CLOEXEC);
}

/* What @callback is told to answer; @otherwise if nothing. */
static inline int test_answer(const char *callback, int otherwise) {
  size_t n = strlen(callback);
  const char *at = test_do;
  while (at && *at && (strncmp(at, callback, n) != 0 || at[n] != '=')) {
    at = strchr(at, ' ');
    at += at != NULL;
  }
  if (!at || !*at)
    return otherwise;
  at += n + 1;
  if (strncmp(at, "crash", 5) == 0)
    raise(SIGSEGV);
  if (strncmp(at, "hang", 4) == 0)
    for (;;)
      (void)pause();
  if (strncmp(at, "leak", 4) == 0)
    test_leak();
  if (strncmp(at, "close", 5) == 0)
    (void)close(STDERR_FILENO);
  if (*at == '-' || (*at >= '0' && *at <= '9'))
    return atoi(at);
  return otherwise;
}

/* "10:237" of a descriptor, to see that it is the right object. */
static inline void test_describe(int fd, char text[64]) {
  struct stat st = {0};
  (void)fstat(fd, &st);
  (void)snprintf(text, 64, "%o %lx", st.st_mode & S_IFMT, (unsigned long)(st.st_rdev ? st.st_rdev : st.st_ino));
}

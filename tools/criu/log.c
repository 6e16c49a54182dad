/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "log.h"
#include "options.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

struct CriuLog {
  int fd; /* -1: standard error */
  unsigned verbosity;
  gint64 start;
};

CriuLog *criu_log_new(unsigned verbosity) {
  CriuLog *log = g_new0(CriuLog, 1);
  log->fd = -1;
  log->verbosity = verbosity;
  log->start = g_get_monotonic_time();
  return log;
}

void criu_log_free(CriuLog *log) {
  if (!log)
    return;
  if (log->fd >= 0)
    (void)close(log->fd);
  g_free(log);
}

int criu_log_open(CriuLog *log, int dir_fd, const char *path) {
  int fd = openat(dir_fd, path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
  if (fd < 0)
    return -errno;
  log->fd = fd;
  return 0;
}

static void write_all(int fd, const char *text, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, text, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return; /* a log that cannot be written is no reason to fail */
    text += n;
    size -= (size_t)n;
  }
}

static unsigned level_of(int priority) {
  if (priority <= LOG_ERR)
    return CRIU_VERBOSITY_ERROR;
  if (priority == LOG_WARNING)
    return CRIU_VERBOSITY_WARN;
  return priority <= LOG_INFO ? CRIU_VERBOSITY_INFO : CRIU_VERBOSITY_DEBUG;
}

void criu_log(CriuLog *log, int priority, const char *where, const char *format, ...) {
  unsigned level = level_of(priority);
  if (level > log->verbosity)
    return;
  g_autoptr(GString) line = g_string_new(NULL);
  gint64 usec = g_get_monotonic_time() - log->start;
  if (log->verbosity >= CRIU_VERBOSITY_INFO)
    g_string_append_printf(
        line, "(%02" G_GINT64_FORMAT ".%06" G_GINT64_FORMAT ") ", usec / G_USEC_PER_SEC, usec % G_USEC_PER_SEC);
  if (level <= CRIU_VERBOSITY_WARN)
    g_string_append_printf(line, "%s (%s): ", level == CRIU_VERBOSITY_ERROR ? "Error" : "Warn ", where);
  va_list ap;
  va_start(ap, format);
  g_string_append_vprintf(line, format, ap);
  va_end(ap);
  /* One message, one line: what comes from elsewhere must not fake another one. */
  for (gsize i = 0; i < line->len; i++)
    if ((guchar)line->str[i] < ' ' && line->str[i] != '\t')
      line->str[i] = ' ';
  g_string_append_c(line, '\n');
  write_all(log->fd >= 0 ? log->fd : STDERR_FILENO, line->str, line->len);
}

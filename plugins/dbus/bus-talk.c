/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bus-talk.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_ 512

bool bus_fail(GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *text = g_strdup_vprintf(format, ap);
  va_end(ap);
  g_set_error_literal(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, text);
  return false;
}

static bool failed(GError **error, const char *what) {
  return bus_fail(error, "%s: %s", what, g_strerror(errno));
}

/* --- bytes --- */

static bool wait_for(const BusTalk *t, short events, GError **error) {
  struct pollfd p = {.fd = t->fd, .events = events};
  gint64 left = t->deadline - g_get_monotonic_time();
  int n = left > 0 ? poll(&p, 1, (int)(left / 1000) + 1) : 0;
  if (n == 0)
    errno = ETIMEDOUT;
  return n > 0 || (n < 0 && errno == EINTR) || failed(error, "The bus does not answer");
}

static bool in_time(const BusTalk *t, GError **error) {
  return g_get_monotonic_time() < t->deadline ||
         bus_fail(error, "The bus talks about other things");
}

bool bus_send(const BusTalk *t, const void *data, gsize size, GError **error) {
  for (gsize done = 0; done < size;) {
    ssize_t n = send(t->fd, (const char *)data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return failed(error, "Cannot write to the bus");
    if (n < 0 && !wait_for(t, POLLOUT, error))
      return false;
    done += n > 0 ? (gsize)n : 0;
  }
  return true;
}

/* Exactly so much: what comes behind it is the client's. */
static bool receive_all(const BusTalk *t, guint8 *data, gsize size, GError **error) {
  for (gsize done = 0; done < size;) {
    ssize_t n = recv(t->fd, data + done, size - done, MSG_DONTWAIT);
    if (n == 0)
      return bus_fail(error, "The bus closes the connection");
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return failed(error, "Cannot read from the bus");
    if (n < 0 && !wait_for(t, POLLIN, error))
      return false;
    done += n > 0 ? (gsize)n : 0;
  }
  return true;
}

/* A line of the authentication, without its end. */
static bool receive_line(const BusTalk *t, char line[LINE_MAX_], GError **error) {
  for (gsize n = 0; n + 1 < LINE_MAX_; n++) {
    if (!receive_all(t, (guint8 *)line + n, 1, error))
      return false;
    line[n + 1] = '\0';
    if (n && line[n] == '\n' && line[n - 1] == '\r') {
      line[n - 1] = '\0';
      return true;
    }
  }
  return bus_fail(error, "The bus answers with an endless line");
}

bool bus_authenticate(const BusTalk *t, uid_t uid, GError **error) {
  g_autofree char *number = g_strdup_printf("%u", uid);
  g_autoptr(GString) hello = g_string_new_len("\0AUTH EXTERNAL ", 15);
  char line[LINE_MAX_];
  for (const char *p = number; *p; p++)
    g_string_append_printf(hello, "%02x", (guint)*p);
  g_string_append(hello, "\r\n");
  if (!bus_send(t, hello->str, hello->len, error) || !receive_line(t, line, error))
    return false;
  if (!g_str_has_prefix(line, "OK"))
    return bus_fail(error, "The bus does not accept user %u: %s", uid, line);
  static const char negotiate[] = "NEGOTIATE_UNIX_FD\r\n", begin[] = "BEGIN\r\n";
  return bus_send(t, negotiate, sizeof negotiate - 1, error) && receive_line(t, line, error) &&
         bus_send(t, begin, sizeof begin - 1, error);
}

/* --- calls --- */

/* Somebody else's call that has come in between gets an answer, or it would wait for one. */
static bool refuse_call(BusTalk *t, const BusMessage *m, GError **error) {
  if (m->type != BUS_CALL || m->flags & BUS_NO_REPLY || !m->sender)
    return true;
  g_autoptr(GByteArray) answer =
      bus_error_new(++t->serial, m->serial, m->sender, "org.freedesktop.DBus.Error.NoReply");
  return bus_send(t, answer->data, answer->len, error);
}

static GBytes *receive_message(BusTalk *t, BusMessage *ret, GError **error) {
  guint8 header[BUS_HEADER];
  if (!receive_all(t, header, sizeof header, error))
    return NULL;
  gsize size = bus_message_size(header);
  guint8 *data = size ? g_malloc(size) : NULL;
  g_autoptr(GBytes) bytes = g_bytes_new_take(data, size);
  if (data)
    memcpy(data, header, sizeof header);
  if (!data || !receive_all(t, data + sizeof header, size - sizeof header, data ? error : NULL) ||
      !bus_message_parse(data, size, ret)) {
    if (error && !*error)
      bus_fail(error, "The bus sends something that is no message");
    return NULL;
  }
  return g_steal_pointer(&bytes);
}

/* The answer, whose parts lie in the returned bytes. */
GBytes *bus_call(BusTalk *t, const char *interface, const char *member, const char *text, gint64 number, BusMessage *ret,
    GError **error) {
  guint32 serial = ++t->serial;
  g_autoptr(GByteArray) message = bus_call_new(serial, 0, interface, member, text, number);
  if (!bus_send(t, message->data, message->len, error))
    return NULL;
  for (;;) {
    g_autoptr(GBytes) bytes = receive_message(t, ret, error);
    if (!bytes)
      return NULL;
    if (ret->reply_serial == serial && ret->type == BUS_REPLY)
      return g_steal_pointer(&bytes);
    if (ret->reply_serial == serial) {
      bus_fail(error, "%s(%s): %s", member, text ? text : "", ret->error ? ret->error : "?");
      return NULL;
    }
    if (!in_time(t, error) || !refuse_call(t, ret, error))
      return NULL;
  }
}

char *bus_call_for_text(BusTalk *t, const char *member, const char *text) {
  BusMessage m;
  g_autoptr(GBytes) bytes = bus_call(t, NULL, member, text, -1, &m, NULL);
  return bytes ? bus_read_text(&m) : NULL;
}

GStrv bus_call_for_texts(BusTalk *t, const char *member, const char *text, GError **error) {
  BusMessage m;
  g_autoptr(GBytes) bytes = bus_call(t, NULL, member, text, -1, &m, error);
  return bytes ? bus_read_texts(&m) : NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-connect.h"
#include "unix-private.h"
#include "unix.h"
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* A server that does not accept keeps nobody waiting longer. */
#define CONNECT_SECONDS 10

typedef struct LateConnection {
  const UnixSkEntry *socket;
  GBytes *address;
  GBytes *send;
} LateConnection;

static void late_connection_free(void *p) {
  LateConnection *late = p;
  g_bytes_unref(late->address);
  g_clear_pointer(&late->send, g_bytes_unref);
  g_free(late);
}

static gpointer connections_new(void) {
  return g_ptr_array_new_with_free_func(late_connection_free);
}

static GPtrArray *connections_of(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, connections_new, (GDestroyNotify)g_ptr_array_unref);
}

void unix_connect_later(Restorer *r, const UnixSkEntry *u, GBytes *address, GBytes *send) {
  LateConnection *late = g_new0(LateConnection, 1);
  late->socket = u;
  late->address = g_bytes_ref(address);
  late->send = send ? g_bytes_ref(send) : NULL;
  g_ptr_array_add(connections_of(r), late);
}

static void set_send_timeout(Program *p, int fd, guint64 sec, guint64 usec) {
  struct timeval value = {.tv_sec = (time_t)sec, .tv_usec = (suseconds_t)usec};
  size_t at = program_data(p, &value, sizeof value);
  PROGRAM_CALL(p, "setsockopt SO_SNDTIMEO", SYS_setsockopt, ARG(fd), ARG(SOL_SOCKET), ARG(SO_SNDTIMEO), ARG_DATA(at),
      ARG(sizeof value));
}

static bool build_connect(const LateConnection *late, int fd, Program *p, GError **error) {
  const UnixSkEntry *u = late->socket;
  UnixAddress address;
  gsize size = 0;
  const uint8_t *name = g_bytes_get_data(late->address, &size);
  uint32_t length = size ? unix_address(&address, name, size) : 0;
  g_autofree char *text = unix_name_text(name, size);
  if (!length)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The socket address %s is too long", text);
  /* names of ops are static, these are few */
  g_autofree char *what = g_strdup_printf("connect to %s again (start what listens there first, or give another address "
                                          "or action=close by a rule: external)", text);
  const char *named = g_intern_string(what);
  size_t at = program_data(p, &address, length);
  set_send_timeout(p, fd, CONNECT_SECONDS, 0);
  PROGRAM_CALL(p, named, SYS_connect, ARG(fd), ARG_DATA(at), ARG(length));
  const guint8 *first = late->send ? g_bytes_get_data(late->send, &size) : NULL;
  if (first && size) {
    size_t data = program_data(p, first, size);
    PROGRAM_CALL(p, "say what the rule says first", SYS_sendto, ARG(fd), ARG_DATA(data), ARG(size), ARG(MSG_NOSIGNAL),
        ARG(0), ARG(0));
    program_expect(p, EXPECT_EQUAL, (int64_t)size);
  }
  set_send_timeout(p, fd, u->opts->so_snd_tmo_sec, u->opts->so_snd_tmo_usec);
  if (u->has_shutdown && u->shutdown != SK_SHUTDOWN__NONE)
    PROGRAM_CALL(p, "shutdown", SYS_shutdown, ARG(fd), ARG((int)u->shutdown - 1));
  return true;
}

static int number_in(const Task *task, guint32 file_id) {
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->id == file_id)
      return (int)e->fd;
  }
  return -1;
}

bool restorer_late_program(Restorer *r, const Task *task, Program *p, GError **error) {
  const GPtrArray *all = connections_of(r);
  for (guint i = 0; i < all->len; i++) {
    const LateConnection *late = all->pdata[i];
    if (restorer_holder_of(r, late->socket->id) == task &&
        !build_connect(late, number_in(task, late->socket->id), p, error))
      return false;
  }
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bus-client.h"
#include "bus-message.h"
#include "unix-private.h"
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Of one whole conversation: who plays a bus must not keep the tree frozen. */
#define PATIENCE_USEC (5 * G_USEC_PER_SEC)
/* Not one that a client uses soon: its own count goes on where it was. */
#define FIRST_SERIAL 0xf0000000u
#define NAME_TAKEN_OVER 1 /* DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER */
#define NAME_IN_QUEUE 2
#define LINE_MAX_ 512
#define STATS "org.freedesktop.DBus.Debug.Stats"

/* Where only root may ask for match rules. Nowhere else does the engine show that it is root. */
static const char *const system_buses[] = {"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", NULL};

typedef struct Talk {
  int fd;
  guint32 serial;
  gint64 deadline;
} Talk;

static bool failed(GError **error, const char *what) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s", what);
}

/* --- bytes --- */

static bool wait_for(const Talk *t, short events, GError **error) {
  struct pollfd p = {.fd = t->fd, .events = events};
  gint64 left = t->deadline - g_get_monotonic_time();
  int n = left > 0 ? poll(&p, 1, (int)(left / 1000) + 1) : 0;
  if (n == 0)
    errno = ETIMEDOUT;
  return n > 0 || (n < 0 && errno == EINTR) || failed(error, "The bus does not answer");
}

static bool in_time(const Talk *t, GError **error) {
  return g_get_monotonic_time() < t->deadline ||
         engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus talks about other things");
}

static bool send_all(const Talk *t, const void *data, gsize size, GError **error) {
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
static bool receive_all(const Talk *t, guint8 *data, gsize size, GError **error) {
  for (gsize done = 0; done < size;) {
    ssize_t n = recv(t->fd, data + done, size - done, MSG_DONTWAIT);
    if (n == 0)
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus closes the connection");
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      return failed(error, "Cannot read from the bus");
    if (n < 0 && !wait_for(t, POLLIN, error))
      return false;
    done += n > 0 ? (gsize)n : 0;
  }
  return true;
}

/* A line of the authentication, without its end. */
static bool receive_line(const Talk *t, char line[LINE_MAX_], GError **error) {
  for (gsize n = 0; n + 1 < LINE_MAX_; n++) {
    if (!receive_all(t, (guint8 *)line + n, 1, error))
      return false;
    line[n + 1] = '\0';
    if (n && line[n] == '\n' && line[n - 1] == '\r') {
      line[n - 1] = '\0';
      return true;
    }
  }
  return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus answers with an endless line");
}

static bool authenticate(const Talk *t, uid_t uid, GError **error) {
  g_autofree char *number = g_strdup_printf("%u", uid);
  g_autoptr(GString) hello = g_string_new_len("\0AUTH EXTERNAL ", 15);
  char line[LINE_MAX_];
  for (const char *p = number; *p; p++)
    g_string_append_printf(hello, "%02x", (guint)*p);
  g_string_append(hello, "\r\n");
  if (!send_all(t, hello->str, hello->len, error) || !receive_line(t, line, error))
    return false;
  if (!g_str_has_prefix(line, "OK"))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus does not accept user %u: %s", uid, line);
  static const char negotiate[] = "NEGOTIATE_UNIX_FD\r\n", begin[] = "BEGIN\r\n";
  return send_all(t, negotiate, sizeof negotiate - 1, error) && receive_line(t, line, error) &&
         send_all(t, begin, sizeof begin - 1, error);
}

/* --- calls --- */

/* Somebody else's call that has come in between gets an answer, or it would wait for one. */
static bool refuse_call(Talk *t, const BusMessage *m, GError **error) {
  if (m->type != BUS_CALL || m->flags & BUS_NO_REPLY || !m->sender)
    return true;
  g_autoptr(GByteArray) answer =
      bus_error_new(++t->serial, m->serial, m->sender, "org.freedesktop.DBus.Error.NoReply");
  return send_all(t, answer->data, answer->len, error);
}

static GBytes *receive_message(Talk *t, BusMessage *ret, GError **error) {
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
      engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus sends something that is no message");
    return NULL;
  }
  return g_steal_pointer(&bytes);
}

/* The answer, whose parts lie in the returned bytes. */
static GBytes *call(Talk *t, const char *interface, const char *member, const char *text, gint64 number, BusMessage *ret,
    GError **error) {
  guint32 serial = ++t->serial;
  g_autoptr(GByteArray) message = bus_call_new(serial, 0, interface, member, text, number);
  if (!send_all(t, message->data, message->len, error))
    return NULL;
  for (;;) {
    g_autoptr(GBytes) bytes = receive_message(t, ret, error);
    if (!bytes)
      return NULL;
    if (ret->reply_serial == serial && ret->type == BUS_REPLY)
      return g_steal_pointer(&bytes);
    if (ret->reply_serial == serial) {
      engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s(%s): %s", member, text ? text : "", ret->error ? ret->error : "?");
      return NULL;
    }
    if (!in_time(t, error) || !refuse_call(t, ret, error))
      return NULL;
  }
}

static char *call_for_text(Talk *t, const char *member, const char *text) {
  BusMessage m;
  g_autoptr(GBytes) bytes = call(t, NULL, member, text, -1, &m, NULL);
  return bytes ? bus_read_text(&m) : NULL;
}

static GStrv call_for_texts(Talk *t, const char *member, const char *text, GError **error) {
  BusMessage m;
  g_autoptr(GBytes) bytes = call(t, NULL, member, text, -1, &m, error);
  return bytes ? bus_read_texts(&m) : NULL;
}

/* --- before the dump --- */

static int connect_as(const guint8 *name, gsize size, uid_t uid, gid_t gid, GError **error) {
  UnixAddress address;
  uint32_t length = size ? unix_address(&address, name, size) : 0;
  int fd = length ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
  const AsWho who = {.uid = uid, .gid = gid};
  if (fd >= 0 && unix_connect_as(fd, &address, length, &who, error))
    return fd;
  if (fd >= 0)
    (void)close(fd);
  else
    engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The bus has no address");
  return -1;
}

static bool talk_begin(Talk *t, const guint8 *name, gsize size, uid_t uid, gid_t gid, GError **error) {
  BusMessage m;
  *t = (Talk){.fd = connect_as(name, size, uid, gid, error), .deadline = g_get_monotonic_time() + PATIENCE_USEC};
  if (t->fd < 0 || !authenticate(t, uid, error))
    return false;
  g_autoptr(GBytes) bytes = call(t, NULL, "Hello", NULL, -1, &m, error);
  return bytes;
}

static void talk_end(Talk *t) {
  if (t->fd >= 0)
    (void)close(t->fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Talk, talk_end)

/* The connection of a process, if it has exactly one there; else one of the tree's, if there is exactly one. */
static char *find_unique(Talk *t, Collector *c, const ExternalObject *o, const GStrv names, char **ret_why) {
  const char *own = NULL, *of_tree = NULL;
  guint n_own = 0, n_tree = 0;
  for (size_t i = 0; names[i]; i++) {
    BusMessage m;
    guint32 pid = 0;
    if (names[i][0] != ':')
      continue;
    g_autoptr(GBytes) bytes = call(t, NULL, "GetConnectionUnixProcessID", names[i], -1, &m, NULL);
    if (!bytes || !bus_read_number(&m, &pid) || !collector_has_task(c, (pid_t)pid))
      continue;
    of_tree = names[i];
    n_tree++;
    if ((pid_t)pid == o->pid) {
      own = names[i];
      n_own++;
    }
  }
  if (n_own == 1)
    return g_strdup(own);
  if (n_own == 0 && n_tree == 1)
    return g_strdup(of_tree);
  *ret_why = n_tree ? g_strdup_printf("pid %d has %u connections to that bus, and nothing tells them apart", (int)o->pid, n_own)
                    : g_strdup("the bus knows no connection of it");
  return NULL;
}

static bool waits_for(Talk *t, const char *name, const char *unique) {
  g_auto(GStrv) owners = call_for_texts(t, "ListQueuedOwners", name, NULL);
  return owners && g_strv_contains((const char *const *)owners, unique);
}

static char **steal_list(GPtrArray *list, size_t *ret_n) {
  *ret_n = list->len;
  return (char **)g_ptr_array_free(list, FALSE);
}

static void learn_names(Talk *t, const GStrv names, CkptBus *bus) {
  GPtrArray *owned = g_ptr_array_new(), *queued = g_ptr_array_new();
  for (size_t i = 0; names[i]; i++) {
    if (names[i][0] == ':' || strcmp(names[i], "org.freedesktop.DBus") == 0)
      continue;
    g_autofree char *owner = call_for_text(t, "GetNameOwner", names[i]);
    if (g_strcmp0(owner, bus->unique_name) == 0)
      g_ptr_array_add(owned, g_strdup(names[i]));
    else if (waits_for(t, names[i], bus->unique_name))
      g_ptr_array_add(queued, g_strdup(names[i]));
  }
  bus->names = steal_list(owned, &bus->n_names);
  bus->queued_names = steal_list(queued, &bus->n_queued_names);
}

static bool is_system_bus(const ExternalObject *o) {
  g_autofree char *address = g_strndup((const char *)o->sock.peer_name, o->sock.peer_name_size);
  return g_strv_contains(system_buses, address);
}

/* Only some may ask for it: on a session bus its user, on the system bus root. */
static bool learn_matches(Talk *t, const ExternalObject *o, CkptBus *bus, char **ret_why) {
  BusMessage m;
  g_autoptr(GError) error = NULL;
  g_auto(Talk) root = {.fd = -1};
  g_autoptr(GBytes) bytes = call(t, STATS, "GetAllMatchRules", NULL, -1, &m, NULL);
  if (!bytes && is_system_bus(o) && talk_begin(&root, o->sock.peer_name, o->sock.peer_name_size, geteuid(), getegid(), &error))
    bytes = call(&root, STATS, "GetAllMatchRules", NULL, -1, &m, &error);
  g_auto(GStrv) rules = bytes ? bus_read_texts_of(&m, bus->unique_name) : NULL;
  if (!rules) {
    *ret_why = g_strdup_printf("the bus does not tell its match rules (%s)", error ? error->message : "an unknown answer");
    return false;
  }
  bus->n_match_rules = g_strv_length(rules);
  bus->match_rules = g_steal_pointer(&rules);
  return true;
}

/* Between two messages, as far as the kernel can tell: nothing on the way in either direction. */
static bool is_quiet(const ExternalObject *o, char **ret_why) {
  int sent = 0;
  if (o->sock.unread)
    *ret_why = g_strdup_printf("%u bytes from the bus were not read yet", o->sock.unread);
  else if (ioctl(o->local, SIOCOUTQ, &sent) < 0 || sent > 0)
    *ret_why = g_strdup("the bus has not read everything from it yet");
  return !*ret_why;
}

/* Whose connection it is: the user of the process, as /proc has it. */
static bool owner_of(pid_t pid, uid_t *ret_uid, gid_t *ret_gid) {
  struct stat st;
  g_autofree char *path = g_strdup_printf("/proc/%d/task", (int)pid);
  g_autofree char *status = g_strdup_printf("/proc/%d/status", (int)pid);
  g_autofree char *text = NULL;
  if (stat(path, &st) < 0 || !g_file_get_contents(status, &text, NULL, NULL))
    return false;
  const char *uid = strstr(text, "\nUid:"), *gid = strstr(text, "\nGid:");
  unsigned real = 0;
  return uid && gid && sscanf(uid, "\nUid: %u %u", &real, ret_uid) == 2 && sscanf(gid, "\nGid: %u %u", &real, ret_gid) == 2;
}

static bool inspect(Collector *c, const ExternalObject *o, CkptBus *bus, char **ret_why) {
  g_auto(Talk) t = {.fd = -1};
  g_autoptr(GError) error = NULL;
  if (!is_quiet(o, ret_why))
    return false;
  if (!owner_of(o->pid, &bus->uid, &bus->gid) ||
      !talk_begin(&t, o->sock.peer_name, o->sock.peer_name_size, bus->uid, bus->gid, &error)) {
    *ret_why = g_strdup_printf("the bus cannot be asked about it (%s)", error ? error->message : "no such user");
    return false;
  }
  g_auto(GStrv) names = call_for_texts(&t, "ListNames", NULL, &error);
  if (!names) {
    *ret_why = g_strdup_printf("the bus cannot be asked about it (%s)", error ? error->message : "an unknown answer");
    return false;
  }
  bus->unique_name = find_unique(&t, c, o, names, ret_why);
  if (!bus->unique_name)
    return false;
  learn_names(&t, names, bus);
  return learn_matches(&t, o, bus, ret_why);
}

CkptBus *bus_client_inspect(Collector *c, const ExternalObject *o, char **ret_why) {
  CkptBus *bus = g_new(CkptBus, 1);
  ckpt_bus__init(bus);
  *ret_why = NULL;
  if (inspect(c, o, bus, ret_why))
    return bus;
  if (!bus->unique_name)
    bus->unique_name = g_strdup("");
  ckpt_bus__free_unpacked(bus, NULL);
  return NULL;
}

/* --- after the restore --- */

bool bus_client_is_there(const CkptBus *bus, const guint8 *name, gsize size) {
  int fd = connect_as(name, size, bus->uid, bus->gid, NULL);
  if (fd >= 0)
    (void)close(fd);
  return fd >= 0;
}

static bool request_name(Talk *t, const char *name, bool queued, GError **error) {
  BusMessage m;
  guint32 result = 0;
  g_autoptr(GBytes) bytes = call(t, NULL, "RequestName", name, 0, &m, error);
  if (!bytes)
    return false;
  bool ok = bus_read_number(&m, &result) && (result == NAME_TAKEN_OVER || (queued && result == NAME_IN_QUEUE));
  return ok || engine_fail(error, ENGINE_ERROR_CODE__FAILED, "the name %s belongs to somebody else now", name);
}

/* The last step, and without answers: from the first match rule on whatever comes is the client's to read. */
static bool add_matches(Talk *t, const CkptBus *bus, GError **error) {
  for (size_t i = 0; i < bus->n_match_rules; i++) {
    g_autoptr(GByteArray) message =
        bus_call_new(++t->serial, BUS_NO_REPLY, NULL, "AddMatch", bus->match_rules[i], -1);
    if (!send_all(t, message->data, message->len, error))
      return false;
  }
  return true;
}

bool bus_client_return(const CkptBus *bus, int fd, GError **error) {
  Talk t = {.fd = fd, .serial = FIRST_SERIAL, .deadline = g_get_monotonic_time() + PATIENCE_USEC};
  BusMessage m;
  if (!authenticate(&t, bus->uid, error))
    return false;
  g_autoptr(GBytes) hello = call(&t, NULL, "Hello", NULL, -1, &m, error);
  if (!hello)
    return false;
  for (size_t i = 0; i < bus->n_names; i++)
    if (!request_name(&t, bus->names[i], false, error))
      return false;
  for (size_t i = 0; i < bus->n_queued_names; i++)
    if (!request_name(&t, bus->queued_names[i], true, error))
      return false;
  return add_matches(&t, bus, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Clients of a message bus (D-Bus). Before a dump the bus is asked what it knows of the client's connection; after a restore
 * the new connection, which the process has made itself, is brought to the same state on its behalf. Its unique name is another
 * one afterwards. What cannot be learned about a connection cannot be told on another one: then it is closed, and the client
 * does what it does when the bus goes away. docs/plugins/dbus.md */

#include "bus-record.pb-c.h"
#include "bus-talk.h"
#include "checkpoint-plugin.h"
#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of one whole conversation, and of all of them together while the tree stands still. */
#define PATIENCE_USEC (5 * G_USEC_PER_SEC)
#define BUSES_USEC (10 * G_USEC_PER_SEC)
/* Not one that a client uses soon: its own count goes on where it was. */
#define FIRST_SERIAL 0xf0000000u
#define NAME_TAKEN_OVER 1 /* DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER */
#define NAME_IN_QUEUE 2
#define STATS "org.freedesktop.DBus.Debug.Stats"

/* Where only root may ask for match rules. Nowhere else does the engine show that it is root. */
static const char *const system_buses[] = {"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", NULL};

typedef struct Context {
  const struct checkpoint_host *host;
  gint64 spent_usec; /* with buses, in this dump */
} Context;

/* --- before the dump --- */

static int connect_as(const Context *x, const char *address, uid_t uid, gid_t gid, GError **error) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int r = fd < 0 ? -errno : x->host->connect_as(x->host, fd, address, uid, gid);
  if (r == 0)
    return fd;
  if (fd >= 0)
    (void)close(fd);
  (void)bus_fail(error, "Cannot connect to the bus as user %u: %s", uid, g_strerror(-r));
  return -1;
}

static bool talk_begin(const Context *x, BusTalk *t, uid_t uid, gid_t gid, GError **error) {
  BusMessage m;
  *t = (BusTalk){.fd = connect_as(x, NULL, uid, gid, error), .deadline = g_get_monotonic_time() + PATIENCE_USEC};
  if (t->fd < 0 || !bus_authenticate(t, uid, error))
    return false;
  g_autoptr(GBytes) bytes = bus_call(t, NULL, "Hello", NULL, -1, &m, error);
  return bytes;
}

static void talk_end(BusTalk *t) {
  if (t->fd >= 0)
    (void)close(t->fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BusTalk, talk_end)

/* The connection of a process, if it has exactly one there; else one of the tree's, if there is exactly one. */
static char *find_unique(const Context *x, BusTalk *t, const struct checkpoint_object *o, const GStrv names, char **ret_why) {
  const char *own = NULL, *of_tree = NULL;
  guint n_own = 0, n_tree = 0;
  for (size_t i = 0; names[i]; i++) {
    BusMessage m;
    guint32 pid = 0;
    if (names[i][0] != ':')
      continue;
    g_autoptr(GBytes) bytes = bus_call(t, NULL, "GetConnectionUnixProcessID", names[i], -1, &m, NULL);
    if (!bytes || !bus_read_number(&m, &pid) || x->host->has_task(x->host, (int)pid) != 1)
      continue;
    of_tree = names[i];
    n_tree++;
    if ((int)pid == o->pid) {
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

static bool waits_for(BusTalk *t, const char *name, const char *unique) {
  g_auto(GStrv) owners = bus_call_for_texts(t, "ListQueuedOwners", name, NULL);
  return owners && g_strv_contains((const char *const *)owners, unique);
}

static char **steal_list(GPtrArray *list, size_t *ret_n) {
  *ret_n = list->len;
  return (char **)g_ptr_array_free(list, FALSE);
}

static void learn_names(BusTalk *t, const GStrv names, BusRecord *bus) {
  GPtrArray *owned = g_ptr_array_new(), *queued = g_ptr_array_new();
  for (size_t i = 0; names[i]; i++) {
    if (names[i][0] == ':' || strcmp(names[i], "org.freedesktop.DBus") == 0)
      continue;
    g_autofree char *owner = bus_call_for_text(t, "GetNameOwner", names[i]);
    if (g_strcmp0(owner, bus->unique_name) == 0)
      g_ptr_array_add(owned, g_strdup(names[i]));
    else if (waits_for(t, names[i], bus->unique_name))
      g_ptr_array_add(queued, g_strdup(names[i]));
  }
  bus->names = steal_list(owned, &bus->n_names);
  bus->queued_names = steal_list(queued, &bus->n_queued_names);
}

static bool is_system_bus(const struct checkpoint_object *o) {
  return o->peer_name && g_strv_contains(system_buses, o->peer_name);
}

/* Only some may ask for it: on a session bus its user, on the system bus root. */
static bool learn_matches(const Context *x, BusTalk *t, const struct checkpoint_object *o, BusRecord *bus, char **ret_why) {
  BusMessage m;
  g_autoptr(GError) error = NULL;
  g_auto(BusTalk) root = {.fd = -1};
  g_autoptr(GBytes) bytes = bus_call(t, STATS, "GetAllMatchRules", NULL, -1, &m, NULL);
  if (!bytes && is_system_bus(o) && talk_begin(x, &root, geteuid(), getegid(), &error))
    bytes = bus_call(&root, STATS, "GetAllMatchRules", NULL, -1, &m, &error);
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
static bool is_quiet(const struct checkpoint_object *o, char **ret_why) {
  int sent = 0;
  if (o->unread)
    *ret_why = g_strdup_printf("%u bytes from the bus were not read yet", o->unread);
  else if (ioctl(o->fd, SIOCOUTQ, &sent) < 0 || sent > 0)
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

static bool inspect(const Context *x, const struct checkpoint_object *o, BusRecord *bus, char **ret_why) {
  g_auto(BusTalk) t = {.fd = -1};
  g_autoptr(GError) error = NULL;
  if (!is_quiet(o, ret_why))
    return false;
  if (!owner_of(o->pid, &bus->uid, &bus->gid) ||
      !talk_begin(x, &t, bus->uid, bus->gid, &error)) {
    *ret_why = g_strdup_printf("the bus cannot be asked about it (%s)", error ? error->message : "no such user");
    return false;
  }
  g_auto(GStrv) names = bus_call_for_texts(&t, "ListNames", NULL, &error);
  if (!names) {
    *ret_why = g_strdup_printf("the bus cannot be asked about it (%s)", error ? error->message : "an unknown answer");
    return false;
  }
  bus->unique_name = find_unique(x, &t, o, names, ret_why);
  if (!bus->unique_name)
    return false;
  learn_names(&t, names, bus);
  return learn_matches(x, &t, o, bus, ret_why);
}

/* One message, in as many records as it takes. */
static int keep(const Context *x, const struct checkpoint_object *o, const BusRecord *bus) {
  size_t size = bus_record__get_packed_size(bus);
  g_autofree guint8 *packed = g_malloc(size);
  int r = 0;
  (void)bus_record__pack(bus, packed);
  for (size_t at = 0; at < size && r == 0; at += CHECKPOINT_RECORD_MAX)
    r = x->host->record_add(x->host, o->id, packed + at, MIN(size - at, CHECKPOINT_RECORD_MAX));
  return r;
}

static int dbus_dump(void *context, const struct checkpoint_object *o) {
  Context *x = context;
  BusRecord *bus = g_new(BusRecord, 1);
  g_autofree char *why = NULL;
  gint64 started = g_get_monotonic_time();
  bus_record__init(bus);
  bool known = false;
  if (x->spent_usec > BUSES_USEC)
    why = g_strdup("buses have kept the application waiting for too long already");
  else if (o->socket_type != SOCK_STREAM || !o->peer_name || o->fd < 0)
    why = g_strdup("it is no connection to a bus");
  else
    known = inspect(x, o, bus, &why);
  x->spent_usec += g_get_monotonic_time() - started;
  if (!bus->unique_name)
    bus->unique_name = g_strdup("");
  int r = known ? keep(x, o, bus) : 0;
  bus_record__free_unpacked(bus, NULL);
  if (r == -EDQUOT)
    why = g_strdup("it has more names and match rules there than fit into a checkpoint");
  else if (r < 0)
    return r;
  if (why)
    x->host->explain(x->host, why, NULL);
  return why ? CHECKPOINT_DISCONNECTED : CHECKPOINT_CONNECT;
}

/* --- after the restore --- */

/* NULL: there is none, or it is broken. */
static BusRecord *record_of(const Context *x, const struct checkpoint_object *o) {
  g_autoptr(GByteArray) all = g_byte_array_new();
  const void *data;
  size_t size;
  for (uint32_t i = 0; x->host->record_get(x->host, o->id, i, &data, &size) == 0; i++)
    g_byte_array_append(all, data, (guint)size);
  return all->len ? bus_record__unpack(NULL, all->len, all->data) : NULL;
}

/* Without a bus, or without knowledge of what the client had there, the connection comes back closed. */
static int dbus_restore(void *context, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  Context *x = context;
  BusRecord *bus = record_of(x, o);
  int fd = bus ? connect_as(x, o->argument, bus->uid, bus->gid, NULL) : -1;
  if (fd >= 0)
    (void)close(fd);
  else
    x->host->explain(x->host, bus ? "nobody listens there" : "the checkpoint does not say what it had there", NULL);
  if (bus)
    bus_record__free_unpacked(bus, NULL);
  int r = fd >= 0 ? x->host->connect_to(x->host, o->argument, NULL, 0) : 0;
  return r < 0 ? r : fd >= 0 ? CHECKPOINT_CONNECT : CHECKPOINT_DISCONNECTED;
}

static bool request_name(BusTalk *t, const char *name, bool queued, GError **error) {
  BusMessage m;
  guint32 result = 0;
  g_autoptr(GBytes) bytes = bus_call(t, NULL, "RequestName", name, 0, &m, error);
  if (!bytes)
    return false;
  bool ok = bus_read_number(&m, &result) && (result == NAME_TAKEN_OVER || (queued && result == NAME_IN_QUEUE));
  return ok || bus_fail(error, "the name %s belongs to somebody else now", name);
}

/* The last step, and without answers: from the first match rule on whatever comes is the client's to read. */
static bool add_matches(BusTalk *t, const BusRecord *bus, GError **error) {
  for (size_t i = 0; i < bus->n_match_rules; i++) {
    g_autoptr(GByteArray) message =
        bus_call_new(++t->serial, BUS_NO_REPLY, NULL, "AddMatch", bus->match_rules[i], -1);
    if (!bus_send(t, message->data, message->len, error))
      return false;
  }
  return true;
}

static bool come_back(const BusRecord *bus, int fd, GError **error) {
  BusTalk t = {.fd = fd, .serial = FIRST_SERIAL, .deadline = g_get_monotonic_time() + PATIENCE_USEC};
  BusMessage m;
  if (!bus_authenticate(&t, bus->uid, error))
    return false;
  g_autoptr(GBytes) hello = bus_call(&t, NULL, "Hello", NULL, -1, &m, error);
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

static int dbus_connected(void *context, const struct checkpoint_object *o, int fd) {
  Context *x = context;
  BusRecord *bus = record_of(x, o);
  g_autoptr(GError) error = NULL;
  bool ok = bus && come_back(bus, fd, &error);
  if (!ok)
    x->host->explain(x->host, error ? error->message : "what it had there is gone", NULL);
  if (bus)
    bus_record__free_unpacked(bus, NULL);
  return ok ? 0 : CHECKPOINT_DISCONNECTED;
}

/* --- the plugin --- */

static int dbus_init(const struct checkpoint_host *host, void **ret_context) {
  if (!CHECKPOINT_HAS(host, revision) || host->revision < 2)
    return -EPROTONOSUPPORT;
  Context *x = g_new0(Context, 1);
  x->host = host;
  *ret_context = x;
  return 0;
}

static void dbus_fini(void *context, int result) {
  g_free(context);
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("dbus", "1", "Clients of a message bus are connected again, with their names and match rules"),
    .flags = CHECKPOINT_PLUGIN_EXPLAINS | CHECKPOINT_PLUGIN_UNTRUSTED,
    .kinds = CHECKPOINT_KIND_UNIX_SOCKET,
    .init = dbus_init,
    .fini = dbus_fini,
    .dump = dbus_dump,
    .restore = dbus_restore,
    .connected = dbus_connected,
};

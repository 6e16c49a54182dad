/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* TCP connections at a restore. They are made in the engine, in repair mode, while their packets are dropped: by the
 * table that the dump left behind, if it is still there, and in any case by one of our own that goes with us. So a
 * restore that fails leaves everything as it was. Just before the tree is released both tables go, and the sockets
 * leave the mode: the kernel then asks the peers for their windows, which wakes both ends up. */

#include "inet.h"
#include "tcp-guard.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>

typedef struct Opened {
  guint32 id;
  GuardedSocket socket;
  bool connecting;
} Opened;

typedef struct TcpRestore {
  GArray *opened; /* Opened */
  GHashTable *locks; /* of a network namespace: its id -> NetLock */
} TcpRestore;

static gpointer tcp_restore_new(void) {
  TcpRestore *t = g_new0(TcpRestore, 1);
  t->opened = g_array_new(FALSE, FALSE, sizeof(Opened));
  t->locks = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)net_lock_free);
  return t;
}

static void tcp_restore_free(void *p) {
  TcpRestore *t = p;
  g_array_unref(t->opened);
  g_hash_table_unref(t->locks);
  g_free(t);
}

static TcpRestore *tcp_restore(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, tcp_restore_new, tcp_restore_free);
}

bool tcp_closes(Restorer *r, const InetSkEntry *i) {
  const InventoryEntry *inventory = restorer_checkpoint(r)->inventory;
  bool always = inventory && inventory->has_tcp_close && inventory->tcp_close;
  return inet_is_connection(i) && (always || job_options(restorer_job(r))->tcp_close);
}

/* Which one of the places that is; 0: the engine's own. */
static guint32 net_of(Restorer *r, const InetSkEntry *i) {
  const NetPlace *place = i->has_ns_id ? net_places_find(restorer_places(r), i->ns_id) : NULL;
  return place ? place->id : 0;
}

/* All connections of a network namespace at once, at the first; we are there. */
static bool lock_network(Restorer *r, TcpRestore *t, guint32 net, GError **error) {
  if (g_hash_table_contains(t->locks, GUINT_TO_POINTER(net)) || g_strcmp0(job_options(restorer_job(r))->network_lock, "skip") == 0)
    return true;
  g_autoptr(GArray) tuples = g_array_new(FALSE, FALSE, sizeof(NetTuple));
  const GPtrArray *files = restorer_checkpoint(r)->files;
  for (guint k = 0; k < files->len; k++) {
    const InetSkEntry *i = ((FileEntry *)files->pdata[k])->isk;
    InetAddress local, remote;
    socklen_t size;
    if (!i || !inet_is_connection(i) || net_of(r, i) != net)
      continue;
    if (!inet_entry_address(i, false, &local, &size, error) || !inet_entry_address(i, true, &remote, &size, error))
      return false;
    NetTuple tuple = inet_tuple(&local, &remote);
    g_array_append_val(tuples, tuple);
  }
  guint64 id = 0;
  if (getrandom(&id, sizeof id, 0) != sizeof id)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "getrandom");
  g_autofree char *name = g_strdup_printf("checkpointd-%016" G_GINT64_MODIFIER "x-1", id);
  NetLock *lock = net_lock_new(name, true, (const NetTuple *)(const void *)tuples->data, tuples->len, error);
  if (lock)
    g_hash_table_insert(t->locks, GUINT_TO_POINTER(net), lock);
  return lock != NULL;
}

static const CkptTcp *find_extra(Restorer *r, guint32 id) {
  const CkptNetwork *n = restorer_checkpoint(r)->network;
  for (size_t k = 0; n && k < n->n_tcp; k++)
    if (n->tcp[k]->id == id)
      return n->tcp[k];
  return NULL;
}

static void set_or_log(
    Restorer *r, const InetSkEntry *i, int fd, int option, const void *value, socklen_t size, const char *what) {
  if (setsockopt(fd, IPPROTO_TCP, option, value, size) < 0)
    job_log(restorer_job(r), 4, "TCP connection from port %u to port %u: the %s cannot be set: %s", i->src_port,
        i->dst_port, what, g_strerror(errno));
}

/* What the connection can live without is only told. */
static void restore_extra(Restorer *r, const InetSkEntry *i, const CkptTcp *t, int fd) {
  if (t->congestion)
    set_or_log(r, i, fd, TCP_CONGESTION, t->congestion, (socklen_t)strlen(t->congestion), "congestion control");
  if (t->has_user_timeout_msec)
    set_or_log(r, i, fd, TCP_USER_TIMEOUT, &t->user_timeout_msec, sizeof t->user_timeout_msec, "user time-out");
  if (t->has_linger2 && t->linger2 != sockopt_get(fd, IPPROTO_TCP, TCP_LINGER2, 0))
    set_or_log(r, i, fd, TCP_LINGER2, &t->linger2, sizeof t->linger2, "linger time");
  if (t->has_notsent_lowat)
    set_or_log(r, i, fd, TCP_NOTSENT_LOWAT, &t->notsent_lowat, sizeof t->notsent_lowat, "notsent_lowat");
}

static bool set_transparent(const CkptTcp *t, int fd, GError **error) {
  int on = 1;
  return !t || !t->has_transparent || !t->transparent || setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set IP_TRANSPARENT");
}

static bool restore_stream(Restorer *r, const InetSkEntry *i, int fd, GError **error) {
  const Record *stream = checkpoint_find_tcp_stream(restorer_checkpoint(r), i->ino);
  InetAddress local, remote;
  socklen_t size;
  if (!stream)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "tcp-stream-%x.img is missing", i->ino);
  if (!inet_entry_address(i, false, &local, &size, error) || !inet_entry_address(i, true, &remote, &size, error))
    return false;
  const TcpConnection connection = {
      .local = &local,
      .remote = &remote,
      .address_size = size,
      .state = i->state,
      .stream = (const TcpStreamEntry *)stream->message,
      .queues = g_bytes_get_data(stream->extra, NULL),
      .device = i->opts->so_bound_dev,
  };
  if (!tcp_repair_check(connection.stream, i->state, error))
    return false;
  if (!tcp_repair_restore(fd, &connection, error)) {
    g_autofree char *from = inet_address_text(&local), *to = inet_address_text(&remote);
    g_prefix_error(error, "TCP connection from %s to %s: ", from, to);
    return false;
  }
  return !i->has_shutdown || i->shutdown != SK_SHUTDOWN__READ || shutdown(fd, SHUT_RD) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot shut a connection down for reading");
}

void tcp_restore_note(Restorer *r, const InetSkEntry *i, bool connecting) {
  const Opened one = {.id = i->id, .socket.reuse = i->opts->has_reuseaddr && i->opts->reuseaddr, .connecting = connecting};
  g_array_append_val(tcp_restore(r)->opened, one);
}

bool tcp_open(Restorer *r, const InetSkEntry *i, int fd, GError **error) {
  TcpRestore *t = tcp_restore(r);
  bool connecting = i->state == INET_SYN_SENT;
  if (!job_options(restorer_job(r))->tcp_established)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "A TCP connection (port %u to %u) is restored on demand only: use the option tcp-established to keep it, or "
        "tcp-close to have it closed",
        i->src_port, i->dst_port);
  const CkptTcp *extra = find_extra(r, i->id);
  if (!lock_network(r, t, net_of(r, i), error) || !set_transparent(extra, fd, error))
    return false;
  int e = tcp_repair_set(fd, TCP_REPAIR_ON);
  if (e < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, e, "Cannot enter TCP repair mode");
  if (!inet_bind(i, fd, error) || (!connecting && !restore_stream(r, i, fd, error)))
    return false;
  if (extra)
    restore_extra(r, i, extra, fd);
  tcp_restore_note(r, i, connecting);
  return true;
}

/* Connecting sockets begin anew, from the same port: the peer takes it for a repeated question. */
static void connect_again(Restorer *r, const InetSkEntry *i, int fd) {
  InetAddress remote;
  socklen_t size;
  int flags = fcntl(fd, F_GETFL);
  if (!inet_entry_address(i, true, &remote, &size, NULL) || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return;
  if (connect(fd, &remote.sa, size) < 0 && errno != EINPROGRESS)
    job_log(restorer_job(r), 4, "Cannot connect to port %u again: %s", i->dst_port, g_strerror(errno));
  (void)fcntl(fd, F_SETFL, flags);
}

static bool remove_lasting(Restorer *r, guint32 net, GError **error) {
  const CkptNetwork *n = restorer_checkpoint(r)->network;
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  return !n || !n->lock || !net_lock_name_is_ours(n->lock) ||
         (restorer_visit_net(r, net, &visit, error) && net_lock_remove(n->lock, error));
}

/* The table that the dump left is in the namespaces that were there before. */
static bool unlock_network(Restorer *r, TcpRestore *t, GError **error) {
  if (!remove_lasting(r, 0, error))
    return false;
  for (guint i = 0; i < net_places_count(restorer_places(r)); i++)
    if (!remove_lasting(r, net_places_get(restorer_places(r), i)->id, error))
      return false;
  g_hash_table_remove_all(t->locks);
  return true;
}

bool tcp_release(Restorer *r, GError **error) {
  TcpRestore *t = tcp_restore(r);
  if (!unlock_network(r, t, error))
    return false;
  for (guint k = 0; k < t->opened->len; k++) {
    Opened *one = &g_array_index(t->opened, Opened, k);
    one->socket.fd = restorer_fd_of(r, one->id, error);
    if (one->socket.fd < 0)
      return false;
    tcp_guard_release(&one->socket, TCP_REPAIR_OFF);
    if (one->connecting)
      connect_again(r, checkpoint_find_file(restorer_checkpoint(r), one->id)->isk, one->socket.fd);
  }
  return true;
}

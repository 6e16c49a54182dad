/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* TCP connections at a dump. While the tree is frozen its sockets live on in the kernel: they take in what comes, and
 * acknowledge it. Only after everything else has been written the packets of all connections are dropped (net-lock.h)
 * and each socket is read in one short pass. A tree that goes on is unlocked at once. One that is killed has its
 * sockets left in repair mode, in which closing says nothing to the peer, and a second table, not bound to our life,
 * keeps the packets away until the restore: a peer that got an answer from a host without that socket would be reset.
 */

#include "inet.h"
#include "tcp-guard.h"
#include <errno.h>
#include <linux/membarrier.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define SETTLE_USEC 20000

typedef struct Connection {
  InetSkEntry *entry; /* the checkpoint's */
  GuardedSocket socket;
  NetTuple tuple;
  guint32 net_id; /* its network namespace */
} Connection;

typedef struct TcpDump {
  GArray *connections; /* Connection */
  GPtrArray *locks;    /* NetLock, one a network namespace; they go when we die */
  char *lasting;       /* the name of the table that stays; NULL: none */
  TcpGuard *guard;
  bool repairing; /* the sockets are in repair mode */
} TcpDump;

static gpointer tcp_dump_new(void) {
  TcpDump *d = g_new0(TcpDump, 1);
  d->connections = g_array_new(FALSE, TRUE, sizeof(Connection));
  d->locks = g_ptr_array_new_with_free_func((GDestroyNotify)net_lock_free);
  return d;
}

static void tcp_dump_free(void *p) {
  TcpDump *d = p;
  tcp_guard_free(d->guard);
  g_ptr_array_unref(d->locks);
  g_free(d->lasting);
  g_array_unref(d->connections);
  g_free(d);
}

static TcpDump *tcp_dump(Collector *c) {
  static const char key;
  return collector_state(c, &key, tcp_dump_new, tcp_dump_free);
}

static bool is_killed_after(const EngineOptions *o) {
  return !o->leave_running && !o->leave_stopped;
}

/* --- blockers --- */

static bool has_ulp(int fd) {
  char name[16] = "";
  socklen_t size = sizeof name;
  return getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size > 0 && name[0];
}

static bool has_urgent_data(int fd) {
  char byte;
  return recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1;
}

void tcp_check(Collector *c, const FileProbe *probe, const InetSkEntry *i, const char *what) {
  if (!job_options(collector_job(c))->tcp_established)
    collector_block(c, probe, what, "TCP connections are taken on demand only",
        "use the option tcp-established to keep it, or tcp-close to have it closed in the restored program");
  else if (i->state == INET_SYN_RECV)
    collector_block(c, probe, what, "it is half open", "try again in a moment");
  else if (has_ulp(probe->local))
    collector_block(c, probe, what,
        "the kernel does the TLS (or another protocol) of this connection, and keeps the keys",
        "switch kernel TLS off in the program, or use the option tcp-close");
  else if (has_urgent_data(probe->local))
    collector_block(c, probe, what, "urgent data has not been read", "try again in a moment");
}

void tcp_check_holders(Collector *c) {
  const EngineOptions *o = job_options(collector_job(c));
  const GPtrArray *files = collector_checkpoint(c)->files;
  g_autoptr(GHashTable) links = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  for (guint k = 0; o->tcp_established && is_killed_after(o) && k < files->len; k++) {
    const InetSkEntry *i = ((FileEntry *)files->pdata[k])->isk;
    if (i && inet_is_connection(i))
      g_hash_table_insert(links, g_strdup_printf("socket:[%u]", i->ino), GUINT_TO_POINTER(i->id));
  }
  guint32 id = 0;
  g_autofree char *who = g_hash_table_size(links) ? outside_holder_of_any(c, links, &id) : NULL;
  FileProbe probe;
  if (!who || !collector_probe_of(c, id, &probe))
    return;
  g_autofree char *reason = g_strdup_printf("%s, outside the tree, has the same socket", who);
  collector_block(c, &probe, "TCP connection", reason, "dump from that process on, or close it there");
}

/* --- the pass --- */

static bool connection_address(
    const InetSkEntry *i, int fd, InetAddress *local, InetAddress *remote, InetSkEntry *entry) {
  inet_collect_addresses(entry, fd, local, remote);
  if (i->state != INET_SYN_SENT)
    return true;
  if (!tcp_diag_remote((int)i->family, i->ino, remote))
    return false;
  inet_set_remote(entry, remote);
  return true;
}

/* A socket whose state has changed since it was first looked at is taken as it is now. */
static bool gather_one(Collector *c, TcpDump *d, InetSkEntry *i, GError **error) {
  InetAddress local, remote;
  int fd = collector_local_of(c, i->id);
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot get the socket of a TCP connection");
  if (!collector_visit_net(c, i->ns_id, &visit, error))
    return false;
  i->state = tcp_state(fd);
  if (!inet_is_connection(i))
    return tcp_ended_collect(c, i, fd, error);
  if (!connection_address(i, fd, &local, &remote, i)) {
    inet_entry_close(i);
    return true;
  }
  Connection one = {
      .entry = i, .net_id = i->ns_id, .socket = {fd, sockopt_get(fd, SOL_SOCKET, SO_REUSEADDR, 0)}, .tuple = inet_tuple(&local, &remote)};
  g_array_append_val(d->connections, one);
  return true;
}

static bool check_listener(Collector *c, const InetSkEntry *i, GError **error) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  int fd = collector_local_of(c, i->id);
  if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 ||
      info.tcpi_unacked <= tcp_waiting_expected(c, i->id))
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "At port %u, %u connections came in during the dump and were not accepted; with the option skip-in-flight they "
      "are left out",
      i->src_port, info.tcpi_unacked);
}

static bool gather(Collector *c, TcpDump *d, bool kill, GError **error) {
  const EngineOptions *o = job_options(collector_job(c));
  const GPtrArray *files = collector_checkpoint(c)->files;
  for (guint k = 0; k < files->len; k++) {
    InetSkEntry *i = ((FileEntry *)files->pdata[k])->isk;
    if (!i || i->proto != IPPROTO_TCP)
      continue;
    if (i->state == INET_LISTEN && kill && o->tcp_established && !o->skip_in_flight && !check_listener(c, i, error))
      return false;
    if (inet_is_connection(i) && !gather_one(c, d, i, error))
      return false;
  }
  return true;
}

/* The network namespaces with connections, each once: guint32. */
static GArray *nets_of(const TcpDump *d) {
  GArray *nets = g_array_new(FALSE, FALSE, sizeof(guint32));
  for (guint k = 0; k < d->connections->len; k++) {
    guint32 id = g_array_index(d->connections, Connection, k).net_id;
    bool known = false;
    for (guint i = 0; !known && i < nets->len; i++)
      known = g_array_index(nets, guint32, i) == id;
    if (!known)
      g_array_append_val(nets, id);
  }
  return nets;
}

static NetLock *make_lock(const TcpDump *d, guint32 net_id, const char *name, bool owned, GError **error) {
  g_autoptr(GArray) tuples = g_array_new(FALSE, FALSE, sizeof(NetTuple));
  for (guint k = 0; k < d->connections->len; k++) {
    const Connection *one = &g_array_index(d->connections, Connection, k);
    if (one->net_id == net_id)
      g_array_append_val(tuples, one->tuple);
  }
  return net_lock_new(name, owned, (const NetTuple *)(const void *)tuples->data, tuples->len, error);
}

/* The same table in each network namespace with connections. */
static bool make_locks(Collector *c, const TcpDump *d, const char *name, GPtrArray *owned, GError **error) {
  g_autoptr(GArray) nets = nets_of(d);
  for (guint i = 0; i < nets->len; i++) {
    g_auto(NetVisit) visit = NET_VISIT_INIT;
    guint32 id = g_array_index(nets, guint32, i);
    NetLock *lock = collector_visit_net(c, id, &visit, error) ? make_lock(d, id, name, owned != NULL, error) : NULL;
    if (!lock)
      return false;
    if (owned)
      g_ptr_array_add(owned, lock);
    else
      net_lock_free(lock);
  }
  return true;
}

static void remove_locks(Collector *c, const TcpDump *d) {
  g_autoptr(GArray) nets = nets_of(d);
  for (guint i = 0; i < nets->len; i++) {
    g_auto(NetVisit) visit = NET_VISIT_INIT;
    g_autoptr(GError) error = NULL;
    if (!collector_visit_net(c, g_array_index(nets, guint32, i), &visit, &error) || !net_lock_remove(d->lasting, &error))
      job_log(collector_job(c), 3, "%s", error->message);
  }
}

/* Packets that were past the rules when those came in: after a grace period of RCU they have arrived. */
static void let_packets_arrive(void) {
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0)
    g_usleep(SETTLE_USEC);
}

static bool lock_network(Collector *c, TcpDump *d, bool kill, GError **error) {
  if (g_strcmp0(job_options(collector_job(c))->network_lock, "skip") == 0)
    return true;
  guint64 id = 0;
  if (getrandom(&id, sizeof id, 0) != sizeof id)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "getrandom");
  g_autofree char *lasting = g_strdup_printf("checkpointd-%016" G_GINT64_MODIFIER "x", id);
  g_autofree char *name = g_strdup_printf("%s-0", lasting);
  if (!make_locks(c, d, name, d->locks, error))
    return false;
  if (kill)
    d->lasting = g_steal_pointer(&lasting);
  let_packets_arrive();
  return true;
}

static char *get_congestion(int fd) {
  char name[17] = "";
  socklen_t size = sizeof name - 1;
  return getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0 && name[0] ? g_strdup(name) : NULL;
}

static CkptTcp *collect_extra(const Connection *one) {
  CkptTcp *t = MESSAGE_NEW(CkptTcp, ckpt_tcp__init);
  int fd = one->socket.fd, timeout = sockopt_get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 0),
      linger2 = sockopt_get(fd, IPPROTO_TCP, TCP_LINGER2, 0);
  int lowat = sockopt_get(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
  t->id = one->entry->id;
  t->congestion = get_congestion(fd);
  t->has_user_timeout_msec = timeout > 0;
  t->user_timeout_msec = timeout > 0 ? (guint32)timeout : 0;
  t->has_transparent = t->transparent = sockopt_get(fd, SOL_IP, IP_TRANSPARENT, 0) > 0;
  t->has_linger2 = true;
  t->linger2 = linger2;
  t->has_notsent_lowat = lowat > 0;
  t->notsent_lowat = lowat > 0 ? (guint32)lowat : 0;
  return t;
}

/* shutdown(SHUT_RD) is a thing of this host alone, and only seen by polling. */
static void collect_shutdown(InetSkEntry *i, int fd) {
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  bool fin = i->state == INET_CLOSE_WAIT || i->state == INET_LAST_ACK || i->state == INET_CLOSING;
  if (fin || poll(&p, 1, 0) != 1 || !(p.revents & POLLRDHUP))
    return;
  i->has_shutdown = true;
  i->shutdown = SK_SHUTDOWN__READ;
}

static bool read_one(Collector *c, const Connection *one, CkptNetwork *network, GError **error) {
  InetSkEntry *i = one->entry;
  i->state = tcp_state(one->socket.fd);
  if (!inet_is_connection(i)) {
    tcp_guard_release(&one->socket, TCP_REPAIR_OFF_NO_WP); /* there is nothing to be kept silent */
    return tcp_ended_collect(c, i, one->socket.fd, error);
  }
  network->tcp[network->n_tcp++] = collect_extra(one);
  if (tcp_waiting_connects_again(c, i->id))
    i->state = INET_SYN_SENT;
  if (i->state == INET_SYN_SENT)
    return true;
  collect_shutdown(i, one->socket.fd);
  GBytes *queues = NULL;
  TcpStreamEntry *s = tcp_repair_read(one->socket.fd, i->state, &queues, error);
  if (!s) {
    g_prefix_error(error, "TCP connection from port %u to port %u: ", i->src_port, i->dst_port);
    return false;
  }
  checkpoint_add_tcp_stream(collector_checkpoint(c), i->ino, &s->base, queues);
  return true;
}

/* Each socket is in the mode for as long as it takes to read it; for the kill all of them are. */
static bool read_all(Collector *c, TcpDump *d, bool kill, GError **error) {
  Checkpoint *checkpoint = collector_checkpoint(c);
  CkptNetwork *network = checkpoint->network; /* of multicast groups */
  if (!network)
    network = checkpoint->network = MESSAGE_NEW(CkptNetwork, ckpt_network__init);
  network->tcp = g_new0(CkptTcp *, d->connections->len);
  d->repairing = true;
  for (guint k = 0; k < d->connections->len; k++) {
    const Connection *one = &g_array_index(d->connections, Connection, k);
    int r = tcp_repair_set(one->socket.fd, TCP_REPAIR_ON);
    if (r < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot put a TCP connection into repair mode");
    bool ok = read_one(c, one, network, error);
    if (!kill || !ok)
      tcp_guard_release(&one->socket, TCP_REPAIR_OFF_NO_WP);
    if (!ok)
      return false;
  }
  d->repairing = kill;
  return true;
}

static void close_fd(void *fd) {
  (void)close(*(int *)fd);
}

static TcpGuard *make_guard(Collector *c, const TcpDump *d, GError **error) {
  guint n = d->connections->len;
  g_autofree GuardedSocket *sockets = g_new(GuardedSocket, n);
  for (guint k = 0; k < n; k++)
    sockets[k] = g_array_index(d->connections, Connection, k).socket;
  g_autoptr(GArray) nets = nets_of(d), fds = g_array_new(FALSE, FALSE, sizeof(int));
  g_array_set_clear_func(fds, close_fd);
  for (guint i = 0; d->lasting && i < nets->len; i++) {
    g_auto(NetVisit) visit = NET_VISIT_INIT;
    if (!collector_visit_net(c, g_array_index(nets, guint32, i), &visit, error))
      return NULL;
    int fd = net_lock_socket();
    if (fd >= 0)
      g_array_append_val(fds, fd);
  }
  return tcp_guard_new(sockets, n, d->lasting, fds, collector_alive(c), error);
}

/* The table that stays is made before the first socket is silent, and after the guard that would remove it. */
static bool make_lasting(Collector *c, TcpDump *d, GError **error) {
  if (!d->lasting)
    return true;
  if (!make_locks(c, d, d->lasting, NULL, error))
    return false;
  collector_checkpoint(c)->network->lock = g_strdup(d->lasting);
  job_result_text(collector_job(c), "network-lock", d->lasting);
  return true;
}

bool tcp_seal(Collector *c, bool kill, GError **error) {
  TcpDump *d = tcp_dump(c);
  if (!gather(c, d, kill, error))
    return false;
  if (!d->connections->len)
    return true;
  if (!lock_network(c, d, kill, error) || !(d->guard = make_guard(c, d, error)))
    return false;
  return read_all(c, d, kill, error) && make_lasting(c, d, error);
}

void tcp_end(Collector *c, bool killed) {
  TcpDump *d = tcp_dump(c);
  for (guint k = 0; !killed && d->repairing && k < d->connections->len; k++)
    tcp_guard_release(&g_array_index(d->connections, Connection, k).socket, TCP_REPAIR_OFF_NO_WP);
  if (!killed && d->lasting)
    remove_locks(c, d);
  g_ptr_array_set_size(d->locks, 0);
  g_clear_pointer(&d->guard, tcp_guard_free);
}

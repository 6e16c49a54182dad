/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* TCP connections that have ended while a program still holds them: what came in and was not read, and the error that the next
 * call gets (ECONNRESET, …). Nothing comes in any more, so they are read as they stand. At a restore the kernel gives a queue to
 * connections only: so it becomes one, with a peer at the same address that does not exist, and ends as it did before, by segments
 * that we make up (tcp-repair.c). That peer is seen by nobody: getpeername(2) of an ended connection answers ENOTCONN.
 *
 * The error can only be asked for by taking it (SO_ERROR), and the tree may have to go on with it. So it is read in the kernel's
 * memory (kernel-types.h), or guessed, and the log says so. */

#include "inet.h"
#include "kernel-types.h"
#include <errno.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define LOCAL_PORT_RANGE 51 /* IP_LOCAL_PORT_RANGE, since Linux 6.3 */

/* --- collect --- */

/* Where the kernel has what. */
typedef struct SockReader {
  KernelReader *kernel; /* NULL: it cannot be read */
  int files, fdt, max_fds, fd, private_data, sk, err, flags;
  gint64 done;
} SockReader;

static gpointer sock_reader_new(void) {
  SockReader *s = g_new0(SockReader, 1);
  g_autoptr(KernelTypes) types = kernel_types_open();
  const struct {
    const char *structure, *member;
    int *at;
  } fields[] = {
      {"task_struct", "files", &s->files},
      {"files_struct", "fdt", &s->fdt},
      {"fdtable", "max_fds", &s->max_fds},
      {"fdtable", "fd", &s->fd},
      {"file", "private_data", &s->private_data},
      {"socket", "sk", &s->sk},
      {"sock", "sk_err", &s->err},
      {"sock", "__sk_common.skc_flags", &s->flags},
  };
  bool ok = types != NULL;
  for (size_t i = 0; ok && i < G_N_ELEMENTS(fields); i++)
    ok = (*fields[i].at = kernel_types_offset(types, fields[i].structure, fields[i].member)) >= 0;
  s->done = ok ? kernel_types_constant(types, "SOCK_DONE", -1) : -1;
  s->kernel = s->done >= 0 && s->done < 64 ? kernel_reader_new() : NULL;
  return s;
}

static void sock_reader_free(gpointer data) {
  SockReader *s = data;
  kernel_reader_free(s->kernel);
  g_free(s);
}

static bool follow(const SockReader *s, guint64 from, int offset, guint64 *ret) {
  return kernel_read(s->kernel, from + (guint64)offset, ret, sizeof *ret);
}

/* Of a socket of ours. */
static bool read_inside(const SockReader *s, int fd, int *ret_error, bool *ret_fin) {
  guint64 files, fdt, table, file, socket, sk, flags;
  guint32 most, err;
  if (!s->kernel || !follow(s, kernel_reader_self(s->kernel), s->files, &files) || !follow(s, files, s->fdt, &fdt) ||
      !kernel_read(s->kernel, fdt + (guint64)s->max_fds, &most, sizeof most) || fd < 0 || (guint32)fd >= most ||
      !follow(s, fdt, s->fd, &table) || !follow(s, table, fd * 8, &file) || !follow(s, file, s->private_data, &socket) ||
      !follow(s, socket, s->sk, &sk) || !follow(s, sk, s->flags, &flags) ||
      !kernel_read(s->kernel, sk + (guint64)s->err, &err, sizeof err))
    return false;
  *ret_error = (int)err;
  *ret_fin = flags >> s->done & 1;
  return true;
}

/* Options are of those that were connected: a reset in answer to the first packet is a refusal. */
static int guess_error(const struct tcp_info *info) {
  return info->tcpi_options || info->tcpi_bytes_received ? ECONNRESET : ECONNREFUSED;
}

static bool has_error(int fd) {
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) == 1 && p.revents & POLLERR;
}

static void collect_end(Collector *c, const struct tcp_info *info, int fd, CkptTcpEnded *e) {
  static const char key;
  int error = 0;
  bool fin = false;
  if (!has_error(fd))
    return;
  if (!read_inside(collector_state(c, &key, sock_reader_new, sock_reader_free), fd, &error, &fin) || error <= 0) {
    error = guess_error(info);
    job_log(collector_job(c), 3, "A TCP connection has ended with an error that this kernel lets nobody look at: %s is assumed",
        g_strerror(error));
  }
  e->has_error = true;
  e->error = (guint32)error;
  e->has_fin = e->fin = fin;
}

static void add_ended(Checkpoint *checkpoint, CkptTcpEnded *e) {
  if (!checkpoint->network)
    checkpoint->network = MESSAGE_NEW(CkptNetwork, ckpt_network__init);
  CkptNetwork *n = checkpoint->network;
  n->tcp_ended = g_renew(CkptTcpEnded *, n->tcp_ended, n->n_tcp_ended + 1);
  n->tcp_ended[n->n_tcp_ended++] = e;
}

bool tcp_ended_collect(Collector *c, InetSkEntry *i, int fd, GError **error) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  InetAddress local, remote;
  inet_collect_addresses(i, fd, &local, &remote);
  inet_entry_close(i);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || (!info.tcpi_segs_in && !info.tcpi_segs_out))
    return true; /* shut down before it ever was one */
  CkptTcpEnded *e = MESSAGE_NEW(CkptTcpEnded, ckpt_tcp_ended__init);
  bool six = local.sa.sa_family == AF_INET6;
  e->id = i->id;
  e->address.len = six ? 16 : 4;
  e->address.data = g_memdup2(six ? (const void *)&local.in6.sin6_addr : (const void *)&local.in.sin_addr, e->address.len);
  e->port = ntohs(local.in.sin_port); /* at the same place in both */
  collect_end(c, &info, fd, e);
  add_ended(collector_checkpoint(c), e);
  GBytes *queue = NULL;
  TcpStreamEntry *s = tcp_repair_read_ended(fd, e->fin, &queue, error);
  if (s)
    checkpoint_add_tcp_stream(collector_checkpoint(c), i->ino, &s->base, queue);
  return s != NULL;
}

/* --- restore --- */

const CkptTcpEnded *tcp_ended_find(const Checkpoint *checkpoint, guint32 id) {
  const CkptNetwork *n = checkpoint->network;
  for (size_t k = 0; n && k < n->n_tcp_ended; k++)
    if (n->tcp_ended[k]->id == id)
      return n->tcp_ended[k];
  return NULL;
}

static socklen_t set_address(const InetSkEntry *i, const CkptTcpEnded *e, InetAddress *ret) {
  *ret = (InetAddress){.sa.sa_family = (sa_family_t)i->family};
  ret->in.sin_port = htons((guint16)e->port);
  if (i->family == AF_INET) {
    memcpy(&ret->in.sin_addr, e->address.data, sizeof ret->in.sin_addr);
    return sizeof ret->in;
  }
  memcpy(&ret->in6.sin6_addr, e->address.data, sizeof ret->in6.sin6_addr);
  if (i->ifname && IN6_IS_ADDR_LINKLOCAL(&ret->in6.sin6_addr))
    ret->in6.sin6_scope_id = if_nametoindex(i->ifname);
  return sizeof ret->in6;
}

static void set_loopback(InetAddress *a) {
  static const struct in6_addr mapped = {.s6_addr = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}};
  if (a->sa.sa_family == AF_INET)
    a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  else
    a->in6.sin6_addr = IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr) ? mapped : in6addr_loopback;
}

static bool is_unspecified(const InetAddress *a) {
  return a->sa.sa_family == AF_INET ? !a->in.sin_addr.s_addr : IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
}

/* A port at the address where nobody listens, for as long as the descriptor is open: the peer. -1: the host has no such address. */
static int reserve_peer(const InetAddress *local, socklen_t size, InetAddress *ret) {
  _cleanup_fd_ int fd = socket(local->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t n = size;
  int off = 0;
  *ret = *local;
  ret->in.sin_port = 0; /* at the same place in both */
  if (fd >= 0 && local->sa.sa_family == AF_INET6)
    (void)setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &off, sizeof off); /* addresses of IPv4 are among them */
  if (fd < 0 || bind(fd, &ret->sa, size) < 0 || getsockname(fd, &ret->sa, &n) < 0)
    return -1;
  return fd_take(&fd);
}

/* The way to the end, from the state that came before it. */
static guint32 state_before(bool fin, int number) {
  return !fin ? INET_ESTABLISHED : number == ECONNRESET ? INET_LAST_ACK : INET_CLOSE_WAIT;
}

/* The error that it shall end with; not all of them can be brought about. */
static int error_of(Restorer *r, const CkptTcpEnded *e) {
  int number = e->has_error ? (int)e->error : 0;
  if (!number || number == ECONNRESET || number == ETIMEDOUT || (number == ECONNREFUSED && !e->fin) || (number == EPIPE && e->fin))
    return number;
  job_log(restorer_job(r), 3, "A TCP connection had ended with \"%s\"; it is \"%s\" now", g_strerror(number), g_strerror(ECONNRESET));
  return ECONNRESET;
}

/* With what is made up: sequence numbers and windows. */
static TcpStreamEntry stream_of(const TcpStreamEntry *s, guint32 state) {
  TcpStreamEntry t = *s;
  bool fin = state != INET_ESTABLISHED;
  t.outq_len = t.unsq_len = 0;
  t.outq_seq = state == INET_LAST_ACK ? 2 : 1;
  t.inq_seq = 1 + t.inq_len + fin;
  t.has_snd_wl1 = t.has_snd_wnd = t.has_max_window = t.has_rcv_wnd = t.has_rcv_wup = true;
  t.snd_wl1 = t.rcv_wup = 1 + t.inq_len;
  t.snd_wnd = t.max_window = t.rcv_wnd = G_MAXUINT16;
  return t;
}

/* Takes the port as a connection has it that was not bound by hand: the kernel frees it at its end. False: this kernel cannot, or
 * others have the port, too. */
static bool borrow_port(int fd, const InetAddress *local, socklen_t size) {
  InetAddress any = *local;
  guint32 port = ntohs(any.in.sin_port), range = port << 16 | port;
  int no_port = sockopt_get(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 0), off = 0;
  guint32 before = (guint32)sockopt_get(fd, SOL_IP, LOCAL_PORT_RANGE, 0);
  any.in.sin_port = 0;
  if (setsockopt(fd, SOL_IP, LOCAL_PORT_RANGE, &range, sizeof range) < 0)
    return false;
  (void)setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &off, sizeof off);
  bool ok = bind(fd, &any.sa, size) == 0;
  (void)setsockopt(fd, SOL_IP, LOCAL_PORT_RANGE, &before, sizeof before);
  (void)setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &no_port, sizeof no_port);
  return ok;
}

/* Binds a socket in repair mode; *local is what it has then. */
static bool bind_ended(int fd, InetAddress *local, socklen_t size, GError **error) {
  socklen_t n = size;
  if (!borrow_port(fd, local, size) && bind(fd, &local->sa, size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot bind it");
  return getsockname(fd, &local->sa, &n) == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "getsockname");
}

/* Where the socket was; a loopback address where the host has it no more. */
static int find_place(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, InetAddress *local, socklen_t *ret_size, InetAddress *peer) {
  *ret_size = set_address(i, e, local);
  int fd = is_unspecified(local) ? -1 : reserve_peer(local, *ret_size, peer);
  if (fd >= 0)
    return fd;
  g_autofree char *text = inet_address_text(local);
  job_log(restorer_job(r), 4, "The end of a TCP connection at %s gets a loopback address", text);
  set_loopback(local);
  return reserve_peer(local, *ret_size, peer);
}

static bool is_loopback_up(int fd) {
  struct ifreq request = {.ifr_name = "lo"};
  return ioctl(fd, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP;
}

static bool end_it(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, const Record *record, int fd, GError **error) {
  InetAddress local, peer;
  socklen_t size;
  int number = error_of(r, e);
  guint32 state = state_before(e->has_fin && e->fin, number);
  const TcpStreamEntry stream = stream_of((const TcpStreamEntry *)record->message, state);
  if (!is_loopback_up(fd))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "The network device lo is down; set it up first (ip link set lo up)");
  _cleanup_fd_ int reserved = find_place(r, i, e, &local, &size, &peer);
  if (reserved < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot reserve a port for its peer");
  int result = tcp_repair_set(fd, TCP_REPAIR_ON);
  if (result < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, result, "Cannot enter TCP repair mode");
  if (!bind_ended(fd, &local, size, error))
    return false;
  const TcpConnection c = {.local = &local, .remote = &peer, .address_size = size, .state = state, .stream = &stream,
      .queues = g_bytes_get_data(record->extra, NULL)};
  return number == ECONNREFUSED ? tcp_repair_refuse(fd, &peer, size, error) : tcp_repair_end(fd, &c, number, error);
}

/* A socket that is bound to a device sees nothing of what comes in through lo. */
static bool end_it_unbound(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, const Record *record, int fd, GError **error) {
  const char *device = i->opts->so_bound_dev;
  if (device && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot unbind it from its network device");
  bool ok = end_it(r, i, e, record, fd, error);
  return !device || setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) == 0
             ? ok
             : ok && engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot bind it to its network device");
}

/* Without data and error a closed socket does as well: only its address is another one. */
static bool close_simply(int fd) {
  const struct sockaddr none = {.sa_family = AF_UNSPEC};
  (void)connect(fd, &none, sizeof none);
  (void)sockopt_get(fd, SOL_SOCKET, SO_ERROR, 0);
  (void)shutdown(fd, SHUT_RDWR); /* it says ENOTCONN, and does it */
  return true;
}

bool tcp_ended_open(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, int fd, GError **error) {
  const Record *record = checkpoint_find_tcp_stream(restorer_checkpoint(r), i->ino);
  g_autoptr(GError) reason = NULL;
  if (!record)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "tcp-stream-%x.img is missing", i->ino);
  if (end_it_unbound(r, i, e, record, fd, &reason))
    return true;
  if (!e->has_error && !((const TcpStreamEntry *)record->message)->inq_len) {
    job_log(restorer_job(r), 4, "A TCP connection that had ended is a closed socket now: %s", reason->message);
    return close_simply(fd);
  }
  g_propagate_prefixed_error(error, g_steal_pointer(&reason), "TCP connection that has ended, with what it has not read: ");
  return false;
}

void tcp_ended_hold(Restorer *r, const InetSkEntry *i, int fd) {
  if (tcp_repair_set(fd, TCP_REPAIR_ON) == 0)
    tcp_restore_note(r, i, false);
}

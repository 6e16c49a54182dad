/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* TCP, UDP, raw and ping sockets over IPv4 and IPv6. Those that listen, are bound, or are not connected at all, and connected
 * ones without connections, are made here; TCP connections are the matter of tcp-dump.c and tcp-restore.c. What is queued in
 * the others is dropped, as a network may. */

#include "inet.h"
#include "as-process.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

char *inet_address_text(const InetAddress *a) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (a->sa.sa_family == AF_INET6) {
    (void)inet_ntop(AF_INET6, &a->in6.sin6_addr, text, sizeof text);
    return g_strdup_printf("[%s]:%u", text, ntohs(a->in6.sin6_port));
  }
  (void)inet_ntop(AF_INET, &a->in.sin_addr, text, sizeof text);
  return g_strdup_printf("%s:%u", text, ntohs(a->in.sin_port));
}

static bool inet_claims(const FileProbe *probe) {
  if (!S_ISSOCK(probe->st.st_mode) || probe->st.st_dev != kernel_devs()->sockets || probe->flags & O_PATH)
    return false;
  int family = sockopt_get(probe->local, SOL_SOCKET, SO_DOMAIN, -1);
  return family == AF_INET || family == AF_INET6;
}

/* --- collect --- */

static guint16 address_to_words(const InetAddress *a, size_t *ret_n, guint32 **ret_words) {
  bool six = a->sa.sa_family == AF_INET6;
  size_t n = six ? 4 : 1;
  g_free(*ret_words);
  *ret_words = g_new0(guint32, n);
  *ret_n = n;
  memcpy(*ret_words, six ? (const void *)&a->in6.sin6_addr : (const void *)&a->in.sin_addr, n * 4);
  return ntohs(six ? a->in6.sin6_port : a->in.sin_port);
}

void inet_set_remote(InetSkEntry *i, const InetAddress *remote) {
  i->dst_port = address_to_words(remote, &i->n_dst_addr, &i->dst_addr);
}

void inet_collect_addresses(InetSkEntry *i, int fd, InetAddress *local, InetAddress *remote) {
  socklen_t size = sizeof *local;
  int family = (int)i->family;
  *local = *remote = (InetAddress){.sa.sa_family = (sa_family_t)family};
  if (getsockname(fd, &local->sa, &size) < 0)
    *local = (InetAddress){.sa.sa_family = (sa_family_t)family};
  size = sizeof *remote;
  if (getpeername(fd, &remote->sa, &size) < 0)
    *remote = (InetAddress){.sa.sa_family = (sa_family_t)family};
  i->src_port = address_to_words(local, &i->n_src_addr, &i->src_addr);
  inet_set_remote(i, remote);
  if (family == AF_INET6 && local->in6.sin6_scope_id && !i->ifname) {
    char name[IF_NAMESIZE];
    if (if_indextoname(local->in6.sin6_scope_id, name))
      i->ifname = g_strdup(name);
  }
}

bool inet_is_connection(const InetSkEntry *i) {
  return i->proto == IPPROTO_TCP && i->type == SOCK_STREAM && i->state != INET_LISTEN && i->state != INET_CLOSE;
}

void inet_entry_close(InetSkEntry *i) {
  const InetAddress none = {.sa.sa_family = (sa_family_t)i->family};
  i->state = INET_CLOSE;
  i->has_shutdown = true;
  i->shutdown = SK_SHUTDOWN__BOTH;
  i->src_port = address_to_words(&none, &i->n_src_addr, &i->src_addr);
  inet_set_remote(i, &none);
}

static bool is_ended(const InetSkEntry *i) {
  return i->proto == IPPROTO_TCP && i->state == INET_CLOSE && i->has_shutdown && i->shutdown == SK_SHUTDOWN__BOTH;
}

/* A socket that was never connected has no end to hang up. */
static bool has_ended(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  return poll(&p, 1, 0) == 1 && p.revents & POLLRDHUP;
}

static NetTuple tuple4(struct in_addr local, struct in_addr remote) {
  NetTuple t = {0};
  memcpy(t.local, &local, 4);
  memcpy(t.remote, &remote, 4);
  return t;
}

static struct in_addr mapped(const InetAddress *a) {
  struct in_addr in;
  memcpy(&in, &a->in6.sin6_addr.s6_addr[12], sizeof in);
  return in;
}

NetTuple inet_tuple(const InetAddress *local, const InetAddress *remote) {
  NetTuple t = {.six = true};
  if (local->sa.sa_family == AF_INET) {
    t = tuple4(local->in.sin_addr, remote->in.sin_addr);
  } else if (IN6_IS_ADDR_V4MAPPED(&remote->in6.sin6_addr)) {
    t = tuple4(mapped(local), mapped(remote));
  } else {
    memcpy(t.local, &local->in6.sin6_addr, 16);
    memcpy(t.remote, &remote->in6.sin6_addr, 16);
  }
  t.local_port = ntohs(local->in.sin_port); /* at the same place in both */
  t.remote_port = ntohs(remote->in.sin_port);
  return t;
}

/* A raw socket has no ports, and getpeername(2) answers only those that have one: the peer stands in /proc/net/raw, where the
 * "port" is the protocol. */
static void raw_collect_state(InetSkEntry *i) {
  g_autofree char *text = NULL;
  i->state = INET_CLOSE;
  i->src_port = i->dst_port = 0;
  if (!g_file_get_contents(i->family == AF_INET6 ? "/proc/net/raw6" : "/proc/net/raw", &text, NULL, NULL))
    return;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    InetAddress remote = {.sa.sa_family = (sa_family_t)i->family};
    guint32 words[4] = {0};
    unsigned state = 0, ino = 0;
    char hex[33] = "";
    if (sscanf(*line, "%*[ 0-9]: %*[0-9A-F]:%*x %32[0-9A-F]:%*x %x %*s %*s %*s %*s %*s %u", hex, &state, &ino) != 3 || ino != i->ino)
      continue;
    for (size_t k = 0; k < strlen(hex) / 8; k++)
      (void)sscanf(hex + 8 * k, "%8x", &words[k]); /* as numbers of the host */
    memcpy(i->family == AF_INET6 ? (void *)&remote.in6.sin6_addr : (void *)&remote.in.sin_addr, words, strlen(hex) / 2);
    i->state = state == INET_ESTABLISHED ? INET_ESTABLISHED : INET_CLOSE;
    inet_set_remote(i, &remote);
  }
}

static void collect_state(InetSkEntry *i, int fd, const InetAddress *remote, guint32 *ret_waiting) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (i->type == SOCK_RAW) {
    raw_collect_state(i);
    return;
  }
  if (i->proto != IPPROTO_TCP) {
    i->state = i->dst_port || remote->sa.sa_family == AF_UNSPEC ? INET_ESTABLISHED : INET_CLOSE;
    return;
  }
  i->state = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : INET_CLOSE;
  if (i->state != INET_LISTEN)
    return;
  i->backlog = info.tcpi_sacked;    /* of a listening socket: how many connections may wait, */
  *ret_waiting = info.tcpi_unacked; /* and how many do */
}

/* Of a socket without connection. What has come to its end for reading can be seen by poll(2), for writing by sock_diag(7). */
static void collect_shutdown(InetSkEntry *i, int fd, const InetAddress *local, const InetAddress *remote) {
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  bool bound = i->src_port && (i->proto == IPPROTO_UDP || i->proto == IPPROTO_UDPLITE);
  if (i->type == SOCK_STREAM)
    return;
  int end = poll(&p, 1, 0) == 1 && p.revents & POLLRDHUP ? SK_SHUTDOWN__READ : SK_SHUTDOWN__NONE;
  if (end && p.revents & POLLHUP)
    end = SK_SHUTDOWN__BOTH;
  else if (!end && bound)
    end = MAX(inet_diag_shutdown(fd, (int)i->proto, local, remote), 0) & SK_SHUTDOWN__BOTH;
  i->has_shutdown = end != SK_SHUTDOWN__NONE;
  i->shutdown = (SkShutdown)end;
}

/* Network namespaces have defaults of their own. */
static int inet_fresh_ttl(bool everywhere) {
  static int known;
  int fresh = 0, *ttl = everywhere ? &known : &fresh;
  _cleanup_fd_ int fd = *ttl ? -1 : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd >= 0)
    *ttl = sockopt_get(fd, SOL_IP, IP_TTL, 0);
  return *ttl;
}

/* The ICMP filter and the place of a checksum are with the other options (sockopts-table.c). */
static void collect_raw_options(InetSkEntry *i, int fd) {
  bool six = i->family == AF_INET6;
  int hdrincl = sockopt_get(fd, six ? SOL_IPV6 : SOL_IP, six ? IPV6_HDRINCL : IP_HDRINCL, 0);
  int nodefrag = six ? 0 : sockopt_get(fd, SOL_IP, IP_NODEFRAG, 0);
  if (i->type != SOCK_RAW || (hdrincl <= 0 && nodefrag <= 0))
    return;
  IpOptsRawEntry *raw = i->ip_opts->raw = MESSAGE_NEW(IpOptsRawEntry, ip_opts_raw_entry__init);
  raw->has_hdrincl = raw->hdrincl = hdrincl > 0;
  raw->has_nodefrag = raw->nodefrag = nodefrag > 0;
}

static void collect_ip_options(const Collector *c, InetSkEntry *i, int fd, int family) {
  i->ip_opts = MESSAGE_NEW(IpOptsEntry, ip_opts_entry__init);
  int level = family == AF_INET6 ? SOL_IPV6 : SOL_IP;
  int freebind = sockopt_get(fd, SOL_IP, IP_FREEBIND, 0);
  i->ip_opts->has_freebind = i->ip_opts->freebind = freebind > 0;
  int info = sockopt_get(fd, level, family == AF_INET6 ? IPV6_RECVPKTINFO : IP_PKTINFO, 0);
  i->ip_opts->has_pktinfo = i->ip_opts->pktinfo = info > 0;
  int tos = sockopt_get(fd, SOL_IP, IP_TOS, 0);
  i->ip_opts->has_tos = tos > 0;
  i->ip_opts->tos = tos > 0 ? (guint32)tos : 0;
  int ttl = sockopt_get(fd, SOL_IP, IP_TTL, -1);
  i->ip_opts->has_ttl = family == AF_INET && ttl > 0 && ttl != inet_fresh_ttl(!collector_places(c));
  i->ip_opts->ttl = i->ip_opts->has_ttl ? (guint32)ttl : 0;
  collect_raw_options(i, fd);
  if (family == AF_INET6) {
    i->has_v6only = true;
    i->v6only = sockopt_get(fd, SOL_IPV6, IPV6_V6ONLY, 0) > 0;
  }
}

/* What accepted connections inherit. */
static void collect_tcp_options(InetSkEntry *i, int fd) {
  int nodelay = sockopt_get(fd, IPPROTO_TCP, TCP_NODELAY, 0), cork = sockopt_get(fd, IPPROTO_TCP, TCP_CORK, 0);
  if (i->proto != IPPROTO_TCP || (!nodelay && !cork))
    return;
  i->tcp_opts = MESSAGE_NEW(TcpOptsEntry, tcp_opts_entry__init);
  i->tcp_opts->has_nodelay = i->tcp_opts->nodelay = nodelay > 0;
  i->tcp_opts->has_cork = i->tcp_opts->cork = cork > 0;
}

/* Other protocols over IP, by name where people know one. */
static void inet_block_protocol(Collector *c, const FileProbe *probe, guint32 protocol) {
  static const struct {
    guint32 protocol;
    const char *what, *reason, *cure;
  } known[] = {
      {132, "SCTP socket", "associations cannot be read from the kernel", "close it before the dump"},
      {33, "DCCP socket", "connections cannot be read from the kernel", "close it before the dump"},
      {262, "MPTCP socket", "what its subflows share cannot be read from the kernel",
          "let the program use TCP (sysctl net.mptcp.enabled=0, or without mptcpize)"},
      {256, "SMC socket", "its memory is shared with a device", "let the program use TCP"},
      {115, "L2TP socket", "tunnels are of the kernel", "close it before the dump"},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(known); i++)
    if (known[i].protocol == protocol) {
      collector_block(c, probe, known[i].what, known[i].reason, known[i].cure);
      return;
    }
  g_autofree char *what = g_strdup_printf("socket of IP protocol %u", protocol);
  collector_block(c, probe, what, "only TCP, UDP, raw and ping sockets are supported", "close it before the dump");
}

static void check_urgent(Collector *c, const FileProbe *probe) {
  struct pollfd p = {.fd = probe->local, .events = POLLPRI};
  if (poll(&p, 1, 0) == 1 && p.revents & POLLPRI)
    collector_block(c, probe, "TCP connection that has ended", "urgent data has not been read", "try again in a moment");
}

static const char *inet_kind(const InetSkEntry *i) {
  return i->type == SOCK_RAW                                                ? "raw socket"
         : i->proto == IPPROTO_ICMP || i->proto == IPPROTO_ICMPV6           ? "ping socket"
         : i->proto == IPPROTO_TCP                                          ? "TCP socket"
         : i->proto == IPPROTO_UDP                                          ? "UDP socket"
         : i->proto == IPPROTO_UDPLITE                                      ? "UDP-Lite socket"
                                                                            : NULL;
}

/* What was put together for one datagram is in the kernel until it is sent, and cannot be read there. A short while is given to
 * what is on its way out of a device. */
static bool has_unsent(int fd) {
  int unsent = 0;
  for (int i = 0; i < 20 && ioctl(fd, SIOCOUTQ, &unsent) == 0 && unsent > 0; i++)
    g_usleep(1000);
  return unsent > 0;
}

static void check_datagrams(Collector *c, const FileProbe *probe, const InetSkEntry *i, const char *kind) {
  int unread = 0;
  if (has_unsent(probe->local))
    collector_block(c, probe, kind, "data that is held back until there is more (UDP_CORK, MSG_MORE) cannot be read",
        "let the program send it first, or try again in a moment");
  if (ioctl(probe->local, FIONREAD, &unread) == 0 && unread > 0)
    job_log(collector_job(c), 3, "pid %d fd %d: datagrams that a %s has received and not read (%u bytes of memory) are dropped, as a network may",
        (int)probe->pid, probe->fd, kind, socket_memory(probe->local));
}

static bool has_keys(int fd) {
  char info[256] = {0}; /* struct tcp_ao_info_opt; without keys ENOENT */
  socklen_t size = 40;
  return getsockopt(fd, IPPROTO_TCP, 40 /* TCP_AO_INFO */, info, &size) == 0;
}

static void check_supported(Collector *c, const FileProbe *probe, InetSkEntry *i, guint32 waiting,
    const InetAddress *local, const InetAddress *remote) {
  const EngineOptions *o = job_options(collector_job(c));
  const char *kind = inet_kind(i);
  g_autofree char *from = inet_address_text(local), *to = inet_address_text(remote), *what = NULL;
  sockopts_check(c, probe, kind ? kind : "socket");
  if (!kind) {
    inet_block_protocol(c, probe, i->proto);
  } else if (i->proto != IPPROTO_TCP || i->type == SOCK_RAW) {
    check_datagrams(c, probe, i, kind);
  } else if (inet_is_connection(i) && o->tcp_close) {
    inet_entry_close(i);
  } else if (inet_is_connection(i)) {
    what = i->dst_port ? g_strdup_printf("TCP connection from %s to %s", from, to)
                       : g_strdup_printf("TCP connection from %s that is being made", from);
    tcp_check(c, probe, i, what);
  } else if (is_ended(i)) {
    check_urgent(c, probe);
  } else if (waiting && !o->skip_in_flight) {
    tcp_waiting_note(c, i->id, waiting);
  }
  if (i->proto == IPPROTO_TCP && i->type == SOCK_STREAM && has_keys(probe->local))
    collector_block(c, probe, kind, "it signs its packets (TCP-AO), and the kernel keeps the keys", "use the option tcp-close, or remove the keys");
}

static bool inet_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  int fd = probe->local, family = sockopt_get(fd, SOL_SOCKET, SO_DOMAIN, AF_INET);
  InetSkEntry *i = MESSAGE_NEW(InetSkEntry, inet_sk_entry__init);
  entry->isk = i;
  i->id = entry->id;
  i->ino = (guint32)probe->st.st_ino;
  i->family = (guint32)family;
  i->type = (guint32)sockopt_get(fd, SOL_SOCKET, SO_TYPE, 0);
  i->proto = (guint32)sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, 0);
  i->flags = (guint32)probe->flags;
  i->fown = collector_fown(probe);
  InetAddress local, remote;
  guint32 waiting = 0;
  inet_collect_addresses(i, fd, &local, &remote);
  collect_state(i, fd, &remote, &waiting);
  collect_shutdown(i, fd, &local, &remote);
  if (i->proto == IPPROTO_TCP && i->state == INET_CLOSE && has_ended(fd) && !tcp_ended_collect(c, i, fd, error))
    return false;
  i->opts = sockopts_collect(fd, family, (int)i->proto, error);
  if (!i->opts)
    return false;
  collect_ip_options(c, i, fd, family);
  collect_tcp_options(i, fd);
  sockopts_collect_more(c, entry->id, fd, inet_is_connection(i) || is_ended(i));
  check_supported(c, probe, i, waiting, &local, &remote);
  if (i->type != SOCK_STREAM)
    multicast_collect(c, probe, i);
  return true;
}

/* Which namespace it is in is known when the ids of the tasks are. */
static bool inet_collect_finish(Collector *c, GError **error) {
  const GPtrArray *files = collector_checkpoint(c)->files;
  for (guint k = 0; k < files->len; k++) {
    InetSkEntry *i = ((FileEntry *)files->pdata[k])->isk;
    if (!i)
      continue;
    i->ns_id = collector_net_ns_of(c, i->id);
    i->has_ns_id = i->ns_id != 0;
  }
  tcp_waiting_check(c);
  tcp_check_holders(c);
  return true;
}

/* --- restore --- */

bool inet_entry_address(const InetSkEntry *i, bool remote, InetAddress *ret, socklen_t *ret_size, GError **error) {
  size_t n = remote ? i->n_dst_addr : i->n_src_addr;
  const guint32 *words = remote ? i->dst_addr : i->src_addr;
  guint32 port = remote ? i->dst_port : i->src_port;
  *ret = (InetAddress){.sa.sa_family = (sa_family_t)i->family};
  if (i->family == AF_INET6 && n == 4) {
    memcpy(&ret->in6.sin6_addr, words, 16);
    ret->in6.sin6_port = htons((guint16)port);
    if (i->ifname && IN6_IS_ADDR_LINKLOCAL(&ret->in6.sin6_addr))
      ret->in6.sin6_scope_id = if_nametoindex(i->ifname);
    *ret_size = sizeof ret->in6;
    return true;
  }
  if (i->family == AF_INET && n >= 1) {
    memcpy(&ret->in.sin_addr, words, 4);
    ret->in.sin_port = htons((guint16)port);
    *ret_size = sizeof ret->in;
    return true;
  }
  return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A socket address has the wrong length");
}

static bool set_option(int fd, int level, int option, int value, GError **error) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0 ||
         engine_fail_errno(
             error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the socket option %d/%d to %d", level, option, value);
}

/* What bind(2) looks at. SO_REUSEADDR in any case: connections of the dumped process may still be in TIME_WAIT. */
static bool before_bind(const InetSkEntry *i, int fd, GError **error) {
  const SkOptsEntry *o = i->opts;
  if (i->proto == IPPROTO_TCP && !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1, error))
    return false;
  if (i->proto != IPPROTO_TCP && o->reuseaddr && !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1, error))
    return false;
  if (o->so_reuseport && !set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1, error))
    return false;
  if (i->has_v6only && i->type != SOCK_RAW && !set_option(fd, SOL_IPV6, IPV6_V6ONLY, i->v6only, error))
    return false;
  if (i->ip_opts && i->ip_opts->freebind && !set_option(fd, SOL_IP, IP_FREEBIND, 1, error))
    return false;
  if (o->so_bound_dev &&
      setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)strlen(o->so_bound_dev)) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno,
        "Cannot bind a socket to the network device %s", o->so_bound_dev);
  return true;
}

static bool after_bind(const InetSkEntry *i, int fd, GError **error) {
  bool six = i->family == AF_INET6;
  if (i->ip_opts && i->ip_opts->pktinfo &&
      !set_option(fd, six ? SOL_IPV6 : SOL_IP, six ? IPV6_RECVPKTINFO : IP_PKTINFO, 1, error))
    return false;
  const IpOptsRawEntry *raw = i->ip_opts ? i->ip_opts->raw : NULL;
  if (raw && raw->hdrincl && !set_option(fd, six ? SOL_IPV6 : SOL_IP, six ? IPV6_HDRINCL : IP_HDRINCL, 1, error))
    return false;
  if (raw && raw->nodefrag && !set_option(fd, SOL_IP, IP_NODEFRAG, 1, error))
    return false;
  if (i->ip_opts && i->ip_opts->has_ttl && !set_option(fd, SOL_IP, IP_TTL, (int)i->ip_opts->ttl, error))
    return false;
  if (i->ip_opts && i->ip_opts->has_tos && !set_option(fd, SOL_IP, IP_TOS, (int)i->ip_opts->tos, error))
    return false;
  if (!i->tcp_opts || i->proto != IPPROTO_TCP)
    return true;
  return (!i->tcp_opts->nodelay || set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, error)) &&
         (!i->tcp_opts->cork || set_option(fd, IPPROTO_TCP, TCP_CORK, 1, error));
}

static bool address_fail(const InetSkEntry *i, const char *what, const InetAddress *a, int reason, GError **error) {
  g_autofree char *text = inet_address_text(a);
  if (reason == EADDRINUSE) {
    g_autofree char *who = inet_port_holder((int)i->proto, ntohs(a->in.sin_port));
    return engine_fail(error, ENGINE_ERROR_CODE__BUSY, "The address %s is in use by %s; stop it first%s", text,
        who ? who : "another process", who ? "" : " (ss -anp shows which)");
  }
  if (reason == EADDRNOTAVAIL)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "This machine does not have the address %s; give it to one of its devices first (ip address add)", text);
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot %s %s", what, text);
}

bool inet_bind(const InetSkEntry *i, int fd, GError **error) {
  InetAddress local;
  socklen_t size;
  if (!inet_entry_address(i, false, &local, &size, error))
    return false;
  bool any = !i->src_port;
  for (size_t k = 0; k < i->n_src_addr; k++)
    any = any && !i->src_addr[k];
  return any || bind_patiently(fd, &local, size) == 0 || address_fail(i, "bind to", &local, errno, error);
}

static bool bind_and_listen(const InetSkEntry *i, int fd, GError **error) {
  InetAddress local;
  socklen_t size;
  if (!inet_bind(i, fd, error) || !inet_entry_address(i, false, &local, &size, error))
    return false;
  return i->state != INET_LISTEN || listen(fd, (int)i->backlog) == 0 || address_fail(i, "listen at", &local, errno, error);
}

static bool connect_udp(const InetSkEntry *i, int fd, GError **error) {
  InetAddress remote;
  socklen_t size;
  if (i->type == SOCK_STREAM || i->state != INET_ESTABLISHED)
    return true;
  if (!inet_entry_address(i, true, &remote, &size, error))
    return false;
  return connect(fd, &remote.sa, size) == 0 || address_fail(i, "connect to", &remote, errno, error);
}

static bool check_entry(const InetSkEntry *i, GError **error) {
  if (!i || !i->opts)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no inet_sk_entry");
  if (inet_is_connection(i) && i->state != INET_SYN_SENT && !tcp_state_is_connected(i->state))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "There is no such state of a TCP socket: %u", i->state);
  if (i->src_port > G_MAXUINT16 || i->dst_port > G_MAXUINT16)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A port number is out of range");
  return true;
}

/* Reading gives end of file, and writing EPIPE. The kernel says ENOTCONN and does it. */
static bool open_ended(const InetSkEntry *i, int fd, GError **error) {
  (void)shutdown(fd, SHUT_RDWR);
  return sockopts_restore(fd, i->opts, error);
}

static bool open_hung_up(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, int fd, GError **error) {
  bool ok = tcp_ended_open(r, i, e, fd, error) && sockopts_restore(fd, i->opts, error) && after_bind(i, fd, error);
  if (ok)
    tcp_ended_hold(r, i, fd);
  return ok;
}

static bool open_connection(Restorer *r, const InetSkEntry *i, int fd, GError **error) {
  return sockopts_restore(fd, i->opts, error) && tcp_open(r, i, fd, error) && after_bind(i, fd, error);
}

/* The kernel says ENOTCONN of one without a peer, and does it. */
static void shut_down(const InetSkEntry *i, int fd) {
  if (i->type != SOCK_STREAM && i->has_shutdown && i->shutdown != SK_SHUTDOWN__NONE)
    (void)shutdown(fd, (int)i->shutdown - 1);
}

static bool open_other(Restorer *r, const InetSkEntry *i, int fd, GError **error) {
  return multicast_restore(r, i, fd, error) && bind_and_listen(i, fd, error) && connect_udp(i, fd, error) &&
         after_bind(i, fd, error) && sockopts_restore(fd, i->opts, error);
}

/* As CRIU writes it; ours is among the other options. */
static bool filter_icmp(const InetSkEntry *i, int fd, GError **error) {
  const IpOptsRawEntry *raw = i->type == SOCK_RAW && i->ip_opts ? i->ip_opts->raw : NULL;
  if (!raw || !raw->n_icmpv_filter)
    return true;
  bool six = i->family == AF_INET6;
  return setsockopt(fd, six ? SOL_ICMPV6 : SOL_RAW, 1, raw->icmpv_filter, (socklen_t)(raw->n_icmpv_filter * sizeof(uint32_t))) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "Cannot set the ICMP filter of a raw socket");
}

typedef struct PingCall {
  const InetSkEntry *entry;
  int fd;
} PingCall;

static int do_ping(void *data) {
  PingCall *call = data;
  call->fd = socket((int)call->entry->family, (int)call->entry->type | SOCK_CLOEXEC, (int)call->entry->proto);
  return call->fd < 0 ? -errno : 0;
}

static int inet_ping_as_holder(Restorer *r, const InetSkEntry *i) {
  const Task *task = restorer_holder_of(r, i->id);
  const CredsEntry *creds = task && task->core && task->core->thread_core ? task->core->thread_core->creds : NULL;
  PingCall call = {.entry = i, .fd = -1};
  if (!creds)
    return -1;
  const AsWho who = {.uid = creds->uid, .gid = creds->gid, .groups = creds->groups, .n_groups = creds->n_groups};
  int result = as_process(&who, do_ping, &call, NULL);
  errno = -result;
  return call.fd;
}

/* Ping sockets are for the groups of a sysctl; root is in none of them. */
static int make_socket(Restorer *r, const InetSkEntry *i, GError **error) {
  int fd = socket((int)i->family, (int)i->type | SOCK_CLOEXEC, (int)i->proto);
  bool ping = i->type == SOCK_DGRAM && (i->proto == IPPROTO_ICMP || i->proto == IPPROTO_ICMPV6);
  if (fd < 0 && errno == EACCES && ping)
    fd = inet_ping_as_holder(r, i);
  if (fd >= 0)
    return fd;
  engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno,
      ping ? "Cannot make a ping socket (sysctl net.ipv4.ping_group_range says who may)" : "Cannot make a socket of protocol %u", i->proto);
  return -1;
}

static int inet_open(Restorer *r, const FileEntry *entry, GError **error) {
  const InetSkEntry *i = entry->isk;
  if (!check_entry(i, error))
    return -1;
  _cleanup_fd_ int fd = make_socket(r, i, error);
  if (fd < 0)
    return -1;
  bool connection = inet_is_connection(i);
  const CkptTcpEnded *ended = is_ended(i) ? tcp_ended_find(restorer_checkpoint(r), i->id) : NULL;
  bool ok = before_bind(i, fd, error) && sockopts_restore_more(r, entry->id, fd, SOCKOPTS_EARLY, connection || ended, error);
  if (ended)
    ok = ok && open_hung_up(r, i, ended, fd, error);
  else if (is_ended(i) || tcp_closes(r, i))
    ok = ok && open_ended(i, fd, error);
  else if (inet_is_connection(i))
    ok = ok && open_connection(r, i, fd, error);
  else
    ok = ok && open_other(r, i, fd, error);
  ok = ok && sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LATE, connection || ended, error) && filter_icmp(i, fd, error) &&
       sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LAST, connection || ended, error);
  if (ok)
    shut_down(i, fd);
  return ok && restorer_set_flags(fd, i->flags, error) ? fd_take(&fd) : -1;
}

static const FownEntry *inet_fown(const FileEntry *entry) {
  return entry->isk ? entry->isk->fown : NULL;
}

const ObjectOps inet_ops = {
    .name = "internet socket",
    .type = FD_TYPES__INETSK,
    .claims = inet_claims,
    .collect = inet_collect,
    .collect_finish = inet_collect_finish,
    .seal = tcp_seal,
    .end = tcp_end,
    .open = inet_open,
    .release = tcp_release,
    .fown = inet_fown,
};

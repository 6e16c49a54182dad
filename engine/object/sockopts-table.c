/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Options of sockets that CRIU's messages have no field for: every one that can be read and set, in one table. Noted is what
 * differs from a new socket of the same kind, as bytes; so what a kernel does not know costs nothing, and what a newer one
 * adds is one line here. */

#include "sockopts.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#define VALUE_MAX 256

enum {
  EARLY = 1 << 0,     /* bind(2) or connect(2) look at it */
  LAST = 1 << 1,      /* after everything else, it forbids or holds back */
  UNCONNECTED = 1 << 2, /* not of TCP connections: tcp-dump.c has it, or it changes by itself */
  STREAM = 1 << 3,    /* of TCP connections only after connect(2) */
  DATAGRAM = 1 << 4,  /* not of streams */
};

typedef struct AnyOption {
  int level, name;
  const char *text;
  unsigned flags;
} AnyOption;

#define SOL_ICMPV6_ 58
#define SOL_RAW_ 255

static const AnyOption options[] = {
    /* include/uapi/asm-generic/socket.h */
    {SOL_SOCKET, 1, "SO_DEBUG"},
    {SOL_SOCKET, 29, "SO_TIMESTAMP"},
    {SOL_SOCKET, 35, "SO_TIMESTAMPNS"},
    {SOL_SOCKET, 63, "SO_TIMESTAMP_NEW"},
    {SOL_SOCKET, 64, "SO_TIMESTAMPNS_NEW"},
    {SOL_SOCKET, 37, "SO_TIMESTAMPING", STREAM},
    {SOL_SOCKET, 40, "SO_RXQ_OVFL"},
    {SOL_SOCKET, 41, "SO_WIFI_STATUS"},
    {SOL_SOCKET, 42, "SO_PEEK_OFF", LAST},
    {SOL_SOCKET, 43, "SO_NOFCS"},
    {SOL_SOCKET, 44, "SO_LOCK_FILTER", LAST},
    {SOL_SOCKET, 45, "SO_SELECT_ERR_QUEUE"},
    {SOL_SOCKET, 46, "SO_BUSY_POLL"},
    {SOL_SOCKET, 47, "SO_MAX_PACING_RATE"},
    {SOL_SOCKET, 60, "SO_ZEROCOPY"},
    {SOL_SOCKET, 61, "SO_TXTIME"},
    {SOL_SOCKET, 69, "SO_PREFER_BUSY_POLL"},
    {SOL_SOCKET, 70, "SO_BUSY_POLL_BUDGET"},
    {SOL_SOCKET, 73, "SO_RESERVE_MEM"},
    {SOL_SOCKET, 74, "SO_TXREHASH"},
    {SOL_SOCKET, 75, "SO_RCVMARK"},
    {SOL_SOCKET, 76, "SO_PASSPIDFD"},
    {SOL_SOCKET, 82, "SO_RCVPRIORITY"},
    {SOL_SOCKET, 83, "SO_PASSRIGHTS", LAST},
    {SOL_SOCKET, 84, "SO_INQ"},
    /* include/uapi/linux/in.h; IP_TOS, IP_TTL, IP_PKTINFO, IP_FREEBIND and those of raw sockets have fields */
    {SOL_IP, 4, "IP_OPTIONS", EARLY | UNCONNECTED},
    {SOL_IP, 6, "IP_RECVOPTS"},
    {SOL_IP, 7, "IP_RETOPTS"},
    {SOL_IP, 10, "IP_MTU_DISCOVER"},
    {SOL_IP, 11, "IP_RECVERR"},
    {SOL_IP, 12, "IP_RECVTTL"},
    {SOL_IP, 13, "IP_RECVTOS"},
    {SOL_IP, 18, "IP_PASSSEC"},
    {SOL_IP, 19, "IP_TRANSPARENT", EARLY},
    {SOL_IP, 20, "IP_RECVORIGDSTADDR"},
    {SOL_IP, 21, "IP_MINTTL", STREAM},
    {SOL_IP, 23, "IP_CHECKSUM"},
    {SOL_IP, 24, "IP_BIND_ADDRESS_NO_PORT", EARLY},
    {SOL_IP, 25, "IP_RECVFRAGSIZE"},
    {SOL_IP, 26, "IP_RECVERR_RFC4884"},
    {SOL_IP, 32, "IP_MULTICAST_IF", DATAGRAM},
    {SOL_IP, 33, "IP_MULTICAST_TTL", DATAGRAM},
    {SOL_IP, 34, "IP_MULTICAST_LOOP"},
    {SOL_IP, 49, "IP_MULTICAST_ALL"},
    {SOL_IP, 50, "IP_UNICAST_IF"},
    {SOL_IP, 51, "IP_LOCAL_PORT_RANGE", EARLY},
    /* include/uapi/linux/in6.h; IPV6_V6ONLY and IPV6_RECVPKTINFO have fields */
    {SOL_IPV6, 2, "IPV6_2292PKTINFO"},
    {SOL_IPV6, 3, "IPV6_2292HOPOPTS"},
    {SOL_IPV6, 4, "IPV6_2292DSTOPTS"},
    {SOL_IPV6, 5, "IPV6_2292RTHDR"},
    {SOL_IPV6, 8, "IPV6_2292HOPLIMIT"},
    {SOL_IPV6, 11, "IPV6_FLOWINFO"},
    {SOL_IPV6, 16, "IPV6_UNICAST_HOPS"},
    {SOL_IPV6, 17, "IPV6_MULTICAST_IF", DATAGRAM},
    {SOL_IPV6, 18, "IPV6_MULTICAST_HOPS", DATAGRAM},
    {SOL_IPV6, 19, "IPV6_MULTICAST_LOOP"},
    {SOL_IPV6, 23, "IPV6_MTU_DISCOVER"},
    {SOL_IPV6, 25, "IPV6_RECVERR"},
    {SOL_IPV6, 29, "IPV6_MULTICAST_ALL"},
    {SOL_IPV6, 30, "IPV6_ROUTER_ALERT_ISOLATE"},
    {SOL_IPV6, 31, "IPV6_RECVERR_RFC4884"},
    {SOL_IPV6, 33, "IPV6_FLOWINFO_SEND"},
    {SOL_IPV6, 51, "IPV6_RECVHOPLIMIT"},
    {SOL_IPV6, 53, "IPV6_RECVHOPOPTS"},
    {SOL_IPV6, 54, "IPV6_HOPOPTS", EARLY},
    {SOL_IPV6, 55, "IPV6_RTHDRDSTOPTS", EARLY},
    {SOL_IPV6, 56, "IPV6_RECVRTHDR"},
    {SOL_IPV6, 57, "IPV6_RTHDR", EARLY},
    {SOL_IPV6, 58, "IPV6_RECVDSTOPTS"},
    {SOL_IPV6, 59, "IPV6_DSTOPTS", EARLY},
    {SOL_IPV6, 60, "IPV6_RECVPATHMTU"},
    {SOL_IPV6, 62, "IPV6_DONTFRAG"},
    {SOL_IPV6, 66, "IPV6_RECVTCLASS"},
    {SOL_IPV6, 67, "IPV6_TCLASS"},
    {SOL_IPV6, 70, "IPV6_AUTOFLOWLABEL"},
    {SOL_IPV6, 72, "IPV6_ADDR_PREFERENCES", EARLY},
    {SOL_IPV6, 73, "IPV6_MINHOPCOUNT", STREAM},
    {SOL_IPV6, 74, "IPV6_RECVORIGDSTADDR"},
    {SOL_IPV6, 75, "IPV6_TRANSPARENT", EARLY},
    {SOL_IPV6, 76, "IPV6_UNICAST_IF"},
    {SOL_IPV6, 77, "IPV6_RECVFRAGSIZE"},
    {SOL_IPV6, 78, "IPV6_FREEBIND", EARLY},
    /* include/uapi/linux/tcp.h; TCP_NODELAY and TCP_CORK have fields, more of connections is in tcp-dump.c */
    {IPPROTO_TCP, 2, "TCP_MAXSEG", EARLY | UNCONNECTED},
    {IPPROTO_TCP, 4, "TCP_KEEPIDLE"},
    {IPPROTO_TCP, 5, "TCP_KEEPINTVL"},
    {IPPROTO_TCP, 6, "TCP_KEEPCNT"},
    {IPPROTO_TCP, 7, "TCP_SYNCNT"},
    {IPPROTO_TCP, 8, "TCP_LINGER2", UNCONNECTED},
    {IPPROTO_TCP, 9, "TCP_DEFER_ACCEPT"},
    {IPPROTO_TCP, 10, "TCP_WINDOW_CLAMP", UNCONNECTED},
    {IPPROTO_TCP, 13, "TCP_CONGESTION", EARLY | UNCONNECTED},
    {IPPROTO_TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"},
    {IPPROTO_TCP, 18, "TCP_USER_TIMEOUT", UNCONNECTED},
    {IPPROTO_TCP, 23, "TCP_FASTOPEN", EARLY | UNCONNECTED},
    {IPPROTO_TCP, 25, "TCP_NOTSENT_LOWAT", UNCONNECTED},
    {IPPROTO_TCP, 27, "TCP_SAVE_SYN"},
    {IPPROTO_TCP, 30, "TCP_FASTOPEN_CONNECT", UNCONNECTED},
    {IPPROTO_TCP, 33, "TCP_FASTOPEN_KEY", EARLY | UNCONNECTED},
    {IPPROTO_TCP, 34, "TCP_FASTOPEN_NO_COOKIE", UNCONNECTED},
    {IPPROTO_TCP, 36, "TCP_INQ"},
    {IPPROTO_TCP, 37, "TCP_TX_DELAY", STREAM},
    {IPPROTO_TCP, 44, "TCP_RTO_MAX_MS"},
    {IPPROTO_TCP, 45, "TCP_RTO_MIN_US"},
    {IPPROTO_TCP, 46, "TCP_DELACK_MAX_US"},
    /* include/uapi/linux/udp.h */
    {IPPROTO_UDP, 1, "UDP_CORK", LAST},
    {IPPROTO_UDP, 100, "UDP_ENCAP"},
    {IPPROTO_UDP, 101, "UDP_NO_CHECK6_TX"},
    {IPPROTO_UDP, 102, "UDP_NO_CHECK6_RX"},
    {IPPROTO_UDP, 103, "UDP_SEGMENT"},
    {IPPROTO_UDP, 104, "UDP_GRO"},
    {IPPROTO_UDPLITE, 1, "UDP_CORK", LAST},
    {IPPROTO_UDPLITE, 10, "UDPLITE_SEND_CSCOV"},
    {IPPROTO_UDPLITE, 11, "UDPLITE_RECV_CSCOV"},
    /* include/uapi/linux/icmp.h, icmpv6.h, and IPV6_CHECKSUM */
    {SOL_RAW_, 1, "ICMP_FILTER"},
    {SOL_RAW_, 7, "IPV6_CHECKSUM"},
    {SOL_ICMPV6_, 1, "ICMPV6_FILTER"},
    /* include/uapi/linux/if_packet.h; most have fields */
    {SOL_PACKET, 20, "PACKET_QDISC_BYPASS"},
    {SOL_PACKET, 23, "PACKET_IGNORE_OUTGOING"},
    {SOL_PACKET, 24, "PACKET_VNET_HDR_SZ"},
};

typedef struct Value {
  guint8 bytes[VALUE_MAX];
  socklen_t size; /* 0: the socket has no such option */
} Value;

/* What new sockets have, by family, type and protocol. */
typedef struct Fresh {
  Value values[G_N_ELEMENTS(options)];
} Fresh;

static bool is_option_of(const AnyOption *o, int family, int type, int protocol) {
  if (type == SOCK_STREAM && o->flags & DATAGRAM)
    return false;
  if (o->level == IPPROTO_TCP)
    return protocol == IPPROTO_TCP && type == SOCK_STREAM && (family == AF_INET || family == AF_INET6);
  if (o->level == IPPROTO_UDP || o->level == IPPROTO_UDPLITE)
    return protocol == o->level && type == SOCK_DGRAM && (family == AF_INET || family == AF_INET6);
  if (o->level == SOL_RAW_ || o->level == SOL_ICMPV6_)
    return type == SOCK_RAW && (family == AF_INET || family == AF_INET6);
  if (o->level == SOL_PACKET)
    return family == AF_PACKET;
  if (o->level == SOL_IP)
    return family == AF_INET || (family == AF_INET6 && type != SOCK_RAW);
  return o->level == SOL_SOCKET || family == AF_INET6;
}

static void read_value(int fd, const AnyOption *o, Value *v) {
  v->size = sizeof v->bytes;
  memset(v->bytes, 0, sizeof v->bytes);
  if (getsockopt(fd, o->level, o->name, v->bytes, &v->size) < 0 || v->size > sizeof v->bytes)
    v->size = 0;
}

static gpointer all_fresh_new(void) {
  return g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
}

static const Fresh *fresh_of(Collector *c, int family, int type, int protocol) {
  static const char key;
  GHashTable *all = collector_state(c, &key, all_fresh_new, (GDestroyNotify)g_hash_table_unref);
  gint64 kind = (gint64)family << 40 | (gint64)type << 32 | (guint32)protocol;
  Fresh *fresh = g_hash_table_lookup(all, &kind);
  if (fresh)
    return fresh;
  fresh = g_new0(Fresh, 1);
  g_hash_table_insert(all, g_memdup2(&kind, sizeof kind), fresh);
  _cleanup_fd_ int fd = socket(family, type | SOCK_CLOEXEC, protocol);
  for (size_t i = 0; fd >= 0 && i < G_N_ELEMENTS(options); i++)
    if (is_option_of(&options[i], family, type, protocol))
      read_value(fd, &options[i], &fresh->values[i]);
  return fresh;
}

static void note(CkptSocket *s, const AnyOption *o, const Value *v) {
  CkptSocketOption *e = MESSAGE_NEW(CkptSocketOption, ckpt_socket_option__init);
  e->level = (guint32)o->level;
  e->name = (guint32)o->name;
  e->value = (ProtobufCBinaryData){.len = v->size, .data = g_memdup2(v->bytes, v->size)};
  s->option = g_renew(CkptSocketOption *, s->option, s->n_option + 1);
  s->option[s->n_option++] = e;
}

void sockopts_collect_more(Collector *c, guint32 file_id, int fd, bool connection) {
  int family = sockopt_get(fd, SOL_SOCKET, SO_DOMAIN, -1), type = sockopt_get(fd, SOL_SOCKET, SO_TYPE, -1);
  int protocol = sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, 0);
  const Fresh *fresh = fresh_of(c, family, type, protocol);
  for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
    const AnyOption *o = &options[i];
    Value v;
    if (!is_option_of(o, family, type, protocol) || (connection && o->flags & UNCONNECTED))
      continue;
    read_value(fd, o, &v);
    if (v.size && (v.size != fresh->values[i].size || memcmp(v.bytes, fresh->values[i].bytes, v.size) != 0))
      note(socket_extra(collector_checkpoint(c), file_id), o, &v);
  }
}

static const AnyOption *find_option(const CkptSocketOption *e) {
  for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
    if ((guint32)options[i].level == e->level && (guint32)options[i].name == e->name)
      return &options[i];
  return NULL;
}

static SockoptsMoment moment_of(const AnyOption *o, bool connection) {
  return o->flags & EARLY ? SOCKOPTS_EARLY : o->flags & LAST || (connection && o->flags & STREAM) ? SOCKOPTS_LAST : SOCKOPTS_LATE;
}

bool sockopts_restore_more(const Restorer *r, guint32 file_id, int fd, SockoptsMoment moment, bool connection, GError **error) {
  const CkptSocket *s = checkpoint_find_socket(restorer_checkpoint(r), file_id);
  for (size_t i = 0; s && i < s->n_option; i++) {
    const CkptSocketOption *e = s->option[i];
    const AnyOption *o = find_option(e);
    if (!o)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A socket has the option %u/%u, which is none that is kept", e->level, e->name);
    if (moment_of(o, connection) == moment && setsockopt(fd, o->level, o->name, e->value.data, (socklen_t)e->value.len) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the socket option %s", o->text);
  }
  return true;
}

/* --- programs --- */

static bool has_ebpf_filter(int fd) {
  socklen_t n = 0;
  return getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER /* SO_GET_FILTER */, NULL, &n) < 0 && errno == EACCES;
}

void sockopts_check(Collector *c, const FileProbe *probe, const char *what) {
  if (has_ebpf_filter(probe->local))
    collector_block(c, probe, what, "an eBPF program filters it (SO_ATTACH_BPF), which cannot be read back",
        "take it off before the dump (SO_DETACH_BPF), or use a classic filter");
}

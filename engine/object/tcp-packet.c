/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-lock.h"
#include "tcp-repair.h"
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* What the checksum covers besides the segment. */
typedef struct Pseudo4 {
  guint32 source, destination;
  guint8 zero, protocol;
  guint16 length;
} Pseudo4;

typedef struct Pseudo6 {
  struct in6_addr source, destination;
  guint32 length;
  guint8 zero[3], protocol;
} Pseudo6;

static guint32 sum_words(guint32 sum, const void *data, size_t n) {
  const guint8 *at = data;
  for (size_t i = 0; i + 1 < n; i += 2)
    sum += (guint32)at[i] << 8 | at[i + 1];
  return sum;
}

static guint16 checksum(const void *pseudo, size_t n, const struct tcphdr *tcp) {
  guint32 sum = sum_words(sum_words(0, pseudo, n), tcp, sizeof *tcp);
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return htons((guint16)~sum);
}

/* Ports stand at the same place in both kinds of addresses. */
static struct tcphdr header(const TcpSegment *s) {
  return (struct tcphdr){
      .source = s->from->in.sin_port,
      .dest = s->to->in.sin_port,
      .seq = htonl(s->seq),
      .ack_seq = htonl(s->ack),
      .doff = sizeof(struct tcphdr) / 4,
      .ack = 1,
      .fin = s->fin,
      .rst = s->rst,
      .window = htons(G_MAXUINT16),
  };
}

static bool send_raw(
    int family, const void *packet, size_t size, const struct sockaddr *to, socklen_t to_size, GError **error) {
  const int mark = (int)NET_LOCK_MARK;
  _cleanup_fd_ int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) < 0 ||
      sendto(fd, packet, size, 0, to, to_size) < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "TCP repair: cannot make up a segment of the peer's");
  return true;
}

static bool send4(const TcpSegment *s, struct in_addr from, struct in_addr to, GError **error) {
  struct {
    struct iphdr ip;
    struct tcphdr tcp;
  } packet = {
      .ip = {.version = 4,
          .ihl = sizeof(struct iphdr) / 4,
          .ttl = 64,
          .protocol = IPPROTO_TCP,
          .tot_len = htons(sizeof packet),
          .saddr = from.s_addr,
          .daddr = to.s_addr},
      .tcp = header(s),
  };
  const Pseudo4 pseudo = {from.s_addr, to.s_addr, 0, IPPROTO_TCP, htons(sizeof packet.tcp)};
  packet.tcp.check = checksum(&pseudo, sizeof pseudo, &packet.tcp);
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = to};
  return send_raw(AF_INET, &packet, sizeof packet, (const struct sockaddr *)&address, sizeof address, error);
}

static bool send6(const TcpSegment *s, GError **error) {
  struct {
    struct ip6_hdr ip;
    struct tcphdr tcp;
  } packet = {
      .ip = {.ip6_src = s->from->in6.sin6_addr, .ip6_dst = s->to->in6.sin6_addr},
      .tcp = header(s),
  };
  packet.ip.ip6_flow = htonl(6u << 28);
  packet.ip.ip6_plen = htons(sizeof packet.tcp);
  packet.ip.ip6_nxt = IPPROTO_TCP;
  packet.ip.ip6_hlim = 64;
  const Pseudo6 pseudo = {.source = packet.ip.ip6_src,
      .destination = packet.ip.ip6_dst,
      .length = htonl(sizeof packet.tcp),
      .protocol = IPPROTO_TCP};
  packet.tcp.check = checksum(&pseudo, sizeof pseudo, &packet.tcp);
  const struct sockaddr_in6 address = {
      .sin6_family = AF_INET6, .sin6_addr = packet.ip.ip6_dst, .sin6_scope_id = s->to->in6.sin6_scope_id};
  return send_raw(AF_INET6, &packet, sizeof packet, (const struct sockaddr *)&address, sizeof address, error);
}

static struct in_addr mapped(const InetAddress *a) {
  struct in_addr in;
  memcpy(&in, &a->in6.sin6_addr.s6_addr[12], sizeof in);
  return in;
}

bool tcp_packet_send(const TcpSegment *s, GError **error) {
  if (s->from->sa.sa_family == AF_INET)
    return send4(s, s->from->in.sin_addr, s->to->in.sin_addr, error);
  if (IN6_IS_ADDR_V4MAPPED(&s->from->in6.sin6_addr))
    return send4(s, mapped(s->from), mapped(s->to), error);
  return send6(s, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets that have no connection: every option that can be set, raw and ping sockets, connected datagram sockets, what is
 * refused. */
#include "subject.h"
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

enum { TCP4, TCP6, LISTEN4, LISTEN6, UDP4, UDP6, LITE, RAW4, RAW6, UNIX, NETLINK, N_SOCKETS };
#define BIT(n) (1u << (n))
#define TCP (BIT(TCP4) | BIT(TCP6) | BIT(LISTEN4) | BIT(LISTEN6))
#define UDP (BIT(UDP4) | BIT(UDP6))
#define RAW (BIT(RAW4) | BIT(RAW6))
#define FOUR (BIT(TCP4) | BIT(LISTEN4) | BIT(UDP4) | BIT(RAW4))
#define SIX (BIT(TCP6) | BIT(LISTEN6) | BIT(UDP6) | BIT(RAW6))
#define ALL (BIT(N_SOCKETS) - 1)

typedef struct Option {
  unsigned sockets;
  int level, name, value;
  const char *bytes; /* in place of the value */
  socklen_t size;
} Option;

#define B(text) 0, text, sizeof(text) - 1

static const Option options[] = {
    /* SOL_SOCKET */
    {ALL, SOL_SOCKET, 1, 1}, {ALL, SOL_SOCKET, SO_REUSEADDR, 1}, {ALL, SOL_SOCKET, SO_DONTROUTE, 1}, {ALL, SOL_SOCKET, SO_BROADCAST, 1},
    {ALL, SOL_SOCKET, SO_SNDBUF, 30000}, {ALL, SOL_SOCKET, SO_RCVBUF, 40000}, {ALL, SOL_SOCKET, SO_KEEPALIVE, 1},
    {ALL, SOL_SOCKET, SO_OOBINLINE, 1}, {ALL, SOL_SOCKET, SO_NO_CHECK, 1}, {ALL, SOL_SOCKET, SO_PRIORITY, 5},
    {ALL, SOL_SOCKET, SO_RCVLOWAT, 3}, {ALL, SOL_SOCKET, 29, 1}, {UDP, SOL_SOCKET, 37, 0x10}, {ALL, SOL_SOCKET, SO_MARK, 7},
    {ALL, SOL_SOCKET, 40, 1}, {ALL, SOL_SOCKET, 41, 1}, {TCP | UDP | BIT(UNIX), SOL_SOCKET, 42, 5}, {ALL, SOL_SOCKET, 43, 1}, {ALL, SOL_SOCKET, 44, 1},
    {ALL, SOL_SOCKET, 45, 1}, {ALL, SOL_SOCKET, 46, 9}, {ALL, SOL_SOCKET, 47, B("\0\0\20\0\0\0\0\0")},
    {TCP | UDP, SOL_SOCKET, 60, 1}, {ALL, SOL_SOCKET, 69, 1}, {ALL, SOL_SOCKET, 70, 4}, {TCP, SOL_SOCKET, 74, 0}, {ALL, SOL_SOCKET, 75, 1},
    {BIT(UNIX), SOL_SOCKET, SO_PASSCRED, 1}, {BIT(UNIX), SOL_SOCKET, 76, 1}, {BIT(UNIX), SOL_SOCKET, 83, 0}, {ALL, SOL_SOCKET, 82, 1},
    {ALL, SOL_SOCKET, SO_LINGER, B("\1\0\0\0\5\0\0\0")}, {ALL, SOL_SOCKET, SO_RCVTIMEO, B("\5\0\0\0\0\0\0\0\240\17\0\0\0\0\0\0")},
    {TCP | UDP, SOL_SOCKET, SO_REUSEPORT, 1}, {TCP | UDP, SOL_SOCKET, SO_BINDTODEVICE, B("lo")},
    /* SOL_IP */
    {FOUR, SOL_IP, IP_TOS, 0x10}, {FOUR, SOL_IP, IP_TTL, 33}, {FOUR, SOL_IP, IP_OPTIONS, B("\1\1\1\0")}, {FOUR, SOL_IP, IP_RECVOPTS, 1},
    {FOUR, SOL_IP, IP_RETOPTS, 1}, {FOUR, SOL_IP, IP_PKTINFO, 1}, {FOUR, SOL_IP, IP_MTU_DISCOVER, 3}, {FOUR, SOL_IP, IP_RECVERR, 1},
    {FOUR, SOL_IP, IP_RECVTTL, 1}, {FOUR, SOL_IP, IP_RECVTOS, 1}, {FOUR, SOL_IP, IP_FREEBIND, 1}, {FOUR, SOL_IP, IP_PASSSEC, 1},
    {FOUR, SOL_IP, IP_TRANSPARENT, 1}, {FOUR, SOL_IP, 20, 1}, {FOUR, SOL_IP, IP_MINTTL, 3}, {FOUR, SOL_IP, 23, 1}, {FOUR, SOL_IP, 24, 1},
    {FOUR, SOL_IP, 25, 1}, {FOUR, SOL_IP, 26, 1}, {BIT(UDP4) | BIT(RAW4), SOL_IP, IP_MULTICAST_TTL, 8}, {FOUR, SOL_IP, IP_MULTICAST_LOOP, 0},
    {FOUR, SOL_IP, 49, 0}, {BIT(UDP4) | BIT(RAW4), SOL_IP, IP_MULTICAST_IF, B("\177\0\0\1")}, {FOUR, SOL_IP, 50, 0x1000000 /* the first device */},
    {FOUR, SOL_IP, 51, 40000 | 41000 << 16}, {BIT(RAW4), SOL_IP, IP_HDRINCL, 1}, {BIT(RAW4), SOL_IP, IP_NODEFRAG, 1},
    /* SOL_IPV6 */
    {SIX, SOL_IPV6, 2, 1}, {SIX, SOL_IPV6, 3, 1}, {SIX, SOL_IPV6, 4, 1}, {SIX, SOL_IPV6, 5, 1}, {SIX, SOL_IPV6, 8, 1}, {SIX, SOL_IPV6, 11, 1},
    {SIX, SOL_IPV6, 16, 44}, {BIT(UDP6) | BIT(RAW6), SOL_IPV6, 17, 1}, {BIT(UDP6) | BIT(RAW6), SOL_IPV6, 18, 9}, {SIX, SOL_IPV6, 19, 0},
    {SIX, SOL_IPV6, 23, 3}, {SIX, SOL_IPV6, 25, 1}, {SIX & ~BIT(RAW6), SOL_IPV6, IPV6_V6ONLY, 1}, {SIX, SOL_IPV6, 29, 0}, {SIX, SOL_IPV6, 31, 1},
    {SIX, SOL_IPV6, 33, 1}, {SIX, SOL_IPV6, 49, 1}, {SIX, SOL_IPV6, 51, 1}, {SIX, SOL_IPV6, 53, 1}, {SIX, SOL_IPV6, 56, 1}, {SIX, SOL_IPV6, 58, 1},
    {SIX, SOL_IPV6, 60, 1}, {SIX, SOL_IPV6, 62, 1}, {SIX, SOL_IPV6, 66, 1}, {SIX, SOL_IPV6, 67, 0x20}, {SIX, SOL_IPV6, 70, 0},
    {SIX, SOL_IPV6, 72, 1 /* temporary ones */}, {SIX, SOL_IPV6, 73, 2}, {SIX, SOL_IPV6, 74, 1}, {SIX, SOL_IPV6, 75, 1},
    {SIX, SOL_IPV6, 76, 0x1000000}, {SIX, SOL_IPV6, 77, 1}, {SIX, SOL_IPV6, 78, 1}, {BIT(UDP6) | BIT(RAW6), SOL_IPV6, 59, B("\0\0\1\4\0\0\0\0")},
    {BIT(RAW6), SOL_IPV6, 36, 1},
    /* TCP */
    {TCP, IPPROTO_TCP, 1, 1}, {TCP, IPPROTO_TCP, 2, 1000}, {TCP, IPPROTO_TCP, 3, 1}, {TCP, IPPROTO_TCP, 4, 100}, {TCP, IPPROTO_TCP, 5, 20},
    {TCP, IPPROTO_TCP, 6, 4}, {TCP, IPPROTO_TCP, 7, 3}, {TCP, IPPROTO_TCP, 8, 30}, {TCP, IPPROTO_TCP, 9, 3}, {TCP, IPPROTO_TCP, 10, 50000},
    {TCP, IPPROTO_TCP, 13, B("reno")}, {TCP, IPPROTO_TCP, 16, 1}, {TCP, IPPROTO_TCP, 18, 9000}, {TCP, IPPROTO_TCP, 23, 6},
    {TCP, IPPROTO_TCP, 25, 7000}, {TCP, IPPROTO_TCP, 27, 1}, {BIT(TCP4) | BIT(TCP6), IPPROTO_TCP, 30, 1}, {TCP, IPPROTO_TCP, 33, B("0123456789abcdef")},
    {TCP, IPPROTO_TCP, 34, 1}, {TCP, IPPROTO_TCP, 36, 1}, {TCP, IPPROTO_TCP, 37, 1000}, {TCP, IPPROTO_TCP, 44, 5000}, {TCP, IPPROTO_TCP, 45, 30000},
    {TCP, IPPROTO_TCP, 46, 20000},
    /* UDP, UDP-Lite, raw */
    {UDP, IPPROTO_UDP, 1, 1}, {UDP, IPPROTO_UDP, 100, 2}, {UDP, IPPROTO_UDP, 101, 1}, {UDP, IPPROTO_UDP, 102, 1}, {UDP, IPPROTO_UDP, 103, 700},
    {UDP, IPPROTO_UDP, 104, 1}, {BIT(LITE), IPPROTO_UDPLITE, 10, 20}, {BIT(LITE), IPPROTO_UDPLITE, 11, 30}, {BIT(LITE), IPPROTO_UDPLITE, 1, 1},
    {BIT(RAW4), 255, 1, B("\1\2\0\0")}, {BIT(RAW6), 255, 7, 6}, {BIT(RAW6), 58, 1, B("\1\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\7")},
    {BIT(NETLINK), SOL_NETLINK, NETLINK_CAP_ACK, 1}, {BIT(NETLINK), SOL_NETLINK, NETLINK_EXT_ACK, 1},
};
#define N_OPTIONS (sizeof options / sizeof *options)

typedef struct Value {
  bool set;
  unsigned char bytes[64];
  socklen_t size;
} Value;

static Value kept[N_SOCKETS][N_OPTIONS];

static Value value_of(int fd, const Option *o) {
  Value v = {.size = sizeof v.bytes};
  v.set = getsockopt(fd, o->level, o->name, v.bytes, &v.size) == 0;
  return v;
}

static void listen_at(int fd, int family) {
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  bool v6 = family == AF_INET6;
  check_call(bind(fd, v6 ? (struct sockaddr *)&six : (struct sockaddr *)&four, v6 ? sizeof six : sizeof four) == 0 && listen(fd, 3) == 0);
}

static void make_sockets(int fds[N_SOCKETS]) {
  static const struct {
    int family, type, protocol;
  } kinds[N_SOCKETS] = {{AF_INET, SOCK_STREAM, 0}, {AF_INET6, SOCK_STREAM, 0}, {AF_INET, SOCK_STREAM, 0}, {AF_INET6, SOCK_STREAM, 0},
      {AF_INET, SOCK_DGRAM, 0}, {AF_INET6, SOCK_DGRAM, 0}, {AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE}, {AF_INET, SOCK_RAW, IPPROTO_ICMP},
      {AF_INET6, SOCK_RAW, IPPROTO_ICMPV6}, {AF_UNIX, SOCK_STREAM, 0}, {AF_NETLINK, SOCK_RAW, NETLINK_ROUTE}};
  for (int i = 0; i < N_SOCKETS; i++) {
    fds[i] = socket(kinds[i].family, kinds[i].type | SOCK_CLOEXEC, kinds[i].protocol);
    check(fds[i] >= 0 || i == LITE, "socket number %d: %s", i, strerror(errno)); /* kernels without UDP-Lite are to come */
  }
  listen_at(fds[LISTEN4], AF_INET);
  listen_at(fds[LISTEN6], AF_INET6);
}

static int set_all(const int fds[N_SOCKETS]) {
  int n = 0;
  for (int s = 0; s < N_SOCKETS; s++)
    for (size_t i = 0; i < N_OPTIONS && fds[s] >= 0; i++) {
      const Option *o = &options[i];
      Value before = value_of(fds[s], o);
      if (!(o->sockets & BIT(s)))
        continue;
      (void)setsockopt(fds[s], o->level, o->name, o->bytes ? (const void *)o->bytes : &o->value, o->bytes ? o->size : sizeof o->value);
      Value after = value_of(fds[s], o);
      n += after.set && (!before.set || before.size != after.size || memcmp(before.bytes, after.bytes, after.size) != 0);
    }
  for (int s = 0; s < N_SOCKETS; s++) /* one may change another */
    for (size_t i = 0; i < N_OPTIONS && fds[s] >= 0; i++)
      kept[s][i] = value_of(fds[s], &options[i]);
  return n;
}

static void run_options(void) {
  int fds[N_SOCKETS];
  make_sockets(fds);
  int n = set_all(fds);
  check(n > 230, "only %d options could be set to something else", n);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  for (int s = 0; s < N_SOCKETS; s++)
    for (size_t i = 0; i < N_OPTIONS && fds[s] >= 0; i++) {
      const Option *o = &options[i];
      Value v = value_of(fds[s], o), *k = &kept[s][i];
      check(v.set == k->set && (!v.set || (v.size == k->size && memcmp(v.bytes, k->bytes, v.size) == 0)),
          "socket number %d: option %d/%d is %02x%02x%02x%02x, was %02x%02x%02x%02x (%u, %u bytes)", s, o->level, o->name, v.bytes[0],
          v.bytes[1], v.bytes[2], v.bytes[3], k->bytes[0], k->bytes[1], k->bytes[2], k->bytes[3], v.size, k->size);
    }
}

/* --- raw, ping and datagram sockets --- */

#define PING_GROUPS "/proc/sys/net/ipv4/ping_group_range"

static void write_groups(const char *text) {
  int fd = open(PING_GROUPS, O_WRONLY | O_CLOEXEC);
  check_call(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static struct sockaddr_in at(const char *host, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  check(inet_pton(AF_INET, host, &a.sin_addr) == 1, "%s", host);
  return a;
}

static uint16_t sum(const void *data, size_t size) {
  const uint16_t *words = data;
  uint32_t n = 0;
  for (size_t i = 0; i < size / 2; i++)
    n += words[i];
  n = (n >> 16) + (n & 0xffff);
  return (uint16_t)~(n + (n >> 16));
}

/* An answer comes back; on a raw socket with a header before it. */
static void ping(int fd, uint16_t id) {
  struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.id = id, .un.echo.sequence = htons(1)};
  unsigned char answer[256];
  struct sockaddr_in to = at("127.0.0.1", 0);
  echo.checksum = sum(&echo, sizeof echo);
  check_call(sendto(fd, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to) == sizeof echo);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  check(poll(&p, 1, 30000) == 1, "no answer to a ping");
  while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0)
    ;
}

static bool peer_is(int fd, const char *host, int port) {
  struct sockaddr_in a = {0}, wanted = at(host, port);
  socklen_t size = sizeof a;
  return getpeername(fd, (struct sockaddr *)&a, &size) == 0 && a.sin_addr.s_addr == wanted.sin_addr.s_addr && a.sin_port == wanted.sin_port;
}

static void run_raw(void) {
  char *groups = subject_read(PING_GROUPS, NULL);
  write_groups("0 4294967294\n");
  int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP), tcp = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
  int far = socket(AF_INET, SOCK_RAW, 253), six = socket(AF_INET6, SOCK_RAW, 254), echo = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  int udp = socket(AF_INET, SOCK_DGRAM, 0), both = socket(AF_INET, SOCK_DGRAM, 0), port;
  struct sockaddr_in here = at("127.0.0.2", 0), there = at("127.0.0.3", 0), got = {0};
  struct sockaddr_in6 loop = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}, six_peer = {0};
  socklen_t size = sizeof got;
  check_call(bind(far, (struct sockaddr *)&here, sizeof here) == 0 && connect(far, (struct sockaddr *)&there, sizeof there) == 0);
  check_call(connect(six, (struct sockaddr *)&loop, sizeof loop) == 0 && bind(udp, (struct sockaddr *)&here, sizeof here) == 0);
  check_call(getsockname(udp, (struct sockaddr *)&got, &size) == 0 && connect(both, (struct sockaddr *)&got, sizeof got) == 0);
  port = ntohs(got.sin_port);
  here.sin_port = htons(4242);
  check_call(bind(echo, (struct sockaddr *)&here, sizeof here) == 0);
  ping(raw, 77);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char c = 0;
  ping(raw, 78);
  here.sin_port = htons(253);
  /* What goes to one end of the connected raw socket is heard by it, what comes from elsewhere is not. */
  int other = socket(AF_INET, SOCK_RAW, 253);
  struct sockaddr_in to = at("127.0.0.2", 0);
  check_call(bind(other, (struct sockaddr *)&there, sizeof there) == 0 && sendto(other, "x", 1, 0, (struct sockaddr *)&to, sizeof to) == 1);
  struct pollfd p = {.fd = far, .events = POLLIN};
  check(poll(&p, 1, 30000) == 1, "the raw socket hears nothing of its peer");
  check_call(send(far, "y", 1, 0) == 1);
  p.fd = other;
  check(poll(&p, 1, 30000) == 1, "the raw socket is not connected any more");
  check_call(send(six, "z", 1, 0) == 1 && getpeername(six, (struct sockaddr *)&six_peer, &size) <= 0);
  size = sizeof got;
  check(getsockname(echo, (struct sockaddr *)&got, &size) == 0 && ntohs(got.sin_port) == 4242, "the ping socket has another number");
  ping(echo, htons(4242));
  check(peer_is(both, "127.0.0.2", port) && send(both, "u", 1, 0) == 1 && recv(udp, &c, 1, 0) == 1, "datagrams");
  check(fcntl(tcp, F_GETFL) == O_RDWR, "the raw socket for TCP");
  write_groups(groups);
  free(groups);
}

/* --- shut down --- */

enum { N_SHUT = 16 };

static int shut_new(int i, struct sockaddr_storage *ret, socklen_t *ret_size) {
  int family = i & 4 ? AF_INET6 : AF_INET, fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, i & 8 ? IPPROTO_UDPLITE : IPPROTO_UDP);
  struct sockaddr_in here = at("127.0.0.1", 0);
  struct sockaddr_in6 loop = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  *ret_size = sizeof *ret;
  if (fd < 0 && errno == EPROTONOSUPPORT)
    return -1;
  check_call(fd >= 0 && bind(fd, family == AF_INET ? (void *)&here : (void *)&loop, family == AF_INET ? sizeof here : sizeof loop) == 0);
  check_call(getsockname(fd, (struct sockaddr *)ret, ret_size) == 0);
  return fd;
}

/* Each direction, both, none; with a peer (itself) and without, which the kernel complains about and does. */
static void run_shut(void) {
  int fds[N_SHUT][2];
  struct sockaddr_storage names[N_SHUT];
  socklen_t sizes[N_SHUT];
  for (int i = 0; i < N_SHUT; i++)
    for (int k = 0; k < 2; k++) {
      int fd = fds[i][k] = shut_new(i, &names[i], &sizes[i]);
      check_call(fd < 0 || !k || connect(fd, (struct sockaddr *)&names[i], sizes[i]) == 0);
      if (fd >= 0 && i & 3)
        check(shutdown(fd, (i & 3) - 1) == (k ? 0 : -1), "shutdown: %s", strerror(errno));
    }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  for (int i = 0; i < 2 * N_SHUT; i++) {
    int fd = fds[i / 2][i % 2], how = i / 2 & 3;
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    if (fd < 0)
      continue;
    int seen = poll(&p, 1, 0) < 0 ? -1 : p.revents & (POLLRDHUP | POLLHUP);
    check(seen == (how == 1 ? POLLRDHUP : how == 3 ? POLLRDHUP | POLLHUP : 0), "socket %d: poll says 0x%x", i, seen);
    ssize_t n = i % 2 ? send(fd, "x", 1, MSG_NOSIGNAL) : sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&names[i / 2], sizes[i / 2]);
    check(how & 2 ? n < 0 && errno == EPIPE : n == 1, "socket %d: sending says %zd (%s)", i, n, strerror(errno));
  }
}

/* --- filters --- */

static void run_filters(void) {
  struct sock_filter short_one[] = {BPF_STMT(BPF_RET | BPF_K, 9)}, none[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  struct sock_fprog cut = {1, short_one}, deaf = {1, none};
  int udp = socket(AF_INET, SOCK_DGRAM, 0), ends[2], one = 1;
  struct sockaddr_in here = at("127.0.0.1", 0);
  socklen_t size = sizeof here;
  check_call(bind(udp, (struct sockaddr *)&here, size) == 0 && getsockname(udp, (struct sockaddr *)&here, &size) == 0);
  check_call(setsockopt(udp, SOL_SOCKET, SO_ATTACH_FILTER, &cut, sizeof cut) == 0);
  check_call(setsockopt(udp, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof one) == 0);
  /* What is queued already has passed; now nothing more does. */
  check_call(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0 && send(ends[0], "before", 6, 0) == 6);
  check_call(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &deaf, sizeof deaf) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char text[16];
  check_call(sendto(udp, "abcdefgh", 8, 0, (struct sockaddr *)&here, size) == 8);
  check(recv(udp, text, 16, 0) == 1 && setsockopt(udp, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one) < 0 && errno == EPERM, "the filter is not locked");
  check(recv(ends[1], text, 16, MSG_DONTWAIT) == 6, "what had passed the filter");
  (void)send(ends[0], "after", 5, 0);
  check(recv(ends[1], text, 16, MSG_DONTWAIT) < 0, "the filter lets through what it should not");
}

/* --- refusals --- */

static int ebpf_filter(void) {
  struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 100}, {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2};
  attr.insns = (uint64_t)(uintptr_t)code;
  attr.license = (uint64_t)(uintptr_t)"GPL";
  return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

static int refused(const char *what) {
  int fd = -1, one = 1;
  if (strcmp(what, "ebpf") == 0) {
    int program = ebpf_filter();
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (program < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program) < 0)
      subject_skip("no eBPF");
    (void)close(program);
  } else if (strcmp(what, "cork") == 0) {
    struct sockaddr_in a = at("127.0.0.1", 9);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    check_call(setsockopt(fd, IPPROTO_UDP, 1, &one, sizeof one) == 0 && sendto(fd, "half", 4, 0, (struct sockaddr *)&a, sizeof a) == 4);
  } else if (strcmp(what, "mptcp") == 0) {
    fd = socket(AF_INET, SOCK_STREAM, 262);
  } else if (strcmp(what, "vsock") == 0) {
    fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  } else if (strcmp(what, "alg") == 0) {
    fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
  } else if (strcmp(what, "xdp") == 0) {
    fd = socket(AF_XDP, SOCK_RAW, 0);
  } else if (strcmp(what, "can") == 0) {
    fd = socket(AF_CAN, SOCK_RAW, 1);
  } else if (strcmp(what, "tipc") == 0) {
    fd = socket(AF_TIPC, SOCK_RDM, 0);
  } else if (strcmp(what, "sctp") == 0) {
    fd = socket(AF_INET, SOCK_STREAM, 132);
  }
  return fd;
}

static void run_refused(const char *what) {
  if (refused(what) < 0)
    subject_skip("this kernel has no such socket");
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *mode = argc > 2 ? argv[2] : "options";
  if (strcmp(mode, "options") == 0)
    run_options();
  else if (strcmp(mode, "raw") == 0)
    run_raw();
  else if (strcmp(mode, "filters") == 0)
    run_filters();
  else if (strcmp(mode, "shut") == 0)
    run_shut();
  else
    run_refused(mode);
  return subject_pass();
}

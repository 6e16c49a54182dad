/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Sockets. What each of them lacks is in the names of the functions. */

#include "refused.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { SOURCES = 65 };

/* --- TCP over the loopback --- */

static struct sockaddr_in tcp_address;

static int tcp_listener(int backlog) {
  socklen_t size = sizeof tcp_address;
  int fd = kept(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  tcp_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  check_call(bind(fd, (struct sockaddr *)&tcp_address, sizeof tcp_address) == 0 && listen(fd, backlog) == 0 &&
             getsockname(fd, (struct sockaddr *)&tcp_address, &size) == 0);
  return fd;
}

static int tcp_connect(int flags) {
  int fd = kept(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  check_call(connect(fd, (struct sockaddr *)&tcp_address, sizeof tcp_address) == 0 || errno == EINPROGRESS);
  return fd;
}

static void tcp_pair(int pair[2]) {
  int fd = tcp_listener(1);
  pair[0] = tcp_connect(0);
  pair[1] = kept(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
  check_call(close(fd) == 0);
}

static void ended_urgent(void) {
  int pair[2];
  tcp_pair(pair);
  check_call(send(pair[0], "!", 1, MSG_OOB) == 1 && shutdown(pair[0], SHUT_WR) == 0);
  for (int state = 0; state != TCP_CLOSE;) {
    struct tcp_info info;
    socklen_t size = sizeof info;
    check_call(shutdown(pair[1], SHUT_WR) == 0 || errno == ENOTCONN);
    check_call(getsockopt(pair[1], IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
    state = info.tcpi_state;
    subject_tick();
  }
}

static void connect_outside(void) {
  (void)tcp_connect(0);
}

/* The queue of a listener that takes one is full: the next one has to try again and again. */
static void tcp(void) {
  int pair[2];
  ended_urgent();
  tcp_pair(pair);
  (void)tcp_listener(0);
  (void)tcp_connect(SOCK_NONBLOCK);
  (void)tcp_connect(SOCK_NONBLOCK);
  (void)tcp_connect(SOCK_NONBLOCK);
  (void)tcp_listener(5);
  outside(connect_outside, NULL, 0);
}

static void tcp_urgent(void) {
  int pair[2];
  tcp_pair(pair);
  check_call(send(pair[0], "!", 1, MSG_OOB) == 1);
}

/* --- others over IP --- */

#define SOURCES_SYSCTL "/proc/sys/net/ipv4/igmp_max_msf"

static void write_text(const char *path, const char *text) {
  int fd = kept(open(path, O_WRONLY | O_CLOEXEC));
  check_call(write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void many_sources(void) {
  char *before = subject_read(SOURCES_SYSCTL, NULL);
  int fd = kept(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  write_text(SOURCES_SYSCTL, "100");
  int n = 0;
  for (uint32_t i = 0; i < SOURCES; i++) {
    struct ip_mreq_source join = {.imr_multiaddr = {htonl(0xefc0ffee)},
        .imr_interface = {htonl(INADDR_LOOPBACK)},
        .imr_sourceaddr = {htonl(0x0a000001 + i)}};
    n += setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &join, sizeof join) == 0;
  }
  write_text(SOURCES_SYSCTL, before);
  check(n == SOURCES, "%d of %d sources: %s", n, SOURCES, strerror(errno));
}

static void packet_program(void) {
  struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const struct sock_fprog program = {.len = 1, .filter = code};
  const uint32_t fanout = 4242u | PACKET_FANOUT_CBPF << 16;
  struct sockaddr_ll any = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_LOOP)};
  int fd = kept(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  check_call(bind(fd, (struct sockaddr *)&any, sizeof any) == 0);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &fanout, sizeof fanout) == 0 &&
             setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) == 0);
}

/* Families that not every kernel has. */
static void families(void) {
  for (int family = 3; family < 64; family++)
    if (family != AF_INET6 && family != AF_NETLINK && family != AF_PACKET &&
        socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0) < 0 && socket(family, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) < 0)
      (void)socket(family, SOCK_RAW | SOCK_CLOEXEC, 0);
}

static void others(void) {
  many_sources();
  packet_program();
  families();
}

/* --- unix --- */

static struct sockaddr_un unix_address(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", place(name));
  return address;
}

static int unix_socket(int type, const char *bound_to) {
  int fd = kept(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = unix_address(bound_to ? bound_to : "");
  check_call(!bound_to || bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
  return fd;
}

static int unix_connect(int fd, const char *name) {
  struct sockaddr_un address = unix_address(name);
  check_call(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
  return fd;
}

static void send_fd(int through, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof fd)];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)}};
  struct iovec iov = {(char *)"x", 1};
  const struct msghdr message = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
  check_call(sendmsg(through, &message, 0) == 1);
}

static void serve_outside(void) {
  check_call(listen(unix_socket(SOCK_STREAM, "server"), 5) == 0);
}

static void visit(void) {
  (void)unix_connect(unix_socket(SOCK_STREAM, NULL), "visited");
}

static void socketpair_of(int type, int pair[2]) {
  check_call(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) == 0);
}

/* One end is outside, by name, without, and in a queue there. */
static void unix_outside(void) {
  int plain[2], hidden[2], carrier[2];
  outside(serve_outside, NULL, 0);
  (void)unix_connect(unix_socket(SOCK_STREAM, NULL), "server");
  socketpair_of(SOCK_STREAM, plain);
  socketpair_of(SOCK_SEQPACKET, hidden);
  socketpair_of(SOCK_STREAM, carrier);
  send_fd(carrier[0], hidden[1]);
  outside(NULL, (int[]){plain[1], carrier[0], carrier[1]}, 3);
  check_call(close(plain[1]) == 0 && close(hidden[1]) == 0 && close(carrier[0]) == 0 && close(carrier[1]) == 0);
}

static void unix_waiting(void) {
  int listener = unix_socket(SOCK_STREAM, "listener"), visited = unix_socket(SOCK_STREAM, "visited");
  check_call(listen(listener, 5) == 0 && listen(visited, 5) == 0);
  check_call(write(unix_connect(unix_socket(SOCK_STREAM, NULL), "listener"), "early", 5) == 5);
  outside(visit, NULL, 0);
}

/* Its peer has turned to another since it sent. */
static void unix_deserted(void) {
  int pair[2];
  (void)unix_socket(SOCK_DGRAM, "other");
  socketpair_of(SOCK_DGRAM, pair);
  check_call(write(pair[0], "lost", 4) == 4);
  (void)unix_connect(pair[0], "other");
}

static void unix_owned_on_its_way(void) {
  int pair[2], ends[2];
  socketpair_of(SOCK_STREAM, pair);
  check_call(pipe2(ends, O_CLOEXEC) == 0 && fcntl(ends[0], F_SETOWN, getpid()) == 0);
  send_fd(pair[0], ends[0]);
  check_call(close(ends[0]) == 0);
}

/* Known by a name in another directory than it was bound in. */
static void unix_linked(void) {
  (void)unix_socket(SOCK_DGRAM, "bound");
  check_call(mkdir(place("elsewhere"), 0700) == 0 && link(place("bound"), place("elsewhere/linked")) == 0 && unlink(place("bound")) == 0);
}

static void receive_outside(void) {
  (void)unix_socket(SOCK_DGRAM, "receiver");
}

/* It has packets of others than its peer, which is outside and left out by a rule. */
static void unix_strangers(void) {
  int fd = unix_socket(SOCK_DGRAM, "taker"), other = unix_connect(unix_socket(SOCK_DGRAM, "giver"), "taker");
  check_call(write(other, "given", 5) == 5);
  outside(receive_outside, NULL, 0);
  (void)unix_connect(fd, "receiver");
}

static void unixes(void) {
  unix_outside();
  unix_waiting();
  unix_deserted();
  unix_owned_on_its_way();
  unix_linked();
}

static const RefusedCase cases[] = {
    {"tcp", tcp, NULL},
    {"tcp-urgent", tcp_urgent, NULL},
    {"others", others, NULL},
    {"unixes", unixes, NULL},
    {"unix-strangers", unix_strangers, NULL},
    {0},
};

const RefusedTable socket_cases = {subject_begin, cases};

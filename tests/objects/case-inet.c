/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 17300

static socklen_t address4(struct sockaddr_storage *a, const char *text, int port) {
  struct sockaddr_in *in = (struct sockaddr_in *)a;
  memset(a, 0, sizeof *a);
  in->sin_family = AF_INET;
  in->sin_port = htons((uint16_t)port);
  (void)inet_pton(AF_INET, text, &in->sin_addr);
  return sizeof *in;
}

static socklen_t address6(struct sockaddr_storage *a, const char *text, int port) {
  struct sockaddr_in6 *in = (struct sockaddr_in6 *)a;
  memset(a, 0, sizeof *a);
  in->sin6_family = AF_INET6;
  in->sin6_port = htons((uint16_t)port);
  (void)inet_pton(AF_INET6, text, &in->sin6_addr);
  return sizeof *in;
}

static bool set(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

static int get(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

static bool bind4(int fd, const char *text, int port) {
  struct sockaddr_storage a;
  socklen_t size = address4(&a, text, port);
  return bind(fd, (struct sockaddr *)&a, size) == 0;
}

static bool bind6(int fd, const char *text, int port) {
  struct sockaddr_storage a;
  socklen_t size = address6(&a, text, port);
  return bind(fd, (struct sockaddr *)&a, size) == 0;
}

static int port_of(int fd) {
  struct sockaddr_in6 a = {0};
  socklen_t size = sizeof a;
  return getsockname(fd, (struct sockaddr *)&a, &size) == 0 ? ntohs(a.sin6_port) : -1;
}

/* A connection goes through, and leaves nothing behind. */
static bool serves(int listener, int family, const char *text, int port) {
  if (!case_final)
    return true;
  struct sockaddr_storage a;
  socklen_t size = family == AF_INET ? address4(&a, text, port) : address6(&a, text, port);
  int client = socket(family, SOCK_STREAM, 0);
  bool ok = client >= 0 && connect(client, (struct sockaddr *)&a, size) == 0;
  int server = ok ? accept(listener, NULL, NULL) : -1;
  struct linger reset = {.l_onoff = 1};
  (void)setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  (void)close(client);
  (void)close(server);
  return ok && server >= 0;
}

static bool has_ipv6(void) {
  int fd = socket(AF_INET6, SOCK_STREAM, 0);
  bool ok = fd >= 0 && bind6(fd, "::1", 0);
  (void)close(fd);
  return ok;
}

static int waiting(int fd, int *ret_backlog) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  (void)getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  *ret_backlog = (int)info.tcpi_sacked;
  return (int)info.tcpi_unacked;
}

static const char *tcp_setup(const char *dir) {
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 10) && set(10, SOL_SOCKET, SO_REUSEADDR, 1));
  REQUIRE(bind4(10, "127.0.0.1", PORT) && listen(10, 5) == 0 && set(10, IPPROTO_TCP, TCP_NODELAY, 1));
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 11) && set(11, SOL_SOCKET, SO_KEEPALIVE, 1));
  REQUIRE(set(11, IPPROTO_TCP, TCP_KEEPIDLE, 77) && bind4(11, "0.0.0.0", PORT + 1) && listen(11, 128) == 0);
  for (int fd = 12; fd < 14; fd++)
    REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), fd) && set(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
            bind4(fd, "127.0.0.1", PORT + 2) && listen(fd, 9) == 0);
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 14) && bind4(14, "127.0.0.1", PORT + 3));      /* bound only */
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 15) && set(15, SOL_SOCKET, SO_RCVBUF, 30000)); /* nothing */
  return NULL;
}

static const char *tcp_verify(const char *dir) {
  int backlog = 0;
  REQUIRE(port_of(10) == PORT && waiting(10, &backlog) == 0 && backlog == 5);
  REQUIRE(serves(10, AF_INET, "127.0.0.1", PORT) && get(10, SOL_SOCKET, SO_REUSEADDR) == 1);
  REQUIRE(get(10, IPPROTO_TCP, TCP_NODELAY) == 1 && get(11, IPPROTO_TCP, TCP_NODELAY) == 0);
  REQUIRE(port_of(11) == PORT + 1 && fcntl(11, F_GETFL) & O_NONBLOCK && get(11, SOL_SOCKET, SO_REUSEADDR) == 0);
  REQUIRE(get(11, SOL_SOCKET, SO_KEEPALIVE) == 1 && get(11, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
  REQUIRE(accept(11, NULL, NULL) == -1 && errno == EAGAIN && get(11, SOL_SOCKET, 72 /* SO_BUF_LOCK */) == 0);
  REQUIRE(port_of(12) == PORT + 2 && port_of(13) == PORT + 2 && !case_same(12, 13));
  REQUIRE(port_of(14) == PORT + 3 && get(14, SOL_SOCKET, SO_ACCEPTCONN) == 0);
  REQUIRE(port_of(15) == 0 && get(15, SOL_SOCKET, SO_RCVBUF) == 60000 && get(15, SOL_SOCKET, 72) == 2);
  return NULL;
}

static const char *six_setup(const char *dir) {
  if (!has_ipv6())
    return NULL;
  REQUIRE(case_place(socket(AF_INET6, SOCK_STREAM, 0), 20) && set(20, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  REQUIRE(bind6(20, "::1", PORT + 4) && listen(20, 5) == 0);
  REQUIRE(case_place(socket(AF_INET6, SOCK_STREAM, 0), 21) && set(21, IPPROTO_IPV6, IPV6_V6ONLY, 0));
  REQUIRE(bind6(21, "::", PORT + 5) && listen(21, 5) == 0);
  return NULL;
}

static const char *six_verify(const char *dir) {
  if (!has_ipv6())
    return NULL;
  REQUIRE(port_of(20) == PORT + 4 && get(20, IPPROTO_IPV6, IPV6_V6ONLY) == 1 && serves(20, AF_INET6, "::1", PORT + 4));
  REQUIRE(get(21, IPPROTO_IPV6, IPV6_V6ONLY) == 0 && serves(21, AF_INET, "127.0.0.1", PORT + 5));
  return NULL;
}

static const char *udp_setup(const char *dir) {
  struct sockaddr_storage a;
  REQUIRE(case_place(socket(AF_INET, SOCK_DGRAM, 0), 30) && bind4(30, "127.0.0.1", PORT));
  REQUIRE(set(30, SOL_SOCKET, SO_BROADCAST, 1) && set(30, IPPROTO_IP, IP_PKTINFO, 1));
  REQUIRE(case_place(socket(AF_INET, SOCK_DGRAM, 0), 31) && bind4(31, "127.0.0.1", PORT + 1));
  socklen_t size = address4(&a, "127.0.0.1", PORT);
  REQUIRE(connect(31, (struct sockaddr *)&a, size) == 0 && case_place(socket(AF_INET, SOCK_DGRAM, 0), 32));
  return NULL;
}

static const char *udp_verify(const char *dir) {
  char c;
  REQUIRE(send(31, "u", 1, 0) == 1 && recv(30, &c, 1, 0) == 1 && c == 'u' && port_of(31) == PORT + 1);
  REQUIRE(get(30, SOL_SOCKET, SO_BROADCAST) == 1 && get(30, IPPROTO_IP, IP_PKTINFO) == 1 && port_of(32) == 0);
  struct sockaddr_storage a;
  socklen_t size = sizeof a;
  REQUIRE(getpeername(32, (struct sockaddr *)&a, &size) == -1 && errno == ENOTCONN);
  return NULL;
}

static const char *established_setup(const char *dir) {
  struct sockaddr_storage a;
  socklen_t size = address4(&a, "127.0.0.1", PORT + 6);
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 40) && set(40, SOL_SOCKET, SO_REUSEADDR, 1));
  REQUIRE(bind4(40, "127.0.0.1", PORT + 6) && listen(40, 5) == 0 && case_place(socket(AF_INET, SOCK_STREAM, 0), 41));
  REQUIRE(connect(41, (struct sockaddr *)&a, size) == 0 && case_place(accept(40, NULL, NULL), 42));
  return NULL;
}

static const char *waiting_setup(const char *dir) {
  struct sockaddr_storage a;
  socklen_t size = address4(&a, "127.0.0.1", PORT + 7);
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 40) && set(40, SOL_SOCKET, SO_REUSEADDR, 1));
  REQUIRE(bind4(40, "127.0.0.1", PORT + 7) && listen(40, 5) == 0 && case_place(socket(AF_INET, SOCK_STREAM, 0), 41));
  REQUIRE(connect(41, (struct sockaddr *)&a, size) == 0);
  return NULL;
}

static const char *taken_setup(const char *dir) {
  REQUIRE(case_place(socket(AF_INET, SOCK_STREAM, 0), 40) && bind4(40, "127.0.0.1", PORT + 8) && listen(40, 5) == 0);
  return NULL;
}

static const char *taken_between(const char *dir) {
  return taken_setup(dir);
}

static const char *raw_setup(const char *dir) {
  REQUIRE(case_place(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), 51));
  return NULL;
}

static const char *raw_verify(const char *dir) {
  REQUIRE(get(51, SOL_SOCKET, SO_TYPE) == SOCK_RAW && get(51, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMP);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"tcp", tcp_setup, tcp_verify},
    {"six", six_setup, six_verify},
    {"udp", udp_setup, udp_verify},
    {"established", established_setup, .blocked = "TCP connection from 127.0.0.1:"},
    {"waiting", waiting_setup, .blocked = "1 connections wait"},
    {"taken", taken_setup, .between = taken_between, .unrestorable = "address 127.0.0.1:17308 is in use"},
    {"raw", raw_setup, raw_verify},
    {0},
};

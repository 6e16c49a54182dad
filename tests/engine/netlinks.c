/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Netlink sockets of several protocols: types, ports, groups, peers; and messages that wait, which block. */
#include "subject.h"
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int opened(int type, int protocol, unsigned port, unsigned groups) {
  struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
  int fd = socket(AF_NETLINK, type | SOCK_CLOEXEC, protocol);
  check_call(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
  return fd;
}

static struct sockaddr_nl name_of(int fd) {
  struct sockaddr_nl a = {0};
  socklen_t size = sizeof a;
  check_call(getsockname(fd, (struct sockaddr *)&a, &size) == 0);
  return a;
}

static bool in_group(int fd, unsigned group) {
  uint32_t words[64] = {0};
  socklen_t size = sizeof words;
  check_call(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size) == 0);
  return words[(group - 1) / 32] & 1u << (group - 1) % 32;
}

static int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

/* A question that the kernel answers on this very socket. */
static void ask(int fd, uint16_t type, size_t size) {
  struct {
    struct nlmsghdr header;
    char body[64];
  } message = {.header = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, .nlmsg_seq = 7}};
  message.header.nlmsg_len = (uint32_t)NLMSG_LENGTH(size);
  check_call(send(fd, &message, message.header.nlmsg_len, 0) > 0);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  char answer[8192];
  check(poll(&p, 1, 30000) == 1 && recv(fd, answer, sizeof answer, 0) >= (ssize_t)sizeof(struct nlmsghdr), "no answer to type %u", type);
  check(((struct nlmsghdr *)(void *)answer)->nlmsg_seq == 7, "the answer is to another question");
}

static void run_sockets(void) {
  unsigned port = (unsigned)getpid() + 100000;
  int route = opened(SOCK_RAW, NETLINK_ROUTE, 0, RTMGRP_LINK | RTMGRP_IPV4_ROUTE), far_group = RTNLGRP_NEXTHOP;
  int uevent = opened(SOCK_DGRAM, NETLINK_KOBJECT_UEVENT, 0, 1), generic = opened(SOCK_RAW, NETLINK_GENERIC, port, 0);
  int diag = opened(SOCK_DGRAM, NETLINK_SOCK_DIAG, 0, 0), user = opened(SOCK_RAW, NETLINK_USERSOCK, port, 0);
  int friend = opened(SOCK_DGRAM, NETLINK_USERSOCK, 0, 0), unbound = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
  struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = port}, friendly = name_of(friend);
  check_call(setsockopt(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &far_group, sizeof far_group) == 0);
  struct sockaddr_nl before = name_of(route);
  check_call(connect(friend, (struct sockaddr *)&to, sizeof to) == 0);
  subject_ready();
  for (bool last = false; !last; subject_tick()) {
    last = subject_checking();
    struct sockaddr_nl now = name_of(route);
    check(now.nl_pid == before.nl_pid && now.nl_groups == before.nl_groups && in_group(route, RTNLGRP_NEXTHOP), "route: port %u, groups 0x%x",
        now.nl_pid, now.nl_groups);
    check(in_group(uevent, 1) && option(uevent, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM && option(route, SOL_SOCKET, SO_TYPE) == SOCK_RAW, "type");
    check(name_of(generic).nl_pid == port && name_of(friend).nl_pid == friendly.nl_pid && name_of(unbound).nl_pid == 0, "ports");
  }
  ask(generic, NLMSG_NOOP, sizeof(struct genlmsghdr));
  ask(diag, SOCK_DIAG_BY_FAMILY, 8);
  ask(unbound, NLMSG_NOOP, 0);
  char text[8];
  check_call(send(friend, "hello", 5, 0) == 5);
  struct pollfd p = {.fd = user, .events = POLLIN};
  check(poll(&p, 1, 30000) == 1 && recv(user, text, sizeof text, 0) == 5, "the peer hears nothing");
}

static void run_pending(void) {
  unsigned port = (unsigned)getpid() + 100000;
  struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = port};
  int user = opened(SOCK_RAW, NETLINK_USERSOCK, port, 0), other = opened(SOCK_RAW, NETLINK_USERSOCK, 0, 0);
  check_call(sendto(other, "wait", 4, 0, (struct sockaddr *)&to, sizeof to) == 4);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char text[8];
  check(recv(user, text, sizeof text, MSG_DONTWAIT) == 4, "the message is gone");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  if (argc > 2 && strcmp(argv[2], "pending") == 0)
    run_pending();
  else
    run_sockets();
  return subject_pass();
}

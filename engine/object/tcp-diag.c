/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "inet.h"
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

static bool read_message(const struct nlmsghdr *h, int family, guint64 ino, InetAddress *ret) {
  const struct inet_diag_msg *m = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *m) || m->idiag_inode != ino)
    return false;
  *ret = (InetAddress){.sa.sa_family = (sa_family_t)family};
  if (family == AF_INET6) {
    memcpy(&ret->in6.sin6_addr, m->id.idiag_dst, 16);
    ret->in6.sin6_port = m->id.idiag_dport;
  } else {
    memcpy(&ret->in.sin_addr, m->id.idiag_dst, 4);
    ret->in.sin_port = m->id.idiag_dport;
  }
  return true;
}

/* 1: found, 0: more to come, -1: the end. */
static int read_messages(const char *buffer, ssize_t size, int family, guint64 ino, InetAddress *ret) {
  const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)buffer;
  for (; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
      return -1;
    if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && read_message(h, family, ino, ret))
      return 1;
  }
  return 0;
}

bool tcp_diag_remote(int family, guint64 ino, InetAddress *ret) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 request;
  } message = {
      .header = {.nlmsg_len = sizeof message,
          .nlmsg_type = SOCK_DIAG_BY_FAMILY,
          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .request = {.sdiag_family = (guint8)family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << INET_SYN_SENT},
  };
  _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0 || send(fd, &message, sizeof message, 0) < 0)
    return false;
  const size_t size = 64 * 1024;
  g_autofree char *buffer = g_malloc(size);
  int found = 0;
  while (found == 0) {
    ssize_t n = recv(fd, buffer, size, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    found = read_messages(buffer, n, family, ino, ret);
  }
  return found == 1;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "inet.h"
#include "internal.h"
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>

/* Called for each socket; true: that was enough. */
typedef bool (*DiagVisit)(const struct inet_diag_msg *m, void *data);

static InetAddress address_of(int family, const __be32 *words, __be16 port) {
  InetAddress a = {.sa.sa_family = (sa_family_t)family};
  if (family == AF_INET6) {
    memcpy(&a.in6.sin6_addr, words, 16);
    a.in6.sin6_port = port;
  } else {
    memcpy(&a.in.sin_addr, words, 4);
    a.in.sin_port = port;
  }
  return a;
}

/* 1: enough, 0: more to come, -1: the end. */
static int read_messages(const char *buffer, ssize_t size, DiagVisit visit, void *data) {
  const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)buffer;
  for (; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
      return -1;
    if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && h->nlmsg_len >= NLMSG_LENGTH(sizeof *m) && visit(m, data))
      return 1;
  }
  return 0;
}

/* 1: enough, 0: they were all, negative: not told. */
static int visit_all(int family, int protocol, guint32 states, DiagVisit visit, void *data) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 request;
  } message = {
      .header = {.nlmsg_len = sizeof message,
          .nlmsg_type = SOCK_DIAG_BY_FAMILY,
          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .request = {.sdiag_family = (guint8)family, .sdiag_protocol = (guint8)protocol, .idiag_states = states},
  };
  _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0 || send(fd, &message, sizeof message, 0) < 0)
    return -errno;
  const size_t size = 64 * 1024;
  g_autofree char *buffer = g_malloc(size);
  int found = 0;
  while (found == 0) {
    ssize_t n = recv(fd, buffer, size, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return -EIO;
    found = read_messages(buffer, n, visit, data);
  }
  return found == 1;
}

typedef struct Wanted {
  int family;
  guint64 ino;
  InetAddress *ret;
} Wanted;

static bool take_remote(const struct inet_diag_msg *m, void *data) {
  const Wanted *w = data;
  if (m->idiag_inode != w->ino)
    return false;
  *w->ret = address_of(w->family, m->id.idiag_dst, m->id.idiag_dport);
  return true;
}

bool tcp_diag_remote(int family, guint64 ino, InetAddress *ret) {
  Wanted w = {.family = family, .ino = ino, .ret = ret};
  return visit_all(family, IPPROTO_TCP, 1u << INET_SYN_SENT, take_remote, &w) == 1;
}

static bool add_orphan(const struct inet_diag_msg *m, void *data) {
  if (m->idiag_inode)
    return false;
  TcpOrphan o = {.unread = m->idiag_rqueue, .state = m->idiag_state};
  o.local = address_of(m->idiag_family, m->id.idiag_src, m->id.idiag_sport);
  o.remote = address_of(m->idiag_family, m->id.idiag_dst, m->id.idiag_dport);
  g_array_append_val((GArray *)data, o);
  return false;
}

GArray *tcp_diag_orphans(int family) {
  g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(TcpOrphan));
  return visit_all(family, IPPROTO_TCP, 1u << INET_ESTABLISHED | 1u << INET_CLOSE_WAIT, add_orphan, all) == 0 ? g_steal_pointer(&all) : NULL;
}

/* What is shut down is an attribute of its own. */
static int shutdown_of(const struct nlmsghdr *h, size_t size, const guint32 cookie[2]) {
  const struct inet_diag_msg *m = NLMSG_DATA(h);
  if (!NLMSG_OK(h, size) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof *m))
    return -1;
  if (memcmp(m->id.idiag_cookie, cookie, sizeof m->id.idiag_cookie) != 0)
    return -1;
  const struct nlattr *a = (const struct nlattr *)(const void *)(m + 1);
  size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m);
  while (left >= sizeof *a && a->nla_len >= sizeof *a && a->nla_len <= left) {
    if (a->nla_type == INET_DIAG_SHUTDOWN && a->nla_len > sizeof *a)
      return *(const guint8 *)(a + 1);
    size_t step = MIN(NLMSG_ALIGN(a->nla_len), left);
    a = (const struct nlattr *)(const void *)((const char *)a + step);
    left -= step;
  }
  return -1;
}

int inet_diag_shutdown(int fd, int protocol, const InetAddress *local, const InetAddress *remote) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 request;
  } message = {
      .header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
      .request = {.sdiag_family = (guint8)local->sa.sa_family, .sdiag_protocol = (guint8)protocol, .idiag_states = ~0u},
  };
  struct inet_diag_sockid *id = &message.request.id;
  socklen_t size = sizeof id->idiag_cookie;
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, id->idiag_cookie, &size) < 0)
    return -1;
  bool six = local->sa.sa_family == AF_INET6; /* of datagrams, source and destination are the other way round */
  id->idiag_dport = local->in.sin_port;
  id->idiag_sport = remote->in.sin_port;
  memcpy(id->idiag_dst, six ? (const void *)&local->in6.sin6_addr : (const void *)&local->in.sin_addr, six ? 16 : 4);
  memcpy(id->idiag_src, six ? (const void *)&remote->in6.sin6_addr : (const void *)&remote->in.sin_addr, six ? 16 : 4);
  size = sizeof id->idiag_if;
  (void)getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &id->idiag_if, &size);
  _cleanup_fd_ int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  char buffer[4096] __attribute__((aligned(8)));
  ssize_t n = netlink < 0 || send(netlink, &message, sizeof message, 0) < 0 ? -1 : recv(netlink, buffer, sizeof buffer, 0);
  return n <= 0 ? -1 : shutdown_of((const struct nlmsghdr *)(const void *)buffer, (size_t)n, id->idiag_cookie);
}

typedef struct Port {
  __be16 port;
  GHashTable *links;
} Port;

static bool add_holder(const struct inet_diag_msg *m, void *data) {
  const Port *p = data;
  if (m->id.idiag_sport == p->port && m->idiag_inode)
    g_hash_table_insert(p->links, g_strdup_printf("socket:[%u]", m->idiag_inode), NULL);
  return false;
}

/* Sockets of the other family may be in the way, too: [::] is for both. */
char *inet_port_holder(int protocol, guint16 port) {
  g_autoptr(GHashTable) links = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  Port p = {.port = htons(port), .links = links};
  guint32 value;
  (void)visit_all(AF_INET, protocol, ~0u, add_holder, &p);
  (void)visit_all(AF_INET6, protocol, ~0u, add_holder, &p);
  return g_hash_table_size(links) ? outside_holder_of_any(NULL, links, &value) : NULL;
}

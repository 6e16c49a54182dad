/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rtnl.h"
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_MAX 4096

static int rtnl_open(void) {
  const struct timeval patience = {.tv_sec = 5};
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd >= 0)
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd < 0 ? -errno : fd;
}

/* The attribute RTA_OIF of a route, to read or to change; NULL: it has none, or is cut short. */
static uint32_t *route_device(struct rtmsg *route, size_t size) {
  size_t left = size - sizeof *route;
  for (struct rtattr *a = (struct rtattr *)(void *)((char *)route + NLMSG_ALIGN(sizeof *route)); RTA_OK(a, left);
       a = RTA_NEXT(a, left))
    if (a->rta_type == RTA_OIF && RTA_PAYLOAD(a) == sizeof(uint32_t))
      return RTA_DATA(a);
  return NULL;
}

static bool is_wanted(int type, unsigned index, void *message, size_t size) {
  if (type == RTM_GETADDR)
    return size >= sizeof(struct ifaddrmsg) && ((const struct ifaddrmsg *)message)->ifa_index == index;
  struct rtmsg *route = message;
  if (size < sizeof *route || route->rtm_protocol == RTPROT_KERNEL || route->rtm_table == RT_TABLE_LOCAL ||
      route->rtm_flags & RTM_F_CLONED)
    return false;
  const uint32_t *device = route_device(route, size);
  return device && *device == index;
}

/* > 0: more to come. */
static int read_list(int fd, int type, unsigned index, RtnlVisitor visit, void *data) {
  _Alignas(struct nlmsghdr) char buffer[32768];
  ssize_t n = recv(fd, buffer, sizeof buffer, 0);
  if (n < 0)
    return errno == EINTR ? 1 : -errno;
  unsigned left = (unsigned)n;
  for (struct nlmsghdr *h = (struct nlmsghdr *)(void *)buffer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
    if (h->nlmsg_type == NLMSG_DONE)
      return 0;
    if (h->nlmsg_type == NLMSG_ERROR)
      return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    size_t size = NLMSG_PAYLOAD(h, 0);
    int r = is_wanted(type, index, NLMSG_DATA(h), size) ? visit(data, NLMSG_DATA(h), size) : 0;
    if (r)
      return r;
  }
  return 1;
}

int rtnl_list(int type, unsigned index, RtnlVisitor visit, void *data) {
  struct {
    struct nlmsghdr header;
    struct rtgenmsg body;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = (uint16_t)type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  int fd = rtnl_open();
  if (fd < 0)
    return fd;
  int r = send(fd, &request, sizeof request, 0) < 0 ? -errno : 1;
  while (r > 0)
    r = read_list(fd, type, index, visit, data);
  (void)close(fd);
  return r;
}

static bool retarget(int type, unsigned index, void *message, size_t size) {
  if (type == RTM_NEWADDR) {
    if (size < sizeof(struct ifaddrmsg))
      return false;
    ((struct ifaddrmsg *)message)->ifa_index = index;
    return true;
  }
  struct rtmsg *route = message;
  uint32_t *device = size < sizeof *route ? NULL : route_device(route, size);
  if (!device)
    return false;
  *device = index;
  route->rtm_flags &= RTNH_F_ONLINK; /* the others tell a state */
  return true;
}

static int transact(int fd, struct nlmsghdr *request) {
  struct {
    struct nlmsghdr header;
    struct nlmsgerr error;
    char rest[MESSAGE_MAX];
  } answer;
  if (send(fd, request, request->nlmsg_len, 0) < 0)
    return -errno;
  ssize_t n = recv(fd, &answer, sizeof answer, 0);
  if (n < 0)
    return -errno;
  return n < (ssize_t)(sizeof answer.header + sizeof answer.error) || answer.header.nlmsg_type != NLMSG_ERROR
             ? -EPROTO
             : answer.error.error;
}

int rtnl_add(int type, unsigned index, const void *message, size_t size) {
  struct {
    struct nlmsghdr header;
    _Alignas(NLMSG_ALIGNTO) char body[MESSAGE_MAX];
  } request = {.header = {.nlmsg_type = (uint16_t)type,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE}};
  if (size > sizeof request.body)
    return -EBADMSG;
  memcpy(request.body, message, size);
  request.header.nlmsg_len = (uint32_t)NLMSG_LENGTH(size);
  if (!retarget(type, index, request.body, size))
    return -EBADMSG;
  int fd = rtnl_open();
  if (fd < 0)
    return fd;
  int r = transact(fd, &request.header);
  (void)close(fd);
  return r == -EEXIST ? 0 : r;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* inotify and netlink sockets */
#include "object-case.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool make_file(const char *path) {
  int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  return fd >= 0 && close(fd) == 0;
}

/* The one event that is there, and no other. */
static bool next_event(int fd, int wd, uint32_t mask, const char *name) {
  _Alignas(struct inotify_event) char buffer[4096];
  ssize_t n = read(fd, buffer, sizeof buffer);
  const struct inotify_event *e = (const struct inotify_event *)(const void *)buffer;
  return n >= (ssize_t)sizeof *e && e->wd == wd && e->mask == mask && (name ? e->len && strcmp(e->name, name) == 0 : !e->len) &&
         (size_t)n == sizeof *e + e->len;
}

static bool is_quiet(int fd) {
  char buffer[4096];
  return read(fd, buffer, sizeof buffer) < 0 && errno == EAGAIN;
}

static const char *inotify_setup(const char *dir) {
  const char *file = case_path(dir, "watched");
  REQUIRE(make_file(file) && case_place(inotify_init1(IN_NONBLOCK), 10) && case_place(inotify_init1(IN_NONBLOCK | IN_CLOEXEC), 11));
  REQUIRE(inotify_add_watch(10, dir, IN_CREATE | IN_DELETE | IN_ONLYDIR) == 1);
  REQUIRE(inotify_add_watch(10, "/tmp", IN_MOVE_SELF) == 2 && inotify_rm_watch(10, 2) == 0);
  REQUIRE(inotify_add_watch(10, file, IN_ATTRIB) == 3);
  REQUIRE(next_event(10, 2, IN_IGNORED, NULL) && is_quiet(10));
  for (int i = 1; i < 40; i++)
    REQUIRE(inotify_add_watch(11, dir, IN_CREATE | IN_EXCL_UNLINK) == i && (i == 39 || inotify_rm_watch(11, i) == 0));
  while (!is_quiet(11))
    ;
  return NULL;
}

static const char *inotify_verify(const char *dir) {
  const char *made = case_path(dir, "made");
  REQUIRE(is_quiet(10) && is_quiet(11));
  if (!case_final) /* events that were not read refuse a dump */
    return NULL;
  REQUIRE(make_file(made) && next_event(10, 1, IN_CREATE, "made") && next_event(11, 39, IN_CREATE, "made"));
  REQUIRE(unlink(made) == 0 && next_event(10, 1, IN_DELETE, "made") && is_quiet(11));
  REQUIRE(chmod(case_path(dir, "watched"), 0640) == 0 && next_event(10, 3, IN_ATTRIB, NULL) && is_quiet(10));
  return NULL;
}

static const char *pending_setup(const char *dir) {
  REQUIRE(case_place(inotify_init1(IN_NONBLOCK), 12) && inotify_add_watch(12, dir, IN_CREATE) == 1);
  REQUIRE(make_file(case_path(dir, "unseen")));
  return NULL;
}

static const char *gone_setup(const char *dir) {
  const char *file = case_path(dir, "gone");
  int fd = open(file, O_CREAT | O_RDWR, 0600);
  REQUIRE(case_place(fd, 14) && case_place(inotify_init1(IN_NONBLOCK), 13));
  REQUIRE(inotify_add_watch(13, file, IN_MODIFY) == 1 && unlink(file) == 0);
  return NULL;
}

static const char *gone_verify(const char *dir) {
  REQUIRE(is_quiet(13));
  if (case_final)
    REQUIRE(write(14, "x", 1) == 1 && next_event(13, 1, IN_MODIFY, NULL));
  return NULL;
}

static int netlink(int protocol, uint32_t port) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = port};
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  return fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}


static const char *netlink_setup(const char *dir) {
  int one = 1, group = RTNLGRP_BRVLAN; /* over 31 */
  REQUIRE(case_place(netlink(NETLINK_ROUTE, 0x4350ffffu), 20));
  REQUIRE(setsockopt(20, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one) == 0);
  REQUIRE(setsockopt(20, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof one) == 0);
  REQUIRE(setsockopt(20, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
  REQUIRE(case_place(socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT), 21));
  return NULL;
}

static int switched(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_NETLINK, option, &value, &size) == 0 ? value : -1;
}

/* Asks for the interfaces and finds the loopback one among them. */
static const char *ask_links(int fd) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg info;
  } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {.ifi_family = AF_UNSPEC}};
  REQUIRE(send(fd, &request, sizeof request, 0) == sizeof request);
  bool seen = false;
  for (;;) {
    _Alignas(struct nlmsghdr) char buffer[65536];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    REQUIRE(n > 0);
    size_t left = (size_t)n;
    for (const struct nlmsghdr *m = (const struct nlmsghdr *)(const void *)buffer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      REQUIRE(m->nlmsg_type != NLMSG_ERROR && m->nlmsg_pid == 0x4350ffffu);
      seen |= m->nlmsg_type == RTM_NEWLINK;
      if (m->nlmsg_type == NLMSG_DONE)
        return seen ? NULL : "no interface was named";
    }
  }
}

static const char *netlink_verify(const char *dir) {
  struct sockaddr_nl address = {0};
  socklen_t size = sizeof address;
  uint32_t groups[2] = {0};
  socklen_t groups_size = sizeof groups;
  REQUIRE(getsockname(20, (struct sockaddr *)&address, &size) == 0 && address.nl_pid == 0x4350ffffu);
  REQUIRE(switched(20, NETLINK_EXT_ACK) == 1 && switched(20, NETLINK_PKTINFO) == 1 && switched(20, NETLINK_CAP_ACK) == 0);
  REQUIRE(getsockopt(20, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &groups_size) == 0);
  REQUIRE(groups[0] == 0 && groups[1] == 1u << (RTNLGRP_BRVLAN - 33));
  size = sizeof address;
  REQUIRE(getsockname(21, (struct sockaddr *)&address, &size) == 0 && address.nl_pid == 0);
  REQUIRE(fcntl(21, F_GETFL) & O_NONBLOCK);
  return case_final ? ask_links(20) : NULL; /* and so do messages */
}

static const char *unread_setup(const char *dir) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg info;
  } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {.ifi_family = AF_UNSPEC}};
  REQUIRE(case_place(netlink(NETLINK_ROUTE, 0), 22) && send(22, &request, sizeof request, 0) == sizeof request);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"inotify", inotify_setup, inotify_verify},
    {"inotify-pending", pending_setup, .blocked = "events that the program has not read"},
    {"inotify-gone", gone_setup, gone_verify},
    {"netlink", netlink_setup, netlink_verify},
    {"netlink-unread", unread_setup, .blocked = "messages of the kernel"},
    {0},
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Netlink sockets (netlink(7)): address, groups and options. Messages that wait to be read cannot be given back. */

#include "internal.h"
#include "sk-netlink.pb-c.h"
#include "sockopts.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#define GROUP_WORDS 64 /* of 32 groups: more than any protocol has */
#define STATE_CLOSE 7  /* as CRIU writes it */
#define STATE_ESTABLISHED 1

#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif

/* Options of SOL_NETLINK that are on or off, and the bit that says so in checkpoint.img. */
static const int switches[] = {NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_LISTEN_ALL_NSID, NETLINK_CAP_ACK,
    NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK};

/* --- collect --- */

static bool netlink_claims(const FileProbe *probe) {
  return S_ISSOCK(probe->st.st_mode) && probe->st.st_dev == kernel_devs()->sockets &&
         sockopt_get(probe->local, SOL_SOCKET, SO_DOMAIN, -1) == AF_NETLINK;
}

static bool has_messages(int fd) {
  char byte;
  return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) >= 0;
}

static void collect_groups(int fd, NetlinkSkEntry *e) {
  uint32_t words[GROUP_WORDS] = {0};
  socklen_t size = sizeof words;
  if (getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size) < 0)
    return;
  size_t n = MIN(size / sizeof *words, G_N_ELEMENTS(words));
  while (n && !words[n - 1])
    n--;
  if (!n)
    return;
  e->n_groups = n;
  e->groups = g_memdup2(words, n * sizeof *words);
}

static void collect_switches(Collector *c, const FileProbe *probe, guint32 id) {
  guint32 on = 0;
  for (size_t i = 0; i < G_N_ELEMENTS(switches); i++)
    on |= sockopt_get(probe->local, SOL_NETLINK, switches[i], 0) ? 1u << i : 0;
  bool datagrams = sockopt_get(probe->local, SOL_SOCKET, SO_TYPE, SOCK_RAW) == SOCK_DGRAM;
  if (!on && !datagrams)
    return;
  CkptNetlink *n = MESSAGE_NEW(CkptNetlink, ckpt_netlink__init);
  n->file_id = id;
  n->switches = on;
  n->has_datagrams = n->datagrams = datagrams;
  g_ptr_array_add(collector_checkpoint(c)->netlinks, n);
}

static bool netlink_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  struct sockaddr_nl own = {0}, peer = {0};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  NetlinkSkEntry *e = entry->nlsk = MESSAGE_NEW(NetlinkSkEntry, netlink_sk_entry__init);
  e->id = entry->id;
  e->ino = (guint32)probe->st.st_ino;
  e->protocol = (guint32)sockopt_get(probe->local, SOL_SOCKET, SO_PROTOCOL, 0);
  e->flags = (guint32)probe->flags;
  e->fown = collector_fown(probe);
  e->opts = sockopts_collect(probe->local, AF_NETLINK, (int)e->protocol, error);
  if (!e->opts)
    return false;
  sockopts_collect_more(c, entry->id, probe->local, false);
  sockopts_check(c, probe, "netlink socket");
  if (getsockname(probe->local, (struct sockaddr *)&own, &own_size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the address of a netlink socket");
  e->portid = own.nl_pid;
  if (getpeername(probe->local, (struct sockaddr *)&peer, &peer_size) == 0) {
    e->dst_portid = peer.nl_pid;
    e->dst_group = peer.nl_groups ? (guint32)__builtin_ctz(peer.nl_groups) + 1 : 0;
  }
  e->state = e->dst_portid || e->dst_group ? STATE_ESTABLISHED : STATE_CLOSE;
  e->has_ns_id = true;
  e->ns_id = collector_net_ns_of(c, entry->id);
  collect_groups(probe->local, e);
  collect_switches(c, probe, entry->id);
  if (has_messages(probe->local))
    collector_block(c, probe, "netlink socket", "there are messages of the kernel that the program has not read yet",
        "try again when it has read them");
  return true;
}

/* --- restore --- */

/* The two types differ in their names only. */
static int type_of(const Restorer *r, guint32 id) {
  const GPtrArray *all = restorer_checkpoint(r)->netlinks;
  for (guint i = 0; i < all->len; i++) {
    const CkptNetlink *n = all->pdata[i];
    if (n->file_id == id)
      return n->datagrams ? SOCK_DGRAM : SOCK_RAW;
  }
  return SOCK_RAW;
}

static bool restore_switches(Restorer *r, int fd, guint32 id, GError **error) {
  const GPtrArray *all = restorer_checkpoint(r)->netlinks;
  for (guint i = 0; i < all->len; i++) {
    const CkptNetlink *n = all->pdata[i];
    for (size_t k = 0; n->file_id == id && k < G_N_ELEMENTS(switches); k++) {
      int one = 1;
      if (n->switches & 1u << k && setsockopt(fd, SOL_NETLINK, switches[k], &one, sizeof one) < 0)
        return engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot set option %d of a netlink socket", switches[k]);
    }
  }
  return true;
}

static bool restore_groups(int fd, const NetlinkSkEntry *e, GError **error) {
  for (size_t i = 0; i < e->n_groups && i < GROUP_WORDS; i++)
    for (unsigned bit = 0; bit < 32; bit++) {
      unsigned group = (unsigned)i * 32 + bit + 1;
      if (e->groups[i] & 1u << bit && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
        return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot join group %u of netlink protocol %u", group, e->protocol);
    }
  return true;
}

static bool restore_addresses(int fd, const NetlinkSkEntry *e, GError **error) {
  struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = e->portid};
  struct sockaddr_nl peer = {.nl_family = AF_NETLINK, .nl_pid = e->dst_portid,
      .nl_groups = e->dst_group && e->dst_group <= 32 ? 1u << (e->dst_group - 1) : 0};
  if (e->portid && bind(fd, (const struct sockaddr *)&own, sizeof own) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot bind a netlink socket to port %u", e->portid);
  if ((e->dst_portid || e->dst_group) && connect(fd, (const struct sockaddr *)&peer, sizeof peer) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot connect a netlink socket");
  return true;
}

static int netlink_open(Restorer *r, const FileEntry *entry, GError **error) {
  const NetlinkSkEntry *e = entry->nlsk;
  if (!e) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no netlink_sk_entry");
    return -1;
  }
  _cleanup_fd_ int fd = socket(AF_NETLINK, type_of(r, entry->id) | SOCK_CLOEXEC, (int)e->protocol);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot make a netlink socket of protocol %u", e->protocol);
    return -1;
  }
  bool ok = sockopts_restore(fd, e->opts, error) && restore_switches(r, fd, entry->id, error) && restore_addresses(fd, e, error) &&
            restore_groups(fd, e, error) && sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LATE, false, error) &&
            sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LAST, false, error) && restorer_set_flags(fd, e->flags, error);
  return ok ? fd_take(&fd) : -1;
}

static const FownEntry *netlink_fown(const FileEntry *entry) {
  return entry->nlsk ? entry->nlsk->fown : NULL;
}

const ObjectOps netlink_ops = {
    .name = "netlink socket",
    .type = FD_TYPES__NETLINKSK,
    .claims = netlink_claims,
    .collect = netlink_collect,
    .open = netlink_open,
    .fown = netlink_fown,
};

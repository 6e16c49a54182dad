/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Packet sockets (packet(7)). sock_diag tells what getsockopt does not: the rings, the list of addresses. What has come in and was
 * not read is lost, in the queue and in the rings, which come back empty: a program that captures packets sees a gap, as
 * when it is too slow. */

#include "internal.h"
#include "packet-sock.pb-c.h"
#include "sockopts.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define NO_FANOUT 0xffffffffu /* as CRIU has it */
#define STEERED_CBPF 6        /* PACKET_FANOUT_CBPF */
#define STEERED_EBPF 7

static const char inodes_key;

static gpointer inodes_new(void) {
  return g_hash_table_new(NULL, NULL);
}

/* inode -> file id */
static GHashTable *inodes_of(Collector *c) {
  return collector_state(c, &inodes_key, inodes_new, (GDestroyNotify)g_hash_table_unref);
}

guint32 collector_packet_of(Collector *c, guint64 ino) {
  return ino > G_MAXUINT32 ? 0 : GPOINTER_TO_UINT(g_hash_table_lookup(inodes_of(c), GUINT_TO_POINTER((guint)ino)));
}

static bool packet_claims(const FileProbe *probe) {
  return S_ISSOCK(probe->st.st_mode) && probe->st.st_dev == kernel_devs()->sockets && !(probe->flags & O_PATH) &&
         sockopt_get(probe->local, SOL_SOCKET, SO_DOMAIN, -1) == AF_PACKET;
}

/* --- what sock_diag says --- */

static PacketRing *ring_new(const struct packet_diag_ring *d) {
  PacketRing *ring = MESSAGE_NEW(PacketRing, packet_ring__init);
  ring->block_size = d->pdr_block_size;
  ring->block_nr = d->pdr_block_nr;
  ring->frame_size = d->pdr_frame_size;
  ring->frame_nr = d->pdr_frame_nr;
  ring->retire_tmo = d->pdr_retire_tmo;
  ring->sizeof_priv = d->pdr_sizeof_priv;
  ring->features = d->pdr_features;
  return ring;
}

static void read_info(PacketSockEntry *e, const struct packet_diag_info *info) {
  e->ifindex = info->pdi_index;
  e->version = info->pdi_version;
  e->reserve = info->pdi_reserve;
  e->copy_thresh = info->pdi_copy_thresh;
  e->timestamp = info->pdi_tstamp;
  e->aux_data = info->pdi_flags & PDI_AUXDATA;
  e->orig_dev = info->pdi_flags & PDI_ORIGDEV;
  e->vnet_hdr = info->pdi_flags & PDI_VNETHDR;
  e->loss = info->pdi_flags & PDI_LOSS;
}

static void read_addresses(PacketSockEntry *e, const struct packet_diag_mclist *list, size_t n) {
  e->mclist = g_new0(PacketMclist *, n);
  for (e->n_mclist = 0; e->n_mclist < n; e->n_mclist++) {
    const struct packet_diag_mclist *from = &list[e->n_mclist];
    PacketMclist *m = e->mclist[e->n_mclist] = MESSAGE_NEW(PacketMclist, packet_mclist__init);
    m->index = from->pdmc_index;
    m->type = from->pdmc_type;
    m->addr.len = MIN(from->pdmc_alen, sizeof from->pdmc_addr);
    m->addr.data = g_memdup2(from->pdmc_addr, m->addr.len);
  }
}

static void read_attribute(PacketSockEntry *e, const struct nlattr *a) {
  const void *data = (const char *)a + NLA_HDRLEN;
  size_t size = a->nla_len - NLA_HDRLEN;
  switch (a->nla_type & NLA_TYPE_MASK) {
  case PACKET_DIAG_INFO:
    if (size >= sizeof(struct packet_diag_info))
      read_info(e, data);
    break;
  case PACKET_DIAG_MCLIST:
    read_addresses(e, data, size / sizeof(struct packet_diag_mclist));
    break;
  case PACKET_DIAG_RX_RING:
    if (size >= sizeof(struct packet_diag_ring))
      e->rx_ring = ring_new(data);
    break;
  case PACKET_DIAG_TX_RING:
    if (size >= sizeof(struct packet_diag_ring))
      e->tx_ring = ring_new(data);
    break;
  case PACKET_DIAG_FANOUT:
    e->has_fanout = true;
    break;
  default:
    break;
  }
}

static void read_socket(PacketSockEntry *e, const struct nlmsghdr *h) {
  const struct packet_diag_msg *msg = NLMSG_DATA(h);
  const char *at = (const char *)msg + NLMSG_ALIGN(sizeof *msg), *end = (const char *)h + h->nlmsg_len;
  e->type = msg->pdiag_type;
  e->protocol = msg->pdiag_num;
  while (at + NLA_HDRLEN <= end) {
    const struct nlattr *a = (const struct nlattr *)(const void *)at;
    if (a->nla_len < NLA_HDRLEN || at + a->nla_len > end)
      break;
    read_attribute(e, a);
    at += NLA_ALIGN(a->nla_len);
  }
}

/* 1: found, 0: more to come, -1: the end. */
static int read_messages(PacketSockEntry *e, guint32 ino, const char *buffer, ssize_t size) {
  for (const struct nlmsghdr *h = (const void *)buffer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    const struct packet_diag_msg *msg = NLMSG_DATA(h);
    if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
      return -1;
    if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof *msg) || msg->pdiag_ino != ino)
      continue;
    read_socket(e, h);
    return 1;
  }
  return 0;
}

static bool ask_diag(PacketSockEntry *e, guint32 ino) {
  struct {
    struct nlmsghdr header;
    struct packet_diag_req request;
  } message = {
      .header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .request = {.sdiag_family = AF_PACKET,
          .pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT},
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
    found = n <= 0 ? -1 : read_messages(e, ino, buffer, n);
  }
  return found == 1;
}

/* --- collect --- */

static void note_device(Collector *c, const PacketSockEntry *e) {
  char name[IF_NAMESIZE];
  if (e->ifindex && if_indextoname(e->ifindex, name))
    socket_extra(collector_checkpoint(c), e->id)->device = g_strdup(name);
}

static void check_packet(Collector *c, const FileProbe *probe, const PacketSockEntry *e) {
  guint32 way = e->has_fanout ? e->fanout >> 16 & 0xff : 0;
  int unread = 0;
  if (way == STEERED_CBPF || way == STEERED_EBPF)
    collector_block(c, probe, "packet socket", "a program distributes its packets (PACKET_FANOUT_CBPF, EBPF), which cannot be read back",
        "use another way of distribution, or close it before the dump");
  if (ioctl(probe->local, FIONREAD, &unread) == 0 && unread > 0)
    job_log(collector_job(c), 3, "pid %d fd %d: packets that a packet socket has received and not read (%u bytes of memory) are dropped",
        (int)probe->pid, probe->fd, socket_memory(probe->local));
  if (e->rx_ring || e->tx_ring)
    job_log(collector_job(c), 3, "pid %d fd %d: the rings of a packet socket come back empty", (int)probe->pid, probe->fd);
}

static bool packet_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  PacketSockEntry *e = entry->psk = MESSAGE_NEW(PacketSockEntry, packet_sock_entry__init);
  e->id = entry->id;
  e->flags = (guint32)probe->flags;
  e->fown = collector_fown(probe);
  e->opts = sockopts_collect(probe->local, AF_PACKET, 0, error);
  if (!e->opts)
    return false;
  if (!ask_diag(e, (guint32)probe->st.st_ino)) {
    collector_block(c, probe, "packet socket", "the kernel does not list it (CONFIG_PACKET_DIAG), or it is of another network namespace",
        "load the module af_packet_diag, or dump from the process on that made the namespace");
    return true;
  }
  e->fanout = e->has_fanout ? (guint32)sockopt_get(probe->local, SOL_PACKET, PACKET_FANOUT, 0) : NO_FANOUT;
  e->has_ns_id = true;
  e->ns_id = collector_net_ns_of(c, entry->id);
  sockopts_collect_more(c, entry->id, probe->local, false);
  sockopts_check(c, probe, "packet socket");
  note_device(c, e);
  check_packet(c, probe, e);
  g_hash_table_insert(inodes_of(c), GUINT_TO_POINTER((guint32)probe->st.st_ino), GUINT_TO_POINTER(entry->id));
  return true;
}

/* --- restore --- */

static bool set_option(int fd, int option, const void *value, size_t size, const char *what, GError **error) {
  return setsockopt(fd, SOL_PACKET, option, value, (socklen_t)size) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the %s of a packet socket", what);
}

static bool set_int(int fd, int option, guint32 value, const char *what, GError **error) {
  return !value || set_option(fd, option, &value, sizeof value, what, error);
}

static bool restore_ring(const PacketSockEntry *e, const PacketRing *ring, int fd, int option, GError **error) {
  struct tpacket_req3 request = {0};
  if (!ring)
    return true;
  request.tp_block_size = ring->block_size;
  request.tp_block_nr = ring->block_nr;
  request.tp_frame_size = ring->frame_size;
  request.tp_frame_nr = ring->frame_nr;
  request.tp_retire_blk_tov = ring->retire_tmo;
  request.tp_sizeof_priv = ring->sizeof_priv;
  request.tp_feature_req_word = ring->features;
  size_t size = e->version == TPACKET_V3 ? sizeof request : sizeof(struct tpacket_req);
  return set_option(fd, option, &request, size, "ring", error);
}

static bool restore_addresses(const PacketSockEntry *e, int fd, GError **error) {
  for (size_t i = 0; i < e->n_mclist; i++) {
    struct {
      struct packet_mreq request;
      guint8 more[24]; /* of longer addresses */
    } join = {.request = {.mr_ifindex = (int)e->mclist[i]->index, .mr_type = (unsigned short)e->mclist[i]->type,
                  .mr_alen = (unsigned short)e->mclist[i]->addr.len}};
    if (e->mclist[i]->addr.len > sizeof join.request.mr_address + sizeof join.more)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A link layer address is too long");
    memcpy((guint8 *)&join + offsetof(struct packet_mreq, mr_address), e->mclist[i]->addr.data, e->mclist[i]->addr.len);
    if (!set_option(fd, PACKET_ADD_MEMBERSHIP, &join, sizeof join, "addresses", error))
      return false;
  }
  return true;
}

static bool restore_options(const PacketSockEntry *e, int fd, GError **error) {
  return set_int(fd, PACKET_VERSION, e->version, "version", error) && set_int(fd, PACKET_RESERVE, e->reserve, "reserve", error) &&
         set_int(fd, PACKET_AUXDATA, e->aux_data, "auxdata", error) && set_int(fd, PACKET_ORIGDEV, e->orig_dev, "origdev", error) &&
         set_int(fd, PACKET_VNET_HDR, e->vnet_hdr, "vnet header", error) && set_int(fd, PACKET_LOSS, e->loss, "loss", error) &&
         set_int(fd, PACKET_TIMESTAMP, e->timestamp, "timestamp", error) &&
         set_int(fd, PACKET_COPY_THRESH, e->copy_thresh, "copy threshold", error);
}

static bool bind_packet(const Restorer *r, const PacketSockEntry *e, int fd, GError **error) {
  const CkptSocket *extra = checkpoint_find_socket(restorer_checkpoint(r), e->id);
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons((guint16)e->protocol), .sll_ifindex = (int)e->ifindex};
  if (e->ifindex && extra && extra->device) {
    address.sll_ifindex = (int)if_nametoindex(extra->device);
    if (!address.sll_ifindex)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
          "There is no network device %s, which a packet socket is bound to; make it first", extra->device);
  }
  if ((e->protocol || e->ifindex) && bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot bind a packet socket to device %d", address.sll_ifindex);
  return !e->has_fanout || e->fanout == NO_FANOUT || set_option(fd, PACKET_FANOUT, &e->fanout, sizeof e->fanout, "fanout", error);
}

static int packet_open(Restorer *r, const FileEntry *entry, GError **error) {
  const PacketSockEntry *e = entry->psk;
  if (!e || !e->opts || e->protocol > G_MAXUINT16) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no valid packet_sock_entry");
    return -1;
  }
  _cleanup_fd_ int fd = socket(AF_PACKET, (int)e->type | SOCK_CLOEXEC, 0); /* hears nothing before it is bound */
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot make a packet socket");
    return -1;
  }
  bool ok = restore_options(e, fd, error) && sockopts_restore(fd, e->opts, error) &&
            sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LATE, false, error) &&
            restore_ring(e, e->rx_ring, fd, PACKET_RX_RING, error) && restore_ring(e, e->tx_ring, fd, PACKET_TX_RING, error) &&
            restore_addresses(e, fd, error) && bind_packet(r, e, fd, error) &&
            sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LAST, false, error) && restorer_set_flags(fd, e->flags, error);
  return ok ? fd_take(&fd) : -1;
}

static const FownEntry *packet_fown(const FileEntry *entry) {
  return entry->psk ? entry->psk->fown : NULL;
}

const ObjectOps packet_ops = {
    .name = "packet socket",
    .type = FD_TYPES__PACKETSK,
    .claims = packet_claims,
    .collect = packet_collect,
    .open = packet_open,
    .fown = packet_fown,
};

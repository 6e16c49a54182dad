/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-dump.h"
#include "outside-ends.h"
#include "net-firewall.h"
#include "net-settings.h"
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAGIC_IFADDR 0x47361222u
#define MAGIC_ROUTE 0x45311224u
#define MAGIC_RULE 0x71706986u

void net_dump_block(NetDump *d, const char *what, const char *reason, const char *cure) {
  g_autofree char *name = g_strdup_printf("pid %d (%s): %s", (int)d->pid, d->comm, what);
  job_block(d->job, "namespace", d->pid, -1, name, reason, cure);
}

/* --- lists, as iproute2 saves them --- */

typedef bool (*Wanted)(const struct nlmsghdr *h);

static bool save_list(GByteArray *to, int family, int request, int answer, Wanted wanted, GError **error) {
  /* one that is long enough for all of them: family is the first byte of each */
  const struct rtmsg header = {.rtm_family = (guint8)family};
  g_autoptr(GByteArray) all = g_byte_array_new();
  guint at = 0;
  int r = net_talk_list(NETLINK_ROUTE, request, answer, &header, sizeof header, all);
  if (r == -EOPNOTSUPP || r == -EAFNOSUPPORT)
    return true; /* a kernel without it has none */
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot list what is in a network namespace (rtnetlink request %d)", request);
  for (const struct nlmsghdr *h; (h = net_talk_next(all, &at));)
    if (!wanted || wanted(h))
      g_byte_array_append(to, (const guint8 *)h, NLMSG_ALIGN(h->nlmsg_len));
  return true;
}

static bool save_raw(NetNamespace *ns, NetRaw kind, guint32 magic, int family, int request, int answer, Wanted wanted, GError **error) {
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  g_byte_array_append(bytes, (const guint8 *)&magic, sizeof magic);
  if (!save_list(bytes, family, request, answer, wanted, error))
    return false;
  ns->raw[kind] = g_byte_array_free_to_bytes(g_steal_pointer(&bytes));
  return true;
}

/* What is only remembered of others (RTM_F_CLONED) goes, and the table of the kernel's own, which follows the addresses. */
static bool is_own_route(const struct nlmsghdr *h) {
  struct nlattr *a[RTA_MAX + 1];
  const struct rtmsg *r = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *r) || r->rtm_flags & RTM_F_CLONED)
    return false;
  net_talk_parse(h, sizeof *r, a, RTA_MAX);
  guint32 table = a[RTA_TABLE] ? nla_get_u32(a[RTA_TABLE]) : r->rtm_table;
  return !(table == RT_TABLE_LOCAL && r->rtm_protocol == RTPROT_KERNEL) && r->rtm_protocol != RTPROT_REDIRECT;
}

static bool is_permanent(const struct nlmsghdr *h) {
  const struct ndmsg *n = NLMSG_DATA(h);
  return h->nlmsg_len >= NLMSG_LENGTH(sizeof *n) && n->ndm_state & NUD_PERMANENT && !(n->ndm_flags & NTF_PROXY);
}

/* Entries of bridges that somebody has made; those of the ports' own addresses come by themselves. */
static bool is_static_entry(const struct nlmsghdr *h) {
  const struct ndmsg *n = NLMSG_DATA(h);
  struct nlattr *a[NDA_MAX + 1];
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *n) || !(n->ndm_state & NUD_NOARP))
    return false;
  net_talk_parse(h, sizeof *n, a, NDA_MAX);
  return a[NDA_MASTER] != NULL;
}

static bool save_neighbours(CkptNetns *x, GError **error) {
  static const int families[] = {AF_INET, AF_INET6};
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  for (size_t i = 0; i < G_N_ELEMENTS(families); i++)
    if (!save_list(bytes, families[i], RTM_GETNEIGH, RTM_NEWNEIGH, is_permanent, error))
      return false;
  if (!save_list(bytes, AF_BRIDGE, RTM_GETNEIGH, RTM_NEWNEIGH, is_static_entry, error))
    return false;
  x->has_neighbours = bytes->len > 0;
  x->neighbours.len = bytes->len;
  x->neighbours.data = malloc(MAX(bytes->len, 1));
  memcpy(x->neighbours.data, bytes->data, bytes->len);
  return true;
}

static bool save_lists(NetNamespace *ns, GError **error) {
  return save_raw(ns, NET_RAW_IFADDR, MAGIC_IFADDR, AF_UNSPEC, RTM_GETADDR, RTM_NEWADDR, NULL, error) &&
         save_raw(ns, NET_RAW_ROUTE, MAGIC_ROUTE, AF_INET, RTM_GETROUTE, RTM_NEWROUTE, is_own_route, error) &&
         save_raw(ns, NET_RAW_ROUTE6, MAGIC_ROUTE, AF_INET6, RTM_GETROUTE, RTM_NEWROUTE, is_own_route, error) &&
         save_raw(ns, NET_RAW_RULE, MAGIC_RULE, AF_UNSPEC, RTM_GETRULE, RTM_NEWRULE, NULL, error) && save_neighbours(ns->extra, error);
}

/* --- what cannot be kept --- */

static bool is_there(int protocol, int request, const void *header, size_t size, Wanted wanted) {
  g_autoptr(GByteArray) all = g_byte_array_new();
  guint at = 0;
  if (net_talk_list(protocol, request, 0, header, size, all) < 0)
    return false; /* the kernel has no such thing */
  for (const struct nlmsghdr *h; (h = net_talk_next(all, &at));)
    if (!wanted || wanted(h))
      return true;
  return false;
}

/* Those that the kernel gives to links have no number. */
static bool is_chosen(const struct nlmsghdr *h) {
  const struct tcmsg *t = NLMSG_DATA(h);
  return h->nlmsg_len >= NLMSG_LENGTH(sizeof *t) && t->tcm_handle != 0;
}

static bool is_proxy(const struct nlmsghdr *h) {
  const struct ndmsg *n = NLMSG_DATA(h);
  return h->nlmsg_len >= NLMSG_LENGTH(sizeof *n) && n->ndm_flags & NTF_PROXY;
}

static void check_others(NetDump *d) {
  const struct tcmsg tc = {.tcm_family = AF_UNSPEC};
  const struct nhmsg nexthop = {.nh_family = AF_UNSPEC};
  const struct ndmsg proxy = {.ndm_family = AF_UNSPEC, .ndm_flags = NTF_PROXY};
  const struct xfrm_usersa_id sa = {0};
  const struct xfrm_userpolicy_id policy = {0};
  g_autofree char *tables = net_firewall_old_tables();
  if (is_there(NETLINK_ROUTE, RTM_GETQDISC, &tc, sizeof tc, is_chosen))
    net_dump_block(d, "traffic control (tc) of its network namespace", "what shapes traffic cannot be made again", "remove it before the dump (tc qdisc del)");
  if (is_there(NETLINK_ROUTE, RTM_GETNEXTHOP, &nexthop, sizeof nexthop, NULL))
    net_dump_block(d, "nexthop objects of its network namespace", "they cannot be made again", "write the routes without them (ip nexthop)");
  if (is_there(NETLINK_ROUTE, RTM_GETNEIGH, &proxy, sizeof proxy, is_proxy))
    net_dump_block(d, "proxy entries among the neighbours of its network namespace", "they cannot be made again", "remove them before the dump (ip neigh del proxy)");
  if (is_there(NETLINK_XFRM, XFRM_MSG_GETSA, &sa, MIN(sizeof sa, 64), NULL) ||
      is_there(NETLINK_XFRM, XFRM_MSG_GETPOLICY, &policy, MIN(sizeof policy, 64), NULL))
    net_dump_block(d, "IPsec of its network namespace", "keys and sequence numbers cannot be made again", "remove it before the dump (ip xfrm)");
  if (tables) {
    g_autofree char *what = g_strdup_printf("iptables of its network namespace (%s)", tables);
    net_dump_block(d, what, "rules of the older iptables cannot be read by nft", "write them with nft, or remove them before the dump");
  }
}

static void save_firewall(NetDump *d, NetNamespace *ns) {
  g_autoptr(GError) error = NULL;
  if (!net_firewall_save(&ns->raw[NET_RAW_NFTABLES], &error))
    net_dump_block(d, "nftables of its network namespace", error->message, "install nft, or remove the rules before the dump");
}

static void tell_connections(NetDump *d) {
  g_autofree char *text = NULL;
  if (g_file_get_contents("/proc/sys/net/netfilter/nf_conntrack_count", &text, NULL, NULL) && atoi(text) > 0)
    job_log(d->job, 4, "pid %d (%s): what its network namespace remembers of %d connections (conntrack) is not kept", (int)d->pid, d->comm,
        atoi(text));
}

/* --- links --- */

static CkptNetLink *add_link(CkptNetns *x, guint32 index) {
  CkptNetLink *l = malloc(sizeof *l);
  ckpt_net_link__init(l);
  l->ifindex = index;
  x->link = realloc(x->link, (x->n_link + 1) * sizeof(void *));
  return x->link[x->n_link++] = l;
}

static void take_bytes(GBytes *from, protobuf_c_boolean *has, ProtobufCBinaryData *to) {
  gsize n = 0;
  const void *data = from ? g_bytes_get_data(from, &n) : NULL;
  *has = from != NULL;
  to->len = n;
  to->data = from ? malloc(MAX(n, 1)) : NULL;
  if (n)
    memcpy(to->data, data, n);
}

static NetDeviceEntry *device_new(const NetLink *l, NdType type) {
  NetDeviceEntry *e = malloc(sizeof *e);
  net_device_entry__init(e);
  e->type = type;
  e->ifindex = l->index;
  e->mtu = l->mtu;
  e->flags = l->flags;
  e->name = strdup(l->name);
  e->has_address = l->address_size > 0;
  e->address.len = l->address_size;
  e->address.data = malloc(MAX(l->address_size, 1));
  memcpy(e->address.data, l->address, l->address_size);
  e->has_master = l->master != 0;
  e->master = l->master;
  return e;
}

/* Kinds that are made again by their name and the bytes that the kernel shows of them; `lower`: on top of another link. */
static const struct {
  const char *kind;
  NdType type;
  bool lower;
} kinds[] = {{"bridge", ND_TYPE__BRIDGE, false}, {"dummy", ND_TYPE__EXTLINK, false}, {"ifb", ND_TYPE__EXTLINK, false}, {"vlan", ND_TYPE__EXTLINK, true}};

/* Every new namespace has them where their modules are loaded, and they are the defaults for tunnels without a link. */
static bool comes_by_itself(const NetLink *l) {
  static const char *const names[] = {"sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"};
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
    if (strcmp(l->name, names[i]) == 0)
      return !(l->flags & IFF_UP);
  return false;
}

/* What Explain shows of a link that leads outside. */
static void note_link(NetDump *d, const NetLink *l, const char *action, const char *rule) {
  g_autofree char *name = g_strdup_printf("pid %d (%s): network link %s (%s)", (int)d->pid, d->comm, l->name, *l->kind ? l->kind : "of a device");
  job_note(d->job, "link", d->pid, -1, name, action, rule);
}

static bool add_veth(NetDump *d, const NetPlace *place, const NetLink *l, NetDeviceEntry *e, CkptNetLink *x, bool *ret_taken, GError **error) {
  guint32 peer = 0;
  g_autofree char *named = outside_end_find(d->job, "veth", l->name);
  if (!net_peer_find(d, place, l, &peer, &x->outside, error))
    return false;
  const NetPlace *there = net_places_find(d->places, peer);
  *ret_taken = named || (there && (!there->home || x->outside));
  if (*ret_taken && (named || there->home)) {
    g_autofree char *rule = named ? g_strdup_printf("option external: veth[%s]", l->name) : g_strdup("built in: the pair is made again");
    note_link(d, l, "other end outside", rule);
  }
  e->has_peer_ifindex = true;
  e->peer_ifindex = l->link;
  e->has_peer_nsid = l->elsewhere && l->nsid >= 0;
  e->peer_nsid = (guint32)l->nsid;
  x->has_peer_ns_id = there && !there->home;
  x->peer_ns_id = peer;
  return true;
}

/* Who brings it at the restore. */
static bool offer_link(NetDump *d, const NetPlace *place, const NetLink *l, CkptNetLink *x, GError **error) {
  g_autofree char *named = outside_end_find(d->job, "netdev", l->name), *reason = NULL, *cure = NULL, *plugin = NULL;
  guint64 object = 0;
  if (named) {
    g_autofree char *rule = g_strdup_printf("option external: netdev[%s]", l->name);
    note_link(d, l, "brought at the restore", rule);
    x->plugin = strdup("");
    return true;
  }
  if (d->offer && !d->offer(d->data, d->pid, place->fd, l, &plugin, &object, &reason, &cure, error))
    return false;
  x->plugin = plugin ? strdup(plugin) : NULL;
  x->has_plugin_object = plugin != NULL;
  x->plugin_object = object;
  if (plugin) {
    g_autofree char *who = g_strdup_printf("plugin %s", plugin);
    note_link(d, l, "plugin", who);
    return true;
  }
  g_autofree char *what = g_strdup_printf("network link %s (number %u, %s)", l->name, l->index, *l->kind ? l->kind : "of a device");
  g_autofree char *help = g_strdup_printf("%s--external netdev[%s] says that it is brought at the restore; or remove it before the dump",
      cure ? cure : "a plugin may take it (cr_plugin_dump_ext_link); ", l->name);
  net_dump_block(d, what, reason ? reason : "links of this kind cannot be made again, and no plugin has taken it", help);
  return true;
}

static bool dump_link(NetDump *d, const NetPlace *place, const GPtrArray *all, const NetLink *l, NetNamespace *ns, GError **error) {
  if (comes_by_itself(l))
    return true;
  NetDeviceEntry *e = device_new(l, ND_TYPE__EXTLINK);
  CkptNetLink *x = add_link(ns->extra, l->index);
  bool taken = false;
  g_ptr_array_add(ns->devices, e);
  x->kind = *l->kind ? strdup(l->kind) : NULL;
  x->has_tx_queue = true;
  x->tx_queue = l->tx_queue;
  x->alias = l->alias ? strdup(l->alias) : NULL;
  net_settings_collect_link(x, l->name);
  if (l->type == ARPHRD_LOOPBACK) {
    e->type = ND_TYPE__LOOPBACK;
    taken = true;
  } else if (strcmp(l->kind, "veth") == 0 && !add_veth(d, place, l, e, x, &taken, error)) {
    return false;
  }
  if (strcmp(l->kind, "veth") == 0 && taken)
    e->type = ND_TYPE__VETH;
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
    bool here = kinds[i].lower == (l->link != 0) && !l->elsewhere && (!l->link || net_links_find(all, l->link));
    if (strcmp(l->kind, kinds[i].kind) == 0 && here) {
      e->type = kinds[i].type;
      x->has_lower = l->link != 0;
      x->lower = l->link;
      take_bytes(l->data, &x->has_data, &x->data);
      taken = true;
    }
  }
  if (l->master && strcmp(l->port_kind, "bridge") == 0)
    take_bytes(l->port, &x->has_port, &x->port);
  return taken || offer_link(d, place, l, x, error);
}

/* A port of something that is not here any more, or no bridge. */
static void check_masters(NetDump *d, const GPtrArray *links) {
  for (guint i = 0; i < links->len; i++) {
    const NetLink *l = links->pdata[i], *master = l->master ? net_links_find(links, l->master) : NULL;
    if (!l->master || (master && strcmp(master->kind, "bridge") == 0))
      continue;
    g_autofree char *what = g_strdup_printf("network link %s", l->name);
    net_dump_block(d, what, "it is part of another one that is no bridge", "take it out before the dump (ip link set nomaster)");
  }
}

static void add_nsids(NetDump *d, const NetPlace *place, NetnsEntry *e) {
  for (guint i = 0; i < net_places_count(d->places); i++) {
    const NetPlace *other = net_places_get(d->places, i);
    gint32 nsid = other == place ? -1 : net_nsid_of(other->fd);
    if (nsid < 0)
      continue;
    NetnsId *id = malloc(sizeof *id);
    netns_id__init(id);
    id->target_ns_id = other->id;
    id->netnsid_value = nsid;
    e->nsids = realloc(e->nsids, (e->n_nsids + 1) * sizeof(void *));
    e->nsids[e->n_nsids++] = id;
  }
}

static void namespace_init(NetNamespace *ns) {
  ns->entry = malloc(sizeof *ns->entry);
  netns_entry__init(ns->entry);
}

bool net_dump(NetDump *d, const NetPlace *place, NetNamespace *ns, GError **error) {
  g_autofree char *inode = g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)place->ino);
  g_autofree char *key = outside_end_find(d->job, "net", inode);
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  namespace_init(ns);
  ns->entry->ext_key = key && *key ? strdup(key) : NULL;
  if (ns->entry->ext_key) {
    g_autofree char *what = g_strdup_printf("pid %d (%s): network namespace net:[%s]", (int)d->pid, d->comm, inode);
    g_autofree char *rule = g_strdup_printf("option external: net[%s]:%s", inode, key);
    job_note(d->job, "namespace", d->pid, -1, what, "given at the restore", rule);
  }
  if (ns->entry->ext_key || job_options(d->job)->empty_net)
    return true;
  if (!net_visit_begin(&visit, place->fd, error))
    return false;
  g_autoptr(GPtrArray) links = net_links(error);
  if (!links)
    return false;
  ns->extra = malloc(sizeof *ns->extra);
  ckpt_netns__init(ns->extra);
  ns->extra->id = ns->id;
  for (guint i = 0; i < links->len; i++)
    if (!dump_link(d, place, links, links->pdata[i], ns, error))
      return false;
  check_masters(d, links);
  check_others(d);
  save_firewall(d, ns);
  tell_connections(d);
  add_nsids(d, place, ns->entry);
  return save_lists(ns, error) && net_settings_collect(ns->extra, error);
}

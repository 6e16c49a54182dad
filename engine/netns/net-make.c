/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Links, made again: by their kind and what the kernel had shown of it, under their names and numbers. */

#include "outside-ends.h"
#include "net-link.h"
#include "net-restore.h"
#include "net-settings.h"
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <string.h>
#include <sys/socket.h>

#define WAIT_USEC 20000
#define WAIT_TRIES 250 /* five seconds: a namespace ends in the kernel's own time */

/* Flags that somebody has chosen. */
#define CHOSEN_FLAGS (IFF_UP | IFF_NOARP | IFF_MULTICAST | IFF_ALLMULTI | IFF_PROMISC)

const CkptNetLink *net_make_extra(const NetNamespace *ns, guint32 ifindex) {
  for (size_t i = 0; ns->extra && i < ns->extra->n_link; i++)
    if (ns->extra->link[i]->ifindex == ifindex)
      return ns->extra->link[i];
  return NULL;
}

bool net_make_wait(NetRestore *r, int *tries, GError **error) {
  g_usleep(WAIT_USEC);
  return ++*tries <= WAIT_TRIES && job_poll(r->job, error);
}

/* --- one link --- */

/* Of a bridge: what shows a state and cannot be set is left out. */
static bool is_bridge_setting(int type) {
  static const int states[] = {IFLA_BR_ROOT_ID, IFLA_BR_BRIDGE_ID, IFLA_BR_ROOT_PORT, IFLA_BR_ROOT_PATH_COST, IFLA_BR_TOPOLOGY_CHANGE,
      IFLA_BR_TOPOLOGY_CHANGE_DETECTED, IFLA_BR_HELLO_TIMER, IFLA_BR_TCN_TIMER, IFLA_BR_TOPOLOGY_CHANGE_TIMER, IFLA_BR_GC_TIMER, IFLA_BR_FDB_FLUSH,
      IFLA_BR_MCAST_HASH_ELASTICITY, IFLA_BR_PAD};
  for (size_t i = 0; i < G_N_ELEMENTS(states); i++)
    if (states[i] == type)
      return false;
  return type <= IFLA_BR_MULTI_BOOLOPT;
}

static bool is_port_setting(int type) {
  static const int states[] = {IFLA_BRPORT_STATE, IFLA_BRPORT_ROOT_ID, IFLA_BRPORT_BRIDGE_ID, IFLA_BRPORT_DESIGNATED_PORT,
      IFLA_BRPORT_DESIGNATED_COST, IFLA_BRPORT_ID, IFLA_BRPORT_NO, IFLA_BRPORT_TOPOLOGY_CHANGE_ACK, IFLA_BRPORT_CONFIG_PENDING,
      IFLA_BRPORT_MESSAGE_AGE_TIMER, IFLA_BRPORT_FORWARD_DELAY_TIMER, IFLA_BRPORT_HOLD_TIMER, IFLA_BRPORT_FLUSH, IFLA_BRPORT_PAD};
  for (size_t i = 0; i < G_N_ELEMENTS(states); i++)
    if (states[i] == type)
      return false;
  return type <= IFLA_BRPORT_ISOLATED;
}

static const struct nlattr *find_setting(GBytes *data, int type) {
  gsize size = 0;
  const void *bytes = data ? g_bytes_get_data(data, &size) : NULL;
  return size ? nla_find(bytes, (int)size, type) : NULL;
}

static int set_one(guint32 index, bool port, const struct nlattr *a) {
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
  struct nl_msg *m = net_talk_new(RTM_NEWLINK, 0, &i, sizeof i);
  struct nlattr *info = nla_nest_start(m, IFLA_LINKINFO);
  (void)nla_put_string(m, port ? IFLA_INFO_SLAVE_KIND : IFLA_INFO_KIND, "bridge");
  struct nlattr *nest = nla_nest_start(m, port ? IFLA_INFO_SLAVE_DATA : IFLA_INFO_DATA);
  (void)nla_put(m, a->nla_type, nla_len(a), nla_data(a));
  (void)nla_nest_end(m, nest);
  (void)nla_nest_end(m, info);
  return net_talk(m, NULL);
}

/* Of a bridge or a port of one: what is not as it was is set, one after the other. The kernel refuses to hear of what it was
 * built without, even that it is off. */
static bool set_settings(NetRestore *r, guint32 index, const char *name, bool port, const ProtobufCBinaryData *data, GError **error) {
  g_autoptr(GPtrArray) links = net_links(error);
  const NetLink *l = links ? net_links_find(links, index) : NULL;
  const struct nlattr *a;
  int left;
  if (!l)
    return links && engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The network link %s has gone", name);
  nla_for_each_attr(a, (const struct nlattr *)(const void *)data->data, (int)data->len, left) {
    const struct nlattr *now = find_setting(port ? l->port : l->data, nla_type(a));
    bool same = now && nla_len(now) == nla_len(a) && memcmp(nla_data(now), nla_data(a), (size_t)nla_len(a)) == 0;
    int outcome = same || !(port ? is_port_setting : is_bridge_setting)(nla_type(a)) ? 0 : set_one(index, port, a);
    if (outcome < 0)
      job_log(r->job, 4, "Setting %d of the %s %s cannot be made: %s", nla_type(a), port ? "port" : "bridge", name, g_strerror(-outcome));
  }
  return true;
}

static struct nl_msg *link_message(const NetDeviceEntry *e, const CkptNetLink *x) {
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)e->ifindex};
  struct nl_msg *m = net_talk_new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
  (void)nla_put_string(m, IFLA_IFNAME, e->name);
  (void)nla_put_u32(m, IFLA_MTU, e->mtu);
  if (e->has_address && e->address.len)
    (void)nla_put(m, IFLA_ADDRESS, (int)e->address.len, e->address.data);
  if (x && x->has_tx_queue)
    (void)nla_put_u32(m, IFLA_TXQLEN, x->tx_queue);
  if (x && x->has_lower)
    (void)nla_put_u32(m, IFLA_LINK, x->lower);
  return m;
}

static bool make_plain(NetRestore *r, const NetDeviceEntry *e, const CkptNetLink *x, GError **error) {
  const char *kind = e->type == ND_TYPE__BRIDGE ? "bridge" : x->kind;
  struct nl_msg *m = link_message(e, x);
  struct nlattr *info = nla_nest_start(m, IFLA_LINKINFO);
  (void)nla_put_string(m, IFLA_INFO_KIND, kind);
  bool bridge = e->type == ND_TYPE__BRIDGE;
  if (x && x->has_data && !bridge)
    (void)nla_put(m, IFLA_INFO_DATA | NLA_F_NESTED, (int)x->data.len, x->data.data);
  (void)nla_nest_end(m, info);
  int outcome = net_talk(m, NULL);
  if (outcome < 0)
    return engine_fail_errno(error, outcome == -EOPNOTSUPP ? ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE : ENGINE_ERROR_CODE__FAILED, outcome,
        "Cannot make the network link %s (%s)", e->name, kind);
  return !bridge || !x || !x->has_data || set_settings(r, e->ifindex, e->name, false, &x->data, error);
}

/* --- pairs --- */

typedef struct OtherEnd {
  const char *name; /* NULL: the kernel chooses */
  guint32 ifindex;  /* 0: the same */
  guint32 mtu;
  const ProtobufCBinaryData *address;
  int net_fd; /* -1: of the same namespace */
} OtherEnd;

static int make_pair(const NetDeviceEntry *e, const CkptNetLink *x, const OtherEnd *o) {
  const struct ifinfomsg peer = {.ifi_family = AF_UNSPEC, .ifi_index = (int)o->ifindex};
  struct nl_msg *m = link_message(e, x);
  struct nlattr *info = nla_nest_start(m, IFLA_LINKINFO);
  (void)nla_put_string(m, IFLA_INFO_KIND, "veth");
  struct nlattr *data = nla_nest_start(m, IFLA_INFO_DATA), *nest = nla_nest_start(m, VETH_INFO_PEER);
  (void)nlmsg_append(m, (void *)(uintptr_t)&peer, sizeof peer, NLMSG_ALIGNTO);
  if (o->name)
    (void)nla_put_string(m, IFLA_IFNAME, o->name);
  (void)nla_put_u32(m, IFLA_MTU, o->mtu);
  if (o->address && o->address->len)
    (void)nla_put(m, IFLA_ADDRESS, (int)o->address->len, o->address->data);
  if (o->net_fd >= 0)
    (void)nla_put_u32(m, IFLA_NET_NS_FD, (guint32)o->net_fd);
  (void)nla_nest_end(m, nest);
  (void)nla_nest_end(m, data);
  (void)nla_nest_end(m, info);
  return net_talk(m, NULL);
}

static const NetDeviceEntry *device_of(const NetNamespace *ns, guint32 ifindex) {
  for (guint i = 0; ns && i < ns->devices->len; i++)
    if (((const NetDeviceEntry *)ns->devices->pdata[i])->ifindex == ifindex)
      return ns->devices->pdata[i];
  return NULL;
}

static bool fail_pair(const NetDeviceEntry *e, int r, GError **error) {
  return engine_fail_errno(error, r == -EOPNOTSUPP ? ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE : ENGINE_ERROR_CODE__FAILED, r,
      "Cannot make the network link %s (veth)", e->name);
}

/* The other end is in the tree, too: whoever comes first makes both. */
static bool make_inner_pair(NetRestore *r, const NetNamespace *ns, const NetDeviceEntry *e, const CkptNetLink *x, GError **error) {
  bool same = !x || !x->has_peer_ns_id || x->peer_ns_id == ns->id;
  const NetNamespace *there = same ? ns : checkpoint_find_net(r->checkpoint, x->peer_ns_id);
  const NetDeviceEntry *peer = e->has_peer_ifindex ? device_of(there, e->peer_ifindex) : NULL;
  if (!peer || peer->type != ND_TYPE__VETH || peer == e)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The other end of the network link %s is not in the images", e->name);
  const OtherEnd o = {.name = peer->name, .ifindex = peer->ifindex, .mtu = peer->mtu, .address = peer->has_address ? &peer->address : NULL,
      .net_fd = same ? -1 : net_restore_fd(r, there->id)};
  int outcome = make_pair(e, x, &o);
  return outcome == 0 || fail_pair(e, outcome, error);
}

static bool set_master(const NetLink *l, const char *master, const GPtrArray *links, GError **error) {
  const NetLink *bridge = net_links_find_name(links, master);
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)l->index};
  struct nl_msg *m = bridge ? net_talk_new(RTM_NEWLINK, 0, &i, sizeof i) : NULL;
  if (!m)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "There is no bridge %s for the network link %s to be a port of: make it, or name another one (--external veth[NAME]:%s@BRIDGE)", master,
        l->name, l->name);
  (void)nla_put_u32(m, IFLA_MASTER, bridge->index);
  int r = net_talk(m, NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot make the network link %s a port of %s", l->name, master);
}

static bool set_up(guint32 index, const char *name, GError **error) {
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
  int r = net_talk(net_talk_new(RTM_NEWLINK, 0, &i, sizeof i), NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot set the network link %s up", name);
}

static bool add_outside_addresses(const NetLink *l, const ProtobufCBinaryData *messages, GError **error) {
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  guint at = 0;
  g_byte_array_append(bytes, messages->data, (guint)messages->len);
  for (struct nlmsghdr *h; (h = net_talk_next(bytes, &at));) {
    struct ifaddrmsg *a = NLMSG_DATA(h);
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof *a))
      continue;
    a->ifa_index = l->index;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    int r = net_talk_bytes(h, h->nlmsg_len);
    if (r < 0 && r != -EEXIST && a->ifa_family == AF_INET)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot give the network link %s its address", l->name);
  }
  return true;
}

/* In the engine's own namespace: a port again, up, with its addresses. */
static bool ready_outside(NetRestore *r, const char *name, const char *master, bool up, const ProtobufCBinaryData *addresses, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (!net_visit_begin(&visit, net_restore_fd(r, 0), error))
    return false;
  g_autoptr(GPtrArray) links = net_links(error);
  const NetLink *l = links ? net_links_find_name(links, name) : NULL;
  if (!l)
    return links && engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The network link %s has gone", name);
  return (!master || set_master(l, master, links, error)) && (!up || set_up(l->index, l->name, error)) &&
         (!addresses || add_outside_addresses(l, addresses, error));
}

static bool make_outer_pair(NetRestore *r, const NetDeviceEntry *e, const CkptNetLink *x, GError **error) {
  g_autofree char *said = outside_end_find(r->job, "veth", e->name);
  const CkptNetOutside *was = x && !(said && *said) ? x->outside : NULL;
  g_auto(GStrv) parts = g_strsplit(said ? said : "", "@", 2);
  const char *name = was ? was->name : parts[0], *master = was ? was->master : g_strv_length(parts) > 1 ? parts[1] : NULL;
  int tries = 0, outcome;
  if (!name || !*name || strlen(name) >= IFNAMSIZ)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "The other end of the network link %s (veth) is outside of the tree: say where with --external veth[%s]:NAME or veth[%s]:NAME@BRIDGE", e->name,
        e->name, e->name);
  const OtherEnd o = {.name = name, .mtu = was ? was->mtu : e->mtu, .address = was && was->has_address ? &was->address : NULL,
      .net_fd = net_restore_fd(r, 0)};
  while ((outcome = make_pair(e, x, &o)) == -EEXIST && net_make_wait(r, &tries, error))
    continue;
  if (*error)
    return false;
  if (outcome == -EEXIST)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "There is a network link %s already, which the other end of %s is to be: remove it, or name another one with --external veth[%s]:NAME", name, e->name,
        e->name);
  return outcome == 0 ? ready_outside(r, name, master, !was || was->up, was && was->has_ifaddr ? &was->ifaddr : NULL, error)
                      : fail_pair(e, outcome, error);
}

static bool make_veth(NetRestore *r, const NetNamespace *ns, const NetDeviceEntry *e, const CkptNetLink *x, GError **error) {
  GError *failure = NULL;
  bool inside = x ? x->has_peer_ns_id : !e->has_peer_nsid && e->has_peer_ifindex && device_of(ns, e->peer_ifindex);
  if (!(inside ? make_inner_pair(r, ns, e, x, &failure) : make_outer_pair(r, e, x, &failure)))
    g_propagate_error(error, failure);
  return !failure;
}

static bool is_made_here(const NetDeviceEntry *e, const CkptNetLink *x) {
  return e->type == ND_TYPE__BRIDGE || (e->type == ND_TYPE__EXTLINK && x && !x->plugin && x->kind);
}

bool net_make_links(NetRestore *r, const NetNamespace *ns, GError **error) {
  for (int upper = 0; upper < 2; upper++) /* those on top of others come last */
    for (guint i = 0; i < ns->devices->len; i++) {
      const NetDeviceEntry *e = ns->devices->pdata[i];
      const CkptNetLink *x = net_make_extra(ns, e->ifindex);
      if ((x && x->has_lower) != upper)
        continue;
      g_autoptr(GPtrArray) links = net_links(error);
      if (!links)
        return false;
      if (net_links_find_name(links, e->name))
        continue; /* lo, and the other end of a pair that is there */
      if (e->type == ND_TYPE__VETH ? !make_veth(r, ns, e, x, error) : is_made_here(e, x) && !make_plain(r, e, x, error))
        return false;
    }
  return true;
}

/* --- all that are there --- */

static bool change_link(NetRestore *nets, const NetDeviceEntry *e, const CkptNetLink *x, guint32 index, guint32 master, GError **error) {
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
  struct nl_msg *m = net_talk_new(RTM_NEWLINK, 0, &i, sizeof i);
  (void)nla_put_u32(m, IFLA_MTU, e->mtu);
  if (x && x->has_tx_queue)
    (void)nla_put_u32(m, IFLA_TXQLEN, x->tx_queue);
  if (x && x->alias)
    (void)nla_put_string(m, IFLA_IFALIAS, x->alias);
  if (master)
    (void)nla_put_u32(m, IFLA_MASTER, master);
  int r = net_talk(m, NULL);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot set the network link %s up as it was", e->name);
  return !master || !x || !x->has_port || set_settings(nets, index, e->name, true, &x->port, error);
}

static bool set_flags(const NetDeviceEntry *e, guint32 index, GError **error) {
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index, .ifi_flags = e->flags & CHOSEN_FLAGS, .ifi_change = CHOSEN_FLAGS};
  int r = net_talk(net_talk_new(RTM_NEWLINK, 0, &i, sizeof i), NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot set the flags of the network link %s", e->name);
}

static guint32 index_now(GHashTable *indexes, guint32 index) {
  return GPOINTER_TO_UINT(g_hash_table_lookup(indexes, GUINT_TO_POINTER(index)));
}

bool net_make_ready(NetRestore *r, const NetNamespace *ns, GHashTable *indexes, GError **error) {
  for (guint i = 0; i < ns->devices->len; i++) {
    const NetDeviceEntry *e = ns->devices->pdata[i];
    const CkptNetLink *x = net_make_extra(ns, e->ifindex);
    guint32 index = index_now(indexes, e->ifindex);
    if (!change_link(r, e, x, index, e->has_master ? index_now(indexes, e->master) : 0, error))
      return false;
    net_settings_restore_link(r->job, x, e->name);
  }
  for (guint i = 0; i < ns->devices->len; i++) {
    const NetDeviceEntry *e = ns->devices->pdata[i];
    if (!set_flags(e, index_now(indexes, e->ifindex), error))
      return false;
  }
  return true;
}

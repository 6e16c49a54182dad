/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-restore.h"
#include "outside-ends.h"
#include "net-firewall.h"
#include "net-link.h"
#include "net-settings.h"
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#define RAW_MAGIC 4 /* bytes before the messages of iproute2's */

int net_restore_fd(const NetRestore *r, guint32 id) {
  const NetPlace *place = net_places_find(r->places, id);
  if (!place)
    place = net_places_find(r->places, 0);
  return place ? place->fd : -1;
}

static bool is_given(const NetNamespace *ns) {
  return ns->entry->ext_key != NULL;
}

static bool is_filled(const NetRestore *r, const NetNamespace *ns) {
  return !is_given(ns) && !job_options(r->job)->empty_net;
}

/* --- the namespaces --- */

static int take_given(NetRestore *r, const NetNamespace *ns, GError **error) {
  int fd = job_inherited(r->job, ns->entry->ext_key);
  if (fd < 0) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "A network namespace of the checkpoint is to be given as %s: open one and name it with --inherit-fd fd[N]:%s", ns->entry->ext_key,
        ns->entry->ext_key);
    return -1;
  }
  if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) {
    engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "What is given as %s is no network namespace", ns->entry->ext_key);
    return -1;
  }
  return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool make_namespace(NetRestore *r, const NetNamespace *ns, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  int fd = is_given(ns) ? take_given(r, ns, error) : net_visit_new(&visit, error);
  return fd >= 0 && net_places_add(r->places, ns->id, fd, error);
}

/* The numbers by which namespaces know each other. Those of the images that mean the engine's own come as the kernel gives them. */
static void name_others(const NetRestore *r, const NetNamespace *ns) {
  for (size_t i = 0; i < ns->entry->n_nsids; i++) {
    const NetnsId *id = ns->entry->nsids[i];
    const struct rtgenmsg g = {.rtgen_family = AF_UNSPEC};
    struct nl_msg *m = net_talk_new(RTM_NEWNSID, 0, &g, sizeof g);
    (void)nla_put_u32(m, NETNSA_NSID, (guint32)id->netnsid_value);
    (void)nla_put_u32(m, NETNSA_FD, (guint32)net_restore_fd(r, id->target_ns_id));
    (void)net_talk(m, NULL);
  }
}

static bool fill_namespace(NetRestore *r, const NetNamespace *ns, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (!net_visit_begin(&visit, net_restore_fd(r, ns->id), error))
    return false;
  name_others(r, ns);
  if (ns->extra)
    net_settings_restore(r->job, ns->extra);
  return net_make_links(r, ns, error);
}

bool net_restore_begin(NetRestore *r, GError **error) {
  const GPtrArray *all = r->checkpoint->net_namespaces;
  r->places = net_places_new(0, error);
  if (!r->places || !outside_ends_check(r->job, error))
    return false;
  for (guint i = 0; i < all->len; i++)
    if (!make_namespace(r, all->pdata[i], error))
      return false;
  for (guint i = 0; i < all->len; i++)
    if (is_filled(r, all->pdata[i]) && !fill_namespace(r, all->pdata[i], error))
      return false;
  return true;
}

/* --- links from outside --- */

/* --external netdev[IN]:OUT: moves it here. */
static bool move_in(NetRestore *r, const NetNamespace *ns, const NetDeviceEntry *e, const char *from, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  int here = net_restore_fd(r, ns->id);
  if (!net_visit_begin(&visit, net_restore_fd(r, 0), error))
    return false;
  g_autoptr(GPtrArray) links = net_links(error);
  const NetLink *l = links ? net_links_find_name(links, from) : NULL;
  if (!l)
    return links && engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "There is no network link %s (--external netdev[%s]:%s)", from, e->name, from);
  const struct ifinfomsg i = {.ifi_family = AF_UNSPEC, .ifi_index = (int)l->index};
  struct nl_msg *m = net_talk_new(RTM_NEWLINK, 0, &i, sizeof i);
  (void)nla_put_u32(m, IFLA_NET_NS_FD, (guint32)here);
  (void)nla_put_string(m, IFLA_IFNAME, e->name);
  int outcome = net_talk(m, NULL);
  return outcome == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, outcome, "Cannot move the network link %s into the namespace", from);
}

static bool bring_links(NetRestore *r, const NetNamespace *ns, GError **error) {
  for (guint i = 0; i < ns->devices->len; i++) {
    const NetDeviceEntry *e = ns->devices->pdata[i];
    const CkptNetLink *x = net_make_extra(ns, e->ifindex);
    g_autofree char *from = outside_end_find(r->job, "netdev", e->name);
    g_autoptr(GPtrArray) links = net_links(error);
    if (!links)
      return false;
    if (net_links_find_name(links, e->name))
      continue;
    if (from && *from && !move_in(r, ns, e, from, error))
      return false;
    if (!(from && *from) && x && x->plugin && *x->plugin && r->bring && !r->bring(r->data, e, x, net_restore_fd(r, ns->id), error))
      return false;
  }
  return true;
}

static GHashTable *find_links(const NetNamespace *ns, GError **error) {
  g_autoptr(GPtrArray) links = net_links(error);
  g_autoptr(GHashTable) indexes = g_hash_table_new(NULL, NULL);
  for (guint i = 0; links && i < ns->devices->len; i++) {
    const NetDeviceEntry *e = ns->devices->pdata[i];
    const CkptNetLink *x = net_make_extra(ns, e->ifindex);
    const NetLink *l = net_links_find_name(links, e->name);
    bool plugin = x && x->plugin && *x->plugin;
    if (!l) {
      engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
          "The network link %s%s%s%s is not there: it comes from outside%s%s; an action script can bring it at setup-namespaces (ip link set … "
          "name %s netns $CRTOOLS_INIT_PID), or --external netdev[%s]:NAME",
          e->name, x && x->kind ? " (" : "", x && x->kind ? x->kind : "", x && x->kind ? ")" : "", plugin ? ", by the plugin " : "", plugin ? x->plugin : "",
          e->name, e->name);
      return NULL;
    }
    g_hash_table_insert(indexes, GUINT_TO_POINTER(e->ifindex), GUINT_TO_POINTER(l->index));
  }
  return links ? g_steal_pointer(&indexes) : NULL;
}

/* --- messages, replayed --- */

static void map_u32(struct nlattr *a, GHashTable *indexes) {
  guint32 index;
  if (nla_len(a) < (int)sizeof index)
    return;
  memcpy(&index, nla_data(a), sizeof index);
  gpointer now = g_hash_table_lookup(indexes, GUINT_TO_POINTER(index));
  if (now) {
    index = GPOINTER_TO_UINT(now);
    memcpy(nla_data(a), &index, sizeof index);
  }
}

static int mapped(GHashTable *indexes, int index) {
  gpointer now = g_hash_table_lookup(indexes, GINT_TO_POINTER(index));
  return now ? GPOINTER_TO_INT(now) : index;
}

static void map_paths(struct nlattr *a, GHashTable *indexes) {
  int left = nla_len(a);
  for (struct rtnexthop *n = nla_data(a); RTNH_OK(n, left);) {
    int step = NLMSG_ALIGN(n->rtnh_len);
    n->rtnh_ifindex = mapped(indexes, n->rtnh_ifindex);
    n->rtnh_flags &= RTNH_F_ONLINK;
    left -= step;
    n = (struct rtnexthop *)(void *)((char *)n + step);
  }
}

static bool map_address(struct nlmsghdr *h, GHashTable *indexes) {
  struct ifaddrmsg *a = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *a) || !g_hash_table_contains(indexes, GUINT_TO_POINTER(a->ifa_index)))
    return false;
  a->ifa_index = (guint32)mapped(indexes, (int)a->ifa_index);
  h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
  return true;
}

static bool map_route(struct nlmsghdr *h, GHashTable *indexes) {
  struct rtmsg *r = NLMSG_DATA(h);
  struct nlattr *a;
  int left;
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *r) || r->rtm_flags & RTM_F_CLONED || (r->rtm_table == RT_TABLE_LOCAL && r->rtm_protocol == RTPROT_KERNEL))
    return false;
  r->rtm_flags &= RTNH_F_ONLINK; /* the others tell a state */
  nla_for_each_attr(a, nlmsg_attrdata(h, sizeof *r), nlmsg_attrlen(h, sizeof *r), left) {
    if (nla_type(a) == RTA_OIF || nla_type(a) == RTA_IIF)
      map_u32(a, indexes);
    else if (nla_type(a) == RTA_MULTIPATH)
      map_paths(a, indexes);
  }
  h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | (r->rtm_family == AF_INET ? NLM_F_APPEND : 0);
  return true;
}

static bool map_rule(struct nlmsghdr *h, GHashTable *indexes) {
  h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
  return h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct fib_rule_hdr));
}

static bool map_neighbour(struct nlmsghdr *h, GHashTable *indexes) {
  struct ndmsg *n = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *n) || !g_hash_table_contains(indexes, GINT_TO_POINTER(n->ndm_ifindex)))
    return false;
  n->ndm_ifindex = mapped(indexes, n->ndm_ifindex);
  if (n->ndm_family == AF_BRIDGE)
    n->ndm_flags |= NTF_MASTER;
  h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
  return true;
}

typedef bool (*MapMessage)(struct nlmsghdr *h, GHashTable *indexes);

/* What needs another one first (a route by a gateway) is tried again as long as there is progress. */
static bool replay(const void *data, gsize size, MapMessage map, GHashTable *indexes, const char *what, GError **error) {
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  g_autoptr(GPtrArray) left = g_ptr_array_new();
  guint at = 0;
  int r = 0;
  g_byte_array_append(bytes, data, (guint)size);
  for (struct nlmsghdr *h; (h = net_talk_next(bytes, &at));)
    if (map(h, indexes))
      g_ptr_array_add(left, h);
  for (guint before = left->len + 1; left->len && left->len < before;) {
    before = left->len;
    for (guint i = 0; i < left->len;) {
      const struct nlmsghdr *h = left->pdata[i];
      int outcome = net_talk_bytes(h, h->nlmsg_len);
      if (outcome == 0 || outcome == -EEXIST)
        (void)g_ptr_array_remove_index(left, i);
      else
        r = outcome, i++;
    }
  }
  return !left->len || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot make %u %s of a network namespace again", left->len, what);
}

static bool replay_raw(const NetNamespace *ns, NetRaw kind, MapMessage map, GHashTable *indexes, const char *what, GError **error) {
  gsize size = 0;
  const guint8 *data = ns->raw[kind] ? g_bytes_get_data(ns->raw[kind], &size) : NULL;
  return size <= RAW_MAGIC || replay(data + RAW_MAGIC, size - RAW_MAGIC, map, indexes, what, error);
}

/* --- what came by itself and was not there --- */

typedef bool (*SameMessage)(const struct nlmsghdr *a, const struct nlmsghdr *b);

static bool same_payload(const struct nlmsghdr *a, const struct nlmsghdr *b) {
  return a->nlmsg_len == b->nlmsg_len && memcmp(NLMSG_DATA(a), NLMSG_DATA(b), a->nlmsg_len - NLMSG_HDRLEN) == 0;
}

static bool same_address(const struct nlmsghdr *a, const struct nlmsghdr *b) {
  const struct ifaddrmsg *x = NLMSG_DATA(a), *y = NLMSG_DATA(b);
  struct nlattr *p[IFA_MAX + 1], *q[IFA_MAX + 1];
  net_talk_parse(a, sizeof *x, p, IFA_MAX);
  net_talk_parse(b, sizeof *y, q, IFA_MAX);
  const struct nlattr *m = p[IFA_LOCAL] ? p[IFA_LOCAL] : p[IFA_ADDRESS], *n = q[IFA_LOCAL] ? q[IFA_LOCAL] : q[IFA_ADDRESS];
  return x->ifa_family == y->ifa_family && x->ifa_prefixlen == y->ifa_prefixlen && x->ifa_index == y->ifa_index && m && n &&
         nla_len(m) == nla_len(n) && memcmp(nla_data(m), nla_data(n), (size_t)nla_len(m)) == 0;
}

static void remove_others(GBytes *raw, MapMessage map, GHashTable *indexes, int list, int message, int removal, SameMessage same) {
  const struct rtmsg any = {.rtm_family = AF_UNSPEC};
  g_autoptr(GByteArray) now = g_byte_array_new(), wanted = g_byte_array_new();
  gsize size = 0;
  const guint8 *data = raw ? g_bytes_get_data(raw, &size) : NULL;
  if (size < RAW_MAGIC || net_talk_list(NETLINK_ROUTE, list, message, &any, sizeof any, now) < 0)
    return;
  g_byte_array_append(wanted, data + RAW_MAGIC, (guint)size - RAW_MAGIC);
  g_autoptr(GPtrArray) mine = g_ptr_array_new();
  guint at = 0, k = 0;
  for (struct nlmsghdr *w; (w = net_talk_next(wanted, &k));)
    if (map(w, indexes))
      g_ptr_array_add(mine, w);
  for (struct nlmsghdr *h; (h = net_talk_next(now, &at));) {
    bool known = false;
    for (guint i = 0; !known && i < mine->len; i++)
      known = same(mine->pdata[i], h);
    h->nlmsg_type = (guint16)removal;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    if (!known)
      (void)net_talk_bytes(h, h->nlmsg_len);
  }
}

/* Of equal routes the first one counts. Those that came with addresses came in the order of these. */
static void drop_routes(guint8 family) {
  const struct rtmsg all = {.rtm_family = family};
  g_autoptr(GByteArray) now = g_byte_array_new();
  guint at = 0;
  if (net_talk_list(NETLINK_ROUTE, RTM_GETROUTE, RTM_NEWROUTE, &all, sizeof all, now) < 0)
    return;
  for (struct nlmsghdr *h; (h = net_talk_next(now, &at));) {
    const struct rtmsg *r = NLMSG_DATA(h);
    h->nlmsg_type = RTM_DELROUTE;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    if (h->nlmsg_len >= NLMSG_LENGTH(sizeof *r) && r->rtm_table != RT_TABLE_LOCAL)
      (void)net_talk_bytes(h, h->nlmsg_len);
  }
}

/* --- all of it --- */

static bool replay_lists(const NetNamespace *ns, GHashTable *indexes, GError **error) {
  const CkptNetns *x = ns->extra;
  if (!replay_raw(ns, NET_RAW_IFADDR, map_address, indexes, "addresses", error))
    return false;
  if (ns->raw[NET_RAW_ROUTE])
    drop_routes(AF_INET);
  if (ns->raw[NET_RAW_ROUTE6])
    drop_routes(AF_INET6);
  if (!replay_raw(ns, NET_RAW_ROUTE, map_route, indexes, "routes", error) || !replay_raw(ns, NET_RAW_ROUTE6, map_route, indexes, "IPv6 routes", error) ||
      !replay_raw(ns, NET_RAW_RULE, map_rule, indexes, "rules of routing", error))
    return false;
  remove_others(ns->raw[NET_RAW_RULE], map_rule, indexes, RTM_GETRULE, RTM_NEWRULE, RTM_DELRULE, same_payload);
  return !x || !x->has_neighbours || replay(x->neighbours.data, x->neighbours.len, map_neighbour, indexes, "neighbours", error);
}

typedef struct HeldDad {
  char *name, *before;
  const CkptNetLink *link;
} HeldDad;

static void held_clear(void *p) {
  HeldDad *h = p;
  g_free(h->name);
  g_free(h->before);
}

static bool finish_namespace(NetRestore *r, const NetNamespace *ns, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  g_autoptr(GArray) held = g_array_new(FALSE, TRUE, sizeof(HeldDad));
  g_array_set_clear_func(held, held_clear);
  if (!net_visit_begin(&visit, net_restore_fd(r, ns->id), error) || !bring_links(r, ns, error))
    return false;
  g_autoptr(GHashTable) indexes = find_links(ns, error);
  if (!indexes || (ns->raw[NET_RAW_NFTABLES] && !net_firewall_restore(ns->raw[NET_RAW_NFTABLES], error)))
    return false;
  for (guint i = 0; i < ns->devices->len; i++) {
    const NetDeviceEntry *e = ns->devices->pdata[i];
    HeldDad one = {.name = g_strdup(e->name), .before = net_settings_hold_dad(e->name), .link = net_make_extra(ns, e->ifindex)};
    g_array_append_val(held, one);
  }
  if (!net_make_ready(r, ns, indexes, error) || !replay_lists(ns, indexes, error))
    return false;
  remove_others(ns->raw[NET_RAW_IFADDR], map_address, indexes, RTM_GETADDR, RTM_NEWADDR, RTM_DELADDR, same_address);
  for (guint i = 0; i < held->len; i++) {
    const HeldDad *h = &g_array_index(held, HeldDad, i);
    net_settings_release_dad(r->job, h->link, h->name, h->before);
  }
  return true;
}

bool net_restore_finish(NetRestore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->net_namespaces->len; i++) {
    const NetNamespace *ns = r->checkpoint->net_namespaces->pdata[i];
    if (is_filled(r, ns) && !finish_namespace(r, ns, error))
      return false;
  }
  return true;
}

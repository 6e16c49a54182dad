/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-link.h"
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

static void link_free(void *p) {
  NetLink *l = p;
  g_clear_pointer(&l->data, g_bytes_unref);
  g_clear_pointer(&l->port, g_bytes_unref);
  g_free(l->alias);
  g_free(l);
}

static void take_text(char *to, size_t size, const struct nlattr *a) {
  if (a)
    (void)nla_strlcpy(to, a, size);
}

static guint32 take_u32(const struct nlattr *a) {
  return a && nla_len(a) >= 4 ? nla_get_u32(a) : 0;
}

static void take_info(NetLink *l, struct nlattr *info) {
  struct nlattr *a[IFLA_INFO_MAX + 1] = {0};
  if (!info || nla_parse_nested(a, IFLA_INFO_MAX, info, NULL) < 0)
    return;
  take_text(l->kind, sizeof l->kind, a[IFLA_INFO_KIND]);
  take_text(l->port_kind, sizeof l->port_kind, a[IFLA_INFO_SLAVE_KIND]);
  if (a[IFLA_INFO_DATA])
    l->data = g_bytes_new(nla_data(a[IFLA_INFO_DATA]), (gsize)nla_len(a[IFLA_INFO_DATA]));
  if (a[IFLA_INFO_SLAVE_DATA])
    l->port = g_bytes_new(nla_data(a[IFLA_INFO_SLAVE_DATA]), (gsize)nla_len(a[IFLA_INFO_SLAVE_DATA]));
}

static NetLink *link_new(const struct nlmsghdr *h) {
  struct nlattr *a[IFLA_MAX + 1];
  const struct ifinfomsg *i = NLMSG_DATA(h);
  if (h->nlmsg_len < NLMSG_LENGTH(sizeof *i))
    return NULL;
  net_talk_parse(h, sizeof *i, a, IFLA_MAX);
  NetLink *l = g_new0(NetLink, 1);
  l->index = (guint32)i->ifi_index;
  l->type = i->ifi_type;
  l->flags = i->ifi_flags;
  take_text(l->name, sizeof l->name, a[IFLA_IFNAME]);
  l->mtu = take_u32(a[IFLA_MTU]);
  l->tx_queue = take_u32(a[IFLA_TXQLEN]);
  l->master = take_u32(a[IFLA_MASTER]);
  l->link = take_u32(a[IFLA_LINK]);
  l->elsewhere = a[IFLA_LINK_NETNSID] != NULL;
  l->nsid = l->elsewhere ? (gint32)take_u32(a[IFLA_LINK_NETNSID]) : -1;
  if (a[IFLA_ADDRESS] && nla_len(a[IFLA_ADDRESS]) <= NET_ADDRESS_MAX) {
    l->address_size = (guint32)nla_len(a[IFLA_ADDRESS]);
    memcpy(l->address, nla_data(a[IFLA_ADDRESS]), l->address_size);
  }
  if (a[IFLA_IFALIAS])
    l->alias = g_strndup(nla_data(a[IFLA_IFALIAS]), (gsize)nla_len(a[IFLA_IFALIAS]));
  take_info(l, a[IFLA_LINKINFO]);
  return l;
}

static gint by_index(gconstpointer a, gconstpointer b) {
  const NetLink *x = *(NetLink *const *)a, *y = *(NetLink *const *)b;
  return x->index < y->index ? -1 : x->index > y->index;
}

GPtrArray *net_links(GError **error) {
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  const struct ifinfomsg all = {.ifi_family = AF_UNSPEC};
  int r = net_talk_list(NETLINK_ROUTE, RTM_GETLINK, RTM_NEWLINK, &all, sizeof all, bytes);
  if (r < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot list the links of a network namespace");
    return NULL;
  }
  GPtrArray *links = g_ptr_array_new_with_free_func(link_free);
  guint at = 0;
  for (const struct nlmsghdr *h; (h = net_talk_next(bytes, &at));) {
    NetLink *l = link_new(h);
    if (l)
      g_ptr_array_add(links, l);
  }
  g_ptr_array_sort(links, by_index);
  return links;
}

const NetLink *net_links_find(const GPtrArray *links, guint32 index) {
  for (guint i = 0; i < links->len; i++)
    if (((const NetLink *)links->pdata[i])->index == index)
      return links->pdata[i];
  return NULL;
}

const NetLink *net_links_find_name(const GPtrArray *links, const char *name) {
  for (guint i = 0; i < links->len; i++)
    if (strcmp(((const NetLink *)links->pdata[i])->name, name) == 0)
      return links->pdata[i];
  return NULL;
}

gint32 net_nsid_of(int fd) {
  g_autoptr(GByteArray) answer = g_byte_array_new();
  const struct rtgenmsg g = {.rtgen_family = AF_UNSPEC};
  struct nlattr *a[NETNSA_MAX + 1];
  struct nl_msg *m = net_talk_new(RTM_GETNSID, 0, &g, sizeof g);
  (void)nla_put_u32(m, NETNSA_FD, (guint32)fd);
  guint at = 0;
  if (net_talk(m, answer) < 0)
    return -1;
  const struct nlmsghdr *h = net_talk_next(answer, &at);
  if (!h || h->nlmsg_type != RTM_NEWNSID)
    return -1;
  net_talk_parse(h, NLMSG_ALIGN(sizeof g), a, NETNSA_MAX);
  return a[NETNSA_NSID] ? (gint32)nla_get_u32(a[NETNSA_NSID]) : -1;
}

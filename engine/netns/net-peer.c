/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Pairs of links (veth). Each end names the other by its index, and the namespace of that by a number that the namespace of
 * the first one has for it. */

#include "net-dump.h"
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static GByteArray *addresses_of(guint32 index) {
  g_autoptr(GByteArray) all = g_byte_array_new();
  GByteArray *mine = g_byte_array_new();
  const struct ifaddrmsg any = {.ifa_family = AF_UNSPEC};
  guint at = 0;
  if (net_talk_list(NETLINK_ROUTE, RTM_GETADDR, RTM_NEWADDR, &any, sizeof any, all) < 0)
    return mine;
  for (const struct nlmsghdr *h; (h = net_talk_next(all, &at));) {
    const struct ifaddrmsg *a = NLMSG_DATA(h);
    if (h->nlmsg_len >= NLMSG_LENGTH(sizeof *a) && a->ifa_index == index)
      g_byte_array_append(mine, (const guint8 *)h, NLMSG_ALIGN(h->nlmsg_len));
  }
  return mine;
}

static CkptNetOutside *outside_new(const NetLink *l, const NetLink *master) {
  CkptNetOutside *o = malloc(sizeof *o);
  ckpt_net_outside__init(o);
  o->name = strdup(l->name);
  o->mtu = l->mtu;
  o->up = l->flags & IFF_UP;
  o->master = master ? strdup(master->name) : NULL;
  o->has_address = l->address_size > 0;
  o->address.len = l->address_size;
  o->address.data = malloc(MAX(l->address_size, 1));
  memcpy(o->address.data, l->address, l->address_size);
  g_autoptr(GByteArray) addresses = addresses_of(l->index);
  o->has_ifaddr = addresses->len > 0;
  o->ifaddr.len = addresses->len;
  o->ifaddr.data = malloc(MAX(addresses->len, 1));
  memcpy(o->ifaddr.data, addresses->data, addresses->len);
  return o;
}

static bool look_outside(NetDump *d, const NetPlace *home, const NetLink *link, CkptNetOutside **ret, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (!net_visit_begin(&visit, home->fd, error) || (!d->home_links && !(d->home_links = net_links(error))))
    return false;
  const NetLink *peer = net_links_find(d->home_links, link->link);
  if (peer && strcmp(peer->kind, "veth") == 0 && peer->link == link->index)
    *ret = outside_new(peer, peer->master ? net_links_find(d->home_links, peer->master) : NULL);
  return true;
}

bool net_peer_find(NetDump *d, const NetPlace *place, const NetLink *link, guint32 *ret_id, CkptNetOutside **ret_outside, GError **error) {
  *ret_id = 0;
  *ret_outside = NULL;
  if (!link->elsewhere) {
    *ret_id = link->link ? place->id : 0;
    return true;
  }
  for (guint i = 0; i < net_places_count(d->places); i++) {
    const NetPlace *other = net_places_get(d->places, i);
    if (other == place || link->nsid < 0 || net_nsid_of(other->fd) != link->nsid)
      continue;
    *ret_id = other->id;
    return !other->home || look_outside(d, other, link, ret_outside, error);
  }
  return true;
}

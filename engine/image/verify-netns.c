/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>

/* Network namespaces. What iproute2 writes (ip addr save, ip route save, ip rule save) is one word that says which of them
 * it is, and then the messages of the kernel as they are. */

#define ADDRESS_MAX 32 /* of the link layer (MAX_ADDR_LEN) */

static const struct {
  guint32 magic;
  guint16 type;
} raws[] = {
    [NET_RAW_IFADDR] = {0x47361222, RTM_NEWADDR},
    [NET_RAW_ROUTE] = {0x45311224, RTM_NEWROUTE},
    [NET_RAW_ROUTE6] = {0x45311224, RTM_NEWROUTE},
    [NET_RAW_RULE] = {0x71706986, RTM_NEWRULE},
};

static bool has_messages(const guint8 *at, gsize left, guint16 type) {
  while (left) {
    struct nlmsghdr h;
    if (left < sizeof h)
      return false;
    memcpy(&h, at, sizeof h);
    if (h.nlmsg_len < NLMSG_LENGTH(4) || h.nlmsg_len > left || h.nlmsg_type != type)
      return false;
    gsize step = MIN(NLMSG_ALIGN((gsize)h.nlmsg_len), left);
    at += step;
    left -= step;
  }
  return true;
}

static bool verify_raw(const NetNamespace *ns, NetRaw kind, GError **error) {
  gsize size = 0;
  const guint8 *data = ns->raw[kind] ? g_bytes_get_data(ns->raw[kind], &size) : NULL;
  guint32 magic = 0;
  if (!size)
    return true;
  if (size >= sizeof magic)
    memcpy(&magic, data, sizeof magic);
  if (magic != raws[kind].magic || !has_messages(data + sizeof magic, size - sizeof magic, raws[kind].type))
    return image_invalid(error, (ImageKindId)(IMAGE_IFADDR + kind), ns->id, "these are no messages of iproute2's");
  return true;
}

static bool is_name(const char *name) {
  return *name && strlen(name) < IFNAMSIZ && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strpbrk(name, "/: \t\n\v\f\r");
}

/* A path below a directory, of which it does not get out. */
static bool is_setting(const char *name) {
  return *name && *name != '/' && *name != '.' && !strstr(name, "/.") && !strstr(name, "//") && strlen(name) < 128;
}

static bool verify_settings(CkptNetSetting *const *settings, size_t n, GError **error) {
  for (size_t i = 0; i < n; i++)
    if (!is_setting(settings[i]->name))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "a setting of the network has an impossible name");
  return true;
}

static bool verify_device(const NetNamespace *ns, const NetDeviceEntry *d, GHashTable *seen, GError **error) {
  if (!d->ifindex || d->ifindex > G_MAXINT32 || !is_name(d->name) || (d->has_address && d->address.len > ADDRESS_MAX))
    return image_invalid(error, IMAGE_NETDEV, ns->id, "a link has an impossible name, number or address");
  if (!g_hash_table_add(seen, GUINT_TO_POINTER(d->ifindex)))
    return image_invalid(error, IMAGE_NETDEV, ns->id, "link %u is there twice", d->ifindex);
  return true;
}

static bool verify_link(const CkptNetns *x, const CkptNetLink *l, GHashTable *seen, GError **error) {
  const CkptNetOutside *o = l->outside;
  if (!g_hash_table_contains(seen, GUINT_TO_POINTER(l->ifindex)))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "link %u of network namespace %u is not in its netdev image", l->ifindex, x->id);
  if (o && (!is_name(o->name) || (o->master && !is_name(o->master)) || (o->has_address && o->address.len > ADDRESS_MAX) ||
               (o->has_ifaddr && !has_messages(o->ifaddr.data, o->ifaddr.len, RTM_NEWADDR))))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "the other end of link %u is impossible", l->ifindex);
  return verify_settings(l->setting, l->n_setting, error);
}

static bool verify_net(const NetNamespace *ns, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  if (!ns->id || !ns->entry)
    return image_invalid(error, IMAGE_NETNS, ns->id, "it has no number or no content");
  for (guint i = 0; i < ns->devices->len; i++)
    if (!verify_device(ns, ns->devices->pdata[i], seen, error))
      return false;
  for (int kind = 0; kind <= NET_RAW_RULE; kind++)
    if (!verify_raw(ns, (NetRaw)kind, error))
      return false;
  const CkptNetns *x = ns->extra;
  if (!x)
    return true;
  for (size_t i = 0; i < x->n_link; i++)
    if (!verify_link(x, x->link[i], seen, error))
      return false;
  if (x->has_neighbours && !has_messages(x->neighbours.data, x->neighbours.len, RTM_NEWNEIGH))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "the neighbours of network namespace %u are no messages", x->id);
  return verify_settings(x->setting, x->n_setting, error);
}

bool verify_nets(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->net_namespaces->len; i++)
    if (!verify_net(c->net_namespaces->pdata[i], error))
      return false;
  return true;
}

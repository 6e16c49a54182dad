/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The links of a network namespace, as rtnetlink(7) lists them. */

#include "net-talk.h"
#include <net/if.h>

#define NET_ADDRESS_MAX 32

typedef struct NetLink {
  guint32 index, mtu, tx_queue, flags, master;
  guint16 type; /* ARPHRD_… */
  char name[IFNAMSIZ];
  char kind[32]; /* IFLA_INFO_KIND; empty: it has none */
  guint8 address[NET_ADDRESS_MAX];
  guint32 address_size;
  guint32 link;    /* IFLA_LINK: the one below it, or the other end of a pair; 0: none */
  bool elsewhere;  /* that is in another namespace, */
  gint32 nsid;     /* of this id */
  GBytes *data;    /* IFLA_INFO_DATA; NULL: none */
  GBytes *port;    /* IFLA_INFO_SLAVE_DATA of a port of a bridge; NULL: none */
  char port_kind[32];
  char *alias;
} NetLink;

/* Those of the namespace of the thread: NetLink, in the order of their indexes. NULL with error. */
GPtrArray *net_links(GError **error);
const NetLink *net_links_find(const GPtrArray *links, guint32 index);
const NetLink *net_links_find_name(const GPtrArray *links, const char *name);
/* By which number the thread's namespace knows another one; -1: by none. */
gint32 net_nsid_of(int fd);

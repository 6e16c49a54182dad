/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The content of a network namespace at a dump: links, addresses, routes, rules, neighbours, settings, nftables. What the engine
 * cannot make again is a blocker, named with its cure. */

#include "checkpoint.h"
#include "job.h"
#include "net-link.h"
#include "net-place.h"

/* Who has a link that the engine cannot make: *ret_plugin is newly allocated, NULL: nobody; *ret_object: the id of what it keeps. *ret_reason and *ret_cure (newly
 * allocated) where somebody says why not. Called inside of the namespace. */
typedef bool (*NetOffer)(void *data, pid_t pid, int net_fd, const NetLink *link, char **ret_plugin, guint64 *ret_object, char **ret_reason, char **ret_cure, GError **error);

typedef struct NetDump {
  Job *job;
  const NetPlaces *places;
  NetOffer offer;
  void *data;
  GPtrArray *home_links; /* NULL: not asked for yet */
  char *comm;            /* of a task in the namespace, borrowed */
  pid_t pid;             /* the same */
} NetDump;

/* @ns has its id only. */
bool net_dump(NetDump *d, const NetPlace *place, NetNamespace *ns, GError **error);

/* --- parts of it --- */

/* A blocker about the namespace. */
void net_dump_block(NetDump *d, const char *what, const char *reason, const char *cure);
/* Where the other end of a veth is: *ret_id 0: nobody knows; else the place's id, and for the engine's own namespace
 * *ret_outside. */
bool net_peer_find(NetDump *d, const NetPlace *place, const NetLink *link, guint32 *ret_id, CkptNetOutside **ret_outside, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The network namespaces of a checkpoint are made again before any socket is, and before any task exists. They live by their
 * descriptors until tasks have entered them: a restore that fails leaves none. */

#include "checkpoint.h"
#include "job.h"
#include "net-place.h"

/* Makes a link that a plugin took, in the namespace @net_fd; nothing, if nobody wants to. */
typedef bool (*NetBring)(void *data, const NetDeviceEntry *device, const CkptNetLink *link, int net_fd, GError **error);

typedef struct NetRestore {
  Job *job;
  const Checkpoint *checkpoint;
  NetPlaces *places; /* the engine's own has id 0 */
  NetBring bring;
  void *data;
} NetRestore;

/* The namespaces, with all links that the engine makes. */
bool net_restore_begin(NetRestore *r, GError **error);
/* When those that come from outside have been brought: names them if they are missing; addresses, routes, rules. */
bool net_restore_finish(NetRestore *r, GError **error);
/* The descriptor of a task's or socket's namespace; the engine's own, if the checkpoint has no other under that id. */
int net_restore_fd(const NetRestore *r, guint32 id);

/* --- parts of it (net-make.c); all inside of the namespace --- */

/* Makes the links of @ns. */
bool net_make_links(NetRestore *r, const NetNamespace *ns, GError **error);
/* Ports, flags, settings of all links, that now are there. @indexes: index in the images -> index now. */
bool net_make_ready(NetRestore *r, const NetNamespace *ns, GHashTable *indexes, GError **error);
const CkptNetLink *net_make_extra(const NetNamespace *ns, guint32 ifindex);
/* Waits for a name that is about to be free, as it is when its namespace has just ended. */
bool net_make_wait(NetRestore *r, int *tries, GError **error);

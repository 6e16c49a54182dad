/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The network lock: a table of nftables (family inet) that drops every packet of certain TCP connections, in both
 * directions, where it enters and where it leaves this host. Sockets see nothing, and nobody answers for those that are
 * gone: for the peer it is a pause. Only this network namespace is meant. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Packets with this mark (SO_MARK) pass: those that a restore makes up itself. */
#define NET_LOCK_MARK 0x43504b54u

/* One connection as its socket here sees it. Addresses in network byte order, ports in the host's. */
typedef struct NetTuple {
  bool six; /* else the first four bytes of the addresses count */
  guint8 local[16], remote[16];
  guint16 local_port, remote_port;
} NetTuple;

typedef struct NetLock NetLock;

/* Makes the table @name with all @n connections in it, in one transaction. @owned: it belongs to this process and goes
 * when the process ends, in whatever way, or net_lock_free() is called (NFT_TABLE_F_OWNER, Linux 5.12); else it stays
 * until it is removed or the machine ends. KERNEL_MISSING_FEATURE: no nf_tables. */
NetLock *net_lock_new(const char *name, bool owned, const NetTuple *tuples, size_t n, GError **error);
void net_lock_free(NetLock *lock);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NetLock, net_lock_free)

/* Removes a table; one that does not exist is as good. */
bool net_lock_remove(const char *name, GError **error);
/* The message that does it, for a process that must not allocate any more: one send(2) to net_lock_socket(). The caller
 * frees. */
void *net_lock_removal(const char *name, size_t *ret_size);
/* A bound netlink socket; -1 with errno. */
int net_lock_socket(void);
/* Is it a name that we give to tables? Names come from images, too. */
bool net_lock_name_is_ours(const char *name);

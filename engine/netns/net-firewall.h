/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Rules of nftables in the namespace of the thread. The program nft reads and writes them, as people do: it alone knows all
 * expressions. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>

/* *ret is NULL where there are no rules. false with an error that says why they cannot be kept. */
bool net_firewall_save(GBytes **ret, GError **error);
bool net_firewall_restore(GBytes *rules, GError **error);
/* Tables of the older iptables, by the names of /proc/net/ip_tables_names; newly allocated, NULL: none. */
char *net_firewall_old_tables(void);

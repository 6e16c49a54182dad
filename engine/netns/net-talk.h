/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Requests to netlink(7), in the network namespace of the thread. */

#include "error.h"
#include <glib.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdbool.h>

/* Every message of type @answer with which the kernel answers a request for a list, appended to @ret as it is. @header: what
 * follows the nlmsghdr. 0 or a negative errno. */
int net_talk_list(int protocol, int request, int answer, const void *header, size_t size, GByteArray *ret);
/* A request with @header and room for attributes. */
struct nl_msg *net_talk_new(int request, int flags, const void *header, size_t size);
/* Sends it to NETLINK_ROUTE, waits for the outcome and frees it. Where @ret is not NULL the messages of the answer are
 * appended to it. 0 or a negative errno. */
int net_talk(struct nl_msg *m, GByteArray *ret);
/* The same of a request whose bytes are there. */
int net_talk_bytes(const void *message, size_t size);

/* The messages in @bytes, one after the other: *at is 0 first. NULL: that was the last one. */
struct nlmsghdr *net_talk_next(const GByteArray *bytes, guint *at);
/* The attributes behind a header of @size bytes. @ret has @max + 1 entries, NULL where there is none. */
void net_talk_parse(const struct nlmsghdr *h, size_t size, struct nlattr **ret, int max);

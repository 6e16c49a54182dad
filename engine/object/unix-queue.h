/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What is queued in a unix socket: read without taking it out, written again through the peer. */

#include "internal.h"

typedef enum QueueResult {
  QUEUE_ERROR, /* with error */
  QUEUE_EMPTY,
  QUEUE_DONE,   /* something was added */
  QUEUE_RIGHTS, /* file descriptors are on the way in it */
  QUEUE_SENDER, /* datagrams of a sender with an address of its own */
} QueueResult;

/* Adds sk_packet records for what can be received at @fd, which belongs to @file_id. @type: SOCK_STREAM… @peer_name
 * (may be NULL): the address that datagrams may have come from. */
QueueResult unix_queue_collect(Collector *c, guint32 file_id, int fd, int type, GBytes *peer_name, GError **error);
/* Sends what was queued for @file_id into it. @fd: a socket that is connected to it, or @to (may be NULL) says where.
 */
bool unix_queue_restore(Restorer *r, guint32 file_id, int fd, const void *to, guint32 to_size, GError **error);

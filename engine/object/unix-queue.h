/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What is queued in a unix socket: read without taking it out, with the descriptors, credentials and addresses that came along;
 * written again through the peer, or through sockets with the names of those who sent it. */

#include "internal.h"
#include "unix-private.h"

typedef struct UnixPacket {
  GBytes *data;
  GArray *rights; /* guint32: file ids, in their order; NULL: none */
  bool has_cred;
  pid_t pid; /* SCM_CREDENTIALS; only where the receiver asks for them (SO_PASSCRED) */
  uid_t uid;
  gid_t gid;
  GBytes *sender; /* the address, as in sun_path; NULL: none, or a stream */
} UnixPacket;

/* Whether there may be something to be read, or the end. */
bool unix_queue_has_any(int fd);
/* Whether an error waits to be told: the other end was closed with data unread (ECONNRESET). It stays. */
bool unix_queue_is_reset(int fd);
/* Reads all that can be received at @fd, which @carrier describes; @type: SOCK_STREAM…. Descriptors in it become files of the
 * checkpoint. An array of UnixPacket, empty where nothing is queued; NULL with error. */
GPtrArray *unix_queue_peek(Collector *c, const FileProbe *carrier, int fd, int type, GError **error);
/* Whether a byte sent with MSG_OOB has not been read: it is in no queue that could be given back. */
bool unix_queue_has_urgent(int fd);
/* Adds them to the checkpoint as what is queued in @file_id. @sender: also who sent them. */
void unix_queue_note(Collector *c, guint32 file_id, const GPtrArray *packets, bool sender);

/* Whether a queue can only be filled when other files are open: descriptors are in it, or packets of which more is known than
 * their bytes. */
bool unix_queue_is_late(Restorer *r, guint32 file_id);
/* Whether packets of it have senders with addresses. */
bool unix_queue_has_senders(Restorer *r, guint32 file_id);
bool unix_queue_is_empty(Restorer *r, guint32 file_id);
/* A socket of the tree with an address that a packet came from; -1: there is none; -1 with error. */
typedef int (*UnixSenderOf)(Restorer *r, const uint8_t *name, size_t size, GError **error);
/* Sends what was queued for @file_id into it. @fd: a socket that is connected to it, or @to (may be NULL) says where; then
 * @sender_of finds those who have an address. */
bool unix_queue_restore(Restorer *r, guint32 file_id, int fd, const UnixAddress *to, guint32 to_size, UnixSenderOf sender_of,
    GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One TCP connection through the kernel's repair mode (TCP_REPAIR in tcp(7), Documentation/networking): in it a
 * socket's queues, sequence numbers and options can be read and set, and closing it sends nothing. */

#include "sockopts.h"
#include "tcp-stream.pb-c.h"
#include <netinet/in.h>

/* inet_sk_entry.state, as in the kernel's tcp_states.h */
enum {
  INET_ESTABLISHED = 1,
  INET_SYN_SENT = 2,
  INET_SYN_RECV = 3,
  INET_FIN_WAIT1 = 4,
  INET_FIN_WAIT2 = 5,
  INET_TIME_WAIT = 6,
  INET_CLOSE = 7,
  INET_CLOSE_WAIT = 8,
  INET_LAST_ACK = 9,
  INET_LISTEN = 10,
  INET_CLOSING = 11,
};

typedef union InetAddress {
  struct sockaddr sa;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
} InetAddress;

/* As TCP_INFO says; INET_CLOSE if it says nothing. */
guint32 tcp_state(int fd);
/* Does a socket in that state hold one end of a connection whose queues matter? */
bool tcp_state_is_connected(guint32 state);

/* TCP_REPAIR_ON, TCP_REPAIR_OFF (the kernel then asks the peer for its window) or TCP_REPAIR_OFF_NO_WP. 0 or negative
 * errno. Leaving the mode clears SO_REUSEADDR, which is the caller's to set again. Async-signal-safe. */
int tcp_repair_set(int fd, int mode);

/* Reads everything of a connection whose socket is in repair mode, and leaves it there. The message and the queues
 * (received bytes, then sent ones) are the caller's. No packet of it may come in meanwhile. */
TcpStreamEntry *tcp_repair_read(int fd, guint32 state, GBytes **ret_queues, GError **error);

/* What a connection is made of. */
typedef struct TcpConnection {
  const InetAddress *local, *remote;
  socklen_t address_size;
  guint32 state;
  const TcpStreamEntry *stream; /* checked by tcp_repair_check() */
  const guint8 *queues;
  const char *device; /* SO_BINDTODEVICE; may be NULL */
} TcpConnection;

/* What a state says about the queues; each of them alone was checked when the image was loaded. */
bool tcp_repair_check(const TcpStreamEntry *stream, guint32 state, GError **error);
/* Makes @fd, a fresh socket in repair mode, that connection; it stays in repair mode. Its packets must be dropped by
 * now (net-lock.h) but for those with NET_LOCK_MARK. */
bool tcp_repair_restore(int fd, const TcpConnection *c, GError **error);

/* --- connections that have ended (state CLOSE) --- */

/* Reads what came in and was not read, with the options, of a socket that need not be in repair mode; nothing of it is changed,
 * nor its error taken. Sequence numbers are made up, for a connection of which the peer had sent a FIN or not (@fin). The message
 * and the bytes are the caller's. */
TcpStreamEntry *tcp_repair_read_ended(int fd, bool fin, GBytes **ret_queue, GError **error);
/* The same way as tcp_repair_restore(), to a connection with a made-up peer, and then to its end: by a reset as if from the peer
 * where @error_number is ECONNRESET (with a FIN before it: LAST_ACK) or EPIPE (CLOSE_WAIT), by patience (a second) where it is
 * ETIMEDOUT; 0: the error of the reset is taken off. Nothing of it comes to or from a network. A filter of the socket is lost. */
bool tcp_repair_end(int fd, const TcpConnection *c, int error_number, GError **error);
/* Takes @fd, a fresh socket, out of the mode and connects it to a port of this host that @reserved, a socket, has and does not listen at. */
bool tcp_repair_refuse(int fd, const InetAddress *reserved, socklen_t size, GError **error);

/* --- tcp-packet.c --- */

/* A segment without data, made up as if the peer had sent it: how a socket in repair mode learns of a FIN, its
 * acknowledgement, or a reset. */
typedef struct TcpSegment {
  const InetAddress *from, *to; /* of one family; IPv4 addresses in IPv6 are taken for what they are */
  guint32 seq, ack;
  bool fin, rst;
} TcpSegment;
bool tcp_packet_send(const TcpSegment *segment, GError **error);

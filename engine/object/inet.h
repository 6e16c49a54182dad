/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the files about internet sockets share: inet.c (all of them), tcp-dump.c and tcp-restore.c (TCP connections). */

#include "net-lock.h"
#include "sk-inet.pb-c.h"
#include "tcp-repair.h"

/* "127.0.0.1:80", newly allocated. */
char *inet_address_text(const InetAddress *a);
/* Fills the addresses of an entry as the socket has them now. */
void inet_collect_addresses(InetSkEntry *i, int fd, InetAddress *ret_local, InetAddress *ret_remote);
/* One address of an entry, @n words and a port; IMAGE_INVALID if it is none. */
bool inet_entry_address(const InetSkEntry *i, bool remote, InetAddress *ret, socklen_t *ret_size, GError **error);
void inet_set_remote(InetSkEntry *i, const InetAddress *remote);
/* A TCP connection, also one that is being made: not a listener, and not closed. */
bool inet_is_connection(const InetSkEntry *i);
/* Makes the entry that of a connection that has ended: reading gives end of file, writing EPIPE. */
void inet_entry_close(InetSkEntry *i);
NetTuple inet_tuple(const InetAddress *local, const InetAddress *remote);
/* Binds; the error names the address. */
bool inet_bind(const InetSkEntry *i, int fd, GError **error);

/* --- tcp-dump.c --- */

/* Says why a connection cannot be dumped, if so: options missing, TLS in the kernel, urgent data. */
void tcp_check(Collector *c, const FileProbe *probe, const InetSkEntry *i, const char *what);
/* After all sockets are known: those that processes outside have, too, are blockers. */
void tcp_check_holders(Collector *c);
/* ObjectOps.seal and .end. */
bool tcp_seal(Collector *c, bool kill, GError **error);
void tcp_end(Collector *c, bool killed);

/* --- tcp-restore.c --- */

/* Is it to be restored as a closed socket, as the option or the dump said? */
bool tcp_closes(Restorer *r, const InetSkEntry *i);
/* Turns @fd, a fresh socket with its options, into the connection; it is in repair mode from then on. */
bool tcp_open(Restorer *r, const InetSkEntry *i, int fd, GError **error);
/* Notes a socket in repair mode, which leaves it at the release. */
void tcp_restore_note(Restorer *r, const InetSkEntry *i, bool connecting);
/* ObjectOps.release. */
bool tcp_release(Restorer *r, GError **error);

/* --- tcp-ended.c --- */

/* A connection that has ended: makes the entry that of a closed socket, and notes what was not read, and its error. */
bool tcp_ended_collect(Collector *c, InetSkEntry *i, int fd, GError **error);
/* What a checkpoint says of it; NULL: no more than that it is closed. */
const CkptTcpEnded *tcp_ended_find(const Checkpoint *checkpoint, guint32 id);
/* Turns @fd, a fresh socket, into it; it may be in repair mode from then on. Options are to be set afterwards. */
bool tcp_ended_open(Restorer *r, const InetSkEntry *i, const CkptTcpEnded *e, int fd, GError **error);
/* After that: keeps it in repair mode until the release, where it is in nobody's way who binds to the same port. */
void tcp_ended_hold(Restorer *r, const InetSkEntry *i, int fd);

/* --- multicast.c --- */

/* Notes which multicast groups the socket has joined. */
void multicast_collect(Collector *c, const FileProbe *probe, const InetSkEntry *i);
/* Joins them again. */
bool multicast_restore(Restorer *r, const InetSkEntry *i, int fd, GError **error);

/* --- tcp-diag.c --- */

/* A connection that no descriptor leads to: nobody has accepted it. */
typedef struct TcpOrphan {
  InetAddress local, remote;
  guint32 unread; /* bytes */
  guint8 state;
} TcpOrphan;
/* All of them (TcpOrphan) of a family; NULL: they are not told. */
GArray *tcp_diag_orphans(int family);
/* Who has sockets at a local port: "pid 12 (nginx)", newly allocated; NULL: nobody who could be found. */
char *inet_port_holder(int protocol, guint16 port);
/* Where a connecting socket (SYN_SENT) goes to: sock_diag(7) alone tells. */
bool tcp_diag_remote(int family, guint64 ino, InetAddress *ret);
/* Which directions of a UDP or UDP-Lite socket are shut down (shutdown(2)), as RCV_SHUTDOWN (1) and SEND_SHUTDOWN (2);
 * negative: the kernel does not say. */
int inet_diag_shutdown(int fd, int protocol, const InetAddress *local, const InetAddress *remote);

/* --- tcp-waiting.c --- */

/* A listening socket, and how many connections wait there. */
void tcp_waiting_note(Collector *c, guint32 id, guint32 waiting);
/* When all sockets are known: blockers for those that cannot be made again. */
void tcp_waiting_check(Collector *c);
/* Whether the socket is the client's end of one, which connects again; and how many wait at a listening one. */
bool tcp_waiting_connects_again(Collector *c, guint32 id);
guint32 tcp_waiting_expected(Collector *c, guint32 id);

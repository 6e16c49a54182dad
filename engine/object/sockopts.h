/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What all sockets have in common: the options of SOL_SOCKET (sk_opts_entry), and shutdown. */

#include "internal.h"
#include "sk-opts.pb-c.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

/* What checkpoint.img says about a socket, made at the first call. */
CkptSocket *socket_extra(Checkpoint *checkpoint, guint32 file_id);
/* One integer option; @fallback if the socket has none of that name. */
int sockopt_get(int fd, int level, int option, int fallback);
/* All options of a socket; the message is the caller's. NULL with error (a BPF filter cannot be read). */
SkOptsEntry *sockopts_collect(int fd, int family, int protocol, GError **error);
/* Sets what differs from the fresh socket @fd. What must be set before bind(2) is the caller's to do. */
bool sockopts_restore(int fd, const SkOptsEntry *opts, GError **error);

/* --- sockopts-table.c --- */

/* Notes every other option that differs from a new socket. @connection: a TCP connection. */
void sockopts_collect_more(Collector *c, guint32 file_id, int fd, bool connection);
typedef enum SockoptsMoment {
  SOCKOPTS_EARLY, /* before bind(2) */
  SOCKOPTS_LATE,  /* when it is bound and connected */
  SOCKOPTS_LAST,  /* when nothing else is to be done with it */
} SockoptsMoment;
bool sockopts_restore_more(
    const Restorer *r, guint32 file_id, int fd, SockoptsMoment moment, bool connection, GError **error);
/* Says what of a socket of any kind cannot be kept, if so: programs that filter it. */
void sockopts_check(Collector *c, const FileProbe *probe, const char *what);

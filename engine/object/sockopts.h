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

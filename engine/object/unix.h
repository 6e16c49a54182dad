/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What collecting (unix.c) and restoring (unix-restore.c) unix sockets share. */

#include "internal.h"
#include "sk-unix.pb-c.h"

/* unix_sk_entry.state, as in the kernel's tcp_states.h */
enum { UNIX_ESTABLISHED = 1, UNIX_CLOSE = 7, UNIX_LISTEN = 10 };
/* unix_sk_entry.uflags: the entry stands for a socket that is not in the tree. */
enum { UNIX_EXTERNAL = 1 << 0, UNIX_CALLBACK = 1 << 1 /* a plugin has it */ };

static inline bool unix_has_path(const UnixSkEntry *u) {
  return u->name.len > 0 && u->name.data[0] != '\0';
}
/* The name for messages: "/run/x.sock", "@abstract" or "unnamed"; newly allocated. */
char *unix_name_text(const uint8_t *name, size_t size);

/* ObjectOps.settle: queues with descriptors in them, datagram sockets that are connected, connections that wait. */
bool unix_settle(Restorer *r, GError **error);
int unix_open(Restorer *r, const FileEntry *entry, GError **error);
bool unix_program(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error);

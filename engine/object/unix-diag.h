/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Every unix socket of the network namespace, as sock_diag(7) shows it. */

#include "error.h"
#include "net-place.h"
#include <glib.h>
#include <stdbool.h>

typedef struct UnixDiag {
  guint32 ino;
  guint8 type, state, shutdown; /* SOCK_STREAM…, TCP_ESTABLISHED…, RCV_SHUTDOWN | SEND_SHUTDOWN */
  guint32 peer;                 /* inode; 0: none, or one that is closed or not accepted yet */
  guint32 rqueue, wqueue;       /* of a listening socket: connections that wait, and how many may */
  guint32 waits_at;             /* connected, but not accepted yet: the inode of the listening socket */
  GArray *waiting;              /* of a listening socket: guint32 inodes of those clients, 0 for one that is closed; or NULL */
  guint32 vfs_ino, vfs_dev;     /* of the file it is bound to; dev as the kernel has it (major << 20 | minor) */
  bool has_file;
  GBytes *name; /* NULL: none. As in sun_path, a path with its final NUL */
} UnixDiag;

/* Inode (GUINT_TO_POINTER) -> UnixDiag; NULL with error. */
GHashTable *unix_diag_all(const NetPlaces *places, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "target.h"

/* Who sent a message, as the bus itself vouches for it. */
typedef struct Caller {
  char *name; /* unique bus name */
  uid_t uid;  /* effective, at the time of connecting to the bus */
  gid_t *gids;
  size_t n_gids;
  pid_t pid;      /* of the process that connected; 0: not known */
  int process_fd; /* a pidfd of it, where the bus gives one; -EBADF else */
} Caller;

/* Asks the bus driver (a blocking round trip, the bus answers at once) about the
 * sender of @message. NULL and @error (AccessDenied) when that cannot be learnt. */
Caller *caller_new(sd_bus_message *message, GError **error);
/* Pins the process that made the connection. A process that gave its connection away and is gone can make that another
 * one, where the bus gives no pidfd: what is done to it needs the right to do it to any process, as always. */
Target *caller_pin(const Caller *caller, GError **error);
void caller_free(Caller *caller);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Caller, caller_free)

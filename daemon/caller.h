/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

/* Who sent a message, as the bus itself vouches for it. */
typedef struct Caller {
  char *name; /* unique bus name */
  uid_t uid;  /* effective, at the time of connecting to the bus */
  gid_t *gids;
  size_t n_gids;
} Caller;

/* Asks the bus driver (a blocking round trip, the bus answers at once) about the
 * sender of @message. NULL and @error (AccessDenied) when that cannot be learnt. */
Caller *caller_new(sd_bus_message *message, GError **error);
void caller_free(Caller *caller);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Caller, caller_free)

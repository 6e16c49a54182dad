/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A conversation with a message bus (D-Bus) over an open connection: authentication, calls of the bus driver. Whoever plays a
 * bus must not keep a frozen tree waiting: every conversation has its end. */

#include "bus-message.h"

typedef struct BusTalk {
  int fd;
  guint32 serial;
  gint64 deadline; /* monotonic, microseconds */
} BusTalk;

/* Always false. */
bool bus_fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool bus_send(const BusTalk *t, const void *data, gsize size, GError **error);
/* EXTERNAL as @uid, with the passing of descriptors, up to BEGIN. */
bool bus_authenticate(const BusTalk *t, uid_t uid, GError **error);
/* The answer to a call of the bus driver (arguments as bus_call_new()), whose parts lie in the returned bytes; NULL with
 * error. Calls of others that come meanwhile are answered with NoReply, all else is dropped. */
GBytes *bus_call(BusTalk *t, const char *interface, const char *member, const char *text, gint64 number, BusMessage *ret,
    GError **error);
/* The same of calls that answer with a string, or an array of strings; NULL: they do not. */
char *bus_call_for_text(BusTalk *t, const char *member, const char *text);
GStrv bus_call_for_texts(BusTalk *t, const char *member, const char *text, GError **error);

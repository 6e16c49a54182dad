/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Messages of the D-Bus protocol, as little of them as it takes to talk with a bus about a client: calls of the bus driver
 * with a string and a number, and answers made of strings and numbers. Pure; what is read comes from somebody else. */

#include <glib.h>
#include <stdbool.h>

enum { BUS_CALL = 1, BUS_REPLY = 2, BUS_ERROR = 3, BUS_SIGNAL = 4 };
enum { BUS_NO_REPLY = 1 };
/* The size of the part that tells the size of the rest. */
#define BUS_HEADER 16
#define BUS_MESSAGE_MAX (16u * 1024 * 1024)

/* A call of the bus driver. @interface NULL: org.freedesktop.DBus. @text NULL: no arguments. @number < 0: none. */
GByteArray *bus_call_new(
    guint32 serial, guint8 flags, const char *interface, const char *member, const char *text, gint64 number);
/* The answer to somebody's call that nobody else will give. */
GByteArray *bus_error_new(guint32 serial, guint32 reply_serial, const char *destination, const char *name);

typedef struct BusMessage {
  guint8 type, flags;
  guint32 serial, reply_serial;
  const char *error, *sender, *member, *signature; /* inside the message; NULL: not there (signature: "") */
  const guint8 *body;
  gsize size;
} BusMessage;

/* The size of the whole message that begins with these BUS_HEADER bytes; 0: it is none that we understand. */
gsize bus_message_size(const guint8 *header);
/* @data: a whole message; must stay. false: it is broken. */
bool bus_message_parse(const guint8 *data, gsize size, BusMessage *ret);

/* What a body holds; false (NULL) if it is something else. Strings are copies. */
bool bus_read_number(const BusMessage *m, guint32 *ret);
char *bus_read_text(const BusMessage *m);
GStrv bus_read_texts(const BusMessage *m);
/* From a dictionary of lists (a{sas}) the list of @key, empty if there is none. */
GStrv bus_read_texts_of(const BusMessage *m, const char *key);

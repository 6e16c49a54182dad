/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bus-message.h"
#include <string.h>

/* Fields of the header. */
enum { FIELD_PATH = 1, FIELD_INTERFACE, FIELD_MEMBER, FIELD_ERROR, FIELD_REPLY, FIELD_DESTINATION, FIELD_SENDER, FIELD_SIGNATURE };

/* --- writing --- */

static void put_padding(GByteArray *out, gsize to) {
  static const guint8 zeroes[8];
  g_byte_array_append(out, zeroes, (guint)((to - out->len % to) % to));
}

static void put_number(GByteArray *out, guint32 n) {
  guint32 le = GUINT32_TO_LE(n);
  put_padding(out, 4);
  g_byte_array_append(out, (guint8 *)&le, 4);
}

static void put_text(GByteArray *out, const char *text) {
  put_number(out, (guint32)strlen(text));
  g_byte_array_append(out, (const guint8 *)text, (guint)strlen(text) + 1);
}

static void put_signature(GByteArray *out, const char *signature) {
  guint8 size = (guint8)strlen(signature);
  g_byte_array_append(out, &size, 1);
  g_byte_array_append(out, (const guint8 *)signature, size + 1u);
}

/* A field: its code, and a variant. */
static void begin_field(GByteArray *out, guint8 code, const char *type) {
  put_padding(out, 8);
  g_byte_array_append(out, &code, 1);
  put_signature(out, type);
}

static void put_field(GByteArray *out, guint8 code, const char *type, const char *text) {
  begin_field(out, code, type);
  if (*type == 'g')
    put_signature(out, text);
  else
    put_text(out, text);
}

static GByteArray *message_begin(guint8 type, guint8 flags, guint32 serial) {
  GByteArray *out = g_byte_array_new();
  const guint8 head[4] = {'l', type, flags, 1};
  g_byte_array_append(out, head, sizeof head);
  put_number(out, 0); /* size of the body */
  put_number(out, serial);
  put_number(out, 0); /* size of the fields */
  return out;
}

static void set_number(GByteArray *out, gsize at, guint32 n) {
  guint32 le = GUINT32_TO_LE(n);
  memcpy(out->data + at, &le, 4);
}

static gsize message_end_fields(GByteArray *out) {
  set_number(out, 12, out->len - BUS_HEADER);
  put_padding(out, 8);
  return out->len;
}

GByteArray *bus_call_new(
    guint32 serial, guint8 flags, const char *interface, const char *member, const char *text, gint64 number) {
  GByteArray *out = message_begin(BUS_CALL, flags, serial);
  put_field(out, FIELD_PATH, "o", "/org/freedesktop/DBus");
  put_field(out, FIELD_INTERFACE, "s", interface ? interface : "org.freedesktop.DBus");
  put_field(out, FIELD_MEMBER, "s", member);
  put_field(out, FIELD_DESTINATION, "s", "org.freedesktop.DBus");
  if (text)
    put_field(out, FIELD_SIGNATURE, "g", number >= 0 ? "su" : "s");
  gsize body = message_end_fields(out);
  if (text)
    put_text(out, text);
  if (text && number >= 0)
    put_number(out, (guint32)number);
  set_number(out, 4, (guint32)(out->len - body));
  return out;
}

GByteArray *bus_error_new(guint32 serial, guint32 reply_serial, const char *destination, const char *name) {
  GByteArray *out = message_begin(BUS_ERROR, BUS_NO_REPLY, serial);
  put_field(out, FIELD_ERROR, "s", name);
  put_field(out, FIELD_DESTINATION, "s", destination);
  begin_field(out, FIELD_REPLY, "u");
  put_number(out, reply_serial);
  (void)message_end_fields(out);
  return out;
}

/* --- reading --- */

typedef struct Cursor {
  const guint8 *data;
  gsize size, at; /* alignment counts from the start of @data */
} Cursor;

static bool skip_to(Cursor *c, gsize alignment) {
  gsize to = (c->at + alignment - 1) / alignment * alignment;
  if (to > c->size)
    return false;
  c->at = to;
  return true;
}

static bool take_number(Cursor *c, guint32 *ret) {
  if (!skip_to(c, 4) || c->size - c->at < 4)
    return false;
  memcpy(ret, c->data + c->at, 4);
  *ret = GUINT32_FROM_LE(*ret);
  c->at += 4;
  return true;
}

/* Bytes with a final zero, and none inside. */
static const char *take_bytes(Cursor *c, gsize size) {
  if (size >= c->size - c->at || c->data[c->at + size] || memchr(c->data + c->at, 0, size))
    return NULL;
  const char *text = (const char *)c->data + c->at;
  c->at += size + 1;
  return text;
}

static const char *take_text(Cursor *c) {
  guint32 size;
  return take_number(c, &size) ? take_bytes(c, size) : NULL;
}

static const char *take_signature(Cursor *c) {
  if (c->at >= c->size)
    return NULL;
  gsize size = c->data[c->at++];
  return take_bytes(c, size);
}

gsize bus_message_size(const guint8 *header) {
  Cursor c = {header, BUS_HEADER, 4};
  guint32 body, serial, fields;
  if (header[0] != 'l' || header[3] != 1 || !take_number(&c, &body) || !take_number(&c, &serial) ||
      !take_number(&c, &fields) || body > BUS_MESSAGE_MAX || fields > BUS_MESSAGE_MAX)
    return 0;
  gsize size = BUS_HEADER + ((gsize)fields + 7) / 8 * 8 + body;
  return size <= BUS_MESSAGE_MAX ? size : 0;
}

/* The types that fields of the header have. */
static bool take_field(Cursor *c, BusMessage *m) {
  if (!skip_to(c, 8) || c->at >= c->size)
    return false;
  guint8 code = c->data[c->at++];
  const char *type = take_signature(c), *text = NULL;
  guint32 number = 0;
  if (!type || strlen(type) != 1)
    return false;
  bool ok = *type == 'u'   ? take_number(c, &number)
            : *type == 'g' ? (text = take_signature(c)) != NULL
                           : (*type == 's' || *type == 'o') && (text = take_text(c)) != NULL;
  if (code == FIELD_ERROR)
    m->error = text;
  else if (code == FIELD_SENDER)
    m->sender = text;
  else if (code == FIELD_MEMBER)
    m->member = text;
  else if (code == FIELD_SIGNATURE)
    m->signature = text ? text : "";
  else if (code == FIELD_REPLY)
    m->reply_serial = number;
  return ok;
}

bool bus_message_parse(const guint8 *data, gsize size, BusMessage *ret) {
  *ret = (BusMessage){.signature = ""};
  if (size < BUS_HEADER || bus_message_size(data) != size)
    return false;
  Cursor c = {data, BUS_HEADER, 4};
  guint32 body = 0, fields = 0;
  ret->type = data[1];
  ret->flags = data[2];
  if (!take_number(&c, &body) || !take_number(&c, &ret->serial) || !take_number(&c, &fields))
    return false;
  c.size = BUS_HEADER + (gsize)fields;
  while (c.at < c.size)
    if (!take_field(&c, ret))
      return false;
  ret->body = data + size - body;
  ret->size = body;
  return true;
}

static Cursor body_of(const BusMessage *m, const char *signature) {
  bool fits = m->type == BUS_REPLY && strcmp(m->signature, signature) == 0;
  return (Cursor){m->body, fits ? m->size : 0, 0};
}

bool bus_read_number(const BusMessage *m, guint32 *ret) {
  Cursor c = body_of(m, "u");
  return take_number(&c, ret);
}

char *bus_read_text(const BusMessage *m) {
  Cursor c = body_of(m, "s");
  return g_strdup(take_text(&c));
}

/* An array of strings; its size in bytes comes first. */
static GStrv take_texts(Cursor *c) {
  guint32 size;
  if (!take_number(c, &size) || size > c->size - c->at)
    return NULL;
  g_autoptr(GStrvBuilder) list = g_strv_builder_new();
  gsize end = c->at + size;
  while (c->at < end) {
    const char *text = take_text(c);
    if (!text || c->at > end)
      return NULL;
    g_strv_builder_add(list, text);
  }
  return g_strv_builder_end(list);
}

GStrv bus_read_texts(const BusMessage *m) {
  Cursor c = body_of(m, "as");
  return take_texts(&c);
}

GStrv bus_read_texts_of(const BusMessage *m, const char *key) {
  Cursor c = body_of(m, "a{sas}");
  guint32 size;
  if (!take_number(&c, &size) || !skip_to(&c, 8) || size > c.size - c.at)
    return NULL;
  gsize end = c.at + size;
  while (c.at < end) {
    const char *name = skip_to(&c, 8) ? take_text(&c) : NULL;
    g_auto(GStrv) list = name ? take_texts(&c) : NULL;
    if (!list || c.at > end)
      return NULL;
    if (strcmp(name, key) == 0)
      return g_steal_pointer(&list);
  }
  return g_new0(char *, 1);
}

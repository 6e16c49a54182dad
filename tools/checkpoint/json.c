// SPDX-License-Identifier: LGPL-2.1-or-later
// GVariant to JSON, one way.
#include "json.h"

#include <math.h>
#include <stdio.h>

void json_append_string(GString *out, const char *text) {
  g_autofree char *valid = g_utf8_make_valid(text, -1);
  g_string_append_c(out, '"');
  for (const char *p = valid; *p; p++) {
    if (*p == '"' || *p == '\\')
      g_string_append_printf(out, "\\%c", *p);
    else if (*p == '\n')
      g_string_append(out, "\\n");
    else if ((unsigned char)*p < 0x20 || *p == 0x7f)
      g_string_append_printf(out, "\\u%04x", (unsigned)*p);
    else
      g_string_append_c(out, *p);
  }
  g_string_append_c(out, '"');
}

static void append_number(GString *out, GVariant *value) {
  switch (g_variant_classify(value)) {
  case G_VARIANT_CLASS_BYTE:
    g_string_append_printf(out, "%u", g_variant_get_byte(value));
    break;
  case G_VARIANT_CLASS_INT16:
    g_string_append_printf(out, "%d", g_variant_get_int16(value));
    break;
  case G_VARIANT_CLASS_UINT16:
    g_string_append_printf(out, "%u", g_variant_get_uint16(value));
    break;
  case G_VARIANT_CLASS_INT32:
    g_string_append_printf(out, "%d", g_variant_get_int32(value));
    break;
  case G_VARIANT_CLASS_UINT32:
    g_string_append_printf(out, "%u", g_variant_get_uint32(value));
    break;
  case G_VARIANT_CLASS_INT64:
    g_string_append_printf(out, "%" G_GINT64_FORMAT, g_variant_get_int64(value));
    break;
  case G_VARIANT_CLASS_UINT64:
    g_string_append_printf(out, "%" G_GUINT64_FORMAT, g_variant_get_uint64(value));
    break;
  default:
    g_string_append(out, "null");
  }
}

static void append_double(GString *out, double number) {
  char buffer[G_ASCII_DTOSTR_BUF_SIZE];
  if (isfinite(number))
    g_string_append(out, g_ascii_dtostr(buffer, sizeof(buffer), number));
  else
    g_string_append(out, "null");
}

static void append_object(GString *out, GVariant *dictionary) {
  g_string_append_c(out, '{');
  for (gsize i = 0; i < g_variant_n_children(dictionary); i++) {
    g_autoptr(GVariant) entry = g_variant_get_child_value(dictionary, i);
    g_autoptr(GVariant) key = g_variant_get_child_value(entry, 0);
    g_autoptr(GVariant) value = g_variant_get_child_value(entry, 1);
    g_autofree char *text = g_variant_is_of_type(key, G_VARIANT_TYPE_STRING) ? g_variant_dup_string(key, NULL)
                                                                             : g_variant_print(key, FALSE);
    if (i > 0)
      g_string_append_c(out, ',');
    json_append_string(out, text);
    g_string_append_c(out, ':');
    json_append(out, value);
  }
  g_string_append_c(out, '}');
}

static void append_array(GString *out, GVariant *array) {
  g_string_append_c(out, '[');
  for (gsize i = 0; i < g_variant_n_children(array); i++) {
    g_autoptr(GVariant) child = g_variant_get_child_value(array, i);
    if (i > 0)
      g_string_append_c(out, ',');
    json_append(out, child);
  }
  g_string_append_c(out, ']');
}

void json_append(GString *out, GVariant *value) {
  switch (g_variant_classify(value)) {
  case G_VARIANT_CLASS_BOOLEAN:
    g_string_append(out, g_variant_get_boolean(value) ? "true" : "false");
    break;
  case G_VARIANT_CLASS_STRING:
  case G_VARIANT_CLASS_OBJECT_PATH:
  case G_VARIANT_CLASS_SIGNATURE:
    json_append_string(out, g_variant_get_string(value, NULL));
    break;
  case G_VARIANT_CLASS_DOUBLE:
    append_double(out, g_variant_get_double(value));
    break;
  case G_VARIANT_CLASS_VARIANT: {
    g_autoptr(GVariant) inner = g_variant_get_variant(value);
    json_append(out, inner);
    break;
  }
  case G_VARIANT_CLASS_ARRAY:
    if (g_variant_is_of_type(value, G_VARIANT_TYPE_DICTIONARY))
      append_object(out, value);
    else
      append_array(out, value);
    break;
  case G_VARIANT_CLASS_TUPLE:
    append_array(out, value);
    break;
  default:
    append_number(out, value);
  }
}

void json_print(GVariant *value) {
  g_autoptr(GString) out = g_string_new(NULL);
  json_append(out, value);
  puts(out->str);
  fflush(stdout);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
// Bus messages as GVariants, so that printing and looking things up needs no cursor.
#include "value.h"

#include <errno.h>

static int read_children(
    sd_bus_message *message, char type, const char *contents, const GVariantType *as, GVariant **ret) {
  g_auto(GVariantBuilder) builder = G_VARIANT_BUILDER_INIT(as);
  int r = sd_bus_message_enter_container(message, type, contents);
  if (r < 0)
    return r;
  for (;;) {
    g_autoptr(GVariant) child = NULL;
    r = value_read(message, &child);
    if (r < 0)
      return r;
    if (r == 0)
      break;
    g_variant_builder_add_value(&builder, child);
  }
  r = sd_bus_message_exit_container(message);
  if (r < 0)
    return r;
  *ret = g_variant_ref_sink(g_variant_builder_end(&builder));
  return 1;
}

static int read_container(sd_bus_message *message, char type, const char *contents, GVariant **ret) {
  g_autofree char *text = NULL;
  switch (type) {
  case 'a':
    text = g_strdup_printf("a%s", contents);
    break;
  case 'r':
    text = g_strdup_printf("(%s)", contents);
    break;
  case 'e':
    text = g_strdup_printf("{%s}", contents);
    break;
  default:
    text = g_strdup("v");
  }
  return read_children(message, type, contents, G_VARIANT_TYPE(text), ret);
}

static int read_basic(sd_bus_message *message, char type, GVariant **ret) {
  union {
    uint8_t y;
    int b;
    int16_t n;
    uint16_t q;
    int32_t i;
    uint32_t u;
    int64_t x;
    uint64_t t;
    double d;
    const char *s;
    int h;
  } basic;
  int r = sd_bus_message_read_basic(message, type, &basic);
  if (r < 0)
    return r;
  GVariant *value = type == 'y'   ? g_variant_new_byte(basic.y)
                    : type == 'b' ? g_variant_new_boolean(basic.b)
                    : type == 'n' ? g_variant_new_int16(basic.n)
                    : type == 'q' ? g_variant_new_uint16(basic.q)
                    : type == 'i' ? g_variant_new_int32(basic.i)
                    : type == 'u' ? g_variant_new_uint32(basic.u)
                    : type == 'x' ? g_variant_new_int64(basic.x)
                    : type == 't' ? g_variant_new_uint64(basic.t)
                    : type == 'd' ? g_variant_new_double(basic.d)
                    : type == 'o' ? g_variant_new_object_path(basic.s)
                    : type == 'g' ? g_variant_new_signature(basic.s)
                    : type == 'h' ? g_variant_new_handle(basic.h)
                                  : g_variant_new_string(basic.s);
  *ret = g_variant_ref_sink(value);
  return 1;
}

int value_read(sd_bus_message *message, GVariant **ret) {
  const char *contents = NULL;
  char type = 0;
  int r = sd_bus_message_peek_type(message, &type, &contents);
  if (r <= 0)
    return r;
  if (contents)
    return read_container(message, type, contents, ret);
  return read_basic(message, type, ret);
}

static GVariant *lookup(GVariant *dictionary, const char *key) {
  return g_variant_lookup_value(dictionary, key, NULL);
}

uint64_t value_u64(GVariant *dictionary, const char *key, uint64_t fallback) {
  g_autoptr(GVariant) value = lookup(dictionary, key);
  switch (value ? g_variant_classify(value) : 0) {
  case G_VARIANT_CLASS_UINT64:
    return g_variant_get_uint64(value);
  case G_VARIANT_CLASS_INT64:
    return (uint64_t)g_variant_get_int64(value);
  case G_VARIANT_CLASS_UINT32:
    return g_variant_get_uint32(value);
  case G_VARIANT_CLASS_INT32:
    return (uint64_t)g_variant_get_int32(value);
  default:
    return fallback;
  }
}

double value_double(GVariant *dictionary, const char *key, double fallback) {
  double number = fallback;
  (void)g_variant_lookup(dictionary, key, "d", &number);
  return number;
}

bool value_bool(GVariant *dictionary, const char *key) {
  gboolean yes = FALSE;
  return g_variant_lookup(dictionary, key, "b", &yes) && yes;
}

const char *value_text(GVariant *dictionary, const char *key) {
  const char *text = "";
  (void)(g_variant_lookup(dictionary, key, "&s", &text) || g_variant_lookup(dictionary, key, "&o", &text));
  return text;
}

bool value_has(GVariant *dictionary, const char *key) {
  g_autoptr(GVariant) value = lookup(dictionary, key);
  return value != NULL;
}

GVariant *value_dictionaries(GVariant *dictionary, const char *key) {
  return g_variant_lookup_value(dictionary, key, G_VARIANT_TYPE("aa{sv}"));
}

// "key=value key=value", without what is empty.
static char *dictionary_to_text(GVariant *dictionary) {
  GString *out = g_string_new(NULL);
  GVariantIter iter;
  const char *key = NULL;
  GVariant *value = NULL;
  g_variant_iter_init(&iter, dictionary);
  while (g_variant_iter_loop(&iter, "{&sv}", &key, &value)) {
    g_autofree char *text = value_to_text(value);
    if (*text)
      g_string_append_printf(out, "%s%s=%s", out->len > 0 ? " " : "", key, text);
  }
  return g_string_free(out, FALSE);
}

static char *number_to_text(GVariant *value) {
  g_autofree char *text = g_variant_print(value, FALSE);
  return g_variant_is_of_type(value, G_VARIANT_TYPE_DOUBLE) ? g_strdup_printf("%.3g", g_variant_get_double(value))
                                                            : g_steal_pointer(&text);
}

char *value_to_text(GVariant *value) {
  if (g_variant_is_of_type(value, G_VARIANT_TYPE_VARIANT)) {
    g_autoptr(GVariant) inner = g_variant_get_variant(value);
    return value_to_text(inner);
  }
  if (g_variant_is_of_type(value, G_VARIANT_TYPE_STRING) || g_variant_is_of_type(value, G_VARIANT_TYPE_OBJECT_PATH))
    return g_variant_dup_string(value, NULL);
  if (g_variant_is_of_type(value, G_VARIANT_TYPE_BOOLEAN))
    return g_strdup(g_variant_get_boolean(value) ? "yes" : "no");
  if (g_variant_is_of_type(value, G_VARIANT_TYPE_STRING_ARRAY)) {
    g_autofree const char **words = g_variant_get_strv(value, NULL);
    return g_strjoinv(", ", (char **)words);
  }
  if (g_variant_is_of_type(value, G_VARIANT_TYPE_VARDICT))
    return dictionary_to_text(value);
  return number_to_text(value);
}

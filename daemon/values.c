/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "values.h"

#include <errno.h>

static int append_container(sd_bus_message *message, GVariant *value, char type, const char *contents) {
  int r = sd_bus_message_open_container(message, type, contents);

  for (size_t i = 0; r >= 0 && i < g_variant_n_children(value); i++) {
    g_autoptr(GVariant) child = g_variant_get_child_value(value, i);

    r = values_append(message, child);
  }
  return r < 0 ? r : sd_bus_message_close_container(message);
}

int values_append_variant(sd_bus_message *message, GVariant *value) {
  int r = sd_bus_message_open_container(message, SD_BUS_TYPE_VARIANT, g_variant_get_type_string(value));

  if (r >= 0)
    r = values_append(message, value);
  return r < 0 ? r : sd_bus_message_close_container(message);
}

static int append_variant_value(sd_bus_message *message, GVariant *value) {
  g_autoptr(GVariant) inner = g_variant_get_variant(value);

  return values_append_variant(message, inner);
}

static int append_dict_entry(sd_bus_message *message, GVariant *value) {
  const char *type = g_variant_get_type_string(value); /* "{sv}" */
  g_autofree char *contents = g_strndup(type + 1, strlen(type) - 2);

  return append_container(message, value, SD_BUS_TYPE_DICT_ENTRY, contents);
}

int values_append(sd_bus_message *message, GVariant *value) {
  switch (g_variant_classify(value)) {
  case G_VARIANT_CLASS_BOOLEAN: {
    int flag = g_variant_get_boolean(value);
    return sd_bus_message_append_basic(message, SD_BUS_TYPE_BOOLEAN, &flag);
  }
  case G_VARIANT_CLASS_INT32:
  case G_VARIANT_CLASS_UINT32:
  case G_VARIANT_CLASS_INT64:
  case G_VARIANT_CLASS_UINT64:
  case G_VARIANT_CLASS_DOUBLE:
    return sd_bus_message_append_basic(message, g_variant_get_type_string(value)[0], g_variant_get_data(value));
  case G_VARIANT_CLASS_STRING:
  case G_VARIANT_CLASS_OBJECT_PATH:
    return sd_bus_message_append_basic(message, g_variant_get_type_string(value)[0], g_variant_get_string(value, NULL));
  case G_VARIANT_CLASS_VARIANT:
    return append_variant_value(message, value);
  case G_VARIANT_CLASS_ARRAY:
    return append_container(message, value, SD_BUS_TYPE_ARRAY, g_variant_get_type_string(value) + 1);
  case G_VARIANT_CLASS_DICT_ENTRY:
    return append_dict_entry(message, value);
  default:
    return -EINVAL;
  }
}

char *values_text(const char *text) {
  return g_utf8_make_valid(text ? text : "", -1);
}

void values_insert_engine(GVariantDict *dict, const EngineValue *value) {
  g_autofree char *key = values_text(value->key);

  if (value->has_u64)
    g_variant_dict_insert(dict, key, "t", value->u64);
  else if (value->text)
    g_variant_dict_insert_value(dict, key, g_variant_new_take_string(values_text(value->text)));
  else if (value->has_flag)
    g_variant_dict_insert(dict, key, "b", (gboolean)value->flag);
  else if (value->has_real)
    g_variant_dict_insert(dict, key, "d", value->real);
}

GVariant *values_from_findings(EngineFinding **findings, size_t n_findings) {
  g_auto(GVariantBuilder) list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

  for (size_t i = 0; i < n_findings; i++) {
    const EngineFinding *f = findings[i];
    g_auto(GVariantDict) d = G_VARIANT_DICT_INIT(NULL);

    g_variant_dict_insert_value(&d, "object", g_variant_new_take_string(values_text(f->object)));
    g_variant_dict_insert_value(&d, "reason", g_variant_new_take_string(values_text(f->reason)));
    g_variant_dict_insert_value(&d, "cure", g_variant_new_take_string(values_text(f->cure)));
    if (f->has_pid)
      g_variant_dict_insert(&d, "pid", "u", f->pid);
    if (f->has_fd)
      g_variant_dict_insert(&d, "fd", "i", f->fd);
    if (f->action)
      g_variant_dict_insert_value(&d, "action", g_variant_new_take_string(values_text(f->action)));
    if (f->kind)
      g_variant_dict_insert_value(&d, "kind", g_variant_new_take_string(values_text(f->kind)));
    g_variant_builder_add_value(&list, g_variant_dict_end(&d));
  }
  return g_variant_builder_end(&list);
}

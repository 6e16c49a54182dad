/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "description.h"

#include <stdbool.h>
#include <string.h>

#include "values.h"

/* The columns and their types on the bus; docs/man/org.criu.Checkpoint.5 explains them. */
static const struct {
  const char *table;
  const char *key;
  char type;
} columns[] = {
    {"tasks", "pid", 'u'},
    {"tasks", "ppid", 'u'},
    {"tasks", "pgid", 'u'},
    {"tasks", "sid", 'u'},
    {"tasks", "comm", 's'},
    {"tasks", "exe", 's'},
    {"tasks", "state", 's'},
    {"tasks", "threads", 'u'},
    {"tasks", "vmas", 'u'},
    {"tasks", "memory-bytes", 't'},
    {"tasks", "pages-bytes", 't'},
    {"files", "pid", 'u'},
    {"files", "fd", 'u'},
    {"files", "type", 's'},
    {"files", "path", 's'},
    {"files", "flags", 's'},
    {"mappings", "pid", 'u'},
    {"mappings", "start", 't'},
    {"mappings", "end", 't'},
    {"mappings", "prot", 's'},
    {"mappings", "kind", 's'},
    {"mappings", "path", 's'},
    {"mappings", "pages", 't'},
    {"plugins", "name", 's'},
    {"plugins", "file", 's'},
    {"plugins", "door", 's'},
    {"plugins", "version", 's'},
    {"plugins", "description", 's'},
    {"plugins", "kinds", 's'},
    {"plugins", "loaded", 's'},
    {"plugins", "error", 's'},
};

#define CHECKPOINT_TABLES 3
static const char *const tables[] = {"tasks", "files", "mappings", "plugins"};

struct Description {
  GVariant *note;
  GVariantBuilder rows[G_N_ELEMENTS(tables)];
  size_t n_rows;
  size_t bytes;
  bool truncated;
};

Description *description_new(GVariant *note) {
  Description *description = g_new0(Description, 1);

  description->note = note ? g_variant_ref(note) : NULL;
  for (size_t i = 0; i < G_N_ELEMENTS(tables); i++)
    g_variant_builder_init(&description->rows[i], G_VARIANT_TYPE("aa{sv}"));
  return description;
}

void description_free(Description *description) {
  if (!description)
    return;
  for (size_t i = 0; i < G_N_ELEMENTS(tables); i++)
    g_variant_builder_clear(&description->rows[i]);
  g_clear_pointer(&description->note, g_variant_unref);
  g_free(description);
}

static char type_of(const char *table, const char *key) {
  for (size_t i = 0; i < G_N_ELEMENTS(columns); i++)
    if (g_str_equal(columns[i].table, table) && g_str_equal(columns[i].key, key))
      return columns[i].type;
  return 0;
}

static void insert(GVariantDict *dict, const char *table, const EngineValue *value) {
  char type = type_of(table, value->key);

  if (type == 'u' && value->has_u64)
    g_variant_dict_insert(dict, value->key, "u", (guint32)MIN(value->u64, G_MAXUINT32));
  else if (type == 't' && value->has_u64)
    g_variant_dict_insert(dict, value->key, "t", value->u64);
  else if (type == 's' && value->text)
    g_variant_dict_insert_value(dict, value->key, g_variant_new_take_string(values_text(value->text)));
}

static size_t text_bytes(const EngineRow *row) {
  size_t bytes = 0;

  for (size_t i = 0; i < row->n_values; i++)
    bytes += row->values[i]->text ? strlen(row->values[i]->text) : 0;
  return bytes;
}

void description_add(Description *description, const EngineRow *row) {
  size_t table = 0, bytes = text_bytes(row);
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);

  while (table < G_N_ELEMENTS(tables) && !g_str_equal(tables[table], row->table))
    table++;
  if (table == G_N_ELEMENTS(tables))
    return;
  /* Once something is missing nothing more comes: no gaps. */
  description->truncated |=
      description->n_rows == DESCRIPTION_ROWS_MAX || bytes > DESCRIPTION_BYTES_MAX - description->bytes;
  if (description->truncated)
    return;
  description->n_rows++;
  description->bytes += bytes;
  for (size_t i = 0; i < row->n_values; i++)
    insert(&dict, row->table, row->values[i]);
  g_variant_builder_add_value(&description->rows[table], g_variant_dict_end(&dict));
}

GVariant *description_end(Description *description, const GError *error) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(description->note);

  if (error)
    g_variant_dict_insert_value(&dict, "images-error", g_variant_new_take_string(values_text(error->message)));
  for (size_t i = 0; i < CHECKPOINT_TABLES && !error; i++)
    g_variant_dict_insert_value(&dict, tables[i], g_variant_builder_end(&description->rows[i]));
  if (!error)
    g_variant_dict_insert(&dict, "truncated", "b", (gboolean)description->truncated);
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

GVariant *description_end_plugins(Description *description) {
  return g_variant_ref_sink(g_variant_builder_end(&description->rows[CHECKPOINT_TABLES]));
}

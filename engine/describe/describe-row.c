/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "describe-row.h"
#include <limits.h>
#include <string.h>

/* Names in images may be as long as the image; with this bound a row of ROW_VALUES_MAX texts still fits a packet. */
#define TEXT_BYTES_MAX PATH_MAX

void row_init(Row *row, const char *table) {
  engine_row__init(&row->message);
  row->message.table = (char *)table;
  row->message.values = row->list;
}

static EngineValue *value_add(Row *row, const char *key) {
  g_assert(row->message.n_values < ROW_VALUES_MAX);
  EngineValue *v = &row->values[row->message.n_values];
  engine_value__init(v);
  v->key = (char *)key;
  row->list[row->message.n_values++] = v;
  return v;
}

void row_u64(Row *row, const char *key, guint64 value) {
  EngineValue *v = value_add(row, key);
  v->has_u64 = true;
  v->u64 = value;
}

void row_text(Row *row, const char *key, const char *text) {
  if (text)
    value_add(row, key)->text = g_utf8_make_valid(text, (gssize)strnlen(text, TEXT_BYTES_MAX));
}

void row_take_text(Row *row, const char *key, char *text) {
  row_text(row, key, text);
  g_free(text);
}

void row_send(Row *row, Job *job) {
  job_row(job, &row->message);
  for (size_t i = 0; i < row->message.n_values; i++)
    g_free(row->values[i].text);
  row->message.n_values = 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "job.h"

/* One row on its way, with room for as many values as any table has columns. */
#define ROW_VALUES_MAX 16

typedef struct Row {
  EngineRow message;
  EngineValue values[ROW_VALUES_MAX];
  EngineValue *list[ROW_VALUES_MAX];
} Row;

/* @table and the keys below are constants, and borrowed. */
void row_init(Row *row, const char *table);
void row_u64(Row *row, const char *key, guint64 value);
/* @text (may be NULL: left out) is copied: made valid UTF-8, and cut if it is longer than any path of the kernel's. */
void row_text(Row *row, const char *key, const char *text);
/* The same; @text is freed. */
void row_take_text(Row *row, const char *key, char *text);
/* Sends the row and frees what is in it. */
void row_send(Row *row, Job *job);

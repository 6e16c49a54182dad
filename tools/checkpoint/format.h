// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

// All return new strings.
char *format_bytes(uint64_t bytes);        // "1.4 MiB"
char *format_duration(uint64_t usec);      // "830 µs", "3.1 ms", "2.4 s", "3 min 10 s"
char *format_time(uint64_t usec);          // CLOCK_REALTIME, as local time
char *format_user(uint32_t uid);           // a name, or the number
char *format_safe(const char *text);       // without what a terminal would obey
char *format_safe_lines(const char *text); // the same, but lines stay lines, indented from the second on
char *format_count(uint64_t n, const char *one, const char *many);

// Whether box drawing and block characters come out right.
bool format_unicode(void);

// A table whose columns are as wide as their widest cell; the first row is the heading.
typedef struct Table Table;
// @columns headings; one that begins with '>' is aligned to the right.
Table *table_new(const char *const *columns);
void table_free(Table *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Table, table_free)
// Takes ownership of @cell; made safe for a terminal. Rows fill from left to right.
void table_add(Table *table, char *cell);
void table_print(const Table *table);

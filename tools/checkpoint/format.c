// SPDX-License-Identifier: LGPL-2.1-or-later
// Numbers, times and tables for people. Names and paths come from applications, so nothing of
// theirs reaches the terminal before format_safe().
#include "format.h"

#include <langinfo.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct Table {
  GPtrArray *cells;
  bool *right;
  int columns;
};

char *format_bytes(uint64_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double number = (double)bytes;
  size_t unit = 0;
  while (number >= 1024 && unit + 1 < G_N_ELEMENTS(units)) {
    number /= 1024;
    unit++;
  }
  if (unit == 0)
    return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
  return g_strdup_printf(number < 100 ? "%.1f %s" : "%.0f %s", number, units[unit]);
}

char *format_duration(uint64_t usec) {
  if (usec < 1000)
    return g_strdup_printf("%" G_GUINT64_FORMAT " %ss", usec, format_unicode() ? "µ" : "u");
  if (usec < 1000 * 1000)
    return g_strdup_printf("%.1f ms", (double)usec / 1e3);
  if (usec < 60 * G_USEC_PER_SEC)
    return g_strdup_printf("%.1f s", (double)usec / 1e6);
  guint64 seconds = usec / G_USEC_PER_SEC;
  if (seconds < 3600)
    return g_strdup_printf("%" G_GUINT64_FORMAT " min %" G_GUINT64_FORMAT " s", seconds / 60, seconds % 60);
  return g_strdup_printf("%" G_GUINT64_FORMAT " h %" G_GUINT64_FORMAT " min", seconds / 3600, seconds % 3600 / 60);
}

char *format_time(uint64_t usec) {
  time_t seconds = (time_t)(usec / G_USEC_PER_SEC);
  struct tm local;
  char text[64];
  if (!localtime_r(&seconds, &local) || strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local) == 0)
    return g_strdup("?");
  return g_strdup(text);
}

char *format_user(uint32_t uid) {
  const struct passwd *user = getpwuid(uid);
  return user ? g_strdup(user->pw_name) : g_strdup_printf("%u", uid);
}

char *format_safe(const char *text) {
  g_autofree char *valid = g_utf8_make_valid(text, -1);
  GString *out = g_string_new(NULL);
  for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
    gunichar c = g_utf8_get_char(p);
    if (g_unichar_isprint(c))
      g_string_append_unichar(out, c);
    else
      g_string_append_printf(out, "\\x%02x", c);
  }
  return g_string_free(out, FALSE);
}

char *format_safe_lines(const char *text) {
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    char *safe = format_safe(*line);
    g_free(*line);
    *line = safe;
  }
  return g_strjoinv("\n  ", lines);
}

char *format_count(uint64_t n, const char *one, const char *many) {
  return g_strdup_printf("%" G_GUINT64_FORMAT " %s", n, n == 1 ? one : many);
}

bool format_unicode(void) {
  return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

Table *table_new(const char *const *columns) {
  Table *table = g_new0(Table, 1);
  table->cells = g_ptr_array_new_with_free_func(g_free);
  table->columns = (int)g_strv_length((char **)columns);
  table->right = g_new0(bool, table->columns);
  for (int i = 0; i < table->columns; i++) {
    table->right[i] = columns[i][0] == '>';
    g_ptr_array_add(table->cells, g_strdup(columns[i] + (table->right[i] ? 1 : 0)));
  }
  return table;
}

void table_free(Table *table) {
  if (!table)
    return;
  g_ptr_array_unref(table->cells);
  g_free(table->right);
  g_free(table);
}

void table_add(Table *table, char *cell) {
  g_autofree char *owned = cell;
  g_ptr_array_add(table->cells, format_safe(owned));
}

static int column_width(const Table *table, int column) {
  glong width = 0;
  for (guint i = (guint)column; i < table->cells->len; i += (guint)table->columns)
    width = MAX(width, g_utf8_strlen(g_ptr_array_index(table->cells, i), -1));
  return (int)width;
}

// Up to the last cell that is not empty.
static void print_row(const Table *table, guint first, const int *widths) {
  int end = table->columns;
  while (end > 0 && *(const char *)g_ptr_array_index(table->cells, first + (guint)end - 1) == '\0')
    end--;
  for (int column = 0; column < end; column++) {
    const char *cell = g_ptr_array_index(table->cells, first + (guint)column);
    int pad = widths[column] - (int)g_utf8_strlen(cell, -1);
    if (column > 0)
      fputs("  ", stdout);
    if (table->right[column])
      printf("%*s%s", pad, "", cell);
    else
      printf("%s%*s", cell, column + 1 < end ? pad : 0, "");
  }
  fputs("\n", stdout);
}

void table_print(const Table *table) {
  g_autofree int *widths = g_new(int, table->columns);
  for (int i = 0; i < table->columns; i++)
    widths[i] = column_width(table, i);
  for (guint i = 0; i + (guint)table->columns <= table->cells->len; i += (guint)table->columns)
    print_row(table, i, widths);
}

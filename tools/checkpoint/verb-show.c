// SPDX-License-Identifier: LGPL-2.1-or-later
// show: what is in a checkpoint, for people who like to know.
#include "format.h"
#include "json.h"
#include "report.h"
#include "tree.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>

static char *as_number(uint64_t value) {
  return g_strdup_printf("%" G_GUINT64_FORMAT, value);
}

static char *as_user(uint64_t value) {
  return format_user((uint32_t)value);
}

// The head, line by line; numbers only. Keys that are not listed come after it as they are.
static const struct {
  const char *key;
  const char *label;
  char *(*format)(uint64_t value);
} head[] = {
    {"pid", "process", as_number},
    {"created", "created", format_time},
    {"owner", "owner", as_user},
    {"tasks", "tasks", as_number},
    {"threads", "threads", as_number},
    {"bytes", "size", format_bytes},
    {"disk-bytes", "on disk", format_bytes},
    {"pages", "pages", as_number},
    {"pages-skipped", "skipped", as_number},
    {"frozen-usec", "frozen for", format_duration},
    {"total-usec", "took", format_duration},
};

// Told elsewhere.
static const char *const told[] = {"name", "comm", "tasks", "mappings", "files", NULL};

static bool in_head(const char *key) {
  for (size_t i = 0; i < G_N_ELEMENTS(head); i++)
    if (g_str_equal(head[i].key, key))
      return true;
  return g_strv_contains(told, key);
}

static void print_head(const char *name, GVariant *details) {
  g_autofree char *safe = format_safe(name);
  g_autofree char *comm = format_safe(value_text(details, "comm"));
  g_autoptr(GVariant) tasks = value_dictionaries(details, "tasks");
  printf("%s\n", safe);
  if (*comm)
    printf("  %-11s %s\n", "program", comm);
  for (size_t i = 0; i < G_N_ELEMENTS(head); i++) {
    if (!value_has(details, head[i].key))
      continue;
    bool counted = tasks && g_str_equal(head[i].key, "tasks");
    g_autofree char *text = head[i].format(counted ? g_variant_n_children(tasks) : value_u64(details, head[i].key, 0));
    printf("  %-11s %s\n", head[i].label, text);
  }
}

static void print_more(GVariant *details) {
  GVariantIter iter;
  const char *key = NULL;
  GVariant *value = NULL;
  g_variant_iter_init(&iter, details);
  while (g_variant_iter_loop(&iter, "{&sv}", &key, &value)) {
    if (in_head(key))
      continue;
    g_autofree char *text = value_to_text(value);
    g_autofree char *safe_key = format_safe(key);
    g_autofree char *safe = format_safe(text);
    printf("  %-11s %s\n", safe_key, safe);
  }
}

static void print_tree(GVariant *tasks) {
  static const char *const columns[] = {
      "TASK", "STATE", ">PGID", ">SID", ">THREADS", ">MAPPINGS", ">MEMORY", ">SAVED", "PROGRAM", NULL};
  g_autoptr(GArray) lines = tree_lines(tasks, format_unicode());
  g_autoptr(Table) table = table_new(columns);
  for (guint i = 0; i < lines->len; i++) {
    const TreeLine *line = &g_array_index(lines, TreeLine, i);
    g_autoptr(GVariant) task = g_variant_get_child_value(tasks, line->task);
    table_add(table, g_strdup_printf("%s%" G_GUINT64_FORMAT " %s", line->drawing, value_u64(task, "pid", 0),
                         value_text(task, "comm")));
    table_add(table, g_strdup(value_text(task, "state")));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(task, "pgid", 0)));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(task, "sid", 0)));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(task, "threads", 0)));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(task, "vmas", 0)));
    table_add(table, format_bytes(value_u64(task, "memory-bytes", 0)));
    table_add(table, format_bytes(value_u64(task, "pages-bytes", 0)));
    table_add(table, g_strdup(value_text(task, "exe")));
  }
  printf("\nTasks\n");
  table_print(table);
}

static void add_mapping(Table *table, GVariant *mapping) {
  uint64_t start = value_u64(mapping, "start", 0), end = value_u64(mapping, "end", 0);
  table_add(table, g_strdup_printf("%012" G_GINT64_MODIFIER "x-%012" G_GINT64_MODIFIER "x", start, end));
  table_add(table, format_bytes(end > start ? end - start : 0));
  table_add(table, g_strdup(value_text(mapping, "prot")));
  table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(mapping, "pages", 0)));
  table_add(table, g_strdup(value_text(mapping, "kind")));
  table_add(table, g_strdup(value_text(mapping, "path")));
}

static void add_file(Table *table, GVariant *file) {
  table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(file, "fd", 0)));
  table_add(table, g_strdup(value_text(file, "type")));
  table_add(table, g_strdup(value_text(file, "flags")));
  table_add(table, g_strdup(value_text(file, "path")));
}

// The rows of @all that belong to @pid, under @heading; nothing if there are none.
static void print_rows_of(
    GVariant *all, uint64_t pid, const char *heading, const char *const *columns, void (*add)(Table *, GVariant *)) {
  g_autoptr(Table) table = table_new(columns);
  gsize n = 0;
  for (gsize i = 0; i < g_variant_n_children(all); i++) {
    g_autoptr(GVariant) one = g_variant_get_child_value(all, i);
    if (value_u64(one, "pid", 0) != pid)
      continue;
    add(table, one);
    n++;
  }
  if (n == 0)
    return;
  printf("\n%s of %" G_GUINT64_FORMAT "\n", heading, pid);
  table_print(table);
}

// In the order in which the pids first come in @all.
static void print_by_pid(
    GVariant *all, const char *heading, const char *const *columns, void (*add)(Table *, GVariant *)) {
  g_autoptr(GHashTable) seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  for (gsize i = 0; i < g_variant_n_children(all); i++) {
    g_autoptr(GVariant) one = g_variant_get_child_value(all, i);
    uint64_t pid = value_u64(one, "pid", 0);
    if (g_hash_table_add(seen, g_memdup2(&pid, sizeof(pid))))
      print_rows_of(all, pid, heading, columns, add);
  }
}

static void print_all(const char *name, GVariant *details) {
  static const char *const mapping_columns[] = {"ADDRESS", ">SIZE", "PROT", ">PAGES", "KIND", "PATH", NULL};
  static const char *const file_columns[] = {">FD", "TYPE", "FLAGS", "PATH", NULL};
  g_autoptr(GVariant) tasks = value_dictionaries(details, "tasks");
  g_autoptr(GVariant) mappings = value_dictionaries(details, "mappings");
  g_autoptr(GVariant) files = value_dictionaries(details, "files");

  print_head(name, details);
  print_more(details);
  if (tasks)
    print_tree(tasks);
  if (mappings)
    print_by_pid(mappings, "Mappings", mapping_columns, add_mapping);
  if (files)
    print_by_pid(files, "Open files", file_columns, add_file);
  if (!tasks || !mappings || !files)
    printf("\nNot told by this service:%s%s%s\n", tasks ? "" : " the tree of tasks.", mappings ? "" : " the mappings.",
        files ? "" : " the open files.");
}

int verb_show(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) details = NULL;
  g_autofree char *safe = format_safe(arguments[0]);
  g_autofree char *doing = g_strdup_printf("show %s", safe);

  int r = context_call_new(context, "DescribeCheckpoint", &call);
  if (r == 0 && sd_bus_message_append(call, "s", arguments[0]) < 0)
    r = report_usage("“%s” cannot be a name", safe);
  if (r == 0)
    r = context_append_options(context, call, ASK_OWNER);
  if (r == 0)
    r = context_call(context, call, doing, &reply);
  if (r != 0)
    return r;
  if (value_read(reply, &details) <= 0 || !g_variant_is_of_type(details, G_VARIANT_TYPE_VARDICT))
    return report_failure(context->options->json, "the service's description cannot be read");
  if (context->options->json)
    json_print(details);
  else
    print_all(arguments[0], details);
  return 0;
}

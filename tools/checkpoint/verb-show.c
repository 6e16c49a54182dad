// SPDX-License-Identifier: LGPL-2.1-or-later
// show: what is in a checkpoint, for people who like to know.
#include "format.h"
#include "json.h"
#include "report.h"
#include "tree.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>

#define PAGE_BYTES 4096

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
static const char *const told[] = {
    "name", "comm", "tasks", "mappings", "files", "complete", "any-target", "images-error", "truncated", NULL};

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

// One by one, as in /proc/PID/maps.
static void fill_mappings(Table *table, GVariant *all, const GArray *rows) {
  for (guint i = 0; i < rows->len; i++) {
    g_autoptr(GVariant) mapping = g_variant_get_child_value(all, g_array_index(rows, gsize, i));
    uint64_t start = value_u64(mapping, "start", 0), end = value_u64(mapping, "end", 0);
    table_add(table, g_strdup_printf("%012" G_GINT64_MODIFIER "x-%012" G_GINT64_MODIFIER "x", start, end));
    table_add(table, format_bytes(end > start ? end - start : 0));
    table_add(table, g_strdup(value_text(mapping, "prot")));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(mapping, "pages", 0)));
    table_add(table, g_strdup(value_text(mapping, "kind")));
    table_add(table, g_strdup(value_text(mapping, "path")));
  }
}

// Neighbours of the same kind and file, in one line. Without a file they must adjoin.
typedef struct Stretch {
  GVariant *first;
  uint64_t end, bytes, pages, n;
} Stretch;

static bool stretch_takes(const Stretch *stretch, GVariant *mapping) {
  const char *path = value_text(mapping, "path");
  return stretch->first && g_str_equal(value_text(stretch->first, "kind"), value_text(mapping, "kind")) &&
         g_str_equal(value_text(stretch->first, "path"), path) &&
         (*path || stretch->end == value_u64(mapping, "start", 0));
}

static void stretch_end(Stretch *stretch, Table *table) {
  if (!stretch->first)
    return;
  table_add(table, g_strdup_printf("%012" G_GINT64_MODIFIER "x", value_u64(stretch->first, "start", 0)));
  table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, stretch->n));
  table_add(table, format_bytes(stretch->bytes));
  table_add(table, stretch->pages > 0 ? format_bytes(stretch->pages * PAGE_BYTES) : g_strdup(""));
  table_add(table, g_strdup(value_text(stretch->first, "kind")));
  table_add(table, g_strdup(value_text(stretch->first, "path")));
  g_variant_unref(stretch->first);
  *stretch = (Stretch){};
}

static void fill_stretches(Table *table, GVariant *all, const GArray *rows) {
  Stretch stretch = {};
  for (guint i = 0; i < rows->len; i++) {
    g_autoptr(GVariant) mapping = g_variant_get_child_value(all, g_array_index(rows, gsize, i));
    uint64_t start = value_u64(mapping, "start", 0), end = value_u64(mapping, "end", 0);
    if (!stretch_takes(&stretch, mapping)) {
      stretch_end(&stretch, table);
      stretch.first = g_variant_ref(mapping);
    }
    stretch.end = end;
    stretch.bytes += end > start ? end - start : 0;
    stretch.pages += value_u64(mapping, "pages", 0);
    stretch.n++;
  }
  stretch_end(&stretch, table);
}

static void fill_files(Table *table, GVariant *all, const GArray *rows) {
  for (guint i = 0; i < rows->len; i++) {
    g_autoptr(GVariant) file = g_variant_get_child_value(all, g_array_index(rows, gsize, i));
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(file, "fd", 0)));
    table_add(table, g_strdup(value_text(file, "type")));
    table_add(table, g_strdup(value_text(file, "flags")));
    table_add(table, g_strdup(value_text(file, "path")));
  }
}

// A table of rows that each belong to a process.
typedef struct Section {
  const char *heading;
  const char *const *columns;
  void (*fill)(Table *table, GVariant *all, const GArray *rows);
} Section;

// The numbers of the rows of each process, in the order in which the processes first come in @all.
// GPtrArray of GArray of gsize.
static GPtrArray *rows_by_pid(GVariant *all) {
  g_autoptr(GHashTable) known = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  GPtrArray *groups = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
  for (gsize i = 0; i < g_variant_n_children(all); i++) {
    g_autoptr(GVariant) row = g_variant_get_child_value(all, i);
    uint64_t pid = value_u64(row, "pid", 0);
    GArray *group = g_hash_table_lookup(known, &pid);
    if (!group) {
      group = g_array_new(FALSE, FALSE, sizeof(gsize));
      g_ptr_array_add(groups, group);
      g_hash_table_insert(known, g_memdup2(&pid, sizeof(pid)), group);
    }
    g_array_append_val(group, i);
  }
  return groups;
}

// pid -> program, borrowed from @tasks (may be NULL).
static GHashTable *programs(GVariant *tasks) {
  GHashTable *found = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, (GDestroyNotify)g_variant_unref);
  for (gsize i = 0; tasks && i < g_variant_n_children(tasks); i++) {
    GVariant *task = g_variant_get_child_value(tasks, i);
    uint64_t pid = value_u64(task, "pid", 0);
    g_hash_table_insert(found, g_memdup2(&pid, sizeof(pid)), task);
  }
  return found;
}

static void print_section(GVariant *all, GHashTable *by_pid, const Section *section) {
  g_autoptr(GPtrArray) groups = rows_by_pid(all);
  for (guint i = 0; i < groups->len; i++) {
    const GArray *rows = g_ptr_array_index(groups, i);
    g_autoptr(Table) table = table_new(section->columns);
    g_autoptr(GVariant) first = g_variant_get_child_value(all, g_array_index(rows, gsize, 0));
    uint64_t pid = value_u64(first, "pid", 0);
    GVariant *task = g_hash_table_lookup(by_pid, &pid);
    g_autofree char *comm = format_safe(task ? value_text(task, "comm") : "");
    printf("\n%s of %" G_GUINT64_FORMAT "%s%s\n", section->heading, pid, *comm ? " " : "", comm);
    section->fill(table, all, rows);
    table_print(table);
  }
}

static void print_sections(GVariant *tasks, GVariant *mappings, GVariant *files, bool verbose) {
  static const char *const one_by_one[] = {"ADDRESS", ">SIZE", "PROT", ">PAGES", "KIND", "PATH", NULL};
  static const char *const in_short[] = {"ADDRESS", ">MAPPINGS", ">SIZE", ">SAVED", "KIND", "PATH", NULL};
  static const char *const file_columns[] = {">FD", "TYPE", "FLAGS", "PATH", NULL};
  const Section of_files = {"Open files", file_columns, fill_files};
  const Section of_mappings = {"Mappings", verbose ? one_by_one : in_short, verbose ? fill_mappings : fill_stretches};
  g_autoptr(GHashTable) by_pid = programs(tasks);

  if (files)
    print_section(files, by_pid, &of_files);
  if (mappings)
    print_section(mappings, by_pid, &of_mappings);
}

// What is unusual about it.
static void print_notes(GVariant *details) {
  g_autofree char *problem = format_safe(value_text(details, "images-error"));
  if (value_has(details, "complete") && !value_bool(details, "complete"))
    printf("\nIt is not complete and cannot be restored.\n");
  if (value_bool(details, "any-target"))
    printf("\nIts processes were not all its owner's.\n");
  if (*problem)
    printf("\nWhat is in its images is not told: %s\n", problem);
  if (value_bool(details, "truncated"))
    printf("\nThere is more in it than the service tells at once.\n");
}

static void print_all(const char *name, GVariant *details, bool verbose) {
  g_autoptr(GVariant) tasks = value_dictionaries(details, "tasks");
  g_autoptr(GVariant) mappings = value_dictionaries(details, "mappings");
  g_autoptr(GVariant) files = value_dictionaries(details, "files");

  print_head(name, details);
  print_more(details);
  if (tasks)
    print_tree(tasks);
  print_sections(tasks, mappings, files, verbose);
  print_notes(details);
  if ((!tasks || !mappings || !files) && !value_has(details, "images-error"))
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
    print_all(arguments[0], details, context->options->verbose);
  return 0;
}

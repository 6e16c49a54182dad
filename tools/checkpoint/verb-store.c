// SPDX-License-Identifier: LGPL-2.1-or-later
// list and remove.
#include "format.h"
#include "json.h"
#include "report.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>

// a(sa{sv}) → aa{sv} with the name inside.
static GVariant *with_names(GVariant *list) {
  g_auto(GVariantBuilder) builder = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));
  for (gsize i = 0; i < g_variant_n_children(list); i++) {
    g_autoptr(GVariant) pair = g_variant_get_child_value(list, i);
    g_autoptr(GVariant) name = g_variant_get_child_value(pair, 0);
    g_autoptr(GVariant) details = g_variant_get_child_value(pair, 1);
    GVariantDict dict;
    g_variant_dict_init(&dict, details);
    g_variant_dict_insert(&dict, "name", "s", g_variant_get_string(name, NULL));
    g_variant_builder_add_value(&builder, g_variant_dict_end(&dict));
  }
  return g_variant_ref_sink(g_variant_builder_end(&builder));
}

static char *number_cell(GVariant *details, const char *key) {
  return value_has(details, key) ? g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(details, key, 0)) : g_strdup("-");
}

static void print_list(GVariant *list) {
  static const char *const columns[] = {"NAME", ">PID", "COMMAND", ">TASKS", ">SIZE", "CREATED", "OWNER", NULL};
  g_autoptr(Table) table = table_new(columns);
  for (gsize i = 0; i < g_variant_n_children(list); i++) {
    g_autoptr(GVariant) one = g_variant_get_child_value(list, i);
    uint64_t created = value_u64(one, "created", 0);
    table_add(table, g_strdup(value_text(one, "name")));
    table_add(table, number_cell(one, "pid"));
    table_add(table, g_strdup(value_text(one, "comm")));
    table_add(table, number_cell(one, "tasks"));
    table_add(table, value_has(one, "bytes") ? format_bytes(value_u64(one, "bytes", 0)) : g_strdup("-"));
    table_add(table, created > 0 ? format_time(created) : g_strdup("-"));
    table_add(table, value_has(one, "owner") ? format_user((uint32_t)value_u64(one, "owner", 0)) : g_strdup("-"));
  }
  table_print(table);
}

int verb_list(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) pairs = NULL;

  int r = context_call_new(context, "ListCheckpoints", &call);
  if (r == 0)
    r = context_append_options(context, call, ASK_OWNER | ASK_ALL);
  if (r == 0)
    r = context_call(context, call, "list the checkpoints", &reply);
  if (r != 0)
    return r;
  if (value_read(reply, &pairs) <= 0 || !g_variant_is_of_type(pairs, G_VARIANT_TYPE("a(sa{sv})")))
    return report_failure(context->options->json, "the service's list cannot be read");
  g_autoptr(GVariant) list = with_names(pairs);
  if (context->options->json)
    json_print(list);
  else if (g_variant_n_children(list) == 0)
    printf("no checkpoints\n");
  else
    print_list(list);
  return 0;
}

static int remove_one(Context *context, const char *name) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autofree char *safe = format_safe(name);
  g_autofree char *doing = g_strdup_printf("remove %s", safe);

  int r = context_call_new(context, "RemoveCheckpoint", &call);
  if (r == 0 && sd_bus_message_append(call, "s", name) < 0)
    r = report_usage("“%s” cannot be a name", safe);
  if (r == 0)
    r = context_append_options(context, call, ASK_OWNER);
  if (r == 0)
    r = context_call(context, call, doing, &reply);
  if (r == 0 && !context->options->json)
    printf("removed %s\n", safe);
  return r;
}

int verb_remove(Context *context, char **arguments) {
  int status = 0;
  context_start_agent(context);
  for (char **name = arguments; *name; name++) {
    int r = remove_one(context, *name);
    status = status == 0 ? r : status;
  }
  if (status == 0 && context->options->json) {
    g_autoptr(GVariant) removed = g_variant_ref_sink(g_variant_new_parsed("{'removed': <%^as>}", arguments));
    json_print(removed);
  }
  return status;
}

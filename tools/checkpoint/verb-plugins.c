// SPDX-License-Identifier: LGPL-2.1-or-later
// plugins: who takes what leads out of an application.
#include "format.h"
#include "json.h"
#include "report.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>

// a(sa{sv}) -> aa{sv}; the name is among the values already.
static GVariant *rows_of(GVariant *pairs) {
  g_auto(GVariantBuilder) builder = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));
  for (gsize i = 0; i < g_variant_n_children(pairs); i++) {
    g_autoptr(GVariant) pair = g_variant_get_child_value(pairs, i);
    g_autoptr(GVariant) row = g_variant_get_child_value(pair, 1);
    g_variant_builder_add_value(&builder, row);
  }
  return g_variant_ref_sink(g_variant_builder_end(&builder));
}

static void print_plugins(GVariant *plugins) {
  static const char *const columns[] = {"PLUGIN", "VERSION", "INTERFACE", "LOADED", "KINDS", "DESCRIPTION", NULL};
  g_autoptr(Table) table = table_new(columns);
  for (gsize i = 0; i < g_variant_n_children(plugins); i++) {
    g_autoptr(GVariant) plugin = g_variant_get_child_value(plugins, i);
    const char *error = value_text(plugin, "error");
    table_add(table, g_strdup(value_text(plugin, "name")));
    table_add(table, g_strdup(value_text(plugin, "version")));
    table_add(table, g_strdup(*error ? "BROKEN" : value_text(plugin, "door")));
    table_add(table, g_strdup(value_text(plugin, "loaded")));
    table_add(table, g_strdup(value_text(plugin, "kinds")));
    table_add(table, g_strdup(*error ? error : value_text(plugin, "description")));
  }
  table_print(table);
}

// Whether all of them can be loaded: while one that always is cannot, no job begins, and nothing that needs one of the others.
static bool all_work(GVariant *plugins) {
  for (gsize i = 0; i < g_variant_n_children(plugins); i++) {
    g_autoptr(GVariant) plugin = g_variant_get_child_value(plugins, i);
    if (*value_text(plugin, "error"))
      return false;
  }
  return true;
}

int verb_plugins(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) pairs = NULL;

  int r = context_call_new(context, "ListPlugins", &call);
  if (r == 0)
    r = context_call(context, call, "list the plugins", &reply);
  if (r != 0)
    return r;
  if (value_read(reply, &pairs) <= 0 || !g_variant_is_of_type(pairs, G_VARIANT_TYPE("a(sa{sv})")))
    return report_failure(context->options->json, "the service's list cannot be read");
  g_autoptr(GVariant) plugins = rows_of(pairs);
  if (context->options->json)
    json_print(plugins);
  else if (g_variant_n_children(plugins) == 0)
    printf("no plugins\n");
  else
    print_plugins(plugins);
  return all_work(plugins) ? 0 : STATUS_FAILED;
}

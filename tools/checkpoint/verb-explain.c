// SPDX-License-Identifier: LGPL-2.1-or-later
// explain and check: what would be in the way.
#include "format.h"
#include "json.h"
#include "operand.h"
#include "report.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>
#include <string.h>

// What has an action is dealt with.
static gsize count_blockers(GVariant *findings) {
  gsize n = 0;
  for (gsize i = 0; i < g_variant_n_children(findings); i++) {
    g_autoptr(GVariant) finding = g_variant_get_child_value(findings, i);
    g_autoptr(GVariant) action = g_variant_lookup_value(finding, "action", NULL);
    n += !action;
  }
  return n;
}

int verb_explain(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) findings = NULL;
  uint32_t pid = 0;

  int r = operand_parse_pid(arguments[0], &pid);
  if (r != 0)
    return r;
  g_autofree char *doing = g_strdup_printf("explain process %u", pid);
  context_start_agent(context);
  r = context_call_new(context, "Explain", &call);
  if (r == 0 && sd_bus_message_append(call, "u", pid) < 0)
    r = report_failure(context->options->json, "cannot make a bus message");
  if (r == 0)
    r = context_append_options(context, call, ASK_TIMEOUT | ASK_SHELL_JOB | ASK_LOCKS | ASK_EXTRA);
  if (r == 0)
    r = context_call(context, call, doing, &reply);
  if (r != 0)
    return r;
  if (value_read(reply, &findings) <= 0 || !g_variant_is_of_type(findings, G_VARIANT_TYPE("aa{sv}")))
    return report_failure(context->options->json, "the service's findings cannot be read");
  gsize n = count_blockers(findings);
  if (context->options->json) {
    json_print(findings);
    return n > 0 ? STATUS_NOT_SUPPORTED : 0;
  }
  if (n == 0)
    printf("nothing is in the way of a dump of process %u\n", pid);
  report_findings(stdout, findings);
  return n > 0 ? STATUS_NOT_SUPPORTED : 0;
}

// "feature-NAME" is a number, 0 or 1, where the engine says it.
static char *check_answer(GVariant *report, const char *key) {
  g_autoptr(GVariant) value = g_variant_lookup_value(report, key, NULL);
  if (g_str_has_prefix(key, "feature-") && g_variant_is_of_type(value, G_VARIANT_TYPE_UINT64))
    return g_strdup(g_variant_get_uint64(value) ? "yes" : "no");
  return value_to_text(value);
}

static gint compare_keys(gconstpointer a, gconstpointer b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void print_check(GVariant *report) {
  static const char *const columns[] = {"WHAT", "ANSWER", NULL};
  g_autoptr(Table) table = table_new(columns);
  g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);
  for (gsize i = 0; i < g_variant_n_children(report); i++) {
    char *key = NULL;
    g_variant_get_child(report, i, "{sv}", &key, NULL);
    g_ptr_array_add(keys, key);
  }
  g_ptr_array_sort(keys, compare_keys);
  for (guint i = 0; i < keys->len; i++) {
    const char *key = g_ptr_array_index(keys, i);
    table_add(table, g_strdup(key));
    table_add(table, check_answer(report, key));
  }
  table_print(table);
}

int verb_check(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) report = NULL;
  int usable = 0;

  int r = context_call_new(context, "Check", &call);
  if (r == 0)
    r = context_append_options(context, call, 0);
  if (r == 0)
    r = context_call(context, call, "check this system", &reply);
  if (r != 0)
    return r;
  if (sd_bus_message_read(reply, "b", &usable) < 0 || value_read(reply, &report) <= 0 ||
      !g_variant_is_of_type(report, G_VARIANT_TYPE_VARDICT))
    return report_failure(context->options->json, "the service's report cannot be read");
  if (context->options->json) {
    g_autoptr(GVariant) all =
        g_variant_ref_sink(g_variant_new_parsed("{'usable': <%b>, 'report': <%@a{sv}>}", (gboolean)usable, report));
    json_print(all);
  } else {
    print_check(report);
    printf(usable ? "this system can dump and restore\n" : "this system cannot dump and restore\n");
  }
  return usable ? 0 : STATUS_FAILED;
}

// SPDX-License-Identifier: LGPL-2.1-or-later
// dump and restore.
#include "follow.h"
#include "format.h"
#include "json.h"
#include "operand.h"
#include "relay.h"
#include "report.h"
#include "value.h"
#include "verbs.h"

#include <stdio.h>
#include <unistd.h>

static void append_figure(GString *out, GVariant *result, const char *key, const char *format, bool bytes) {
  uint64_t value = value_u64(result, key, 0);
  if (value == 0)
    return;
  g_autofree char *text = bytes ? format_bytes(value) : format_duration(value);
  g_string_append_printf(out, format, out->len > 0 ? ", " : "", text);
}

static void print_details(GVariant *result) {
  GVariantIter iter;
  const char *key = NULL;
  GVariant *value = NULL;
  g_variant_iter_init(&iter, result);
  while (g_variant_iter_loop(&iter, "{&sv}", &key, &value)) {
    g_autofree char *text = value_to_text(value);
    g_autofree char *safe = format_safe(text);
    printf("  %s: %s\n", key, safe);
  }
}

// @first: what happened, in words.
static void print_result(Context *context, const char *name, const char *first, GVariant *result) {
  if (context->options->json) {
    GVariantDict dict;
    g_variant_dict_init(&dict, result);
    g_variant_dict_insert(&dict, "name", "s", name);
    g_autoptr(GVariant) all = g_variant_ref_sink(g_variant_dict_end(&dict));
    json_print(all);
    return;
  }
  if (value_has(result, "job")) {
    printf("%s\n", value_text(result, "job"));
    return;
  }
  GString *out = g_string_new(NULL);
  uint64_t tasks = value_u64(result, "tasks", 0);
  if (tasks > 0) {
    g_autofree char *text = format_count(tasks, "task", "tasks");
    g_string_append(out, text);
  }
  append_figure(out, result, "bytes", "%s%s", true);
  append_figure(out, result, "frozen-usec", "%sfrozen for %s", false);
  append_figure(out, result, "total-usec", "%s%s in all", false);
  printf("%s%s%s%s\n", first, out->len > 0 ? " (" : "", out->str, out->len > 0 ? ")" : "");
  g_string_free(out, TRUE);
  if (context->options->verbose)
    print_details(result);
}

// StartDump with its operands, or DumpTo with descriptors. @ret_as: what it is dumped as.
static int begin_dump(Context *context, char **arguments, uint32_t pid, sd_bus_message **ret, char **ret_as) {
  const char *path = context->options->directory;
  int r = context_call_new(context, path ? "DumpTo" : "StartDump", ret);
  if (r != 0)
    return r;
  if (!path) {
    *ret_as = arguments[1] ? g_strdup(arguments[1]) : operand_default_name(pid);
    return sd_bus_message_append(*ret, "us", pid, *ret_as) < 0 ? report_usage("“%s” cannot be a name", arguments[1]) : 0;
  }
  if (arguments[1])
    return report_usage("a checkpoint in a directory has no name: “%s” is too much", arguments[1]);
  int process = operand_open_process(pid), directory = process < 0 ? process : operand_open_directory(path, true);
  if (directory >= 0 && sd_bus_message_append(*ret, "hh", process, directory) < 0)
    r = report_usage("“%s” cannot be handed over", path);
  if (directory >= 0)
    (void)close(directory);
  if (process >= 0)
    (void)close(process);
  *ret_as = g_strdup(path);
  return directory < 0 ? -directory : r;
}

static int begin_restore(Context *context, char **arguments, sd_bus_message **ret) {
  const char *path = context->options->directory;
  if (!arguments[0] == !path)
    return report_usage(path ? "either a NAME or a --directory, not both" : "usage: checkpoint restore NAME");
  int r = context_call_new(context, path ? "RestoreFrom" : "StartRestore", ret);
  if (r != 0)
    return r;
  if (!path)
    return sd_bus_message_append(*ret, "s", arguments[0]) < 0 ? report_usage("“%s” cannot be a name", arguments[0]) : 0;
  int directory = operand_open_directory(path, false);
  if (directory < 0)
    return -directory;
  if (sd_bus_message_append(*ret, "h", directory) < 0)
    r = report_usage("“%s” cannot be handed over", path);
  (void)close(directory);
  return r;
}

int verb_dump(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(GVariant) result = NULL;
  g_autofree char *name = NULL;
  uint32_t pid = 0;

  int r = operand_parse_pid(arguments[0], &pid);
  if (r != 0)
    return r;
  r = begin_dump(context, arguments, pid, &call, &name);
  if (r == 0)
    r = context_append_options(context, call, ASK_DUMP | ASK_TIMEOUT | ASK_SHELL_JOB | ASK_LOCKS | ASK_EXTRA | ASK_CANCEL);
  g_autofree char *doing = g_strdup_printf("dump process %u", pid);
  if (r == 0)
    r = follow_job(context, call, doing, &result);
  if (r != 0)
    return r;
  g_autofree char *safe = format_safe(name);
  g_autofree char *first = g_strdup_printf("dumped process %u as %s", pid, safe);
  print_result(context, name, first, result);
  return 0;
}

// The user's terminal belongs to this session: a job of a shell gets one of its own in between.
static int open_terminal(Context *context, Relay *relay) {
  const Options *options = context->options;
  *relay = RELAY_NONE;
  int r = options->shell_job && !options->no_wait ? relay_open(relay) : 0;
  context->terminal = relay->slave > 0 ? relay->slave : 0;
  return r < 0 ? report_errno(options->json, "make a pseudo terminal", r) : 0;
}

static int restore(Context *context, char **arguments, Relay *relay) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(GVariant) result = NULL;
  const char *what = arguments[0] ? arguments[0] : context->options->directory;
  g_autofree char *name = format_safe(what ? what : "");

  int r = begin_restore(context, arguments, &call);
  if (r == 0)
    r = open_terminal(context, relay);
  if (r == 0)
    r = context_append_options(context, call, ASK_OWNER | ASK_SHELL_JOB | ASK_EXTRA | ASK_CANCEL);
  g_autofree char *doing = g_strdup_printf("restore %s", name);
  if (r == 0)
    r = follow_job(context, call, doing, &result);
  if (r != 0)
    return r;
  uint64_t pid = value_u64(result, "pid", 0);
  g_autofree char *first = pid > 0 ? g_strdup_printf("restored %s as process %" G_GUINT64_FORMAT, name, pid)
                                   : g_strdup_printf("restored %s", name);
  print_result(context, what, first, result);
  return 0;
}

int verb_restore(Context *context, char **arguments) {
  Relay relay = RELAY_NONE;
  int r = restore(context, arguments, &relay);
  if (r == 0) {
    (void)fflush(stdout);
    relay_hand_over(&relay);
    relay_run(&relay);
  }
  relay_close(&relay);
  return r;
}

// SPDX-License-Identifier: LGPL-2.1-or-later
// jobs and monitor: what the service is doing.
#include "format.h"
#include "json.h"
#include "report.h"
#include "value.h"
#include "verbs.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-event.h>

static GVariant *with_paths(GVariant *list) {
  g_auto(GVariantBuilder) builder = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));
  for (gsize i = 0; i < g_variant_n_children(list); i++) {
    g_autoptr(GVariant) pair = g_variant_get_child_value(list, i);
    g_autoptr(GVariant) path = g_variant_get_child_value(pair, 0);
    g_autoptr(GVariant) details = g_variant_get_child_value(pair, 1);
    GVariantDict dict;
    g_variant_dict_init(&dict, details);
    g_variant_dict_insert_value(&dict, "Path", path);
    g_variant_builder_add_value(&builder, g_variant_dict_end(&dict));
  }
  return g_variant_ref_sink(g_variant_builder_end(&builder));
}

static char *job_state(GVariant *job) {
  const char *state = value_text(job, "State"), *result = value_text(job, "Result"), *phase = value_text(job, "Phase");
  if (*result)
    return g_strdup(result);
  if (value_bool(job, "ProgressValid"))
    return g_strdup_printf("%s, %s %d %%", state, phase, (int)(value_double(job, "Progress", 0) * 100));
  return g_strdup_printf("%s%s%s", state, *phase ? ", " : "", phase);
}

static void print_jobs(GVariant *jobs) {
  static const char *const columns[] = {">JOB", "OPERATION", ">PID", "NAME", "OWNER", "STATE", NULL};
  g_autoptr(Table) table = table_new(columns);
  for (gsize i = 0; i < g_variant_n_children(jobs); i++) {
    g_autoptr(GVariant) job = g_variant_get_child_value(jobs, i);
    uint64_t pid = value_u64(job, "TargetPID", 0);
    table_add(table, g_strdup_printf("%" G_GUINT64_FORMAT, value_u64(job, "Id", 0)));
    table_add(table, g_strdup(value_text(job, "Operation")));
    table_add(table, pid > 0 ? g_strdup_printf("%" G_GUINT64_FORMAT, pid) : g_strdup("-"));
    table_add(table, g_strdup(value_text(job, "Name")));
    table_add(table, format_user((uint32_t)value_u64(job, "OwnerUID", 0)));
    table_add(table, job_state(job));
  }
  table_print(table);
}

int verb_jobs(Context *context, char **arguments) {
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) pairs = NULL;

  int r = context_call_new(context, "ListJobs", &call);
  if (r == 0)
    r = context_append_options(context, call, ASK_OWNER | ASK_ALL);
  if (r == 0)
    r = context_call(context, call, "list the jobs", &reply);
  if (r != 0)
    return r;
  if (value_read(reply, &pairs) <= 0 || !g_variant_is_of_type(pairs, G_VARIANT_TYPE("a(oa{sv})")))
    return report_failure(context->options->json, "the service's list cannot be read");
  g_autoptr(GVariant) jobs = with_paths(pairs);
  if (context->options->json)
    json_print(jobs);
  else if (g_variant_n_children(jobs) == 0)
    printf("no jobs\n");
  else
    print_jobs(jobs);
  return 0;
}

// One signal as a line: time, job, what, and its arguments.
static void print_signal(Context *context, sd_bus_message *message) {
  const char *path = sd_bus_message_get_path(message), *member = sd_bus_message_get_member(message);
  g_auto(GVariantBuilder) builder = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));
  GVariant *value = NULL;
  while (value_read(message, &value) > 0) {
    g_variant_builder_add(&builder, "v", value);
    g_clear_pointer(&value, g_variant_unref);
  }
  g_autoptr(GVariant) body = g_variant_ref_sink(g_variant_builder_end(&builder));
  if (context->options->json) {
    g_autoptr(GVariant) line = g_variant_ref_sink(g_variant_new_parsed(
        "{'time': <%x>, 'path': <%o>, 'signal': <%s>, 'body': <%@av>}", g_get_real_time(), path, member, body));
    json_print(line);
    return;
  }
  g_autoptr(GDateTime) now = g_date_time_new_now_local();
  g_autofree char *when = g_date_time_format(now, "%H:%M:%S.%f");
  const char *object = g_str_has_prefix(path, SERVICE_PATH "/") ? path + strlen(SERVICE_PATH "/") : "service";
  printf("%.12s %s %s", when, object, member);
  for (gsize i = 0; i < g_variant_n_children(body); i++) {
    g_autoptr(GVariant) child = g_variant_get_child_value(body, i);
    g_autofree char *text = value_to_text(child);
    g_autofree char *safe = format_safe(text);
    if (*safe && !g_str_equal(safe, JOB) && !g_str_equal(safe, MANAGER))
      printf(" %s", safe);
  }
  printf("\n");
  fflush(stdout);
}

static int on_bus_signal(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  print_signal(userdata, message);
  return 0;
}

static int on_stop(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
  return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int on_subscribed(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  Context *context = userdata;
  if (!sd_bus_message_is_method_error(reply, NULL))
    return 0;
  int status = report_bus_error(context->options->json, "watch the jobs", sd_bus_message_get_error(reply));
  return sd_event_exit(sd_bus_get_event(context->bus), status);
}

static int monitor_prepare(Context *context, sd_event *event) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  (void)sigprocmask(SIG_BLOCK, &signals, NULL);
  int r = sd_event_add_signal(event, NULL, SIGINT, on_stop, context);
  if (r >= 0)
    r = sd_event_add_signal(event, NULL, SIGTERM, on_stop, context);
  if (r >= 0)
    r = sd_bus_attach_event(context->bus, event, SD_EVENT_PRIORITY_NORMAL);
  if (r >= 0)
    r = sd_bus_match_signal(context->bus, NULL, SERVICE, NULL, NULL, NULL, on_bus_signal, context);
  if (r >= 0)
    r = sd_bus_call_method_async(
        context->bus, NULL, SERVICE, SERVICE_PATH, MANAGER, "Subscribe", on_subscribed, context, NULL);
  return r;
}

int verb_monitor(Context *context, char **arguments) {
  g_autoptr(sd_event) event = NULL;
  int r = sd_event_new(&event);
  if (r >= 0)
    r = monitor_prepare(context, event);
  if (r >= 0)
    r = sd_event_loop(event);
  (void)sd_bus_detach_event(context->bus);
  return r < 0 ? report_errno(context->options->json, "watch the jobs", r) : r;
}

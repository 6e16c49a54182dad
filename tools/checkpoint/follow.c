// SPDX-License-Identifier: LGPL-2.1-or-later
// One job, from its Start call to its end.
//
// Everything is asynchronous, since Ctrl-C must be heard at any moment: while polkit asks
// (nothing has begun: leaving is enough), and while the job runs (it is cancelled, and the
// command stays to tell how that went; a second Ctrl-C leaves). Should the command be killed,
// the service cancels the job by itself, as "on-disconnect" asks.
#include "follow.h"

#include "format.h"
#include "progress.h"
#include "report.h"
#include "value.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <systemd/sd-event.h>

#define POLL_USEC (100 * 1000)
#define FOREVER UINT64_MAX

typedef struct Follow {
  Context *context;
  const char *doing;
  sd_event *event;
  sd_event_source *timer;
  Progress *progress;
  char *path;
  GVariant *properties; // a{sv}, the last seen
  GVariant *result;
  GVariant *findings; // what came with a failure, or NULL
  bool asked;         // a GetAll is under way
  bool cancelling;
} Follow;

static void follow_deinit(Follow *follow) {
  sd_event_source_disable_unref(follow->timer);
  g_clear_pointer(&follow->progress, progress_free);
  g_clear_pointer(&follow->properties, g_variant_unref);
  g_clear_pointer(&follow->result, g_variant_unref);
  g_clear_pointer(&follow->findings, g_variant_unref);
  g_free(follow->path);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Follow, follow_deinit)

static int follow_exit(Follow *follow, int status) {
  progress_end(follow->progress);
  return sd_event_exit(follow->event, status);
}

static void show_properties(Follow *follow, GVariant *properties) {
  if (follow->properties)
    g_variant_unref(follow->properties);
  follow->properties = g_variant_ref(properties);
  progress_update(follow->progress, properties);
}

static int on_properties(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  g_autoptr(GVariant) properties = NULL;
  follow->asked = false;
  if (!sd_bus_message_is_method_error(reply, NULL) && value_read(reply, &properties) > 0)
    show_properties(follow, properties);
  return 0;
}

static int ask_properties(Follow *follow) {
  if (follow->asked)
    return 0;
  follow->asked = true;
  return sd_bus_call_method_async(follow->context->bus, NULL, SERVICE, follow->path, "org.freedesktop.DBus.Properties",
      "GetAll", on_properties, follow, "s", JOB);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
  Follow *follow = userdata;
  (void)ask_properties(follow);
  return sd_event_source_set_time_relative(source, POLL_USEC);
}

// What changed, laid over what is known.
static int on_changed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  g_autoptr(GVariant) changed = NULL;
  const char *interface = NULL;
  if (g_strcmp0(sd_bus_message_get_path(message), follow->path) != 0 ||
      sd_bus_message_read(message, "s", &interface) < 0 || g_strcmp0(interface, JOB) != 0 ||
      value_read(message, &changed) <= 0)
    return 0;
  GVariantDict merged;
  GVariantIter iter;
  char *key = NULL;
  GVariant *value = NULL;
  g_variant_dict_init(&merged, follow->properties);
  g_variant_iter_init(&iter, changed);
  while (g_variant_iter_loop(&iter, "{sv}", &key, &value))
    g_variant_dict_insert_value(&merged, key, value);
  g_autoptr(GVariant) all = g_variant_ref_sink(g_variant_dict_end(&merged));
  show_properties(follow, all);
  return 0;
}

static int on_log(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  uint32_t priority = 0;
  const char *line = NULL;
  if (g_strcmp0(sd_bus_message_get_path(message), follow->path) != 0 ||
      sd_bus_message_read(message, "us", &priority, &line) < 0 || (priority > 4 && !follow->context->options->verbose))
    return 0;
  g_autofree char *safe = format_safe(line);
  progress_note(follow->progress, safe);
  return 0;
}

static int on_object(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  const char *plugin = NULL, *kind = NULL, *action = NULL;
  uint64_t id = 0;
  if (!follow->context->options->verbose || g_strcmp0(sd_bus_message_get_path(message), follow->path) != 0 ||
      sd_bus_message_read(message, "ssts", &plugin, &kind, &id, &action) < 0)
    return 0;
  g_autofree char *line =
      g_strdup_printf("%s %" G_GUINT64_FORMAT ": %s%s%s", kind, id, action, *plugin ? " by " : "", plugin);
  g_autofree char *safe = format_safe(line);
  progress_note(follow->progress, safe);
  return 0;
}

// The signal tells more about a failure than the error that Wait answers with, and comes first.
static int on_finished_signal(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  g_autoptr(GVariant) details = NULL;
  const char *result = NULL;
  if (g_strcmp0(sd_bus_message_get_path(message), follow->path) != 0 ||
      sd_bus_message_read(message, "s", &result) < 0 || value_read(message, &details) <= 0 ||
      !g_variant_is_of_type(details, G_VARIANT_TYPE_VARDICT) || follow->findings)
    return 0;
  follow->findings = value_dictionaries(details, "findings");
  return 0;
}

static int on_finished(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  const Options *options = follow->context->options;
  const sd_bus_error *failure = sd_bus_message_get_error(reply);
  progress_end(follow->progress);
  (void)sd_bus_call_method_async(follow->context->bus, NULL, SERVICE, follow->path, JOB, "Release", NULL, NULL, NULL);
  if (failure)
    return follow_exit(follow, report_job_error(options->json, follow->doing, failure, follow->findings));
  int r = value_read(reply, &follow->result);
  if (r <= 0)
    return follow_exit(follow, report_errno(options->json, "read the job's result", r < 0 ? r : -EBADMSG));
  return follow_exit(follow, 0);
}

static int watch_job(Follow *follow) {
  g_autoptr(sd_bus_message) wait = NULL;
  int r = sd_bus_message_new_method_call(follow->context->bus, &wait, SERVICE, follow->path, JOB, "Wait");
  if (r >= 0)
    r = sd_bus_call_async(follow->context->bus, NULL, wait, on_finished, follow, FOREVER);
  if (r >= 0)
    r = ask_properties(follow);
  if (r >= 0)
    r = sd_event_add_time_relative(
        follow->event, &follow->timer, CLOCK_MONOTONIC, POLL_USEC, POLL_USEC / 4, on_timer, follow);
  if (r >= 0)
    r = sd_event_source_set_enabled(follow->timer, SD_EVENT_ON);
  return r;
}

static int on_started(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  Follow *follow = userdata;
  const Options *options = follow->context->options;
  const char *path = NULL;
  if (sd_bus_message_is_method_error(reply, NULL))
    return follow_exit(follow, report_bus_error(options->json, follow->doing, sd_bus_message_get_error(reply)));
  int r = sd_bus_message_read(reply, "o", &path);
  if (r >= 0) {
    follow->path = g_strdup(path);
    if (options->no_wait) {
      follow->result = g_variant_ref_sink(g_variant_new_parsed("{'job': <%o>}", path));
      return follow_exit(follow, 0);
    }
    r = watch_job(follow);
  }
  return r < 0 ? follow_exit(follow, report_errno(options->json, "follow the job", r)) : 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
  Follow *follow = userdata;
  if (!follow->path) {
    progress_note(follow->progress, "checkpoint: cancelled before it began");
    return follow_exit(follow, STATUS_CANCELLED);
  }
  if (follow->cancelling) {
    progress_note(follow->progress, "checkpoint: not waiting for the job to end");
    return follow_exit(follow, STATUS_CANCELLED);
  }
  follow->cancelling = true;
  progress_note(follow->progress, "checkpoint: cancelling the job (once more: do not wait for it)");
  return sd_bus_call_method_async(
      follow->context->bus, NULL, SERVICE, follow->path, JOB, "Cancel", NULL, NULL, "a{sv}", 0);
}

static int prepare(Follow *follow) {
  sd_bus *bus = follow->context->bus;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  (void)sigprocmask(SIG_BLOCK, &signals, NULL);
  int r = sd_event_add_signal(follow->event, NULL, SIGINT, on_signal, follow);
  if (r >= 0)
    r = sd_event_add_signal(follow->event, NULL, SIGTERM, on_signal, follow);
  if (r >= 0)
    r = sd_bus_attach_event(bus, follow->event, SD_EVENT_PRIORITY_NORMAL);
  if (r >= 0)
    r = sd_bus_match_signal(
        bus, NULL, SERVICE, NULL, "org.freedesktop.DBus.Properties", "PropertiesChanged", on_changed, follow);
  if (r >= 0)
    r = sd_bus_match_signal(bus, NULL, SERVICE, NULL, JOB, "LogMessage", on_log, follow);
  if (r >= 0)
    r = sd_bus_match_signal(bus, NULL, SERVICE, NULL, JOB, "ObjectHandled", on_object, follow);
  if (r >= 0)
    r = sd_bus_match_signal(bus, NULL, SERVICE, NULL, JOB, "Finished", on_finished_signal, follow);
  return r;
}

int follow_job(Context *context, sd_bus_message *start, const char *doing, GVariant **ret_result) {
  const Options *options = context->options;
  g_autoptr(sd_event) event = NULL;
  int r = sd_event_new(&event);
  if (r < 0)
    return report_errno(options->json, doing, r);
  g_auto(Follow) follow = {.context = context, .doing = doing, .event = event};
  follow.progress = progress_new(options->no_progress || options->json);
  context_start_agent(context);
  r = prepare(&follow);
  if (r >= 0)
    r = sd_bus_call_async(context->bus, NULL, start, on_started, &follow, FOREVER);
  if (r >= 0)
    r = sd_event_loop(event);
  (void)sd_bus_detach_event(context->bus);
  if (r < 0)
    return report_errno(options->json, doing, r);
  if (r == 0)
    *ret_result = g_steal_pointer(&follow.result);
  return r;
}

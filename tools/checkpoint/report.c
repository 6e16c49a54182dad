// SPDX-License-Identifier: LGPL-2.1-or-later
// Errors: one table gives every D-Bus error name its exit status and what to do about it.
#include "report.h"

#include "format.h"
#include "json.h"
#include "sd-cleanup.h"
#include "value.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define OURS "org.criu.Checkpoint.Error."
#define STANDARD "org.freedesktop.DBus.Error."

static const struct {
  const char *name;
  int status;
  const char *hint;
} known[] = {
    {OURS "Failed", STATUS_FAILED, NULL},
    {OURS "Cancelled", STATUS_CANCELLED, NULL},
    {OURS "NotSupported", STATUS_NOT_SUPPORTED, "“checkpoint explain PID” lists everything in the way, and its cure."},
    {OURS "OptionNotPermitted", STATUS_REFUSED, "Leave the option out, or ask an administrator."},
    {OURS "NoSuchJob", STATUS_NO_SUCH, "“checkpoint jobs” lists the jobs."},
    {OURS "NoSuchCheckpoint", STATUS_NO_SUCH, "“checkpoint list” lists yours; --owner names another user's."},
    {OURS "CheckpointExists", STATUS_IN_THE_WAY, "Choose another name, or use --replace."},
    {OURS "ImageInvalid", STATUS_BAD_IMAGE, "The checkpoint is damaged; nothing was restored."},
    {OURS "ImageIncompatible", STATUS_BAD_IMAGE, "It was made by a newer version or on another kind of machine."},
    {OURS "NoSuchProcess", STATUS_NO_SUCH, NULL},
    {OURS "NotPermittedTarget", STATUS_REFUSED, "Every process of the tree must be yours, without extra privileges."},
    {OURS "Busy", STATUS_IN_THE_WAY, "“checkpoint jobs” shows what is going on."},
    {OURS "PidInUse", STATUS_IN_THE_WAY, "End the process that holds the number, or restore after a reboot."},
    {OURS "PluginFailed", STATUS_FAILED, NULL},
    {OURS "NoSpace", STATUS_FAILED, "Remove old checkpoints (“checkpoint list”, “checkpoint remove”)."},
    {OURS "TimedOut", STATUS_TIMED_OUT, "Give it longer with --timeout."},
    {OURS "EngineCrashed", STATUS_FAILED, "This is a bug. The application of a dump goes on unharmed."},
    {OURS "KernelMissingFeature", STATUS_NOT_SUPPORTED, "“checkpoint check” lists what this kernel offers."},
    {OURS "FileChanged", STATUS_BAD_IMAGE, "--external with check=none takes the file as it is, see checkpoint-external(5)."},
    {OURS "ShuttingDown", STATUS_FAILED, "Try again in a moment."},
    {STANDARD "AccessDenied", STATUS_REFUSED, "An administrator can do it, or grant it by a polkit rule."},
    {STANDARD "InteractiveAuthorizationRequired", STATUS_REFUSED, "Run it where a password can be asked for."},
    {STANDARD "LimitsExceeded", STATUS_IN_THE_WAY, "Wait for other jobs to end, or remove old checkpoints."},
    {STANDARD "InvalidArgs", STATUS_USAGE, NULL},
    {STANDARD "UnknownObject", STATUS_NO_SUCH, NULL},
    {STANDARD "UnknownMethod", STATUS_NO_SERVICE, "The service is older than this command."},
    {STANDARD "ServiceUnknown", STATUS_NO_SERVICE, "Is checkpointd installed, and its activation file with it?"},
    {STANDARD "NameHasNoOwner", STATUS_NO_SERVICE, "The service is not running."},
    {STANDARD "NoReply", STATUS_NO_SERVICE, "The service went away; its journal says why."},
    {STANDARD "Disconnected", STATUS_NO_SERVICE, "The bus went away."},
    {STANDARD "FileNotFound", STATUS_NO_SERVICE, "There is no system bus here."},
};

int report_status_of(const char *error_name) {
  for (size_t i = 0; i < G_N_ELEMENTS(known); i++)
    if (g_strcmp0(known[i].name, error_name) == 0)
      return known[i].status;
  if (error_name && g_str_has_prefix(error_name, STANDARD "Spawn."))
    return STATUS_NO_SERVICE;
  return STATUS_FAILED;
}

const char *report_hint_of(const char *error_name) {
  for (size_t i = 0; i < G_N_ELEMENTS(known); i++)
    if (g_strcmp0(known[i].name, error_name) == 0)
      return known[i].hint;
  return NULL;
}

static void print_json(const char *name, const char *message, const char *hint, GVariant *findings) {
  g_autoptr(GString) out = g_string_new("{\"error\":{\"name\":");
  json_append_string(out, name);
  g_string_append(out, ",\"message\":");
  json_append_string(out, message);
  if (hint) {
    g_string_append(out, ",\"hint\":");
    json_append_string(out, hint);
  }
  if (findings) {
    g_string_append(out, ",\"findings\":");
    json_append(out, findings);
  }
  printf("%s}}\n", out->str);
}

void report_findings(FILE *file, GVariant *findings) {
  for (gsize i = 0; i < g_variant_n_children(findings); i++) {
    g_autoptr(GVariant) finding = g_variant_get_child_value(findings, i);
    g_autofree char *object = format_safe(value_text(finding, "object"));
    g_autofree char *reason = format_safe(value_text(finding, "reason"));
    g_autofree char *cure = format_safe(value_text(finding, "cure"));
    g_autofree char *action = format_safe(value_text(finding, "action"));
    if (*action) { // an object outside that is in nobody's way
      fprintf(file, "%s\n  %s, by %s\n", object, action, reason);
      continue;
    }
    fprintf(file, "%s\n  %s\n", *object ? object : "(an object without a name)", reason);
    if (*cure)
      fprintf(file, "  cure: %s\n", cure);
  }
}

int report_usage(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  g_autofree char *text = g_strdup_vprintf(format, arguments);
  va_end(arguments);
  fprintf(stderr, "checkpoint: %s\n", text);
  return STATUS_USAGE;
}

int report_failure(bool json, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  g_autofree char *text = g_strdup_vprintf(format, arguments);
  va_end(arguments);
  fprintf(stderr, "checkpoint: %s\n", text);
  if (json)
    print_json(OURS "Failed", text, NULL, NULL);
  return STATUS_FAILED;
}

int report_job_error(bool json, const char *doing, const sd_bus_error *error, GVariant *findings) {
  const char *name = error->name ? error->name : OURS "Failed";
  const char *message = error->message ? error->message : "no reason given";
  const char *hint = findings ? NULL : report_hint_of(name);
  g_autofree char *safe = format_safe_lines(message);

  fprintf(stderr, "checkpoint: cannot %s: %s\n", doing, findings ? "something is in the way" : safe);
  fprintf(stderr, "  (%s)\n", name);
  if (findings)
    report_findings(stderr, findings);
  if (hint)
    fprintf(stderr, "  %s\n", hint);
  if (json)
    print_json(name, message, hint, findings);
  return report_status_of(name);
}

int report_bus_error(bool json, const char *doing, const sd_bus_error *error) {
  return report_job_error(json, doing, error, NULL);
}

int report_errno(bool json, const char *doing, int r) {
  g_auto(sd_bus_error) error = SD_BUS_ERROR_NULL;
  sd_bus_error_set_errno(&error, r);
  return report_bus_error(json, doing, &error);
}

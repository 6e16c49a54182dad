/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.criu.Checkpoint.Manager: the vtable, properties and small methods. What makes
 * jobs: manager-jobs.c. */
#include "manager-bus.h"

#include <errno.h>

#include "config.h"
#include "daemon-error.h"
#include "manager-calls.h"
#include "sd-auto.h"
#include "subscriber.h"
#include "values.h"

#define INTERFACE_VERSION 2U

static int on_method(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  const CallHandler *handler = manager_call_find(sd_bus_message_get_member(message));

  return handler ? call_begin(userdata, message, handler) : -EACCES;
}

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
    sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  return sd_bus_message_append(reply, "s", CHECKPOINTD_VERSION);
}

static int get_interface_version(sd_bus *bus, const char *path, const char *interface, const char *property,
    sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  return sd_bus_message_append(reply, "u", INTERFACE_VERSION);
}

static int get_features(sd_bus *bus, const char *path, const char *interface, const char *property,
    sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  return sd_bus_message_append(reply, "as", 7, "explain", "progress", "replace", "durable", "self-dump", "directories",
      "hooks");
}

static int get_limit(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
    void *userdata, sd_bus_error *error) {
  const Manager *manager = userdata;
  bool per_user = g_str_equal(property, "MaxJobsPerUser");

  return sd_bus_message_append(reply, "u", per_user ? manager->limits.jobs_per_user : manager->limits.jobs_running);
}

static int get_count(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
    void *userdata, sd_bus_error *error) {
  const Manager *manager = userdata;
  bool running = g_str_equal(property, "JobsRunning");

  return sd_bus_message_append(reply, "u", running ? queue_running(manager->queue) : queue_waiting(manager->queue));
}

void manager_bus_update_counts(Manager *manager) {
  g_autoptr(sd_bus_message) signal = NULL;
  unsigned running = queue_running(manager->queue), queued = queue_waiting(manager->queue);

  if (running == manager->shown_running && queued == manager->shown_queued)
    return;
  manager->shown_running = running;
  manager->shown_queued = queued;
  if (g_hash_table_size(manager->subscribers) == 0)
    return;
  if (sd_bus_message_new_signal(
          manager->bus, &signal, MANAGER_PATH, "org.freedesktop.DBus.Properties", "PropertiesChanged") < 0 ||
      sd_bus_message_append(
          signal, "sa{sv}as", MANAGER_INTERFACE, 2, "JobsRunning", "u", running, "JobsQueued", "u", queued, 0) < 0)
    return;
  subscriber_notify(manager, signal, NULL, (uid_t)-1);
}

void manager_bus_signal_job(const BusJob *bus_job, bool is_new) {
  g_autoptr(sd_bus_message) signal = NULL;
  g_autoptr(GVariant) properties = NULL;
  Manager *manager = bus_job->manager;
  int r;

  r = sd_bus_message_new_signal(
      manager->bus, &signal, MANAGER_PATH, MANAGER_INTERFACE, is_new ? "JobNew" : "JobRemoved");
  if (r >= 0)
    r = sd_bus_message_append(signal, "o", bus_job->path);
  if (r >= 0 && is_new) {
    properties = bus_job_describe(bus_job);
    r = values_append(signal, properties);
  } else if (r >= 0)
    r = sd_bus_message_append(signal, "s", job_result_name(bus_job->job));
  if (r >= 0)
    subscriber_notify(manager, signal, bus_job->owner_name, bus_job->job->owner);
}

#define CONSTANT SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define ANYONE SD_BUS_VTABLE_UNPRIVILEGED
#define DUMP_ARGS SD_BUS_ARGS("u", pid, "s", name, "a{sv}", options)
#define NAME_ARGS SD_BUS_ARGS("s", name, "a{sv}", options)

static const sd_bus_vtable manager_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Dump", DUMP_ARGS, SD_BUS_RESULT("a{sv}", result), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("Restore", NAME_ARGS, SD_BUS_RESULT("a{sv}", result), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("PreDump", DUMP_ARGS, SD_BUS_RESULT("a{sv}", result), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("StartDump", DUMP_ARGS, SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("StartPreDump", DUMP_ARGS, SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("StartRestore", NAME_ARGS, SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("StartDumpSelf", NAME_ARGS, SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "DumpSelfTo", SD_BUS_ARGS("h", directory, "a{sv}", options), SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("DumpTo", SD_BUS_ARGS("h", pidfd, "h", directory, "a{sv}", options),
        SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "RestoreFrom", SD_BUS_ARGS("h", directory, "a{sv}", options), SD_BUS_RESULT("o", job), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("RegisterApplication", SD_BUS_ARGS("h", connection, "a{sv}", options), SD_BUS_NO_RESULT,
        on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "Explain", SD_BUS_ARGS("u", pid, "a{sv}", options), SD_BUS_RESULT("aa{sv}", findings), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "Check", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("b", usable, "a{sv}", report), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "ListCheckpoints", SD_BUS_ARGS("a{sv}", filter), SD_BUS_RESULT("a(sa{sv})", checkpoints), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("DescribeCheckpoint", NAME_ARGS, SD_BUS_RESULT("a{sv}", description), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("RemoveCheckpoint", NAME_ARGS, SD_BUS_NO_RESULT, on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS(
        "ListJobs", SD_BUS_ARGS("a{sv}", filter), SD_BUS_RESULT("a(oa{sv})", jobs), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("ListPlugins", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sa{sv})", plugins), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("Subscribe", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("Unsubscribe", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_method, ANYONE),
    SD_BUS_SIGNAL_WITH_ARGS("JobNew", SD_BUS_ARGS("o", job, "a{sv}", properties), 0),
    SD_BUS_SIGNAL_WITH_ARGS("JobRemoved", SD_BUS_ARGS("o", job, "s", result), 0),
    SD_BUS_PROPERTY("Version", "s", get_version, 0, CONSTANT),
    SD_BUS_PROPERTY("InterfaceVersion", "u", get_interface_version, 0, CONSTANT),
    SD_BUS_PROPERTY("EngineVersion", "s", get_version, 0, CONSTANT),
    SD_BUS_PROPERTY("Features", "as", get_features, 0, CONSTANT),
    SD_BUS_PROPERTY("MaxJobsRunning", "u", get_limit, 0, CONSTANT),
    SD_BUS_PROPERTY("MaxJobsPerUser", "u", get_limit, 0, CONSTANT),
    SD_BUS_PROPERTY("JobsRunning", "u", get_count, 0, CHANGES),
    SD_BUS_PROPERTY("JobsQueued", "u", get_count, 0, CHANGES),
    SD_BUS_VTABLE_END,
};

int manager_bus_install(Manager *manager) {
  return sd_bus_add_object_vtable(manager->bus, NULL, MANAGER_PATH, MANAGER_INTERFACE, manager_vtable, manager);
}

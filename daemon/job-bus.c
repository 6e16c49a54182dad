/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.criu.Checkpoint.Job: properties, methods. What it signals: job-signal.c.
 *
 * sd-bus answers property reads synchronously and asks nobody. Here a read of somebody
 * else's job may need a question to polkit, so Get and GetAll are taken by a filter
 * before sd-bus sees them; the vtable's own getter always refuses. */
#include "job-bus.h"

#include <errno.h>
#include <inttypes.h>

#include "daemon-error.h"
#include "manager-bus.h"
#include "sd-auto.h"
#include "subscriber.h"
#include "values.h"

#define PROPERTIES "org.freedesktop.DBus.Properties"
#define WAITERS_MAX 64

typedef struct Waiter {
  sd_bus_message *message;
  ReplyForm form;
} Waiter;

static void waiter_free(void *data) {
  Waiter *waiter = data;

  (void)sd_bus_message_unref(waiter->message);
  g_free(waiter);
}

static GVariant *text(const char *value) {
  return g_variant_new_string(value ? value : "");
}

static GVariant *get_id(const Job *job) {
  return g_variant_new_uint64(job->id);
}
static GVariant *get_operation(const Job *job) {
  return text(job_operation_name(job));
}
static GVariant *get_owner(const Job *job) {
  return g_variant_new_uint32(job->owner);
}
static GVariant *get_target(const Job *job) {
  return g_variant_new_uint32(job->target ? (uint32_t)job->target->pid : 0);
}
static GVariant *get_name(const Job *job) {
  return text(job->name);
}
static GVariant *get_start_time(const Job *job) {
  return g_variant_new_uint64(job->start_time);
}
static GVariant *get_state(const Job *job) {
  return text(job_state_name(job));
}
static GVariant *get_phase(const Job *job) {
  return text(job->phase);
}
static GVariant *get_progress(const Job *job) {
  double fraction;

  (void)job_progress(job, &fraction);
  return g_variant_new_double(fraction);
}
static GVariant *get_progress_valid(const Job *job) {
  double fraction;

  return g_variant_new_boolean(job_progress(job, &fraction));
}
static GVariant *get_bytes_total(const Job *job) {
  return g_variant_new_uint64(job->bytes_total);
}
static GVariant *get_bytes_done(const Job *job) {
  return g_variant_new_uint64(job->bytes_done);
}
static GVariant *get_rate(const Job *job) {
  return g_variant_new_uint64(job_rate(job));
}
static GVariant *get_expected_end_time(const Job *job) {
  return g_variant_new_uint64(job_expected_end_time(job));
}
static GVariant *get_cancelable(const Job *job) {
  return g_variant_new_boolean(job->state == JOB_QUEUED || job->state == JOB_RUNNING);
}
static GVariant *get_result(const Job *job) {
  return text(job_result_name(job));
}
static GVariant *get_error_name(const Job *job) {
  return text(job->error ? daemon_error_name(job->error->code) : NULL);
}
static GVariant *get_error_message(const Job *job) {
  return text(job->error ? job->error->message : NULL);
}

/* @changed 0: constant or unsignalled. */
static const struct {
  const char *name;
  GVariant *(*get)(const Job *job);
  unsigned changed;
} property_table[] = {
    {"Id", get_id, 0},
    {"Operation", get_operation, 0},
    {"OwnerUID", get_owner, 0},
    {"TargetPID", get_target, 0},
    {"Name", get_name, 0},
    {"StartTime", get_start_time, 0},
    {"State", get_state, JOB_CHANGED_STATE},
    {"Phase", get_phase, JOB_CHANGED_PHASE},
    {"Progress", get_progress, JOB_CHANGED_PROGRESS},
    {"ProgressValid", get_progress_valid, JOB_CHANGED_PROGRESS},
    {"BytesTotal", get_bytes_total, JOB_CHANGED_PROGRESS},
    {"ExpectedEndTime", get_expected_end_time, JOB_CHANGED_PROGRESS},
    {"Cancelable", get_cancelable, JOB_CHANGED_STATE},
    {"Result", get_result, JOB_CHANGED_RESULT},
    {"ErrorName", get_error_name, JOB_CHANGED_RESULT},
    {"ErrorMessage", get_error_message, JOB_CHANGED_RESULT},
    {"BytesDone", get_bytes_done, 0},
    {"Rate", get_rate, 0},
};

/* Of all properties, or of those that @changed names. */
static GVariant *collect_properties(const Job *job, unsigned changed) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);

  for (size_t i = 0; i < G_N_ELEMENTS(property_table); i++)
    if (changed == ~0U || (property_table[i].changed & changed) != 0)
      g_variant_dict_insert_value(&dict, property_table[i].name, property_table[i].get(job));
  if (changed == ~0U && job->options.token)
    g_variant_dict_insert(&dict, "token", "s", job->options.token);
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

GVariant *bus_job_describe(const BusJob *bus_job) {
  return collect_properties(bus_job->job, ~0U);
}

void bus_job_flush(BusJob *bus_job) {
  g_autoptr(sd_bus_message) signal = NULL;
  g_autoptr(GVariant) changes = NULL;

  g_clear_pointer(&bus_job->signal_timer, sd_event_source_disable_unref);
  if (bus_job->dirty == 0)
    return;
  bus_job_announce(bus_job);
  changes = collect_properties(bus_job->job, bus_job->dirty);
  bus_job->dirty = 0;
  bus_job->signalled = g_get_monotonic_time();
  if (sd_bus_message_new_signal(bus_job->manager->bus, &signal, bus_job->path, PROPERTIES, "PropertiesChanged") < 0 ||
      sd_bus_message_append(signal, "s", JOB_INTERFACE) < 0 || values_append(signal, changes) < 0 ||
      sd_bus_message_append(signal, "as", 0) < 0)
    return;
  subscriber_notify(bus_job->manager, signal, bus_job->owner_name, bus_job->job->owner);
}

BusJob *bus_job_find(Manager *manager, uint64_t id) {
  return g_hash_table_lookup(manager->jobs, &id);
}

void bus_job_free(BusJob *bus_job) {
  if (!bus_job)
    return;
  (void)sd_bus_track_unref(bus_job->track);
  (void)sd_event_source_disable_unref(bus_job->signal_timer);
  (void)sd_event_source_disable_unref(bus_job->linger_timer);
  g_ptr_array_unref(bus_job->waiters);
  g_free(bus_job->owner_name);
  g_free(bus_job->path);
  job_free(bus_job->job);
  g_free(bus_job);
}

static int on_owner_gone(sd_bus_track *track, void *userdata) {
  BusJob *bus_job = userdata;

  job_cancel(bus_job->job, g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__CANCELLED, "The caller has left"));
  return 1;
}

BusJob *bus_job_new(Manager *manager, Job *job, const char *owner_name) {
  BusJob *bus_job = g_new0(BusJob, 1);

  bus_job->manager = manager;
  bus_job->job = job;
  bus_job->owner_name = g_strdup(owner_name);
  bus_job->path = g_strdup_printf(JOB_PATH_PREFIX "/%" PRIu64, job->id);
  bus_job->waiters = g_ptr_array_new_with_free_func(waiter_free);
  job->observer_data = bus_job;
  /* A job that is over in a moment has one change to tell, not three. */
  bus_job->signalled = g_get_monotonic_time() - SIGNAL_INTERVAL_USEC + SIGNAL_FIRST_USEC;
  g_hash_table_insert(manager->jobs, &job->id, bus_job);
  if (job->options.cancel_on_disconnect && sd_bus_track_new(manager->bus, &bus_job->track, on_owner_gone, bus_job) >= 0)
    (void)sd_bus_track_add_name(bus_job->track, owner_name);
  return bus_job;
}

/* The engine's "usable" is a flag or a number; without it nothing is wrong. */
static int is_usable(GVariant *result) {
  gboolean flag = TRUE;
  guint64 number = 1;

  (void)g_variant_lookup(result, "usable", "b", &flag);
  (void)g_variant_lookup(result, "usable", "t", &number);
  return flag && number != 0;
}

static int reply_result(const BusJob *bus_job, const Waiter *waiter) {
  g_autoptr(sd_bus_message) reply = NULL;
  const Job *job = bus_job->job;
  int r = sd_bus_message_new_method_return(waiter->message, &reply);

  if (r < 0)
    return r;
  if (waiter->form == REPLY_FINDINGS)
    r = values_append(reply, job->findings);
  if (waiter->form == REPLY_CHECK)
    r = sd_bus_message_append(reply, "b", is_usable(job->result));
  if (r >= 0 && waiter->form != REPLY_FINDINGS)
    r = values_append(reply, job->result);
  return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

int bus_job_reply_description(sd_bus_message *message, Description *description, const GError *error) {
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) all = description_end(description, error);
  int r = sd_bus_message_new_method_return(message, &reply);

  if (r >= 0)
    r = values_append(reply, all);
  return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* Each row under its name. */
static int reply_plugins(const BusJob *bus_job, sd_bus_message *message) {
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) rows = description_end_plugins(bus_job->job->description);
  int r = sd_bus_message_new_method_return(message, &reply);

  if (r >= 0)
    r = sd_bus_message_open_container(reply, 'a', "(sa{sv})");
  for (size_t i = 0; r >= 0 && i < g_variant_n_children(rows); i++) {
    g_autoptr(GVariant) row = g_variant_get_child_value(rows, i);
    const char *name = "";

    (void)g_variant_lookup(row, "name", "&s", &name);
    r = sd_bus_message_open_container(reply, 'r', "sa{sv}");
    if (r >= 0)
      r = sd_bus_message_append_basic(reply, 's', name);
    if (r >= 0)
      r = values_append(reply, row);
    if (r >= 0)
      r = sd_bus_message_close_container(reply);
  }
  if (r >= 0)
    r = sd_bus_message_close_container(reply);
  return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* The call goes before its answer: it holds the descriptors that came with it, and once the answer is out, a self-dump
 * counts on nobody but its engine having them. */
static int reply_path(const BusJob *bus_job, Waiter *waiter) {
  g_autoptr(sd_bus_message) reply = NULL;
  int r = sd_bus_message_new_method_return(waiter->message, &reply);

  waiter->message = sd_bus_message_unref(waiter->message);
  if (r >= 0)
    r = sd_bus_message_append(reply, "o", bus_job->path);
  return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static void waiter_answer(const BusJob *bus_job, Waiter *waiter) {
  int r;

  if (waiter->form == REPLY_PATH && (bus_job->job->ready || !bus_job->job->error))
    r = reply_path(bus_job, waiter);
  else if (waiter->form == REPLY_DESCRIPTION)
    r = bus_job_reply_description(waiter->message, bus_job->job->description, bus_job->job->error);
  else if (bus_job->job->error)
    r = daemon_error_reply(waiter->message, bus_job->job->error);
  else if (waiter->form == REPLY_NOTHING)
    r = sd_bus_reply_method_return(waiter->message, NULL);
  else if (waiter->form == REPLY_PLUGINS)
    r = reply_plugins(bus_job, waiter->message);
  else
    r = reply_result(bus_job, waiter);
  if (r < 0)
    g_printerr("Cannot answer a call about job %" PRIu64 ": %s\n", bus_job->job->id, g_strerror(-r));
}

void bus_job_answer(BusJob *bus_job) {
  bool over = job_is_over(bus_job->job);
  bool started = bus_job->job->ready || bus_job->job->state == JOB_QUEUED;

  for (size_t i = 0; i < bus_job->waiters->len;) {
    Waiter *waiter = g_ptr_array_index(bus_job->waiters, i);

    if (over || (waiter->form == REPLY_PATH && started)) {
      waiter_answer(bus_job, waiter);
      g_ptr_array_remove_index(bus_job->waiters, i);
    } else
      i++;
  }
}

int bus_job_add_waiter(BusJob *bus_job, sd_bus_message *message, ReplyForm form) {
  Waiter *waiter;

  if (bus_job->waiters->len >= WAITERS_MAX)
    return -ENOBUFS;
  waiter = g_new0(Waiter, 1);
  waiter->message = sd_bus_message_ref(message);
  waiter->form = form;
  g_ptr_array_add(bus_job->waiters, waiter);
  bus_job_answer(bus_job);
  return 0;
}

/* Methods and property reads */

static bool parse_job(Call *call, GError **error) {
  const char *path = sd_bus_message_get_path(call->message);
  BusJob *bus_job = NULL;

  if (g_str_has_prefix(path, JOB_PATH_PREFIX "/") &&
      g_ascii_string_to_unsigned(path + strlen(JOB_PATH_PREFIX "/"), 10, 0, UINT64_MAX, &call->job_id, NULL))
    bus_job = bus_job_find(call->manager, call->job_id);
  if (!bus_job) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_JOB, "There is no job %s", path);
    return false;
  }
  call->owner = bus_job->job->owner;
  call->any = call->owner != call->caller->uid;
  return true;
}

static bool parse_job_options(Call *call, GError **error) {
  return parse_job(call, error) && job_options_read(&call->options, call->message, OPTION_FOR_CANCEL, error);
}

/* Jobs can go while polkit thinks. */
static BusJob *find_again(Call *call, GError **error) {
  BusJob *bus_job = bus_job_find(call->manager, call->job_id);

  if (!bus_job)
    g_set_error(
        error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_JOB, "There is no job %" PRIu64 " any more", call->job_id);
  return bus_job;
}

static bool proceed_wait(Call *call, GError **error) {
  BusJob *bus_job = find_again(call, error);

  if (!bus_job)
    return false;
  if (bus_job_add_waiter(bus_job, call->message, REPLY_RESULT) < 0) {
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED, "Too many wait for this job");
    return false;
  }
  return true;
}

static bool proceed_cancel(Call *call, GError **error) {
  BusJob *bus_job = find_again(call, error);

  if (!bus_job)
    return false;
  (void)sd_bus_reply_method_return(call->message, NULL);
  job_cancel(bus_job->job, NULL);
  return true;
}

static bool proceed_release(Call *call, GError **error) {
  BusJob *bus_job = find_again(call, error);

  if (!bus_job)
    return false;
  (void)sd_bus_reply_method_return(call->message, NULL);
  bus_job->released = true;
  if (job_is_over(bus_job->job))
    bus_job_remove(bus_job);
  return true;
}

static bool parse_property(Call *call, GError **error) {
  const char *interface, *property = NULL;

  if (sd_bus_message_read(call->message, "s", &interface) < 0 ||
      (g_str_equal(sd_bus_message_get_member(call->message), "Get") &&
          sd_bus_message_read(call->message, "s", &property) < 0)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "The message cannot be read");
    return false;
  }
  if (property && !access_find(JOB_INTERFACE, property)) {
    g_autofree char *shown = g_strescape(property, NULL);
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "There is no property '%.64s'", shown);
    return false;
  }
  call->name = g_strdup(property);
  return parse_job(call, error);
}

static bool proceed_property(Call *call, GError **error) {
  g_autoptr(sd_bus_message) reply = NULL;
  g_autoptr(GVariant) all = NULL, value = NULL;
  BusJob *bus_job = find_again(call, error);
  int r;

  if (!bus_job)
    return false;
  all = collect_properties(bus_job->job, ~0U);
  if (call->name)
    value = g_variant_lookup_value(all, call->name, NULL);
  r = sd_bus_message_new_method_return(call->message, &reply);
  if (r >= 0 && call->name)
    r = value ? values_append_variant(reply, value) : -EINVAL;
  else if (r >= 0)
    r = values_append(reply, all);
  if (r >= 0)
    r = sd_bus_send(NULL, reply, NULL);
  return r >= 0 || daemon_error_set_errno(error, -r, "Cannot read the property");
}

/* Every property has the same row, so that one of them stands for all. */
static const CallHandler property_handler = {JOB_INTERFACE, "State", parse_property, proceed_property};

static const CallHandler handlers[] = {
    {JOB_INTERFACE, "Wait", parse_job, proceed_wait},
    {JOB_INTERFACE, "Cancel", parse_job_options, proceed_cancel},
    {JOB_INTERFACE, "Release", parse_job, proceed_release},
};

static int on_method(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++)
    if (g_str_equal(handlers[i].member, sd_bus_message_get_member(message)))
      return call_begin(userdata, message, &handlers[i]);
  return -EACCES;
}

static int property_refused(sd_bus *bus, const char *path, const char *interface, const char *property,
    sd_bus_message *reply, void *userdata, sd_bus_error *error) {
  return -EACCES;
}

/* Properties.Get and GetAll of our interface (or of all, "") on a job's path. */
static int on_message(sd_bus_message *message, void *userdata, sd_bus_error *error) {
  Manager *manager = userdata;
  const char *path = sd_bus_message_get_path(message), *interface;
  uint64_t id;

  if (!path || !g_str_has_prefix(path, JOB_PATH_PREFIX "/") ||
      (!sd_bus_message_is_method_call(message, PROPERTIES, "Get") &&
          !sd_bus_message_is_method_call(message, PROPERTIES, "GetAll")))
    return 0;
  if (!g_ascii_string_to_unsigned(path + strlen(JOB_PATH_PREFIX "/"), 10, 0, UINT64_MAX, &id, NULL) ||
      !bus_job_find(manager, id) || sd_bus_message_read_basic(message, 's', &interface) < 0)
    return 0;
  (void)sd_bus_message_rewind(message, true);
  if (interface[0] != '\0' && !g_str_equal(interface, JOB_INTERFACE))
    return 0;
  return call_begin(manager, message, &property_handler);
}

static int find_job(
    sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret, sd_bus_error *error) {
  uint64_t id;

  if (!g_str_has_prefix(path, JOB_PATH_PREFIX "/") ||
      !g_ascii_string_to_unsigned(path + strlen(JOB_PATH_PREFIX "/"), 10, 0, UINT64_MAX, &id, NULL) ||
      !bus_job_find(userdata, id))
    return 0;
  *ret = userdata;
  return 1;
}

#define CONSTANT SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define PROPERTY(name, signature, flags) SD_BUS_PROPERTY(name, signature, property_refused, 0, flags)
#define ANYONE SD_BUS_VTABLE_UNPRIVILEGED

static const sd_bus_vtable job_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Wait", SD_BUS_NO_ARGS, SD_BUS_RESULT("a{sv}", result), on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, on_method, ANYONE),
    SD_BUS_METHOD_WITH_ARGS("Release", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_method, ANYONE),
    SD_BUS_SIGNAL_WITH_ARGS(
        "ObjectHandled", SD_BUS_ARGS("s", plugin, "s", kind, "t", id, "s", action, "a{sv}", details), 0),
    SD_BUS_SIGNAL_WITH_ARGS("LogMessage", SD_BUS_ARGS("u", priority, "s", line), 0),
    SD_BUS_SIGNAL_WITH_ARGS("Finished", SD_BUS_ARGS("s", result, "a{sv}", details), 0),
    PROPERTY("Id", "t", CONSTANT),
    PROPERTY("Operation", "s", CONSTANT),
    PROPERTY("OwnerUID", "u", CONSTANT),
    PROPERTY("TargetPID", "u", CONSTANT),
    PROPERTY("Name", "s", CONSTANT),
    PROPERTY("StartTime", "t", CONSTANT),
    PROPERTY("State", "s", CHANGES),
    PROPERTY("Phase", "s", CHANGES),
    PROPERTY("Progress", "d", CHANGES),
    PROPERTY("ProgressValid", "b", CHANGES),
    PROPERTY("BytesTotal", "t", CHANGES),
    PROPERTY("ExpectedEndTime", "t", CHANGES),
    PROPERTY("Cancelable", "b", CHANGES),
    PROPERTY("Result", "s", CHANGES),
    PROPERTY("ErrorName", "s", CHANGES),
    PROPERTY("ErrorMessage", "s", CHANGES),
    PROPERTY("BytesDone", "t", 0),
    PROPERTY("Rate", "t", 0),
    SD_BUS_VTABLE_END,
};

int job_bus_install(Manager *manager) {
  int r = sd_bus_add_filter(manager->bus, NULL, on_message, manager);

  if (r >= 0)
    r = sd_bus_add_fallback_vtable(manager->bus, NULL, JOB_PATH_PREFIX, JOB_INTERFACE, job_vtable, find_job, manager);
  return r;
}

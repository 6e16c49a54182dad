/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bus process as a whole: its parts, its engines, and how it comes and goes.
 *
 * Going without losing a call: when nothing is left to do for a while, the name is given
 * up, and only the bus' answer to that ends the process. All calls sent to the name
 * before were delivered before that answer; if one of them made work, the name is asked
 * for again. A call after it starts the service anew. */
#include "manager.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "call.h"
#include "daemon-error.h"
#include "job-bus.h"
#include "manager-bus.h"
#include "sd-auto.h"
#include "subscriber.h"

#define IDLE_USEC (30 * G_USEC_PER_SEC)
#define LINGER_USEC (60 * G_USEC_PER_SEC)

static uint64_t usec_from_environment(const char *name, uint64_t otherwise) {
  const char *text = getenv(name);

  return text ? g_ascii_strtoull(text, NULL, 10) : otherwise;
}

/* Engines */

static void on_engine_ready(EngineLink *link, int error, void *userdata) {
  queue_engine_ready(((Manager *)userdata)->queue, link, error);
}

static void on_engine_exited(pid_t pid, int status, void *userdata) {
  Manager *manager = userdata;
  Job *job = queue_find_engine(manager->queue, pid);

  if (job)
    job_engine_exited(job, status);
  (void)g_hash_table_remove(manager->retired, GINT_TO_POINTER(pid));
}

static void on_spawner_lost(void *userdata) {
  g_printerr("The spawner has died\n");
  (void)sd_event_exit(((Manager *)userdata)->event, EXIT_FAILURE);
}

static const SpawnerHandlers spawner_handlers = {
    .ready = on_engine_ready,
    .exited = on_engine_exited,
    .lost = on_spawner_lost,
};

void manager_retire_engine(Manager *manager, EngineLink *link) {
  engine_link_retire(link);
  g_hash_table_insert(manager->retired, GINT_TO_POINTER(engine_link_pid(link)), link);
}

bool manager_owns_process(const Manager *manager, pid_t pid) {
  return pid == getpid() || spawner_client_owns(manager->spawner, pid) || queue_find_engine(manager->queue, pid) ||
         g_hash_table_contains(manager->retired, GINT_TO_POINTER(pid));
}

/* Life */

void manager_free(Manager *manager) {
  if (!manager)
    return;
  g_clear_pointer(&manager->calls, g_hash_table_unref);
  g_clear_pointer(&manager->jobs, g_hash_table_unref);
  g_clear_pointer(&manager->subscribers, g_hash_table_unref);
  g_clear_pointer(&manager->retired, g_hash_table_unref);
  applications_free(manager->applications);
  queue_free(manager->queue);
  spawner_client_free(manager->spawner);
  store_free(manager->store);
  (void)sd_event_source_disable_unref(manager->idle_timer);
  (void)sd_bus_flush_close_unref(manager->bus);
  (void)sd_event_unref(manager->event);
  g_free(manager);
}

static void call_destroy(void *call) {
  call_free(call);
}

static void bus_job_destroy(void *bus_job) {
  bus_job_free(bus_job);
}

static void link_destroy(void *link) {
  engine_link_free(link);
}

Manager *manager_new(const ManagerPaths *paths, int spawner_fd, GError **error) {
  g_autoptr(Manager) manager = g_new0(Manager, 1);
  int r;

  manager->idle_usec = usec_from_environment("CHECKPOINTD_IDLE_USEC", IDLE_USEC);
  manager->linger_usec = usec_from_environment("CHECKPOINTD_LINGER_USEC", LINGER_USEC);
  manager->calls = g_hash_table_new_full(g_direct_hash, g_direct_equal, call_destroy, NULL);
  manager->jobs = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, bus_job_destroy);
  manager->retired = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, link_destroy);
  manager->subscribers = subscriber_table_new();
  r = sd_event_default(&manager->event);
  if (r >= 0)
    r = spawner_client_new(manager->event, spawner_fd, &spawner_handlers, manager, &manager->spawner);
  if (r < 0)
    return daemon_error_set_errno(error, -r, "Cannot watch the spawner"), NULL;
  manager->applications = applications_new(manager->event);
  if (!limits_load(&manager->limits, paths->config, error))
    return NULL;
  manager->store = store_new(paths->store, error);
  if (!manager->store)
    return NULL;
  manager->queue = queue_new(&manager->limits, manager->spawner);
  return g_steal_pointer(&manager);
}

/* The bus that started us, which may be a private one; else the system's. */
static int open_bus(sd_bus **ret) {
  const char *address = getenv("DBUS_STARTER_ADDRESS");
  g_autoptr(sd_bus) bus = NULL;
  int r;

  if (!address)
    return sd_bus_open_system(ret);
  r = sd_bus_new(&bus);
  if (r >= 0)
    r = sd_bus_set_address(bus, address);
  if (r >= 0)
    r = sd_bus_set_bus_client(bus, 1);
  if (r >= 0)
    r = sd_bus_start(bus);
  if (r >= 0)
    *ret = g_steal_pointer(&bus);
  return r;
}

int manager_connect(Manager *manager) {
  int r = daemon_error_register();

  if (r >= 0)
    r = open_bus(&manager->bus);
  if (r >= 0)
    r = sd_bus_attach_event(manager->bus, manager->event, SD_EVENT_PRIORITY_NORMAL);
  if (r >= 0)
    r = sd_bus_set_exit_on_disconnect(manager->bus, 1);
  if (r >= 0)
    r = manager_bus_install(manager);
  return r < 0 ? r : job_bus_install(manager);
}

static bool is_working(const Manager *manager) {
  return queue_running(manager->queue) + queue_waiting(manager->queue) > 0 || g_hash_table_size(manager->calls) > 0;
}

/* Jobs that are over are still somebody's to look at. */
static bool is_idle(const Manager *manager) {
  return !is_working(manager) && g_hash_table_size(manager->jobs) == 0 && g_hash_table_size(manager->subscribers) == 0 &&
         applications_count(manager->applications) == 0;
}

static int on_name_back(sd_bus_message *reply, void *userdata, sd_bus_error *unused) {
  Manager *manager = userdata;
  uint32_t answer = 0;

  /* Another instance may have it already; then what was begun here is just finished. */
  manager->named = sd_bus_message_read_basic(reply, 'u', &answer) >= 0 && answer == 1;
  return 1;
}

static int on_name_released(sd_bus_message *reply, void *userdata, sd_bus_error *unused) {
  Manager *manager = userdata;

  manager->releasing = false;
  manager->named = false;
  if (manager->shutting_down ? !is_working(manager) : is_idle(manager))
    return sd_event_exit(manager->event, EXIT_SUCCESS);
  if (!manager->shutting_down)
    (void)sd_bus_request_name_async(manager->bus, NULL, SERVICE_NAME, 0, on_name_back, manager);
  return 1;
}

static void leave(Manager *manager) {
  int r;

  if (manager->releasing)
    return;
  if (!manager->named) {
    (void)sd_event_exit(manager->event, EXIT_SUCCESS);
    return;
  }
  manager->releasing = true;
  r = sd_bus_release_name_async(manager->bus, NULL, SERVICE_NAME, on_name_released, manager);
  if (r < 0)
    (void)sd_event_exit(manager->event, r);
}

static int on_idle_timer(sd_event_source *source, uint64_t usec, void *userdata) {
  Manager *manager = userdata;

  if (is_idle(manager))
    leave(manager);
  return 0;
}

/* After anything happened at all: the time without work begins anew. */
static int on_any_event(sd_event_source *source, void *userdata) {
  Manager *manager = userdata;

  if (manager->releasing)
    return 0;
  if (manager->shutting_down) {
    if (!is_working(manager))
      leave(manager);
    return 0;
  }
  if (!is_idle(manager))
    return sd_event_source_set_enabled(manager->idle_timer, SD_EVENT_OFF);
  (void)sd_event_source_set_time_relative(manager->idle_timer, manager->idle_usec);
  return sd_event_source_set_enabled(manager->idle_timer, SD_EVENT_ONESHOT);
}

/* Jobs are cancelled in order, their callers told, their trees cured; then it ends. */
static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
  Manager *manager = userdata;

  manager->shutting_down = true;
  call_refuse_all(manager);
  queue_cancel_all(manager->queue, ENGINE_ERROR_CODE__SHUTTING_DOWN, "The service is being stopped");
  return 0;
}

int manager_run(Manager *manager) {
  g_autoptr(sd_event_source) post = NULL, term = NULL, interrupt = NULL;
  int r;

  store_recover(manager->store);
  r = sd_event_add_signal(manager->event, &term, SIGTERM, on_terminate, manager);
  if (r >= 0)
    r = sd_event_add_signal(manager->event, &interrupt, SIGINT, on_terminate, manager);
  if (r >= 0)
    r = sd_event_add_time_relative(manager->event, &manager->idle_timer, CLOCK_MONOTONIC, manager->idle_usec,
        manager->idle_usec / 100, on_idle_timer, manager);
  if (r >= 0)
    r = sd_event_add_post(manager->event, &post, on_any_event, manager);
  if (r >= 0)
    r = sd_bus_request_name(manager->bus, SERVICE_NAME, 0);
  if (r < 0)
    return r;
  manager->named = true;
  spawner_client_prepare(manager->spawner);
  return sd_event_loop(manager->event);
}

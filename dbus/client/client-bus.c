/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client-bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "libcheckpoint.h"

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* The thread that holds it is not in the child. */
static void forget_lock(void) {
  (void)pthread_mutex_init(&one_at_a_time, NULL);
}

__attribute__((constructor)) static void watch_forks(void) {
  (void)pthread_atfork(NULL, NULL, forget_lock);
}

void checkpoint_client_lock(void) {
  (void)pthread_mutex_lock(&one_at_a_time);
}

void checkpoint_client_unlock(void) {
  (void)pthread_mutex_unlock(&one_at_a_time);
}

/* The names of org.criu.Checkpoint(5) that mean something else than EIO. */
static const sd_bus_error_map errors[] = {
    SD_BUS_ERROR_MAP(SERVICE ".Error.Cancelled", ECANCELED),
    SD_BUS_ERROR_MAP(SERVICE ".Error.NotSupported", EOPNOTSUPP),
    SD_BUS_ERROR_MAP(SERVICE ".Error.OptionNotPermitted", EPERM),
    SD_BUS_ERROR_MAP(SERVICE ".Error.NoSuchJob", ENXIO),
    SD_BUS_ERROR_MAP(SERVICE ".Error.CheckpointExists", EEXIST),
    SD_BUS_ERROR_MAP(SERVICE ".Error.NotPermittedTarget", EPERM),
    SD_BUS_ERROR_MAP(SERVICE ".Error.Busy", EBUSY),
    SD_BUS_ERROR_MAP(SERVICE ".Error.NoSpace", ENOSPC),
    SD_BUS_ERROR_MAP(SERVICE ".Error.TimedOut", ETIMEDOUT),
    SD_BUS_ERROR_MAP(SERVICE ".Error.KernelMissingFeature", ENOSYS),
    SD_BUS_ERROR_MAP(SERVICE ".Error.ShuttingDown", ESHUTDOWN),
    SD_BUS_ERROR_MAP(SERVICE ".Error.EngineCrashed", EIO),
    SD_BUS_ERROR_MAP(SERVICE ".Error.Failed", EIO),
    SD_BUS_ERROR_MAP_END,
};

int checkpoint_client_say(char **ret_message, int r, const char *format, ...) {
  va_list ap;

  if (!ret_message || *ret_message)
    return r;
  va_start(ap, format);
  if (vasprintf(ret_message, format, ap) < 0)
    *ret_message = NULL;
  va_end(ap);
  return r;
}

int checkpoint_client_is_lost(int r) {
  return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -EHOSTUNREACH || r == -ECONNREFUSED ||
         r == -ENOENT || r == -ETIMEDOUT;
}

/* Not by the errno of sd_bus_call(): the application may have a map of its own for our names, or none. */
static int error_number(const sd_bus_error *error, int otherwise) {
  for (size_t i = 0; errors[i].name; i++)
    if (strcmp(errors[i].name, error->name) == 0)
      return -errors[i].code;
  if (strncmp(error->name, SERVICE ".Error.", strlen(SERVICE ".Error.")) == 0)
    return -EIO;
  return otherwise;
}

int checkpoint_client_call(
    sd_bus *bus, sd_bus_message *call, uint64_t timeout_usec, sd_bus_message **ret, char **ret_message) {
  sd_bus_error error = SD_BUS_ERROR_NULL;
  int r = sd_bus_call(bus, call, timeout_usec, &error, ret);

  if (r < 0 && error.name)
    r = error_number(&error, r);
  if (r < 0)
    (void)checkpoint_client_say(ret_message, r, "%s", error.message ? error.message : strerror(-r));
  sd_bus_error_free(&error);
  return r;
}

static int open_address(const char *address, sd_bus **ret) {
  sd_bus *bus = NULL;
  int r = sd_bus_new(&bus);

  if (r >= 0)
    r = sd_bus_set_address(bus, address);
  if (r >= 0)
    r = sd_bus_set_bus_client(bus, 1);
  if (r >= 0)
    r = sd_bus_start(bus);
  if (r >= 0)
    *ret = bus;
  else
    (void)sd_bus_close_unref(bus);
  return r;
}

/* Both sides are named, so that it is clear which one is to be brought up to date. */
static int compare_versions(sd_bus *bus, char **ret_message) {
  sd_bus_error error = SD_BUS_ERROR_NULL;
  uint32_t offered = 0;
  char *version = NULL;
  int r = sd_bus_get_property_trivial(bus, SERVICE, MANAGER_PATH, MANAGER, "InterfaceVersion", &error, 'u', &offered);

  if (r < 0)
    (void)checkpoint_client_say(
        ret_message, r, "The service " SERVICE " cannot be reached: %s", error.message ? error.message : strerror(-r));
  sd_bus_error_free(&error);
  if (r < 0 || offered >= INTERFACE_NEEDED)
    return r;
  (void)sd_bus_get_property_string(bus, SERVICE, MANAGER_PATH, MANAGER, "Version", NULL, &version);
  r = checkpoint_client_say(ret_message, -EPROTONOSUPPORT,
      "libcheckpoint " CHECKPOINTD_VERSION
      " needs version %u of the interface; the service (checkpointd %s) offers version "
      "%u: it is the older one",
      INTERFACE_NEEDED, version ? version : "of unknown version", offered);
  free(version);
  return r;
}

int checkpoint_client_open(const char *address, sd_bus **ret, char **ret_message) {
  sd_bus *bus = NULL;
  int r = address ? open_address(address, &bus) : sd_bus_open_system(&bus);

  if (r < 0)
    return checkpoint_client_say(
        ret_message, r, "Cannot connect to the %s: %s", address ? address : "system bus", strerror(-r));
  r = compare_versions(bus, ret_message);
  if (r < 0) {
    (void)sd_bus_flush_close_unref(bus);
    return r;
  }
  *ret = bus;
  return 0;
}

const char *checkpoint_library_version(void) {
  return CHECKPOINTD_VERSION;
}

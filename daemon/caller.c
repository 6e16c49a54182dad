/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sd_bus_query_sender_creds() gives no groups from dbus-daemon, so the one driver
 * call that knows everything is made here: GetConnectionCredentials
 * (D-Bus specification, "org.freedesktop.DBus.GetConnectionCredentials"). */
#include "caller.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <unistd.h>

#include "daemon-error.h"
#include "sd-auto.h"

#define DRIVER_TIMEOUT_USEC (5 * G_USEC_PER_SEC)

void caller_free(Caller *caller) {
  if (!caller)
    return;
  if (caller->process_fd >= 0)
    (void)close(caller->process_fd);
  g_free(caller->name);
  g_free(caller->gids);
  g_free(caller);
}

static int read_groups(sd_bus_message *reply, Caller *caller) {
  const void *groups;
  size_t size;
  int r;

  r = sd_bus_message_enter_container(reply, SD_BUS_TYPE_VARIANT, "au");
  if (r < 0)
    return r;
  r = sd_bus_message_read_array(reply, 'u', &groups, &size);
  if (r < 0)
    return r;
  g_free(caller->gids);
  caller->gids = g_memdup2(groups, size);
  caller->n_gids = size / sizeof(uint32_t);
  return sd_bus_message_exit_container(reply);
}

static int read_process_fd(sd_bus_message *reply, Caller *caller) {
  int fd, r = sd_bus_message_read(reply, "v", "h", &fd);

  if (r >= 0)
    caller->process_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return r;
}

static int read_credentials(sd_bus_message *reply, Caller *caller, bool *ret_uid_known) {
  const char *key;
  int r;

  r = sd_bus_message_enter_container(reply, SD_BUS_TYPE_ARRAY, "{sv}");
  while (r >= 0 && (r = sd_bus_message_enter_container(reply, SD_BUS_TYPE_DICT_ENTRY, "sv")) > 0) {
    r = sd_bus_message_read_basic(reply, SD_BUS_TYPE_STRING, &key);
    if (r < 0)
      return r;
    if (g_str_equal(key, "UnixUserID")) {
      r = sd_bus_message_read(reply, "v", "u", &caller->uid);
      *ret_uid_known = r >= 0;
    } else if (g_str_equal(key, "UnixGroupIDs"))
      r = read_groups(reply, caller);
    else if (g_str_equal(key, "ProcessID"))
      r = sd_bus_message_read(reply, "v", "u", &caller->pid);
    else if (g_str_equal(key, "ProcessFD") && caller->process_fd < 0)
      r = read_process_fd(reply, caller);
    else
      r = sd_bus_message_skip(reply, "v");
    if (r >= 0)
      r = sd_bus_message_exit_container(reply);
  }
  return r;
}

Caller *caller_new(sd_bus_message *message, GError **error) {
  g_auto(sd_bus_error) e = SD_BUS_ERROR_NULL;
  g_autoptr(sd_bus_message) call = NULL, reply = NULL;
  g_autoptr(Caller) caller = g_new0(Caller, 1);
  const char *sender = sd_bus_message_get_sender(message);
  sd_bus *bus = sd_bus_message_get_bus(message);
  bool uid_known = false;
  int r;

  caller->process_fd = -EBADF;
  if (!sender)
    return g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED, "The message has no sender"), NULL;
  caller->name = g_strdup(sender);
  r = sd_bus_message_new_method_call(
      bus, &call, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetConnectionCredentials");
  if (r >= 0)
    r = sd_bus_message_append(call, "s", sender);
  if (r >= 0)
    r = sd_bus_call(bus, call, DRIVER_TIMEOUT_USEC, &e, &reply);
  if (r >= 0)
    r = read_credentials(reply, caller, &uid_known);
  if (r < 0 || !uid_known || caller->uid == (uid_t)-1) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED, "Cannot learn who %s is: %s", sender,
        e.message ? e.message : g_strerror(r < 0 ? -r : ENODATA));
    return NULL;
  }
  return g_steal_pointer(&caller);
}

Target *caller_pin(const Caller *caller, GError **error) {
  g_autoptr(Target) target = NULL;
  struct pollfd p = {.fd = caller->process_fd, .events = POLLIN};

  if (caller->pid <= 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED, "The bus does not say which process %s is", caller->name);
    return NULL;
  }
  target = target_new(caller->pid, error);
  /* It lives still, so its number means it. */
  if (target && caller->process_fd >= 0 && poll(&p, 1, 0) != 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "The process that connected as %s is gone", caller->name);
    return NULL;
  }
  return g_steal_pointer(&target);
}

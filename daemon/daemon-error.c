/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One table ties error codes, D-Bus names and errno values together. Everything
 * that leaves the service as an error goes through it. */
#include "daemon-error.h"

#include <errno.h>

#include "sd-auto.h"

#define OURS(name) "org.criu.Checkpoint.Error." name

static const struct {
  int code;
  const char *name;
  int errno_value;
} error_table[] = {
    {ENGINE_ERROR_CODE__FAILED, OURS("Failed"), EIO},
    {ENGINE_ERROR_CODE__CANCELLED, OURS("Cancelled"), ECANCELED},
    {ENGINE_ERROR_CODE__NOT_SUPPORTED, OURS("NotSupported"), EOPNOTSUPP},
    {ENGINE_ERROR_CODE__OPTION_NOT_PERMITTED, OURS("OptionNotPermitted"), EPERM},
    {ENGINE_ERROR_CODE__NO_SUCH_JOB, OURS("NoSuchJob"), ENXIO},
    {ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT, OURS("NoSuchCheckpoint"), ENOENT},
    {ENGINE_ERROR_CODE__CHECKPOINT_EXISTS, OURS("CheckpointExists"), EEXIST},
    {ENGINE_ERROR_CODE__IMAGE_INVALID, OURS("ImageInvalid"), EBADMSG},
    {ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, OURS("ImageIncompatible"), ENOEXEC},
    {ENGINE_ERROR_CODE__NO_SUCH_PROCESS, OURS("NoSuchProcess"), ESRCH},
    {ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, OURS("NotPermittedTarget"), EPERM},
    {ENGINE_ERROR_CODE__BUSY, OURS("Busy"), EBUSY},
    {ENGINE_ERROR_CODE__PID_IN_USE, OURS("PidInUse"), EADDRINUSE},
    {ENGINE_ERROR_CODE__PLUGIN_FAILED, OURS("PluginFailed"), EREMOTEIO},
    {ENGINE_ERROR_CODE__NO_SPACE, OURS("NoSpace"), ENOSPC},
    {ENGINE_ERROR_CODE__TIMED_OUT, OURS("TimedOut"), ETIMEDOUT},
    {ENGINE_ERROR_CODE__ENGINE_CRASHED, OURS("EngineCrashed"), EPIPE},
    {ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, OURS("KernelMissingFeature"), ENOSYS},
    {ENGINE_ERROR_CODE__SHUTTING_DOWN, OURS("ShuttingDown"), ESHUTDOWN},
    {ENGINE_ERROR_CODE__INVALID_ARGS, SD_BUS_ERROR_INVALID_ARGS, EINVAL},
    {ENGINE_ERROR_CODE__ACCESS_DENIED, SD_BUS_ERROR_ACCESS_DENIED, EACCES},
    {ENGINE_ERROR_CODE__FILE_CHANGED, OURS("FileChanged"), ESTALE},
    {DAEMON_ERROR_INTERACTION_REQUIRED, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, EACCES},
    {DAEMON_ERROR_LIMITS_EXCEEDED, SD_BUS_ERROR_LIMITS_EXCEEDED, ENOBUFS},
};

G_DEFINE_QUARK(checkpoint_daemon_error, daemon_error)

static size_t error_row(int code) {
  for (size_t i = 0; i < G_N_ELEMENTS(error_table); i++)
    if (error_table[i].code == code)
      return i;
  return 0;
}

const char *daemon_error_name(int code) {
  return error_table[error_row(code)].name;
}

const char *daemon_error_nth(size_t i, int *ret_code) {
  if (i >= G_N_ELEMENTS(error_table))
    return NULL;
  *ret_code = error_table[i].code;
  return error_table[i].name;
}

int daemon_error_register(void) {
  /* sd-bus keeps the pointer, so the map is static; one more entry is the end mark. */
  static sd_bus_error_map map[G_N_ELEMENTS(error_table) + 1];
  size_t n = 0;

  for (size_t i = 0; i < G_N_ELEMENTS(error_table); i++)
    if (g_str_has_prefix(error_table[i].name, OURS("")))
      map[n++] = (sd_bus_error_map)SD_BUS_ERROR_MAP(error_table[i].name, error_table[i].errno_value);
  map[n] = (sd_bus_error_map)SD_BUS_ERROR_MAP_END;
  return sd_bus_error_add_map(map);
}

int daemon_error_to_bus(const GError *error, sd_bus_error *ret) {
  int code = error->domain == DAEMON_ERROR ? error->code : (int)ENGINE_ERROR_CODE__FAILED;

  (void)sd_bus_error_set(ret, daemon_error_name(code), error->message);
  return -error_table[error_row(code)].errno_value;
}

int daemon_error_reply(sd_bus_message *message, const GError *error) {
  g_auto(sd_bus_error) e = SD_BUS_ERROR_NULL;

  (void)daemon_error_to_bus(error, &e);
  return sd_bus_reply_method_error(message, &e);
}

gboolean daemon_error_set_errno(GError **error, int errno_value, const char *what) {
  int code = ENGINE_ERROR_CODE__FAILED;

  if (errno_value == ENOSPC || errno_value == EDQUOT)
    code = ENGINE_ERROR_CODE__NO_SPACE;
  g_set_error(error, DAEMON_ERROR, code, "%s: %s", what, g_strerror(errno_value));
  return FALSE;
}

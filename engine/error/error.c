/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "error.h"
#include <errno.h>

G_DEFINE_QUARK(checkpointd-engine-error, engine_error)

static const char *const error_names[] = {
    [ENGINE_ERROR_CODE__FAILED] = "Failed",
    [ENGINE_ERROR_CODE__CANCELLED] = "Cancelled",
    [ENGINE_ERROR_CODE__NOT_SUPPORTED] = "NotSupported",
    [ENGINE_ERROR_CODE__OPTION_NOT_PERMITTED] = "OptionNotPermitted",
    [ENGINE_ERROR_CODE__NO_SUCH_JOB] = "NoSuchJob",
    [ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT] = "NoSuchCheckpoint",
    [ENGINE_ERROR_CODE__CHECKPOINT_EXISTS] = "CheckpointExists",
    [ENGINE_ERROR_CODE__IMAGE_INVALID] = "ImageInvalid",
    [ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE] = "ImageIncompatible",
    [ENGINE_ERROR_CODE__NO_SUCH_PROCESS] = "NoSuchProcess",
    [ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET] = "NotPermittedTarget",
    [ENGINE_ERROR_CODE__BUSY] = "Busy",
    [ENGINE_ERROR_CODE__PID_IN_USE] = "PidInUse",
    [ENGINE_ERROR_CODE__PLUGIN_FAILED] = "PluginFailed",
    [ENGINE_ERROR_CODE__NO_SPACE] = "NoSpace",
    [ENGINE_ERROR_CODE__TIMED_OUT] = "TimedOut",
    [ENGINE_ERROR_CODE__ENGINE_CRASHED] = "EngineCrashed",
    [ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE] = "KernelMissingFeature",
    [ENGINE_ERROR_CODE__SHUTTING_DOWN] = "ShuttingDown",
    [ENGINE_ERROR_CODE__INVALID_ARGS] = "InvalidArgs",
    [ENGINE_ERROR_CODE__ACCESS_DENIED] = "AccessDenied",
    [ENGINE_ERROR_CODE__FILE_CHANGED] = "FileChanged",
};

const char *engine_error_name(EngineErrorCode code) {
  if (code <= 0 || (size_t)code >= G_N_ELEMENTS(error_names) || !error_names[code])
    return error_names[ENGINE_ERROR_CODE__FAILED];
  return error_names[code];
}

EngineErrorCode engine_error_code(const GError *error) {
  return error && error->domain == ENGINE_ERROR ? (EngineErrorCode)error->code : ENGINE_ERROR_CODE__FAILED;
}

bool engine_fail(GError **error, EngineErrorCode code, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  if (error)
    *error = g_error_new_valist(ENGINE_ERROR, (int)code, format, ap);
  va_end(ap);
  return false;
}

static EngineErrorCode code_of_errno(EngineErrorCode code, int err) {
  switch (err) {
  case ENOSPC:
  case EDQUOT:
    return ENGINE_ERROR_CODE__NO_SPACE;
  case ESRCH:
    return ENGINE_ERROR_CODE__NO_SUCH_PROCESS;
  case ECANCELED:
    return ENGINE_ERROR_CODE__CANCELLED;
  default:
    return code;
  }
}

bool engine_fail_errno(GError **error, EngineErrorCode code, int err, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *what = g_strdup_vprintf(format, ap);
  va_end(ap);
  err = ABS(err);
  return engine_fail(error, code_of_errno(code, err), "%s: %s", what, g_strerror(err));
}

bool engine_first_error(GError *first, GError *second, GError **error) {
  if (first && second)
    g_error_free(second);
  if (first || second)
    g_propagate_error(error, first ? first : second);
  return !first && !second;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Errors of the engine. An error is born once, with everything that is known: the code (one per D-Bus error name), the
 * object it is about, the reason and the cure, all in the message. GError carries it up; prefixes may be added on the
 * way with g_prefix_error(). */

#include "engine.pb-c.h"
#include <glib.h>
#include <stdbool.h>

#define ENGINE_ERROR (engine_error_quark())
GQuark engine_error_quark(void);

/* Sets @error (may be NULL) and returns false, so that callers can `return engine_fail(...)`. */
bool engine_fail(GError **error, EngineErrorCode code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": <strerror(err)>" appended; @err is a positive or negative errno. ENOSPC and EDQUOT become NO_SPACE,
 * ESRCH becomes NO_SUCH_PROCESS, ECANCELED becomes CANCELLED whatever @code says. */
bool engine_fail_errno(GError **error, EngineErrorCode code, int err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* What two that worked at a time have to say, both taken over (and NULL where nothing is wrong): true, or false with the first one's error or else
 * the second's. */
bool engine_first_error(GError *first, GError *second, GError **error);

/* "NotSupported" for ENGINE_ERROR_CODE__NOT_SUPPORTED, the last part of the D-Bus error name. Never NULL. */
const char *engine_error_name(EngineErrorCode code);

/* The code of a GError, FAILED for those of other domains. */
EngineErrorCode engine_error_code(const GError *error);

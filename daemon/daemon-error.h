/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <systemd/sd-bus.h>

#include "engine.pb-c.h"

/* The service's own errors are GErrors of one domain. Their codes are the engine's
 * (EngineErrorCode) and, above those, the few that only the bus side knows. */
enum {
  DAEMON_ERROR_INTERACTION_REQUIRED = 100,
  DAEMON_ERROR_LIMITS_EXCEEDED,
};

#define DAEMON_ERROR (daemon_error_quark())
GQuark daemon_error_quark(void);

/* The D-Bus name of @code; unknown codes are "...Error.Failed". */
const char *daemon_error_name(int code);

/* Teaches sd-bus the errno of each of our names. Once per process. */
int daemon_error_register(void);

/* The i-th row of the table, NULL after the last; for tests and documentation. */
const char *daemon_error_nth(size_t i, int *ret_code);

/* Fills @ret from @error and returns the negative errno sd-bus handlers return. */
int daemon_error_to_bus(const GError *error, sd_bus_error *ret);

/* Answers @message with @error. Returns sd-bus's result. */
int daemon_error_reply(sd_bus_message *message, const GError *error);

/* "what: strerror(errno_value)"; always returns FALSE so that callers can return it. */
gboolean daemon_error_set_errno(GError **error, int errno_value, const char *what);

// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "context.h"

// Sends @start (a Start… call, complete) and stays with the job until it ends: progress on
// standard error, Ctrl-C cancels it and waits for that. @doing completes "cannot …".
// Returns 0 with the job's result, or an exit status, the reason having been said. With
// --no-wait the result is {"job": path} as soon as the job exists.
int follow_job(Context *context, sd_bus_message *start, const char *doing, GVariant **ret_result);

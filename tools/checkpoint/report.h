// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <systemd/sd-bus.h>

// Exit statuses, documented in checkpoint(1).
enum {
  STATUS_FAILED = 1,
  STATUS_USAGE = 2,
  STATUS_NO_SERVICE = 3,
  STATUS_REFUSED = 4,
  STATUS_NO_SUCH = 5,
  STATUS_IN_THE_WAY = 6,
  STATUS_NOT_SUPPORTED = 7,
  STATUS_BAD_IMAGE = 8,
  STATUS_TIMED_OUT = 9,
  STATUS_CANCELLED = 130,
};

// Each says what is wrong on standard error (with @json, also as a document on standard output)
// and returns the exit status that goes with it.
int report_usage(const char *format, ...) G_GNUC_PRINTF(1, 2);
int report_failure(bool json, const char *format, ...) G_GNUC_PRINTF(2, 3);
// @doing: what was tried, as in "cannot <doing>".
int report_bus_error(bool json, const char *doing, const sd_bus_error *error);
// The same for a job, with the @findings (aa{sv}, or NULL) that came with its end: they are told
// one by one instead of in the message.
int report_job_error(bool json, const char *doing, const sd_bus_error *error, GVariant *findings);
// The same for a negative errno of libsystemd.
int report_errno(bool json, const char *doing, int r);

// Prints what is in the way of a dump: object, reason and cure of each finding (aa{sv}).
void report_findings(FILE *file, GVariant *findings);

// The exit status that belongs to a D-Bus error name.
int report_status_of(const char *error_name);
// What the user can do about it, or NULL.
const char *report_hint_of(const char *error_name);

// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>

// Shows how far a job is on standard error: a line that is redrawn where that is a terminal,
// plain lines elsewhere.
typedef struct Progress Progress;

Progress *progress_new(bool silent);
void progress_free(Progress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Progress, progress_free)

// @job: the properties of a Job, a{sv}.
void progress_update(Progress *progress, GVariant *job);
// A line of text that stays, above the bar. Safe text.
void progress_note(Progress *progress, const char *line);
// Takes the bar away.
void progress_end(Progress *progress);

// The bar itself, for tests: @width columns of text.
char *progress_line(GVariant *job, int width, bool unicode);

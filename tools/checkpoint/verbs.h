// SPDX-License-Identifier: LGPL-2.1-or-later
// The verbs, one function each: @arguments without the verb, their number checked. Exit statuses.
#pragma once

#include "context.h"

int verb_dump(Context *context, char **arguments);
int verb_restore(Context *context, char **arguments);
int verb_list(Context *context, char **arguments);
int verb_show(Context *context, char **arguments);
int verb_explain(Context *context, char **arguments);
int verb_remove(Context *context, char **arguments);
int verb_jobs(Context *context, char **arguments);
int verb_monitor(Context *context, char **arguments);
int verb_plugins(Context *context, char **arguments);
int verb_check(Context *context, char **arguments);

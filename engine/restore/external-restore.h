/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What becomes of an external object at a restore, in the same order as at the dump: rules of the job, what the
 * checkpoint says, plugins. */

#include "external.h"
#include "plugin-return.h"

typedef struct ExternalReturn ExternalReturn;
/* Registers itself with @restorer (borrowed, must outlive the last call). NULL with error. */
ExternalReturn *external_return_new(Job *job, Restorer *restorer, GError **error);
void external_return_free(ExternalReturn *ret);
/* When every task has its connections, and before any of them runs: what has to be said on some. */
bool external_return_converse(ExternalReturn *ret, GError **error);
/* Who is asked after the rules; borrowed. */
void external_return_set_plugins(ExternalReturn *ret, PluginReturn *plugins);

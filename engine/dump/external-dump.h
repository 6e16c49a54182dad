/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Who takes an external object at a dump: rules of the job, then those of /etc/checkpointd/external.d, then plugins. */

#include "dispatch.h"
#include "external.h"

typedef struct ExternalStage ExternalStage;
/* Registers itself with @collector (borrowed, must outlive the stage's last call). NULL with error: a rule of the job
 * cannot be read. */
ExternalStage *external_stage_new(Job *job, Collector *collector, GError **error);
/* Who is asked when no rule takes an object; borrowed. */
void external_stage_set_plugins(ExternalStage *stage, PluginSet *plugins);
void external_stage_free(ExternalStage *stage);

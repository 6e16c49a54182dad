/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Where the dump meets plugins (docs/plugins.md says what is called when). */

#include "dispatch.h"
#include "external.h"
#include "frozen.h"

/* What plugins may ask while they are offered objects: who is in the tree, how to reach the other end of a socket. To be kept
 * as long as the set is offered any. */
typedef struct PluginHelp {
  Collector *collector;
  const ExternalObject *current; /* NULL: none */
} PluginHelp;
void plugin_stage_help(PluginSet *set, PluginHelp *help);

/* PAUSE, for every task that can be seen while the tree still runs. */
bool plugin_stage_pause(PluginSet *set, pid_t root, GError **error);
/* The same moment for every task of the frozen tree that lives. */
bool plugin_stage_tell(PluginSet *set, const FrozenTree *tree, enum checkpoint_moment moment, GError **error);
/* Asks about an object that the tree cannot do without, or that a rule sends to a plugin (claim: plugin, value, rule). In a
 * mere explanation those that may not be asked are named in the claim's cure. */
bool plugin_stage_ask(PluginSet *set, PluginHelp *help, const ExternalObject *object, ExternalClaim *ret_claim, GError **error);
/* Asks who has the content of which private mapping; what is taken stands in FrozenTask.provided. */
bool plugin_stage_memory(PluginSet *set, FrozenTree *tree, GError **error);

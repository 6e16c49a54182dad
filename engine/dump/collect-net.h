/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Network namespaces of the tree's own, at a dump. */

#include "dispatch.h"
#include "frozen.h"
#include "net-place.h"

/* Every network namespace of the tree's, once collect_namespaces() has opened them; NULL without error: all is the engine's own. */
NetPlaces *collect_net_places(const FrozenTree *tree, GError **error);
/* What is in them. Links that the engine cannot make are offered to plugins. */
bool collect_net(Job *job, const FrozenTree *tree, const NetPlaces *places, PluginSet *plugins, Checkpoint *checkpoint, GError **error);

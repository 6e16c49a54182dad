/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "caller.h"
#include "manager.h"

/* Connections that want signals. They get those of their own uid's jobs, root's get all. */

/* Negative errno. Subscribing twice is subscribing once. */
int subscriber_add(Manager *manager, const Caller *caller);
bool subscriber_remove(Manager *manager, const char *name);

/* For manager->subscribers. */
GHashTable *subscriber_table_new(void);

/* Sends copies of @signal, unicast: to @owner_name (may be NULL) and to all subscribers
 * who may hear of a job of @owner_uid; (uid_t)-1 stands for what everybody may hear. */
void subscriber_notify(Manager *manager, sd_bus_message *signal, const char *owner_name, uid_t owner_uid);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "job-bus.h"
#include "manager.h"

/* Offers the Manager interface at MANAGER_PATH. */
int manager_bus_install(Manager *manager);

/* Signals JobsRunning and JobsQueued if they changed. */
void manager_bus_update_counts(Manager *manager);

/* JobNew (@is_new) or JobRemoved. */
void manager_bus_signal_job(const BusJob *bus_job, bool is_new);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <systemd/sd-bus.h>

#include "engine.pb-c.h"

/* Results travel inside the service as GVariants of type a{sv}. */

/* Appends any @value (not consumed) to @message; a{sv} as a dictionary. Negative errno. */
int values_append(sd_bus_message *message, GVariant *value);

/* The same, wrapped into a D-Bus variant. */
int values_append_variant(sd_bus_message *message, GVariant *value);

/* Adds one value of the engine; values without content are left out. */
void values_insert_engine(GVariantDict *dict, const EngineValue *value);

/* aa{sv}, floating; keys object, reason, cure, pid, fd, kind. */
GVariant *values_from_findings(EngineFinding **findings, size_t n_findings);

/* The engine's bytes as a bus string: valid UTF-8, never NULL. */
char *values_text(const char *text);

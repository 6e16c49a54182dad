// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

// Reads the next complete value of @message, whatever its type. @ret is a full reference.
// Returns 1, 0 at the end of the message or container, or a negative errno.
int value_read(sd_bus_message *message, GVariant **ret);

// The members of a dictionary a{sv}, tolerant of the integer type; the fallback if it is absent.
uint64_t value_u64(GVariant *dictionary, const char *key, uint64_t fallback);
double value_double(GVariant *dictionary, const char *key, double fallback);
bool value_bool(GVariant *dictionary, const char *key);
// Borrowed from @dictionary; "" if absent.
const char *value_text(GVariant *dictionary, const char *key);
bool value_has(GVariant *dictionary, const char *key);
// The array below @key if it is one of dictionaries (aa{sv}), else NULL. Full reference.
GVariant *value_dictionaries(GVariant *dictionary, const char *key);
// One line of text for any value, "yes" and "no" for booleans, "key=value …" for dictionaries.
char *value_to_text(GVariant *value);

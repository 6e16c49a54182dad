// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>

// Appends @text quoted; bytes that are no UTF-8 become U+FFFD.
void json_append_string(GString *out, const char *text);
// Appends any value: dictionaries become objects, arrays and tuples arrays, variants vanish.
void json_append(GString *out, GVariant *value);
// Prints @value and a newline on standard output, at once.
void json_print(GVariant *value);

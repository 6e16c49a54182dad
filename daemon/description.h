/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

#include "engine.pb-c.h"

/* The answer to DescribeCheckpoint while it grows: what the service noted itself, and the
 * rows an engine read from the images. Bounded, whatever the engine sends. */
typedef struct Description Description;

#define DESCRIPTION_ROWS_MAX 20000
#define DESCRIPTION_BYTES_MAX (8 << 20) /* of texts */

/* @note (a{sv}) is borrowed; NULL for the answer to ListPlugins, which has no checkpoint. */
Description *description_new(GVariant *note);
void description_free(Description *description);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Description, description_free)

/* Rows of unknown tables and columns are left out. */
void description_add(Description *description, const EngineRow *row);

/* The whole, a{sv}, a full reference; once. With @error (may be NULL) the rows are left
 * out and the key images-error says why. */
GVariant *description_end(Description *description, const GError *error);

/* The plugins alone, aa{sv}, a full reference; once. */
GVariant *description_end_plugins(Description *description);

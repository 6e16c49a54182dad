/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* XXH64 with seed 0 (https://xxhash.com, specification 0.1.1): a checksum against damage, not against an attacker, who
 * could write a matching checkpoint.img as well. Several GB/s, so that it costs nothing next to writing the file. */

#include <glib.h>

guint64 digest_xxh64(const void *data, gsize size);

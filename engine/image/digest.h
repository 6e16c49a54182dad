/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* XXH64 with seed 0 (https://xxhash.com, specification 0.1.1): a checksum against damage, not against an attacker, who
 * could write a matching checkpoint.img as well. About 10 GB/s, so that it costs nothing next to writing the file. */

#include <glib.h>

guint64 digest_xxh64(const void *data, gsize size);

/* The same in pieces. Zero-initialised is not initialised: begin with digest_init(). */
typedef struct Digest {
  guint64 lanes[4];
  guint64 total;
  guint8 rest[32]; /* what does not fill a stripe yet: total % 32 bytes */
} Digest;

void digest_init(Digest *d);
void digest_update(Digest *d, const void *data, gsize size);
/* Of all that was put in so far; more may follow. */
guint64 digest_value(const Digest *d);

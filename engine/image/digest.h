/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* XXH3, 64 bits (libxxhash): a checksum against damage, not against an attacker, who could write a matching
 * checkpoint.img as well. 20 GB/s and more, so that it costs little next to writing the file. */

#include <glib.h>

/* Of a whole file, seed 0. */
guint64 digest_of(const void *data, gsize size);
/* Of a pages file: the sum (modulo 2^64) over its pages of the XXH3 of the page, seeded with its number in the file, so
 * that parts can be counted in any order. @first is the number of the first of the @n pages of 4096 bytes at @pages. */
guint64 digest_of_pages(const void *pages, gsize n, guint64 first);

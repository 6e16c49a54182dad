/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include <string.h>

#define PRIME1 0x9E3779B185EBCA87ull
#define PRIME2 0xC2B2AE3D27D4EB4Full
#define PRIME3 0x165667B19E3779F9ull
#define PRIME4 0x85EBCA77C2B2AE63ull
#define PRIME5 0x27D4EB2F165667C5ull

#define STRIPE 32

static inline guint64 rotate(guint64 x, int bits) {
  return x << bits | x >> (64 - bits);
}

static inline guint64 read64(const guint8 *p) {
  guint64 v;
  memcpy(&v, p, sizeof v);
  return GUINT64_FROM_LE(v);
}

static inline guint32 read32(const guint8 *p) {
  guint32 v;
  memcpy(&v, p, sizeof v);
  return GUINT32_FROM_LE(v);
}

static inline guint64 mix(guint64 acc, guint64 lane) {
  return rotate(acc + lane * PRIME2, 31) * PRIME1;
}

static inline guint64 merge(guint64 hash, guint64 acc) {
  return (hash ^ mix(0, acc)) * PRIME1 + PRIME4;
}

/* Takes whole stripes of 32 bytes; returns how many bytes that was. */
static gsize take_stripes(guint64 lanes[4], const guint8 *p, gsize size) {
  guint64 a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
  const guint8 *begin = p;
  for (; size >= STRIPE; size -= STRIPE, p += STRIPE) {
    a = mix(a, read64(p));
    b = mix(b, read64(p + 8));
    c = mix(c, read64(p + 16));
    d = mix(d, read64(p + 24));
  }
  lanes[0] = a, lanes[1] = b, lanes[2] = c, lanes[3] = d;
  return (gsize)(p - begin);
}

void digest_init(Digest *d) {
  *d = (Digest){.lanes = {PRIME1 + PRIME2, PRIME2, 0, 0 - PRIME1}};
}

void digest_update(Digest *d, const void *data, gsize size) {
  const guint8 *p = data;
  gsize have = d->total % STRIPE;
  d->total += size;
  if (have) {
    gsize n = MIN(size, STRIPE - have);
    memcpy(d->rest + have, p, n);
    p += n;
    size -= n;
    if (have + n < STRIPE)
      return;
    (void)take_stripes(d->lanes, d->rest, STRIPE);
  }
  gsize taken = take_stripes(d->lanes, p, size);
  if (size > taken)
    memcpy(d->rest, p + taken, size - taken);
}

guint64 digest_value(const Digest *d) {
  const guint8 *p = d->rest, *end = p + d->total % STRIPE;
  const guint64 *l = d->lanes;
  guint64 h = PRIME5;
  if (d->total >= STRIPE) {
    h = rotate(l[0], 1) + rotate(l[1], 7) + rotate(l[2], 12) + rotate(l[3], 18);
    h = merge(merge(merge(merge(h, l[0]), l[1]), l[2]), l[3]);
  }
  h += d->total;
  for (; end - p >= 8; p += 8)
    h = rotate(h ^ mix(0, read64(p)), 27) * PRIME1 + PRIME4;
  if (end - p >= 4) {
    h = rotate(h ^ read32(p) * PRIME1, 23) * PRIME2 + PRIME3;
    p += 4;
  }
  for (; p < end; p++)
    h = rotate(h ^ *p * PRIME5, 11) * PRIME1;
  h = (h ^ h >> 33) * PRIME2;
  h = (h ^ h >> 29) * PRIME3;
  return h ^ h >> 32;
}

guint64 digest_xxh64(const void *data, gsize size) {
  Digest d;
  digest_init(&d);
  digest_update(&d, data, size);
  return digest_value(&d);
}

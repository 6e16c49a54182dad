/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include <string.h>

#define PRIME1 0x9E3779B185EBCA87ull
#define PRIME2 0xC2B2AE3D27D4EB4Full
#define PRIME3 0x165667B19E3779F9ull
#define PRIME4 0x85EBCA77C2B2AE63ull
#define PRIME5 0x27D4EB2F165667C5ull

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

/* The part of whole 32-byte stripes; moves @p behind it. */
static guint64 digest_stripes(const guint8 **p, const guint8 *end) {
  guint64 a = PRIME1 + PRIME2, b = PRIME2, c = 0, d = 0 - PRIME1;
  for (; end - *p >= 32; *p += 32) {
    a = mix(a, read64(*p));
    b = mix(b, read64(*p + 8));
    c = mix(c, read64(*p + 16));
    d = mix(d, read64(*p + 24));
  }
  guint64 h = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
  return merge(merge(merge(merge(h, a), b), c), d);
}

guint64 digest_xxh64(const void *data, gsize size) {
  const guint8 *p = data, *end = p + size;
  guint64 h = size >= 32 ? digest_stripes(&p, end) : PRIME5;
  h += size;
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

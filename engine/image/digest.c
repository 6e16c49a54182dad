/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include <xxhash.h>
#ifdef __x86_64__
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h> /* the same function for what the processor has: three times as fast with AVX2 */
#define HASH_FAST XXH3_64bits_withSeed_dispatch
#else
#define HASH_FAST XXH3_64bits_withSeed
#endif

#define PAGE 4096
/* Asking the processor costs some microseconds, once (a trip to the hypervisor where there is one). */
#define MANY 128

guint64 digest_of(const void *data, gsize size) {
  return XXH3_64bits(data, size);
}

guint64 digest_of_pages(const void *pages, gsize n, guint64 first) {
  const guint8 *p = pages;
  guint64 sum = 0;
  for (gsize i = 0; i < n; i++, p += PAGE)
    sum += n >= MANY ? HASH_FAST(p, PAGE, first + i) : XXH3_64bits_withSeed(p, PAGE, first + i);
  return sum;
}

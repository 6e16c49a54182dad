/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include <string.h>

/* Values that xxhsum -H3 prints. */
static void test_vectors(void) {
  static const struct {
    const char *text;
    guint64 hash;
  } vectors[] = {
      {"", 0x2d06800538d394c2},
      {"a", 0xe6c632b61e964e1f},
      {"abc", 0x78af5f94892f3950},
      {"xxhash", 0xaa4c2b42ae6b13de},
      {"Nobody inspects the spammish repetition", 0x6cb00603b5cc47e9},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(vectors); i++)
    g_assert_cmphex(digest_of(vectors[i].text, strlen(vectors[i].text)), ==, vectors[i].hash);
}

static guint64 sum(const guint8 *pages, gsize n, gsize piece) {
  guint64 value = 0;
  for (gsize at = 0; at < n; at += piece)
    value += digest_of_pages(pages + at * 4096, MIN(piece, n - at), at);
  return value;
}

/* However the pages are cut: also where another function takes over for many at once. */
static void test_pieces(void) {
  enum { N = 300 };
  g_autofree guint8 *pages = g_malloc(N * 4096);
  for (gsize i = 0; i < N * 4096; i++)
    pages[i] = (guint8)(i * 7 + i / 4096);
  guint64 value = digest_of_pages(pages, N, 0);
  for (gsize piece = 1; piece < N; piece++)
    g_assert_cmphex(sum(pages, N, piece), ==, value);
  guint8 first[4096];
  memcpy(first, pages, 4096); /* two pages that changed places */
  memcpy(pages, pages + 4096, 4096);
  memcpy(pages + 4096, first, 4096);
  g_assert_cmphex(digest_of_pages(pages, N, 0), !=, value);
}

static void test_every_bit_counts(void) {
  guint8 data[97];
  for (gsize size = 1; size <= sizeof data; size++) {
    memset(data, 0x5a, sizeof data);
    guint64 hash = digest_of(data, size);
    for (gsize bit = 0; bit < size * 8; bit++) {
      data[bit / 8] ^= (guint8)(1 << bit % 8);
      g_assert_cmphex(digest_of(data, size), !=, hash);
      data[bit / 8] ^= (guint8)(1 << bit % 8);
    }
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/digest/vectors", test_vectors);
  g_test_add_func("/image/digest/pieces", test_pieces);
  g_test_add_func("/image/digest/every-bit-counts", test_every_bit_counts);
  return g_test_run();
}

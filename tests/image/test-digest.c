/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include <string.h>

/* Values of the reference implementation. */
static void test_vectors(void) {
  static const struct {
    const char *text;
    guint64 hash;
  } vectors[] = {
      {"", 0xef46db3751d8e999},
      {"a", 0xd24ec4f1a98c6e5b},
      {"abc", 0x44bc2cf5ad770999},
      {"xxhash", 0x32dd38952c4bc720},
      {"Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(vectors); i++)
    g_assert_cmphex(digest_xxh64(vectors[i].text, strlen(vectors[i].text)), ==, vectors[i].hash);
}

/* However the data are cut. */
static void test_pieces(void) {
  guint8 data[1000];
  for (gsize i = 0; i < sizeof data; i++)
    data[i] = (guint8)(i * 7);
  for (gsize piece = 1; piece < 200; piece++) {
    Digest d;
    digest_init(&d);
    for (gsize at = 0; at < sizeof data; at += piece) {
      g_assert_cmphex(digest_value(&d), ==, digest_xxh64(data, at));
      digest_update(&d, data + at, MIN(piece, sizeof data - at));
    }
    g_assert_cmphex(digest_value(&d), ==, digest_xxh64(data, sizeof data));
  }
}

static void test_every_bit_counts(void) {
  guint8 data[97];
  for (gsize size = 1; size <= sizeof data; size++) {
    memset(data, 0x5a, sizeof data);
    guint64 hash = digest_xxh64(data, size);
    for (gsize bit = 0; bit < size * 8; bit++) {
      data[bit / 8] ^= (guint8)(1 << bit % 8);
      g_assert_cmphex(digest_xxh64(data, size), !=, hash);
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

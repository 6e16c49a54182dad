/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include "error.h"
#include "fixture.h"
#include "image.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLIPS 200

static bool is_pages(const char *name) {
  return g_str_has_prefix(name, "pages-");
}

/* Loads with @name replaced by @data; the error's message, NULL if it was taken. */
static char *load_with(GHashTable *files, const char *name, const void *data, gsize size) {
  GBytes *whole = g_bytes_ref(g_hash_table_lookup(files, name));
  g_hash_table_insert(files, g_strdup(name), g_bytes_new(data, size));
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) c = fixture_load(files, &error);
  g_hash_table_insert(files, g_strdup(name), whole);
  g_assert_true((c == NULL) == (error != NULL));
  if (c)
    return NULL;
  g_assert_true(error->domain == ENGINE_ERROR);
  g_assert_nonnull(strstr(error->message, ".img: "));
  return g_strdup(error->message);
}

static void assert_names(const char *message, const char *name) {
  g_autofree char *prefix = g_strdup_printf("%s: ", name);
  if (!message || !g_str_has_prefix(message, prefix))
    g_error("damaged %s: %s", name, message ? message : "taken as if nothing were");
}

/* Ours: no change of any byte of any file but pages goes unseen. */
static void test_flips_are_found(void) {
  g_autoptr(GHashTable) files = fixture_stored();
  g_autofree gpointer *names = g_hash_table_get_keys_as_array(files, NULL);
  g_autoptr(GRand) random = g_rand_new_with_seed(42);
  for (gpointer *name = names; *name; name++) {
    gsize size;
    if (is_pages(*name))
      continue;
    g_autofree char *key = g_strdup(*name); /* the table's own goes with its value */
    const guint8 *data = g_bytes_get_data(g_hash_table_lookup(files, key), &size);
    g_autofree guint8 *copy = g_memdup2(data, size);
    for (int i = 0; i < FLIPS; i++) {
      gsize at = (gsize)g_rand_int_range(random, 0, (gint32)size);
      copy[at] ^= (guint8)g_rand_int_range(random, 1, 256);
      g_autofree char *message = load_with(files, key, copy, size);
      assert_names(message, key);
      memcpy(copy, g_bytes_get_data(g_hash_table_lookup(files, key), NULL), size);
    }
  }
}

/* Ours: every file cut at every length. */
static void test_cuts_are_found(void) {
  g_autoptr(GHashTable) files = fixture_stored();
  g_autofree gpointer *names = g_hash_table_get_keys_as_array(files, NULL);
  for (gpointer *name = names; *name; name++) {
    g_autofree char *key = g_strdup(*name);
    gsize size = g_bytes_get_size(g_hash_table_lookup(files, key));
    g_autofree guint8 *copy = g_memdup2(g_bytes_get_data(g_hash_table_lookup(files, key), NULL), size);
    for (gsize length = 0; length < size; length += is_pages(key) ? 997 : 1) {
      g_autofree char *message = load_with(files, key, copy, length);
      assert_names(message, key);
    }
  }
}

/* CRIU's, without digests: cuts may leave a valid file, changes may make sense; nothing must crash, and what is refused
 * is refused with a file and a reason. Files of one entry are never valid when cut. */
static void test_foreign_damage_is_survived(void) {
  static const char *const single[] = {"inventory.img", "core-", "ids-", "mm-", "fs-"};
  g_autoptr(GHashTable) files = fixture_golden();
  g_autofree gpointer *names = g_hash_table_get_keys_as_array(files, NULL);
  g_autoptr(GRand) random = g_rand_new_with_seed(4711);
  for (gpointer *name = names; *name; name++) {
    g_autofree char *key = g_strdup(*name);
    gsize size = g_bytes_get_size(g_hash_table_lookup(files, key));
    g_autofree guint8 *data = g_memdup2(g_bytes_get_data(g_hash_table_lookup(files, key), NULL), size);
    bool strict = false;
    for (gsize i = 0; i < G_N_ELEMENTS(single); i++)
      strict |= g_str_has_prefix(key, single[i]);
    for (gsize length = 0; length < size && !is_pages(key); length++) {
      g_autofree char *message = load_with(files, key, data, length);
      if (strict)
        g_assert_nonnull(message);
    }
    for (int i = 0; i < FLIPS; i++) {
      gsize at = (gsize)g_rand_int_range(random, 0, (gint32)size);
      guint8 before = data[at];
      data[at] ^= (guint8)g_rand_int_range(random, 1, 256);
      g_free(load_with(files, key, data, size));
      data[at] = before;
    }
  }
}

/* Files of one of our checkpoints that belong to another one. */
static void test_mixed_checkpoints(void) {
  g_autoptr(GHashTable) files = fixture_stored();
  GBytes *core = g_bytes_ref(g_hash_table_lookup(files, "core-27651.img"));
  g_hash_table_insert(files, g_strdup("core-27652.img"), core);
  g_autoptr(GError) error = NULL;
  g_assert_null(fixture_load(files, &error));
  g_assert_nonnull(strstr(error->message, "core-27652.img: "));
}

/* On disk: what else may be found under the name of a file. */
static void test_strange_files(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GError) error = NULL;
  char *path;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, true, NULL, &error));
  static const char *const victims[] = {
      "inventory.img", "core-27653.img", "pages-1.img", "ghost-file-1.img", "checkpoint.img", "memfd.img"};
  for (gsize i = 0; i < G_N_ELEMENTS(victims); i++)
    for (int how = 0; how < 5; how++) {
      g_assert_cmpint(renameat(dir, victims[i], dir, "aside"), ==, 0);
      if (how == 0)
        g_assert_cmpint(symlinkat("aside", dir, victims[i]), ==, 0);
      if (how == 1)
        g_assert_cmpint(mkdirat(dir, victims[i], 0700), ==, 0);
      if (how == 2)
        g_assert_cmpint(mkfifoat(dir, victims[i], 0600), ==, 0);
      if (how == 3) { /* a hole of 1 TiB */
        int fd = openat(dir, victims[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        g_assert_cmpint(ftruncate(fd, (off_t)1 << 40), ==, 0);
        g_assert_cmpint(close(fd), ==, 0);
      }
      g_autoptr(GError) why = NULL;
      g_autoptr(Checkpoint) loaded = image_load(dir, &why);
      if (how == 4 && g_str_equal(victims[i], "checkpoint.img")) { /* as if CRIU had made it */
        g_assert_no_error(why);
      } else {
        g_assert_null(loaded);
        assert_names(why->message, victims[i]);
      }
      if (how < 4)
        g_assert_cmpint(unlinkat(dir, victims[i], how == 1 ? AT_REMOVEDIR : 0), ==, 0);
      g_assert_cmpint(renameat(dir, "aside", dir, victims[i]), ==, 0);
    }
  fixture_remove(path, dir);
}

/* Pages whose digest was taken when they were written are checked when somebody asks. */
static void test_pages_are_checked_on_demand(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GError) error = NULL;
  char *path;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  PageSet *set = ((Task *)c->tasks->pdata[0])->pages;
  g_autofree guint8 *zeros = g_malloc0(page_set_n_present(set) * 4096);
  set->has_digest = true;
  set->digest = digest_of_pages(zeros, page_set_n_present(set), 0);
  g_assert_true(image_store(c, dir, false, NULL, &error));
  g_autoptr(Checkpoint) again = image_load(dir, &error);
  g_assert_no_error(error);
  set = ((Task *)again->tasks->pdata[0])->pages;
  g_assert_true(set->has_digest);
  g_assert_true(image_check_pages(dir, set, &error));
  g_assert_true(image_check_pages(dir, ((Task *)again->tasks->pdata[1])->pages, &error)); /* has none */
  int fd = openat(dir, "pages-3.img", O_WRONLY | O_CLOEXEC);
  g_assert_cmpint(pwrite(fd, "x", 1, 70000), ==, 1);
  (void)close(fd);
  g_assert_false(image_check_pages(dir, set, &error));
  assert_names(error->message, "pages-3.img");
  fixture_remove(path, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/damage/flips-are-found", test_flips_are_found);
  g_test_add_func("/image/damage/cuts-are-found", test_cuts_are_found);
  g_test_add_func("/image/damage/foreign-damage-is-survived", test_foreign_damage_is_survived);
  g_test_add_func("/image/damage/pages-are-checked-on-demand", test_pages_are_checked_on_demand);
  g_test_add_func("/image/damage/mixed-checkpoints", test_mixed_checkpoints);
  g_test_add_func("/image/damage/strange-files", test_strange_files);
  return g_test_run();
}

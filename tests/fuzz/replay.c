/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Runs the target on every file of the directories given, and on nothing at all. */

#include "fuzz.h"
#include <glib.h>

static void replay(gconstpointer path) {
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  g_assert_nonnull(dir);
  guint n = 0;
  LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
  for (const char *name; (name = g_dir_read_name(dir)); n++) {
    g_autofree char *file = g_build_filename(path, name, NULL);
    g_autofree char *data = NULL;
    gsize size;
    g_assert_true(g_file_get_contents(file, &data, &size, NULL));
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
  }
  g_assert_cmpuint(n, >, 0);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  for (int i = 1; i < argc; i++) {
    g_autofree char *base = g_path_get_basename(argv[i]);
    g_autofree char *name = g_strconcat("/fuzz/corpus/", base, NULL);
    g_test_add_data_func(name, argv[i], replay);
  }
  return g_test_run();
}

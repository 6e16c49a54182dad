/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "image.h"
#include <stdlib.h>
#include <string.h>

/* CRIU's own tool must be able to read every file that we write. */
static void test_crit_decodes(void) {
  g_autofree char *crit = g_find_program_in_path("crit");
  if (!crit) { /* MUST_WORK: on a machine that is to have everything, not having it is a failure */
    if (g_getenv("MUST_WORK"))
      g_error("crit is missing (Debian package criu)");
    g_test_skip("crit is missing (Debian package criu)");
    return;
  }
  g_autoptr(Checkpoint) c = fixture_rich();
  char *path;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, false, NULL, NULL));
  g_autoptr(GHashTable) files = fixture_slurp(path);
  GHashTableIter iter;
  gpointer name;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &name, NULL)) {
    if (g_str_has_prefix(name, "pages-")) /* raw */
      continue;
    g_autofree char *file = g_build_filename(path, name, NULL);
    g_autofree char *out = NULL, *err = NULL;
    int status;
    char *argv[] = {crit, (char *)"decode", (char *)"-i", file, NULL};
    g_assert_true(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, &err, &status, NULL));
    if (status != 0 || !strstr(out, "\"entries\": ["))
      g_error("crit decode %s: %s", (char *)name, err);
  }
  fixture_remove(path, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/crit/decodes-every-file", test_crit_decodes);
  return g_test_run();
}

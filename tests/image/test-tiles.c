/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tiles of AMX in images: they come back as they were, and what a processor would not take is refused. */
#include "error.h"
#include "fixture.h"
#include "image.h"
#include <stdlib.h>
#include <string.h>

enum { CONFIG = 64, TILE = 1024 };

/* Tiles 1 and 5 of a thread: all of a tile, and one of 3 rows of 8 bytes. */
static CkptTiles *tiles_new(void) {
  CkptTiles *tiles = calloc(1, sizeof *tiles);
  ckpt_tiles__init(tiles);
  tiles->config.len = CONFIG;
  guint8 *c = tiles->config.data = calloc(1, CONFIG);
  c[0] = 1;
  c[16 + 2] = 64, c[48 + 1] = 16;
  c[16 + 10] = 8, c[48 + 5] = 3;
  tiles->tiles = calloc(2, sizeof *tiles->tiles);
  for (guint32 number = 1; number <= 5; number += 4) {
    CkptTile *t = tiles->tiles[tiles->n_tiles++] = calloc(1, sizeof *t);
    ckpt_tile__init(t);
    t->number = number;
    t->rows.len = TILE;
    t->rows.data = malloc(TILE);
    for (int i = 0; i < TILE; i++)
      t->rows.data[i] = (guint8)(number * 7 + (guint32)i);
  }
  return tiles;
}

static Checkpoint *checkpoint_with_tiles(CkptTiles **ret_tiles) {
  Checkpoint *c = fixture_rich();
  Task *root = c->tasks->pdata[0];
  root->extra->has_tiles = root->extra->tiles = true;
  Thread *thread = root->threads->pdata[1];
  *ret_tiles = thread->extra->tiles = tiles_new();
  return c;
}

static GHashTable *store(const Checkpoint *c, GError **error) {
  char *path;
  guint64 written;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  GHashTable *files = image_store(c, dir, false, &written, error) ? fixture_slurp(path) : NULL;
  fixture_remove(path, dir);
  return files;
}

static void test_they_come_back(void) {
  CkptTiles *tiles;
  g_autoptr(Checkpoint) c = checkpoint_with_tiles(&tiles);
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) files = store(c, &error);
  g_assert_no_error(error);
  g_autoptr(Checkpoint) again = fixture_load(files, &error);
  g_assert_no_error(error);
  const Task *root = again->tasks->pdata[0];
  const CkptTiles *read = ((const Thread *)root->threads->pdata[1])->extra->tiles;
  g_assert_true(root->extra->tiles);
  g_assert_cmpmem(read->config.data, read->config.len, tiles->config.data, CONFIG);
  g_assert_cmpuint(read->n_tiles, ==, 2);
  for (size_t i = 0; i < 2; i++) {
    g_assert_cmpuint(read->tiles[i]->number, ==, tiles->tiles[i]->number);
    g_assert_cmpmem(read->tiles[i]->rows.data, read->tiles[i]->rows.len, tiles->tiles[i]->rows.data, TILE);
  }
}

/* Of the configuration: which byte, what is wrong there. */
static void test_configurations(void) {
  static const struct {
    guint8 at, value;
    bool right;
  } cases[] = {{0, 0, false}, {0, 2, false}, {1, 15, true}, {1, 16, false}, {2, 1, false}, {15, 1, false}, {18, 65, false}, {19, 1, false},
      {18, 0, false}, {18, 1, true}, {16, 4, false}, {32, 1, false}, {47, 1, false}, {48, 1, false}, {49, 17, false}, {49, 1, true}, {49, 0, false},
      {56, 1, false}, {63, 1, false}};
  for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
    CkptTiles *tiles;
    g_autoptr(Checkpoint) c = checkpoint_with_tiles(&tiles);
    g_autoptr(GError) error = NULL;
    tiles->config.data[cases[i].at] = cases[i].value;
    g_autoptr(GHashTable) files = store(c, &error);
    if (cases[i].right != (files != NULL))
      g_error("byte %u is %u: %s", cases[i].at, cases[i].value, files ? "taken" : error->message);
    g_assert_true(files || (engine_error_code(error) == ENGINE_ERROR_CODE__IMAGE_INVALID && strstr(error->message, "configuration of tiles")));
  }
}

typedef void Spoil(Task *task, CkptTiles *tiles);

static void spoil_length(Task *task, CkptTiles *tiles) {
  (void)task;
  tiles->config.len--;
}

static void spoil_permission(Task *task, CkptTiles *tiles) {
  (void)tiles;
  task->extra->tiles = false;
}

static void spoil_number(Task *task, CkptTiles *tiles) {
  (void)task;
  tiles->tiles[1]->number = 8;
}

static void spoil_order(Task *task, CkptTiles *tiles) {
  (void)task;
  tiles->tiles[1]->number = 1;
}

static void spoil_rows(Task *task, CkptTiles *tiles) {
  (void)task;
  tiles->tiles[0]->rows.len = TILE - 1;
}

static void test_nonsense(void) {
  static Spoil *const ways[] = {spoil_length, spoil_permission, spoil_number, spoil_order, spoil_rows};
  for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
    CkptTiles *tiles;
    g_autoptr(Checkpoint) c = checkpoint_with_tiles(&tiles);
    g_autoptr(GError) error = NULL;
    ways[i](c->tasks->pdata[0], tiles);
    g_assert_null(store(c, &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
    g_assert_nonnull(strstr(error->message, "checkpoint.img: "));
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/tiles/come-back", test_they_come_back);
  g_test_add_func("/tiles/configurations", test_configurations);
  g_test_add_func("/tiles/nonsense", test_nonsense);
  return g_test_run();
}

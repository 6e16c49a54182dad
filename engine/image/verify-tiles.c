/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tiles of AMX (Intel SDM, volume 1, chapter 18): what LDTILECFG would not take, XRSTOR faults at. */
#include "verify.h"
#include <string.h>

#define CONFIG_SIZE 64
#define N_TILES 8
#define N_ROWS 16
#define ROW_SIZE 64

/* The 64 bytes: palette, start row, 14 reserved ones; bytes of a row of each tile (16 bits, 8 reserved); rows of each. */
enum { PALETTE, START_ROW, RESERVED, COLUMNS = 16, RESERVED_COLUMNS = 32, ROWS = 48, RESERVED_ROWS = 56 };

static bool is_zero(const guint8 *from, const guint8 *end) {
  while (from < end && !*from)
    from++;
  return from == end;
}

static bool config_is_right(const guint8 *c) {
  if (c[PALETTE] != 1 || c[START_ROW] >= N_ROWS || !is_zero(c + RESERVED, c + COLUMNS) || !is_zero(c + RESERVED_COLUMNS, c + ROWS) ||
      !is_zero(c + RESERVED_ROWS, c + CONFIG_SIZE))
    return false;
  for (int i = 0; i < N_TILES; i++) {
    unsigned columns = c[COLUMNS + 2 * i] | (unsigned)c[COLUMNS + 2 * i + 1] << 8, rows = c[ROWS + i];
    if (columns > ROW_SIZE || rows > N_ROWS || !columns != !rows)
      return false;
  }
  return true;
}

bool verify_tiles(const Task *task, const Thread *thread, GError **error) {
  const CkptTiles *tiles = thread->extra ? thread->extra->tiles : NULL;
  if (!tiles)
    return true;
  if (!task->extra || !task->extra->tiles)
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "thread %d: tiles in a process that may not use any", thread->tid);
  if (tiles->config.len != CONFIG_SIZE || !config_is_right(tiles->config.data))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "thread %d: there is no such configuration of tiles", thread->tid);
  for (size_t i = 0; i < tiles->n_tiles; i++) {
    const CkptTile *t = tiles->tiles[i];
    if (t->number >= N_TILES || (i && t->number <= tiles->tiles[i - 1]->number) || t->rows.len != N_ROWS * ROW_SIZE)
      return image_invalid(
          error, IMAGE_CHECKPOINT, 0, "thread %d: tile %u, of %zu bytes, is none or not in order", thread->tid, t->number, t->rows.len);
  }
  return true;
}

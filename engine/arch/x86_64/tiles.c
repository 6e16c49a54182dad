/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tiles.h"
#include "regs.h"
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_GET_XCOMP_SUPP_ 0x1021
#define XTILECFG 17
#define CONFIG_SIZE 64
#define N_TILES 8
#define TILE_SIZE 1024

static uint64_t word_at(const void *xstate, size_t offset) {
  uint64_t word;
  memcpy(&word, (const unsigned char *)xstate + offset, sizeof word);
  return word;
}

static uint64_t live_components(const void *xstate, size_t size) {
  return size > XSTATE_LEGACY ? word_at(xstate, XSTATE_BV) : 0;
}

/* Where a component of that size lies, NULL if it is not there. */
static void *place(unsigned n, size_t expected, const void *xstate, size_t size) {
  XsaveComponent c = regs_component(n);
  return c.size == expected && (size_t)c.offset + c.size <= size ? (unsigned char *)(uintptr_t)xstate + c.offset : NULL;
}

static void add_tile(CkptTiles *tiles, unsigned number, const unsigned char *rows) {
  static const unsigned char zeroes[TILE_SIZE];
  if (memcmp(rows, zeroes, TILE_SIZE) == 0)
    return;
  CkptTile *t = malloc(sizeof *t);
  ckpt_tile__init(t);
  t->number = number;
  t->rows.len = TILE_SIZE;
  t->rows.data = malloc(TILE_SIZE);
  memcpy(t->rows.data, rows, TILE_SIZE);
  tiles->tiles[tiles->n_tiles++] = t;
}

CkptTiles *tiles_encode(const void *xstate, size_t size) {
  uint64_t live = live_components(xstate, size);
  if (!(live & 1ull << XTILECFG))
    return NULL; /* without a configuration there are no tiles */
  const void *config = place(XTILECFG, CONFIG_SIZE, xstate, size);
  const unsigned char *data = live & 1ull << TILES_FEATURE ? place(TILES_FEATURE, N_TILES * TILE_SIZE, xstate, size) : NULL;
  if (!config || *(const unsigned char *)config == 0)
    return NULL;
  CkptTiles *tiles = malloc(sizeof *tiles);
  ckpt_tiles__init(tiles);
  tiles->config.len = CONFIG_SIZE;
  tiles->config.data = malloc(CONFIG_SIZE);
  memcpy(tiles->config.data, config, CONFIG_SIZE);
  tiles->tiles = calloc(N_TILES, sizeof *tiles->tiles);
  for (unsigned i = 0; data && i < N_TILES; i++)
    add_tile(tiles, i, data + (size_t)i * TILE_SIZE);
  return tiles;
}

bool tiles_decode(const CkptTiles *tiles, void *xstate, size_t size, GError **error) {
  unsigned char *config = place(XTILECFG, CONFIG_SIZE, xstate, size), *data = place(TILES_FEATURE, N_TILES * TILE_SIZE, xstate, size);
  if (size <= XSTATE_LEGACY || !config || !data)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "The checkpoint has data in AMX tile registers, which this CPU does not have; restore it on a CPU with AMX");
  uint64_t live = word_at(xstate, XSTATE_BV) | 1ull << XTILECFG;
  memcpy(config, tiles->config.data, MIN(tiles->config.len, CONFIG_SIZE));
  for (size_t i = 0; i < tiles->n_tiles; i++) {
    const CkptTile *t = tiles->tiles[i];
    memcpy(data + (size_t)(t->number % N_TILES) * TILE_SIZE, t->rows.data, MIN(t->rows.len, TILE_SIZE));
    live |= 1ull << TILES_FEATURE;
  }
  memcpy((unsigned char *)xstate + XSTATE_BV, &live, sizeof live);
  return true;
}

/* Palette 1: eight tiles of 16 rows of 64 bytes (CPUID leaf 0x1d). */
static bool has_palette(void) {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(0x1d, 1, &eax, &ebx, &ecx, &edx) && eax == (N_TILES * TILE_SIZE | TILE_SIZE << 16) && ebx == (64 | N_TILES << 16) &&
         (ecx & 0xffff) == 16;
}

bool tiles_available(void) {
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, ARCH_GET_XCOMP_SUPP_, &supported) == 0 && supported & 1ull << TILES_FEATURE && has_palette() &&
         regs_component(XTILECFG).size == CONFIG_SIZE && regs_component(TILES_FEATURE).size == N_TILES * TILE_SIZE;
}

size_t tiles_needed_size(const void *xstate, size_t size, uint64_t *ret_features) {
  uint64_t features = word_at(xstate, XSTATE_XCR0); /* the kernel leaves it in the ptrace format's software words */
  size_t needed = size;
  if (size > XSTATE_LEGACY && features & 1ull << TILES_FEATURE && !(live_components(xstate, size) & 1ull << TILES_FEATURE)) {
    features &= ~(1ull << TILES_FEATURE);
    needed = XSTATE_LEGACY;
    for (unsigned n = 2; n < XSTATE_COMPONENTS; n++) {
      XsaveComponent c = features & 1ull << n ? regs_component(n) : (XsaveComponent){0};
      needed = MAX(needed, (size_t)c.offset + c.size);
    }
  }
  if (ret_features)
    *ret_features = features;
  return MIN(needed, size);
}

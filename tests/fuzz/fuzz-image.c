/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The image decoder. The first byte of an input chooses a file of a small valid checkpoint, the rest takes the place of
 * its content; then the whole checkpoint is loaded, cross checks included, and what passes them is described. */

#include "describe.h"
#include "fixture.h"
#include "fuzz.h"
#include "reader.h"
#include <stdlib.h>

/* Only ever append: the corpus refers to the rows by their number. */
static const struct {
  ImageKindId id;
  guint64 number;
} files[] = {
    {IMAGE_INVENTORY, 0},
    {IMAGE_CHECKPOINT, 0},
    {IMAGE_PSTREE, 0},
    {IMAGE_CORE, 27649},
    {IMAGE_CORE, 27653},
    {IMAGE_IDS, 27649},
    {IMAGE_MM, 27649},
    {IMAGE_FS, 27649},
    {IMAGE_FDINFO, 2},
    {IMAGE_PAGEMAP, 27649},
    {IMAGE_FILES, 0},
    {IMAGE_SHMEM_PAGEMAP, 62984},
    {IMAGE_PIPES_DATA, 0},
    {IMAGE_FIFO_DATA, 0},
    {IMAGE_SK_QUEUES, 0},
    {IMAGE_MEMFD, 0},
    {IMAGE_REMAP, 0},
    {IMAGE_SECCOMP, 0},
    {IMAGE_CGROUP, 0},
    {IMAGE_TIMENS, 0},
    {IMAGE_EVENTPOLL_TFD, 0},
    {IMAGE_TTY_INFO, 0},
    {IMAGE_TTY_DATA, 0},
    {IMAGE_FILE_LOCKS, 0},
    {IMAGE_PAGEMAP, 27651},
    {IMAGE_CORE, 27651},
};

static GHashTable *checkpoint;

/* The file alone: most inputs end here, at a fraction of the cost. */
static bool decode(ImageKindId id, guint64 number, const guint8 *data, gsize size) {
  g_auto(ImageReader) r = {0};
  g_autoptr(GError) error = NULL;
  bool ok = image_reader_feed(&r, id, number, data, size, &error);
  for (ProtobufCMessage *m; ok; protobuf_c_message_free_unpacked(m, NULL)) {
    g_autoptr(GBytes) extra = NULL;
    ok = image_reader_next(&r, &m, &extra, &error);
    if (ok && !m)
      return true;
    if (!ok)
      break;
  }
  if (!error || error->domain != ENGINE_ERROR)
    abort();
  return false;
}

static guint n_rows;

static void count_row(void *data, const EngineRow *row) {
  for (size_t i = 0; i < row->n_values; i++)
    if (row->values[i]->text && !g_utf8_validate(row->values[i]->text, -1, NULL))
      abort();
  /* Far from what a packet may hold. */
  if (engine_row__get_packed_size(row) > 64 * 1024)
    abort();
  n_rows++;
}

/* Whatever passed the checks can be described, and has a task at least. */
static void describe(const Checkpoint *c) {
  const JobSink sink = {.row = count_row};
  const EngineOptions options = ENGINE_OPTIONS__INIT;
  g_autoptr(Job) job = job_new(&options, NULL, -1, &sink);
  n_rows = 0;
  if (!describe_checkpoint(job, c, NULL) || n_rows < c->tasks->len)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!checkpoint)
    checkpoint = fixture_golden();
  if (!size || data[0] >= G_N_ELEMENTS(files) || !decode(files[data[0]].id, files[data[0]].number, data + 1, size - 1))
    return 0;
  char name[IMAGE_NAME_MAX];
  image_name(name, files[data[0]].id, files[data[0]].number);
  GBytes *before = g_hash_table_lookup(checkpoint, name);
  if (before)
    g_bytes_ref(before);
  g_hash_table_insert(checkpoint, g_strdup(name), g_bytes_new_static(data + 1, size - 1));
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) c = fixture_load(checkpoint, &error);
  if ((c == NULL) != (error != NULL))
    abort();
  if (c)
    describe(c);
  if (before)
    g_hash_table_insert(checkpoint, g_strdup(name), before);
  else
    g_hash_table_remove(checkpoint, name);
  return 0;
}

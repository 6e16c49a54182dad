/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "error.h"
#include "fixture.h"
#include "pipe-data.pb-c.h"
#include "reader.h"
#include "writer.h"
#include <string.h>

static void test_criu_checkpoint_is_understood(void) {
  g_autoptr(GHashTable) files = fixture_golden();
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) c = fixture_load(files, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(c->tasks->len, ==, 3);
  g_assert_cmpuint(c->files->len, ==, 25);
  const Task *root = c->tasks->pdata[0];
  g_assert_cmpint(task_pid(root), ==, 27649);
  g_assert_cmpuint(root->threads->len, ==, 5);
  g_assert_true(((Thread *)root->threads->pdata[0])->core == root->core);
  g_assert_cmpstr(root->core->tc->comm, ==, "objects");
  g_assert_cmphex(root->core->thread_info->gpregs->sp, ==, 0x7ffd9f2af520);
  g_assert_cmpuint(page_set_n_present(root->pages), ==, 21);
  g_assert_true(checkpoint_find_task(c, 27652) == c->tasks->pdata[2]);
  g_assert_cmpuint(checkpoint_find_shmem(c, 62985)->pages_id, ==, 2);
  const Record *pipe = c->records[RECORD_PIPES_DATA]->pdata[0];
  g_assert_cmpmem(g_bytes_get_data(pipe->extra, NULL), g_bytes_get_size(pipe->extra), "in the pipe", 11);
}

/* Replaces a file and expects a refusal that names @needle. */
static void expect_refusal(const char *name, const void *data, gsize size, EngineErrorCode code, const char *needle) {
  g_autoptr(GHashTable) files = fixture_golden();
  if (data)
    g_hash_table_insert(files, g_strdup(name), g_bytes_new(data, size));
  else
    g_hash_table_remove(files, name);
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) c = fixture_load(files, &error);
  g_assert_null(c);
  g_assert_error(error, ENGINE_ERROR, (int)code);
  if (!strstr(error->message, needle))
    g_error("%s: \"%s\" does not say \"%s\"", name, error->message, needle);
}

static void test_missing_files(void) {
  static const char *const needed[] = {
      "inventory.img",
      "pstree.img",
      "files.img",
      "core-27649.img",
      "core-27653.img",
      "ids-27651.img",
      "mm-27649.img",
      "fs-27652.img",
      "pagemap-27649.img",
      "fdinfo-3.img",
      "pages-3.img",
      "pagemap-shmem-62984.img",
      "memfd.img",
      "ghost-file-1.img",
      "pages-1.img",
  };
  for (gsize i = 0; i < G_N_ELEMENTS(needed); i++)
    expect_refusal(needed[i], NULL, 0, ENGINE_ERROR_CODE__IMAGE_INVALID, ".img: ");
}

static void test_wrong_pages_size(void) {
  static const guint8 page[8192];
  expect_refusal("pages-1.img", page, 8192, ENGINE_ERROR_CODE__IMAGE_INVALID, "pages-1.img: 8192 bytes");
  expect_refusal("pages-1.img", page, 4095, ENGINE_ERROR_CODE__IMAGE_INVALID, "pages-1.img: 4095 bytes");
}

static GByteArray *frame(guint32 magic) {
  GByteArray *a = g_byte_array_new();
  const guint32 head[] = {GUINT32_TO_LE(IMAGE_MAGIC_COMMON), GUINT32_TO_LE(magic)};
  return g_byte_array_append(a, (const guint8 *)head, sizeof head);
}

static void add_entry(GByteArray *a, const void *data, guint32 size) {
  guint32 le = GUINT32_TO_LE(size);
  g_byte_array_append(a, (const guint8 *)&le, 4);
  g_byte_array_append(a, data, size);
}

static void test_lying_lengths(void) {
  g_autoptr(GByteArray) a = frame(0x50273030);
  const guint8 size[4] = {0xff, 0xff, 0xff, 0xff};
  g_byte_array_append(a, size, 4);
  expect_refusal("pstree.img", a->data, a->len, ENGINE_ERROR_CODE__IMAGE_INVALID, "pstree.img: offset 8: an entry of");

  g_autoptr(GByteArray) b = frame(0x56453709);
  PipeDataEntry e = PIPE_DATA_ENTRY__INIT;
  e.bytes = 0xffffffff;
  guint8 packed[64];
  add_entry(b, packed, (guint32)pipe_data_entry__pack(&e, packed));
  expect_refusal("pipes-data.img", b->data, b->len, ENGINE_ERROR_CODE__IMAGE_INVALID, "pipes-data.img: offset 20:");
}

/* protobuf-c unpacks by recursion: a message nested a million deep must not reach it. */
static void test_nesting_is_bounded(void) {
  g_autoptr(GByteArray) inner = g_byte_array_new();
  for (guint i = 0; i < 20000; i++) {
    guint8 head[6] = {0x12}; /* field 2, length-prefixed: `children` of a directory */
    gsize n = 1;
    for (guint length = inner->len; n < 6; length >>= 7) {
      head[n++] = (guint8)((length & 0x7f) | (length > 0x7f ? 0x80 : 0));
      if (length <= 0x7f)
        break;
    }
    g_byte_array_prepend(inner, head, (guint)n);
  }
  g_autoptr(GByteArray) a = frame(0x59383330);
  add_entry(a, inner->data, inner->len);
  expect_refusal(
      "cgroup.img", a->data, a->len, ENGINE_ERROR_CODE__IMAGE_INVALID, "cgroup.img: offset 8: cgroup_entry: nested");
}

static void test_other_versions_are_incompatible(void) {
  InventoryEntry e = INVENTORY_ENTRY__INIT;
  e.img_version = 3;
  guint8 packed[64];
  GByteArray *a = g_byte_array_new();
  const guint32 magic = GUINT32_TO_LE(0x58313116);
  g_byte_array_append(a, (const guint8 *)&magic, 4);
  add_entry(a, packed, (guint32)inventory_entry__pack(&e, packed));
  expect_refusal("inventory.img", a->data, a->len, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "format version 3");
  g_byte_array_unref(a);
}

static void test_wrong_magic(void) {
  static const guint8 junk[64] = {0x19, 0x43, 0x56, 0x54};
  expect_refusal(
      "core-27651.img", junk, sizeof junk, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-27651.img: offset 4: the magic");
  expect_refusal(
      "core-27651.img", junk + 8, 8, ENGINE_ERROR_CODE__IMAGE_INVALID, "core-27651.img: offset 0: the common magic");
}

static void test_empty_directory(void) {
  g_autoptr(GHashTable) files = g_hash_table_new(g_str_hash, g_str_equal);
  g_autoptr(GError) error = NULL;
  g_assert_null(fixture_load(files, &error));
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
  g_assert_cmpstr(error->message, ==, "inventory.img: missing: the directory holds no complete checkpoint");
}

#define MANY 30000

static GByteArray *many_descriptors(void) {
  GByteArray *a = frame(image_kind(IMAGE_FDINFO)->magic);
  for (guint32 i = 0; i < MANY; i++) {
    FdinfoEntry e = FDINFO_ENTRY__INIT;
    guint8 packed[64];
    e.id = i + 1, e.fd = i, e.type = FD_TYPES__REG;
    add_entry(a, packed, (guint32)fdinfo_entry__pack(&e, packed));
  }
  return a;
}

/* Taken apart by two threads, and by one: the same entries in the same order, or the same refusal. */
static char *read_many(const GByteArray *file) {
  g_auto(ImageReader) whole = {0}, single = {0};
  g_autoptr(GPtrArray) all = image_messages_new(), one = image_messages_new();
  GError *error = NULL, *reason = NULL;
  bool ok = image_reader_feed(&whole, IMAGE_FDINFO, 3, file->data, file->len, &error) && image_reader_rest(&whole, all, &error);
  ProtobufCMessage *m = NULL;
  bool more = image_reader_feed(&single, IMAGE_FDINFO, 3, file->data, file->len, &reason);
  while (more && (more = image_reader_next(&single, &m, NULL, &reason)) && m)
    g_ptr_array_add(one, m);
  g_assert_true(ok == !error && ok == more);
  g_assert_cmpstr(error ? error->message : NULL, ==, reason ? reason->message : NULL);
  for (guint i = 0; ok && i < one->len; i++)
    g_assert_true(((FdinfoEntry *)all->pdata[i])->id == ((FdinfoEntry *)one->pdata[i])->id && ((FdinfoEntry *)all->pdata[i])->fd == ((FdinfoEntry *)one->pdata[i])->fd);
  g_assert_true(!ok || all->len == one->len);
  char *message = error ? g_strdup(error->message) : NULL;
  g_clear_error(&error);
  g_clear_error(&reason);
  return message;
}

/* Packed by two threads: the same bytes. */
static void test_large_lists(void) {
  g_autoptr(GByteArray) wanted = many_descriptors();
  g_autoptr(GPtrArray) messages = g_ptr_array_new_with_free_func(g_free);
  g_auto(ImageWriter) w = {0};
  for (guint32 i = 0; i < MANY; i++) {
    FdinfoEntry *e = g_new(FdinfoEntry, 1);
    fdinfo_entry__init(e);
    e->id = i + 1, e->fd = i, e->type = FD_TYPES__REG;
    g_ptr_array_add(messages, e);
  }
  image_writer_init(&w, -1);
  image_writer_begin(&w, IMAGE_FDINFO, 3);
  g_autoptr(GError) error = NULL;
  g_assert_true(image_writer_add_all(&w, messages, &error));
  g_assert_cmpmem(w.data, w.size, wanted->data, wanted->len);
}

static void test_large_files(void) {
  g_autoptr(GByteArray) sound = many_descriptors();
  g_autoptr(GRand) random = g_rand_new_with_seed(7);
  g_assert_null(read_many(sound));
  guint refused = 0;
  for (guint i = 0; i < 100; i++) {
    g_autoptr(GByteArray) damaged = g_byte_array_append(g_byte_array_new(), sound->data, sound->len);
    for (guint n = i % 3; n > 0; n--)
      damaged->data[g_rand_int_range(random, 0, (gint32)damaged->len)] ^= (guint8)g_rand_int_range(random, 1, 256);
    if (i % 3 == 0)
      g_byte_array_set_size(damaged, (guint)g_rand_int_range(random, 0, (gint32)damaged->len));
    g_autofree char *message = read_many(damaged);
    refused += message != NULL;
  }
  g_assert_cmpuint(refused, >, 30);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/load/criu-checkpoint-is-understood", test_criu_checkpoint_is_understood);
  g_test_add_func("/image/load/missing-files", test_missing_files);
  g_test_add_func("/image/load/wrong-pages-size", test_wrong_pages_size);
  g_test_add_func("/image/load/lying-lengths", test_lying_lengths);
  g_test_add_func("/image/load/nesting-is-bounded", test_nesting_is_bounded);
  g_test_add_func("/image/load/other-versions-are-incompatible", test_other_versions_are_incompatible);
  g_test_add_func("/image/load/wrong-magic", test_wrong_magic);
  g_test_add_func("/image/load/large-lists", test_large_lists);
  g_test_add_func("/image/load/large-files", test_large_files);
  g_test_add_func("/image/load/empty-directory", test_empty_directory);
  return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "error.h"
#include "fixture.h"
#include "ghost-file.pb-c.h"
#include "image.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static guint8 *content_of(int fd, gsize *ret_size) {
  struct stat st;
  g_assert_cmpint(fstat(fd, &st), ==, 0);
  guint8 *data = g_malloc0((gsize)st.st_size + 1);
  g_assert_cmpint(pread(fd, data, (gsize)st.st_size, 0), ==, st.st_size);
  *ret_size = (gsize)st.st_size;
  return data;
}

/* Through a ghost file and back; @from may be write-only, its position must stay. */
static void ghost_trip(int dir, int from, int check) {
  GhostFileEntry entry = GHOST_FILE_ENTRY__INIT;
  entry.uid = 5;
  entry.mode = S_IFREG | 0640;
  g_autoptr(GError) error = NULL;
  gsize size, back_size;
  g_autofree guint8 *data = content_of(check, &size);
  off_t position = lseek(from, 0, SEEK_CUR);
  guint64 written = 0;
  g_assert_true(image_create_ghost(dir, 0xab, &entry.base, from, size, &written, &error));
  g_assert_no_error(error);
  g_assert_cmpint(lseek(from, 0, SEEK_CUR), ==, position);
  struct stat st, before;
  g_assert_cmpint(fstatat(dir, "ghost-file-ab.img", &st, 0), ==, 0);
  g_assert_cmpuint(written, ==, st.st_size);

  GhostFileEntry *read = (GhostFileEntry *)image_read_ghost(dir, 0xab, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(read->uid, ==, 5);
  ghost_file_entry__free_unpacked(read, NULL);

  int back = memfd_create("back", MFD_CLOEXEC);
  g_assert_cmpint(pwrite(back, "old content that must go", 24, 0), ==, 24);
  g_assert_true(image_copy_ghost(dir, 0xab, back, &error));
  g_assert_no_error(error);
  g_autofree guint8 *again = content_of(back, &back_size);
  if (size > 24) /* the old content is overwritten where there are data, and only there: begin with a fresh file */
    g_assert_cmpmem(again + 24, back_size - 24, data + 24, size - 24);
  g_assert_cmpuint(back_size, ==, size);
  g_assert_cmpint(fstat(back, &st), ==, 0);
  g_assert_cmpint(fstat(check, &before), ==, 0);
  g_assert_cmpint(st.st_blocks, <=, before.st_blocks + 8);
  (void)close(back);
  g_assert_cmpint(unlinkat(dir, "ghost-file-ab.img", 0), ==, 0);
}

static void test_contents(void) {
  char *path;
  int dir = fixture_directory(&path);
  static const off_t sizes[] = {0, 1, 4095, 4096, 300000, (off_t)64 << 20};
  for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++)
    for (int holes = 0; holes < 2; holes++) {
      int fd = memfd_create("content", MFD_CLOEXEC);
      g_assert_cmpint(ftruncate(fd, sizes[i]), ==, 0);
      for (off_t at = 0; at < MIN(sizes[i], 1 << 20); at += holes ? 65536 : 1024)
        g_assert_cmpint(pwrite(fd, "0123456789abcdef", (size_t)MIN(16, sizes[i] - at), at), >, 0);
      g_assert_cmpint(lseek(fd, sizes[i] / 2, SEEK_SET), ==, sizes[i] / 2);
      ghost_trip(dir, fd, fd);
      (void)close(fd);
    }
  fixture_remove(path, dir);
}

/* Opened for writing only, appending, and deleted: as log files are. */
static void test_deleted_write_only_file(void) {
  char *path;
  int dir = fixture_directory(&path);
  int fd = openat(dir, "log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  int check = openat(dir, "log", O_RDONLY | O_CLOEXEC);
  g_assert_cmpint(write(fd, "a line of a log\n", 16), ==, 16);
  g_assert_cmpint(unlinkat(dir, "log", 0), ==, 0);
  ghost_trip(dir, fd, check);
  (void)close(fd);
  (void)close(check);
  fixture_remove(path, dir);
}

static void test_without_content(void) {
  char *path;
  int dir = fixture_directory(&path);
  g_autoptr(GError) error = NULL;
  GhostFileEntry entry = GHOST_FILE_ENTRY__INIT;
  entry.mode = S_IFLNK | 0777;
  entry.symlnk_target = (char *)"/elsewhere";
  g_assert_true(image_create_ghost(dir, 1, &entry.base, -1, 0, NULL, &error));
  GhostFileEntry *read = (GhostFileEntry *)image_read_ghost(dir, 1, &error);
  g_assert_cmpstr(read->symlnk_target, ==, "/elsewhere");
  ghost_file_entry__free_unpacked(read, NULL);
  g_assert_false(image_create_ghost(dir, 1, &entry.base, -1, 0, NULL, &error));
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__CHECKPOINT_EXISTS);
  fixture_remove(path, dir);
}

/* CRIU's own. */
static void test_criu_ghost(void) {
  int dir = open(IMAGE_TEST_DATA "/objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int into = memfd_create("into", MFD_CLOEXEC);
  g_autoptr(GError) error = NULL;
  gsize size;
  g_assert_true(image_copy_ghost(dir, 1, into, &error));
  g_assert_no_error(error);
  g_autofree guint8 *data = content_of(into, &size);
  g_assert_cmpmem(data, size, "deleted but held", 16);
  (void)close(into);
  (void)close(dir);
}

static void put_file(int dir, const char *name, const void *data, gsize size) {
  (void)unlinkat(dir, name, 0);
  int fd = openat(dir, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  g_assert_cmpint(write(fd, data, size), ==, (gssize)size);
  (void)close(fd);
}

/* A ghost with extents, cut at every length and with 2,000 changed bytes: refused or copied, never more than it says.
 */
static void test_damage(void) {
  char *path;
  int dir = fixture_directory(&path);
  int fd = memfd_create("content", MFD_CLOEXEC);
  g_assert_cmpint(ftruncate(fd, 40000), ==, 0);
  g_assert_cmpint(pwrite(fd, "x", 1, 0), ==, 1);
  g_assert_cmpint(pwrite(fd, "x", 1, 20000), ==, 1);
  GhostFileEntry entry = GHOST_FILE_ENTRY__INIT;
  g_autoptr(GError) error = NULL;
  g_assert_true(image_create_ghost(dir, 7, &entry.base, fd, 40000, NULL, &error));
  g_autofree char *file = g_build_filename(path, "ghost-file-7.img", NULL);
  g_autofree char *data = NULL;
  gsize size;
  g_assert_true(g_file_get_contents(file, &data, &size, NULL));
  g_assert_cmpuint(size, <, 20000);
  guint refused = 0;
  for (gsize length = 0; length < size; length += length < 100 ? 1 : 61) {
    put_file(dir, "ghost-file-7.img", data, length);
    g_autoptr(GError) why = NULL;
    refused += !image_copy_ghost(dir, 7, fd, &why);
    g_assert_true(!why || g_str_has_prefix(why->message, "ghost-file-7.img: "));
  }
  g_assert_cmpuint(refused, >=, 100);
  g_autoptr(GRand) random = g_rand_new_with_seed(1);
  for (int i = 0; i < 2000; i++) {
    gsize at = (gsize)g_rand_int_range(random, 0, 80);
    char before = data[at];
    data[at] ^= (char)g_rand_int_range(random, 1, 256);
    put_file(dir, "ghost-file-7.img", data, size);
    g_autoptr(GError) why = NULL;
    (void)image_copy_ghost(dir, 7, fd, &why);
    data[at] = before;
  }
  (void)close(fd);
  fixture_remove(path, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/ghost/contents", test_contents);
  g_test_add_func("/image/ghost/deleted-write-only-file", test_deleted_write_only_file);
  g_test_add_func("/image/ghost/without-content", test_without_content);
  g_test_add_func("/image/ghost/criu-ghost", test_criu_ghost);
  g_test_add_func("/image/ghost/damage", test_damage);
  return g_test_run();
}

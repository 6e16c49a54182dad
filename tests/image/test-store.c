/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "error.h"
#include "fixture.h"
#include "image.h"
#include "seccomp.pb-c.h"
#include "tcp-stream.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static bool bytes_same(GHashTable *a, GHashTable *b, const char *name) {
  GBytes *x = g_hash_table_lookup(a, name), *y = g_hash_table_lookup(b, name);
  return x && y && g_bytes_equal(x, y);
}

static GHashTable *store(const Checkpoint *c) {
  g_autoptr(GError) error = NULL;
  char *path;
  guint64 written = 0, sum = 0;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, false, &written, &error));
  GHashTable *files = fixture_slurp(path);
  GHashTableIter iter;
  gpointer name, bytes;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &name, &bytes))
    if (!g_str_has_prefix(name, "pages-") && !g_str_has_prefix(name, "ghost-"))
      sum += g_bytes_get_size(bytes);
  g_assert_cmpuint(written, ==, sum);
  fixture_remove(path, dir);
  return files;
}

/* What CRIU wrote is written back byte for byte. (mm: CRIU does not pack the auxiliary vector.) */
static void test_criu_files_come_back_the_same(void) {
  g_autoptr(GHashTable) files = fixture_golden();
  g_autoptr(Checkpoint) c = fixture_load(files, NULL);
  g_autoptr(GHashTable) ours = store(c);
  g_assert_cmpuint(g_hash_table_size(ours), ==, g_hash_table_size(files) + 1);
  GHashTableIter iter;
  gpointer name;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &name, NULL))
    if (!g_str_has_prefix(name, "mm-") && !g_str_has_prefix(name, "ghost-") && !bytes_same(files, ours, name))
      g_error("%s differs", (char *)name);
}

/* Everything there is, through files and back: the second writing is the same as the first. */
static void test_round_trip(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GHashTable) first = store(c);
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) again = fixture_load(first, &error);
  g_assert_no_error(error);
  g_autoptr(GHashTable) second = store(again);
  g_assert_cmpuint(g_hash_table_size(first), ==, g_hash_table_size(second));
  GHashTableIter iter;
  gpointer name;
  g_hash_table_iter_init(&iter, first);
  while (g_hash_table_iter_next(&iter, &name, NULL))
    if (!bytes_same(first, second, name))
      g_error("%s differs", (char *)name);

  const Task *root = again->tasks->pdata[0];
  g_assert_cmpstr(again->creator->name, ==, "fixture");
  g_assert_cmpuint(root->extra->coredump_filter, ==, 0x33);
  g_assert_null(((Thread *)root->threads->pdata[0])->extra);
  g_assert_cmpuint(((Thread *)root->threads->pdata[3])->extra->ioprio, ==, 3);
  const Task *zombie = checkpoint_find_task(again, 30000);
  g_assert_true(task_is_zombie(zombie));
  g_assert_null(zombie->mm);
}

static void test_shared_descriptor_tables_are_one(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  Task *root = c->tasks->pdata[0], *child = c->tasks->pdata[1];
  child->ids->files_id = root->ids->files_id;
  g_autoptr(GHashTable) files = store(c);
  g_assert_null(g_hash_table_lookup(files, "fdinfo-3.img"));
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) again = fixture_load(files, &error);
  g_assert_no_error(error);
  root = again->tasks->pdata[0], child = again->tasks->pdata[1];
  g_assert_true(root->fds == child->fds);
}

static void test_modes(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  char *path;
  int dir = fixture_directory(&path);
  mode_t mask = umask(0);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, true, NULL, NULL));
  (void)umask(mask);
  g_autoptr(GHashTable) files = fixture_slurp(path);
  GHashTableIter iter;
  gpointer name;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &name, NULL)) {
    struct stat st;
    g_assert_cmpint(fstatat(dir, name, &st, 0), ==, 0);
    g_assert_cmphex(st.st_mode, ==, S_IFREG | 0600);
  }
  fixture_remove(path, dir);
}

/* A file in the way is not overwritten, a symbolic link not followed; no checkpoint comes of it. */
static void test_nothing_is_overwritten(void) {
  for (int link = 0; link < 2; link++) {
    g_autoptr(Checkpoint) c = fixture_rich();
    g_autoptr(GError) error = NULL;
    char *path;
    int dir = fixture_directory(&path);
    fixture_content(c, dir);
    g_assert_cmpint(link ? symlinkat("elsewhere", dir, "files.img") : mkfifoat(dir, "files.img", 0600), ==, 0);
    g_assert_false(image_store(c, dir, false, NULL, &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__CHECKPOINT_EXISTS);
    g_assert_nonnull(strstr(error->message, "files.img"));
    g_assert_cmpint(faccessat(dir, "elsewhere", F_OK, 0), <, 0);
    g_assert_cmpint(faccessat(dir, "inventory.img", F_OK, 0), <, 0);
    fixture_remove(path, dir);
  }
}

static void test_vanished_directory(void) {
  g_autoptr(GHashTable) files = fixture_golden();
  g_autoptr(Checkpoint) c = fixture_load(files, NULL);
  g_autoptr(GError) error = NULL;
  char *path;
  int dir = fixture_directory(&path);
  g_assert_cmpint(rmdir(path), ==, 0);
  g_assert_false(image_store(c, dir, false, NULL, &error));
  g_assert_nonnull(strstr(error->message, ".img: create: No such file"));
  fixture_remove(path, dir);
}

/* A file system with room for @kib of the files. */
static int mount_small(char **ret_path, guint kib) {
  int dir = fixture_directory(ret_path);
  g_autofree char *options = g_strdup_printf("size=%uk", kib);
  if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
      mount("tmpfs", *ret_path, "tmpfs", 0, options) < 0) {
    fixture_remove(*ret_path, dir);
    return -1;
  }
  (void)close(dir);
  return open(*ret_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* However far it gets: NoSpace, the file named, no inventory. */
static void test_full_disk(void) {
  bool whole = false;
  for (guint kib = 16; !whole; kib += 16) {
    g_autoptr(Checkpoint) c = fixture_rich();
    g_autoptr(GError) error = NULL;
    char *path;
    int dir = mount_small(&path, kib);
    if (dir < 0) {
      g_test_skip("no right to mount");
      return;
    }
    struct stat st;
    fixture_content(c, dir);
    whole = image_store(c, dir, false, NULL, &error);
    g_assert_true((fstatat(dir, "inventory.img", &st, 0) == 0) == whole);
    if (!whole) {
      g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__NO_SPACE);
      g_assert_nonnull(strstr(error->message, ".img: "));
    }
    (void)close(dir);
    g_assert_cmpint(umount2(path, MNT_DETACH), ==, 0);
    (void)rmdir(path);
    g_free(path);
    g_assert_cmpuint(kib, <, 4096);
  }
}

static void break_parent(Checkpoint *c) {
  ((Task *)c->tasks->pdata[2])->pstree->ppid = 999;
}
static void break_pid_twice(Checkpoint *c) {
  ((Task *)c->tasks->pdata[2])->pstree->pid = 27649;
}
static void break_fd_file(Checkpoint *c) {
  ((FdinfoEntry *)((Task *)c->tasks->pdata[0])->fds->pdata[3])->id = 999;
}
static void break_fd_type(Checkpoint *c) {
  ((FdinfoEntry *)((Task *)c->tasks->pdata[0])->fds->pdata[3])->type = FD_TYPES__TTY;
}
static void break_cwd(Checkpoint *c) {
  ((Task *)c->tasks->pdata[1])->fs->cwd_id = 999;
}
static void break_exe(Checkpoint *c) {
  ((Task *)c->tasks->pdata[1])->mm->exe_file_id = 999;
}
static void break_vma_order(Checkpoint *c) {
  MmEntry *mm = ((Task *)c->tasks->pdata[0])->mm;
  mm->vmas[1]->start = mm->vmas[0]->start;
}
static void break_vma_align(Checkpoint *c) {
  ((Task *)c->tasks->pdata[0])->mm->vmas[0]->start += 1;
}
static void break_vma_end(Checkpoint *c) {
  MmEntry *mm = ((Task *)c->tasks->pdata[0])->mm;
  mm->vmas[mm->n_vmas - 2]->end = 0xffff800000000000;
}
static void break_vma_file(Checkpoint *c) {
  ((Task *)c->tasks->pdata[0])->mm->vmas[0]->shmid = (guint64)1 << 32;
}
static void break_page_outside(Checkpoint *c) {
  ((PagemapEntry *)((Task *)c->tasks->pdata[0])->pages->entries->pdata[0])->vaddr = 0x10000;
}
static void break_page_count(Checkpoint *c) {
  ((PagemapEntry *)((Task *)c->tasks->pdata[0])->pages->entries->pdata[0])->nr_pages = (guint64)1 << 60;
}
static void break_shmem_page(Checkpoint *c) {
  ((PagemapEntry *)checkpoint_find_shmem(c, 62985)->entries->pdata[0])->vaddr = 1 << 20;
}
static void break_file_id(Checkpoint *c) {
  ((FileEntry *)c->files->pdata[4])->reg->id = 77;
}
static void break_core_caps(Checkpoint *c) {
  ((Task *)c->tasks->pdata[0])->core->thread_core->creds->n_cap_eff = 1;
}
static void break_core_fpu(Checkpoint *c) {
  ((Task *)c->tasks->pdata[0])->core->thread_info->fpregs->n_xmm_space = 63;
}
static void break_thread(Checkpoint *c) {
  ((Task *)c->tasks->pdata[0])->pstree->threads[2] = 5;
}
static void break_memfd(Checkpoint *c) {
  g_ptr_array_set_size(c->records[RECORD_MEMFD], 0);
}
static void break_seccomp(Checkpoint *c) {
  SeccompEntry *e = (SeccompEntry *)((Record *)c->records[RECORD_SECCOMP]->pdata[1])->message;
  e->seccomp_filters[1]->prev = 1;
}

static TcpStreamEntry *tcp_stream(Checkpoint *c) {
  return (TcpStreamEntry *)checkpoint_find_tcp_stream(c, 0xabc)->message;
}
static void break_tcp_unsent(Checkpoint *c) {
  tcp_stream(c)->unsq_len = 4; /* of 3 */
}
static void break_tcp_scale(Checkpoint *c) {
  tcp_stream(c)->snd_wscale = 15;
}
static void break_tcp_segment(Checkpoint *c) {
  tcp_stream(c)->mss_clamp = 0;
}

static TtyInfoEntry *tty_info(Checkpoint *c) {
  return (TtyInfoEntry *)((Record *)c->records[RECORD_TTY_INFO]->pdata[0])->message;
}
static void break_tty_info(Checkpoint *c) {
  checkpoint_find_file(c, 4711)->tty->tty_info_id = 2;
}
static void break_tty_index(Checkpoint *c) {
  tty_info(c)->pty->index = 1u << 20;
}
static void break_tty_window(Checkpoint *c) {
  WinsizeEntry *w = tty_info(c)->winsize = calloc(1, sizeof *w);
  winsize_entry__init(w);
  w->ws_col = 1 << 16;
}
static void break_tty_termios(Checkpoint *c) {
  TermiosEntry *t = tty_info(c)->termios = calloc(1, sizeof *t);
  termios_entry__init(t);
}
static void break_tty_eof(Checkpoint *c) {
  ((CkptTty *)c->ttys->pdata[0])->eof[1] = 5;
}
static void break_tty_complete(Checkpoint *c) {
  ((CkptTty *)c->ttys->pdata[0])->complete = 6; /* of 5 */
}
static void break_tty_data(Checkpoint *c) {
  TtyDataEntry *d = calloc(1, sizeof *d);
  tty_data_entry__init(d);
  d->tty_id = 1;
  checkpoint_add_record(c, RECORD_TTY_DATA, &d->base, NULL);
}

static const struct {
  void (*with)(Checkpoint *c);
  const char *file;
} breaks[] = {
    {break_parent, "pstree.img"},
    {break_pid_twice, "pstree.img"},
    {break_fd_file, "fdinfo-2.img"},
    {break_fd_type, "fdinfo-2.img"},
    {break_cwd, "fs-27651.img"},
    {break_exe, "mm-27651.img"},
    {break_vma_order, "mm-27649.img"},
    {break_vma_align, "mm-27649.img"},
    {break_vma_end, "mm-27649.img"},
    {break_vma_file, "mm-27649.img"},
    {break_page_outside, "pagemap-27649.img"},
    {break_page_count, "pagemap-27649.img"},
    {break_shmem_page, "pagemap-shmem-62985.img"},
    {break_file_id, "files.img"},
    {break_core_caps, "core-27649.img"},
    {break_core_fpu, "core-27649.img"},
    {break_thread, "pstree.img"},
    {break_memfd, "files.img"},
    {break_seccomp, "seccomp.img"},
    {break_tcp_unsent, "tcp-stream-abc.img"},
    {break_tcp_scale, "tcp-stream-abc.img"},
    {break_tcp_segment, "tcp-stream-abc.img"},
    {break_tty_info, "files.img"},
    {break_tty_index, "tty-info.img"},
    {break_tty_window, "tty-info.img"},
    {break_tty_termios, "tty-info.img"},
    {break_tty_data, "tty-data.img"},
    {break_tty_eof, "checkpoint.img"},
    {break_tty_complete, "checkpoint.img"},
};

/* What could not be restored is not stored. */
static void test_nonsense_is_not_stored(void) {
  char *path;
  int dir = fixture_directory(&path);
  for (gsize i = 0; i < G_N_ELEMENTS(breaks); i++) {
    g_autoptr(Checkpoint) c = fixture_rich();
    g_autoptr(GError) error = NULL;
    breaks[i].with(c);
    g_assert_false(image_store(c, dir, false, NULL, &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
    if (!g_str_has_prefix(error->message, breaks[i].file))
      g_error("%zu: %s", i, error->message);
  }
  g_assert_cmpint(rmdir(path), ==, 0); /* empty: nothing was written */
  fixture_remove(path, dir);
}

static void test_missing_pages_are_noticed(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GError) error = NULL;
  char *path;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_cmpint(unlinkat(dir, "pages-4.img", 0), ==, 0);
  g_assert_false(image_store(c, dir, false, NULL, &error));
  g_assert_cmpstr(error->message, ==, "pages-4.img: missing");
  fixture_remove(path, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/store/criu-files-come-back-the-same", test_criu_files_come_back_the_same);
  g_test_add_func("/image/store/round-trip", test_round_trip);
  g_test_add_func("/image/store/shared-descriptor-tables-are-one", test_shared_descriptor_tables_are_one);
  g_test_add_func("/image/store/modes", test_modes);
  g_test_add_func("/image/store/nothing-is-overwritten", test_nothing_is_overwritten);
  g_test_add_func("/image/store/vanished-directory", test_vanished_directory);
  g_test_add_func("/image/store/full-disk", test_full_disk);
  g_test_add_func("/image/store/nonsense-is-not-stored", test_nonsense_is_not_stored);
  g_test_add_func("/image/store/missing-pages-are-noticed", test_missing_pages_are_noticed);
  return g_test_run();
}

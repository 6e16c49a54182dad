/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is kept of the kernel's types: by whom it is believed, and from whom not. Root's. */

#include "kernel-memo.h"
#include "kernel-types.h"
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRONG 12344

static char *dir, *path;
static int truth; /* the offset of task_struct.pid */

static int ask(void) {
  g_autoptr(KernelTypes) types = kernel_types_open();
  g_assert_nonnull(types);
  return kernel_types_offset(types, "task_struct", "pid");
}

/* The file, with each @from replaced. */
static void edit(const char *from, const char *to) {
  g_autofree char *text = NULL;
  g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
  g_autoptr(GString) s = g_string_new(text);
  g_assert_cmpuint(g_string_replace(s, from, to, 0), >, 0);
  g_assert_true(g_file_set_contents_full(path, s->str, (gssize)s->len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

static void poison(void) {
  (void)g_unlink(path);
  g_assert_cmpint(ask(), ==, truth);
  g_autofree char *from = g_strdup_printf("\n%d offset task_struct pid\n", truth), *to = g_strdup_printf("\n%d offset task_struct pid\n", WRONG);
  edit(from, to);
}

static void test_kept(void) {
  struct stat st;
  (void)g_unlink(path);
  for (int i = 0; i < 2; i++) {
    g_autoptr(KernelTypes) types = kernel_types_open();
    g_assert_nonnull(types);
    g_assert_cmpint(kernel_types_offset(types, "task_struct", "pid"), ==, truth);
    g_assert_cmpint(kernel_types_offset(types, "task_struct", "no_such_member"), ==, -1);
    g_assert_cmpuint(kernel_types_size(types, "task_struct"), >, (guint32)truth);
    g_assert_cmpuint(kernel_types_size(types, "no_such_structure"), ==, 0);
    g_assert_cmpuint(kernel_types_function(types, "do_exit"), >, 0);
    g_assert_cmpint(kernel_types_constant(types, "PIDTYPE_SID", -7), ==, 3);
    g_assert_cmpint(kernel_types_constant(types, "NO_SUCH_CONSTANT", -7), ==, -7);
  }
  g_assert_cmpint(stat(path, &st), ==, 0);
  g_assert_cmpint(st.st_mode & 07777, ==, 0600);
  poison();
  g_assert_cmpint(ask(), ==, WRONG); /* nobody looked at the kernel's own */
}

static void test_other_boot(void) {
  poison();
  edit("kernel types 1 ", "kernel types 1 0");
  g_assert_cmpint(ask(), ==, truth);
  poison();
  edit("kernel types 1 ", "kernel types 2 ");
  g_assert_cmpint(ask(), ==, truth);
  g_assert_cmpint(ask(), ==, truth); /* it was written anew */
}

static void test_others_file(void) {
  poison();
  g_assert_cmpint(chown(path, 65534, 65534), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  poison();
  g_assert_cmpint(chmod(path, 0620), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  poison();
  g_assert_cmpint(chmod(path, 0602), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  poison();
  g_autofree char *elsewhere = g_strdup_printf("%s.elsewhere", path);
  g_assert_cmpint(rename(path, elsewhere), ==, 0);
  g_assert_cmpint(symlink(elsewhere, path), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  (void)g_unlink(elsewhere);
}

static void test_nonsense(void) {
  static const char *const lines[] = {"nonsense\n", "12\n", "12 \n", " offset task_struct pid\n"};
  for (gsize i = 0; i < G_N_ELEMENTS(lines); i++) {
    poison();
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_autofree char *more = g_strconcat(text, lines[i], NULL);
    g_assert_true(g_file_set_contents_full(path, more, -1, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    g_assert_cmpint(ask(), ==, truth);
  }
  poison();
  g_assert_cmpint(truncate(path, 1 << 20), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  (void)g_unlink(path);
  g_assert_cmpint(mkdir(path, 0700), ==, 0);
  g_assert_cmpint(ask(), ==, truth);
  g_assert_cmpint(rmdir(path), ==, 0);
}

/* Neither where it is, nor anything beside it. */
static void test_no_litter(void) {
  poison();
  g_assert_cmpint(ask(), ==, WRONG);
  g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
  for (const char *name; (name = g_dir_read_name(d));)
    g_assert_cmpstr(name, ==, "memo");
  g_autofree char *nowhere = g_build_filename(dir, "nowhere", "memo", NULL);
  g_assert_true(g_setenv("CHECKPOINTD_KERNEL_MEMO", nowhere, TRUE));
  g_assert_cmpint(ask(), ==, truth);
  g_autofree char *before = g_get_current_dir();
  g_assert_cmpint(chdir(dir), ==, 0);
  g_assert_true(g_setenv("CHECKPOINTD_KERNEL_MEMO", "", TRUE));
  g_assert_cmpint(ask(), ==, truth);
  g_autoptr(GDir) again = g_dir_open(dir, 0, NULL);
  for (const char *name; (name = g_dir_read_name(again));)
    g_assert_cmpstr(name, ==, "memo");
  g_assert_cmpint(chdir(before), ==, 0);
  g_assert_true(g_setenv("CHECKPOINTD_KERNEL_MEMO", path, TRUE));
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  if (geteuid() != 0 || access("/sys/kernel/btf/vmlinux", R_OK) < 0) {
    g_print("1..0 # SKIP not root, or a kernel without BTF\n");
    return 0;
  }
  dir = g_dir_make_tmp("kernel-memo.XXXXXX", NULL);
  path = g_build_filename(dir, "memo", NULL);
  g_assert_true(g_setenv("CHECKPOINTD_KERNEL_MEMO", path, TRUE));
  truth = ask();
  g_assert_cmpint(truth, >, 0);
  g_test_add_func("/kernel-memo/kept", test_kept);
  g_test_add_func("/kernel-memo/other-boot", test_other_boot);
  g_test_add_func("/kernel-memo/others-file", test_others_file);
  g_test_add_func("/kernel-memo/nonsense", test_nonsense);
  g_test_add_func("/kernel-memo/no-litter", test_no_litter);
  int status = g_test_run();
  (void)g_unlink(path);
  (void)g_rmdir(dir);
  return status;
}

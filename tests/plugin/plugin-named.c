/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin of the first door, with everything that it knows. */

#include "old-door.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int cr_plugin_init(void);
EXPORT void cr_plugin_fini(void);
EXPORT int cr_plugin_dump_unix_sk(int sk, int id);
EXPORT int cr_plugin_restore_unix_sk(int id);
EXPORT int cr_plugin_dump_file(int fd, int id);
EXPORT int cr_plugin_restore_file(int id);
EXPORT int cr_plugin_dump_ext_mount(char *mountpoint, int id);
EXPORT int cr_plugin_restore_ext_mount(int id, char *mountpoint, char *old_root, int *is_file);
EXPORT int cr_plugin_dump_ext_link(int index, int type, char *kind);

int cr_plugin_init(void) {
  test_begin();
  test_note("init");
  return test_answer("init", 0);
}

void cr_plugin_fini(void) {
  test_note("fini");
  (void)test_answer("fini", 0);
}

int cr_plugin_dump_unix_sk(int sk, int id) {
  char text[64];
  test_describe(sk, text);
  test_note("dump_unix_sk %d %s", id, text);
  int r = test_answer("dump_unix_sk", 0);
  return r ? r : old_dump_unix(sk, id);
}

int cr_plugin_restore_unix_sk(int id) {
  test_note("restore_unix_sk %d", id);
  int r = test_answer("restore_unix_sk", 0);
  return r ? r : old_restore_unix(id);
}

int cr_plugin_dump_file(int fd, int id) {
  char text[64];
  test_describe(fd, text);
  test_note("dump_file %d %s", id, text);
  int r = test_answer("dump_file", 0);
  return r ? r : old_dump_file(fd, id);
}

int cr_plugin_restore_file(int id) {
  test_note("restore_file %d", id);
  int r = test_answer("restore_file", 0);
  return r ? r : old_restore_file(id);
}

int cr_plugin_dump_ext_mount(char *mountpoint, int id) {
  test_note("dump_ext_mount %d %s", id, mountpoint);
  int r = test_answer("dump_ext_mount", 0);
  return r ? r : old_dump_mount(mountpoint, id);
}

int cr_plugin_restore_ext_mount(int id, char *mountpoint, char *old_root, int *is_file) {
  test_note("restore_ext_mount %d", id);
  int r = test_answer("restore_ext_mount", 0);
  return r ? r : old_restore_mount(id, mountpoint, old_root);
}

int cr_plugin_dump_ext_link(int index, int type, char *kind) {
  test_note_link("dump_ext_link", index, type, kind);
  return test_answer("dump_ext_link", -ENOTSUP);
}

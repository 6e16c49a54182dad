/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What plugins keep in checkpoint.img: there and back, and what cannot be right is refused. */

#include "error.h"
#include "fixture.h"
#include "image.h"
#include <stdlib.h>
#include <string.h>

static ProtobufCBinaryData bytes(const char *text, size_t size) {
  ProtobufCBinaryData b = {.len = size, .data = malloc(size + 1)};
  memcpy(b.data, text, size);
  return b;
}

static CkptPlugin *add_plugin(Checkpoint *c, const char *name) {
  CkptPlugin *m = malloc(sizeof *m);
  ckpt_plugin__init(m);
  m->name = strdup(name);
  m->version = strdup("1");
  m->n_records = 2;
  m->records = malloc(2 * sizeof *m->records);
  m->records[0] = bytes("own", 3);
  m->records[1] = bytes("", 0);
  g_ptr_array_add(c->plugins, m);
  return m;
}

static CkptPluginObject *add_object(Checkpoint *c, const char *plugin, guint32 kind, guint64 id) {
  CkptPluginObject *m = malloc(sizeof *m);
  ckpt_plugin_object__init(m);
  m->plugin = strdup(plugin);
  m->object = malloc(sizeof *m->object);
  plugin_object__init(m->object);
  m->object->kind = kind;
  m->object->id = id;
  m->object->has_pid = true;
  m->object->pid = 27649;
  m->n_records = 1;
  m->records = malloc(sizeof *m->records);
  m->records[0] = bytes("a\0b", 3);
  g_ptr_array_add(c->plugin_objects, m);
  return m;
}

static Checkpoint *through_files(const Checkpoint *c, GError **error) {
  char *path;
  guint64 written = 0;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, false, &written, NULL));
  g_autoptr(GHashTable) files = fixture_slurp(path);
  fixture_remove(path, dir);
  return fixture_load(files, error);
}

static void test_round_trip(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GError) error = NULL;
  add_plugin(c, "one");
  add_plugin(c, "two");
  add_object(c, "one", 1 << 0, 7);
  CkptPluginObject *m = add_object(c, "two", 1 << 3, 1ull << 32);
  m->object->has_start = m->object->has_end = true;
  m->object->start = 0x1000;
  m->object->end = 0x3000;
  g_autoptr(Checkpoint) again = through_files(c, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(again->plugins->len, ==, 2);
  g_assert_cmpuint(again->plugin_objects->len, ==, 2);
  const CkptPlugin *p = again->plugins->pdata[0];
  g_assert_cmpstr(p->name, ==, "one");
  g_assert_cmpuint(p->n_records, ==, 2);
  g_assert_cmpmem(p->records[0].data, p->records[0].len, "own", 3);
  const CkptPluginObject *o = again->plugin_objects->pdata[1];
  g_assert_cmpstr(o->plugin, ==, "two");
  g_assert_cmpuint(o->object->id, ==, 1ull << 32);
  g_assert_cmpuint(o->object->end, ==, 0x3000);
  g_assert_cmpmem(o->records[0].data, o->records[0].len, "a\0b", 3);
}

static void expect_refusal(const Checkpoint *c, const char *text) {
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) again = through_files(c, &error);
  g_assert_null(again);
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
  if (!strstr(error->message, text))
    g_error("\"%s\" does not say \"%s\"", error->message, text);
}

static void test_plugins_are_checked(void) {
  static const char *const names[] = {"", "a:b", "twice"};
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autoptr(Checkpoint) c = fixture_rich();
    add_plugin(c, "twice");
    add_plugin(c, names[i]);
    expect_refusal(c, "lists the plugin");
  }
}

static void test_objects_are_checked(void) {
  static const struct {
    const char *plugin;
    guint32 kind;
    guint64 id, start, end;
    int pid;
    const char *text;
  } cases[] = {
      {"other", 1, 7, 0, 0, 27649, "does not list"},
      {"one", 0, 7, 0, 0, 27649, "of kind 0"},
      {"one", 3, 7, 0, 0, 27649, "of kind 3"},
      {"one", 1, 0, 0, 0, 27649, "of kind 1"},
      {"one", 8, 7, 0x1000, 0x1000, 27649, "mapping cannot be"},
      {"one", 8, 7, 0x1001, 0x2000, 27649, "mapping cannot be"},
      {"one", 8, 7, 0x3000, 0x2000, 27649, "mapping cannot be"},
      {"one", 8, 7, 0x1000, 0x2000, 5, "pid 5"},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(Checkpoint) c = fixture_rich();
    add_plugin(c, "one");
    PluginObject *o = add_object(c, cases[i].plugin, cases[i].kind, cases[i].id)->object;
    o->has_start = o->has_end = cases[i].end != 0;
    o->start = cases[i].start;
    o->end = cases[i].end;
    o->pid = cases[i].pid;
    expect_refusal(c, cases[i].text);
  }
}

static void test_objects_are_there_once(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  add_plugin(c, "one");
  add_object(c, "one", 1, 7);
  add_object(c, "one", 2, 7);
  expect_refusal(c, "twice");
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/image/plugins/round-trip", test_round_trip);
  g_test_add_func("/image/plugins/plugins-are-checked", test_plugins_are_checked);
  g_test_add_func("/image/plugins/objects-are-checked", test_objects_are_checked);
  g_test_add_func("/image/plugins/objects-are-there-once", test_objects_are_there_once);
  return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The dispatch by itself, without a tree: every errno of every callback, and what may be said in between. argv[1]: the
 * directory of the test plugins, argv[2]: a plugin directory with the shipped ones. */

#include "dispatch.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const char *built, *shipped;
static char *directory;

typedef struct Fixture {
  EngineOptions options;
  Job *job;
  int images_fd;
  unsigned n_objects; /* reports */
  unsigned n_progress;
} Fixture;

static void on_object(void *data, const EngineObject *object) {
  ((Fixture *)data)->n_objects++;
}

static void on_progress(void *data, guint64 done, guint64 total) {
  ((Fixture *)data)->n_progress++;
}

static void install(const char *name) {
  g_autofree char *from = g_build_filename(built, name, NULL), *to = g_build_filename(directory, name, NULL);
  g_autofree char *text = NULL;
  gsize size = 0;
  g_assert_true(g_file_get_contents(from, &text, &size, NULL));
  g_assert_true(g_file_set_contents(to, text, (gssize)size, NULL));
  g_assert_cmpint(chmod(to, 0755), ==, 0);
}

static void put(const char *name, const char *text) {
  g_autofree char *path = g_build_filename(directory, name, NULL);
  g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void uninstall(const char *name) {
  g_autofree char *path = g_build_filename(directory, name, NULL);
  g_assert_cmpint(unlink(path), ==, 0);
}

static void fixture_begin(Fixture *f) {
  const EngineOptions options = ENGINE_OPTIONS__INIT;
  *f = (Fixture){.options = options};
  f->options.plugin_directory = directory;
  f->images_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const JobSink sink = {.object = on_object, .progress = on_progress, .data = f};
  f->job = job_new(&f->options, NULL, f->images_fd, &sink);
}

static void fixture_end(Fixture *f) {
  job_free(f->job);
  (void)close(f->images_fd);
}

static struct checkpoint_object device(guint64 id) {
  return (struct checkpoint_object){.size = sizeof(struct checkpoint_object),
      .kind = CHECKPOINT_KIND_FILE,
      .id = id,
      .pid = 1,
      .number = 5,
      .comm = "test",
      .fd = -1,
      .mode = S_IFCHR,
      .rdev = makedev(10, 237),
      .path = "/dev/loop-control",
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32};
}

static void expect(const GError *error, const char *plugin, const char *callback, int err) {
  g_autofree char *number = g_strdup_printf("(%d)", -err);
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__PLUGIN_FAILED);
  g_assert_nonnull(strstr(error->message, plugin));
  g_assert_nonnull(strstr(error->message, callback));
  g_assert_nonnull(strstr(error->message, number));
}

static void tell(const char *callback, int err) {
  g_autofree char *orders = g_strdup_printf("%s=%d", callback, -err);
  g_setenv("PLUGIN_DO", orders, TRUE);
}

static void fail_init(const char *plugin, const char *callback, int err) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  fixture_begin(&f);
  g_assert_null(plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error));
  expect(error, plugin, callback, err);
  fixture_end(&f);
}

static void fail_dump(const char *plugin, const char *callback, int err) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  PluginDumped taken = {0};
  const struct checkpoint_object object = device(7);
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error);
  g_assert_no_error(error);
  bool ok = plugins_dump(set, &object, NULL, &taken, &error);
  g_assert_null(taken.plugin);
  if (err == ENOTSUP) {
    g_assert_no_error(error);
    g_assert_true(ok);
  } else {
    g_assert_false(ok);
    expect(error, plugin, callback, err);
    g_assert_nonnull(strstr(error->message, "fd 5 of pid 1 (test)"));
  }
  plugins_end(set, error);
  fixture_end(&f);
}

static void fail_restore(const char *plugin, const char *callback, int err) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  const struct checkpoint_object object = device(7);
  PluginRestored restored;
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_RESTORE, checkpoint, &error);
  g_assert_no_error(error);
  g_assert_false(plugins_restore(set, plugin, false, &object, &restored, &error));
  g_assert_cmpint(restored.fd, ==, -1);
  if (err == ENOTSUP)
    g_assert_nonnull(strstr(error->message, "has passed"));
  else
    expect(error, plugin, callback, err);
  plugins_end(set, error);
  fixture_end(&f);
}

static void test_every_errno(void) {
  static const struct {
    const char *file, *plugin, *init, *dump, *restore;
    const char *dump_order, *restore_order;
  } doors[] = {
      {"test-named.so", "test-named", "cr_plugin_init", "cr_plugin_dump_file", "cr_plugin_restore_file", "dump_file",
          "restore_file"},
      {"test-criu.so", "criu_test", "init", "DUMP_EXT_FILE", "RESTORE_EXT_FILE", "DUMP_EXT_FILE", "RESTORE_EXT_FILE"},
      {"test-native.so", "native-test", "init", "dump", "restore", "dump", "restore"},
  };
  for (size_t d = 0; d < G_N_ELEMENTS(doors); d++) {
    install(doors[d].file);
    for (int err = 1; err <= EHWPOISON; err++) {
      tell("init", err);
      fail_init(doors[d].plugin, doors[d].init, err);
      tell(doors[d].dump_order, err);
      fail_dump(doors[d].plugin, doors[d].dump, err);
      tell(doors[d].restore_order, err);
      fail_restore(doors[d].plugin, doors[d].restore, err);
    }
    uninstall(doors[d].file);
  }
  g_unsetenv("PLUGIN_DO");
}

/* Of a program: it hears of the failure, whatever it has answered. */
static void test_every_errno_of_a_program(void) {
  install("test-process");
  g_autofree char *calls = g_build_filename(directory, "calls", NULL);
  put("prog.plugin", "[Plugin]\nProgram=test-process\nKinds=file\nDeadlineSec=60\n");
  for (int err = 1; err <= EHWPOISON; err++) {
    g_autofree char *orders = g_strdup_printf("%s\ndump=%d restore=%d", calls, -err, -err), *text = NULL;
    put("test-process.conf", orders);
    fail_dump("prog", "PLUGIN_DUMP", err);
    g_assert_true(g_file_get_contents(calls, &text, NULL, NULL));
    g_assert_true(g_str_has_suffix(text, err == ENOTSUP ? "\nfini 0\n" : "\nfini -121\n"));
    g_assert_cmpint(unlink(calls), ==, 0);
    if (err % 10 == 0 || err == EPIPE || err == EPROTO || err == ENOTSUP)
      fail_restore("prog", "PLUGIN_RESTORE", err);
  }
  uninstall("prog.plugin");
  uninstall("test-process.conf");
  uninstall("test-process");
}

static void test_nonsense_is_no_errno(void) {
  static const int nonsense[] = {4096, 70000, G_MAXINT};
  install("test-native.so");
  for (size_t i = 0; i < G_N_ELEMENTS(nonsense); i++) {
    tell("dump", nonsense[i]);
    fail_dump("native-test", "means nothing", nonsense[i]);
  }
  tell("restore", -5); /* no answer of a restore */
  fail_restore("native-test", "means nothing", -5);
  g_unsetenv("PLUGIN_DO");
  uninstall("test-native.so");
}

static void test_a_plugin_that_is_not_there(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  const struct checkpoint_object object = device(7);
  PluginRestored restored;
  install("test-native.so"); /* another one must not get it */
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_RESTORE, checkpoint, &error);
  unsigned before = f.n_objects;
  g_assert_false(plugins_restore(set, "missing", false, &object, &restored, &error));
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__PLUGIN_FAILED);
  g_assert_nonnull(strstr(error->message, "Plugin missing"));
  g_assert_cmpuint(f.n_objects, ==, before);
  plugins_end(set, error);
  fixture_end(&f);
  uninstall("test-native.so");
}

static void test_no_plugins(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  PluginDumped taken = {.plugin = ""};
  const struct checkpoint_object object = device(7);
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error);
  g_assert_nonnull(set);
  g_assert_cmpuint(plugins_count(set), ==, 0);
  g_assert_true(plugins_dump(set, &object, NULL, &taken, &error));
  g_assert_null(taken.plugin);
  g_assert_true(plugins_moment(set, CHECKPOINT_MOMENT_PAUSE, 1, &error));
  g_assert_cmpuint(f.n_objects, ==, 0);
  plugins_end(set, NULL);
  fixture_end(&f);
  plugins_end(NULL, NULL);
}

static struct checkpoint_object bus_socket(guint64 id) {
  struct checkpoint_object o = device(id);
  o.kind = CHECKPOINT_KIND_UNIX_SOCKET;
  o.peer_name = "/run/nothing";
  return o;
}

/* Images that the caller could have written: only who is fit for them is asked, and may make nothing by itself. */
static void test_untrusted_images(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  const struct checkpoint_object object = device(7);
  PluginRestored restored;
  const char *const files[] = {"test-native.so", "test-native-untrusted.so"};
  const char *const answers[] = {"restore=0", "restore=-95", "restore=4"};
  for (size_t i = 0; i < G_N_ELEMENTS(files); i++)
    for (size_t k = 0; k < G_N_ELEMENTS(answers); k++) {
      bool fit = i == 1 && k == 2;
      install(files[i]);
      g_setenv("PLUGIN_DO", answers[k], TRUE);
      fixture_begin(&f);
      f.options.untrusted_images = true;
      PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_RESTORE, checkpoint, &error);
      g_assert_no_error(error);
      for (int named = 0; named < 2; named++) {
        unsigned before = f.n_objects;
        g_assert_true(plugins_restore(set, named ? "native-test" : NULL, false, &object, &restored, &error) == fit);
        g_assert_true(fit == restored.reopen);
        if (i == 0)
          g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET);
        g_assert_true((f.n_objects > before) == (i == 1));
        g_clear_error(&error);
        plugin_said_clear(&restored.said);
      }
      plugins_end(set, NULL);
      fixture_end(&f);
      uninstall(files[i]);
    }
  g_unsetenv("PLUGIN_DO");
}

/* Each callback is told once, and moves the progress; of mappings that it passes on, the signal is enough. */
static void test_every_call_is_told(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  install("test-native.so");
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(f.n_objects, ==, 1); /* init */
  g_assert_cmpuint(f.n_progress, >=, 1);
  static const guint32 kinds[] = {CHECKPOINT_KIND_UNIX_SOCKET, CHECKPOINT_KIND_FILE, CHECKPOINT_KIND_MAPPING, CHECKPOINT_KIND_MOUNT,
      CHECKPOINT_KIND_MEMORY};
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
    struct checkpoint_object object = device(7 + i);
    PluginDumped dumped = {0};
    const char *memory = NULL;
    unsigned objects = f.n_objects, progress = f.n_progress;
    object.kind = kinds[i];
    object.path = "anything";
    object.start = 4096;
    object.end = 8192;
    if (kinds[i] == CHECKPOINT_KIND_MEMORY)
      g_assert_true(plugins_dump_memory(set, &object, &memory, &error));
    else
      g_assert_true(plugins_dump(set, &object, NULL, &dumped, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(f.n_objects, ==, objects + 1);
    g_assert_true(kinds[i] == CHECKPOINT_KIND_MEMORY || f.n_progress > progress);
  }
  unsigned objects = f.n_objects, progress = f.n_progress;
  g_assert_true(plugins_moment(set, CHECKPOINT_MOMENT_DUMPED, 1, &error));
  g_assert_true(f.n_objects == objects + 1 && f.n_progress > progress);
  plugins_end(set, NULL);
  g_assert_cmpuint(f.n_objects, ==, objects + 2);
  fixture_end(&f);
  uninstall("test-native.so");
}

/* The same of a program, whose manifest says so. */
static void test_untrusted_program(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  const struct checkpoint_object object = device(7);
  PluginRestored restored;
  const char *const manifests[] = {"[Plugin]\nProgram=test-process\nKinds=file\n",
      "[Plugin]\nProgram=test-process\nKinds=file\nUntrusted=true\n"};
  const char *const orders[] = {"\nrestore=4", "\nrestore=-95"};
  install("test-process");
  for (size_t i = 0; i < G_N_ELEMENTS(manifests); i++)
    for (size_t k = 0; k < G_N_ELEMENTS(orders); k++) {
      put("prog.plugin", manifests[i]);
      put("test-process.conf", orders[k]);
      fixture_begin(&f);
      f.options.untrusted_images = true;
      PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_RESTORE, checkpoint, &error);
      g_assert_no_error(error);
      g_assert_true(plugins_restore(set, NULL, false, &object, &restored, &error) == (i == 1 && k == 0));
      g_assert_true(restored.reopen == (i == 1 && k == 0));
      if (i == 0)
        g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET);
      g_clear_error(&error);
      plugin_said_clear(&restored.said);
      plugins_end(set, NULL);
      fixture_end(&f);
    }
  uninstall("prog.plugin");
  uninstall("test-process.conf");
  uninstall("test-process");
}

/* Before dbus was a plugin, what it keeps stood beside the object. */
static void test_older_records(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  const struct checkpoint_object object = bus_socket(7);
  PluginRestored restored;
  CkptExternal *e = g_new(CkptExternal, 1);
  CkptBus *bus = g_new(CkptBus, 1);
  ckpt_external__init(e);
  ckpt_bus__init(bus);
  e->kind = g_strdup("unix");
  e->action = g_strdup("dbus");
  e->file_id = 7;
  e->bus = bus;
  bus->unique_name = g_strdup(":1.7");
  checkpoint_add_external(checkpoint, e);
  g_setenv("CHECKPOINTD_PLUGINS", shipped, TRUE);
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_RESTORE, checkpoint, &error);
  g_assert_no_error(error);
  for (guint32 id = 7; id < 9; id++) { /* of the second there is none */
    struct checkpoint_object other = object;
    other.id = id;
    g_assert_true(plugins_restore(set, "dbus", false, &other, &restored, &error));
    g_assert_no_error(error);
    g_assert_true(restored.disconnected);
    g_assert_cmpstr(restored.said.reason, ==, id == 7 ? "nobody listens there" : "the checkpoint does not say what it had there");
    plugin_said_clear(&restored.said);
  }
  g_assert_cmpuint(plugins_count(set), ==, 1);
  plugins_end(set, NULL);
  fixture_end(&f);
  g_unsetenv("CHECKPOINTD_PLUGINS");
}

static unsigned count_descriptors(void) {
  g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
  unsigned n = 0;
  while (g_dir_read_name(dir))
    n++;
  return n;
}

static void test_nothing_is_left_open(void) {
  static const char *const orders[] = {"dump=leak", "init=leak", "dump=-5"};
  install("test-native.so");
  for (size_t i = 0; i < G_N_ELEMENTS(orders); i++) {
    unsigned before = count_descriptors();
    Fixture f;
    g_autoptr(GError) error = NULL;
    PluginDumped taken = {0};
    const struct checkpoint_object object = device(7);
    g_setenv("PLUGIN_DO", orders[i], TRUE);
    fixture_begin(&f);
    PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error);
    g_assert_no_error(error);
    (void)plugins_dump(set, &object, NULL, &taken, &error);
    plugins_end(set, error);
    fixture_end(&f);
    g_assert_cmpuint(count_descriptors(), ==, before);
  }
  g_unsetenv("PLUGIN_DO");
  uninstall("test-native.so");
}

static void test_records_have_a_limit(void) {
  Fixture f;
  g_autoptr(GError) error = NULL;
  PluginDumped taken = {0};
  bool full = false;
  install("test-native.so");
  g_setenv("PLUGIN_DO", "many=1", TRUE);
  fixture_begin(&f);
  PluginSet *set = plugins_load(f.job, CHECKPOINT_STAGE_DUMP, NULL, &error);
  for (guint64 id = 1; !full && id < 600; id++) {
    const struct checkpoint_object object = device(id);
    full = !plugins_dump(set, &object, NULL, &taken, &error);
    g_assert_true(full || taken.plugin);
  }
  g_assert_true(full);
  expect(error, "native-test", "dump", EDQUOT);
  plugins_end(set, error);
  fixture_end(&f);
  g_unsetenv("PLUGIN_DO");
  uninstall("test-native.so");
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  built = argv[1];
  shipped = argv[2];
  directory = g_dir_make_tmp("test-dispatch.XXXXXX", NULL);
  g_test_add_func("/plugin/every-errno", test_every_errno);
  g_test_add_func("/plugin/nonsense-is-no-errno", test_nonsense_is_no_errno);
  g_test_add_func("/plugin/a-plugin-that-is-not-there", test_a_plugin_that_is_not_there);
  g_test_add_func("/plugin/no-plugins", test_no_plugins);
  g_test_add_func("/plugin/every-errno-of-a-program", test_every_errno_of_a_program);
  g_test_add_func("/plugin/every-call-is-told", test_every_call_is_told);
  g_test_add_func("/plugin/untrusted-images", test_untrusted_images);
  g_test_add_func("/plugin/untrusted-program", test_untrusted_program);
  g_test_add_func("/plugin/older-records", test_older_records);
  g_test_add_func("/plugin/nothing-is-left-open", test_nothing_is_left_open);
  g_test_add_func("/plugin/records-have-a-limit", test_records_have_a_limit);
  int status = g_test_run();
  (void)rmdir(directory);
  g_free(directory);
  return status;
}

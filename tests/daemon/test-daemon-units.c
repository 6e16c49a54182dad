/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of the daemon that need no bus: limits, names, store, notes, targets, options'
 * and errors' tables, access to every member of the shipped interfaces, the sandbox. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access-table.h"
#include "daemon-error.h"
#include "file-tree.h"
#include "job-options.h"
#include "note.h"
#include "sandbox.h"
#include "service-limits.h"
#include "store.h"
#include "target.h"
#include "values.h"

static char *make_directory(void) {
  char *path = g_dir_make_tmp("checkpointd-unit-XXXXXX", NULL);

  g_assert_nonnull(path);
  return path;
}

static void remove_directory(char *path) {
  g_assert_cmpint(file_tree_remove(AT_FDCWD, path), ==, 0);
  g_free(path);
}

/* Limits */

static bool load(const char *text, Limits *limits) {
  char *directory = make_directory();
  g_autofree char *path = g_build_filename(directory, "conf", NULL);
  bool good;

  g_assert_true(g_file_set_contents(path, text, -1, NULL));
  g_assert_cmpint(chmod(path, 0644), ==, 0);
  good = limits_load(limits, path, NULL);
  remove_directory(directory);
  return good;
}

static void test_limits_of_a_missing_file_are_the_defaults(void) {
  Limits limits;

  g_assert_true(limits_load(&limits, "/nonexistent/conf", NULL));
  g_assert_cmpuint(limits.jobs_per_user, ==, 8);
  g_assert_cmpuint(limits.jobs_total, ==, 64);
  g_assert_cmpuint(limits.jobs_running, <=, 4);
  g_assert_false(limits.durable);
}

static void test_limits_read_sizes(void) {
  Limits limits;

  g_assert_true(
      load("[limits]\nbytes-per-user=3K\nkeep-free-bytes=2G\ncheckpoints-per-user=0\ndurable=yes\n", &limits));
  g_assert_cmpuint(limits.bytes_per_user, ==, 3072);
  g_assert_cmpuint(limits.keep_free_bytes, ==, UINT64_C(2) << 30);
  g_assert_cmpuint(limits.checkpoints_per_user, ==, 0);
  g_assert_true(limits.durable);
}

static void test_limits_refuse_nonsense(void) {
  static const char *const bad[] = {"bytes-per-user=", "bytes-per-user=-1", "bytes-per-user=1KB", "bytes-per-user=1k",
      "bytes-per-user=18446744073709551616", "bytes-per-user=16777216T", "jobs-total=0", "jobs-total=4294967296",
      "durable=true", "x=1"};

  for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autofree char *text = g_strdup_printf("[limits]\n%s\n", bad[i]);
    Limits limits;

    g_test_message("%s", bad[i]);
    g_assert_false(load(text, &limits));
  }
}

/* Store */

static GVariant *some_note(void) {
  return g_variant_ref_sink(g_variant_new_parsed("{'comm': <'a=b\n[c] \\\\ é'>, 'pages': <uint64 7>, 'real': <0.25>}"));
}

static void write_inventory(const StoreDraft *draft) {
  int fd = openat(store_draft_images_fd(draft), "inventory.img", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

  g_assert_cmpint(fd, >=, 0);
  g_assert_cmpint(write(fd, "0123456789", 10), ==, 10);
  (void)close(fd);
}

static void test_store_keeps_what_it_is_told(void) {
  char *directory = make_directory();
  g_autoptr(Store) store = store_new(directory, NULL);
  g_autoptr(GVariant) note = some_note(), description = NULL;
  g_autoptr(StoreDraft) draft = store_draft_new(store, 7, "name", 1, note, NULL);
  uint64_t bytes;
  uint32_t count;
  guint64 pages = 0;
  const char *comm = NULL;
  int fd;

  g_assert_nonnull(draft);
  g_assert_false(store_has(store, 7, "name"));
  g_assert_false(store_draft_commit(draft, note, false, NULL)); /* no inventory */
  write_inventory(draft);
  g_assert_true(store_draft_commit(draft, note, true, NULL));
  g_assert_true(store_has(store, 7, "name"));
  g_assert_false(store_has(store, 8, "name"));
  description = store_describe(store, 7, "name", NULL);
  g_assert_true(g_variant_lookup(description, "pages", "t", &pages));
  g_assert_true(g_variant_lookup(description, "comm", "&s", &comm));
  g_assert_cmpuint(pages, ==, 7);
  g_assert_cmpstr(comm, ==, "a=b\n[c] \\ é");
  store_usage(store, 7, &bytes, &count);
  g_assert_cmpuint(count, ==, 1);
  g_assert_cmpuint(bytes, >=, 4096);
  fd = store_open_images(store, 7, "name", NULL);
  g_assert_cmpint(fd, >=, 0);
  (void)close(fd);
  g_assert_true(store_remove(store, 7, "name", NULL));
  store_usage(store, 7, &bytes, &count);
  g_assert_cmpuint(count, ==, 0);
  g_clear_pointer(&draft, store_draft_free);
  remove_directory(directory);
}

static void test_store_replaces_in_one_step(void) {
  char *directory = make_directory();
  g_autoptr(Store) store = store_new(directory, NULL);
  g_autoptr(GVariant) note = some_note();

  for (uint64_t i = 1; i <= 3; i++) {
    g_autoptr(StoreDraft) draft = store_draft_new(store, 7, "name", i, note, NULL);

    write_inventory(draft);
    g_assert_true(store_draft_commit(draft, note, false, NULL));
  }
  {
    g_autofree char *user = g_build_filename(directory, "7", NULL);
    g_autoptr(GDir) entries = g_dir_open(user, 0, NULL);

    g_assert_cmpstr(g_dir_read_name(entries), ==, "name");
    g_assert_null(g_dir_read_name(entries));
  }
  remove_directory(directory);
}

static void test_store_tells_damage(void) {
  char *directory = make_directory();
  g_autoptr(Store) store = store_new(directory, NULL);
  g_autofree char *images = g_build_filename(directory, "7", "name", "images", NULL);
  g_autofree char *meta = g_build_filename(directory, "7", "name", "meta", NULL);
  g_autoptr(GError) error = NULL;
  g_autoptr(GVariant) description = NULL;

  g_assert_cmpint(g_mkdir_with_parents(images, 0700), ==, 0);
  g_assert_true(g_file_set_contents(meta, "[checkpoint]\npages=no variant\n", -1, NULL));
  g_assert_cmpint(store_open_images(store, 7, "name", &error), ==, -1);
  g_assert_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
  g_clear_error(&error);
  description = store_describe(store, 7, "name", NULL);
  g_assert_nonnull(description);
  g_assert_cmpint(store_open_images(store, 7, "other", &error), ==, -1);
  g_assert_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT);
  remove_directory(directory);
}

static void test_store_removal_follows_no_links(void) {
  char *directory = make_directory(), *outside = make_directory();
  g_autofree char *precious = g_build_filename(outside, "precious", NULL);
  g_autofree char *folder = g_build_filename(directory, "a", "b", NULL);
  g_autofree char *link = g_build_filename(folder, "link", NULL);

  g_assert_true(g_file_set_contents(precious, "x", 1, NULL));
  g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
  g_assert_cmpint(symlink(outside, link), ==, 0);
  remove_directory(directory);
  g_assert_true(g_file_test(precious, G_FILE_TEST_EXISTS));
  remove_directory(outside);
}

static void test_job_ids_survive(void) {
  char *directory = make_directory();
  uint64_t last = 0;

  for (unsigned i = 0; i < 5; i++) {
    g_autoptr(Store) store = store_new(directory, NULL);

    for (unsigned k = 0; k < 70; k++) {
      uint64_t id = store_next_job_id(store);

      g_assert_cmpuint(id, >, last);
      last = id;
    }
  }
  remove_directory(directory);
}

/* Tables */

static void test_error_names_are_registered(void) {
  const char *name;
  int code;

  g_assert_cmpint(daemon_error_register(), >=, 0);
  for (size_t i = 0; (name = daemon_error_nth(i, &code)); i++) {
    const sd_bus_error e = {.name = name, .message = "x"};

    g_assert_cmpstr(daemon_error_name(code), ==, name);
    g_assert_cmpint(sd_bus_error_get_errno(&e), !=, EIO * (i > 0));
  }
  g_assert_cmpstr(daemon_error_name(4711), ==, "org.criu.Checkpoint.Error.Failed");
}

static void on_element(GMarkupParseContext *context, const gchar *element, const gchar **names, const gchar **values,
    gpointer userdata, GError **error) {
  static char *interface;
  const char *name = NULL;
  unsigned *found = userdata;

  for (size_t i = 0; names[i]; i++)
    if (g_str_equal(names[i], "name"))
      name = values[i];
  if (g_str_equal(element, "interface")) {
    g_free(interface);
    interface = g_strdup(name);
  } else if (g_str_equal(element, "method") || g_str_equal(element, "property")) {
    if (!access_find(interface, name))
      g_error("%s.%s has no row in the access table", interface, name);
    ++*found;
  } else if (g_str_equal(element, "node"))
    g_clear_pointer(&interface, g_free);
}

static void on_element_end(GMarkupParseContext *context, const gchar *element, gpointer userdata, GError **error) {
  if (g_str_equal(element, "node"))
    on_element(context, "node", (const gchar *[]){NULL}, (const gchar *[]){NULL}, userdata, error);
}

static void test_every_member_has_an_access_row(void) {
  static const char *const files[] = {MANAGER_INTERFACE ".xml", JOB_INTERFACE ".xml"};
  static const GMarkupParser parser = {.start_element = on_element, .end_element = on_element_end};
  unsigned found = 0;

  for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
    g_autofree char *path = g_build_filename(getenv("SOURCE_ROOT"), "dbus", files[i], NULL);
    g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, 0, &found, NULL);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_true(g_markup_parse_context_parse(context, text, -1, NULL));
  }
  g_assert_cmpuint(found, ==, 20 + 8 + 3 + 18);
  g_assert_null(access_find(MANAGER_INTERFACE, "DumpEverything"));
  g_assert_null(access_find(JOB_INTERFACE, "Dump"));
}

static void test_option_table_is_sane(void) {
  const char *name, *signature;
  unsigned members;

  for (size_t i = 0; (name = job_options_nth(i, &signature, &members)); i++) {
    g_assert_true(g_variant_type_string_is_valid(signature));
    g_assert_cmpuint(members & OPTION_FOR_ALL, ==, members);
    g_assert_cmpuint(members, !=, 0);
    g_assert_cmpuint(i, <, 64);
  }
}

static void test_values_of_the_engine_become_valid_utf8(void) {
  g_autofree char *text = values_text("a\xff\xfe");
  g_autofree char *none = values_text(NULL);

  g_assert_true(g_utf8_validate(text, -1, NULL));
  g_assert_cmpstr(none, ==, "");
}

/* Targets */

static void test_target_is_pinned(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(Target) target = NULL;
  pid_t pid = fork();

  if (pid == 0) {
    (void)pause();
    _exit(0);
  }
  target = target_new(pid, &error);
  g_assert_no_error(error);
  g_assert_true(target_is_of(target, getuid()));
  g_assert_false(target_is_of(target, 65534));
  g_assert_true(target_refresh(target, NULL));
  (void)kill(pid, SIGKILL);
  (void)waitpid(pid, NULL, 0);
  g_assert_false(target_refresh(target, &error));
  g_assert_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_PROCESS);
  g_clear_error(&error);
  g_assert_null(target_new(pid, &error));
  g_assert_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_PROCESS);
  g_clear_error(&error);
  g_assert_null(target_new(1, &error));
  g_assert_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET);
}

/* Sandbox: each attempt in a process of its own, that exits with 0 if it was refused */

static int execute(const char *store) {
  return execl("/bin/true", "true", NULL);
}
static int make_process(const char *store) {
  pid_t pid = fork();

  if (pid == 0)
    _exit(0);
  return pid < 0 ? -1 : 0;
}
static int make_socket(const char *store) {
  return socket(AF_INET, SOCK_STREAM, 0);
}
static int trace(const char *store) {
  return (int)ptrace(PTRACE_SEIZE, getppid(), 0, 0);
}
static int make_executable_memory(const char *store) {
  return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}
static int change_user(const char *store) {
  return setuid(65534);
}
static int new_namespace(const char *store) {
  return unshare(CLONE_NEWUSER);
}
static int change_mode_outside(const char *store) {
  return chmod("/", 0755);
}
static int drop_no_new_privs(const char *store) {
  return prctl(PR_SET_DUMPABLE, 1);
}

static int read_outside(const char *store) {
  return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}
static int write_outside(const char *store) {
  return open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
}
static int list_outside(const char *store) {
  return open("/root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void attempt(int (*act)(const char *), const char *store, bool allowed) {
  int status;
  pid_t pid = fork();

  if (pid == 0) {
    if (sandbox_enter(store) < 0)
      _exit(2);
    _exit((act(store) >= 0) == allowed ? 0 : 1);
  }
  g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
  g_assert_cmpint(status, ==, 0);
}

static int use_store(const char *store) {
  g_autoptr(Store) opened = store_new(store, NULL);
  g_autoptr(GVariant) note = some_note();
  g_autoptr(StoreDraft) draft =
      opened ? store_draft_new(opened, 7, "name", store_next_job_id(opened), note, NULL) : NULL;

  if (!draft)
    return -1;
  write_inventory(draft);
  return store_draft_commit(draft, note, true, NULL) && store_remove(opened, 7, "name", NULL) ? 0 : -1;
}

static int watch_target(const char *store) {
  g_autoptr(Target) target = target_new(getppid(), NULL);

  return target ? 0 : -1;
}

static void test_sandbox_allows_the_work_and_nothing_else(void) {
  static int (*const forbidden[])(const char *) = {execute, make_process, make_socket, trace, make_executable_memory,
      change_user, new_namespace, change_mode_outside, drop_no_new_privs};
  static int (*const outside[])(const char *) = {read_outside, write_outside, list_outside};
  char *directory = make_directory();

  attempt(use_store, directory, true);
  attempt(watch_target, directory, true);
  if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0)
    for (size_t i = 0; i < G_N_ELEMENTS(outside); i++)
      attempt(outside[i], directory, false);
  else
    g_test_message("this kernel has no Landlock");
#if !defined(__SANITIZE_ADDRESS__)
  for (size_t i = 0; i < G_N_ELEMENTS(forbidden); i++) {
    g_test_message("attempt %zu", i);
    attempt(forbidden[i], directory, false);
  }
#else
  (void)forbidden;
#endif
  remove_directory(directory);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/limits/defaults", test_limits_of_a_missing_file_are_the_defaults);
  g_test_add_func("/limits/sizes", test_limits_read_sizes);
  g_test_add_func("/limits/nonsense", test_limits_refuse_nonsense);
  g_test_add_func("/store/keeps", test_store_keeps_what_it_is_told);
  g_test_add_func("/store/replaces", test_store_replaces_in_one_step);
  g_test_add_func("/store/damage", test_store_tells_damage);
  g_test_add_func("/store/links", test_store_removal_follows_no_links);
  g_test_add_func("/store/job-ids", test_job_ids_survive);
  g_test_add_func("/tables/errors", test_error_names_are_registered);
  g_test_add_func("/tables/access", test_every_member_has_an_access_row);
  g_test_add_func("/tables/options", test_option_table_is_sane);
  g_test_add_func("/values/utf8", test_values_of_the_engine_become_valid_utf8);
  g_test_add_func("/target/pinned", test_target_is_pinned);
  g_test_add_func("/sandbox", test_sandbox_allows_the_work_and_nothing_else);
  return g_test_run();
}

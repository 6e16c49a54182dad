/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The option parser of the drop-in: every form, both orders, files below the command line, refusals by name. */

#include "options.h"
#include <string.h>

static CriuOptions *parse(const char *line, GError **error) {
  g_auto(GStrv) words = g_strsplit(line, " ", -1);
  g_autoptr(CriuOptions) options = criu_options_new();
  int n = *line ? (int)g_strv_length(words) : 0;
  if (!criu_options_parse_args(options, n, words, error))
    return NULL;
  return g_steal_pointer(&options);
}

static CriuOptions *parse_ok(const char *line) {
  g_autoptr(GError) error = NULL;
  CriuOptions *options = parse(line, &error);
  g_assert_no_error(error);
  g_assert_nonnull(options);
  return options;
}

static void assert_fails(const char *line, int code, const char *mentions) {
  g_autoptr(GError) error = NULL;
  g_autoptr(CriuOptions) options = parse(line, &error);
  if (options)
    g_assert_false(criu_options_check(options, &error));
  g_assert_error(error, CRIU_OPTIONS_ERROR, code);
  if (!strstr(error->message, mentions))
    g_error("'%s': \"%s\" does not mention \"%s\"", line, error->message, mentions);
}

static void test_forms(void) {
  static const char *const same[] = {
      "dump -t 42 -D dir -W work -o log -v4 -R -j",
      "dump -t42 -Ddir -Wwork -olog -vv -Rj",
      "-Rj -v4 -t 42 --images-dir=dir --work-dir work --log-file log dump",
      "--tree=42 dump --images-dir dir -W work --log-file=log --verbosity=4 --leave-running --shell-job",
      "-t 1 dump -t 42 -D x -D dir -W work -o log -v0 -verbosity=4 --leave-run --no-leave-stopped --shell",
      "--no-shell-job -Rjolog -Ddir dump -W work -t 42 -v -v",
  };
  for (size_t i = 0; i < G_N_ELEMENTS(same); i++) {
    g_test_message("%s", same[i]);
    g_autoptr(CriuOptions) o = parse_ok(same[i]);
    g_autoptr(GError) error = NULL;
    g_assert_true(criu_options_check(o, &error));
    g_assert_cmpint(o->action, ==, CRIU_ACTION_DUMP);
    g_assert_cmpuint(o->tree, ==, 42);
    g_assert_cmpstr(o->images_dir, ==, "dir");
    g_assert_cmpstr(o->work_dir, ==, "work");
    g_assert_cmpstr(o->log_file, ==, "log");
    g_assert_cmpuint(o->verbosity, ==, 4);
    g_assert_true(o->leave_running && o->shell_job && !o->leave_stopped);
  }
}

static void test_restore(void) {
  g_autoptr(CriuOptions) o =
      parse_ok("restore -dS --pidfile p -s --log-pid --display-stats --no-default-config --config c");
  g_autoptr(GError) error = NULL;
  g_assert_true(criu_options_check(o, &error));
  g_assert_true(
      o->restore_detached && o->restore_sibling && o->leave_stopped && o->display_stats && o->no_default_config);
  g_assert_cmpstr(o->pidfile, ==, "p");
  g_assert_cmpstr(o->config, ==, "c");
  g_assert_null(criu_options_idle(o));
}

/* They say how criu may do it; we do it without. */
static void test_hints(void) {
  g_autoptr(CriuOptions) dump = parse_ok("dump -t 1 --evasive-devices --force-irmap --irmap-scan-path /srv --enable-fs all "
                                         "--freeze-cgroup /sys/fs/cgroup/x --ghost-fiemap");
  g_autoptr(CriuOptions) restore = parse_ok("restore --mntns-compat-mode --weak-sysctls --no-ghost-fiemap");
  g_autoptr(GError) error = NULL;
  g_assert_true(criu_options_check(dump, &error) && criu_options_check(restore, &error));
  g_assert_null(criu_options_idle(dump));
}

static void test_cgroups(void) {
  g_autoptr(CriuOptions) plain = parse_ok("dump -t 1");
  g_autoptr(CriuOptions) soft = parse_ok("dump -t 1 --manage-cgroups");
  g_autoptr(CriuOptions) full = parse_ok("restore --manage-cgroups=full --cgroup-root pids:/a --cgroup-root /b");
  g_autoptr(GError) error = NULL;
  g_assert_null(plain->manage_cgroups);
  g_assert_cmpstr(soft->manage_cgroups, ==, "soft");
  g_assert_cmpstr(full->manage_cgroups, ==, "full");
  g_assert_true(criu_options_check(full, &error));
  g_assert_cmpuint(full->cgroup_roots->len, ==, 2);
  g_assert_cmpstr(full->cgroup_roots->pdata[1], ==, "/b");
}

static void test_verbosity(void) {
  static const struct {
    const char *line;
    unsigned level;
  } rows[] = {{"", 2}, {"-v", 3}, {"-vv", 4}, {"-vvv", 4}, {"-v0", 0}, {"-v1", 1}, {"-v99", 4}, {"-verbosity=0", 0},
      {"-verbosity", 3}, {"--verbosity", 3}, {"--verbosity=1", 1}, {"-v1 -v", 2}, {"-v -v0", 0}, {"--verb", 3}};
  for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
    g_autoptr(CriuOptions) o = parse_ok(rows[i].line);
    g_assert_cmpuint(o->verbosity, ==, rows[i].level);
  }
}

static void test_usage_errors(void) {
  static const char *const rows[][2] = {
      {"dump --foo", "--foo"},
      {"dump -q", "'q'"},
      {"dump -t", "-t"},
      {"dump --tree", "--tree"},
      {"dump -t x", "--tree: x"},
      {"dump -t 0", "--tree: 0"},
      {"dump -t -5", "--tree: -5"},
      {"dump -t 99999999999", "--tree"},
      {"frob", "frob"},
      {"dump restore", "restore"},
      {"dump -t 1 extra", "extra"},
      {"dump", "-t PID"},
      {"", "no command"},
      {"-v4", "no command"},
      {"dump --leave-running=1", "--leave-running"},
      {"dump --re", "ambiguous"},
      {"dump -vx -t1", "verbosity"},
      {"dump -t 1 -R -s", "exclude"},
      {"restore -S", "--restore-detached"},
      {"restore --timeout x", "--timeout: x"},
      {"dump --no-tree", "--no-tree"},
      {"dump --images-dir= -t 1", "empty"},
      {"dump -- -t", "-t"},
      {"dump -t 1 -x0", "--ext-unix-sk: 0"},
      {"dump -t 1 --ext-unix-sk=5,x", "--ext-unix-sk: 5,x"},
      {"dump -t 1 --external nonsense", "--external: nonsense"},
      {"dump -t 1 --external unix[x]", "--external: unix[x]"},
      {"dump -t 1 --external unix[5]x", "--external: unix[5]x"},
      {"dump -t 1 --external file[5]", "--external: file[5]"},
      {"restore --inherit-fd 5:x", "--inherit-fd: 5:x"},
      {"restore --inherit-fd fd[x]:y", "--inherit-fd: fd[x]:y"},
      {"restore --inherit-fd fd[5]:", "--inherit-fd: fd[5]:"},
      {"restore --veth-pair eth0", "--veth-pair: eth0"},
      {"restore --empty-ns mnt", "--empty-ns: mnt"},
      {"dump -t 1 --external mnt[/x]", "for a mount: /x:"},
      {"dump -t 1 -M /x", "for a mount: /x"},
      {"dump -t 1 --file-validation=colour", "--file-validation: colour"},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
    assert_fails(rows[i][0], CRIU_OPTIONS_ERROR_USAGE, rows[i][1]);
}

static void test_mounts(void) {
  g_autoptr(CriuOptions) o = parse_ok("restore --external mnt[]:ms --ext-mount-map auto -M /a:b --external mnt[c]:/d -r /root");
  g_assert_cmpuint(o->external->len, ==, 2);
  g_assert_cmpstr(o->external->pdata[0], ==, "mnt[/a]:b");
  g_assert_cmpstr(o->external->pdata[1], ==, "mnt[c]:/d");
  g_assert_cmpstr(o->root, ==, "/root");
}

/* Everything that criu has and we do not is named, with whatever argument it takes. */
static void test_refusals(void) {
  static const char *const rows[][2] = {
      {"pre-dump -t 1", "pre-dump"},
      {"swrk 5", "swrk"},
      {"cpuinfo dump", "cpuinfo"},
      {"page-server --port 5", "page-server"},
      {"dump -t 1 --auto-dedup", "--auto-dedup"},
      {"dump -t 1 --external macvlan[eth0]:y", "--external macvlan"},
      {"restore -J uts:/x -d", "--join-ns"},
      {"dump -t 1 --cgroup-props-file=x", "--cgroup-props-file"},
      {"dump -t 1 --cgroup-yard /x", "--cgroup-yard"},
      {"dump -t 1 --lazy-pages --track-mem", "--track-mem"},
      {"dump -t 1 --auto-de", "--auto-dedup"},
      {"dump -t 1 --status-fd 4 --stream --auto-dedup", "--stream"},
      {"restore --lazy-pages", "--lazy-pages"},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
    assert_fails(rows[i][0], CRIU_OPTIONS_ERROR_NOT_SUPPORTED, rows[i][1]);
  assert_fails("dump -t 1 --auto-dedup --lazy-pages --join-ns /", CRIU_OPTIONS_ERROR_NOT_SUPPORTED,
      "--auto-dedup, option --lazy-pages, option --join-ns");
  /* What is not to be done can be promised. */
  g_autoptr(CriuOptions) o = parse_ok("dump -t 1 --no-auto-dedup --no-track-mem");
  g_autoptr(GError) error = NULL;
  g_assert_true(criu_options_check(o, &error));
}

static void test_networks(void) {
  g_autoptr(CriuOptions) o = parse_ok("restore --external veth[eth0]:o@br0 --veth-pair eth1=p --external net[5]:key --empty-ns net --external netdev[a]:b");
  static const char *const rows[] = {"veth[eth0]:o@br0", "veth[eth1]:p", "net[5]:key", "netdev[a]:b"};
  g_assert_true(o->empty_net);
  g_assert_cmpuint(o->external->len, ==, G_N_ELEMENTS(rows));
  for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
    g_assert_cmpstr(o->external->pdata[i], ==, rows[i]);
}

static void test_external(void) {
  g_autoptr(CriuOptions) o = parse_ok("dump -t 1 -x --external unix[77] --external file[1f:2a]:x --ext-unix-sk=5,6 "
                                      "--external unix:path=/x --file-validation filesize");
  g_autoptr(GError) error = NULL;
  g_assert_true(criu_options_check(o, &error));
  static const char *const rules[] = {"unix:ino=77 action=close", "file:ino=42 action=\"inherit:file[1f:2a]\"",
      "unix:peer-ino=5 action=reconnect", "unix:peer-ino=6 action=reconnect", "unix:path=/x"};
  g_assert_cmpuint(o->external->len, ==, G_N_ELEMENTS(rules));
  for (size_t i = 0; i < G_N_ELEMENTS(rules); i++)
    g_assert_cmpstr(o->external->pdata[i], ==, rules[i]);
  g_assert_true(o->ext_unix_sk);
  g_assert_cmpstr(o->file_validation, ==, "size");
  g_autoptr(CriuOptions) r = parse_ok("restore --inherit-fd fd[7]:socket:[5] --inherit-fd fd[0]:tmp/x");
  g_assert_cmpuint(r->inherit_keys->len, ==, 2);
  g_assert_cmpstr(r->inherit_keys->pdata[0], ==, "socket:[5]");
  g_assert_cmpstr(r->inherit_keys->pdata[1], ==, "tmp/x");
  g_assert_cmpint(g_array_index(r->inherit_fds, int, 0), ==, 7);
  g_assert_cmpint(g_array_index(r->inherit_fds, int, 1), ==, 0);
}

static void test_idle(void) {
  g_autoptr(CriuOptions) o = parse_ok("restore -t 5 --leave-running -d");
  g_autofree char *idle = criu_options_idle(o);
  g_assert_cmpstr(idle, ==, "--tree, --leave-running");
}

static bool config(CriuOptions *options, const char *text, const char *mentions) {
  g_autoptr(GError) error = NULL;
  bool ok = criu_options_parse_config(options, "file", text, &error);
  g_assert_true(ok == (error == NULL));
  if (!ok && mentions && !strstr(error->message, mentions))
    g_error("\"%s\" does not mention \"%s\"", error->message, mentions);
  return ok;
}

static void test_config(void) {
  g_autoptr(CriuOptions) o = criu_options_new();
  g_assert_true(config(o,
      "# head\n\n  images-dir /a b  # c\nwork-dir=\"x \\\"y\\\" #z\"  # d\nverbosity = 4\nleave-running\r\n"
      "no-shell-job\ntree\t7\n log-file=l",
      NULL));
  g_assert_cmpstr(o->images_dir, ==, "/a b");
  g_assert_cmpstr(o->work_dir, ==, "x \"y\" #z");
  g_assert_cmpstr(o->log_file, ==, "l");
  g_assert_cmpuint(o->tree, ==, 7);
  g_assert_cmpuint(o->verbosity, ==, 4);
  g_assert_true(o->leave_running && !o->shell_job);
  /* The command line comes later and wins. */
  g_auto(GStrv) words = g_strsplit("restore --no-leave-running -D /b", " ", -1);
  g_assert_true(criu_options_parse_args(o, 4, words, NULL));
  g_assert_cmpstr(o->images_dir, ==, "/b");
  g_assert_false(o->leave_running);
  g_autofree char *idle = criu_options_idle(o);
  g_assert_cmpstr(idle, ==, "--leave-running"); /* what stands in files is never out of place */
}

static void test_config_errors(void) {
  static const char *const rows[][2] = {{"images-dir x\nfoo", "file line 2: unrecognized option '--foo'"},
      {"tree x", "line 1"}, {"images-dir", "requires"}, {"leave-running yes", "doesn't allow"},
      {"work-dir \"x", "quotes"}, {"work-dir \"x\" y", "quotes"}, {"images-d x", "images-d"},
      {"--images-dir x", "unrecognized"}, {"=x", "unrecognized"}};
  for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
    g_autoptr(CriuOptions) o = criu_options_new();
    g_assert_false(config(o, rows[i][0], rows[i][1]));
  }
  g_autoptr(CriuOptions) o = criu_options_new();
  g_autoptr(GError) error = NULL;
  g_assert_true(config(o, "auto-dedup\nexternal mnt[]", NULL));
  g_assert_false(criu_options_check(o, &error));
  g_assert_error(error, CRIU_OPTIONS_ERROR, CRIU_OPTIONS_ERROR_NOT_SUPPORTED);
}

static void test_help(void) {
  g_autofree char *text = criu_options_help();
  g_assert_nonnull(strstr(text, "--restore-detached"));
  g_assert_null(strstr(text, "auto-dedup"));
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/criu/options/every-form", test_forms);
  g_test_add_func("/criu/options/restore", test_restore);
  g_test_add_func("/criu/options/hints", test_hints);
  g_test_add_func("/criu/options/cgroups", test_cgroups);
  g_test_add_func("/criu/options/verbosity", test_verbosity);
  g_test_add_func("/criu/options/usage-errors-name-the-word", test_usage_errors);
  g_test_add_func("/criu/options/mounts", test_mounts);
  g_test_add_func("/criu/options/refusals-name-every-option", test_refusals);
  g_test_add_func("/criu/options/idle-ones-are-named", test_idle);
  g_test_add_func("/criu/options/external-objects", test_external);
  g_test_add_func("/criu/options/networks", test_networks);
  g_test_add_func("/criu/options/configuration", test_config);
  g_test_add_func("/criu/options/configuration-errors", test_config_errors);
  g_test_add_func("/criu/options/help", test_help);
  return g_test_run();
}

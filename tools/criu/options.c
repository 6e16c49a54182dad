/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "options.h"
#include <stddef.h>
#include <string.h>

G_DEFINE_QUARK(checkpoint - criu - options - error, criu_options_error)

typedef enum ArgKind { NO_ARG, NEEDS_ARG, MAY_HAVE_ARG } ArgKind;
/* How an argument becomes a field. NOT_YET: an option of criu's that is refused by name. HINT: one that says how criu may do
 * something, or lets it be content with less; it is done without. */
typedef enum Setter { NOT_YET, HINT, FLAG, STRING, NUMBER, PID, VERBOSITY, EXT_UNIX_SK, EXTERNAL, INHERIT_FD, VALIDATION, SIZE, CGROUPS, CGROUP_ROOT, SCRIPT, VETH_PAIR, EMPTY_NS, MOUNT } Setter;

enum { D = CRIU_ACTION_DUMP, R = CRIU_ACTION_RESTORE, C = CRIU_ACTION_CHECK, ALL = D | R | C };

typedef struct Option {
  const char *name;
  char letter; /* 0: none */
  ArgKind arg;
  Setter setter;
  int actions; /* those it has a meaning for */
  size_t field;
  const char *arg_name;
  const char *help;
} Option;

#define FIELD(member) offsetof(CriuOptions, member)
#define REFUSED(name, letter, arg)                                                                                     \
  { name, letter, arg, NOT_YET, 0, 0, NULL, NULL }

static const Option table[] = {
    {"tree", 't', NEEDS_ARG, PID, D, FIELD(tree), "PID", "the root of the tree to dump"},
    {"images-dir", 'D', NEEDS_ARG, STRING, D | R, FIELD(images_dir), "DIR", "where the images are (default: .)"},
    {"work-dir", 'W', NEEDS_ARG, STRING, D | R, FIELD(work_dir), "DIR", "where log and pid file go (default: -D)"},
    {"log-file", 'o', NEEDS_ARG, STRING, ALL, FIELD(log_file), "FILE", "the log (default: standard error)"},
    {"verbosity", 'v', MAY_HAVE_ARG, VERBOSITY, ALL, FIELD(verbosity), "N",
        "0 nothing, 1 errors, 2 warnings (default), 3 messages and times, 4 everything"},
    {"leave-running", 'R', NO_ARG, FLAG, D, FIELD(leave_running), NULL, "let the tree run on after the dump"},
    {"leave-stopped", 's', NO_ARG, FLAG, D | R, FIELD(leave_stopped), NULL, "leave the tree stopped"},
    {"restore-detached", 'd', NO_ARG, FLAG, R, FIELD(restore_detached), NULL, "do not wait for the restored root"},
    {"restore-sibling", 'S', NO_ARG, FLAG, R, FIELD(restore_sibling), NULL,
        "make the restored root a child of the caller (with -d)"},
    {"shell-job", 'j', NO_ARG, FLAG, D | R, FIELD(shell_job), NULL,
        "the root's session may lie outside the tree; a restore joins the caller's"},
    {"file-locks", 'l', NO_ARG, FLAG, D | R, FIELD(file_locks), NULL, "keep file locks and leases, and take them again"},
    {"link-remap", 0, NO_ARG, FLAG, D, FIELD(link_remap), NULL,
        "files whose name is gone get one for the checkpoint (link_remap.N)"},
    {"ghost-limit", 0, NEEDS_ARG, SIZE, D, FIELD(ghost_limit), "SIZE",
        "larger deleted files refuse the dump; K, M, G may follow (default: 0, none is too large)"},
    {"manage-cgroups", 0, MAY_HAVE_ARG, CGROUPS, D | R, 0, "MODE",
        "control groups: none, props, soft (default), full, strict or ignore, see cgroups in criu(8)"},
    {"cgroup-root", 0, NEEDS_ARG, CGROUP_ROOT, R, 0, "[CTL:]/PATH", "the tree's control groups lie below this one now"},
    {"libdir", 'L', NEEDS_ARG, STRING, D | R, FIELD(plugin_dir), "DIR", "where plugins are (root's alone)"},
    {"tcp-established", 0, NO_ARG, FLAG, D | R, FIELD(tcp_established), NULL, "keep TCP connections"},
    {"tcp-close", 0, NO_ARG, FLAG, D | R, FIELD(tcp_close), NULL, "TCP connections become closed sockets"},
    {"skip-in-flight", 0, NO_ARG, FLAG, D | R, FIELD(skip_in_flight), NULL,
        "leave out connections that were not accepted yet"},
    {"network-lock", 0, NEEDS_ARG, STRING, D | R, FIELD(network_lock), "METHOD",
        "nftables (default; iptables means it, too), or skip: do not drop packets meanwhile"},
    {"pidfile", 0, NEEDS_ARG, STRING, D | R, FIELD(pidfile), "FILE", "a restore writes the root's pid there"},
    {"ext-unix-sk", 'x', MAY_HAVE_ARG, EXT_UNIX_SK, D | R, 0, "INODE,…",
        "connect unix sockets to named peers outside the tree again (only those)"},
    {"external", 0, NEEDS_ARG, EXTERNAL, D | R, 0, "RULE", "what to do with external objects, checkpoint-external(5)"},
    {"ext-mount-map", 'M', NEEDS_ARG, MOUNT, D | R, 0, "KEY:VALUE",
        "dump: the mount at KEY is called VALUE; restore: what is called KEY is at VALUE now"},
    {"root", 'r', NEEDS_ARG, STRING, D | R, FIELD(root), "DIR", "a restore takes it as root of the tree's mount namespaces"},
    {"inherit-fd", 0, NEEDS_ARG, INHERIT_FD, R, 0, "fd[N]:KEY", "descriptor N is to be used for the external object KEY"},
    {"veth-pair", 0, NEEDS_ARG, VETH_PAIR, R, 0, "IN=OUT[@BRIDGE]", "the same as --external veth[IN]:OUT@BRIDGE"},
    {"empty-ns", 0, NEEDS_ARG, EMPTY_NS, D | R, 0, "net", "network namespaces of the tree come back empty, for others to fill"},
    {"file-validation", 0, NEEDS_ARG, VALIDATION, D | R, 0, "HOW", "how files are compared: filesize or buildid (default)"},
    {"action-script", 0, NEEDS_ARG, SCRIPT, D | R, 0, "SCRIPT",
        "run it (by sh -c) at moments that CRTOOLS_SCRIPT_ACTION names: pre-dump, post-dump, …"},
    {"timeout", 0, NEEDS_ARG, NUMBER, D, FIELD(timeout_sec), "SECONDS", "how long freezing and collecting may take"},
    {"display-stats", 0, NO_ARG, FLAG, D | R, FIELD(display_stats), NULL, "print the statistics"},
    {"log-pid", 0, NO_ARG, FLAG, R, FIELD(log_pid), NULL, "accepted: one process writes the whole log"},
    {"evasive-devices", 0, NO_ARG, HINT, D, 0, NULL, "accepted: devices are found by their numbers"},
    {"force-irmap", 0, NO_ARG, HINT, D, 0, NULL, "accepted: watched files are found by handle, else by path"},
    {"irmap-scan-path", 0, NEEDS_ARG, HINT, D, 0, "PATH", "accepted: as --force-irmap"},
    {"enable-fs", 0, NEEDS_ARG, HINT, D, 0, "TYPES", "accepted: what file systems can be taken is found out"},
    {"freeze-cgroup", 0, NEEDS_ARG, HINT, D, 0, "DIR", "accepted: the tree is frozen without control groups"},
    {"ghost-fiemap", 0, NO_ARG, HINT, D, 0, NULL, "accepted: holes of deleted files are found in any case"},
    {"mntns-compat-mode", 0, NO_ARG, HINT, R, 0, NULL, "accepted: there is one way to make mounts"},
    {"weak-sysctls", 0, NO_ARG, HINT, R, 0, NULL, "accepted: settings that this kernel has not are logged in any case"},
    {"config", 0, NEEDS_ARG, STRING, ALL, FIELD(config), "FILE", "read options from this file too"},
    {"no-default-config", 0, NO_ARG, FLAG, ALL, FIELD(no_default_config), NULL, "do not read the default files"},
    {"feature", 0, NEEDS_ARG, STRING, C, FIELD(feature), "NAME", "check one feature of the kernel; list names them"},
    {"extra", 0, NO_ARG, FLAG, C, FIELD(check_extra), NULL, "check what only some trees need, too"},
    {"experimental", 0, NO_ARG, FLAG, C, FIELD(check_experimental), NULL, "check what is not in use yet, too"},
    {"all", 0, NO_ARG, FLAG, C, FIELD(check_all), NULL, "both"},
    {"help", 'h', NO_ARG, FLAG, ALL, FIELD(help), NULL, "this text"},
    {"version", 'V', NO_ARG, FLAG, ALL, FIELD(version), NULL, "the version"},

    REFUSED("address", 0, NEEDS_ARG),
    REFUSED("allow-uprobes", 0, NO_ARG),
    REFUSED("auto-dedup", 0, NO_ARG),
    REFUSED("cgroup-dump-controller", 0, NEEDS_ARG),
    REFUSED("cgroup-props", 0, NEEDS_ARG),
    REFUSED("cgroup-props-file", 0, NEEDS_ARG),
    REFUSED("cgroup-yard", 0, NEEDS_ARG),
    REFUSED("close", 0, NEEDS_ARG),
    REFUSED("cpu-cap", 0, MAY_HAVE_ARG),
    REFUSED("daemon", 0, NO_ARG),
    REFUSED("enable-external-masters", 0, NO_ARG),
    REFUSED("enable-external-sharing", 0, NO_ARG),
    REFUSED("exec-cmd", 0, NO_ARG),
    REFUSED("join-ns", 'J', NEEDS_ARG),
    REFUSED("lazy-pages", 0, NO_ARG),
    REFUSED("lsm-mount-context", 0, NEEDS_ARG),
    REFUSED("lsm-profile", 0, NEEDS_ARG),
    REFUSED("page-server", 0, NO_ARG),
    REFUSED("port", 0, NEEDS_ARG),
    REFUSED("pre-dump-mode", 0, NEEDS_ARG),
    REFUSED("prev-images-dir", 0, NEEDS_ARG),
    REFUSED("ps-socket", 0, NEEDS_ARG),
    REFUSED("skip-file-rwx-check", 0, NO_ARG),
    REFUSED("skip-mnt", 0, NEEDS_ARG),
    REFUSED("status-fd", 0, NEEDS_ARG),
    REFUSED("stream", 0, NO_ARG),
    REFUSED("tls", 0, NO_ARG),
    REFUSED("tls-cacert", 0, NEEDS_ARG),
    REFUSED("tls-cacrl", 0, NEEDS_ARG),
    REFUSED("tls-cert", 0, NEEDS_ARG),
    REFUSED("tls-key", 0, NEEDS_ARG),
    REFUSED("tls-no-cn-verify", 0, NO_ARG),
    REFUSED("track-mem", 0, NO_ARG),
    REFUSED("unprivileged", 0, NO_ARG),
};

static const char *const network_locks[] = {"iptables", "nftables", "skip", NULL};

static const struct {
  const char *name;
  CriuAction action;
} actions[] = {
    {"dump", CRIU_ACTION_DUMP},
    {"restore", CRIU_ACTION_RESTORE},
    {"check", CRIU_ACTION_CHECK},
    {"pre-dump", CRIU_ACTION_REFUSED},
    {"page-server", CRIU_ACTION_REFUSED},
    {"lazy-pages", CRIU_ACTION_REFUSED},
    {"service", CRIU_ACTION_REFUSED},
    {"swrk", CRIU_ACTION_REFUSED},
    {"dedup", CRIU_ACTION_REFUSED},
    {"cpuinfo", CRIU_ACTION_REFUSED},
    {"exec", CRIU_ACTION_REFUSED},
};

CriuOptions *criu_options_new(void) {
  CriuOptions *options = g_new0(CriuOptions, 1);
  options->verbosity = CRIU_VERBOSITY_WARN;
  options->given = g_ptr_array_new();
  options->external = g_ptr_array_new_with_free_func(g_free);
  options->cgroup_roots = g_ptr_array_new_with_free_func(g_free);
  options->action_scripts = g_ptr_array_new_with_free_func(g_free);
  options->inherit_keys = g_ptr_array_new_with_free_func(g_free);
  options->inherit_fds = g_array_new(FALSE, FALSE, sizeof(int));
  options->refused = g_string_new(NULL);
  return options;
}

static void *option_field(const CriuOptions *options, const Option *option) {
  return (char *)options + option->field;
}

void criu_options_free(CriuOptions *options) {
  if (!options)
    return;
  for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
    if (table[i].setter == STRING)
      g_free(*(char **)option_field(options, &table[i]));
  g_free(options->file_validation);
  g_free(options->manage_cgroups);
  g_ptr_array_unref(options->cgroup_roots);
  g_ptr_array_unref(options->action_scripts);
  g_ptr_array_unref(options->external);
  g_ptr_array_unref(options->inherit_keys);
  g_array_unref(options->inherit_fds);
  g_ptr_array_unref(options->given);
  (void)g_string_free(options->refused, TRUE);
  g_free(options);
}

static bool usage_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool usage_error(GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  if (error)
    *error = g_error_new_valist(CRIU_OPTIONS_ERROR, CRIU_OPTIONS_ERROR_USAGE, format, ap);
  va_end(ap);
  return false;
}

/* --- finding an option --- */

static const Option *find_letter(char letter) {
  for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
    if (table[i].letter && table[i].letter == letter)
      return &table[i];
  return NULL;
}

/* @name (of @length bytes) in full, or an abbreviation that only one option has, as getopt_long(3) takes them. */
static const Option *find_name(const char *name, size_t length, bool exactly, bool *ret_ambiguous) {
  const Option *found = NULL;
  size_t n_found = 0;
  *ret_ambiguous = false;
  for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
    if (strncmp(table[i].name, name, length) != 0)
      continue;
    if (!table[i].name[length])
      return &table[i];
    found = &table[i];
    n_found++;
  }
  *ret_ambiguous = n_found > 1 && !exactly;
  return n_found == 1 && !exactly ? found : NULL;
}

/* Long names; "no-" before a flag clears it. */
static const Option *lookup(const char *name, size_t length, bool exactly, bool *ret_value, GError **error) {
  bool ambiguous = false;
  *ret_value = true;
  const Option *option = length ? find_name(name, length, exactly, &ambiguous) : NULL;
  if (!option && !ambiguous && length > 3 && !strncmp(name, "no-", 3)) {
    option = find_name(name + 3, length - 3, exactly, &ambiguous);
    *ret_value = false;
    if (option && option->arg != NO_ARG)
      option = NULL;
  }
  if (!option)
    (void)usage_error(
        error, ambiguous ? "option '--%.*s' is ambiguous" : "unrecognized option '--%.*s'", (int)length, name);
  return option;
}

/* --- setting fields --- */

static bool parse_number(const char *text, uint64_t max, uint64_t *ret) {
  return text && g_ascii_isdigit(text[0]) && g_ascii_string_to_unsigned(text, 10, 0, max, ret, NULL);
}

/* -v, -vvv, -v4, --verbosity, --verbosity=4, and -verbosity=4 with one dash, which scripts pass. */
static bool set_verbosity(CriuOptions *options, const char *arg, GError **error) {
  static const char rest[] = "erbosity";
  if (arg && !strncmp(arg, rest, strlen(rest)))
    arg = arg[strlen(rest)] == '=' ? arg + strlen(rest) + 1 : arg[strlen(rest)] ? arg : NULL;
  if (!arg || !*arg) {
    options->verbosity += options->verbosity < CRIU_VERBOSITY_DEBUG;
    return true;
  }
  size_t more = strspn(arg, "v");
  if (!arg[more]) {
    options->verbosity = MIN(options->verbosity + 1 + more, (uint64_t)CRIU_VERBOSITY_DEBUG);
    return true;
  }
  uint64_t level = 0;
  if (!parse_number(arg, UINT32_MAX, &level))
    return usage_error(error, "invalid argument for --verbosity: %s", arg);
  options->verbosity = MIN(level, (uint64_t)CRIU_VERBOSITY_DEBUG);
  return true;
}

static bool set_number(
    const Option *option, const char *arg, uint64_t min, uint64_t max, uint64_t *field, GError **error) {
  uint64_t value = 0;
  if (!parse_number(arg, max, &value) || value < min)
    return usage_error(error, "invalid argument for --%s: %s", option->name, arg);
  *field = value;
  return true;
}

static bool set_size(const Option *option, const char *arg, uint64_t *field, GError **error) {
  static const char units[] = "KMG";
  size_t length = arg ? strlen(arg) : 0;
  const char *unit = length ? strchr(units, g_ascii_toupper(arg[length - 1])) : NULL;
  unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
  g_autofree char *digits = g_strndup(arg, unit ? length - 1 : length);
  uint64_t value = 0;
  if (!parse_number(digits, UINT64_MAX >> 31, &value))
    return usage_error(error, "invalid argument for --%s: %s", option->name, arg);
  *field = value << shift;
  return true;
}

/* All of them are named at once, when everything has been read. */
static void refuse(CriuOptions *options, const char *what, const char *name) {
  g_string_append_printf(options->refused, "%s%s%s", options->refused->len ? ", " : "", what, name);
}

/* --- control groups --- */

static bool set_cgroups(CriuOptions *options, bool value, const char *arg, GError **error) {
  static const char *const modes[] = {"none", "props", "soft", "full", "strict", "ignore", NULL};
  if (arg && !g_strv_contains(modes, arg))
    return usage_error(error, "invalid argument for --manage-cgroups: %s", arg);
  g_free(options->manage_cgroups);
  options->manage_cgroups = value ? g_strdup(arg ? arg : "soft") : NULL;
  return true;
}

/* criu's "[controllers]:/path", or a path for all of them. */
static bool set_cgroup_root(CriuOptions *options, const char *arg, GError **error) {
  const char *colon = strchr(arg, ':'), *path = colon ? colon + 1 : arg;
  if (path[0] != '/')
    return usage_error(error, "invalid argument for --cgroup-root: %s", arg);
  g_ptr_array_add(options->cgroup_roots, g_strdup(arg));
  return true;
}

/* --- external objects --- */

/* Without an argument all of them; with one, those of the inodes. */
static bool set_ext_unix_sk(CriuOptions *options, bool value, const char *arg, GError **error) {
  if (!arg || !value) {
    options->ext_unix_sk = value;
    return true;
  }
  g_auto(GStrv) inodes = g_strsplit(arg, ",", -1);
  for (size_t i = 0; inodes[i]; i++) {
    uint64_t ino = 0;
    if (!parse_number(inodes[i], UINT32_MAX, &ino) || !ino)
      return usage_error(error, "invalid argument for --ext-unix-sk: %s", arg);
    g_ptr_array_add(
        options->external, g_strdup_printf("unix:peer-ino=%" G_GUINT64_FORMAT " action=reconnect", (guint64)ino));
  }
  return true;
}

/* criu's KIND[ID]:VALUE as a rule; NULL for kinds that are not about sockets and files. */
static char *external_rule(const char *kind, const char *id) {
  uint64_t ino = 0;
  const char *colon = strchr(id, ':');
  if (g_str_equal(kind, "unix") && parse_number(id, UINT32_MAX, &ino))
    return g_strdup_printf("unix:ino=%" G_GUINT64_FORMAT " action=close", (guint64)ino);
  if (g_str_equal(kind, "file") && colon && g_ascii_isxdigit(colon[1]) &&
      g_ascii_string_to_unsigned(colon + 1, 16, 1, UINT64_MAX, &ino, NULL))
    return g_strdup_printf("file:ino=%" G_GUINT64_FORMAT " action=\"inherit:file[%s]\"", (guint64)ino, id);
  return NULL;
}

/* "KEY:VALUE"; criu's "auto" and the letters that may follow "mnt[]" ask for what is done anyway. */
static bool set_mount(CriuOptions *options, const char *arg, GError **error) {
  const char *colon = strchr(arg, ':');
  if (g_str_equal(arg, "auto"))
    return true;
  if (!colon || colon == arg || !colon[1])
    return usage_error(error, "invalid argument for a mount: %s", arg);
  g_ptr_array_add(options->external, g_strdup_printf("mnt[%.*s]:%s", (int)(colon - arg), arg, colon + 1));
  return true;
}

static bool set_external_mount(CriuOptions *options, const char *id, const char *value, GError **error) {
  g_autofree char *both = g_strdup_printf("%s:%s", id, value);
  return !*id || set_mount(options, both, error);
}

/* Either criu's form, or a rule. */
static bool set_external(CriuOptions *options, const char *arg, GError **error) {
  size_t length = strcspn(arg, "[:");
  const char *end = arg[length] == '[' ? strchr(arg, ']') : NULL;
  if (arg[length] == ':') {
    g_ptr_array_add(options->external, g_strdup(arg));
    return true;
  }
  if (!end || (end[1] && end[1] != ':'))
    return usage_error(error, "invalid argument for --external: %s", arg);
  g_autofree char *kind = g_strndup(arg, length);
  g_autofree char *id = g_strndup(arg + length + 1, (gsize)(end - arg) - length - 1);
  if (g_str_equal(kind, "mnt"))
    return set_external_mount(options, id, end[1] ? end + 2 : "", error);
  bool network = g_str_equal(kind, "veth") || g_str_equal(kind, "netdev") || g_str_equal(kind, "net");
  char *rule = network ? g_strdup(arg) : external_rule(kind, id);
  if (rule)
    g_ptr_array_add(options->external, rule);
  else if (g_str_equal(kind, "unix") || g_str_equal(kind, "file"))
    return usage_error(error, "invalid argument for --external: %s", arg);
  else
    refuse(options, "option --external ", kind);
  return true;
}

static bool set_veth_pair(CriuOptions *options, const char *arg, GError **error) {
  g_auto(GStrv) parts = g_strsplit(arg, "=", 2);
  if (g_strv_length(parts) != 2 || !*parts[0] || !*parts[1])
    return usage_error(error, "invalid argument for --veth-pair: %s", arg);
  g_ptr_array_add(options->external, g_strdup_printf("veth[%s]:%s", parts[0], parts[1]));
  return true;
}

static bool set_inherit_fd(CriuOptions *options, const char *arg, GError **error) {
  const char *end = g_str_has_prefix(arg, "fd[") ? strchr(arg, ']') : NULL;
  g_autofree char *number = end ? g_strndup(arg + 3, (gsize)(end - arg) - 3) : NULL;
  uint64_t fd = 0;
  if (!end || end[1] != ':' || !end[2] || !parse_number(number, INT32_MAX, &fd))
    return usage_error(error, "invalid argument for --inherit-fd: %s", arg);
  int n = (int)fd;
  const char *key = end + 2;
  g_ptr_array_add(options->inherit_keys, g_strdup(key));
  g_array_append_val(options->inherit_fds, n);
  return true;
}

static bool set_validation(CriuOptions *options, const char *arg, GError **error) {
  bool size = g_str_equal(arg, "filesize");
  if (!size && !g_str_equal(arg, "buildid"))
    return usage_error(error, "invalid argument for --file-validation: %s (filesize or buildid)", arg);
  g_free(options->file_validation);
  options->file_validation = g_strdup(size ? "size" : "build-id,size");
  return true;
}

static bool apply(CriuOptions *options, const Option *option, bool value, const char *arg, GError **error) {
  void *field = option_field(options, option);
  if (option->setter != NOT_YET)
    g_ptr_array_add(options->given, (void *)option);
  switch (option->setter) {
  case HINT:
    return true;
  case FLAG:
    *(bool *)field = value;
    return true;
  case STRING:
    g_free(*(char **)field);
    *(char **)field = g_strdup(arg);
    return *arg ? true : usage_error(error, "option '--%s' has an empty argument", option->name);
  case NUMBER:
    return set_number(option, arg, 0, UINT32_MAX, field, error);
  case PID:
    return set_number(option, arg, 1, INT32_MAX, field, error);
  case VERBOSITY:
    return set_verbosity(options, arg, error);
  case EXT_UNIX_SK:
    return set_ext_unix_sk(options, value, arg, error);
  case EXTERNAL:
    return set_external(options, arg, error);
  case VETH_PAIR:
    return set_veth_pair(options, arg, error);
  case EMPTY_NS:
    options->empty_net |= g_str_equal(arg, "net");
    return g_str_equal(arg, "net") || usage_error(error, "invalid argument for --empty-ns: %s (only net)", arg);
  case INHERIT_FD:
    return set_inherit_fd(options, arg, error);
  case VALIDATION:
    return set_validation(options, arg, error);
  case SIZE:
    return set_size(option, arg, field, error);
  case CGROUPS:
    return set_cgroups(options, value, arg, error);
  case MOUNT:
    return set_mount(options, arg, error);
  case SCRIPT:
    g_ptr_array_add(options->action_scripts, g_strdup(arg));
    return true;
  case CGROUP_ROOT:
    return set_cgroup_root(options, arg, error);
  case NOT_YET:
  default:
    if (value) /* else: what we cannot do is certainly not done */
      refuse(options, "option --", option->name);
    return true;
  }
}

/* --- the command line --- */

typedef struct Cursor {
  int argc;
  char *const *argv;
  int at;
} Cursor;

static bool take_argument(Cursor *cursor, const char *shown, const char **ret_arg, GError **error) {
  if (cursor->at >= cursor->argc)
    return usage_error(error, "option '%s' requires an argument", shown);
  *ret_arg = cursor->argv[cursor->at++];
  return true;
}

static bool parse_long(CriuOptions *options, Cursor *cursor, const char *text, GError **error) {
  const char *equals = strchr(text, '=');
  size_t length = equals ? (size_t)(equals - text) : strlen(text);
  const char *arg = equals ? equals + 1 : NULL;
  bool value = true;
  const Option *option = lookup(text, length, false, &value, error);
  if (!option)
    return false;
  if (arg && option->arg == NO_ARG)
    return usage_error(error, "option '--%s' doesn't allow an argument", option->name);
  g_autofree char *shown = g_strconcat("--", option->name, NULL);
  if (!arg && option->arg == NEEDS_ARG && !take_argument(cursor, shown, &arg, error))
    return false;
  return apply(options, option, value, arg, error);
}

/* A bundle of letters; the first one that takes an argument takes the rest of the word, or the next word. */
static bool parse_short(CriuOptions *options, Cursor *cursor, const char *letters, GError **error) {
  for (; *letters; letters++) {
    const Option *option = find_letter(*letters);
    if (!option)
      return usage_error(error, "invalid option -- '%c'", g_ascii_isprint(*letters) ? *letters : '?');
    if (option->arg == NO_ARG) {
      if (!apply(options, option, true, "", error))
        return false;
      continue;
    }
    const char *arg = letters[1] ? letters + 1 : NULL;
    const char shown[] = {'-', option->letter, 0};
    if (!arg && option->arg == NEEDS_ARG && !take_argument(cursor, shown, &arg, error))
      return false;
    return apply(options, option, true, arg, error);
  }
  return true;
}

static bool parse_action(CriuOptions *options, const char *word, GError **error) {
  if (options->action == CRIU_ACTION_REFUSED)
    return true; /* swrk FD, cpuinfo dump: refused already */
  if (options->action)
    return usage_error(error, "unexpected argument '%s'", word);
  for (size_t i = 0; i < G_N_ELEMENTS(actions); i++) {
    if (strcmp(actions[i].name, word) != 0)
      continue;
    options->action = actions[i].action;
    if (options->action == CRIU_ACTION_REFUSED)
      refuse(options, "command ", word);
    return true;
  }
  return usage_error(error, "unknown command: %s", word);
}

bool criu_options_parse_args(CriuOptions *options, int argc, char *const *argv, GError **error) {
  Cursor cursor = {.argc = argc, .argv = argv};
  bool ended = false;
  while (cursor.at < argc) {
    const char *word = argv[cursor.at++];
    bool ok;
    if (!ended && !strcmp(word, "--")) {
      ended = true;
      continue;
    }
    if (!ended && word[0] == '-' && word[1] == '-')
      ok = parse_long(options, &cursor, word + 2, error);
    else if (!ended && word[0] == '-' && word[1])
      ok = parse_short(options, &cursor, word + 1, error);
    else
      ok = parse_action(options, word, error);
    if (!ok)
      return false;
  }
  return true;
}

/* --- configuration files --- */

/* The argument of a line: the rest of it, or what stands in double quotes, in which a backslash takes the next
 * character as it is. NULL if there is none. A # begins a comment. */
static bool config_argument(const char *text, char **ret, GError **error) {
  g_autoptr(GString) arg = g_string_new(NULL);
  bool quoted = *text == '"';
  if (quoted)
    text++;
  for (; *text && (quoted ? *text != '"' : *text != '#'); text++) {
    if (quoted && *text == '\\' && text[1])
      text++;
    g_string_append_c(arg, *text);
  }
  if (quoted) {
    const char *after = *text ? text + 1 + strspn(text + 1, " \t\r") : "x";
    if (*after && *after != '#')
      return usage_error(error, "the quotes do not end with the line");
    *ret = g_string_free(g_steal_pointer(&arg), FALSE);
    return true;
  }
  g_autofree char *rest = g_strchomp(g_string_free(g_steal_pointer(&arg), FALSE));
  *ret = *rest ? g_steal_pointer(&rest) : NULL;
  return true;
}

static bool parse_config_line(CriuOptions *options, const char *line, GError **error) {
  line += strspn(line, " \t\r");
  if (!*line || *line == '#')
    return true;
  size_t length = strcspn(line, " \t\r=#");
  const char *rest = line + length;
  rest += strspn(rest, " \t\r");
  if (*rest == '=')
    rest += 1 + strspn(rest + 1, " \t\r");
  bool value = true;
  const Option *option = lookup(line, length, true, &value, error);
  if (!option)
    return false;
  g_autofree char *arg = NULL;
  if (!config_argument(rest, &arg, error))
    return false;
  if (arg && option->arg == NO_ARG)
    return usage_error(error, "option '%s' doesn't allow an argument", option->name);
  if (!arg && option->arg == NEEDS_ARG)
    return usage_error(error, "option '%s' requires an argument", option->name);
  return apply(options, option, value, arg, error);
}

bool criu_options_parse_config(CriuOptions *options, const char *name, const char *text, GError **error) {
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  guint given = options->given->len;
  for (size_t i = 0; lines[i]; i++) {
    if (parse_config_line(options, lines[i], error))
      continue;
    g_prefix_error(error, "%s line %zu: ", name, i + 1);
    return false;
  }
  /* A file serves all actions: nothing in it is out of place. */
  g_ptr_array_set_size(options->given, (int)given);
  return true;
}

/* --- the whole --- */

char *criu_options_idle(const CriuOptions *options) {
  g_autoptr(GString) names = g_string_new(NULL);
  for (guint i = 0; i < options->given->len; i++) {
    const Option *option = options->given->pdata[i];
    if (!(option->actions & (int)options->action))
      g_string_append_printf(names, "%s--%s", names->len ? ", " : "", option->name);
  }
  return names->len ? g_string_free(g_steal_pointer(&names), FALSE) : NULL;
}

bool criu_options_check(const CriuOptions *options, GError **error) {
  if (options->refused->len) {
    g_set_error(
        error, CRIU_OPTIONS_ERROR, CRIU_OPTIONS_ERROR_NOT_SUPPORTED, "not supported yet: %s", options->refused->str);
    return false;
  }
  if (!options->action)
    return usage_error(error, "no command given");
  if (options->action == CRIU_ACTION_DUMP && !options->tree)
    return usage_error(error, "dump needs the root of a tree: -t PID");
  if (options->network_lock && !g_strv_contains(network_locks, options->network_lock))
    return usage_error(error, "invalid argument for --network-lock: %s", options->network_lock);
  if (options->action == CRIU_ACTION_DUMP && options->leave_running && options->leave_stopped)
    return usage_error(error, "--leave-running and --leave-stopped exclude each other");
  if (options->action == CRIU_ACTION_RESTORE && options->restore_sibling && !options->restore_detached)
    return usage_error(error, "--restore-sibling makes sense only with --restore-detached");
  return true;
}

char *criu_options_help(void) {
  GString *text = g_string_new("Usage:\n"
                               "  criu dump -t PID [OPTION…]\n"
                               "  criu restore [OPTION…]\n"
                               "  criu check [--feature NAME]\n\n"
                               "Options:\n");
  for (size_t i = 0; i < G_N_ELEMENTS(table) && table[i].setter != NOT_YET; i++) {
    const Option *o = &table[i];
    g_autofree char *arg = o->arg == NO_ARG      ? g_strdup("")
                           : o->arg == NEEDS_ARG ? g_strdup_printf(" %s", o->arg_name)
                                                 : g_strdup_printf("[=%s]", o->arg_name);
    g_autofree char *names =
        o->letter ? g_strdup_printf("-%c|--%s%s", o->letter, o->name, arg) : g_strdup_printf("   --%s%s", o->name, arg);
    g_string_append_printf(text, "  %-26s %s\n", names, o->help);
  }
  g_string_append(text, "\nEvery flag can be negated: --no-NAME. criu(8)'s other options are refused by name.\n");
  return g_string_free(text, FALSE);
}

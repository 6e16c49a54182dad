/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job-options.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon-error.h"

#define TOKEN_MAX 64
#define HOOKS_TIMEOUT_MAX (600 * G_USEC_PER_SEC)
#define EXTERNAL_RULES_MAX 256
#define INHERIT_MAX 32
#define INHERIT_KEY_MAX 4096
#define EXTERNAL_BYTES_MAX (64 * 1024)
#define DUMP OPTION_FOR_DUMP
#define RESTORE OPTION_FOR_RESTORE
#define EXPLAIN OPTION_FOR_EXPLAIN
#define CHECKPOINTS OPTION_FOR_CHECKPOINTS
#define SELF OPTION_FOR_SELF
#define LISTS (OPTION_FOR_LIST_CHECKPOINTS | OPTION_FOR_LIST_JOBS)

typedef struct OptionRow OptionRow;

/* Reads the variant's content; false: the value is bad (a type error is found before). */
typedef bool (*OptionReader)(const OptionRow *row, JobOptions *options, sd_bus_message *message);

struct OptionRow {
  const char *name;
  const char *signature;
  unsigned members;
  OptionReader read; /* NULL: the engine's side comes in a later version */
  size_t offset;
  bool dangerous; /* reaches outside the application: needs privileged-options */
};

static bool read_bool(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  int value;

  if (sd_bus_message_read_basic(message, 'b', &value) < 0)
    return false;
  *(bool *)((char *)options + row->offset) = value;
  return true;
}

static bool read_number(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  return sd_bus_message_read_basic(message, 't', (char *)options + row->offset) >= 0;
}

static bool read_timeout(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  return sd_bus_message_read_basic(message, 't', &options->timeout_usec) >= 0 && options->timeout_usec > 0;
}

static bool read_owner(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  options->owner_set = true;
  return sd_bus_message_read_basic(message, 'u', &options->owner) >= 0 && options->owner != UINT32_MAX;
}

static bool read_token(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  const char *text;
  size_t length;

  if (sd_bus_message_read_basic(message, 's', &text) < 0)
    return false;
  length = strlen(text);
  if (length == 0 || length > TOKEN_MAX)
    return false;
  for (size_t i = 0; i < length; i++)
    if (!g_ascii_isalnum(text[i]) && !strchr("_-.", text[i]))
      return false;
  options->token = g_strdup(text);
  return true;
}

static bool read_on_disconnect(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  const char *text;

  if (sd_bus_message_read_basic(message, 's', &text) < 0)
    return false;
  options->cancel_on_disconnect = g_str_equal(text, "cancel");
  return options->cancel_on_disconnect || g_str_equal(text, "continue");
}

static bool read_hooks(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  static const char *const modes[] = {[HOOKS_REQUIRE] = "require", [HOOKS_TRY] = "try", [HOOKS_SKIP] = "skip"};
  const char *text;

  if (sd_bus_message_read_basic(message, 's', &text) < 0)
    return false;
  for (size_t i = 0; i < G_N_ELEMENTS(modes); i++)
    if (g_str_equal(text, modes[i])) {
      options->hooks = (HooksMode)i;
      return true;
    }
  return false;
}

static bool read_cgroups(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  static const char *const modes[] = {"none", "props", "soft", "full", "strict", "ignore"};
  const char *text;

  if (sd_bus_message_read_basic(message, 's', &text) < 0)
    return false;
  for (size_t i = 0; i < G_N_ELEMENTS(modes); i++)
    if (g_str_equal(text, modes[i])) {
      options->manage_cgroups = modes[i];
      return true;
    }
  return false;
}

static bool read_hooks_timeout(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  return sd_bus_message_read_basic(message, 't', &options->hooks_timeout_usec) >= 0 &&
         options->hooks_timeout_usec > 0 && options->hooks_timeout_usec <= HOOKS_TIMEOUT_MAX;
}

/* A seqpacket socket, or the end of it would mean nothing. */
static bool read_connection(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  int fd, type = 0;
  socklen_t size = sizeof type;

  if (sd_bus_message_read_basic(message, 'h', &fd) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
      type != SOCK_SEQPACKET)
    return false;
  fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  options->connection = fd > 0 ? fd : 0;
  return fd > 0;
}

/* The engine opens it again for reading and writing, so the caller has to be able to do both. Whether it is a terminal is the engine's to see:
 * nothing here makes ioctls. */
static bool read_terminal(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  struct stat st;
  int fd;

  if (sd_bus_message_read_basic(message, 'h', &fd) < 0 || fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) ||
      (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
    return false;
  fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  options->terminal = fd > 0 ? fd : 0;
  options->shell_job = true;
  return fd > 0;
}

/* Rules are text for the engine: here they are only kept from being endless. */
static bool read_external(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func(g_free);
  const char *text;
  size_t bytes = 0;
  int r = sd_bus_message_enter_container(message, 'a', "s");

  while (r >= 0 && (r = sd_bus_message_read_basic(message, 's', &text)) > 0) {
    bytes += strlen(text);
    if (!*text || rules->len >= EXTERNAL_RULES_MAX || bytes > EXTERNAL_BYTES_MAX)
      return false;
    g_ptr_array_add(rules, g_strdup(text));
  }
  if (r < 0 || sd_bus_message_exit_container(message) < 0)
    return false;
  g_ptr_array_add(rules, NULL);
  options->external = (GStrv)g_ptr_array_free(g_steal_pointer(&rules), FALSE);
  return true;
}

static void clear_fd(gpointer fd) {
  (void)close(*(int *)fd);
}

/* What each descriptor is for is the engine's to know. */
static bool read_inherit(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  const char *key;
  int fd, r = sd_bus_message_enter_container(message, 'a', "{sh}");

  options->inherit_keys = g_ptr_array_new_with_free_func(g_free);
  options->inherit_fds = g_array_new(FALSE, FALSE, sizeof(int));
  g_array_set_clear_func(options->inherit_fds, clear_fd);
  while (r >= 0 && (r = sd_bus_message_enter_container(message, 'e', "sh")) > 0) {
    if (sd_bus_message_read(message, "sh", &key, &fd) < 0 || !*key || strlen(key) > INHERIT_KEY_MAX ||
        options->inherit_keys->len >= INHERIT_MAX)
      return false;
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
      return false;
    g_array_append_val(options->inherit_fds, fd);
    g_ptr_array_add(options->inherit_keys, g_strdup(key));
    r = sd_bus_message_exit_container(message);
  }
  return r >= 0 && sd_bus_message_exit_container(message) >= 0;
}

/* Only "none" exists so far: any other compression is one of a later version. */
static bool read_compress(const OptionRow *row, JobOptions *options, sd_bus_message *message) {
  const char *text;

  if (sd_bus_message_read_basic(message, 's', &text) < 0)
    return false;
  if (text[0] != '\0' && !g_str_equal(text, "none"))
    options->unsupported = row->name;
  return true;
}

#define FIELD(name) offsetof(JobOptions, name)

static const OptionRow option_table[] = {
    {"leave-running", "b", DUMP, read_bool, FIELD(leave_running), false},
    {"stop", "b", DUMP, read_bool, FIELD(stop), false},
    {"durable", "b", DUMP, read_bool, FIELD(durable), false},
    {"replace", "b", DUMP, read_bool, FIELD(replace), false},
    {"shell-job", "b", DUMP | RESTORE | EXPLAIN, read_bool, FIELD(shell_job), false},
    {"terminal", "h", RESTORE, read_terminal, 0, false},
    {"timeout", "t", DUMP | EXPLAIN, read_timeout, 0, false},
    {"token", "s", DUMP | RESTORE | EXPLAIN | OPTION_FOR_CHECK, read_token, 0, false},
    {"on-disconnect", "s", DUMP | RESTORE | EXPLAIN | OPTION_FOR_CHECK, read_on_disconnect, 0, false},
    {"any-target", "b", DUMP | EXPLAIN, read_bool, FIELD(any_target), false},
    {"hooks", "s", DUMP, read_hooks, 0, false},
    {"hooks-timeout", "t", DUMP, read_hooks_timeout, 0, false},
    {"connection", "h", SELF, read_connection, 0, false},
    {"owner", "u", RESTORE | CHECKPOINTS | LISTS, read_owner, 0, false},
    {"all", "b", LISTS, read_bool, FIELD(all), false},
    {"compress", "s", DUMP, read_compress, 0, false},
    {"parent", "s", DUMP, NULL, 0, false},
    {"track-memory", "b", DUMP, NULL, 0, false},
    {"snapshot", "b", DUMP, NULL, 0, false},
    {"file-locks", "b", DUMP | EXPLAIN, read_bool, FIELD(file_locks), false},
    {"tcp-close", "b", DUMP | RESTORE | EXPLAIN, read_bool, FIELD(tcp_close), false},
    {"skip-in-flight", "b", DUMP | EXPLAIN, read_bool, FIELD(skip_in_flight), false},
    {"tcp-established", "b", DUMP | RESTORE | EXPLAIN, read_bool, FIELD(tcp_established), true},
    {"external", "as", DUMP | RESTORE | EXPLAIN, read_external, 0, true},
    {"inherit", "a{sh}", RESTORE, read_inherit, 0, true},
    {"ext-unix-sk", "b", DUMP | RESTORE | EXPLAIN, read_bool, FIELD(ext_unix_sk), true},
    {"ghost-limit", "t", DUMP | EXPLAIN, read_number, FIELD(ghost_limit), false},
    {"link-remap", "b", DUMP | EXPLAIN, read_bool, FIELD(link_remap), true},
    {"manage-cgroups", "s", DUMP | RESTORE, read_cgroups, 0, true},
    {"lsm-profile", "s", RESTORE, NULL, 0, true},
    {"cgroup", "s", DUMP | RESTORE, NULL, 0, true},
};

void job_options_clear(JobOptions *options) {
  g_clear_pointer(&options->token, g_free);
  g_clear_pointer(&options->external, g_strfreev);
  job_options_close(options);
}

void job_options_close(JobOptions *options) {
  if (options->connection > 0)
    (void)close(options->connection);
  if (options->terminal > 0)
    (void)close(options->terminal);
  options->connection = options->terminal = 0;
  g_clear_pointer(&options->inherit_fds, g_array_unref);
  g_clear_pointer(&options->inherit_keys, g_ptr_array_unref);
}

const char *job_options_nth(size_t i, const char **ret_signature, unsigned *ret_members) {
  if (i >= G_N_ELEMENTS(option_table))
    return NULL;
  *ret_signature = option_table[i].signature;
  *ret_members = option_table[i].members;
  return option_table[i].name;
}

static bool refuse(GError **error, const char *name, const char *why) {
  g_autofree char *shown = g_strescape(name, NULL);

  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "Option '%.64s': %s", shown, why);
  return false;
}

/* "external" and friends with FALSE or nothing in them ask for nothing, but nobody
 * writes that: naming such an option is using it. */
static bool read_later_option(const OptionRow *row, JobOptions *options, sd_bus_message *message, GError **error) {
  if (sd_bus_message_skip(message, row->signature) < 0)
    return refuse(error, row->name, "cannot be read");
  options->unsupported = row->name;
  if (row->dangerous)
    options->dangerous = row->name;
  return true;
}

static bool read_option(JobOptions *options, sd_bus_message *message, unsigned member, uint64_t *seen, GError **error) {
  const char *name, *contents = NULL;
  const OptionRow *row = NULL;
  size_t i;
  char type;

  if (sd_bus_message_read_basic(message, 's', &name) < 0)
    return refuse(error, "", "cannot be read");
  for (i = 0; i < G_N_ELEMENTS(option_table) && !row; i++)
    if (g_str_equal(option_table[i].name, name))
      row = &option_table[i];
  if (!row)
    return refuse(error, name, "there is no such option");
  if ((row->members & member) == 0)
    return refuse(error, name, "not an option of this method");
  if (*seen & (UINT64_C(1) << i))
    return refuse(error, name, "given twice");
  *seen |= UINT64_C(1) << i;
  if (sd_bus_message_peek_type(message, &type, &contents) < 0 || type != 'v' ||
      !g_str_equal(contents, row->signature)) {
    g_autofree char *why = g_strdup_printf("must be of type '%s'", row->signature);
    return refuse(error, name, why);
  }
  if (sd_bus_message_enter_container(message, 'v', row->signature) < 0)
    return refuse(error, name, "cannot be read");
  if (!row->read && !read_later_option(row, options, message, error))
    return false;
  if (row->read && !row->read(row, options, message))
    return refuse(error, name, "bad value");
  if (row->read && row->dangerous)
    options->dangerous = row->name;
  return sd_bus_message_exit_container(message) >= 0 || refuse(error, name, "cannot be read");
}

bool job_options_read(JobOptions *options, sd_bus_message *message, unsigned member, GError **error) {
  uint64_t seen = 0;
  int r = sd_bus_message_enter_container(message, 'a', "{sv}");

  while (r >= 0 && (r = sd_bus_message_enter_container(message, 'e', "sv")) > 0) {
    if (!read_option(options, message, member, &seen, error))
      return false;
    r = sd_bus_message_exit_container(message);
  }
  if (r < 0 || sd_bus_message_exit_container(message) < 0)
    return refuse(error, "", "the options cannot be read");
  if (options->leave_running && options->stop)
    return refuse(error, "stop", "cannot be combined with 'leave-running'");
  if (options->all && options->owner_set)
    return refuse(error, "owner", "cannot be combined with 'all'");
  return true;
}

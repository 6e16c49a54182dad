/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rule.h"
#include "glob.h"
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#define SUN_PATH_SIZE 108
/* No path or pattern is longer. */
#define RULE_MAX 16384

enum {
  UNIX = 1 << EXTERNAL_UNIX,
  FILES = 1 << EXTERNAL_FILE,
  DEVICE = 1 << EXTERNAL_DEVICE,
  MAPPING = 1 << EXTERNAL_MAPPING,
  OTHER = 1 << EXTERNAL_OTHER,
  PIPE = 1 << EXTERNAL_PIPE,
  NAMED = UNIX | FILES | DEVICE | MAPPING | OTHER,
  ALL = NAMED | PIPE,
};

typedef struct Key Key;
struct Key {
  const char *name;
  int kinds;
  bool (*read)(const Key *key, Rule *rule, const char *value); /* false: a bad value */
  void (*write)(const Key *key, const Rule *rule, GString *text);
  size_t field;
  const char *wanted; /* what a good value is */
};

#define FIELD(name) offsetof(Rule, name)

static void *field_of(const Rule *rule, const Key *key) {
  return (char *)rule + key->field;
}

/* In quotes where the grammar asks for them. */
static void write_pair(GString *text, const char *name, const char *value) {
  g_string_append_printf(text, "%s%s=", strchr(text->str, '=') ? " " : "", name);
  if (*value && !strpbrk(value, " \t\n\v\f\r\"#")) {
    g_string_append(text, value);
    return;
  }
  g_string_append_c(text, '"');
  for (; *value; value++) {
    if (*value == '"' || *value == '\\')
      g_string_append_c(text, '\\');
    g_string_append_c(text, *value);
  }
  g_string_append_c(text, '"');
}

static bool read_text(const Key *key, Rule *rule, const char *value) {
  *(char **)field_of(rule, key) = g_strdup(value);
  return *value;
}

static void write_text(const Key *key, const Rule *rule, GString *text) {
  const char *value = *(char **)field_of(rule, key);
  if (value)
    write_pair(text, key->name, value);
}

static bool read_number(const Key *key, Rule *rule, const char *value) {
  guint64 n = 0;
  if (!g_ascii_isdigit(*value) || !g_ascii_string_to_unsigned(value, 10, 0, G_MAXUINT32, &n, NULL))
    return false;
  *(gint64 *)field_of(rule, key) = (gint64)n;
  return true;
}

static void write_number(const Key *key, const Rule *rule, GString *text) {
  gint64 n = *(gint64 *)field_of(rule, key);
  g_autofree char *value = g_strdup_printf("%" G_GINT64_FORMAT, n);
  if (n >= 0)
    write_pair(text, key->name, value);
}

static bool read_ino(const Key *key, Rule *rule, const char *value) {
  guint64 *n = field_of(rule, key);
  return g_ascii_isdigit(*value) && g_ascii_string_to_unsigned(value, 10, 1, G_MAXUINT64, n, NULL);
}

static void write_ino(const Key *key, const Rule *rule, GString *text) {
  guint64 n = *(guint64 *)field_of(rule, key);
  g_autofree char *value = g_strdup_printf("%" G_GUINT64_FORMAT, n);
  if (n)
    write_pair(text, key->name, value);
}

static const struct {
  const char *name;
  int type;
} socket_types[] = {{"stream", SOCK_STREAM}, {"seqpacket", SOCK_SEQPACKET}, {"dgram", SOCK_DGRAM}};

static bool read_type(const Key *key, Rule *rule, const char *value) {
  for (size_t i = 0; i < G_N_ELEMENTS(socket_types); i++)
    if (g_str_equal(value, socket_types[i].name))
      rule->type = socket_types[i].type;
  return rule->type;
}

static void write_type(const Key *key, const Rule *rule, GString *text) {
  for (size_t i = 0; i < G_N_ELEMENTS(socket_types); i++)
    if (rule->type == socket_types[i].type)
      write_pair(text, key->name, socket_types[i].name);
}

static bool read_rdev(const Key *key, Rule *rule, const char *value) {
  g_auto(GStrv) parts = g_strsplit(value, ":", -1);
  guint64 maj = 0, min = 0;
  if (g_strv_length(parts) != 2 || !g_ascii_isdigit(*parts[0]) || !g_ascii_isdigit(*parts[1]) ||
      !g_ascii_string_to_unsigned(parts[0], 10, 0, 4095, &maj, NULL) ||
      !g_ascii_string_to_unsigned(parts[1], 10, 0, 1048575, &min, NULL))
    return false;
  rule->rdev = (gint64)makedev((unsigned)maj, (unsigned)min);
  return true;
}

static void write_rdev(const Key *key, const Rule *rule, GString *text) {
  g_autofree char *value = g_strdup_printf("%u:%u", major((dev_t)rule->rdev), minor((dev_t)rule->rdev));
  if (rule->rdev >= 0)
    write_pair(text, key->name, value);
}

static bool read_checks(const Key *key, Rule *rule, const char *value) {
  rule->has_checks = true;
  return external_checks_parse(value, &rule->checks);
}

static void write_checks(const Key *key, const Rule *rule, GString *text) {
  g_autofree char *value = external_checks_text(rule->checks);
  if (rule->has_checks)
    write_pair(text, key->name, value);
}

static bool read_unread(const Key *key, Rule *rule, const char *value) {
  rule->drop_unread = g_str_equal(value, "drop");
  return rule->drop_unread || g_str_equal(value, "keep");
}

static void write_unread(const Key *key, const Rule *rule, GString *text) {
  if (rule->drop_unread)
    write_pair(text, key->name, "drop");
}

static bool read_action(const Key *key, Rule *rule, const char *value) {
  const char *colon = strchr(value, ':');
  g_autofree char *name = colon ? g_strndup(value, (gsize)(colon - value)) : g_strdup(value);
  rule->action = external_action_of(name);
  rule->value = colon && colon[1] ? g_strdup(colon + 1) : NULL;
  return rule->action && (!colon || rule->value);
}

static void write_action(const Key *key, const Rule *rule, GString *text) {
  const char *name = external_action_name(rule->action);
  g_autofree char *value = rule->value ? g_strdup_printf("%s:%s", name, rule->value) : g_strdup(name);
  if (rule->action)
    write_pair(text, key->name, value);
}

static const Key keys[] = {
    {"path", NAMED, read_text, write_text, FIELD(path), "a pattern"},
    {"local", UNIX, read_text, write_text, FIELD(local), "a pattern"},
    {"comm", ALL, read_text, write_text, FIELD(comm), "a pattern"},
    {"peer-comm", UNIX | PIPE, read_text, write_text, FIELD(peer_comm), "a pattern"},
    {"peer-uid", UNIX, read_number, write_number, FIELD(peer_uid), "a number"},
    {"peer-pid", UNIX, read_number, write_number, FIELD(peer_pid), "a number"},
    {"type", UNIX, read_type, write_type, 0, "stream, seqpacket or dgram"},
    {"ino", UNIX | FILES | PIPE, read_ino, write_ino, FIELD(ino), "an inode's number"},
    {"peer-ino", UNIX, read_ino, write_ino, FIELD(peer_ino), "an inode's number"},
    {"fd", UNIX | FILES | DEVICE | OTHER | PIPE, read_number, write_number, FIELD(fd), "a number"},
    {"rdev", DEVICE | MAPPING, read_rdev, write_rdev, 0, "MAJOR:MINOR"},
    {"action", ALL, read_action, write_action, 0, "ACTION or ACTION:ARGUMENT"},
    {"check", FILES, read_checks, write_checks, 0, "none, or some of size,mtime,build-id,content"},
    {"unread", UNIX, read_unread, write_unread, 0, "keep or drop"},
    {"send", UNIX, read_text, write_text, FIELD(send), "a text"},
    {"reason", ALL, read_text, write_text, FIELD(reason), "a text"},
    {"cure", ALL, read_text, write_text, FIELD(cure), "a text"},
};

/* What an action goes with, and whether it takes an argument. */
static const struct {
  ExternalAction action;
  int kinds;
  enum { NEVER, MAY, MUST } value;
} uses[] = {
    {EXTERNAL_RECONNECT, UNIX, MAY},
    {EXTERNAL_DBUS, UNIX, MAY},
    {EXTERNAL_CLOSE, UNIX | PIPE, NEVER},
    {EXTERNAL_INHERIT, UNIX | FILES | DEVICE | OTHER | PIPE, MAY},
    {EXTERNAL_REOPEN, FILES | DEVICE, NEVER},
    {EXTERNAL_REMAP, FILES | DEVICE, MUST},
    {EXTERNAL_EMBED, FILES, NEVER},
    {EXTERNAL_PLUGIN, NAMED, MAY},
    {EXTERNAL_FAIL, ALL, NEVER},
};

void rule_free(Rule *rule) {
  if (!rule)
    return;
  for (size_t i = 0; i < G_N_ELEMENTS(keys); i++)
    if (keys[i].read == read_text)
      g_free(*(char **)field_of(rule, &keys[i]));
  g_free(rule->value);
  g_free(rule->source);
  g_free(rule);
}

/* --- plugins --- */

const char *rule_plugin_of(ExternalAction action) {
  return action == EXTERNAL_DBUS ? "dbus" : action == EXTERNAL_EMBED ? "file-embed" : NULL;
}

char *rule_plugin(const Rule *rule, char **argument) {
  const char *known = rule_plugin_of(rule->action);
  if (known || rule->action != EXTERNAL_PLUGIN || !*argument)
    return g_strdup(known);
  char *name = g_steal_pointer(argument), *colon = strchr(name, ':');
  if (colon) {
    *colon = '\0';
    *argument = g_strdup(colon + 1);
  }
  return name;
}

/* --- parsing --- */

static bool refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool refuse(GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *text = g_strdup_vprintf(format, ap);
  va_end(ap);
  return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "%s", text);
}

/* The value behind '=', up to a blank; what stands in double quotes may contain some, and a backslash there takes a quote
 * or another backslash as it is. */
static char *take_value(const char **at, GError **error) {
  g_autoptr(GString) value = g_string_new(NULL);
  const char *p = *at;
  bool quoted = *p == '"';
  if (quoted)
    p++;
  for (; *p && (quoted ? *p != '"' : !g_ascii_isspace(*p)); p++) {
    if (quoted && *p == '\\' && (p[1] == '"' || p[1] == '\\'))
      p++;
    g_string_append_c(value, *p);
  }
  if (quoted && *p != '"') {
    refuse(error, "the quotes do not end");
    return NULL;
  }
  if (quoted)
    p++;
  if (*p && !g_ascii_isspace(*p)) {
    refuse(error, "a blank is missing before \"%.20s\"", p);
    return NULL;
  }
  *at = p;
  return g_string_free(g_steal_pointer(&value), FALSE);
}

static const Key *find_key(const char *name, size_t size) {
  for (size_t i = 0; i < G_N_ELEMENTS(keys); i++)
    if (strlen(keys[i].name) == size && memcmp(keys[i].name, name, size) == 0)
      return &keys[i];
  return NULL;
}

static bool take_pair(Rule *rule, const char **at, guint32 *seen, GError **error) {
  size_t size = strcspn(*at, "= \t\n");
  const char *name = *at;
  const Key *key = find_key(name, size);
  if (name[size] != '=')
    return refuse(error, "\"%.*s\" should be KEY=VALUE", (int)MIN(size, 40), name);
  if (!key || !(key->kinds & 1 << rule->kind))
    return refuse(error, "\"%.*s\" is nothing that a rule about %s can say", (int)MIN(size, 40), name,
        external_kind_name(rule->kind));
  if (*seen & 1U << (key - keys))
    return refuse(error, "%s is there twice", key->name);
  *seen |= 1U << (key - keys);
  *at += size + 1;
  g_autofree char *value = take_value(at, error);
  if (!value)
    return false;
  return key->read(key, rule, value) || refuse(error, "%s=%.60s: should be %s", key->name, value, key->wanted);
}

static bool is_address(const char *text) {
  g_autoptr(GBytes) bytes = rule_address_bytes(text);
  return bytes;
}

static bool check_action(const Rule *rule, GError **error) {
  if (!rule->action)
    return rule->has_checks || refuse(error, "action= is missing");
  const char *name = external_action_name(rule->action), *kind = external_kind_name(rule->kind);
  for (size_t i = 0; i < G_N_ELEMENTS(uses); i++) {
    if (uses[i].action != rule->action)
      continue;
    if (!(uses[i].kinds & 1 << rule->kind))
      return refuse(error, "action=%s does not go with %s", name, kind);
    if (rule->value ? uses[i].value == NEVER : uses[i].value == MUST)
      return refuse(error, rule->value ? "action=%s takes no argument" : "action=%s needs an argument", name);
  }
  bool connects = rule->action == EXTERNAL_RECONNECT || rule->action == EXTERNAL_DBUS;
  if (connects && rule->value && !is_address(rule->value))
    return refuse(error, "action=%s:%.120s: no address: an absolute path, or @NAME", name, rule->value);
  if (rule->action == EXTERNAL_REMAP && rule->value[0] != '/')
    return refuse(error, "action=remap:%.120s: no absolute path", rule->value);
  return true;
}

static bool check_rule(const Rule *rule, GError **error) {
  if (!check_action(rule, error))
    return false;
  bool reconnects = rule->action == EXTERNAL_RECONNECT;
  if (!reconnects && (rule->send || rule->drop_unread))
    return refuse(error, "send= and unread= go with action=reconnect only");
  if (rule->action != EXTERNAL_FAIL && (rule->reason || rule->cure))
    return refuse(error, "reason= and cure= go with action=fail only");
  bool checks = rule->action == EXTERNAL_NOBODY || rule->action == EXTERNAL_REOPEN || rule->action == EXTERNAL_REMAP;
  return !rule->has_checks || checks || refuse(error, "check= goes with action=reopen and action=remap only");
}

static bool parse_into(Rule *rule, const char *text, GError **error) {
  const char *at = text + strspn(text, " \t");
  size_t size = strcspn(at, ": \t=");
  g_autofree char *kind = g_strndup(at, size);
  rule->kind = external_kind_of(kind);
  if (strlen(text) > RULE_MAX)
    return refuse(error, "it is too long");
  if (at[size] != ':' || !rule->kind)
    return refuse(error, "it should begin with unix:, pipe:, file:, device:, mapping: or other:");
  guint32 seen = 0;
  for (at += size + 1;; at += strspn(at, " \t")) {
    if (!*at)
      return check_rule(rule, error);
    if (!g_ascii_isspace(*at) && !take_pair(rule, &at, &seen, error))
      return false;
    if (*at && *at != ' ' && *at != '\t')
      return refuse(error, "there is a line break in it");
  }
}

Rule *rule_parse(const char *text, const char *source, GError **error) {
  g_autoptr(Rule) rule = g_new0(Rule, 1);
  rule->peer_uid = rule->peer_pid = rule->fd = rule->rdev = -1;
  rule->source = g_strdup(source);
  if (parse_into(rule, text, error))
    return g_steal_pointer(&rule);
  g_autofree char *head = g_strndup(text, 200);
  g_autofree char *shown = g_utf8_make_valid(head, -1);
  g_prefix_error(error, "%s: the rule \"%s\": ", source, shown);
  return NULL;
}

char *rule_text(const Rule *rule) {
  GString *text = g_string_new(external_kind_name(rule->kind));
  g_string_append_c(text, ':');
  for (size_t i = 0; i < G_N_ELEMENTS(keys); i++)
    keys[i].write(&keys[i], rule, text);
  return g_string_free(text, FALSE);
}

/* --- matching --- */

char *rule_address(const guint8 *name, gsize size) {
  if (!size)
    return g_strdup("");
  GString *text = g_string_new(NULL);
  bool abstract = name[0] == '\0';
  for (gsize i = 0; i < size && (abstract || name[i]); i++)
    g_string_append_c(text, name[i] ? (char)name[i] : '@');
  return g_string_free(text, FALSE);
}

GBytes *rule_address_bytes(const char *address) {
  gsize size = strlen(address);
  if (size < 2 || (address[0] != '/' && address[0] != '@') || size >= SUN_PATH_SIZE)
    return NULL;
  guint8 *bytes = g_memdup2(address, size + 1);
  if (address[0] == '@')
    bytes[0] = '\0';
  return g_bytes_new_take(bytes, address[0] == '@' ? size : size + 1);
}

static size_t append_escape(GString *out, const char *p) {
  int high = p[0] == 'x' ? g_ascii_xdigit_value(p[1]) : -1, low = high >= 0 ? g_ascii_xdigit_value(p[2]) : -1;
  if (low >= 0) {
    g_string_append_c(out, (char)(high * 16 + low));
    return 3;
  }
  g_string_append_c(out, *p == 'n' ? '\n' : *p == 't' ? '\t' : *p == '0' ? '\0' : *p);
  return 1;
}

GBytes *rule_expand_send(const Rule *rule, const ExternalObject *o) {
  GString *out = g_string_new(NULL);
  for (const char *p = rule->send; *p; p++) {
    if (*p == '\\' && p[1]) {
      p += append_escape(out, p + 1);
    } else if (*p == '%' && p[1] == 'c') {
      g_string_append(out, o->comm ? o->comm : "");
      p++;
    } else if (*p == '%' && p[1] == 'p') {
      g_string_append_printf(out, "%d", (int)o->pid);
      p++;
    } else {
      p += *p == '%' && p[1] == '%';
      g_string_append_c(out, *p);
    }
  }
  return g_string_free_to_bytes(out);
}

static bool text_fits(const char *pattern, const char *text) {
  return !pattern || (text && glob_matches(pattern, text, strlen(text)));
}

static bool socket_fits(const Rule *r, const ExternalObject *o) {
  g_autofree char *peer = rule_address(o->sock.peer_name, o->sock.peer_name_size);
  g_autofree char *local = rule_address(o->sock.name, o->sock.name_size);
  return text_fits(r->path, *peer ? peer : NULL) && text_fits(r->local, *local ? local : NULL) &&
         text_fits(r->peer_comm, o->sock.peer_comm) &&
         (r->peer_uid < 0 || (o->sock.peer_known && o->sock.peer_uid == (uid_t)r->peer_uid)) &&
         (r->peer_pid < 0 || (o->sock.peer_pid > 0 && o->sock.peer_pid == (pid_t)r->peer_pid)) &&
         (!r->type || r->type == o->sock.type) && (!r->ino || r->ino == o->sock.ino) &&
         (!r->peer_ino || r->peer_ino == o->sock.peer_ino);
}

bool rule_matches(const Rule *r, const ExternalObject *o) {
  if (r->kind != o->kind || !text_fits(r->comm, o->comm) || (r->fd >= 0 && r->fd != o->fd))
    return false;
  if (o->kind == EXTERNAL_UNIX)
    return socket_fits(r, o);
  return text_fits(r->path, o->path) && text_fits(r->peer_comm, o->sock.peer_comm) && (r->rdev < 0 || (dev_t)r->rdev == o->st.st_rdev) &&
         (!r->ino || r->ino == o->st.st_ino);
}

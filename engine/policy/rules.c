/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rules.h"
#include "config.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct Rules {
  GPtrArray *list; /* Rule */
};

Rules *rules_new(void) {
  Rules *rules = g_new0(Rules, 1);
  rules->list = g_ptr_array_new_with_free_func((GDestroyNotify)rule_free);
  return rules;
}

void rules_free(Rules *rules) {
  if (!rules)
    return;
  g_ptr_array_unref(rules->list);
  g_free(rules);
}

bool rules_add(Rules *rules, const char *text, const char *source, GError **error) {
  Rule *rule = rule_parse(text, source, error);
  if (rule)
    g_ptr_array_add(rules->list, rule);
  return rule;
}

bool rules_add_text(Rules *rules, const char *text, const char *name, GError **error) {
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  g_autoptr(GString) whole = g_string_new(NULL);
  for (size_t i = 0, first = 0; lines[i]; i++) {
    char *line = g_strchomp(lines[i]);
    size_t size = strlen(line);
    bool joined = size && line[size - 1] == '\\' && lines[i + 1];
    if (!whole->len)
      first = i + 1;
    g_string_append_len(whole, line, (gssize)(size - joined));
    if (joined)
      continue;
    const char *rule = whole->str + strspn(whole->str, " \t");
    g_autofree char *source = g_strdup_printf("%s line %zu", name, first);
    if (*rule && *rule != '#' && !rules_add(rules, rule, source, error))
      return false;
    g_string_set_size(whole, 0);
  }
  return true;
}

/* What root obeys must be root's to write. */
static bool check_owner(const char *path, GError **error) {
  struct stat st;
  if (stat(path, &st) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read %s", path);
  if ((st.st_uid != 0 && st.st_uid != geteuid()) || st.st_mode & 022)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED,
        "%s can be written by others than root (its owner is %u, its mode 0%o): chown root, chmod go-w", path,
        st.st_uid, st.st_mode & 07777);
  return true;
}

static bool add_file(Rules *rules, const char *path, GError **error) {
  g_autofree char *text = NULL;
  g_autoptr(GError) failure = NULL;
  gsize size = 0;
  if (!check_owner(path, error))
    return false;
  if (!g_file_get_contents(path, &text, &size, &failure))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s", failure->message);
  if (!g_utf8_validate(text, (gssize)size, NULL))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s is no text in UTF-8", path);
  return rules_add_text(rules, text, path, error);
}

static gint compare_names(gconstpointer a, gconstpointer b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Adds the *.conf of one directory to name -> path, where no earlier directory has that name. */
static bool list_directory(GHashTable *files, const char *path, GError **error) {
  g_autoptr(GError) failure = NULL;
  g_autoptr(GDir) dir = g_dir_open(path, 0, &failure);
  if (!dir && g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    return true;
  if (!dir)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s", failure->message);
  if (!check_owner(path, error))
    return false;
  for (const char *name; (name = g_dir_read_name(dir));)
    if (g_str_has_suffix(name, ".conf") && name[0] != '.' && !g_hash_table_contains(files, name))
      g_hash_table_insert(files, g_strdup(name), g_build_filename(path, name, NULL));
  return true;
}

bool rules_add_directories(Rules *rules, const char *paths, GError **error) {
  g_autoptr(GHashTable) files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  g_auto(GStrv) list = g_strsplit(paths, ":", -1);
  for (size_t i = 0; list[i]; i++)
    if (*list[i] && !list_directory(files, list[i], error))
      return false;
  g_autoptr(GPtrArray) names = g_ptr_array_new();
  GHashTableIter iter;
  gpointer name;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &name, NULL))
    g_ptr_array_add(names, name);
  g_ptr_array_sort(names, compare_names);
  for (guint i = 0; i < names->len; i++)
    if (!add_file(rules, g_hash_table_lookup(files, names->pdata[i]), error))
      return false;
  return true;
}

const Rule *rules_find(const Rules *rules, const ExternalObject *object) {
  for (guint i = 0; i < rules->list->len; i++) {
    const Rule *rule = rules->list->pdata[i];
    if (rule->action && rule_matches(rule, object))
      return rule;
  }
  return NULL;
}

const Rule *rules_find_checks(const Rules *rules, const ExternalObject *object) {
  for (guint i = 0; i < rules->list->len; i++) {
    const Rule *rule = rules->list->pdata[i];
    if (rule->has_checks && rule_matches(rule, object))
      return rule;
  }
  return NULL;
}

bool rules_speak_of(const Rules *rules, ExternalKind kind) {
  for (guint i = 0; i < rules->list->len; i++)
    if (((const Rule *)rules->list->pdata[i])->kind == kind)
      return true;
  return false;
}

size_t rules_size(const Rules *rules) {
  return rules->list->len;
}

const Rule *rules_get(const Rules *rules, size_t i) {
  return i < rules->list->len ? rules->list->pdata[i] : NULL;
}

const char *rules_directories(void) {
  const char *given = secure_getenv("CHECKPOINTD_EXTERNAL_DIR");
  return given ? given : "/etc/checkpointd/external.d:" CHECKPOINTD_DATADIR "/external.d";
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "external.h"

static const char *const kind_names[] = {
    [EXTERNAL_UNIX] = "unix",
    [EXTERNAL_FILE] = "file",
    [EXTERNAL_DEVICE] = "device",
    [EXTERNAL_MAPPING] = "mapping",
    [EXTERNAL_OTHER] = "other",
    [EXTERNAL_PIPE] = "pipe",
};

static const char *const action_names[EXTERNAL_N_ACTIONS] = {
    [EXTERNAL_NOBODY] = "nobody",
    [EXTERNAL_RECONNECT] = "reconnect",
    [EXTERNAL_CLOSE] = "close",
    [EXTERNAL_INHERIT] = "inherit",
    [EXTERNAL_REOPEN] = "reopen",
    [EXTERNAL_REMAP] = "remap",
    [EXTERNAL_EMBED] = "embed",
    [EXTERNAL_PLUGIN] = "plugin",
    [EXTERNAL_DBUS] = "dbus",
    [EXTERNAL_FAIL] = "fail",
};

const char *external_kind_name(ExternalKind kind) {
  return kind > 0 && (size_t)kind < G_N_ELEMENTS(kind_names) ? kind_names[kind] : "unknown";
}

const char *external_action_name(ExternalAction action) {
  return (size_t)action < G_N_ELEMENTS(action_names) ? action_names[action] : "unknown";
}

ExternalKind external_kind_of(const char *name) {
  for (size_t i = 1; i < G_N_ELEMENTS(kind_names); i++)
    if (g_str_equal(name, kind_names[i]))
      return (ExternalKind)i;
  return 0;
}

ExternalAction external_action_of(const char *name) {
  for (size_t i = 1; i < G_N_ELEMENTS(action_names); i++)
    if (g_str_equal(name, action_names[i]))
      return (ExternalAction)i;
  return EXTERNAL_NOBODY;
}

static const struct {
  const char *name;
  unsigned bit;
} check_names[] = {
    {"size", EXTERNAL_CHECK_SIZE}, {"mtime", EXTERNAL_CHECK_MTIME}, {"build-id", EXTERNAL_CHECK_BUILD_ID}, {"content", EXTERNAL_CHECK_CONTENT}};

bool external_checks_parse(const char *text, unsigned *ret_checks) {
  unsigned checks = 0;
  g_auto(GStrv) words = g_strsplit(text, ",", -1);
  bool none = g_str_equal(text, "none");
  for (size_t w = 0; !none && words[w]; w++) {
    unsigned bit = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(check_names); i++)
      if (g_str_equal(words[w], check_names[i].name))
        bit = check_names[i].bit;
    if (!bit)
      return false;
    checks |= bit;
  }
  *ret_checks = checks;
  return none || checks;
}

char *external_checks_text(unsigned checks) {
  g_autoptr(GString) text = g_string_new(checks ? NULL : "none");
  for (size_t i = 0; i < G_N_ELEMENTS(check_names); i++)
    if (checks & check_names[i].bit)
      g_string_append_printf(text, "%s%s", text->len ? "," : "", check_names[i].name);
  return g_string_free(g_steal_pointer(&text), FALSE);
}

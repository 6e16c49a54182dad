/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "external.h"

static const char *const kind_names[] = {
    [EXTERNAL_UNIX] = "unix",
    [EXTERNAL_FILE] = "file",
    [EXTERNAL_DEVICE] = "device",
    [EXTERNAL_MAPPING] = "mapping",
    [EXTERNAL_OTHER] = "other",
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

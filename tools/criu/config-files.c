/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config-files.h"
#include <stdlib.h>

#define SYSTEM_CONFIG "/etc/criu/default.conf"
#define USER_CONFIG ".criu/default.conf"

static bool read_file(CriuOptions *options, const char *path, bool may_be_missing, GError **error) {
  g_autofree char *text = NULL;
  g_autoptr(GError) failure = NULL;
  if (!g_file_get_contents(path, &text, NULL, &failure)) {
    if (may_be_missing && (g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOENT) ||
                              g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOTDIR) ||
                              g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_ACCES)))
      return true;
    g_propagate_prefixed_error(error, g_steal_pointer(&failure), "configuration file: ");
    return false;
  }
  return criu_options_parse_config(options, path, text, error);
}

static bool read_default_files(CriuOptions *options, GError **error) {
  const char *home = getenv("HOME");
  if (!read_file(options, SYSTEM_CONFIG, true, error))
    return false;
  if (!home || !*home)
    return true;
  g_autofree char *path = g_build_filename(home, USER_CONFIG, NULL);
  return read_file(options, path, true, error);
}

CriuOptions *criu_config_read(int argc, char *const *argv, GError **error) {
  /* The command line says which files count, and then wins over them. */
  g_autoptr(CriuOptions) given = criu_options_new();
  if (!criu_options_parse_args(given, argc, argv, error))
    return NULL;
  g_autoptr(CriuOptions) options = criu_options_new();
  const char *from_environment = getenv("CRIU_CONFIG_FILE");
  if (!given->no_default_config && !read_default_files(options, error))
    return NULL;
  if (from_environment && *from_environment && !read_file(options, from_environment, false, error))
    return NULL;
  if (given->config && !read_file(options, given->config, false, error))
    return NULL;
  if (!criu_options_parse_args(options, argc, argv, error))
    return NULL;
  return g_steal_pointer(&options);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "service-limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon-error.h"

#define GROUP "limits"

typedef enum { LIMIT_U32, LIMIT_BYTES, LIMIT_BOOL } LimitType;

static const struct {
  const char *key;
  LimitType type;
  size_t offset;
} limit_table[] = {
    {"jobs-running", LIMIT_U32, offsetof(Limits, jobs_running)},
    {"jobs-per-user", LIMIT_U32, offsetof(Limits, jobs_per_user)},
    {"jobs-total", LIMIT_U32, offsetof(Limits, jobs_total)},
    {"bytes-per-user", LIMIT_BYTES, offsetof(Limits, bytes_per_user)},
    {"checkpoints-per-user", LIMIT_U32, offsetof(Limits, checkpoints_per_user)},
    {"keep-free-bytes", LIMIT_BYTES, offsetof(Limits, keep_free_bytes)},
    {"durable", LIMIT_BOOL, offsetof(Limits, durable)},
};

static void limits_init(Limits *limits) {
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);

  *limits = (Limits){
      .jobs_running = (uint32_t)CLAMP(cpus, 1, 4),
      .jobs_per_user = 8,
      .jobs_total = 64,
      .bytes_per_user = UINT64_C(64) << 30,
      .checkpoints_per_user = 256,
      .keep_free_bytes = UINT64_C(16) << 20,
  };
}

/* "512", "20M", "64G" */
static bool parse_bytes(const char *text, uint64_t *ret) {
  char *end = NULL;
  uint64_t value;
  unsigned shift = 0;

  if (!g_ascii_isdigit(text[0]))
    return false;
  errno = 0;
  value = g_ascii_strtoull(text, &end, 10);
  if (errno != 0)
    return false;
  if (*end == 'K')
    shift = 10;
  else if (*end == 'M')
    shift = 20;
  else if (*end == 'G')
    shift = 30;
  else if (*end == 'T')
    shift = 40;
  if (shift > 0)
    end++;
  if (*end != '\0' || value > UINT64_MAX >> shift)
    return false;
  *ret = value << shift;
  return true;
}

static bool limit_set(Limits *limits, const char *key, const char *text) {
  for (size_t i = 0; i < G_N_ELEMENTS(limit_table); i++) {
    void *field = (char *)limits + limit_table[i].offset;
    uint64_t value;

    if (!g_str_equal(limit_table[i].key, key))
      continue;
    if (limit_table[i].type == LIMIT_BOOL) {
      if (!g_str_equal(text, "yes") && !g_str_equal(text, "no"))
        return false;
      *(bool *)field = g_str_equal(text, "yes");
      return true;
    }
    if (!parse_bytes(text, &value))
      return false;
    if (limit_table[i].type == LIMIT_BYTES)
      *(uint64_t *)field = value;
    else if (value <= UINT32_MAX)
      *(uint32_t *)field = (uint32_t)value;
    else
      return false;
    return true;
  }
  return false;
}

static bool limits_apply(Limits *limits, GKeyFile *file, const char *path, GError **error) {
  g_auto(GStrv) keys = g_key_file_get_keys(file, GROUP, NULL, NULL);

  for (size_t i = 0; keys && keys[i]; i++) {
    g_autofree char *text = g_key_file_get_value(file, GROUP, keys[i], error);

    if (!text)
      return false;
    if (!limit_set(limits, keys[i], text)) {
      g_set_error(
          error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "%s: %s=%s is not a setting", path, keys[i], text);
      return false;
    }
  }
  if (limits->jobs_running == 0 || limits->jobs_per_user == 0 || limits->jobs_total == 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "%s: a number of jobs must not be 0", path);
    return false;
  }
  return true;
}

bool limits_load(Limits *limits, const char *path, GError **error) {
  g_autoptr(GKeyFile) file = g_key_file_new();
  struct stat st;

  limits_init(limits);
  if (stat(path, &st) < 0)
    return errno == ENOENT || daemon_error_set_errno(error, errno, path);
  if (st.st_uid != 0 || (st.st_mode & 022) != 0) {
    g_set_error(
        error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED, "%s: not owned by root, or writable by others", path);
    return false;
  }
  if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, error))
    return false;
  return limits_apply(limits, file, path, error);
}

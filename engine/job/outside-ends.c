/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "outside-ends.h"
#include <string.h>

static const char *const kinds[] = {"veth", "netdev", "net", "mnt"};

/* The kind of a text like KIND[ID]…; NULL: it is none. *ret_id and *ret_rest point into the text. */
static const char *split(const char *text, const char **ret_id, size_t *ret_id_size, const char **ret_rest) {
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
    size_t n = strlen(kinds[i]);
    const char *close = strncmp(text, kinds[i], n) == 0 && text[n] == '[' ? strchr(text + n, ']') : NULL;
    if (!close)
      continue;
    *ret_id = text + n + 1;
    *ret_id_size = (size_t)(close - *ret_id);
    *ret_rest = close + 1;
    return kinds[i];
  }
  return NULL;
}

bool outside_end_is(const char *text) {
  const char *id, *rest;
  size_t size;
  return split(text, &id, &size, &rest) != NULL;
}

bool outside_ends_check(Job *job, GError **error) {
  const EngineOptions *o = job_options(job);
  for (size_t i = 0; i < o->n_external; i++) {
    const char *id, *rest, *kind = NULL;
    size_t size = 0;
    kind = split(o->external[i], &id, &size, &rest);
    if (kind && (!size || (*rest && (rest[0] != ':' || !rest[1]))))
      return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "%s: it is to be %s[%s]:%s", o->external[i], kind,
          strcmp(kind, "net") == 0 ? "INODE" : "NAME", strcmp(kind, "net") == 0 ? "KEY" : strcmp(kind, "mnt") == 0 ? "PATH" : "NAME");
  }
  return true;
}

char *outside_end_find(const Job *job, const char *kind, const char *id) {
  const EngineOptions *o = job_options(job);
  for (size_t i = 0; i < o->n_external; i++) {
    const char *mine, *rest, *found;
    size_t size;
    found = split(o->external[i], &mine, &size, &rest);
    if (found && strcmp(found, kind) == 0 && strlen(id) == size && strncmp(mine, id, size) == 0)
      return g_strdup(*rest ? rest + 1 : "");
  }
  return NULL;
}

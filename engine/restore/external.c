/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "external-restore.h"

struct ExternalReturn {
  Job *job;
  Restorer *restorer;
};

/* @ret_answer stays EXTERNAL_NOBODY where no rule speaks about the object. */
static bool ask_policies(ExternalReturn *x, const ExternalObject *o, ExternalAnswer *ret_answer, GError **error) {
  return true;
}

/* @name: the plugin that took it at the dump; NULL: not known (a checkpoint of another program). */
static bool ask_plugins(
    ExternalReturn *x, const ExternalObject *o, const char *name, ExternalAnswer *ret_answer, GError **error) {
  return true;
}

static bool return_resolve(void *data, const ExternalObject *o, const CkptExternal *record,
    ExternalAnswer *ret_answer, GError **error) {
  ExternalReturn *x = data;
  if (!ask_policies(x, o, ret_answer, error))
    return false;
  if (ret_answer->action == EXTERNAL_NOBODY && record) {
    ret_answer->action = external_action_of(record->action);
    ret_answer->value = g_strdup(record->value);
    if (ret_answer->action == EXTERNAL_NOBODY)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
          "checkpoint.img: file id %u asks for the action %s, which this version does not know", o->file_id,
          record->action);
  }
  bool plugin = ret_answer->action == EXTERNAL_PLUGIN || (ret_answer->action == EXTERNAL_NOBODY && !o->optional);
  return !plugin || ask_plugins(x, o, record ? record->plugin : NULL, ret_answer, error);
}

bool external_return_mapping(ExternalReturn *x, const Task *task, const VmaEntry *vma, int *ret_fd,
    guint64 *ret_pgoff, GError **error) {
  *ret_fd = -1;
  *ret_pgoff = vma->pgoff;
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "pid %d: no plugin can make the mapping at %" G_GINT64_MODIFIER "x again", (int)task_pid(task), vma->start);
}

ExternalReturn *external_return_new(Job *job, Restorer *restorer, GError **error) {
  ExternalReturn *x = g_new0(ExternalReturn, 1);
  x->job = job;
  x->restorer = restorer;
  restorer_set_external(restorer, return_resolve, x);
  return x;
}

void external_return_free(ExternalReturn *x) {
  g_free(x);
}

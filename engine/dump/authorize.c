/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last word on who may checkpoint what: on the frozen tree, where nothing can change any more. A caller without the
 * administrator's action gets only tasks that have exactly its uids, no capabilities, and are dumpable. */
#include "frozen.h"
#include <sys/stat.h>

static bool refuse(const FrozenTask *task, const char *why, GError **error) {
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
      "pid %d (%s) %s; checkpointing it needs the authorization org.criu.Checkpoint.dump-any of an administrator "
      "(option any-target asks for it)", (int)task->pid,
      task->stat.comm, why);
}

static const char *status_refusal(const ProcStatus *s, const EngineCaller *caller) {
  for (int i = 0; i < 4; i++)
    if (s->uid[i] != caller->uid)
      return "does not run under your user id alone";
  if (s->cap_prm || s->cap_inh || s->cap_eff || s->cap_amb)
    return "has capabilities that you do not have";
  return NULL;
}

static bool has_gid(const EngineCaller *caller, gid_t gid) {
  for (size_t i = 0; i < caller->n_gid; i++)
    if (caller->gid[i] == gid)
      return true;
  return false;
}

static const char *group_refusal(const ProcStatus *s, const EngineCaller *caller) {
  for (int i = 0; i < 4; i++)
    if (caller->n_gid && !has_gid(caller, s->gid[i]))
      return "runs with a group id that is not yours (set-group-id?)";
  return NULL;
}

/* A task that is not dumpable has its /proc files owned by root (proc(5)). */
static bool is_dumpable(const FrozenTask *task, uid_t uid) {
  char path[64];
  struct stat st;
  g_snprintf(path, sizeof path, "/proc/%d/environ", (int)task->view);
  return task->zombie || (stat(path, &st) == 0 && st.st_uid == uid);
}

static bool authorize_task(const FrozenTask *task, const EngineCaller *caller, GError **error) {
  for (guint i = 0; i < MAX(task->threads->len, 1); i++) {
    pid_t tid = task->threads->len ? g_array_index(task->threads, FrozenThread, i).state.tid : task->pid;
    ProcStatus status;
    if (!proc_status(task->pid, tid, &status, error))
      return false;
    const char *why = status_refusal(&status, caller);
    if (!why)
      why = group_refusal(&status, caller);
    proc_status_clear(&status);
    if (why)
      return refuse(task, why, error);
  }
  if (!is_dumpable(task, caller->uid))
    return refuse(task, "is not dumpable (it changed its credentials, or asked for it)", error);
  return true;
}

bool authorize_tree(Job *job, const FrozenTree *tree, GError **error) {
  const EngineCaller *caller = job_caller(job);
  if (!caller || caller->any_target || caller->uid == 0)
    return true;
  for (guint i = 0; i < tree->tasks->len; i++)
    if (!authorize_task(tree->tasks->pdata[i], caller, error))
      return false;
  return true;
}

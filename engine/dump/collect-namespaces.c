/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which namespaces the tasks are in. What is in those of the tree's own is for engine/namespace to say. */
#include "collect.h"
#include "ns-visit.h"
#include "sharing.h"
#include "uts.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OF_ROOT "have root dump it: only root can make such a namespace again"

/* In the order of facts_namespace_name(). */
static const struct {
  const char *text, *cure;
  guint32 kind; /* it can be brought back; 0: not */
} namespaces[FACTS_NAMESPACES] = {
    {"mount", "run the engine inside that mount namespace", 0},
    {"pid", "run the engine inside that pid namespace", 0},
    {"pid (for its children)", "checkpoint it before it calls unshare(CLONE_NEWPID)", 0},
    {"network", OF_ROOT, CLONE_NEWNET},
    {"ipc", "run the engine inside that ipc namespace", 0},
    {"uts", OF_ROOT, CLONE_NEWUTS},
    {"user", "containers with user namespaces are not supported yet", 0},
    {"cgroup", "run the engine inside that cgroup namespace", 0},
    {"time", "run the engine inside that time namespace", 0},
};

static void block(Job *job, const FrozenTask *task, const char *reason, const char *cure) {
  g_autofree char *name = g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
  job_block(job, "namespace", task->pid, -1, name, reason, cure);
}

/* Our own, which never change; 0 for kinds that this kernel has not. */
static ino_t own_namespace(size_t i) {
  static ino_t known[G_N_ELEMENTS(namespaces)];
  struct stat st;
  if (!known[i]) {
    g_autofree char *path = g_strconcat("/proc/self/ns/", facts_namespace_name(i), NULL);
    known[i] = stat(path, &st) == 0 ? st.st_ino : 0;
  }
  return known[i];
}

/* To make one takes root: what a user has, it came by through others. */
static bool may_have_own(const Job *job) {
  const EngineCaller *caller = job_caller(job);
  return !caller || caller->any_target || caller->uid == 0;
}

static void set_id(TaskKobjIdsEntry *ids, const NsEntry *e) {
  switch (e->kind) {
  case CLONE_NEWNS:
    ids->mnt_ns_id = e->id;
    break;
  case CLONE_NEWUTS:
    ids->uts_ns_id = e->id;
    break;
  case CLONE_NEWNET:
    ids->net_ns_id = e->id;
    break;
  default:
    break;
  }
}

void collect_task_namespaces(Job *job, FrozenTree *tree, const FrozenTask *task) {
  for (size_t i = 0; i < G_N_ELEMENTS(namespaces); i++) {
    ino_t theirs = task->facts.ns[i];
    if (!own_namespace(i) || !theirs || theirs == own_namespace(i))
      continue;
    if (namespaces[i].kind && may_have_own(job)) {
      tree->namespaces = tree->namespaces ? tree->namespaces : ns_set_new();
      set_id(task->model->ids, ns_set_note(tree->namespaces, namespaces[i].kind, theirs, task->view));
      continue;
    }
    g_autofree char *reason = g_strdup_printf("it has a %s namespace of its own", namespaces[i].text);
    block(job, task, reason, namespaces[i].cure);
  }
}

static bool open_namespace(NsEntry *e, GError **error) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)e->pid, ns_kind_name((int)e->kind));
  e->fd = open(path, O_RDONLY | O_CLOEXEC);
  return e->fd >= 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open %s", path);
}

static bool collect_one(NsEntry *e, NsImage *image, GError **error) {
  if (!open_namespace(e, error))
    return false;
  switch (e->kind) {
  case CLONE_NEWUTS:
    return uts_collect(e, image, error);
  default:
    return true;
  }
}

bool collect_namespaces(Job *job, FrozenTree *tree, Collector *collector, GError **error) {
  Checkpoint *checkpoint = collector_checkpoint(collector);
  for (guint i = 0; i < ns_set_size(tree->namespaces); i++) {
    NsEntry *e = ns_set_get(tree->namespaces, i);
    if (!collect_one(e, checkpoint_add_namespace(checkpoint, e->kind, e->id), error))
      return false;
  }
  collector_set_namespaces(collector, tree->namespaces);
  return true;
}

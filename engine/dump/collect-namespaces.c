/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which namespaces the tasks are in. What is in those of the tree's own is for engine/namespace to say. */
#include "collect.h"
#include "mounts.h"
#include "ns-visit.h"
#include "plugin-stage.h"
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
    {"mount", OF_ROOT, CLONE_NEWNS},
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

/* --- mounts --- */

/* What mounts_collect() needs. */
typedef struct Helping {
  Collector *collector;
  PluginSet *plugins;
} Helping;

static guint32 new_id(void *data) {
  return collector_new_file_id(((const Helping *)data)->collector);
}

static bool offer_mount(
    void *data, const MountQuestion *q, bool *ret_taken, char **ret_reason, char **ret_cure, char **ret_unasked, GError **error) {
  PluginSet *plugins = ((const Helping *)data)->plugins;
  const struct checkpoint_object object = {.size = sizeof object,
      .kind = CHECKPOINT_KIND_MOUNT,
      .id = q->id,
      .pid = q->pid,
      .number = -1,
      .fd = q->fd,
      .dev = q->dev,
      .path = q->mountpoint,
      .filesystem = q->fstype,
      .source = q->source,
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32};
  PluginDumped dumped = {0};
  if (!plugins_dump(plugins, &object, NULL, &dumped, error))
    return false;
  *ret_taken = dumped.plugin && dumped.answer != CHECKPOINT_REFUSED;
  if (dumped.plugin && !*ret_taken) {
    *ret_reason = g_strdup_printf("%s (plugin %s)", dumped.said.reason ? dumped.said.reason : "it refuses", dumped.plugin);
    *ret_cure = g_strdup(dumped.said.cure);
  }
  if (*ret_taken) {
    g_autofree char *what = g_strdup_printf("pid %d: mount %s (%s)", (int)q->pid, q->mountpoint, q->fstype);
    g_autofree char *who = g_strdup_printf("plugin %s", dumped.plugin);
    job_note(collector_job(((const Helping *)data)->collector), "mount", q->pid, -1, what, "plugin", who);
  }
  *ret_unasked = dumped.plugin ? NULL : plugins_unasked(plugins, CHECKPOINT_KIND_MOUNT, NULL);
  plugin_said_clear(&dumped.said);
  return true;
}

static bool collect_one(const MountHelp *help, Checkpoint *checkpoint, NsEntry *e, GError **error) {
  NsImage *image = checkpoint_add_namespace(checkpoint, e->kind, e->id);
  if (!open_namespace(e, error))
    return false;
  switch (e->kind) {
  case CLONE_NEWUTS:
    return uts_collect(e, image, error);
  case CLONE_NEWNS:
    return mounts_collect(help, checkpoint, e, image, error);
  default:
    return true;
  }
}

/* Tasks that share a directory are in the same mount namespace, and can only enter it when they do not share it yet: the first of
 * them, of whom the others have it. */
static void check_sharers(Job *job, const FrozenTree *tree) {
  for (guint i = 1; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i], *parent = frozen_tree_find(tree, task->stat.ppid), *owner = task->owner[SHARE_FS];
    if (!task->zombie && parent && !parent->zombie && task->facts.ns[0] != parent->facts.ns[0] && owner != task)
      block(job, task, "it shares its directories with others in a mount namespace that its parent is not in",
          "start it without sharing them (clone(2) without CLONE_FS)");
  }
}

/* A thread that has directories of its own may be in a mount namespace of its own. */
static void check_threads(Job *job, const FrozenTask *task) {
  for (guint k = 1; !task->zombie && k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    char path[64], mine[64];
    struct stat theirs, own;
    g_snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)t->state.tid);
    g_snprintf(mine, sizeof mine, "/proc/%d/ns/mnt", (int)task->view);
    if (t->own_fs && stat(path, &theirs) == 0 && stat(mine, &own) == 0 && theirs.st_ino != own.st_ino)
      block(job, task, "one of its threads has a mount namespace of its own", "have a process do that instead");
  }
}

bool collect_namespaces(Job *job, FrozenTree *tree, Collector *collector, PluginSet *plugins, GError **error) {
  Checkpoint *checkpoint = collector_checkpoint(collector);
  Helping helping = {collector, plugins};
  const MountHelp help = {.job = job, .images_fd = collector_images_fd(collector), .data = &helping, .new_id = new_id, .offer = offer_mount};
  for (guint i = 0; i < tree->tasks->len; i++)
    check_threads(job, tree->tasks->pdata[i]);
  if (ns_set_size(tree->namespaces))
    check_sharers(job, tree);
  for (guint i = 0; i < ns_set_size(tree->namespaces); i++)
    if (!collect_one(&help, checkpoint, ns_set_get(tree->namespaces, i), error))
      return false;
  collector_set_namespaces(collector, tree->namespaces);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Namespaces of the tree's own: made by this process before there is any task, and entered by each task whose maker is in
 * another one. Nothing but our descriptors and the tasks keeps them. */
#include "mounts.h"
#include "ns-visit.h"
#include "stages.h"
#include "uts.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In the order in which tasks enter them. */
static const guint32 kinds[] = {CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWNS};

static const struct {
  guint32 kind;
  const char *name;
} refused[] = {{CLONE_NEWPID, "pid"}, {CLONE_NEWUSER, "user"}, {CLONE_NEWIPC, "ipc"}, {CLONE_NEWCGROUP, "cgroup"}};

static bool check_kinds(const Checkpoint *c, GError **error) {
  const TaskKobjIdsEntry *outside = c->inventory->root_ids;
  for (guint i = 0; outside && i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    for (size_t k = 0; t->ids && k < G_N_ELEMENTS(refused); k++) {
      guint32 id = ns_id_of(t->ids, refused[k].kind), theirs = ns_id_of(outside, refused[k].kind);
      if (id && theirs && id != theirs)
        return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
            "pid %d has a %s namespace of its own, and such ones cannot be made again yet", (int)task_pid(t), refused[k].name);
    }
  }
  return true;
}

static const CkptPluginObject *find_object(const Checkpoint *c, guint32 id) {
  for (guint i = 0; i < c->plugin_objects->len; i++) {
    const CkptPluginObject *m = c->plugin_objects->pdata[i];
    if (m->object->kind == CHECKPOINT_KIND_MOUNT && m->object->id == id)
      return m;
  }
  return NULL;
}

/* A plugin of whoever made the dump has it. */
static int ask_plugin(void *data, const MountQuestion *q, GError **error) {
  Restore *r = data;
  const CkptPluginObject *m = find_object(r->checkpoint, q->id);
  struct checkpoint_object object = {.size = sizeof object,
      .kind = CHECKPOINT_KIND_MOUNT,
      .id = q->id,
      .number = -1,
      .fd = -1,
      .path = q->mountpoint,
      .source = q->source,
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32};
  if (m)
    object = plugin_object_of(m->object);
  object.target = q->target;
  object.outside = q->outside;
  PluginRestored restored;
  if (!plugins_restore(r->plugins, m ? m->plugin : NULL, false, &object, &restored, error))
    return -1;
  plugin_said_clear(&restored.said);
  if (restored.fd < 0)
    engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s: the mount %s has to be there at once", restored.plugin, q->mountpoint);
  return restored.fd;
}

/* The network that a task in the mount namespace is in; -1: the engine's. */
static int network_of(const Restore *r, guint32 mnt_ns) {
  for (guint i = 0; i < r->checkpoint->tasks->len; i++) {
    const Task *t = r->checkpoint->tasks->pdata[i];
    const NsEntry *e = t->ids && t->ids->mnt_ns_id == mnt_ns ? ns_set_find(r->namespaces, CLONE_NEWNET, t->ids->net_ns_id) : NULL;
    if (e)
      return e->fd;
  }
  return -1;
}

static bool make_one(Restore *r, const NsImage *image, NsEntry *e, GError **error) {
  const MountHelp help = {.job = r->job, .images_fd = job_images_fd(r->job), .data = r, .ask = ask_plugin};
  switch (image->kind) {
  case CLONE_NEWUTS:
    return uts_make(image, e, error);
  case CLONE_NEWNET:
    return (e->fd = networks_open(r, image->id, error)) >= 0;
  case CLONE_NEWNS:
    return mounts_make(&help, r->checkpoint, image, e, network_of(r, image->id), error);
  default:
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "Namespace %u of the checkpoint cannot be made again yet", image->id);
  }
}

/* A task's children may be where the task is not: in the engine's own. */
static bool open_home(Restore *r, GError **error) {
  r->home = g_array_new(FALSE, FALSE, sizeof(int));
  for (size_t k = 0; k < G_N_ELEMENTS(kinds); k++) {
    g_autofree char *name = g_strdup_printf("self/ns/%s", ns_kind_name((int)kinds[k]));
    int fd = ns_visit_open_proc(name, O_RDONLY);
    if (fd < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open /proc/%s", name);
    g_array_append_val(r->home, fd);
  }
  return true;
}

/* Those of one kind after the other: file systems belong to networks. */
bool namespaces_make(Restore *r, GError **error) {
  const Checkpoint *c = r->checkpoint;
  if (!check_kinds(c, error))
    return false;
  if (!c->namespaces->len)
    return true;
  r->namespaces = ns_set_new();
  for (size_t k = 0; k < G_N_ELEMENTS(kinds); k++)
    for (guint i = 0; i < c->namespaces->len; i++) {
      const NsImage *image = c->namespaces->pdata[i];
      if (image->kind == kinds[k] && !make_one(r, image, ns_set_add(r->namespaces, image->kind, image->id), error))
        return false;
    }
  restorer_set_namespaces(r->restorer, r->namespaces);
  return open_home(r, error);
}

static const PlanTask *find_maker(const Restore *r, const PlanTask *t) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *other = r->plan->tasks->pdata[i];
    for (guint k = 0; k < other->children->len; k++)
      if (other->children->pdata[k] == t)
        return other;
  }
  return NULL;
}

/* Where a task is that has entered what it has to; helpers stay where they were made. */
static const NsEntry *place_of(const Restore *r, const PlanTask *t, guint32 kind) {
  while (t && !(t->task && t->task->ids))
    t = find_maker(r, t);
  return t ? ns_set_find(r->namespaces, kind, ns_id_of(t->task->ids, kind)) : NULL;
}

void namespaces_build(const Restore *r, const PlanTask *t, Program *p) {
  if (!ns_set_size(r->namespaces) || !t->task || !t->task->ids)
    return;
  const PlanTask *maker = find_maker(r, t);
  for (size_t k = 0; k < G_N_ELEMENTS(kinds); k++) {
    const NsEntry *mine = place_of(r, t, kinds[k]), *made_in = place_of(r, maker, kinds[k]);
    if (mine == made_in)
      continue;
    PROGRAM_CALL(p, "setns", SYS_setns, ARG(mine ? mine->fd : g_array_index(r->home, int, k)), ARG(kinds[k]));
  }
}

void namespaces_clear(Restore *r) {
  for (guint k = 0; r->home && k < r->home->len; k++)
    (void)close(g_array_index(r->home, int, k));
  g_clear_pointer(&r->home, g_array_unref);
  g_clear_pointer(&r->namespaces, ns_set_free);
}

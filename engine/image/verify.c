/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"

#define PID_LIMIT 4194304u /* PID_MAX_LIMIT of 64-bit kernels */
#define INVENTORY_VERSION 2u

bool verify_inventory(const Checkpoint *c, GError **error) {
  const InventoryEntry *e = c->inventory;
  if (!e)
    return image_invalid(error, IMAGE_INVENTORY, 0, "missing");
  if (e->img_version != INVENTORY_VERSION)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "inventory.img: image format version %u, only version %u is known", e->img_version, INVENTORY_VERSION);
  if (!e->has_fdinfo_per_id || !e->fdinfo_per_id)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "inventory.img: made by a version of CRIU that is too old (no fdinfo_per_id)");
  return true;
}

static bool verify_id(GHashTable *ids, guint32 id, GError **error) {
  if (id == 0 || id > PID_LIMIT)
    return image_invalid(error, IMAGE_PSTREE, 0, "%u is no pid", id);
  if (!g_hash_table_add(ids, GUINT_TO_POINTER(id)))
    return image_invalid(error, IMAGE_PSTREE, 0, "pid %u twice", id);
  return true;
}

/* @ids: of all tasks and threads so far. */
static bool verify_tree_entry(const PstreeEntry *e, GHashTable *ids, GError **error) {
  if (!verify_id(ids, e->pid, error))
    return false;
  for (size_t i = 1; i < e->n_threads; i++)
    if (!verify_id(ids, e->threads[i], error))
      return false;
  if (e->pgid > PID_LIMIT || e->sid > PID_LIMIT)
    return image_invalid(
        error, IMAGE_PSTREE, 0, "task %u: process group %u or session %u is no pid", e->pid, e->pgid, e->sid);
  return true;
}

bool verify_tree(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) ids = g_hash_table_new(NULL, NULL);
  g_autoptr(GHashTable) pids = g_hash_table_new(NULL, NULL);
  if (!c->tasks->len)
    return image_invalid(error, IMAGE_PSTREE, 0, "there is no task");
  for (guint i = 0; i < c->tasks->len; i++) {
    const PstreeEntry *e = ((Task *)c->tasks->pdata[i])->pstree;
    if (!verify_tree_entry(e, ids, error))
      return false;
    if (i == 0 ? e->ppid != 0 : !g_hash_table_contains(pids, GUINT_TO_POINTER(e->ppid)))
      return image_invalid(error, IMAGE_PSTREE, 0, "task %u: its parent %u does not come before it", e->pid, e->ppid);
    g_hash_table_add(pids, GUINT_TO_POINTER(e->pid));
  }
  return true;
}

static bool verify_fds(const Checkpoint *c, const Task *t, GError **error) {
  guint32 files_id = t->ids->files_id;
  g_autoptr(GHashTable) numbers = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < t->fds->len; i++) {
    const FdinfoEntry *e = t->fds->pdata[i];
    if (e->fd > G_MAXINT32 || !g_hash_table_add(numbers, GUINT_TO_POINTER(e->fd)))
      return image_invalid(error, IMAGE_FDINFO, files_id, "fd %u is no descriptor or there twice", e->fd);
    FdTypes type = verify_file_type(c, e->id);
    if (type == FD_TYPES__UND)
      return image_invalid(error, IMAGE_FDINFO, files_id, "fd %u: file id %u is not in files.img", e->fd, e->id);
    if (type != e->type)
      return image_invalid(
          error, IMAGE_FDINFO, files_id, "fd %u: type %d, but file id %u is of type %d", e->fd, e->type, e->id, type);
  }
  return true;
}

static bool verify_fs(const Checkpoint *c, const Task *t, GError **error) {
  guint64 pid = t->pstree->pid;
  if (verify_file_type(c, t->fs->cwd_id) != FD_TYPES__REG)
    return image_invalid(error, IMAGE_FS, pid, "working directory: file id %u is no regular file entry", t->fs->cwd_id);
  if (verify_file_type(c, t->fs->root_id) != FD_TYPES__REG)
    return image_invalid(error, IMAGE_FS, pid, "root directory: file id %u is no regular file entry", t->fs->root_id);
  return true;
}

/* Thread list of the model against pstree.img; the cores themselves. */
static bool verify_threads(const Task *t, GError **error) {
  const PstreeEntry *e = t->pstree;
  if (e->n_threads && e->threads[0] != e->pid) /* criu leaves it undefined in a zombie */
    return image_invalid(error, IMAGE_PSTREE, 0, "task %u: its first thread is %u", e->pid, e->threads[0]);
  if (t->threads->len != MAX(e->n_threads, 1))
    return image_invalid(
        error, IMAGE_PSTREE, 0, "task %u: %zu threads listed, %u are there", e->pid, e->n_threads, t->threads->len);
  for (guint i = 0; i < t->threads->len; i++) {
    const Thread *thread = t->threads->pdata[i];
    if ((guint32)thread->tid != (i ? e->threads[i] : e->pid))
      return image_invalid(error, IMAGE_PSTREE, 0, "task %u: thread %d is not where it is listed", e->pid, thread->tid);
    if (!verify_core(t, thread, error))
      return false;
  }
  return true;
}

static bool verify_zombie(const Task *t, GError **error) {
  if (t->threads->len > 1 || t->pstree->n_threads > 1)
    return image_invalid(error, IMAGE_PSTREE, 0, "task %u: a zombie with threads", t->pstree->pid);
  return true;
}

static bool verify_task(const Checkpoint *c, const Task *t, GHashTable *tables, GError **error) {
  guint64 pid = t->pstree->pid;
  if (!t->core || !t->core->tc)
    return image_invalid(error, IMAGE_CORE, pid, "there is no task_core_entry");
  const Task *parent = t->pstree->ppid ? checkpoint_find_task(c, (pid_t)t->pstree->ppid) : NULL;
  if (parent && task_is_zombie(parent))
    return image_invalid(error, IMAGE_PSTREE, 0, "task %u: its parent %u is a zombie", t->pstree->pid, t->pstree->ppid);
  if (task_is_zombie(t))
    return verify_zombie(t, error);
  if (!t->ids || !t->mm || !t->fs || !t->pages)
    return image_invalid(error, IMAGE_CORE, pid, "alive, but without ids, memory, directories or pages");
  if (!verify_threads(t, error) || !verify_fs(c, t, error) || !verify_memory(c, t, error))
    return false;
  return !g_hash_table_add(tables, t->fds) || verify_fds(c, t, error);
}

bool verify_checkpoint(const Checkpoint *c, GError **error) {
  if (!verify_inventory(c, error) || !verify_tree(c, error) || !verify_files(c, error))
    return false;
  g_autoptr(GHashTable) tables = g_hash_table_new(NULL, NULL); /* of descriptors, checked already */
  for (guint i = 0; i < c->tasks->len; i++)
    if (!verify_task(c, c->tasks->pdata[i], tables, error))
      return false;
  return verify_sharing(c, error) && verify_shmem(c, error) && verify_namespaces(c, error) && verify_nets(c, error);
}

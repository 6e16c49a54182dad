/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ns-set.h"
#include <sched.h>
#include <unistd.h>

#define FIRST_ID 9 /* those before are the engine's own */

struct NsSet {
  GPtrArray *entries; /* NsEntry */
};

static void entry_free(void *p) {
  NsEntry *e = p;
  if (e->fd >= 0)
    (void)close(e->fd);
  if (e->root >= 0)
    (void)close(e->root);
  g_clear_pointer(&e->mounts, g_hash_table_unref);
  g_free(e);
}

NsSet *ns_set_new(void) {
  NsSet *set = g_new0(NsSet, 1);
  set->entries = g_ptr_array_new_with_free_func(entry_free);
  return set;
}

void ns_set_free(NsSet *set) {
  if (!set)
    return;
  g_ptr_array_unref(set->entries);
  g_free(set);
}

guint ns_set_size(const NsSet *set) {
  return set ? set->entries->len : 0;
}

NsEntry *ns_set_get(const NsSet *set, guint index) {
  return set->entries->pdata[index];
}

NsEntry *ns_set_add(NsSet *set, guint32 kind, guint32 id) {
  NsEntry *e = g_new0(NsEntry, 1);
  *e = (NsEntry){.kind = kind, .id = id, .fd = -1, .root = -1};
  g_ptr_array_add(set->entries, e);
  return e;
}

NsEntry *ns_set_note(NsSet *set, guint32 kind, ino_t ino, pid_t pid) {
  for (guint i = 0; i < ns_set_size(set); i++) {
    NsEntry *e = ns_set_get(set, i);
    if (e->kind == kind && e->ino == ino)
      return e;
  }
  NsEntry *e = ns_set_add(set, kind, FIRST_ID + ns_set_size(set));
  e->ino = ino;
  e->pid = pid;
  return e;
}

NsEntry *ns_set_find(const NsSet *set, guint32 kind, guint32 id) {
  for (guint i = 0; i < ns_set_size(set); i++) {
    NsEntry *e = ns_set_get(set, i);
    if (e->kind == kind && e->id == id)
      return e;
  }
  return NULL;
}

NsEntry *ns_set_of_mount(const NsSet *set, guint64 mnt_id) {
  for (guint i = 0; mnt_id && i < ns_set_size(set); i++) {
    NsEntry *e = ns_set_get(set, i);
    if (e->mounts && g_hash_table_contains(e->mounts, GUINT_TO_POINTER(mnt_id)))
      return e;
  }
  return NULL;
}

const MntEntry *ns_set_mount(const NsSet *set, guint64 mnt_id) {
  const NsEntry *e = ns_set_of_mount(set, mnt_id);
  return e ? g_hash_table_lookup(e->mounts, GUINT_TO_POINTER(mnt_id)) : NULL;
}

void ns_set_own_ids(TaskKobjIdsEntry *ids) {
  ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = true;
  ids->has_time_ns_id = ids->has_mnt_ns_id = ids->has_user_ns_id = ids->has_cgroup_ns_id = true;
  ids->pid_ns_id = 1, ids->net_ns_id = 2, ids->ipc_ns_id = 3, ids->uts_ns_id = 4;
  ids->time_ns_id = 5, ids->mnt_ns_id = 6, ids->user_ns_id = 7, ids->cgroup_ns_id = 8;
}

guint32 ns_set_own_id(guint32 kind) {
  TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
  ns_set_own_ids(&ids);
  return ns_id_of(&ids, kind);
}

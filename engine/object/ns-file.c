/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* /proc/PID/ns/…: a namespace held open. Those that the engine lives in as well, as the whole tree does, are opened again; of
 * others nothing is known but a number. */

#include "external.h"
#include "internal.h"
#include "ns.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <sys/vfs.h>

#ifndef NSFS_MAGIC
#define NSFS_MAGIC 0x6e736673
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const struct {
  const char *name;
  guint32 flag;
} kinds[] = {
    {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"mnt", CLONE_NEWNS}, {"net", CLONE_NEWNET}, {"pid", CLONE_NEWPID},
    {"time", CLONE_NEWTIME}, {"user", CLONE_NEWUSER}, {"uts", CLONE_NEWUTS},
};

static guint32 id_of(const TaskKobjIdsEntry *ids, guint32 flag) {
  switch (flag) {
  case CLONE_NEWCGROUP:
    return ids->cgroup_ns_id;
  case CLONE_NEWIPC:
    return ids->ipc_ns_id;
  case CLONE_NEWNS:
    return ids->mnt_ns_id;
  case CLONE_NEWNET:
    return ids->net_ns_id;
  case CLONE_NEWPID:
    return ids->pid_ns_id;
  case CLONE_NEWTIME:
    return ids->time_ns_id;
  case CLONE_NEWUSER:
    return ids->user_ns_id;
  default:
    return ids->uts_ns_id;
  }
}

/* --- collect --- */

static bool ns_claims(const FileProbe *probe) {
  struct statfs fs;
  return probe->link[0] != '/' && strstr(probe->link, ":[") && S_ISREG(probe->st.st_mode) && !(probe->flags & O_PATH) &&
         fstatfs(probe->local, &fs) == 0 && fs.f_type == NSFS_MAGIC;
}

static const char *own_path(char *path, size_t size, const char *name) {
  g_snprintf(path, size, "/proc/self/ns/%s", name);
  return path;
}

/* Which kind it is, -1 where it is not one of ours. */
static int find_own(const FileProbe *probe) {
  char path[64];
  struct stat st;
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
    if (stat(own_path(path, sizeof path, kinds[i].name), &st) == 0 && st.st_ino == probe->st.st_ino && st.st_dev == probe->st.st_dev)
      return (int)i;
  return -1;
}

/* One of those that the tree has beside the engine's. */
static const NsEntry *find_other(const Collector *c, const FileProbe *probe) {
  const NsSet *set = collector_namespaces(c);
  for (guint i = 0; i < ns_set_size(set); i++)
    if (ns_set_get(set, i)->ino == probe->st.st_ino)
      return ns_set_get(set, i);
  return NULL;
}

static bool ns_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  int kind = find_own(probe);
  const NsEntry *other = kind < 0 ? find_other(c, probe) : NULL;
  if (kind < 0 && !other) {
    g_autofree char *what = g_strdup_printf("namespace %s", probe->link);
    return collector_block_external(c, EXTERNAL_OTHER, probe, entry, what,
        "it is another namespace than that of the tree, and nothing of it is in the checkpoint",
        "close it before the dump, or give it back at the restore: the option external with other:path=PATH action=inherit:KEY",
        error);
  }
  TaskKobjIdsEntry ours = TASK_KOBJ_IDS_ENTRY__INIT;
  ns_set_own_ids(&ours);
  NsFileEntry *e = entry->nsf = MESSAGE_NEW(NsFileEntry, ns_file_entry__init);
  e->id = entry->id;
  e->ns_cflag = other ? other->kind : kinds[kind].flag;
  e->ns_id = other ? other->id : id_of(&ours, e->ns_cflag);
  e->flags = (guint32)probe->flags;
  return true;
}

/* --- restore --- */

static int ns_open(Restorer *r, const FileEntry *entry, GError **error) {
  const NsFileEntry *e = entry->nsf;
  const InventoryEntry *inventory = restorer_checkpoint(r)->inventory;
  const TaskKobjIdsEntry *ids = inventory ? inventory->root_ids : NULL;
  size_t kind = 0;
  char path[64];
  while (e && kind < G_N_ELEMENTS(kinds) && kinds[kind].flag != e->ns_cflag)
    kind++;
  if (!e || kind == G_N_ELEMENTS(kinds)) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry is of no known kind of namespace");
    return -1;
  }
  const NsEntry *other = ids && e->ns_id != id_of(ids, e->ns_cflag) ? ns_set_find(restorer_namespaces(r), e->ns_cflag, e->ns_id) : NULL;
  if (ids && e->ns_id != id_of(ids, e->ns_cflag) && !other) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "The open %s namespace is not the one of the tree", kinds[kind].name);
    return -1;
  }
  if (other)
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", other->fd);
  else
    (void)own_path(path, sizeof path, kinds[kind].name);
  _cleanup_fd_ int fd = open(path, reg_open_flags(e->flags));
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot open %s", path);
  return fd >= 0 && restorer_set_flags(fd, e->flags, error) ? fd_take(&fd) : -1;
}

const ObjectOps ns_ops = {
    .name = "namespace",
    .type = FD_TYPES__NS,
    .claims = ns_claims,
    .collect = ns_collect,
    .open = ns_open,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The namespaces that the tree has and the engine has not, of the kinds that can be brought back. At a dump they are found at the
 * tasks; at a restore they are made before the first task, and kept by their descriptors alone until the tasks are in them: an
 * engine that dies leaves none. Trees in the engine's own namespaces have an empty set (NULL). */

#include "checkpoint.h"
#include "error.h"

typedef struct NsEntry {
  guint32 kind, id; /* CLONE_NEWNS, …; as in ids-PID.img */
  ino_t ino;        /* dump: as /proc/PID/ns shows it */
  pid_t pid;        /* dump: a task that is in it */
  int fd;           /* of the namespace; owned; -1: not open (yet) */
  int root;         /* of a mount namespace: its root directory (O_PATH); owned; -1 */
  GHashTable *mounts; /* dump, of a mount namespace: the kernel's id of a mount -> MntEntry, borrowed; NULL otherwise */
} NsEntry;

typedef struct NsSet NsSet;
NsSet *ns_set_new(void);
void ns_set_free(NsSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsSet, ns_set_free)
/* The set itself may be NULL in all that follows: it is empty then. */
guint ns_set_size(const NsSet *set);
NsEntry *ns_set_get(const NsSet *set, guint index);
/* Dump: the one with that inode number, made if it is not there yet, with an id of its own. */
NsEntry *ns_set_note(NsSet *set, guint32 kind, ino_t ino, pid_t pid);
NsEntry *ns_set_add(NsSet *set, guint32 kind, guint32 id);
/* NULL: none, which is the engine's own. */
NsEntry *ns_set_find(const NsSet *set, guint32 kind, guint32 id);
/* Dump: the mount namespace that has the mount with that id of the kernel's (statx(2), stx_mnt_id); NULL: none of them. */
NsEntry *ns_set_of_mount(const NsSet *set, guint64 mnt_id);
/* The same, and what stands in the image about it; NULL: nothing. */
const MntEntry *ns_set_mount(const NsSet *set, guint64 mnt_id);

/* The ids that namespaces of the engine's own have in every image. */
void ns_set_own_ids(TaskKobjIdsEntry *ids);
guint32 ns_set_own_id(guint32 kind);

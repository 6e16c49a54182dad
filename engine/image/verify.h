/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the files of a checkpoint must agree on. No files are read here: the checks hold for what was just loaded and
 * for what is about to be stored, so that a dump that could not be restored fails at once. */

#include "catalog.h"

/* The version of the format. */
bool verify_inventory(const Checkpoint *checkpoint, GError **error);
/* pstree.img: pids, parents, threads. Works before the rest of the tasks is there. */
bool verify_tree(const Checkpoint *checkpoint, GError **error);
/* Everything, the two above included. */
bool verify_checkpoint(const Checkpoint *checkpoint, GError **error);

/* Parts of it, one a file. */
bool verify_core(const Task *task, const Thread *thread, GError **error);
bool verify_tiles(const Task *task, const Thread *thread, GError **error);
bool verify_files(const Checkpoint *checkpoint, GError **error);
bool verify_memory(const Checkpoint *checkpoint, const Task *task, GError **error);
bool verify_events(const Checkpoint *checkpoint, GError **error);
bool verify_nets(const Checkpoint *checkpoint, GError **error);
bool verify_ttys(const Checkpoint *checkpoint, GError **error);
/* Tasks that share memory have the same of it, and signal actions only they share. */
bool verify_sharing(const Checkpoint *checkpoint, GError **error);
/* Mounts and names of namespaces of the tree's own. */
bool verify_namespaces(const Checkpoint *c, GError **error);
bool verify_shmem(const Checkpoint *checkpoint, GError **error);
/* One that is not in the checkpoint yet. */
bool verify_socket(const Checkpoint *checkpoint, const CkptSocket *socket, GError **error);
/* Type of file id @id, FD_TYPES__UND if there is none. */
FdTypes verify_file_type(const Checkpoint *checkpoint, guint32 id);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What tasks of the tree share (clone(2), kcmp(2)). */

#include "frozen.h"

/* Sets owners. Before anything is asked of the tasks. */
void sharing_find(FrozenTree *tree);
/* Ids as they stand in the images; allocated. */
TaskKobjIdsEntry *sharing_ids(const FrozenTask *task);
/* Of the list of semaphores to be undone (CLONE_SYSVSEM); 0: it shares none. */
guint32 sharing_undo_id(const FrozenTask *task);
/* Blocks what could not be made again, and threads that have something apart from their process. */
void sharing_check(Job *job, FrozenTree *tree);
/* A task has the descriptors of the owner of its table, which was visited. */
void sharing_take_files(FrozenTask *task, Collector *collector);
/* Descriptors of threads that have a table apart from their process. */
bool sharing_visit_tables(Job *job, const FrozenTask *task, Collector *collector, GError **error);
/* Blocks what cannot be there. When all is collected. */
void sharing_check_tables(Job *job, const FrozenTree *tree, const Checkpoint *checkpoint);
void sharing_free_table(FrozenThread *thread);
/* Of those that share memory each gets the owner's, in the same pages file. After the memory was written. */
void sharing_copy_memory(const FrozenTree *tree);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Files and directories below /proc/PID. They are made anew with their process, after the files are: those of processes of the
 * tree are opened late, when these exist; those of a process that has ended and is gone with one of our own that ends at once. */

#include "internal.h"

typedef enum ProcOwner {
  PROC_NONE,    /* no such file */
  PROC_LIVING,  /* of a process of the tree */
  PROC_DEAD,    /* of one that is gone */
  PROC_PART,    /* of a thread or descriptor that is gone */
  PROC_OUTSIDE, /* of another process */
} ProcOwner;

/* Whose file it is, by its path; *ret_pid is the number in it. */
ProcOwner proc_file_owner(const Collector *c, const FileProbe *probe, pid_t *ret_pid);
/* Notes that file @file_id is of process @pid, which is gone: as CRIU does (remap type PROCFS). */
void proc_file_collect_dead(Collector *c, guint32 file_id, pid_t pid);

/* The process of a path in the images, 0: it is no such path. */
pid_t proc_file_pid(const char *path);
/* Whether it is one below /proc/PID/task/TID of another thread than the first. */
bool proc_file_is_of_thread(const char *path);
/* Whether the file is one of a process that was gone. */
bool proc_file_is_dead(Restorer *r, guint32 file_id);
/* Opens a file of a process that is gone. -1 with error. */
int proc_file_open_dead(Restorer *r, const RegFileEntry *reg, GError **error);

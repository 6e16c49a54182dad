/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* /proc/PID/mountinfo (proc(5)), typed. */

#include "error.h"
#include <stdbool.h>
#include <sys/types.h>

typedef struct MountInfo {
  int id, parent;
  dev_t dev;
  char *root, *mountpoint; /* as they are, without escapes */
  unsigned long flags;     /* MS_RDONLY, MS_NOSUID, …: of the mount */
  unsigned long sb_flags;  /* MS_RDONLY, MS_SYNCHRONOUS, …: of the file system */
  int shared, master;      /* peer groups; 0: none */
  bool unbindable, deleted; /* deleted: what is mounted has no name any more */
  char *fstype, *source;
  char *options;           /* of the file system, without those that are flags */
} MountInfo;

/* @fd: of a mountinfo, read to its end. An array of MountInfo in the order of the file; NULL with error. */
GArray *mountinfo_read(int fd, GError **error);

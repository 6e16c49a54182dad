/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Mount namespaces. Each mount is one of these, asked in this order:
 *   external   a rule of the job names it: the restore says what is mounted there
 *   a plugin's (checkpoint-plugin.h, CHECKPOINT_KIND_MOUNT): asked about all that is not simply where the engine has it, too
 *   outside's  the file system is mounted where the engine is, too, and shows the same there: mounted from there again
 *   here       another mount of the same file system in the namespace has it: a part of that one
 *   its own    a tmpfs, whose content is kept; proc, sysfs, devpts, mqueue, which the kernel fills: made anew
 * and else a blocker. */

#include "job.h"
#include "ns-set.h"

/* A question to plugins. */
typedef struct MountQuestion {
  guint32 id;             /* mnt_entry.mnt_id; the same at dump and restore */
  pid_t pid;              /* dump: a task in the namespace */
  const char *mountpoint; /* in the namespace */
  const char *fstype, *source, *root;
  dev_t dev;
  int fd;             /* dump: of the mount's root (O_PATH), lent; -1: it is hidden under another one */
  const char *target; /* restore: where it is to be mounted, for this process as it is now … */
  const char *outside; /* … which finds here what it usually has as its root */
} MountQuestion;

/* What mounts need of whoever runs the job. */
typedef struct MountHelp {
  Job *job;
  int images_fd; /* -1: nothing is to be written (Explain) */
  void *data;
  guint32 (*new_id)(void *data);
  /* Dump: *ret_taken: a plugin has it. *ret_reason (may be NULL) and *ret_cure, newly allocated: it says that it cannot be dumped;
   * *ret_unasked: plugins that only a dump asks. */
  bool (*offer)(void *data, const MountQuestion *q, bool *ret_taken, char **ret_reason, char **ret_cure, char **ret_unasked, GError **error);
  /* Restore: a descriptor of what is to be mounted, or of what the plugin has mounted there itself; owned by the caller. -1 with error. */
  int (*ask)(void *data, const MountQuestion *q, GError **error);
} MountHelp;

/* Fills @image and the checkpoint's mounts from the namespace of @entry, which is open; blockers go to the job. */
bool mounts_collect(const MountHelp *help, Checkpoint *checkpoint, NsEntry *entry, NsImage *image, GError **error);
/* Makes it again. @net: a network namespace to do that in (sysfs belongs to one), -1: the engine's. */
bool mounts_make(const MountHelp *help, const Checkpoint *checkpoint, const NsImage *image, NsEntry *entry, int net, GError **error);

/* Packs what is in the directory @root into an image, and back. The number is mnt_entry.root_dev. */
bool tmpfs_pack(int images_fd, guint32 number, int root, GError **error);
bool tmpfs_unpack(int images_fd, guint32 number, int root, GError **error);

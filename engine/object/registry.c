/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "internal.h"

/* The order is that of the questions: the first kind that claims a description has it. The last one claims all. */
static const ObjectOps *const registry[] = {
    &memfd_ops,
    &mqueue_ops,
    &reg_ops,
    &pipe_ops,
    &fifo_ops,
    &eventfd_ops,
    &uring_ops,
    &epoll_ops,
    &timerfd_ops,
    &signalfd_ops,
    &inotify_ops,
    &fanotify_ops,
    &pidfd_ops,
    &ns_ops,
    &unix_ops,
    &inet_ops,
    &netlink_ops,
    &packet_ops,
    &tty_ops,
    &ext_ops,
    &unsupported_ops,
    NULL,
};

const ObjectOps *const *object_registry(void) {
  return registry;
}

const ObjectOps *object_claim(const FileProbe *probe) {
  const ObjectOps *const *ops = registry;
  while (ops[1] && !(*ops)->claims(probe))
    ops++;
  return *ops;
}

const ObjectOps *object_of_entry(const Checkpoint *checkpoint, const FileEntry *entry) {
  if (entry->type == FD_TYPES__EXT && checkpoint_find_uring(checkpoint, entry->id))
    return &uring_ops;
  if (entry->type == FD_TYPES__EXT && checkpoint_find_mqueue(checkpoint, entry->id))
    return &mqueue_ops;
  return object_of_type(entry->type);
}

const ObjectOps *object_of_type(FdTypes type) {
  for (const ObjectOps *const *ops = registry; *ops; ops++)
    if ((*ops)->type == type && type != FD_TYPES__UND)
      return *ops;
  return NULL;
}

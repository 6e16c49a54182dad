/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* eventfd(2). The counter is read from fdinfo, where it is hexadecimal. That it is a semaphore has no field of its own:
 * it goes into the flags as EFD_SEMAPHORE, a bit that the access mode of an eventfd (always O_RDWR) leaves free. */

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

static bool eventfd_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "eventfd");
}

static bool eventfd_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  guint64 counter = 0, semaphore = 0;
  if (!text)
    return false;
  if (!fdinfo_number(text, "eventfd-count", 16, &counter))
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show eventfd counters");
  (void)fdinfo_number(text, "eventfd-semaphore", 10, &semaphore);
  entry->efd = MESSAGE_NEW(EventfdFileEntry, eventfd_file_entry__init);
  entry->efd->id = entry->id;
  entry->efd->flags = (guint32)probe->flags | (semaphore ? EFD_SEMAPHORE : 0);
  entry->efd->fown = collector_fown(probe);
  entry->efd->counter = counter;
  return true;
}

static int eventfd_open(Restorer *r, const FileEntry *entry, GError **error) {
  const EventfdFileEntry *efd = entry->efd;
  if (!efd) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no eventfd_file_entry");
    return -1;
  }
  _cleanup_fd_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | ((int)efd->flags & EFD_SEMAPHORE));
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make an eventfd");
    return -1;
  }
  guint64 counter = efd->counter;
  if (counter && write(fd, &counter, sizeof counter) != sizeof counter) {
    engine_fail_errno(
        error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno, "Cannot set the counter %" G_GUINT64_FORMAT, counter);
    return -1;
  }
  return restorer_set_flags(fd, efd->flags, error) ? fd_take(&fd) : -1;
}

static const FownEntry *eventfd_fown(const FileEntry *entry) {
  return entry->efd ? entry->efd->fown : NULL;
}

const ObjectOps eventfd_ops = {
    .name = "eventfd",
    .type = FD_TYPES__EVENTFD,
    .claims = eventfd_claims,
    .collect = eventfd_collect,
    .open = eventfd_open,
    .fown = eventfd_fown,
};

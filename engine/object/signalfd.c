/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* signalfd(2). It holds a mask only: whose signals it reads is decided by who reads. */

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

static bool signalfd_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "signalfd");
}

static bool signalfd_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  guint64 mask = 0;
  if (!text)
    return false;
  if (!fdinfo_number(text, "sigmask", 16, &mask))
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show signalfd masks");
  entry->sgfd = MESSAGE_NEW(SignalfdEntry, signalfd_entry__init);
  entry->sgfd->id = entry->id;
  entry->sgfd->flags = (guint32)probe->flags;
  entry->sgfd->fown = collector_fown(probe);
  entry->sgfd->sigmask = mask;
  return true;
}

static int signalfd_open(Restorer *r, const FileEntry *entry, GError **error) {
  const SignalfdEntry *sgfd = entry->sgfd;
  if (!sgfd) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no signalfd_entry");
    return -1;
  }
  guint64 mask = sgfd->sigmask;
  _cleanup_fd_ int fd = (int)syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a signalfd");
    return -1;
  }
  return restorer_set_flags(fd, sgfd->flags, error) ? fd_take(&fd) : -1;
}

static const FownEntry *signalfd_fown(const FileEntry *entry) {
  return entry->sgfd ? entry->sgfd->fown : NULL;
}

const ObjectOps signalfd_ops = {
    .name = "signalfd",
    .type = FD_TYPES__SIGNALFD,
    .claims = signalfd_claims,
    .collect = signalfd_collect,
    .open = signalfd_open,
    .fown = signalfd_fown,
};

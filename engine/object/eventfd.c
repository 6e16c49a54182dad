/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* eventfd(2). The counter is read from fdinfo, where it is hexadecimal. That it is a semaphore has no field of its own:
 * it goes into the flags as EFD_SEMAPHORE, a bit that the access mode of an eventfd (always O_RDWR) leaves free.
 *
 * Kernels before 6.5 do not show whether it is one. Where they can be read (kernel-types.h), they are: a request of io_uring that
 * waits for the eventfd would hear of anything else. Where not, what is read from it does, and is put back. A process of its own
 * does that for all of them, some microseconds each, so that an engine that dies takes nothing away (tty-queue.h has more). */

#include "internal.h"
#include "uring-inside.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of one collection: those whose kind is not known yet. */
typedef struct Eventfds {
  GPtrArray *unknown; /* EventfdFileEntry, borrowed from the checkpoint */
} Eventfds;

static void eventfds_free(void *p) {
  Eventfds *e = p;
  g_ptr_array_unref(e->unknown);
  g_free(e);
}

static gpointer eventfds_make(void) {
  Eventfds *e = g_new0(Eventfds, 1);
  e->unknown = g_ptr_array_new();
  return e;
}

static Eventfds *eventfds_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, eventfds_make, eventfds_free);
}

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
  if (counter == G_MAXUINT64)
    collector_block(c, probe, "eventfd", "its counter has overflowed, which only the kernel can make happen", "try again when the program has read it");
  bool known = fdinfo_number(text, "eventfd-semaphore", 10, &semaphore);
  if (g_getenv("CHECKPOINTD_NO_EVENTFD_SEMAPHORE")) {
    known = false;
    semaphore = 0;
  }
  entry->efd = MESSAGE_NEW(EventfdFileEntry, eventfd_file_entry__init);
  entry->efd->id = entry->id;
  entry->efd->flags = (guint32)probe->flags | (semaphore ? EFD_SEMAPHORE : 0);
  entry->efd->fown = collector_fown(probe);
  entry->efd->counter = counter;
  if (!known)
    g_ptr_array_add(eventfds_of(c)->unknown, entry->efd);
  return true;
}

/* One value of it; 0 if there is none now. */
static guint64 take(int fd) {
  guint64 value = 0;
  struct iovec iov = {&value, sizeof value};
  return preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == sizeof value ? value : 0;
}

/* Whether an eventfd that stands at @count is a semaphore: of two and more it gives one at a time. It stands there again
 * afterwards. */
static bool is_semaphore(int fd, guint64 count) {
  guint64 more = 2, now = count;
  if (count < 2)
    now += write(fd, &more, sizeof more) == sizeof more ? more : 0;
  guint64 value = now ? take(fd) : 0;
  bool semaphore = value == 1;
  for (now -= MIN(value, now); semaphore && now > count; now--)
    (void)take(fd);
  more = count - MIN(now, count);
  ssize_t n = more ? write(fd, &more, sizeof more) : 0;
  return semaphore && n >= 0;
}

/* @fds against @entries, in a process that outlives this one; @answers is memory shared with it. */
static bool ask_all(const int *fds, const GPtrArray *entries, bool *answers) {
  sigset_t all, before;
  int status = 1;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) {
    (void)setsid();
    for (guint i = 0; i < entries->len; i++)
      answers[i] = is_semaphore(fds[i], ((const EventfdFileEntry *)entries->pdata[i])->counter);
    _exit(0);
  }
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  while (pid > 0 && waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
    ;
  return pid > 0 && status == 0;
}

/* False: at least one cannot be. */
static bool read_all(const int *fds, const GPtrArray *entries) {
  UringReader *reader = g_getenv("CHECKPOINTD_NO_EVENTFD_SEMAPHORE") ? NULL : uring_reader_new();
  bool ok = reader != NULL;
  for (guint i = 0; ok && i < entries->len; i++) {
    gint64 flags = uring_reader_eventfd_flags(reader, fds[i]);
    ok = flags >= 0;
    if (ok && flags & EFD_SEMAPHORE)
      ((EventfdFileEntry *)entries->pdata[i])->flags |= EFD_SEMAPHORE;
  }
  uring_reader_free(reader);
  return ok;
}

static bool eventfd_collect_finish(Collector *c, GError **error) {
  const GPtrArray *unknown = eventfds_of(c)->unknown;
  /* What is going to fail, or only to be explained, is left alone. */
  if (!unknown->len || collector_images_fd(c) < 0 || job_n_findings(collector_job(c)))
    return true;
  g_autofree int *fds = g_new(int, unknown->len);
  for (guint i = 0; i < unknown->len; i++)
    fds[i] = collector_local_of(c, ((const EventfdFileEntry *)unknown->pdata[i])->id);
  if (read_all(fds, unknown))
    return true;
  bool *answers = mmap(NULL, unknown->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  bool ok = answers != MAP_FAILED && ask_all(fds, unknown, answers);
  for (guint i = 0; ok && i < unknown->len; i++)
    ((EventfdFileEntry *)unknown->pdata[i])->flags |= answers[i] ? EFD_SEMAPHORE : 0;
  if (answers != MAP_FAILED)
    (void)munmap(answers, unknown->len);
  return ok || engine_fail(error, ENGINE_ERROR_CODE__FAILED, "Cannot find out which eventfds are semaphores");
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
    .collect_finish = eventfd_collect_finish,
    .open = eventfd_open,
    .fown = eventfd_fown,
};

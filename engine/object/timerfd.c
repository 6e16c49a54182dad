/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* timerfd_create(2). The images hold the time that was left, also for absolute timers: a restored timer goes off that
 * much later than the restore. It is armed by one of its holders, late, so that the restore itself does not eat into
 * it. */

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, guint64)
#endif

#define NSEC_PER_SEC 1000000000L

static bool timerfd_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "timerfd");
}

static bool read_time(const char *text, const char *key, guint64 *ret_sec, guint64 *ret_nsec) {
  const char *value = fdinfo_value(text, key);
  unsigned long sec, nsec;
  if (!value || sscanf(value, "(%lu, %lu)", &sec, &nsec) != 2)
    return false;
  *ret_sec = sec;
  *ret_nsec = nsec;
  return true;
}

static bool read_timer(TimerfdEntry *tfd, const char *text) {
  guint64 clockid, flags;
  if (!fdinfo_number(text, "clockid", 10, &clockid) || !fdinfo_number(text, "ticks", 10, &tfd->ticks) ||
      !fdinfo_number(text, "settime flags", 8, &flags) || !read_time(text, "it_value", &tfd->vsec, &tfd->vnsec) ||
      !read_time(text, "it_interval", &tfd->isec, &tfd->insec))
    return false;
  tfd->clockid = (guint32)clockid;
  tfd->settime_flags = (guint32)flags;
  return true;
}

static bool timerfd_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  /* An interval timer that went off and was not read yet stands still, at nothing left. Asking for its time makes the
   * kernel count what it missed and arm it again, as the next read would. */
  struct itimerspec now;
  (void)timerfd_gettime(probe->local, &now);
  g_autofree char *text = file_probe_fdinfo(probe, error);
  if (!text)
    return false;
  entry->tfd = MESSAGE_NEW(TimerfdEntry, timerfd_entry__init);
  entry->tfd->id = entry->id;
  entry->tfd->flags = (guint32)probe->flags;
  entry->tfd->fown = collector_fown(probe);
  if (!read_timer(entry->tfd, text))
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show timerfd state");
  return true;
}

static int timerfd_open(Restorer *r, const FileEntry *entry, GError **error) {
  const TimerfdEntry *tfd = entry->tfd;
  if (!tfd || tfd->vnsec >= NSEC_PER_SEC || tfd->insec >= NSEC_PER_SEC || tfd->vsec > G_MAXINT64 / 4 ||
      tfd->isec > G_MAXINT64 / 4) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The timerfd_entry is missing or its times are invalid");
    return -1;
  }
  _cleanup_fd_ int fd = timerfd_create((clockid_t)tfd->clockid, TFD_CLOEXEC);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a timerfd of clock %u", tfd->clockid);
    return -1;
  }
  return restorer_set_flags(fd, tfd->flags, error) ? fd_take(&fd) : -1;
}

static struct itimerspec timer_value(const TimerfdEntry *tfd) {
  struct itimerspec its = {
      .it_value = {.tv_sec = (time_t)tfd->vsec, .tv_nsec = (long)tfd->vnsec},
      .it_interval = {.tv_sec = (time_t)tfd->isec, .tv_nsec = (long)tfd->insec},
  };
  /* Other programs' images may say "nothing left" of an interval timer; zero would disarm it. */
  if (!its.it_value.tv_sec && !its.it_value.tv_nsec && tfd->ticks)
    its.it_value = its.it_interval;
  if (!(tfd->settime_flags & TFD_TIMER_ABSTIME) || (!its.it_value.tv_sec && !its.it_value.tv_nsec))
    return its;
  struct timespec now = {0};
  (void)clock_gettime((clockid_t)tfd->clockid, &now);
  its.it_value.tv_sec += now.tv_sec;
  its.it_value.tv_nsec += now.tv_nsec;
  if (its.it_value.tv_nsec >= NSEC_PER_SEC) {
    its.it_value.tv_sec++;
    its.it_value.tv_nsec -= NSEC_PER_SEC;
  }
  return its;
}

static bool timerfd_program(
    Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error) {
  const TimerfdEntry *tfd = entry->tfd;
  struct itimerspec its = timer_value(tfd);
  size_t at = program_data(p, &its, sizeof its);
  PROGRAM_CALL(p, "timerfd_settime", SYS_timerfd_settime, ARG(fd),
      ARG(tfd->settime_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)), ARG_DATA(at), ARG(0));
  program_expect(p, EXPECT_OK, 0);
  if (tfd->ticks) {
    at = program_data(p, &tfd->ticks, sizeof tfd->ticks);
    PROGRAM_CALL(p, "ioctl TFD_IOC_SET_TICKS", SYS_ioctl, ARG(fd), ARG(TFD_IOC_SET_TICKS), ARG_DATA(at));
    program_expect(p, EXPECT_OK, 0);
  }
  return true;
}

static const FownEntry *timerfd_fown(const FileEntry *entry) {
  return entry->tfd ? entry->tfd->fown : NULL;
}

const ObjectOps timerfd_ops = {
    .name = "timerfd",
    .type = FD_TYPES__TIMERFD,
    .claims = timerfd_claims,
    .collect = timerfd_collect,
    .open = timerfd_open,
    .program = timerfd_program,
    .fown = timerfd_fown,
};

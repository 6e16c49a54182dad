/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sleep.h"
#include "frame.h"
#include "tracee.h"
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define NSEC 1000000000ll

/* se.exec_start, milliseconds with six decimals: the run queue's clock when the thread last ran. */
static bool read_exec_start(const char *path_tail, pid_t pid, gint64 *ret_nsec) {
  g_autofree char *text = proc_read(pid, path_tail, NULL, NULL);
  const char *p = text ? strstr(text, "se.exec_start") : NULL;
  p = p ? strchr(p, ':') : NULL;
  if (!p)
    return false;
  char *end;
  gint64 msec = strtoll(p + 1, &end, 10);
  gint64 rest = *end == '.' ? strtoll(end + 1, NULL, 10) : 0;
  *ret_nsec = msec * 1000000 + rest;
  return true;
}

/* Does this call keep its end in a restart block? Then the address (0: none) of its relative timespec, or the milliseconds
 * themselves. */
static bool sleep_of_call(guint64 nr, const guint64 args[static 6], guint64 *ret_timespec, gint64 *ret_nsec) {
  *ret_timespec = 0;
  *ret_nsec = 0;
  switch (nr) {
  case SYS_nanosleep:
    *ret_timespec = args[0];
    return true;
  case SYS_clock_nanosleep:
    *ret_timespec = args[2];
    return !(args[1] & TIMER_ABSTIME);
  case SYS_poll:
    *ret_nsec = (gint64)(int)args[2] * 1000000;
    return (int)args[2] > 0;
  case SYS_futex:
    *ret_timespec = args[3];
    return (args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT && args[3];
  default:
    return false;
  }
}

static bool read_duration(pid_t pid, guint64 nr, const guint64 args[static 6], gint64 *ret) {
  guint64 address;
  struct timespec ts;
  if (!sleep_of_call(nr, args, &address, ret))
    return false;
  if (!address)
    return true;
  if (tracee_read(pid, address, &ts, sizeof ts) < 0 || ts.tv_sec < 0 || ts.tv_sec > G_MAXINT64 / NSEC / 2)
    return false;
  *ret = ts.tv_sec * NSEC + ts.tv_nsec;
  return true;
}

void sleep_observe(pid_t pid, FrozenThread *thread) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/syscall", (int)thread->state.tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  if (!text || !g_ascii_isdigit(*text))
    return;
  guint64 args[6];
  char *p = text;
  guint64 nr = strtoull(p, &p, 10);
  for (int i = 0; i < 6; i++)
    args[i] = strtoull(p, &p, 16);
  gint64 duration, began, now;
  if (!read_duration(pid, nr, args, &duration))
    return;
  g_snprintf(name, sizeof name, "task/%d/sched", (int)thread->state.tid);
  thread->sleep_nr = nr;
  thread->sleep_remaining_nsec = duration;
  /* our own exec_start is "now" in the same clock; without it the whole time is slept again: never too short */
  if (read_exec_start(name, pid, &began) && read_exec_start("sched", getpid(), &now) && now > began)
    thread->sleep_remaining_nsec = MAX(duration - (now - began), 0);
}

/* nanosleep tells what is left when it is interrupted, if it was asked to. */
static bool remaining_by_kernel(pid_t pid, const struct user_regs_struct *r, gint64 *ret) {
  guint64 address = r->orig_rax == SYS_nanosleep ? r->rsi : r->orig_rax == SYS_clock_nanosleep ? r->r10 : 0;
  struct timespec ts;
  if (!address || tracee_read(pid, address, &ts, sizeof ts) < 0)
    return false;
  *ret = ts.tv_sec * NSEC + ts.tv_nsec;
  return true;
}

void sleep_measure(pid_t pid, FrozenThread *thread) {
  const struct user_regs_struct *r = &thread->state.regs;
  bool asleep = (gint64)r->orig_rax >= 0 && (gint64)r->rax == -KERNEL_ERESTART_RESTARTBLOCK;
  guint64 seen = thread->sleep_nr;
  if (!asleep) {
    thread->sleep_nr = 0;
    return;
  }
  guint64 args[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
  gint64 duration = 0;
  thread->sleep_nr = r->orig_rax;
  if (remaining_by_kernel(pid, r, &thread->sleep_remaining_nsec))
    return;
  if (seen != r->orig_rax && read_duration(pid, r->orig_rax, args, &duration))
    thread->sleep_remaining_nsec = duration; /* it began after we looked */
}

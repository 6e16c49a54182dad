/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Controlling terminals: what only the tasks of a session can do. At this time every task has all descriptors of the
 * engine, at their numbers. No signals come of it: a group gets the foreground by its own session, and all agents block
 * SIGTTOU. */
#include "stages.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>

void terminals_build_control(Restore *r, PlanTask *t, Program *p) {
  int tty = r->restorer ? restorer_terminal_of(r->restorer, t->pid, NULL) : -1;
  if (tty >= 0)
    PROGRAM_CALL(p, "ioctl TIOCSCTTY", SYS_ioctl, ARG(tty), ARG(TIOCSCTTY), ARG(0));
}

static bool has_group(const Restore *r, pid_t sid, pid_t pgid) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    if (t->sid == sid && t->pgid == pgid)
      return true;
  }
  return false;
}

bool terminals_build(Restore *r, PlanTask *t, Program *p, GError **error) {
  pid_t group = 0;
  int tty = r->restorer ? restorer_terminal_of(r->restorer, t->sid, &group) : -1;
  const CkptTask *x = t->task ? t->task->extra : NULL;
  if (tty < 0)
    return true;
  if (t->pid != t->sid) {
    if (x && x->has_tty_nr && !x->tty_nr)
      PROGRAM_CALL(p, "ioctl TIOCNOTTY", SYS_ioctl, ARG(tty), ARG(TIOCNOTTY));
    return true;
  }
  if (group && has_group(r, t->sid, group)) {
    int value = group;
    size_t at = program_data(p, &value, sizeof value);
    PROGRAM_CALL(p, "ioctl TIOCSPGRP", SYS_ioctl, ARG(tty), ARG(TIOCSPGRP), ARG_DATA(at));
  } else if (group) {
    job_log(r->job, 4, "Process group %d is not in session %d: it does not get the foreground of its terminal",
        (int)group, (int)t->sid);
  }
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Orphans in sessions that their parent, a subreaper, was never in: the session's leader has died, or it lives beside them, or
 * somewhere below their parent, or is a zombie there; with groups of their own, and with children. Subreapers below subreapers. */

#include "subject.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { ORPHANS = 48 };

typedef struct Orphan {
  pid_t pid, ppid, pgid, sid;
} Orphan;

/* Shared by all of them. */
static struct {
  int n, n_zombies;
  Orphan zombies[ORPHANS];
  Orphan orphans[ORPHANS];
} *table;

static Orphan look(void) {
  return (Orphan){getpid(), getppid(), getpgrp(), getsid(0)};
}

static bool same(const Orphan *a, const Orphan *b) {
  return a->pid == b->pid && a->ppid == b->ppid && a->pgid == b->pgid && a->sid == b->sid;
}

/* Until the root ends it: says where it is, and that it stays there. */
__attribute__((noreturn)) static void live(pid_t parent) {
  for (int patience = 0; getppid() != parent && patience < SUBJECT_PATIENCE; patience++)
    subject_tick();
  check(getppid() == parent, "an orphan came to %d instead of %d", (int)getppid(), (int)parent);
  Orphan mine = look();
  int slot = __atomic_fetch_add(&table->n, 1, __ATOMIC_SEQ_CST);
  table->orphans[slot] = mine;
  for (;;) {
    subject_tick();
    Orphan now = look();
    check(same(&now, &mine), "%d: parent %d, group %d, session %d; was %d, %d, %d", (int)mine.pid, (int)now.ppid, (int)now.pgid,
        (int)now.sid, (int)mine.ppid, (int)mine.pgid, (int)mine.sid);
  }
}

static void orphan(pid_t root, bool own_group, bool with_child) {
  if (fork() != 0)
    return;
  if (own_group)
    check_call(setpgid(0, 0) == 0);
  pid_t self = getpid();
  if (with_child && fork() == 0)
    live(self);
  live(root);
}

/* The member of a group whose leader died as well. */
static void orphan_of_group(pid_t root) {
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    check_call(setpgid(0, 0) == 0);
    orphan(root, false, false);
    _exit(0);
  }
  check_call(waitpid(middle, NULL, 0) == middle);
}

/* A leader that dies, with orphans in its group, in groups of their own, and with a child. */
static void leave_session(pid_t root) {
  pid_t leader = fork();
  check_call(leader >= 0);
  if (leader == 0) {
    check_call(setsid() > 0);
    orphan(root, false, false);
    orphan(root, true, true);
    orphan_of_group(root);
    _exit(0);
  }
  check_call(waitpid(leader, NULL, 0) == leader);
}

/* A zombie in a group whose leader died, in a session whose leader died: alone there, or beside somebody who lives. */
static void leave_zombie(pid_t root, bool alone) {
  pid_t leader = fork();
  check_call(leader >= 0);
  if (leader) {
    check_call(waitpid(leader, NULL, 0) == leader);
    return;
  }
  check_call(setsid() > 0);
  if (!alone)
    orphan(root, false, false);
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    check_call(setpgid(0, 0) == 0);
    if (fork() != 0)
      _exit(0);
    while (getppid() != root)
      subject_tick();
    table->zombies[__atomic_fetch_add(&table->n_zombies, 1, __ATOMIC_SEQ_CST)] = look();
    _exit(7);
  }
  check_call(waitpid(middle, NULL, 0) == middle);
  _exit(0);
}

static void check_zombies(int n, bool reap) {
  for (int i = 0; i < n; i++) {
    const Orphan *o = &table->zombies[i];
    siginfo_t info = {0};
    check_call(waitid(P_PID, (id_t)o->pid, &info, WEXITED | (reap ? 0 : WNOWAIT)) == 0);
    check(info.si_pid == o->pid && info.si_code == CLD_EXITED && info.si_status == 7, "zombie %d: %d, %d", (int)o->pid, info.si_code, info.si_status);
    check(reap || (getpgid(o->pid) == o->pgid && getsid(o->pid) == o->sid), "zombie %d: group %d, session %d; was %d, %d", (int)o->pid,
        (int)getpgid(o->pid), (int)getsid(o->pid), (int)o->pgid, (int)o->sid);
  }
}

/* A leader that lives on beside the orphan of its session. */
static void keep_session(pid_t root) {
  pid_t leader = fork();
  check_call(leader >= 0);
  if (leader)
    return;
  check_call(setsid() > 0);
  pid_t middle = fork();
  if (middle == 0) {
    orphan(root, false, false);
    _exit(0);
  }
  check_call(waitpid(middle, NULL, 0) == middle);
  live(root);
}

static void wait_for(int n) {
  while (__atomic_load_n(&table->n, __ATOMIC_SEQ_CST) < n && !subject_failed())
    subject_tick();
}

enum { OF_COUSIN = 5 };

/* Somebody below the reaper leads the session, and lives (so many are there then) or is a zombie (one less). */
static void keep_below(pid_t reaper, bool lives) {
  int before = __atomic_load_n(&table->n, __ATOMIC_SEQ_CST);
  pid_t parent = getpid(), above = fork();
  check_call(above >= 0);
  if (above) {
    wait_for(before + OF_COUSIN - !lives);
    return;
  }
  pid_t leader = fork();
  check_call(leader >= 0);
  if (leader)
    live(parent);
  check_call(setsid() > 0);
  parent = getppid();
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    orphan(reaper, false, false);
    orphan(reaper, true, true);
    _exit(0);
  }
  check_call(waitpid(middle, NULL, 0) == middle);
  if (!lives)
    _exit(0);
  live(parent);
}

/* First orphans go by this one, who does not reap yet, and then to it. */
static void reap_below(pid_t root) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid) {
    wait_for(2 * OF_COUSIN + 1);
    return;
  }
  keep_below(root, true);
  check_call(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  keep_below(getpid(), true);
  live(root);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  table = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(table != MAP_FAILED && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  reap_below(getpid());
  keep_below(getpid(), true);
  keep_below(getpid(), false);
  leave_session(getpid());
  leave_session(getpid());
  keep_session(getpid());
  leave_zombie(getpid(), true);
  leave_zombie(getpid(), false);
  enum { LEFT = 2, ZOMBIES = 1, ALL = 2 * OF_COUSIN + 1 + OF_COUSIN + OF_COUSIN - ZOMBIES + 4 + 4 + 2 + 1 };
  wait_for(ALL);
  while (__atomic_load_n(&table->n_zombies, __ATOMIC_SEQ_CST) < LEFT && !subject_failed())
    subject_tick();
  check_zombies(LEFT, false);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  for (int i = 0; i < ALL; i++) {
    const Orphan *o = &table->orphans[i];
    check(kill(o->pid, 0) == 0 && getpgid(o->pid) == o->pgid && getsid(o->pid) == o->sid, "orphan %d: group %d, session %d; was %d, %d",
        (int)o->pid, (int)getpgid(o->pid), (int)getsid(o->pid), (int)o->pgid, (int)o->sid);
  }
  check_zombies(LEFT, false);
  check_zombies(LEFT, true);
  check(waitpid(-1, NULL, WNOHANG) == 0, "a child that nobody made has ended");
  for (int i = 0; i < ALL; i++)
    check_call(kill(table->orphans[i].pid, SIGKILL) == 0);
  for (int i = 0; i < ALL + ZOMBIES; i++) /* the child of an orphan comes to us, too */
    check_call(waitpid(-1, NULL, 0) > 0);
  check(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "there is one child too many");
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc tells about a task. */
#include "collect.h"
#include "sharing.h"
#include "traits.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char *task_name(const FrozenTask *task) {
  return g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
}

static void block_task(Job *job, const FrozenTask *task, const char *kind, const char *reason, const char *cure) {
  g_autofree char *name = task_name(task);
  job_block(job, kind, task->pid, -1, name, reason, cure);
}

/* A session comes from its leader by fork. */
static bool is_born_into_session(const FrozenTree *tree, const FrozenTask *task) {
  const FrozenTask *parent = frozen_tree_find(tree, task->stat.ppid);
  if (!parent || task->stat.sid == task->pid || task->stat.sid == parent->stat.sid)
    return true;
  const FrozenTask *grandparent = frozen_tree_find(tree, parent->stat.ppid);
  /* forked before its parent's setsid(2) */
  return parent->stat.sid == parent->pid && grandparent && grandparent->stat.sid == task->stat.sid;
}

static bool is_below(const FrozenTree *tree, const FrozenTask *task, const FrozenTask *ancestor) {
  for (guint depth = 0; task && task != ancestor && depth < tree->tasks->len; depth++)
    task = frozen_tree_find(tree, task->stat.ppid);
  return task == ancestor;
}

/* Somebody in its session from whom an orphan can come to its parent again, by the end of a helper in between. */
static bool is_cousin(const FrozenTree *tree, const FrozenTask *task, const FrozenTask *other) {
  const FrozenTask *parent = frozen_tree_find(tree, task->stat.ppid);
  return task->stat.exit_signal == SIGCHLD && (!other->zombie || other->pid == other->stat.sid) && is_born_into_session(tree, other) &&
         is_below(tree, other, parent) && !is_below(tree, other, task);
}

/* An orphan got another parent and kept its session: a sibling in the session can make it, or a cousin, or a helper in place of
 * the leader that died, if all such orphans have the same parent (see plan.c). */
static bool can_be_adopted(const FrozenTree *tree, const FrozenTask *task) {
  const FrozenTask *root = tree->tasks->pdata[0];
  ProcStat leader;
  bool helped = task->stat.sid && task->stat.sid != root->stat.sid && !proc_stat(task->stat.sid, &leader, NULL);
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *other = tree->tasks->pdata[i];
    bool sibling = other->stat.ppid == task->stat.ppid && other->stat.exit_signal == task->stat.exit_signal;
    if (other == task || other->stat.sid != task->stat.sid)
      continue;
    if ((sibling && !other->zombie && is_born_into_session(tree, other)) || is_cousin(tree, task, other))
      return true;
    helped = helped && (sibling || is_born_into_session(tree, other));
  }
  return helped;
}

static void check_session(Job *job, const FrozenTree *tree, const FrozenTask *task) {
  const EngineOptions *options = job_options(job);
  if (task == tree->tasks->pdata[0]) {
    if (!options->shell_job && !options->foreign_session && task->stat.sid != task->pid)
      block_task(job, task, "task", "it leads no session, and the session it is in lies outside the tree",
          "allow that with --shell-job, or start it with setsid(1)");
    return;
  }
  if (is_born_into_session(tree, task) || can_be_adopted(tree, task))
    return;
  g_autofree char *reason =
      g_strdup_printf("it is in session %d, but neither its parent nor a sibling nor anybody below its parent is", (int)task->stat.sid);
  block_task(job, task, "task", reason, "start it with setsid(1), or checkpoint it alone");
}

static guint64 number_of(const char *text, int base, guint64 otherwise) {
  return text && *text ? (guint64)(gint64)(base == 10 && *text == '-' ? strtoll(text, NULL, 10) : (gint64)strtoull(text, NULL, base)) : otherwise;
}

static void collect_groups(const FrozenTask *task) {
  g_auto(GStrv) lines = g_strsplit(task->facts.cgroup ? task->facts.cgroup : "", "\n", -1);
  CkptTask *x = task->model->extra;
  x->cgroups = calloc(g_strv_length(lines) + 1, sizeof *x->cgroups);
  for (char **l = lines; *l; l++) {
    g_auto(GStrv) f = g_strsplit(*l, ":", 3);
    if (g_strv_length(f) != 3)
      continue;
    CkptCgroup *c = x->cgroups[x->n_cgroups++] = malloc(sizeof *c);
    ckpt_cgroup__init(c);
    c->controllers = strdup(f[1]);
    c->path = strdup(f[2]);
  }
}

static void collect_auxv(const FrozenTask *task) {
  MmEntry *mm = task->model->mm;
  mm->n_mm_saved_auxv = task->facts.auxv_size / 8;
  mm->mm_saved_auxv = malloc(MAX(task->facts.auxv_size, 1));
  memcpy(mm->mm_saved_auxv, task->facts.auxv, task->facts.auxv_size / 8 * 8);
}

static void collect_layout(const FrozenTask *task) {
  MmEntry *mm = task->model->mm;
  const ProcStat *s = &task->stat;
  mm->mm_start_code = s->start_code, mm->mm_end_code = s->end_code;
  mm->mm_start_data = s->start_data, mm->mm_end_data = s->end_data;
  mm->mm_start_stack = s->start_stack, mm->mm_start_brk = s->start_brk;
  mm->mm_arg_start = s->arg_start, mm->mm_arg_end = s->arg_end;
  mm->mm_env_start = s->env_start, mm->mm_env_end = s->env_end;
}

bool collect_task(Job *job, FrozenTree *tree, FrozenTask *task, GError **error) {
  Task *m = task->model;
  m->extra = malloc(sizeof *m->extra);
  ckpt_task__init(m->extra);
  m->extra->pid = (guint32)task->pid;
  m->extra->has_exit_signal = task->stat.exit_signal != SIGCHLD;
  m->extra->exit_signal = (guint32)task->stat.exit_signal;
  m->extra->has_main_thread_ended = m->extra->main_thread_ended = task->headless;
  TaskFacts *facts = &task->facts;
  if (task->zombie)
    return true;
  if (facts->error) {
    g_propagate_error(error, g_steal_pointer(&facts->error));
    return false;
  }
  m->ids = sharing_ids(task);
  m->extra->has_sysvsem_id = sharing_undo_id(task) != 0;
  m->extra->sysvsem_id = sharing_undo_id(task);
  m->mm = malloc(sizeof *m->mm);
  mm_entry__init(m->mm);
  m->fs = malloc(sizeof *m->fs);
  fs_entry__init(m->fs);
  collect_task_namespaces(job, tree, task);
  check_session(job, tree, task);
  m->fs->has_umask = true;
  m->fs->umask = facts->status.umask;
  collect_auxv(task);
  collect_layout(task);
  collect_groups(task);
  TaskCoreEntry *tc = m->core->tc;
  tc->flags = (guint32)task->stat.flags;
  tc->personality = (guint32)number_of(facts->personality, 16, 0);
  tc->has_loginuid = true;
  tc->loginuid = (guint32)number_of(facts->loginuid, 10, (guint32)-1);
  tc->has_oom_score_adj = true;
  tc->oom_score_adj = (gint32)number_of(facts->oom_score_adj, 10, 0);
  m->extra->has_coredump_filter = true;
  m->extra->coredump_filter = (guint32)number_of(facts->coredump_filter, 16, 0x33);
  if (task->stopped) {
    tc->task_state = TASK_STOPPED;
    tc->has_stop_signo = true;
    tc->stop_signo = (guint32)task->stop_signal;
    m->extra->has_stop_unreported = m->extra->stop_unreported = task->stat.exit_code != 0;
  }
  traits_collect(task);
  m->extra->has_tty_nr = true;
  m->extra->tty_nr = (guint32)task->stat.tty_nr;
  return true;
}

static bool add_link(FrozenTask *task, Collector *collector, const char *name, guint32 *ret_id, GError **error) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/%s", (int)task->view, name);
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open %s", path);
  FileProbe probe = {.pid = task->view, .comm = task->stat.comm, .fd = -1, .local = fd, .pidfd = task->view_pidfd};
  bool blocked = false;
  *ret_id = collector_add_path(collector, &probe, &blocked, error);
  (void)close(fd);
  return *ret_id || blocked;
}

/* Of threads that have a directory apart from their process. */
static bool collect_thread_fs(FrozenTask *task, const FrozenThread *t, Collector *collector, GError **error) {
  char cwd[64], root[64];
  ProcStatus status;
  CkptThreadFs *fs = malloc(sizeof *fs);
  ckpt_thread_fs__init(fs);
  t->model->extra->fs = fs;
  fs->id = t->own_fs;
  g_snprintf(cwd, sizeof cwd, "task/%d/cwd", (int)t->state.tid);
  g_snprintf(root, sizeof root, "task/%d/root", (int)t->state.tid);
  if (!proc_status(task->view, t->state.tid, &status, error))
    return false;
  fs->umask = status.umask;
  proc_status_clear(&status);
  return add_link(task, collector, cwd, &fs->cwd_id, error) && add_link(task, collector, root, &fs->root_id, error);
}

/* Those of the parent, who has been looked at already, where they are the same; 0: they are not, or not known to be. */
static void take_links(const FrozenTree *tree, FrozenTask *task) {
  const FrozenTask *parent = frozen_tree_find(tree, task->stat.ppid);
  if (!parent || parent->zombie || !parent->facts.seen || !task->facts.seen)
    return;
  const ProcessSight *a = &task->facts.sight, *b = &parent->facts.sight;
  if (a->exe && a->exe == b->exe)
    task->model->mm->exe_file_id = parent->model->mm->exe_file_id;
  if (a->cwd[1] && memcmp(a->cwd, b->cwd, sizeof a->cwd) == 0)
    task->model->fs->cwd_id = parent->model->fs->cwd_id;
  if (a->root[1] && memcmp(a->root, b->root, sizeof a->root) == 0)
    task->model->fs->root_id = parent->model->fs->root_id;
}

bool collect_fs(Job *job, const FrozenTree *tree, FrozenTask *task, Collector *collector, GError **error) {
  for (guint k = 1; k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (t->own_fs && !collect_thread_fs(task, t, collector, error))
      return false;
  }
  Task *m = task->model;
  take_links(tree, task);
  return (m->mm->exe_file_id || add_link(task, collector, "exe", &m->mm->exe_file_id, error)) &&
         (m->fs->cwd_id || add_link(task, collector, "cwd", &m->fs->cwd_id, error)) &&
         (m->fs->root_id || add_link(task, collector, "root", &m->fs->root_id, error));
}

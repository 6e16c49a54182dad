/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors. Every open file description exists in this process when the root is forked off, so every task has all of
 * them, at our numbers. What is left to do in a task: move each to its number, and close the rest. */
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A parallel assignment: a move may only be made when nobody still has to move away from its goal. Cycles are opened by a
 * temporary number above all others. */
typedef struct Mover {
  Program *program;
  const FdMove *moves;
  size_t n;
  int *from;           /* current place of each */
  bool *done;
  size_t *next;        /* move + 1 that starts at the same number; 0: none */
  guint32 *waiting; /* [number]: first of the moves that start there, + 1 */
  guint32 *by_goal; /* [number]: move + 1 */
  int spare;
} Mover;

static size_t first_from(const Mover *m, int fd) {
  return m->waiting[fd];
}

static void set_first(Mover *m, int fd, size_t first) {
  m->waiting[fd] = (guint32)first;
}

static void mover_leave(Mover *m, size_t i) {
  size_t first = first_from(m, m->from[i]);
  if (first == i + 1) {
    set_first(m, m->from[i], m->next[i]);
    return;
  }
  for (size_t k = first; k; k = m->next[k - 1])
    if (m->next[k - 1] == i + 1) {
      m->next[k - 1] = m->next[i];
      return;
    }
}

static bool is_free(const Mover *m, int fd, size_t except) {
  size_t first = first_from(m, fd);
  return !first || (first == except + 1 && !m->next[except]);
}

static void make_move(Mover *m, size_t i) {
  const FdMove *move = &m->moves[i];
  bool is_there = m->from[i] == move->to;
  if (is_there && !(move->cloexec && move->was_cloexec && move->from == move->to))
    PROGRAM_CALL(m->program, "fcntl F_SETFD", SYS_fcntl, ARG(move->to), ARG(F_SETFD), ARG(move->cloexec ? FD_CLOEXEC : 0));
  else if (!is_there)
    PROGRAM_CALL(m->program, "dup3", SYS_dup3, ARG(m->from[i]), ARG(move->to), ARG(move->cloexec ? O_CLOEXEC : 0));
  mover_leave(m, i);
  m->done[i] = true;
}

/* Makes a move, then the one that waited for the number it came from, and so on down the chain. */
static void make_chain(Mover *m, size_t i) {
  for (;;) {
    int left = m->from[i];
    make_move(m, i);
    guint32 next = m->by_goal[left];
    if (!next || left == m->moves[i].to)
      return;
    i = next - 1;
    if (m->done[i] || !is_free(m, left, i))
      return;
  }
}

static void open_cycle(Mover *m, size_t i) {
  int goal = m->moves[i].to;
  PROGRAM_CALL(m->program, "dup3 aside", SYS_dup3, ARG(goal), ARG(m->spare), ARG(0));
  size_t first = first_from(m, goal);
  set_first(m, m->spare, first);
  set_first(m, goal, 0);
  for (size_t k = first; k; k = m->next[k - 1])
    m->from[k - 1] = m->spare;
  m->spare++;
}

static void mover_add(Mover *m, size_t i) {
  int from = m->moves[i].from;
  m->from[i] = from;
  m->next[i] = first_from(m, from);
  set_first(m, from, i + 1);
  m->by_goal[m->moves[i].to] = (guint32)i + 1;
}

static int compare_ints(gconstpointer a, gconstpointer b) {
  return *(const int *)a - *(const int *)b;
}

/* Everything but the goals. */
static void close_rest(Program *p, const FdMove *moves, size_t n) {
  g_autofree int *kept = g_new(int, n + 1);
  for (size_t i = 0; i < n; i++)
    kept[i] = moves[i].to;
  if (n)
    qsort(kept, n, sizeof *kept, compare_ints);
  int at = 0;
  for (size_t i = 0; i < n; i++) {
    if (kept[i] > at)
      PROGRAM_CALL(p, "close_range", SYS_close_range, ARG(at), ARG(kept[i] - 1), ARG(0));
    at = kept[i] + 1;
  }
  PROGRAM_CALL(p, "close_range", SYS_close_range, ARG(at), ARG(~0u), ARG(0));
}

void files_plan_moves(Program *p, const FdMove *moves, size_t n) {
  Mover m = {.program = p, .moves = moves, .n = n};
  m.from = g_new0(int, n + 1);
  m.done = g_new0(bool, n + 1);
  m.next = g_new0(size_t, n + 1);
  for (size_t i = 0; i < n; i++)
    m.spare = MAX(m.spare, MAX(moves[i].from, moves[i].to) + 1);
  m.waiting = g_new0(guint32, (size_t)m.spare + n); /* each move may open a cycle */
  m.by_goal = g_new0(guint32, (size_t)m.spare + n);
  for (size_t i = 0; i < n; i++)
    mover_add(&m, i);
  for (size_t i = 0; i < n; i++)
    if (!m.done[i] && is_free(&m, moves[i].to, i))
      make_chain(&m, i);
  for (size_t i = 0; i < n; i++)
    if (!m.done[i]) {
      if (!is_free(&m, moves[i].to, i))
        open_cycle(&m, i);
      make_chain(&m, i);
    }
  close_rest(p, moves, n);
  g_free(m.from);
  g_free(m.done);
  g_free(m.next);
  g_free(m.waiting);
  g_free(m.by_goal);
}

/* In a mount namespace of its own a task has that one's root by then. */
static bool has_other_root(const Restore *r, guint32 id) {
  const FileEntry *root = checkpoint_find_file(r->checkpoint, id);
  return root && root->reg && strcmp(root->reg->name, "/") != 0;
}

static bool build_fs(Restore *r, const Task *task, Program *p, GError **error) {
  int cwd = restore_fd(r, task->fs->cwd_id, error);
  if (cwd < 0)
    return false;
  if (has_other_root(r, task->fs->root_id)) {
    int fd = restore_fd(r, task->fs->root_id, error);
    if (fd < 0)
      return false;
    size_t dot = program_string(p, ".");
    PROGRAM_CALL(p, "fchdir to its root", SYS_fchdir, ARG(fd));
    PROGRAM_CALL(p, "chroot", SYS_chroot, ARG_DATA(dot));
  }
  PROGRAM_CALL(p, "fchdir to its working directory", SYS_fchdir, ARG(cwd));
  if (task->fs->has_umask)
    PROGRAM_CALL(p, "umask", SYS_umask, ARG(task->fs->umask));
  return true;
}

/* Descriptors of directories are gone by then, but for those of this process. */
static bool build_fchdir(Restore *r, size_t engine, guint32 id, Program *p, GError **error) {
  int fd = restore_fd(r, id, error);
  if (fd < 0)
    return false;
  size_t copy = PROGRAM_CALL(p, "pidfd_getfd of a directory", SYS_pidfd_getfd, ARG_RESULT(engine), ARG(fd), ARG(0));
  PROGRAM_CALL(p, "fchdir", SYS_fchdir, ARG_RESULT(copy));
  PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(copy));
  return true;
}

bool files_build_thread_fs(Restore *r, const PlanTask *t, const PlanThread *th, Program *p, GError **error) {
  const CkptThreadFs *fs = th->thread->extra ? th->thread->extra->fs : NULL;
  if (!fs || !th->sets_fs)
    return true;
  size_t engine = PROGRAM_CALL(p, "pidfd_open of the engine", SYS_pidfd_open, ARG(getpid()), ARG(0));
  if (has_other_root(r, fs->root_id) || has_other_root(r, t->task->fs->root_id)) {
    size_t dot = program_string(p, ".");
    if (!build_fchdir(r, engine, fs->root_id, p, error))
      return false;
    PROGRAM_CALL(p, "chroot", SYS_chroot, ARG_DATA(dot));
  }
  if (!build_fchdir(r, engine, fs->cwd_id, p, error))
    return false;
  PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(engine));
  PROGRAM_CALL(p, "umask", SYS_umask, ARG(fs->umask));
  return true;
}

static bool is_number_of(const CkptThreadTable *table, int fd) {
  for (size_t i = 0; i < table->n_fds; i++)
    if (table->fds[i]->fd == (guint32)fd)
      return true;
  return false;
}

static int lowest_free(const bool *used) {
  int fd = 0;
  while (used[fd])
    fd++;
  return fd;
}

/* Each comes from this process under the lowest number that is free then, which is known beforehand: nothing else is open. */
static bool build_fetch(Restore *r, size_t engine, const CkptThreadFd *fd, bool *used, size_t n_used, Program *p, GError **error) {
  int local = restore_fd(r, fd->file_id, error), at = lowest_free(used);
  if (local < 0)
    return false;
  PROGRAM_CALL(p, "pidfd_getfd", SYS_pidfd_getfd, ARG_RESULT(engine), ARG(local), ARG(0));
  program_expect(p, EXPECT_EQUAL, at);
  if (at == (int)fd->fd) {
    PROGRAM_CALL(p, "fcntl F_SETFD", SYS_fcntl, ARG(at), ARG(F_SETFD), ARG(fd->cloexec ? FD_CLOEXEC : 0));
  } else {
    PROGRAM_CALL(p, "dup3", SYS_dup3, ARG(at), ARG(fd->fd), ARG(fd->cloexec ? O_CLOEXEC : 0));
    PROGRAM_CALL(p, "close", SYS_close, ARG(at));
  }
  if (fd->fd < n_used)
    used[fd->fd] = true;
  return true;
}

bool files_build_thread_table(Restore *r, const PlanThread *th, Program *p, GError **error) {
  const CkptThreadTable *table = th->thread->extra ? th->thread->extra->table : NULL;
  if (!table)
    return true;
  size_t n_used = table->n_fds + 3;
  g_autofree bool *used = g_new0(bool, n_used);
  int door = 0; /* the number of this process's pidfd, until all are there */
  while (is_number_of(table, door))
    door++;
  PROGRAM_CALL(p, "close_range", SYS_close_range, ARG(0), ARG(~0u), ARG(0));
  size_t engine = PROGRAM_CALL(p, "pidfd_open of the engine", SYS_pidfd_open, ARG(getpid()), ARG(0));
  if (door) {
    engine = PROGRAM_CALL(p, "dup3", SYS_dup3, ARG(0), ARG(door), ARG(O_CLOEXEC));
    PROGRAM_CALL(p, "close", SYS_close, ARG(0));
  }
  used[door] = true;
  for (size_t i = 0; i < table->n_fds; i++)
    if (!build_fetch(r, engine, table->fds[i], used, n_used, p, error))
      return false;
  PROGRAM_CALL(p, "close", SYS_close, ARG(door));
  return true;
}

/* Those of tasks that share a descriptor table: when one of them moves the descriptors, the others may not need them any more. */
static bool is_early(const PlanTask *t) {
  return t->owner[SHARE_FILES]->has_sharers & 1u << SHARE_FILES;
}

bool files_build_directories(Restore *r, PlanTask *t, Program *p, GError **error) {
  return !is_early(t) || t->owner[SHARE_FS] != t || build_fs(r, t->task, p, error);
}

/* The first holder of a description does for it what a task has to do. */
static bool is_first_holder(const Restore *r, const PlanTask *t, const FdinfoEntry *fd) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *other = r->plan->tasks->pdata[i];
    if (!other->task)
      continue;
    for (guint k = 0; k < other->task->fds->len; k++) {
      const FdinfoEntry *f = other->task->fds->pdata[k];
      if (f->id == fd->id)
        return f == fd;
    }
  }
  return false;
}

/* si_fd of its signals is the number at which O_ASYNC was set last. */
static void build_async(Restore *r, const FdinfoEntry *fd, Program *p) {
  int local = r->restorer ? restore_fd(r, fd->id, NULL) : -1;
  int flags = local < 0 ? -1 : fcntl(local, F_GETFL);
  if (flags < 0 || !(flags & O_ASYNC) || flags & O_PATH)
    return;
  PROGRAM_CALL(p, "fcntl F_SETFL", SYS_fcntl, ARG(fd->fd), ARG(F_SETFL), ARG(flags & ~O_ASYNC));
  PROGRAM_CALL(p, "fcntl F_SETFL O_ASYNC", SYS_fcntl, ARG(fd->fd), ARG(F_SETFL), ARG(flags));
}

static bool build_bound(Restore *r, PlanTask *t, Program *p, GError **error) {
  for (guint i = 0; i < t->task->fds->len; i++) {
    const FdinfoEntry *fd = t->task->fds->pdata[i];
    const FileEntry *entry = checkpoint_find_file(r->checkpoint, fd->id);
    const ObjectOps *ops = entry ? object_of_entry(r->checkpoint, entry) : NULL;
    const FownEntry *fown = ops && ops->fown ? ops->fown(entry) : NULL;
    bool owned = fown && (fown->pid || fown->signum);
    if (!ops || (!ops->program && !owned) || !is_first_holder(r, t, fd))
      continue;
    build_async(r, fd, p);
    if (ops->program && r->restorer && !ops->program(r->restorer, entry, t->task, (int)fd->fd, p, error))
      return false;
    if (owned)
      restorer_fown_program(entry, (int)fd->fd, p);
  }
  return true;
}

/* What could only be made when all tasks were there lies in this process; the task, which has every right as yet, takes a
 * copy in place of the place holder. */
static bool fetch_late(Restore *r, const FdinfoEntry *fd, Program *p, GError **error) {
  GError *failure = NULL;
  int late = r->restorer ? restorer_late_fd(r->restorer, fd->id, &failure) : -1;
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  if (late < 0)
    return true;
  size_t engine = PROGRAM_CALL(p, "pidfd_open of the engine", SYS_pidfd_open, ARG(getpid()), ARG(0));
  size_t copy = PROGRAM_CALL(p, "pidfd_getfd", SYS_pidfd_getfd, ARG_RESULT(engine), ARG(late), ARG(0));
  PROGRAM_CALL(p, "dup3", SYS_dup3, ARG_RESULT(copy), ARG(fd->fd), ARG(fd->flags & 1 ? O_CLOEXEC : 0));
  PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(copy));
  PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(engine));
  return true;
}

static bool fetch_all_late(Restore *r, const PlanTask *t, bool of_threads, Program *p, GError **error) {
  for (guint i = 0; i < t->task->fds->len; i++) {
    const FdinfoEntry *fd = t->task->fds->pdata[i];
    bool skip = r->restorer && restorer_needs_thread(r->restorer, fd->id) != of_threads;
    if (!skip && !fetch_late(r, fd, p, error))
      return false;
  }
  return true;
}

bool files_build_of_threads(Restore *r, PlanTask *t, Program *p, GError **error) {
  return !r->restorer || t->owner[SHARE_FILES] != t || fetch_all_late(r, t, true, p, error);
}

bool files_build(Restore *r, PlanTask *t, Program *p, GError **error) {
  if (!is_early(t) && t->owner[SHARE_FS] == t && !build_fs(r, t->task, p, error))
    return false;
  if (t->owner[SHARE_FILES] != t)
    return true;
  g_autoptr(GArray) moves = g_array_new(FALSE, FALSE, sizeof(FdMove));
  for (guint i = 0; i < t->task->fds->len; i++) {
    const FdinfoEntry *fd = t->task->fds->pdata[i];
    int from = restore_fd(r, fd->id, error);
    if (from < 0)
      return false;
    FdMove move = {from, (int)fd->fd, (fd->flags & 1) != 0, r->restorer && restorer_closes_on_exec(r->restorer, fd->id)};
    g_array_append_val(moves, move);
  }
  files_plan_moves(p, (const FdMove *)(const void *)moves->data, moves->len);
  if (!fetch_all_late(r, t, false, p, error))
    return false;
  if (!build_bound(r, t, p, error))
    return false;
  if (!is_early(t))
    locks_build(r, t, p);
  return true;
}

bool locks_build_shared(Restore *r, PlanTask *t, Program *p, GError **error) {
  if (is_early(t))
    locks_build(r, t, p);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tasks that share memory, descriptors, directories or signal actions (clone(2)); a look at the kernel's own (process-look.h) or kcmp(2) tells,
 * and orders them, so that equals are found by sorting. The first of the tree that has something is its owner here: what it is asked for is the others', too. */
#include "sharing.h"
#include "collect.h"
#include "tracers.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int kcmp_kinds[SHARE_KINDS] = {
    [SHARE_MEMORY] = KCMP_VM, [SHARE_SIGHAND] = KCMP_SIGHAND, [SHARE_FILES] = KCMP_FILES, [SHARE_FS] = KCMP_FS, [SHARE_SYSVSEM] = KCMP_SYSVSEM};

static bool shares(pid_t a, pid_t b, ShareKind kind) {
  return syscall(SYS_kcmp, a, b, kcmp_kinds[kind], 0, 0) == 0;
}

/* What the kernel has it by, where that has been seen; 0: it has not. */
static uint64_t word_of(const FrozenTask *task, ShareKind kind) {
  const ProcessSight *s = &task->facts.sight;
  return !task->facts.seen ? 0 : kind == SHARE_MEMORY ? s->memory : kind == SHARE_FILES ? s->files : kind == SHARE_FS ? s->fs : 0;
}

/* In the order of those words, or kcmp(2)'s, so that equals are neighbours. */
static gint compare_words(gconstpointer a, gconstpointer b, gpointer kind) {
  uint64_t x = word_of(*(FrozenTask *const *)a, GPOINTER_TO_INT(kind)), y = word_of(*(FrozenTask *const *)b, GPOINTER_TO_INT(kind));
  return (x > y) - (x < y);
}

static gint compare_tasks(gconstpointer a, gconstpointer b, gpointer kind) {
  const FrozenTask *const *x = a, *const *y = b;
  long r = syscall(SYS_kcmp, (*x)->view, (*y)->view, kcmp_kinds[GPOINTER_TO_INT(kind)], 0, 0);
  return r == 1 ? -1 : r == 2 ? 1 : 0;
}

static bool have_same(const FrozenTask *a, const FrozenTask *b, ShareKind kind, bool seen) {
  return seen ? word_of(a, kind) == word_of(b, kind) : shares(a->view, b->view, kind);
}

/* @tasks are in order then. Whether any share it. */
static bool find_kind(GPtrArray *tasks, ShareKind kind) {
  bool any = false, seen = true;
  for (guint i = 0; seen && i < tasks->len; i++)
    seen = word_of(tasks->pdata[i], kind) != 0;
  g_ptr_array_sort_with_data(tasks, seen ? compare_words : compare_tasks, GINT_TO_POINTER(kind));
  for (guint i = 0, end; i < tasks->len; i = end) {
    FrozenTask *owner = tasks->pdata[i];
    for (end = i + 1; end < tasks->len && have_same(owner, tasks->pdata[end], kind, seen); end++)
      ;
    for (guint k = i + 1; k < end; k++)
      if (((FrozenTask *)tasks->pdata[k])->index < owner->index)
        owner = tasks->pdata[k];
    for (guint k = i; k < end; k++)
      ((FrozenTask *)tasks->pdata[k])->owner[kind] = owner;
    owner->shares_undo |= kind == SHARE_SYSVSEM && end > i + 1;
    owner->lends_fs |= kind == SHARE_FS && end > i + 1;
    any |= end > i + 1;
  }
  return any;
}

/* Only those that share memory can share signal actions. */
static void find_sighands(FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; !task->zombie && task->owner[SHARE_MEMORY] != task && k < i; k++) {
      FrozenTask *other = tree->tasks->pdata[k];
      if (other->owner[SHARE_MEMORY] == task->owner[SHARE_MEMORY] && other->owner[SHARE_SIGHAND] == other &&
          shares(other->view, task->view, SHARE_SIGHAND)) {
        task->owner[SHARE_SIGHAND] = other;
        break;
      }
    }
  }
}

/* Whose list of semaphores to be undone (semop(2)) there is: a process has none until it needs one or shares it. One that has
 * none itself must compare. */
static void keep_listed(GPtrArray *tasks) {
  g_autofree volatile bool *listed = g_new0(bool, tasks->len);
  pid_t pid = vfork();
  if (pid == 0) {
    for (guint i = 0; i < tasks->len; i++)
      listed[i] = syscall(SYS_kcmp, syscall(SYS_getpid), ((const FrozenTask *)tasks->pdata[i])->view, KCMP_SYSVSEM, 0, 0) > 0;
    _exit(0);
  }
  while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
  for (guint i = tasks->len; i-- > 0;)
    if (!listed[i])
      g_ptr_array_remove_index(tasks, i);
}

/* Only looked for where there are semaphores, or something else is shared. */
static void find_undo(FrozenTree *tree, GPtrArray *tasks) {
  struct seminfo info = {0};
  union {
    int val;
    struct seminfo *info;
  } argument = {.info = &info};
  if (!tree->shares && (semctl(0, 0, SEM_INFO, argument) < 0 || !info.semusz))
    return;
  keep_listed(tasks);
  if (tasks->len > 1)
    tree->shares |= find_kind(tasks, SHARE_SYSVSEM);
}

/* What is compared first, a kind at a time, by whoever has a hand free: no tracing is needed for it. */
typedef struct FirstKinds {
  const GPtrArray *tasks;
  gint next, any;
} FirstKinds;

static void find_share(void *data, unsigned which) {
  static const ShareKind kinds[] = {SHARE_MEMORY, SHARE_FILES, SHARE_FS};
  FirstKinds *f = data;
  (void)which;
  for (gint i; (i = g_atomic_int_add(&f->next, 1)) < (gint)G_N_ELEMENTS(kinds);) {
    g_autoptr(GPtrArray) tasks = g_ptr_array_copy((GPtrArray *)f->tasks, NULL, NULL);
    if (find_kind(tasks, kinds[i]))
      g_atomic_int_set(&f->any, TRUE);
  }
}

void sharing_find(FrozenTree *tree) {
  g_autoptr(GPtrArray) tasks = g_ptr_array_new();
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    task->index = i;
    if (!task->zombie)
      g_ptr_array_add(tasks, task);
  }
  if (tasks->len < 2)
    return;
  FirstKinds first = {.tasks = tasks};
  tracers_run(find_share, &first);
  tree->shares = first.any;
  find_sighands(tree);
  find_undo(tree, tasks);
}

guint32 sharing_undo_id(const FrozenTask *task) {
  return task->owner[SHARE_SYSVSEM]->shares_undo ? task->owner[SHARE_SYSVSEM]->index + 2 : 0;
}

TaskKobjIdsEntry *sharing_ids(const FrozenTask *task) {
  TaskKobjIdsEntry *ids = malloc(sizeof *ids);
  task_kobj_ids_entry__init(ids);
  ids->vm_id = task->owner[SHARE_MEMORY]->index + 2;
  ids->sighand_id = task->owner[SHARE_SIGHAND]->index + 2;
  ids->files_id = task->owner[SHARE_FILES]->index + 2;
  ids->fs_id = task->owner[SHARE_FS]->index + 2;
  ns_set_own_ids(ids);
  return ids;
}

/* --- what cannot be made again --- */

static void block_kin(Job *job, const FrozenTree *tree, const KinshipTrouble *trouble) {
  const Kin *kin = trouble->kin;
  while (kin->helper) /* who does not exist now */
    kin = kin->parent;
  const FrozenTask *task = frozen_tree_find(tree, kin->pid), *other = frozen_tree_find(tree, trouble->other->pid);
  if (!task || !other)
    return;
  g_autofree char *name = g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
  bool has = task->owner[trouble->kind] == other->owner[trouble->kind] && task != other;
  g_autofree char *reason = g_strdup_printf(
      has ? "it shares its %s with pid %d (%s), and no order of clone(2) gives it that again: who is between them has another"
          : "it stands between tasks that share the %s of pid %d (%s), which it has not, and no order of clone(2) makes that again",
      share_name(trouble->kind), (int)other->pid, other->stat.comm);
  job_block(job, "task", task->pid, -1, name, reason,
      "start them without sharing it (clone(2) without its CLONE_ flag), or checkpoint it before the one in between calls execve(2) or unshare(2)");
}

static void check_kinship(Job *job, const FrozenTree *tree) {
  g_autoptr(Kinship) all = kinship_new();
  KinshipTrouble trouble;
  const FrozenTask *root = tree->tasks->pdata[0];
  pid_t outside = frozen_tree_find(tree, root->stat.sid) ? 0 : root->stat.sid;
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    Kin *k = kinship_add(all, task->pid, i ? kinship_find(all, task->stat.ppid) : NULL);
    k->zombie = task->zombie;
    k->exit_signal = task->stat.exit_signal & 0x7f;
    k->sid = outside && task->stat.sid == outside ? (job_options(job)->shell_job ? 0 : root->pid) : task->stat.sid;
    for (int kind = 0; !task->zombie && kind < SHARE_KINDS; kind++)
      k->ids[kind] = task->owner[kind]->index + 2;
  }
  if (!kinship_solve(all, &trouble) && trouble.other)
    block_kin(job, tree, &trouble); /* sessions: collect_task() */
}

static void block_thread(Job *job, const FrozenTask *task, pid_t tid, const char *reason) {
  g_autofree char *name = g_strdup_printf("pid %d (%s) thread %d", (int)task->pid, task->stat.comm, (int)tid);
  job_block(job, "task", task->pid, -1, name, reason, "start the program without it (unshare(2) or clone(2) in one of its threads)");
}

static guint *own_of(FrozenThread *t, ShareKind kind) {
  return kind == SHARE_FS ? &t->own_fs : &t->own_files;
}

/* Another process may have what a thread has apart, when that thread has made it. */
static const FrozenTask *find_outside(const FrozenTree *tree, const FrozenTask *task, pid_t tid, ShareKind kind) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *other = tree->tasks->pdata[i];
    for (guint k = 0; !other->zombie && other != task && k < other->threads->len; k++)
      if ((k == 0 || *own_of(&g_array_index(other->threads, FrozenThread, k), kind)) &&
          shares(tid, g_array_index(other->threads, FrozenThread, k).state.tid, kind))
        return other;
  }
  return NULL;
}

/* What is not made again of threads that have something apart from their process. @alone: no other thread has it. */
static void check_apart(Job *job, const FrozenTree *tree, const FrozenTask *task, pid_t tid, ShareKind kind, bool alone) {
  const FrozenTask *other = alone ? find_outside(tree, task, tid, kind) : NULL;
  g_autofree char *reason = NULL;
  if (other)
    reason = g_strdup_printf("its process has another %s, which it shares with pid %d (%s)", share_name(kind), (int)other->pid, other->stat.comm);
  else if (!alone && (kind == SHARE_FILES || task->owner[kind] != task || task->lends_fs))
    reason = g_strdup_printf("it shares a %s with another thread apart from its process%s", share_name(kind),
        kind == SHARE_FILES ? "" : ", which shares its own with another process");
  if (reason)
    block_thread(job, task, tid, reason);
}

/* @k: of a thread that has another one than its process. */
static void number_apart(Job *job, const FrozenTree *tree, const FrozenTask *task, guint k, ShareKind kind) {
  FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
  guint *own = own_of(t, kind), last = 0;
  for (guint i = 1; i < k && !*own; i++) {
    FrozenThread *other = &g_array_index(task->threads, FrozenThread, i);
    guint theirs = *own_of(other, kind);
    last = MAX(last, theirs);
    if (theirs && shares(other->state.tid, t->state.tid, kind))
      *own = theirs;
  }
  bool alone = !*own;
  *own = alone ? last + 1 : *own;
  check_apart(job, tree, task, t->state.tid, kind, alone);
}

/* Threads that have left what their process shares: unshare(2), or clone(2) without CLONE_FS or CLONE_FILES. */
static void check_threads(Job *job, const FrozenTree *tree, const FrozenTask *task) {
  for (guint k = 1; k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    pid_t tid = t->state.tid;
    if (t->alike)
      continue;
    if (!shares(task->view, tid, SHARE_FILES))
      number_apart(job, tree, task, k, SHARE_FILES);
    if (!shares(task->view, tid, SHARE_FS))
      number_apart(job, tree, task, k, SHARE_FS);
  }
}

static bool is_in_stack(const FrozenTask *task, uint64_t sp) {
  for (guint i = 0; task->facts.vmas && i < task->facts.vmas->len; i++) {
    const ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, i);
    if (sp >= v->start && sp < v->end)
      return strcmp(v->path, "[stack]") == 0;
  }
  return false;
}

/* What is refused for one is for all in the same memory; and where their stacks end. */
static void join_memory(FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i], *owner = task->owner[SHARE_MEMORY];
    owner->no_agent |= task->no_agent;
    for (guint k = 0; k < task->threads->len; k++) {
      uint64_t sp = g_array_index(task->threads, FrozenThread, k).state.regs.rsp;
      if (is_in_stack(owner, sp) && (!owner->lowest_sp || sp < owner->lowest_sp))
        owner->lowest_sp = sp;
    }
  }
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    task->no_agent |= task->owner[SHARE_MEMORY]->no_agent;
  }
}

void sharing_check(Job *job, FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++)
    if (!((FrozenTask *)tree->tasks->pdata[i])->zombie)
      check_threads(job, tree, tree->tasks->pdata[i]);
  if (!tree->shares)
    return;
  join_memory(tree);
  check_kinship(job, tree);
}

/* --- what one was asked for is the others', too --- */

void sharing_take_files(FrozenTask *task, Collector *collector) {
  const FrozenTask *owner = task->owner[SHARE_FILES];
  collector_alias_task(collector, task->pid, owner->view);
  g_ptr_array_unref(task->model->fds);
  task->model->fds = g_ptr_array_ref(owner->model->fds);
}

void sharing_free_table(FrozenThread *t) {
  if (t->table_pidfd)
    (void)close(t->table_pidfd - 1);
  task_free(t->table);
}

static bool visit_table(Job *job, const FrozenTask *task, FrozenThread *t, Collector *collector, GError **error) {
  t->table_pidfd = proc_thread_pidfd(t->state.tid) + 1;
  if (!t->table_pidfd) {
    block_thread(job, task, t->state.tid, "it has a descriptor table of its own, and such threads can be checkpointed since Linux 6.9 only");
    return true;
  }
  t->table = task_new();
  if (!collector_visit_task(collector, t->state.tid, task->view, task->stat.comm, t->table_pidfd - 1, NULL, 0, t->table, error))
    return false;
  CkptThreadTable *table = t->model->extra->table = malloc(sizeof *table);
  ckpt_thread_table__init(table);
  table->fds = calloc(t->table->fds->len + 1, sizeof *table->fds);
  for (guint i = 0; i < t->table->fds->len; i++) {
    const FdinfoEntry *fd = t->table->fds->pdata[i];
    CkptThreadFd *e = table->fds[table->n_fds++] = malloc(sizeof *e);
    ckpt_thread_fd__init(e);
    e->fd = fd->fd, e->file_id = fd->id;
    e->has_cloexec = e->cloexec = fd->flags != 0;
  }
  return true;
}

bool sharing_visit_tables(Job *job, const FrozenTask *task, Collector *collector, GError **error) {
  for (guint k = 1; k < task->threads->len; k++) {
    FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (t->own_files && !visit_table(job, task, t, collector, error))
      return false;
  }
  return true;
}

static bool is_in_process(const Checkpoint *c, guint32 file_id) {
  for (guint i = 0; i < c->tasks->len; i++) {
    const GPtrArray *fds = ((const Task *)c->tasks->pdata[i])->fds;
    for (guint k = 0; k < fds->len; k++)
      if (((const FdinfoEntry *)fds->pdata[k])->id == file_id)
        return true;
  }
  return false;
}

/* What a process would have to make, or to do with its own numbers. */
static bool needs_process(const Checkpoint *c, guint32 file_id) {
  const FileEntry *entry = checkpoint_find_file(c, file_id);
  const ObjectOps *ops = entry ? object_of_entry(c, entry) : NULL;
  const FownEntry *fown = ops && ops->fown ? ops->fown(entry) : NULL;
  if (!ops)
    return false; /* blocked, or a plugin's */
  return (ops->is_late && ops->is_late(entry)) || checkpoint_find_uring(c, file_id) ||
         ((ops->program || (fown && (fown->pid || fown->signum))) && !is_in_process(c, file_id));
}

/* What is looked for in the tables of processes only (collect-locks.c). */
static bool has_lock(pid_t tid, guint32 fd) {
  char name[32];
  g_snprintf(name, sizeof name, "fdinfo/%u", fd);
  g_autofree char *text = proc_read(tid, name, NULL, NULL);
  return text && strstr(text, "\nlock:");
}

static void check_table(Job *job, const FrozenTask *task, const FrozenThread *t, const Checkpoint *c) {
  const TaskRlimitsEntry *limits = task->model->core->tc->rlimits;
  guint64 limit = limits && limits->n_rlimits > RLIMIT_NOFILE ? limits->rlimits[RLIMIT_NOFILE]->cur : G_MAXUINT64;
  for (guint n = 0; n < t->table->fds->len; n++) {
    const FdinfoEntry *fd = t->table->fds->pdata[n];
    const char *what = NULL;
    if (fd->fd >= limit || t->table->fds->len + 2 > limit) /* two are needed while they come back */
      what = "there is no room for under its limit (RLIMIT_NOFILE)";
    else if (needs_process(c, fd->id))
      what = "only a process can have back";
    else if (has_lock(t->state.tid, fd->fd) && !is_in_process(c, fd->id))
      what = "has a file lock";
    g_autofree char *reason = what ? g_strdup_printf("it has a descriptor table of its own, with one (%u) that %s", fd->fd, what) : NULL;
    if (reason)
      block_thread(job, task, t->state.tid, reason);
  }
}

void sharing_check_tables(Job *job, const FrozenTree *tree, const Checkpoint *c) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 1; k < task->threads->len; k++)
      if (g_array_index(task->threads, FrozenThread, k).table)
        check_table(job, task, &g_array_index(task->threads, FrozenThread, k), c);
  }
}

static void *copy_message(const void *message) {
  const ProtobufCMessage *m = message;
  g_autofree uint8_t *packed = g_malloc(protobuf_c_message_get_packed_size(m) + 1);
  return protobuf_c_message_unpack(m->descriptor, NULL, protobuf_c_message_pack(m, packed), packed);
}

static CkptRange **copy_ranges(CkptRange *const *from, size_t n) {
  CkptRange **ranges = calloc(n + 1, sizeof *ranges);
  for (size_t i = 0; i < n; i++)
    ranges[i] = copy_message(from[i]);
  return ranges;
}

static void copy_memory(Task *to, const Task *from) {
  mm_entry__free_unpacked(to->mm, NULL);
  to->mm = copy_message(from->mm);
  page_set_free(to->pages);
  to->pages = page_set_new(from->pages->pages_id);
  to->pages->has_digest = from->pages->has_digest;
  to->pages->digest = from->pages->digest;
  for (guint i = 0; i < from->pages->entries->len; i++)
    g_ptr_array_add(to->pages->entries, copy_message(from->pages->entries->pdata[i]));
  if (to->extra->memory)
    ckpt_memory__free_unpacked(to->extra->memory, NULL);
  to->extra->memory = from->extra->memory ? copy_message(from->extra->memory) : NULL;
  if (from->extra->n_guard)
    to->extra->guard = copy_ranges(from->extra->guard, to->extra->n_guard = from->extra->n_guard);
  if (from->extra->n_mlocked_onfault)
    to->extra->mlocked_onfault = copy_ranges(from->extra->mlocked_onfault, to->extra->n_mlocked_onfault = from->extra->n_mlocked_onfault);
}

void sharing_copy_memory(const FrozenTree *tree) {
  for (guint i = 0; tree->shares && i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (task->owner[SHARE_MEMORY] != task)
      copy_memory(task->model, task->owner[SHARE_MEMORY]->model);
  }
}

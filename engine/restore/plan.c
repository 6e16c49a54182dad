/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plan.h"
#include "object.h"
#include "proc.h"
#include "stages.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define GAP_LOW 0x10000000ull
#define GAP_HIGH 0x7ff000000000ull
#define GAP_LOW_IA32 0x100000ull /* for trees with 32-bit programs, whose calls take addresses there only */
#define GAP_HIGH_IA32 0xff000000ull

typedef struct Span {
  uint64_t start, end;
} Span;

static void plan_task_free(void *p) {
  PlanTask *t = p;
  g_ptr_array_unref(t->children);
  g_array_unref(t->threads);
  g_free(t);
}

static PlanTask *plan_task_new(pid_t pid) {
  PlanTask *t = g_new0(PlanTask, 1);
  t->pid = pid;
  for (int kind = 0; kind < SHARE_KINDS; kind++)
    t->owner[kind] = t;
  t->children = g_ptr_array_new();
  t->threads = g_array_new(FALSE, TRUE, sizeof(PlanThread));
  return t;
}

void plan_free(Plan *plan) {
  if (!plan)
    return;
  g_ptr_array_unref(plan->tasks);
  g_free(plan);
}

static PlanTask *find_task(const Plan *plan, pid_t pid) {
  for (guint i = 0; pid && i < plan->tasks->len; i++) {
    PlanTask *t = plan->tasks->pdata[i];
    if (t->pid == pid)
      return t;
  }
  return NULL;
}

bool plan_vma_shared(const VmaEntry *c, const VmaEntry *p) {
  return c->start == p->start && c->end == p->end && c->pgoff == p->pgoff && c->flags == p->flags &&
         c->shmid == p->shmid && (c->status & ~(guint32)VMA_AREA_HEAP) == (p->status & ~(guint32)VMA_AREA_HEAP) &&
         (c->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) &&
         !(p->has_madv && p->madv & (1ull << 10 /* MADV_DONTFORK */ | 1ull << 18 /* MADV_WIPEONFORK */));
}

static bool shares_memory(const Task *child, const Task *parent) {
  const MmEntry *c = child->mm, *p = parent->mm;
  if (!c || !p)
    return false;
  for (size_t i = 0, k = 0; i < c->n_vmas && k < p->n_vmas;) {
    const VmaEntry *a = c->vmas[i], *b = p->vmas[k];
    if ((a->status & (VMA_AREA_VSYSCALL | VMA_AREA_VVAR)) == 0 && (a->prot & 2) && plan_vma_shared(a, b))
      return true;
    if (a->start <= b->start)
      i++;
    else
      k++;
  }
  return false;
}

static void add_threads(PlanTask *t) {
  for (guint i = 0; i < t->task->threads->len; i++) {
    PlanThread thread = {.thread = t->task->threads->pdata[i], .op_sleep = -1};
    g_array_append_val(t->threads, thread);
  }
}

static bool add_task(Plan *plan, const Task *task, GError **error) {
  PlanTask *t = plan_task_new(task_pid(task));
  t->task = task;
  t->zombie = task_is_zombie(task);
  t->sid = (pid_t)task->pstree->sid;
  t->pgid = (pid_t)task->pstree->pgid;
  t->exit_signal = task->extra && task->extra->has_exit_signal ? task->extra->exit_signal & 0x7f : SIGCHLD;
  if (plan->tasks->len)
    t->parent = find_task(plan, (pid_t)task->pstree->ppid);
  g_ptr_array_add(plan->tasks, t);
  if (plan->tasks->len > 1 && (!t->parent || t->parent->zombie))
    return engine_fail(
        error, ENGINE_ERROR_CODE__IMAGE_INVALID, "pstree.img: pid %d has no living parent in the tree", (int)t->pid);
  if (!t->zombie)
    add_threads(t);
  if (!t->parent)
    return true;
  g_ptr_array_add(t->parent->children, t);
  /* what it has from its parent must not be where a segment is attached for a moment */
  t->late = !t->zombie && shares_memory(task, t->parent->task) && !sysv_holes_used(plan->checkpoint, task->mm);
  return true;
}

/* An outside session becomes the root's own; so does the outside group. */
static void map_session(Plan *plan, const EngineOptions *options) {
  PlanTask *root = plan->tasks->pdata[0];
  pid_t outside = root->sid;
  if (find_task(plan, outside))
    return;
  plan->foreign_session = true;
  for (guint i = 0; i < plan->tasks->len; i++) {
    PlanTask *t = plan->tasks->pdata[i];
    if (t->sid != outside)
      continue;
    bool outside_group = t->pgid == root->pgid && !find_task(plan, t->pgid);
    t->sid = options->shell_job ? 0 : root->pid;
    if (i == 0 || outside_group)
      t->pgid = options->shell_job ? (outside_group ? 0 : t->pgid) : root->pid;
  }
}

/* A task of the checkpoint, or (helper) one that the answer needs. */
static PlanTask *plan_task_of(Plan *plan, Kin *k) {
  if (!k->data) {
    PlanTask *h = plan_task_new(k->pid);
    h->helper = true;
    h->brief = k->brief;
    h->parent = k->parent->data;
    h->sid = k->sid;
    h->pgid = h->pid;
    h->exit_signal = k->exit_signal;
    g_ptr_array_add(plan->tasks, h);
    k->data = h;
  }
  return k->data;
}

static void take_answer(Plan *plan, const Kin *k) {
  PlanTask *t = k->data;
  t->setsid = k->setsid;
  t->adopted = k->adopted;
  t->passed_on = k->maker && k->maker->brief;
  t->late = k->late;
  t->clone_flags = k->clone_flags;
  t->unshare_before = k->unshare_before;
  t->unshare_last = k->unshare_last;
  t->shares_memory = k->carries[SHARE_MEMORY] != NULL;
  for (int kind = 0; kind < SHARE_KINDS; kind++) {
    t->owner[kind] = k->owner[kind]->data;
    if (t->owner[kind] != t)
      t->owner[kind]->has_sharers |= 1u << kind;
  }
  g_ptr_array_set_size(t->children, 0);
  for (guint i = 0; i < k->makes->len; i++)
    g_ptr_array_add(t->children, plan_task_of(plan, k->makes->pdata[i]));
}

/* Whoever has the memory first, maps it. */
static void set_memory_owners(Plan *plan) {
  for (guint i = 0; i < plan->tasks->len; i++) {
    PlanTask *t = plan->tasks->pdata[i], *was = t->owner[SHARE_MEMORY];
    if (was == t || t->shares_memory)
      continue; /* nothing to change, or it has it from another */
    for (guint k = 0; k < plan->tasks->len; k++) {
      PlanTask *other = plan->tasks->pdata[k];
      if (other->owner[SHARE_MEMORY] == was)
        other->owner[SHARE_MEMORY] = t;
    }
    t->has_sharers |= 1u << SHARE_MEMORY;
  }
}

static bool fail_kinship(const KinshipTrouble *trouble, GError **error) {
  const Kin *k = trouble->kin;
  if (!trouble->other)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "pid %d is in session %d, but neither its parent nor a sibling nor anybody below its parent is; it cannot be put there "
        "again", (int)k->pid, (int)k->sid);
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "pid %d shares its %s with pid %d, or stands between those that do; no order of clone(2) gives it that again", (int)k->pid,
      share_name(trouble->kind), (int)trouble->other->pid);
}

/* Who makes whom. */
static bool plan_kinship(Plan *plan, GError **error) {
  g_autoptr(Kinship) all = kinship_new();
  for (guint i = 0; i < plan->tasks->len; i++) {
    PlanTask *t = plan->tasks->pdata[i];
    Kin *k = kinship_add(all, t->pid, t->parent ? t->parent->kin : NULL);
    t->kin = k;
    k->data = t;
    k->sid = t->sid;
    k->zombie = t->zombie;
    k->late = t->late;
    k->exit_signal = t->exit_signal;
    for (int kind = 0; t->task && t->task->ids && kind < SHARE_KINDS; kind++)
      k->ids[kind] = share_id(t->task, (ShareKind)kind);
  }
  KinshipTrouble trouble;
  if (!kinship_solve(all, &trouble))
    return fail_kinship(&trouble, error);
  for (guint i = 0; i < all->all->len; i++)
    (void)plan_task_of(plan, all->all->pdata[i]);
  for (guint i = 0; i < all->all->len; i++)
    take_answer(plan, all->all->pdata[i]);
  plan->shares = all->shares;
  if (plan->shares)
    set_memory_owners(plan);
  for (guint i = 0; i < plan->tasks->len; i++)
    ((PlanTask *)plan->tasks->pdata[i])->kin = NULL;
  return true;
}

/* Somebody who is in a session and can make others there: who lives, or the one who makes it, though he is there for a moment only. */
static PlanTask *find_member(const Plan *plan, pid_t sid) {
  for (guint i = 0; i < plan->tasks->len; i++) {
    PlanTask *t = plan->tasks->pdata[i];
    if (t->sid == sid && !t->zombie && !t->helper)
      return t;
  }
  return find_task(plan, sid);
}

/* A group whose leader died needs somebody with its pid for a moment. */
static void add_helpers(Plan *plan) {
  guint n = plan->tasks->len;
  for (guint i = 0; i < n; i++) {
    PlanTask *t = plan->tasks->pdata[i];
    /* the dead reap nobody */
    PlanTask *maker = t->zombie && t->parent && t->parent->sid == t->sid ? t->parent : t;
    if (!t->pgid || t->pgid == t->pid || find_task(plan, t->pgid))
      continue;
    maker = maker->zombie ? find_member(plan, t->sid) : maker;
    if (!maker)
      continue;
    PlanTask *h = plan_task_new(t->pgid);
    h->helper = true;
    h->parent = maker;
    h->sid = t->sid;
    h->pgid = h->pid;
    h->exit_signal = SIGCHLD;
    g_ptr_array_add(plan->tasks, h);
  }
}

/* The same for a group in the foreground of a terminal in which nobody lives any more. */
static void add_foreground_helpers(Plan *plan) {
  const GPtrArray *records = plan->checkpoint->records[RECORD_TTY_INFO];
  for (guint i = 0; i < records->len; i++) {
    const TtyInfoEntry *info = (TtyInfoEntry *)((Record *)records->pdata[i])->message;
    PlanTask *leader = info->sid ? find_task(plan, (pid_t)info->sid) : NULL;
    if (!leader || leader->zombie || !leader->setsid || !info->pgrp || find_task(plan, (pid_t)info->pgrp))
      continue;
    PlanTask *h = plan_task_new((pid_t)info->pgrp);
    h->helper = true;
    h->parent = leader;
    h->sid = leader->sid;
    h->pgid = h->pid;
    g_ptr_array_add(plan->tasks, h);
  }
}

static uint64_t estimate_region(const Plan *plan) {
  uint64_t size = (256 << 10) + plan->checkpoint->plugin_objects->len * (24ull << 10);
  for (guint i = 0; i < plan->tasks->len; i++) {
    const PlanTask *t = plan->tasks->pdata[i];
    size += 32 << 10;
    if (!t->task || !t->task->mm)
      continue;
    for (size_t k = 0; k < t->task->mm->n_aios; k++)
      size += (32 << 10) + t->task->mm->aios[k]->ring_len / 32;
    size += t->task->mm->n_vmas * 1024 + t->task->fds->len * 768;
    size += t->task->pages ? t->task->pages->entries->len * 192ull : 0;
    for (guint k = 0; k < t->task->threads->len; k++) {
      const Thread *th = t->task->threads->pdata[k];
      const SignalQueueEntry *q = th->core->thread_core ? th->core->thread_core->signals_p : NULL;
      size += th->extra && th->extra->table ? th->extra->table->n_fds * 768 : 0;
      size += (16 << 10) + seccomp_room(plan->checkpoint, th) + (q ? q->n_signals * 384 : 0);
      q = th->core->tc ? th->core->tc->signals_s : NULL;
      size += q ? q->n_signals * 384 : 0;
    }
  }
  return (size + 0xffff) & ~0xffffull;
}

static void occupy(GArray *used, uint64_t start, uint64_t end) {
  Span r = {start, end};
  g_array_append_val(used, r);
}

static void occupy_attaches(const Plan *plan, const MmEntry *mm, GArray *used) {
  g_autoptr(GArray) attaches = sysv_attaches(plan->checkpoint, mm);
  for (guint i = 0; i < attaches->len; i++) {
    const SysvAttach *a = &g_array_index(attaches, SysvAttach, i);
    occupy(used, a->base, a->base + a->size);
  }
}

static int compare_ranges(gconstpointer a, gconstpointer b) {
  const Span *x = a, *y = b;
  return x->start < y->start ? -1 : x->start > y->start;
}

static bool has_ia32(const Plan *plan) {
  for (guint i = 0; i < plan->tasks->len; i++) {
    const PlanTask *t = plan->tasks->pdata[i];
    if (t->task && !t->zombie && task_is_ia32(t->task))
      return true;
  }
  return false;
}

/* A hole in every address space of the tree, and in ours, through which the tasks are made. */
static bool find_hole(Plan *plan, guint64 behind, GError **error) {
  g_autoptr(GArray) used = g_array_new(FALSE, FALSE, sizeof(Span));
  g_autoptr(GArray) ours = proc_maps(getpid(), error);
  if (!ours)
    return false;
  for (guint i = 0; i < ours->len; i++)
    occupy(used, g_array_index(ours, ProcVma, i).start, g_array_index(ours, ProcVma, i).end);
  for (guint i = 0; i < plan->tasks->len; i++) {
    const PlanTask *t = plan->tasks->pdata[i];
    for (size_t k = 0; t->task && t->task->mm && k < t->task->mm->n_vmas; k++) {
      const VmaEntry *v = t->task->mm->vmas[k];
      /* stacks grow, and the kernel keeps a guard gap below them */
      occupy(used, v->start - (v->flags & 0x100 ? MIN(v->start, 16ull << 20) : 0), v->end);
    }
    if (t->task && t->task->mm)
      occupy_attaches(plan, t->task->mm, used);
    if (t->task && t->task->mm) /* room for the heap to grow is not needed before the release */
      occupy(used, t->task->mm->mm_start_brk, t->task->mm->mm_brk);
  }
  g_array_sort(used, compare_ranges);
  bool low = has_ia32(plan);
  uint64_t at = low ? GAP_LOW_IA32 : GAP_LOW, high = low ? GAP_HIGH_IA32 : GAP_HIGH;
  for (guint i = 0; i <= used->len; i++) {
    uint64_t start = i < used->len ? MIN(g_array_index(used, Span, i).start, high) : high;
    if (start > at && start - at >= plan->region_size + behind + (2 << 20)) {
      plan->region_start = (at + (1 << 20)) & ~0xffffull;
      plan->behind_start = plan->region_start + plan->region_size;
      return true;
    }
    if (i < used->len)
      at = MAX(at, g_array_index(used, Span, i).end);
  }
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "No hole of %" G_GUINT64_FORMAT " bytes is free in all address spaces of the tree", plan->region_size);
}

Plan *plan_new(const Checkpoint *checkpoint, const EngineOptions *options, guint64 behind, GError **error) {
  g_autoptr(Plan) plan = g_new0(Plan, 1);
  plan->checkpoint = checkpoint;
  plan->tasks = g_ptr_array_new_with_free_func(plan_task_free);
  for (guint i = 0; i < checkpoint->tasks->len; i++)
    if (!add_task(plan, checkpoint->tasks->pdata[i], error))
      return NULL;
  if (!plan->tasks->len || ((PlanTask *)plan->tasks->pdata[0])->zombie) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "pstree.img: the root task is not alive");
    return NULL;
  }
  map_session(plan, options);
  if (!plan_kinship(plan, error))
    return NULL;
  add_helpers(plan);
  add_foreground_helpers(plan);
  plan->region_size = estimate_region(plan);
  if (!find_hole(plan, behind, error))
    return NULL;
  return g_steal_pointer(&plan);
}

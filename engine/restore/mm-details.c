/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel keeps about mappings beyond mmap(2)'s arguments and madvise(2)'s flags: policies of NUMA, names,
 * protection keys, seals, and what becomes of mappings to come. */
#include "stages.h"
#include "tiles.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYS_mseal_ 462
#define PR_SET_VMA_ 0x53564d61
#define PR_SET_VMA_ANON_NAME_ 0
#define PR_SET_MDWE_ 65
#define PR_GET_MDWE_ 66
#define PR_THP_DISABLE_EXCEPT_ADVISED_ 2
#define MADV_GUARD_INSTALL_ 102
#define MAP_DROPPABLE_ 8
#define PR_SET_MEMORY_MERGE_ 67
#define N_PKEYS 16
#define PAGE 4096

static const CkptMemory *memory_of(const Task *t) {
  return t->extra ? t->extra->memory : NULL;
}

static int compare_start(const void *key, const void *element) {
  guint64 start = *(const guint64 *)key, there = (*(CkptVma *const *)element)->start;
  return start < there ? -1 : start > there;
}

/* They are in address order. */
static const CkptVma *find_details(const Task *t, const VmaEntry *v) {
  const CkptMemory *m = memory_of(t);
  CkptVma **found = m && m->n_vmas ? bsearch(&v->start, m->vmas, m->n_vmas, sizeof *m->vmas, compare_start) : NULL;
  return found ? *found : NULL;
}

static bool has_pkeys(void) {
  static int known = -1;
  if (known < 0) {
    long key = syscall(SYS_pkey_alloc, 0, 0);
    if (key > 0)
      (void)syscall(SYS_pkey_free, key);
    known = key > 0;
  }
  return known;
}

/* --- what this kernel has --- */

static bool has_mseal(void) {
  return syscall(SYS_mseal_, 0, 0, 0) == 0 || errno != ENOSYS;
}

static bool has_guards(void) {
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool has = page != MAP_FAILED && madvise(page, PAGE, MADV_GUARD_INSTALL_) == 0;
  if (page != MAP_FAILED)
    (void)munmap(page, PAGE);
  return has;
}

static bool has_droppable(void) {
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE_ | MAP_ANONYMOUS, -1, 0);
  if (page != MAP_FAILED)
    (void)munmap(page, PAGE);
  return page != MAP_FAILED;
}

static bool has_mdwe(void) {
  return prctl(PR_GET_MDWE_, 0, 0, 0, 0) >= 0;
}

static bool has_thp_flags(void) {
  unsigned long own = (unsigned long)prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
  bool has = prctl(PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED_, 0, 0) == 0;
  if (has)
    (void)prctl(PR_SET_THP_DISABLE, own & 1, own & ~1ul, 0, 0);
  return has;
}

static bool needs_mseal(const Task *t) {
  const CkptMemory *m = memory_of(t);
  for (size_t k = 0; m && k < m->n_vmas; k++)
    if (m->vmas[k]->sealed)
      return true;
  return false;
}

static bool needs_guards(const Task *t) {
  return t->extra && t->extra->n_guard;
}

static bool needs_droppable(const Task *t) {
  for (size_t k = 0; t->mm && k < t->mm->n_vmas; k++)
    if ((t->mm->vmas[k]->flags & MAP_TYPE) == MAP_DROPPABLE_)
      return true;
  return false;
}

static bool needs_mdwe(const Task *t) {
  const CkptMemory *m = memory_of(t);
  return m && m->mdwe;
}

static bool needs_thp_flags(const Task *t) {
  const CkptMemory *m = memory_of(t);
  return m && m->thp_flags && t->mm && t->mm->thp_disabled;
}

/* What a checkpoint of a newer kernel may need: it must not fail in the middle for want of that. */
static const struct {
  bool (*needed)(const Task *task);
  bool (*here)(void);
  const char *hide, *what; /* an environment variable, for tests */
} novelties[] = {
    {needs_mseal, has_mseal, "CHECKPOINTD_NO_MSEAL", "has sealed memory (mseal(2)), which takes Linux 6.10"},
    {needs_guards, has_guards, "CHECKPOINTD_NO_GUARDS", "has guard regions (MADV_GUARD_INSTALL), which take Linux 6.13"},
    {needs_droppable, has_droppable, "CHECKPOINTD_NO_DROPPABLE", "has droppable memory (MAP_DROPPABLE), which takes Linux 6.11"},
    {needs_mdwe, has_mdwe, "CHECKPOINTD_NO_MDWE", "may not get new code (PR_SET_MDWE), which takes Linux 6.3"},
    {needs_thp_flags, has_thp_flags, "CHECKPOINTD_NO_THP_FLAGS", "has flags of PR_SET_THP_DISABLE, which take Linux 6.18"},
};

static bool check_novelties(const Task *t, int known[static G_N_ELEMENTS(novelties)], GError **error) {
  for (size_t i = 0; i < G_N_ELEMENTS(novelties); i++) {
    if (!novelties[i].needed(t))
      continue;
    if (known[i] < 0)
      known[i] = !g_getenv(novelties[i].hide) && novelties[i].here();
    if (!known[i])
      return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "process %d %s: restore it on a machine that has that",
          (int)task_pid(t), novelties[i].what);
  }
  return true;
}

bool details_check(const Checkpoint *c, GError **error) {
  int known[G_N_ELEMENTS(novelties)];
  memset(known, -1, sizeof known);
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    const CkptMemory *m = memory_of(t);
    if (m && m->pkeys && !has_pkeys())
      return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE,
          "process %d uses memory protection keys (pkey_alloc(2)), which this processor or kernel has not", (int)task_pid(t));
    if (t->extra && t->extra->has_tiles && t->extra->tiles && !tiles_available())
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
          "process %d uses the tile registers of AMX (ARCH_REQ_XCOMP_PERM), which this processor or kernel has not; restore it on a CPU with AMX",
          (int)task_pid(t));
    if (!check_novelties(t, known, error))
      return false;
  }
  return true;
}

/* Another machine may have other nodes: memory comes from anywhere then, as it does without a policy. */
static bool nodes_are_here(const Restore *r, const CkptMempolicy *policy, const char *who) {
  unsigned long mode = policy->mode, max = policy->n_nodes * 64 + 1;
  void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED)
    return false;
  bool ok = syscall(SYS_mbind, page, 4096ul, mode, policy->n_nodes ? policy->nodes : NULL, max, 0) == 0;
  if (!ok)
    job_log(r->job, 4, "%s: its memory policy (mode 0x%x) cannot be set here: %s", who, policy->mode, strerror(errno));
  (void)munmap(page, 4096);
  return ok;
}

static size_t add_nodes(const CkptMempolicy *policy, Program *p) {
  static const guint64 none;
  return program_data(p, policy->n_nodes ? policy->nodes : &none, MAX(policy->n_nodes, 1) * sizeof none);
}

void details_build_policy(const Restore *r, const PlanTask *t, const VmaEntry *v, Program *p) {
  const CkptVma *x = find_details(t->task, v);
  g_autofree char *who = x && x->policy ? g_strdup_printf("pid %d, mapping %" G_GINT64_MODIFIER "x", (int)t->pid, v->start) : NULL;
  if (!who || !nodes_are_here(r, x->policy, who))
    return;
  size_t nodes = add_nodes(x->policy, p);
  PROGRAM_CALL(p, "mbind", SYS_mbind, ARG(v->start), ARG(v->end - v->start), ARG(x->policy->mode), ARG_DATA(nodes),
      ARG(x->policy->n_nodes * 64 + 1), ARG(0));
}

void details_build_thread(const Restore *r, const Thread *th, Program *p) {
  const CkptMempolicy *policy = th->extra ? th->extra->mempolicy : NULL;
  g_autofree char *who = policy ? g_strdup_printf("tid %d", (int)th->tid) : NULL;
  if (!policy || !nodes_are_here(r, policy, who))
    return;
  size_t nodes = add_nodes(policy, p);
  PROGRAM_CALL(p, "set_mempolicy", SYS_set_mempolicy, ARG(policy->mode), ARG_DATA(nodes), ARG(policy->n_nodes * 64 + 1));
}

/* Memory that is only executable has a key, too, which the kernel takes for itself (the lowest that is free) and which
 * pkey_alloc(2) does not give. 0: none. */
static guint32 own_key(const CkptMemory *m) {
  for (size_t i = 0; m && i < m->n_vmas; i++)
    if (m->vmas[i]->pkey && !(m->pkeys & 1u << m->vmas[i]->pkey))
      return m->vmas[i]->pkey;
  return 0;
}

static guint32 keys_of(const CkptMemory *m) {
  guint32 own = own_key(m);
  return m ? m->pkeys | (own ? 1u << own : 0) : 0;
}

/* The lowest free one is what pkey_alloc(2) gives: all up to the last are taken, and those between given back when the
 * kernel has taken its own. */
void details_build_keys(const PlanTask *t, Program *p) {
  const CkptMemory *m = memory_of(t->task), *parent = t->late ? memory_of(t->parent->owner[SHARE_MEMORY]->task) : NULL;
  guint32 keys = keys_of(m), own = own_key(m), parents = own_key(parent);
  if ((!keys && !keys_of(parent)) || !has_pkeys())
    return;
  for (guint32 key = 1; parent && key < N_PKEYS; key++) { /* fork(2) gives them on */
    PROGRAM_CALL(p, "pkey_free", SYS_pkey_free, ARG(key));
    program_expect(p, EXPECT_ANY, 0);
  }
  for (guint32 key = 1; key < N_PKEYS && keys >> key; key++) {
    if (key == parents)
      continue;
    PROGRAM_CALL(p, "pkey_alloc", SYS_pkey_alloc, ARG(0), ARG(0));
    program_expect(p, EXPECT_EQUAL, key);
  }
  if (!own || own == parents)
    return;
  PROGRAM_CALL(p, "pkey_free", SYS_pkey_free, ARG(own));
  size_t op = PROGRAM_CALL(p, "mmap code", SYS_mmap, ARG(0), ARG(PAGE), ARG(PROT_EXEC), ARG(MAP_PRIVATE | MAP_ANONYMOUS), ARG(-1), ARG(0));
  PROGRAM_CALL(p, "munmap code", SYS_munmap, ARG_RESULT(op), ARG(PAGE)); /* the kernel keeps the key */
}

static void build_free_keys(const CkptMemory *m, Program *p) {
  guint32 keys = keys_of(m);
  for (guint32 key = 1; key < N_PKEYS && keys >> key && has_pkeys(); key++)
    if (!(keys & 1u << key))
      PROGRAM_CALL(p, "pkey_free", SYS_pkey_free, ARG(key));
}

static void build_vma(const PlanTask *t, const VmaEntry *v, const CkptVma *x, Program *p) {
  if (x->name) {
    size_t name = program_string(p, x->name);
    PROGRAM_CALL(p, "prctl SET_VMA", SYS_prctl, ARG(PR_SET_VMA_), ARG(PR_SET_VMA_ANON_NAME_), ARG(v->start), ARG(v->end - v->start),
        ARG_DATA(name));
    program_expect(p, EXPECT_ANY, 0); /* for people; not every kernel keeps them */
  }
  if (x->pkey && memory_of(t->task)->pkeys & 1u << x->pkey)
    PROGRAM_CALL(p, "pkey_mprotect", SYS_pkey_mprotect, ARG(v->start), ARG(v->end - v->start), ARG(v->prot), ARG(x->pkey));
}

/* Of all anonymous memory, but not what the program has taken out of it. */
static void build_merge(const MmEntry *mm, Program *p) {
  PROGRAM_CALL(p, "prctl SET_MEMORY_MERGE", SYS_prctl, ARG(PR_SET_MEMORY_MERGE_), ARG(1), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0); /* as advice is */
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    bool special = v->status & (VMA_AREA_VSYSCALL | VMA_AREA_VDSO | VMA_AREA_VVAR);
    if (special || (v->has_madv && v->madv & (1ull << MADV_MERGEABLE)))
      continue;
    PROGRAM_CALL(p, "madvise UNMERGEABLE", SYS_madvise, ARG(v->start), ARG(v->end - v->start), ARG(MADV_UNMERGEABLE));
    program_expect(p, EXPECT_ANY, 0);
  }
}

void details_build(const Restore *r, const PlanTask *t, Program *p) {
  const CkptMemory *m = memory_of(t->task);
  const MmEntry *mm = t->task->mm;
  if (!m)
    return;
  build_free_keys(m, p);
  if (m->merge)
    build_merge(mm, p);
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const CkptVma *x = find_details(t->task, mm->vmas[i]);
    if (x)
      build_vma(t, mm->vmas[i], x, p);
    if (x && t->late)
      details_build_policy(r, t, mm->vmas[i], p); /* its parent's may be another one */
  }
  if (m->mlock_future)
    PROGRAM_CALL(p, "mlockall", SYS_mlockall, ARG(m->mlock_future & (MCL_FUTURE | MCL_ONFAULT)));
  if (m->mdwe)
    PROGRAM_CALL(p, "prctl SET_MDWE", SYS_prctl, ARG(PR_SET_MDWE_), ARG(m->mdwe), ARG(0), ARG(0), ARG(0));
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const CkptVma *x = find_details(t->task, mm->vmas[i]);
    if (x && x->sealed)
      PROGRAM_CALL(p, "mseal", SYS_mseal_, ARG(mm->vmas[i]->start), ARG(mm->vmas[i]->end - mm->vmas[i]->start), ARG(0));
  }
}

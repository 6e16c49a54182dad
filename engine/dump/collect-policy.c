/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc does not show about a process's memory: policies of NUMA, what mlockall(2) and prctl(2) have said about
 * mappings to come, and which protection keys are taken. */
#include "aio.h"
#include "collect.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ull
#define MPOL_F_ADDR_ 2
#define PR_GET_MDWE_ 66
#define PR_GET_MEMORY_MERGE_ 68
#define N_PKEYS 16
#define NO_MAPPING 0x00fffffffffff000ull /* the page behind the last one, with four levels of page tables and with five */

guint mempolicy_max_nodes(void) {
  static guint known = G_MAXUINT;
  if (known != G_MAXUINT)
    return known;
  guint64 mask[64];
  int mode;
  known = 0;
  for (guint n = 64; n <= 4096 && !known; n *= 2) /* the least that the kernel takes */
    if (syscall(SYS_get_mempolicy, &mode, mask, (unsigned long)n, NULL, 0) == 0)
      known = n;
    else if (errno != EINVAL)
      break;
  return known;
}

size_t mempolicy_size(void) {
  return 8 + mempolicy_max_nodes() / 8;
}

CkptMempolicy *mempolicy_decode(const unsigned char *data) {
  int mode;
  memcpy(&mode, data, sizeof mode);
  if (!mode)
    return NULL;
  CkptMempolicy *p = malloc(sizeof *p);
  ckpt_mempolicy__init(p);
  p->mode = (guint32)mode;
  p->n_nodes = mempolicy_max_nodes() / 64;
  p->nodes = malloc(p->n_nodes * sizeof *p->nodes);
  memcpy(p->nodes, data + 8, p->n_nodes * sizeof *p->nodes);
  return p;
}

static void add_policies(MemoryOps *m, const FrozenTask *task, Program *p) {
  size_t size = mempolicy_size();
  m->n_policies = mempolicy_max_nodes() ? task->facts.vmas->len : 0;
  m->policies = program_data(p, NULL, m->n_policies * size);
  for (size_t i = 0; i < m->n_policies; i++) {
    size_t at = m->policies + i * size;
    PROGRAM_CALL(p, "get_mempolicy", SYS_get_mempolicy, ARG_DATA(at), ARG_DATA(at + 8), ARG(mempolicy_max_nodes()),
        ARG(g_array_index(task->facts.vmas, ProcVma, i).start), ARG(MPOL_F_ADDR_));
    program_expect(p, EXPECT_ANY, 0); /* not of [vsyscall] */
  }
}

static bool has_pkeys(const FrozenTask *task) {
  return task->facts.vmas->len && g_array_index(task->facts.vmas, ProcVma, 0).pkey >= 0;
}

void memory_ops_add(MemoryOps *m, const FrozenTask *task, Program *p) {
  /* The region was mapped like any other mapping: locked if that is what becomes of new ones. This advice is refused then,
   * and does nothing of consequence otherwise. */
  m->future = PROGRAM_CALL(p, "madvise COLD", SYS_madvise, ARG(0), ARG(PAGE), ARG(MADV_COLD));
  program_expect(p, EXPECT_ANY, 0);
  m->mdwe = PROGRAM_CALL(p, "prctl GET_MDWE", SYS_prctl, ARG(PR_GET_MDWE_), ARG(0), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  m->merge = PROGRAM_CALL(p, "prctl GET_MEMORY_MERGE", SYS_prctl, ARG(PR_GET_MEMORY_MERGE_), ARG(0), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  size_t entry = program_data(p, NULL, 8);
  m->ldt = PROGRAM_CALL(p, "modify_ldt", SYS_modify_ldt, ARG(0), ARG_DATA(entry), ARG(8));
  program_expect(p, EXPECT_ANY, 0); /* 0: there never was an entry; not every kernel has the call */
  /* With a key that is not taken pkey_mprotect(2) fails with EINVAL before it looks for the mapping. */
  m->pkeys = program_n_ops(p);
  for (int key = 1; has_pkeys(task) && key < N_PKEYS; key++) {
    PROGRAM_CALL(p, "pkey_mprotect", SYS_pkey_mprotect, ARG(NO_MAPPING), ARG(PAGE), ARG(PROT_NONE), ARG(key));
    program_expect(p, EXPECT_ANY, 0);
  }
  m->rings = program_n_ops(p);
  for (guint i = 0; i < task->facts.vmas->len; i++) { /* a child's copy is no context of its own */
    const ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, i);
    if (!g_str_has_prefix(v->path, AIO_RING_PATH))
      continue;
    PROGRAM_CALL(p, "io_getevents", SYS_io_getevents, ARG(v->start), ARG(0), ARG(0), ARG(0), ARG(0));
    program_expect(p, EXPECT_ANY, 0);
  }
  add_policies(m, task, p);
}

void memory_ops_set_region(const MemoryOps *m, Program *p, uint64_t address) {
  program_set_arg(p, m->future, 0, address);
}

CkptMemory *task_memory(FrozenTask *task) {
  CkptTask *x = task->model->extra;
  if (!x->memory) {
    x->memory = malloc(sizeof *x->memory);
    ckpt_memory__init(x->memory);
  }
  return x->memory;
}

/* Whether new mappings are locked at once or when they are touched, smaps tells of the region. */
static bool decode_future(FrozenTask *task, GError **error) {
  g_autoptr(GArray) vmas = proc_vmas(task->view, error);
  if (!vmas)
    return false;
  guint64 region = region_remote(injection_region(task->injection));
  CkptMemory *m = task_memory(task);
  m->has_mlock_future = true;
  m->mlock_future = MCL_FUTURE;
  for (guint i = 0; i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    if (v->start <= region && v->end > region && v->flags & VMF_LOCKONFAULT)
      m->mlock_future |= MCL_ONFAULT;
  }
  return true;
}

static void policy_free(void *p) {
  if (p)
    ckpt_mempolicy__free_unpacked(p, NULL);
}

static void decode_policies(const MemoryOps *m, FrozenTask *task) {
  const LoadedProgram *l = &task->leader_loaded;
  task->policies = g_ptr_array_new_with_free_func(policy_free);
  for (size_t i = 0; i < m->n_policies; i++)
    g_ptr_array_add(task->policies, mempolicy_decode(l->data + m->policies + i * mempolicy_size()));
}

static void decode_rings(const MemoryOps *m, const FrozenTask *task) {
  const int64_t *result = task->leader_loaded.results + m->rings;
  for (guint i = 0; i < task->facts.vmas->len; i++) {
    ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, i);
    if (g_str_has_prefix(v->path, AIO_RING_PATH))
      v->foreign_ring = *result++ < 0;
  }
}

bool memory_ops_decode(const MemoryOps *m, FrozenTask *task, GError **error) {
  const gint64 *results = (const gint64 *)task->leader_loaded.results;
  if (results[m->mdwe] > 0) {
    task_memory(task)->has_mdwe = true;
    task_memory(task)->mdwe = (guint32)results[m->mdwe];
  }
  if (results[m->merge] > 0)
    task_memory(task)->has_merge = task_memory(task)->merge = true;
  task->has_ldt = results[m->ldt] > 0;
  guint32 keys = 0;
  for (int key = 1; has_pkeys(task) && key < N_PKEYS; key++)
    keys |= results[m->pkeys + (size_t)key - 1] == -ENOMEM ? 1u << key : 0;
  if (keys) {
    task_memory(task)->has_pkeys = true;
    task_memory(task)->pkeys = keys;
  }
  decode_rings(m, task);
  if (m->n_policies)
    decode_policies(m, task);
  return results[m->future] != -EINVAL || decode_future(task, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mappings of rings (io_uring(7)). The kernel wants to choose their address itself, so it is left no choice: all that is free
 * in the address space is taken for a moment, but the one hole. */
#include "stages.h"
#include "uring.h"
#include <sys/mman.h>
#include <sys/syscall.h>

#define LOWEST 0x1000ull /* before Linux 6.4 a privileged task is given even what lies below sysctl vm.mmap_min_addr */
#define LOW_END 0x10000ull
#define HIGHEST 0x7ffffffff000ull

bool ring_is_map(const Restore *r, const VmaEntry *v) {
  return v->status & VMA_FILE_SHARED && !(v->status & VMA_EXT_PLUGIN) && r->checkpoint->urings->len &&
         checkpoint_find_uring(r->checkpoint, (guint32)v->shmid);
}

/* Whoever may not fill the lowest addresses is not given them, either. */
static void fill(Program *p, guint64 start, guint64 end) {
  PROGRAM_CALL(p, "mmap to fill a gap", SYS_mmap, ARG(start), ARG(end - start), ARG(PROT_NONE),
      ARG(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE), ARG(-1), ARG(0));
  program_expect(p, end <= LOW_END ? EXPECT_ANY : EXPECT_EQUAL, (gint64)start);
}

static void empty(Program *p, guint64 start, guint64 end) {
  PROGRAM_CALL(p, "munmap a filled gap", SYS_munmap, ARG(start), ARG(end - start));
}

typedef void (*GapFunc)(Program *p, guint64 start, guint64 end);

static void at_gap(Program *p, guint64 start, guint64 end, GapFunc func) {
  if (start < LOW_END)
    func(p, start, MIN(end, LOW_END));
  if (end > LOW_END)
    func(p, MAX(start, LOW_END), end);
}

/* What is there besides the mappings of the image, all of it between two of them: the agents' region, and behind it the vdso of this kernel
 * where the image has another's. */
static guint find_others(const Restore *r, const PlanTask *t, AddressSpan others[static 1 + FOREIGN_VDSO_SPANS]) {
  others[0].start = r->plan->region_start;
  others[0].end = others[0].start + r->plan->region_size;
  return 1 + foreign_vdso_spans(r, t, others + 1);
}

/* What lies between all these. */
static void each_gap(const Restore *r, const PlanTask *t, Program *p, GapFunc func) {
  const MmEntry *mm = t->task->mm;
  AddressSpan others[1 + FOREIGN_VDSO_SPANS];
  guint n_others = find_others(r, t, others), other = 0;
  guint64 at = LOWEST;
  for (size_t i = 0; i <= mm->n_vmas; i++) {
    const VmaEntry *v = i < mm->n_vmas ? mm->vmas[i] : NULL;
    guint64 start = v ? MIN(v->start, HIGHEST) : HIGHEST;
    for (; other < n_others && others[other].start < start; other++) {
      if (others[other].start > at)
        at_gap(p, at, others[other].start, func);
      at = MAX(at, others[other].end);
    }
    if (start > at)
      at_gap(p, at, start, func);
    at = MAX(at, v ? v->end : HIGHEST);
  }
}

static bool is_wanted(const Restore *r, const VmaEntry *v, const CkptUring *only) {
  if (!ring_is_map(r, v))
    return false;
  const CkptUring *u = checkpoint_find_uring(r->checkpoint, (guint32)v->shmid);
  return only ? u == only : !(u->flags & IORING_SETUP_SQPOLL);
}

/* Those that are made later come in the order of their records. */
static bool is_missing(const Restore *r, const VmaEntry *v, const CkptUring *only) {
  guint at = 0, from = 0;
  if (!only || !ring_is_map(r, v))
    return ring_is_map(r, v);
  CkptUring *u = checkpoint_find_uring(r->checkpoint, (guint32)v->shmid);
  (void)g_ptr_array_find(r->checkpoint->urings, u, &at);
  (void)g_ptr_array_find(r->checkpoint->urings, only, &from);
  return u->flags & IORING_SETUP_SQPOLL && at >= from;
}

static bool build_maps(Restore *r, const PlanTask *t, const CkptUring *only, int only_fd, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm;
  size_t n = 0;
  for (size_t i = 0; i < mm->n_vmas; i++)
    n += is_wanted(r, mm->vmas[i], only);
  if (!n)
    return true;
  each_gap(r, t, p, fill);
  for (size_t i = 0; i < mm->n_vmas; i++)
    if (is_missing(r, mm->vmas[i], only))
      fill(p, mm->vmas[i]->start, mm->vmas[i]->end);
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (!is_wanted(r, v, only))
      continue;
    int fd = only ? only_fd : restore_fd(r, (guint32)v->shmid, error);
    if (fd < 0)
      return false;
    empty(p, v->start, v->end);
    PROGRAM_CALL(p, "mmap a ring", SYS_mmap, ARG(0), ARG(v->end - v->start), ARG(v->prot), ARG(MAP_SHARED), ARG(fd), ARG(v->pgoff));
    program_expect(p, EXPECT_EQUAL, (gint64)v->start);
  }
  each_gap(r, t, p, empty);
  for (size_t i = 0; i < mm->n_vmas; i++)
    if (is_missing(r, mm->vmas[i], only) && !is_wanted(r, mm->vmas[i], only))
      empty(p, mm->vmas[i]->start, mm->vmas[i]->end);
  return true;
}

bool ring_maps_build(Restore *r, PlanTask *t, Program *p, GError **error) {
  return build_maps(r, t, NULL, -1, p, error);
}

bool ring_maps_build_late(Restore *r, const PlanTask *t, const CkptUring *u, int fd, Program *p, GError **error) {
  if (!build_maps(r, t, u, fd, p, error))
    return false;
  for (size_t i = 0; i < t->task->mm->n_vmas; i++)
    if (is_wanted(r, t->task->mm->vmas[i], u))
      mm_build_advice(t->task->mm->vmas[i], p);
  return true;
}

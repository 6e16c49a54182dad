/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ipc-shm.pb-c.h"
#include "memfd.pb-c.h"
#include "verify.h"
#include <inttypes.h>

/* Mappings and pagemaps. */

#define TASK_SIZE_MAX ((guint64)1 << 56) /* five-level page tables; four levels end at 1 << 47 */
#define IA32_TASK_SIZE ((guint64)1 << 32)
#define PAGE_MASK ((guint64)IMAGE_PAGE_SIZE - 1)
#define PE_KNOWN (PE_PARENT | PE_LAZY | PE_PRESENT)

static bool vma_fail(GError **error, guint64 pid, const VmaEntry *v, const char *reason) {
  return image_invalid(error, IMAGE_MM, pid, "mapping %" PRIx64 "-%" PRIx64 ": %s", v->start, v->end, reason);
}

/* shmid is the file id of mapped files. */
static bool verify_vma_file(const Checkpoint *c, guint64 pid, const VmaEntry *v, GError **error) {
  if (v->status & VMA_AREA_SOCKET)
    return (v->status == (VMA_AREA_REGULAR | VMA_AREA_SOCKET) && v->shmid <= G_MAXUINT32 &&
               verify_file_type(c, (guint32)v->shmid) == FD_TYPES__PACKETSK) ||
           vma_fail(error, pid, v, "it is a ring of a packet socket that is not in files.img");
  if (!(v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED)) || (v->status & VMA_EXT_PLUGIN))
    return true;
  FdTypes type = v->shmid <= G_MAXUINT32 ? verify_file_type(c, (guint32)v->shmid) : FD_TYPES__UND;
  if (type == FD_TYPES__UND)
    return vma_fail(error, pid, v, "its file is not in files.img");
  if (type == FD_TYPES__EXT && checkpoint_find_uring(c, (guint32)v->shmid))
    return v->status == (VMA_AREA_REGULAR | VMA_FILE_SHARED) || vma_fail(error, pid, v, "it is a ring, and not mapped as one");
  if ((v->status & VMA_AREA_MEMFD) ? type != FD_TYPES__MEMFD : type != FD_TYPES__REG)
    return vma_fail(error, pid, v, "its file is of the wrong type");
  return true;
}

/* In full pages, which may be huge ones. */
static guint64 segment_size(const IpcShmEntry *e) {
  guint shift = e->has_hugetlb_flag ? (e->hugetlb_flag >> 26) & 0x3f : 0;
  guint64 mask = shift > 12 && shift < 40 ? (1ull << shift) - 1 : PAGE_MASK;
  return (e->size + mask) & ~mask;
}

/* A System V segment is attached as a whole, and parts of it may be unmapped again. */
static bool verify_vma_sysv(const Checkpoint *c, guint64 pid, const VmaEntry *v, GError **error) {
  if (!(v->status & VMA_AREA_SYSVIPC))
    return true;
  const GPtrArray *records = c->records[RECORD_IPC_SHM];
  for (guint i = 0; i < records->len; i++) {
    const IpcShmEntry *e = (const IpcShmEntry *)((const Record *)records->pdata[i])->message;
    if (e->desc->id == v->shmid)
      return (e->size <= G_MAXINT64 / 2 && v->start >= v->pgoff && v->pgoff + (v->end - v->start) <= segment_size(e)) ||
             vma_fail(error, pid, v, "it is not a part of its System V segment");
  }
  return vma_fail(error, pid, v, "there is no image of its System V segment");
}

static bool verify_vma(const Checkpoint *c, guint64 pid, const VmaEntry *v, guint64 floor, GError **error) {
  if ((v->start | v->end) & PAGE_MASK)
    return vma_fail(error, pid, v, "not page aligned");
  if (v->start >= v->end)
    return vma_fail(error, pid, v, "it ends before it begins");
  if (v->start < floor)
    return vma_fail(error, pid, v, "it overlaps the one before it or is out of order");
  if (v->end > TASK_SIZE_MAX && !(v->status & VMA_AREA_VSYSCALL))
    return vma_fail(error, pid, v, "beyond the address space");
  if ((v->pgoff & PAGE_MASK) || v->pgoff > G_MAXINT64 || v->end - v->start > G_MAXINT64 - v->pgoff)
    return vma_fail(error, pid, v, "its offset is not page aligned or too large");
  return verify_vma_file(c, pid, v, error) && verify_vma_sysv(c, pid, v, error);
}

static bool verify_mm(const Checkpoint *c, guint64 pid, const MmEntry *mm, bool ia32, GError **error) {
  FdTypes exe = verify_file_type(c, mm->exe_file_id);
  if (exe != FD_TYPES__REG && exe != FD_TYPES__MEMFD)
    return image_invalid(error, IMAGE_MM, pid, "executable: file id %u is no regular file entry", mm->exe_file_id);
  if (mm->n_mm_saved_auxv > 128)
    return image_invalid(error, IMAGE_MM, pid, "%zu words of auxiliary vector", mm->n_mm_saved_auxv);
  guint64 floor = 0;
  for (size_t i = 0; i < mm->n_vmas; i++) {
    if (!verify_vma(c, pid, mm->vmas[i], floor, error))
      return false;
    floor = mm->vmas[i]->end;
    if (ia32 && floor > IA32_TASK_SIZE && !(mm->vmas[i]->status & VMA_AREA_VSYSCALL))
      return vma_fail(error, pid, mm->vmas[i], "beyond the address space of a 32-bit program");
  }
  return true;
}

/* One entry of a pagemap, which must begin at @floor or above; its end goes to *ret_end. */
static bool verify_pages(
    ImageKindId id, guint64 number, const PagemapEntry *e, guint64 floor, guint64 *ret_end, GError **error) {
  guint64 n = pagemap_entry_n_pages(e);
  if (e->vaddr & PAGE_MASK)
    return image_invalid(error, id, number, "address %" PRIx64 ": not page aligned", e->vaddr);
  if (n == 0 || n > (G_MAXINT64 >> 12) || e->vaddr > G_MAXINT64 - n * IMAGE_PAGE_SIZE)
    return image_invalid(error, id, number, "address %" PRIx64 ": %" PRIu64 " pages", e->vaddr, n);
  if (e->vaddr < floor)
    return image_invalid(
        error, id, number, "address %" PRIx64 ": overlaps the entry before it or is out of order", e->vaddr);
  guint32 flags = pagemap_entry_flags(e);
  if ((flags & ~(guint32)PE_KNOWN) || ((flags & PE_PARENT) && (flags & PE_PRESENT)))
    return image_invalid(error, id, number, "address %" PRIx64 ": flags %x", e->vaddr, flags);
  if (flags & PE_PARENT) {
    char name[IMAGE_NAME_MAX];
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "%s: address %" PRIx64 ": the pages lie in an earlier checkpoint, which is not supported",
        image_name(name, id, number), e->vaddr);
  }
  *ret_end = e->vaddr + n * IMAGE_PAGE_SIZE;
  return true;
}

/* Every page must lie in a mapping. @at: index of the first mapping that may hold it, moved along. */
static bool verify_mapped(guint64 pid, const MmEntry *mm, guint64 start, guint64 end, size_t *at, GError **error) {
  while (*at < mm->n_vmas && mm->vmas[*at]->end <= start)
    (*at)++;
  for (size_t i = *at; start < end; i++) {
    if (i >= mm->n_vmas || mm->vmas[i]->start > start)
      return image_invalid(error, IMAGE_PAGEMAP, pid, "address %" PRIx64 ": not in a mapping", start);
    start = mm->vmas[i]->end;
  }
  return true;
}

/* In address order, each where a mapping begins. */
static bool verify_details(guint64 pid, const MmEntry *mm, const CkptMemory *m, GError **error) {
  size_t at = 0;
  for (size_t i = 0; m && i < m->n_vmas; i++, at++) {
    const CkptVma *x = m->vmas[i];
    while (at < mm->n_vmas && mm->vmas[at]->start < x->start)
      at++;
    if (at == mm->n_vmas || mm->vmas[at]->start != x->start)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "process %" PRIu64 ": no mapping begins at %" PRIx64, pid, x->start);
    if (x->pkey > 15 || (x->policy && x->policy->n_nodes > 64))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "process %" PRIu64 ": mapping %" PRIx64 " has an impossible key or policy", pid, x->start);
  }
  return !m || m->pkeys <= 0xffff || image_invalid(error, IMAGE_CHECKPOINT, 0, "process %" PRIu64 ": protection keys %x", pid, m->pkeys);
}

bool verify_memory(const Checkpoint *c, const Task *t, GError **error) {
  guint64 pid = t->pstree->pid, floor = 0;
  size_t at = 0;
  if (!verify_mm(c, pid, t->mm, task_is_ia32(t), error) || !verify_details(pid, t->mm, t->extra ? t->extra->memory : NULL, error))
    return false;
  for (guint i = 0; i < t->pages->entries->len; i++) {
    const PagemapEntry *e = t->pages->entries->pdata[i];
    if (!verify_pages(IMAGE_PAGEMAP, pid, e, floor, &floor, error) ||
        !verify_mapped(pid, t->mm, e->vaddr, floor, &at, error))
      return false;
  }
  return true;
}

static bool verify_shmem_pages(guint64 shmid, const PageSet *pages, GError **error) {
  guint64 floor = 0;
  for (guint i = 0; i < pages->entries->len; i++)
    if (!verify_pages(IMAGE_SHMEM_PAGEMAP, shmid, pages->entries->pdata[i], floor, &floor, error))
      return false;
  return true;
}

bool verify_shmem(const Checkpoint *c, GError **error) {
  GHashTableIter iter;
  gpointer shmid, pages;
  g_hash_table_iter_init(&iter, c->shmem);
  while (g_hash_table_iter_next(&iter, &shmid, &pages))
    if (!verify_shmem_pages(*(guint64 *)shmid, pages, error))
      return false;
  const GPtrArray *memfds = c->records[RECORD_MEMFD];
  for (guint i = 0; i < memfds->len; i++) {
    const MemfdInodeEntry *m = (MemfdInodeEntry *)((Record *)memfds->pdata[i])->message;
    const PageSet *set = checkpoint_find_shmem(c, m->shmid);
    if (!set && m->size > 0)
      return image_invalid(error, IMAGE_SHMEM_PAGEMAP, m->shmid, "missing, though memfd.img names it");
    const PagemapEntry *last = set && set->entries->len ? set->entries->pdata[set->entries->len - 1] : NULL;
    if (last && (last->vaddr & ~PAGE_MASK) + pagemap_entry_n_pages(last) * IMAGE_PAGE_SIZE >
                    ((m->size + PAGE_MASK) & ~PAGE_MASK))
      return image_invalid(error, IMAGE_SHMEM_PAGEMAP, m->shmid, "pages beyond the end of the memfd");
  }
  return true;
}

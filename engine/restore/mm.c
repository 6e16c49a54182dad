/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory: mappings at their final addresses, pages read straight from the image file into place by the task itself. A task
 * that was forked from a parent with its memory keeps what is the same, so that both go on sharing those pages. */
#include "aio.h"
#include "image.h"
#include "present-vdso.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ull
#define MADV_GUARD_INSTALL_ 102
#define READ_MAX (64ull << 20)
#define IOV_BATCH 1024u
#define MAP_DROPPABLE_ 8 /* since 6.11 */
#define KEPT_MAP_FLAGS (MAP_PRIVATE | MAP_SHARED | MAP_DROPPABLE_ | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | MAP_HUGETLB | (0x3fu << 26))

bool mm_open_pages(Restore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->tasks->len; i++) {
    const Task *t = r->checkpoint->tasks->pdata[i];
    if (!t->pages || !page_set_n_present(t->pages) || g_hash_table_contains(r->pages_fds, GUINT_TO_POINTER(t->pages->pages_id)))
      continue;
    int fd = image_open_pages(job_images_fd(r->job), t->pages->pages_id, error);
    if (fd < 0)
      return false;
    g_hash_table_insert(r->pages_fds, GUINT_TO_POINTER(t->pages->pages_id), GINT_TO_POINTER(fd + 1));
    if (t->mm && t->mm->n_aios && !r->null_fd)
      r->null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC) + 1;
  }
  return true;
}

static int pages_fd(const Restore *r, const PageSet *pages) {
  return GPOINTER_TO_INT(g_hash_table_lookup(r->pages_fds, GUINT_TO_POINTER(pages->pages_id))) - 1;
}

/* With five levels of page tables mappings may lie above 47 bits, if a program asks for it. */
guint64 mm_task_size(void) {
  static guint64 known;
  if (!known) {
    void *wish = (void *)(uintptr_t)(1ull << 48); /* NOLINT(performance-no-int-to-ptr) */
    void *high = mmap(wish, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    known = (high != MAP_FAILED && (uintptr_t)high >= 1ull << 47 ? 1ull << 56 : 1ull << 47) - PAGE;
    if (high != MAP_FAILED)
      (void)munmap(high, PAGE);
  }
  return known;
}

int mm_file_fd(Restore *r, const Task *task, const VmaEntry *v, guint64 *ret_pgoff, GError **error) {
  int fd = -1;
  *ret_pgoff = v->pgoff;
  if (!r->restorer)
    return (int)v->shmid;
  if (v->status & VMA_EXT_PLUGIN)
    return plugin_return_mapping(r->plugin_return, task, v, &fd, ret_pgoff, error) ? fd : -1;
  return restorer_fd_for_mapping(r->restorer, (guint32)v->shmid, v->has_fdflags ? (int)v->fdflags : 0, error);
}

static bool is_special(const VmaEntry *v) {
  return v->status & (VMA_AREA_VSYSCALL | VMA_AREA_VDSO | VMA_AREA_VVAR);
}

bool mm_find_pages(const PageSet *set, guint64 address, guint64 n_pages, guint64 *ret_offset) {
  guint64 index = 0;
  for (guint i = 0; set && i < set->entries->len; i++) {
    const PagemapEntry *e = set->entries->pdata[i];
    guint64 n = pagemap_entry_n_pages(e);
    bool present = pagemap_entry_flags(e) & PE_PRESENT;
    if (present && address >= e->vaddr && address + n_pages * PAGE <= e->vaddr + n * PAGE) {
      *ret_offset = (index + (address - e->vaddr) / PAGE) * PAGE;
      return true;
    }
    index += present ? n : 0;
  }
  return false;
}

static bool build_ring(Restore *r, const PlanTask *t, const VmaEntry *v, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm;
  const AioRingEntry *ring = NULL;
  AioHeader header;
  guint64 at;
  for (size_t i = 0; i < mm->n_aios && !ring; i++)
    ring = mm->aios[i]->id == v->start ? mm->aios[i] : NULL;
  if (!ring || ring->ring_len != v->end - v->start || !mm_find_pages(t->task->pages, v->start, ring->ring_len / PAGE, &at) ||
      pread(pages_fd(r, t->task->pages), &header, sizeof header, (off_t)at) != sizeof header || !aio_header_valid(&header, ring->ring_len))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "mm-%d.img: the AIO ring at 0x%" G_GINT64_MODIFIER "x is none", (int)t->pid, v->start);
  aio_ring_build(ring, v->start, &header, r->null_fd - 1, pages_fd(r, t->task->pages), at, p);
  return true;
}

/* Whether any page of the task is kept in the image for this mapping; @at: a cursor into the entries. */
static bool has_pages(const Task *t, const VmaEntry *v, guint *at) {
  const GPtrArray *e = t->pages ? t->pages->entries : NULL;
  while (e && *at < e->len) {
    const PagemapEntry *p = e->pdata[*at];
    if (p->vaddr + pagemap_entry_n_pages(p) * PAGE > v->start)
      return p->vaddr < v->end;
    (*at)++;
  }
  return false;
}

/* Parts of an attach: what lies between them goes, protections follow. */
static void build_parts(const MmEntry *mm, const SysvAttach *a, Program *p) {
  guint32 given = PROT_READ | (a->executable ? PROT_EXEC : 0u) | (a->read_only ? 0u : PROT_WRITE);
  guint64 at = a->base;
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (!sysv_attach_has(a, v))
      continue;
    if (v->start > at)
      PROGRAM_CALL(p, "munmap a part", SYS_munmap, ARG(at), ARG(v->start - at));
    if (given != v->prot)
      PROGRAM_CALL(p, "mprotect", SYS_mprotect, ARG(v->start), ARG(v->end - v->start), ARG(v->prot));
    at = v->end;
  }
  if (a->base + a->size > at)
    PROGRAM_CALL(p, "munmap a part", SYS_munmap, ARG(at), ARG(a->base + a->size - at));
}

/* Before anything else is mapped: each is attached as a whole. */
static bool build_attaches(Restore *r, const PlanTask *t, Program *p, GError **error) {
  g_autoptr(GArray) attaches = sysv_attaches(r->checkpoint, t->task->mm);
  for (guint i = 0; i < attaches->len; i++) {
    const SysvAttach *a = &g_array_index(attaches, SysvAttach, i);
    if (r->restorer && !restorer_sysv(r->restorer, a->shmid, error)) {
      g_prefix_error(error, "pid %d: ", (int)t->pid);
      return false;
    }
    PROGRAM_CALL(p, "shmat", SYS_shmat, ARG(a->shmid), ARG(a->base), ARG((a->executable ? SHM_EXEC : 0) | (a->read_only ? SHM_RDONLY : 0)));
    program_expect(p, EXPECT_EQUAL, (gint64)a->base);
    build_parts(t->task->mm, a, p);
  }
  return true;
}

static bool build_map(Restore *r, const PlanTask *t, const VmaEntry *v, bool writable, Program *p, GError **error) {
  int fd = -1;
  guint64 pgoff = v->pgoff;
  if (v->status & VMA_AREA_AIORING)
    return build_ring(r, t, v, p, error);
  if (v->status & VMA_AREA_SYSVIPC)
    return true; /* build_attaches() */
  if (v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_AREA_SOCKET)) {
    bool anonymous = v->status & VMA_ANON_SHARED;
    fd = anonymous && r->restorer ? restorer_anon_shared(r->restorer, v->shmid, error) : mm_file_fd(r, t->task, v, &pgoff, error);
    if (fd < 0) {
      g_prefix_error(error, "pid %d: mapping at 0x%" G_GINT64_MODIFIER "x: ", (int)t->pid, v->start);
      return false;
    }
  } else if (!(v->status & VMA_ANON_PRIVATE)) {
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "pid %d: the mapping at 0x%" G_GINT64_MODIFIER "x is of a kind (status 0x%x) that cannot be restored yet", (int)t->pid, v->start, v->status);
  }
  guint32 prot = v->prot | (writable ? PROT_READ | PROT_WRITE : 0);
  guint32 flags = (v->flags & KEPT_MAP_FLAGS & (fd < 0 ? ~0u : ~(guint32)MAP_ANONYMOUS)) | MAP_FIXED_NOREPLACE;
  PROGRAM_CALL(p, "mmap", SYS_mmap, ARG(v->start), ARG(v->end - v->start), ARG(prot), ARG(flags), ARG((gint64)fd), ARG(pgoff));
  program_expect(p, EXPECT_EQUAL, (gint64)v->start);
  details_build_policy(r, t, v, p); /* before there are pages */
  return true;
}

/* vvar and vdso, where they were. */
static void build_vdso(const Restore *r, const PlanTask *t, Program *p) {
  const MmEntry *mm = t->task->mm;
  if (foreign_vdso_has(r->foreign_vdso, t->task)) {
    foreign_vdso_build(r, t, p);
    return;
  }
  guint64 start = 0;
  for (size_t i = 0; i < mm->n_vmas; i++)
    if (mm->vmas[i]->status & (VMA_AREA_VVAR | VMA_AREA_VDSO)) {
      start = mm->vmas[i]->start;
      break;
    }
  if (start)
    present_vdso_build(task_is_ia32(t->task), start, p);
}

/* Collects iovecs and cuts them into preadv(2) calls. */
typedef struct Reader {
  Program *program;
  int fd;
  guint64 offset;      /* in the pages file, of the batch's start */
  guint64 bytes;       /* in the batch */
  struct iovec iov[IOV_BATCH];
  unsigned n;
} Reader;

static void reader_flush(Reader *rd) {
  if (rd->n) {
    size_t iov = program_data(rd->program, rd->iov, rd->n * sizeof *rd->iov);
    PROGRAM_CALL(rd->program, "preadv pages", SYS_preadv, ARG(rd->fd), ARG_DATA(iov), ARG(rd->n), ARG(rd->offset), ARG(0));
    program_expect(rd->program, EXPECT_EQUAL, (gint64)rd->bytes);
  }
  rd->offset += rd->bytes;
  rd->bytes = 0;
  rd->n = 0;
}

static void reader_add(Reader *rd, guint64 address, guint64 size) {
  while (size) {
    guint64 part = MIN(size, READ_MAX - rd->bytes);
    struct iovec *last = rd->n ? &rd->iov[rd->n - 1] : NULL;
    if (last && (uintptr_t)last->iov_base + last->iov_len == address)
      last->iov_len += part;
    else
      rd->iov[rd->n++] = (struct iovec){(void *)(uintptr_t)address, part};
    rd->bytes += part;
    address += part;
    size -= part;
    if (rd->n == IOV_BATCH || rd->bytes == READ_MAX)
      reader_flush(rd);
  }
}

static void reader_skip(Reader *rd, guint64 size) {
  reader_flush(rd);
  rd->offset += size;
}

/* The first mapping that ends above @address; mm->n_vmas if there is none. */
static size_t find_vma(const MmEntry *mm, guint64 address) {
  size_t low = 0, high = mm->n_vmas;
  while (low < high) {
    size_t mid = (low + high) / 2;
    if (mm->vmas[mid]->end > address)
      high = mid;
    else
      low = mid + 1;
  }
  return low;
}

/* Pages of one entry that lie in mappings made by the kernel are not for us. */
static guint64 special_until(const MmEntry *mm, guint64 address, guint64 end, bool *special) {
  size_t i = find_vma(mm, address);
  const VmaEntry *v = i < mm->n_vmas ? mm->vmas[i] : NULL;
  *special = !v || (address >= v->start && (is_special(v) || v->status & VMA_AREA_AIORING));
  return !v ? end : MIN(end, address >= v->start ? v->end : v->start);
}

static bool check_entry(const PlanTask *t, const PagemapEntry *e, GError **error) {
  if (!(pagemap_entry_flags(e) & PE_PARENT))
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "pagemap-%d.img refers to pages of an earlier checkpoint (parent); incremental checkpoints cannot be restored yet", (int)t->pid);
}

static bool build_reads(Restore *r, const PlanTask *t, Program *p, GError **error) {
  const PageSet *pages = t->task->pages;
  if (!pages || !page_set_n_present(pages))
    return true;
  g_autofree Reader *rd = g_new0(Reader, 1);
  rd->program = p;
  rd->fd = pages_fd(r, pages);
  for (guint i = 0; i < pages->entries->len; i++) {
    const PagemapEntry *e = pages->entries->pdata[i];
    if (!check_entry(t, e, error))
      return false;
    guint64 at = e->vaddr, end = at + pagemap_entry_n_pages(e) * PAGE;
    while (at < end) {
      bool special;
      guint64 until = special_until(t->task->mm, at, end, &special);
      if (special)
        reader_skip(rd, until - at);
      else
        reader_add(rd, at, until - at);
      at = until;
    }
    r->pages_restored += pagemap_entry_n_pages(e);
  }
  reader_flush(rd);
  return true;
}

static bool build_fresh(Restore *r, PlanTask *t, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm;
  guint at = 0;
  if (t->parent) { /* forked from a parent that has memory already */
    guint64 end = r->plan->region_start + r->plan->region_size;
    PROGRAM_CALL(p, "munmap below", SYS_munmap, ARG(0), ARG(r->plan->region_start));
    PROGRAM_CALL(p, "munmap above", SYS_munmap, ARG(end), ARG(mm_task_size() - end));
  }
  if (!build_attaches(r, t, p, error))
    return false;
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (!is_special(v) && !ring_is_map(r, v) && !build_map(r, t, v, (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) && has_pages(t->task, v, &at), p, error))
      return false;
  }
  build_vdso(r, t, p);
  return build_reads(r, t, p, error);
}

/* Where the pages of an address space lie in its pages file. */
typedef struct PageCursor {
  const PageSet *set;
  const unsigned char *bytes; /* the pages file, mapped */
  size_t size;
  guint entry;
  guint64 index; /* of the entry's first page in the file */
} PageCursor;

static bool cursor_open(PageCursor *c, const Restore *r, const PageSet *set, GError **error) {
  *c = (PageCursor){.set = set};
  if (!set || !page_set_n_present(set))
    return true;
  c->size = page_set_n_present(set) * PAGE;
  void *m = mmap(NULL, c->size, PROT_READ, MAP_SHARED, pages_fd(r, set), 0);
  if (m == MAP_FAILED)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot map pages-%u.img", set->pages_id);
  c->bytes = m;
  return true;
}

static void cursor_close(PageCursor *c) {
  if (c->bytes)
    munmap((void *)(uintptr_t)c->bytes, c->size);
}

/* The page at @address (ascending calls), NULL when it is not kept; @ret_index its place in the file. */
static const unsigned char *cursor_page(PageCursor *c, guint64 address, guint64 *ret_index) {
  const GPtrArray *e = c->set ? c->set->entries : NULL;
  while (e && c->entry < e->len) {
    const PagemapEntry *p = e->pdata[c->entry];
    guint64 n = pagemap_entry_n_pages(p), end = p->vaddr + n * PAGE;
    if (address < p->vaddr)
      return NULL;
    if (address < end && (pagemap_entry_flags(p) & PE_PRESENT)) {
      *ret_index = c->index + (address - p->vaddr) / PAGE;
      return c->bytes + *ret_index * PAGE;
    }
    if (address < end)
      return NULL;
    c->index += pagemap_entry_flags(p) & PE_PRESENT ? n : 0;
    c->entry++;
  }
  return NULL;
}

/* The parent has made its pages writable for good or ill; what the child lacks is dropped, what differs is read. */
static void build_difference(Restore *r, const VmaEntry *v, PageCursor *child, PageCursor *parent, Reader *rd, Program *p) {
  guint64 drop = 0;
  for (guint64 at = v->start; at <= v->end; at += PAGE) {
    guint64 ci = 0, pi = 0;
    const unsigned char *c = at < v->end ? cursor_page(child, at, &ci) : NULL;
    const unsigned char *q = at < v->end ? cursor_page(parent, at, &pi) : NULL;
    bool dropped = !c && q;
    if (dropped && !drop)
      drop = at;
    if (!dropped && drop) {
      PROGRAM_CALL(p, "madvise DONTNEED", SYS_madvise, ARG(drop), ARG(at - drop), ARG(MADV_DONTNEED));
      drop = 0;
    }
    if (!c)
      continue;
    if (q && memcmp(c, q, PAGE) == 0) {
      r->pages_shared++;
      continue;
    }
    if (rd->offset + rd->bytes != ci * PAGE) {
      reader_flush(rd);
      rd->offset = ci * PAGE;
    }
    reader_add(rd, at, PAGE);
    r->pages_restored++;
  }
}

static const VmaEntry *same_in_parent(const VmaEntry *v, const MmEntry *parent) {
  size_t i = find_vma(parent, v->start);
  return i < parent->n_vmas && !is_special(v) && plan_vma_shared(v, parent->vmas[i]) ? parent->vmas[i] : NULL;
}

static bool same_vdso(const Restore *r, const Task *task, const Task *parent) {
  const MmEntry *a = task->mm, *b = parent->mm;
  guint64 x = 0, y = 0;
  if (foreign_vdso_has(r->foreign_vdso, task) || foreign_vdso_has(r->foreign_vdso, parent))
    return false;
  for (size_t i = 0; i < a->n_vmas && !x; i++)
    x = a->vmas[i]->status & (VMA_AREA_VVAR | VMA_AREA_VDSO) ? a->vmas[i]->start : 0;
  for (size_t i = 0; i < b->n_vmas && !y; i++)
    y = b->vmas[i]->status & (VMA_AREA_VVAR | VMA_AREA_VDSO) ? b->vmas[i]->start : 0;
  return x == y && task_is_ia32(task) == task_is_ia32(parent);
}

/* Unmaps everything that is not kept from the parent: the gaps between the kept mappings and the region. */
static void build_unmap(const Restore *r, const PlanTask *t, Program *p) {
  const MmEntry *mm = t->task->mm, *parent = t->parent->task->mm;
  guint64 at = 0;
  bool vdso = same_vdso(r, t->task, t->parent->task), region_done = false;
  for (size_t i = 0; i <= mm->n_vmas; i++) {
    const VmaEntry *v = i < mm->n_vmas ? mm->vmas[i] : NULL;
    guint64 start = v ? v->start : mm_task_size(), end = v ? v->end : mm_task_size();
    bool kept = !v || same_in_parent(v, parent) || (vdso && is_special(v));
    if (!region_done && start >= r->plan->region_start) {
      region_done = true;
      if (r->plan->region_start > at)
        PROGRAM_CALL(p, "munmap", SYS_munmap, ARG(at), ARG(r->plan->region_start - at));
      at = r->plan->region_start + r->plan->region_size;
    }
    if (!kept || start > mm_task_size())
      continue;
    if (start > at)
      PROGRAM_CALL(p, "munmap", SYS_munmap, ARG(at), ARG(start - at));
    at = MAX(at, end);
  }
}

/* Whether an inherited mapping can be written to as it comes: those above may have other protections, and no pages for which they
 * would have been lifted. */
static bool comes_writable(const PlanTask *t, const VmaEntry *v) {
  for (; v && v->prot & PROT_WRITE; t = t->parent) {
    if (!t->late)
      return true;
    v = same_in_parent(v, t->parent->task->mm);
    if (!v)
      return true; /* made by this task */
  }
  return false;
}

static bool build_inherited(Restore *r, PlanTask *t, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm, *parent = t->parent->task->mm;
  PageCursor child, theirs;
  build_unmap(r, t, p);
  if (!same_vdso(r, t->task, t->parent->task))
    build_vdso(r, t, p);
  if (!build_attaches(r, t, p, error) || !cursor_open(&child, r, t->task->pages, error))
    return false;
  bool ok = cursor_open(&theirs, r, t->parent->task->pages, error);
  guint at = 0;
  for (size_t i = 0; ok && i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (ring_is_map(r, v))
      continue;
    if (!is_special(v) && !same_in_parent(v, parent))
      ok = build_map(r, t, v, (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) && has_pages(t->task, v, &at), p, error);
    else if (!is_special(v) && has_pages(t->task, v, &at) && !comes_writable(t, v))
      PROGRAM_CALL(p, "mprotect to fill", SYS_mprotect, ARG(v->start), ARG(v->end - v->start), ARG(v->prot | PROT_READ | PROT_WRITE));
  }
  g_autofree Reader *rd = g_new0(Reader, 1);
  rd->program = p;
  rd->fd = t->task->pages && page_set_n_present(t->task->pages) ? pages_fd(r, t->task->pages) : -1;
  PageCursor none = {.set = NULL};
  for (size_t i = 0; ok && i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (!is_special(v) && (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)))
      build_difference(r, v, &child, same_in_parent(v, parent) ? &theirs : &none, rd, p);
  }
  reader_flush(rd);
  cursor_close(&child);
  cursor_close(&theirs);
  return ok;
}

bool mm_build(Restore *r, PlanTask *t, Program *p, GError **error) {
  if (t->owner[SHARE_MEMORY] != t)
    return true;
  details_build_keys(t, p);
  return (t->late ? build_inherited(r, t, p, error) : build_fresh(r, t, p, error)) && ring_maps_build(r, t, p, error) &&
         plugin_return_build(r->plugin_return, t->task, t->late, p, error);
}

static void build_advice(guint64 start, guint64 end, guint64 advice, Program *p) {
  static const int advices[] = {MADV_DONTFORK, MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_WIPEONFORK,
      MADV_SEQUENTIAL, MADV_RANDOM};
  for (size_t i = 0; i < G_N_ELEMENTS(advices); i++)
    if (advice & (1ull << advices[i])) {
      PROGRAM_CALL(p, "madvise", SYS_madvise, ARG(start), ARG(end - start), ARG(advices[i]));
      program_expect(p, EXPECT_ANY, 0); /* advice only: a kernel without THP or KSM refuses it */
    }
}

void mm_build_advice(const VmaEntry *v, Program *p) {
  build_advice(v->start, v->end, v->has_madv ? v->madv : 0, p);
}

/* Stacks of thousands of threads lie side by side, all with the same advice. */
static bool is_advised_alike(const VmaEntry *v, const VmaEntry *next) {
  return (v->status & VMA_ANON_PRIVATE) && (next->status & VMA_ANON_PRIVATE) && !((v->flags | next->flags) & MAP_HUGETLB) &&
         v->end == next->start && v->has_madv && next->has_madv && v->madv == next->madv && !is_special(v) && !is_special(next);
}

/* For the first of those that are side by side, once for all. */
static void build_advice_once(const MmEntry *mm, size_t i, Program *p) {
  const VmaEntry *v = mm->vmas[i];
  size_t last = i;
  if (i && is_advised_alike(mm->vmas[i - 1], v))
    return;
  while (last + 1 < mm->n_vmas && is_advised_alike(mm->vmas[last], mm->vmas[last + 1]))
    last++;
  build_advice(v->start, mm->vmas[last]->end, v->has_madv ? v->madv : 0, p);
}

static bool is_locked_on_fault(const Task *t, const VmaEntry *v) {
  for (size_t i = 0; t->extra && i < t->extra->n_mlocked_onfault; i++)
    if (t->extra->mlocked_onfault[i]->vaddr == v->start)
      return true;
  return false;
}

static void build_vma_finish(const PlanTask *t, size_t i, bool filled, bool ring, Program *p) {
  const VmaEntry *v = t->task->mm->vmas[i];
  if (v->status & VMA_AREA_AIORING)
    return;
  if ((t->late && !ring) || (filled && (v->prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE)))
    PROGRAM_CALL(p, "mprotect", SYS_mprotect, ARG(v->start), ARG(v->end - v->start), ARG(v->prot));
  build_advice_once(t->task->mm, i, p);
  if (!(v->flags & MAP_LOCKED))
    return;
  PROGRAM_CALL(p, "mlock2", SYS_mlock2, ARG(v->start), ARG(v->end - v->start), ARG(is_locked_on_fault(t->task, v) ? 1 : 0));
  if (!(v->prot & (PROT_READ | PROT_WRITE | PROT_EXEC)))
    program_expect(p, EXPECT_ANY, 0); /* it is locked, but ENOMEM says that nothing could be brought in */
}

static bool build_mm_map(Restore *r, PlanTask *t, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm;
  int exe = restore_fd(r, mm->exe_file_id, error);
  if (exe < 0)
    return false;
  size_t auxv = program_data(p, mm->mm_saved_auxv, mm->n_mm_saved_auxv * 8);
  struct prctl_mm_map map = {.start_code = mm->mm_start_code, .end_code = mm->mm_end_code, .start_data = mm->mm_start_data,
      .end_data = mm->mm_end_data, .start_brk = mm->mm_start_brk, .brk = mm->mm_brk, .start_stack = mm->mm_start_stack,
      .arg_start = mm->mm_arg_start, .arg_end = mm->mm_arg_end, .env_start = mm->mm_env_start, .env_end = mm->mm_env_end,
      .auxv_size = (guint32)(mm->n_mm_saved_auxv * 8), .exe_fd = (guint32)exe};
  size_t at = program_data(p, &map, sizeof map);
  program_data_pointer(p, at + offsetof(struct prctl_mm_map, auxv), auxv);
  PROGRAM_CALL(p, "prctl SET_MM_MAP", SYS_prctl, ARG(PR_SET_MM), ARG(PR_SET_MM_MAP), ARG_DATA(at), ARG(sizeof map), ARG(0));
  if (mm->has_thp_disabled && mm->thp_disabled) {
    const CkptMemory *x = t->task->extra ? t->task->extra->memory : NULL;
    PROGRAM_CALL(p, "prctl SET_THP_DISABLE", SYS_prctl, ARG(PR_SET_THP_DISABLE), ARG(1), ARG(x ? x->thp_flags : 0), ARG(0), ARG(0));
  }
  return true;
}

bool mm_build_finish(Restore *r, PlanTask *t, Program *p, GError **error) {
  const MmEntry *mm = t->task->mm;
  guint at = 0;
  if (t->owner[SHARE_MEMORY] != t)
    return files_build_directories(r, t, p, error);
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (!is_special(v))
      build_vma_finish(t, i, (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) &&
              (t->late || has_pages(t->task, v, &at) || plugin_return_has(r->plugin_return, t->task, v)), ring_is_map(r, v), p);
  }
  for (size_t i = 0; t->task->extra && i < t->task->extra->n_guard; i++) {
    const CkptRange *g = t->task->extra->guard[i];
    PROGRAM_CALL(p, "madvise GUARD_INSTALL", SYS_madvise, ARG(g->vaddr), ARG(g->nr_pages * PAGE), ARG(MADV_GUARD_INSTALL_));
  }
  if (!build_mm_map(r, t, p, error))
    return false;
  details_build(r, t, p);
  return files_build_directories(r, t, p, error);
}

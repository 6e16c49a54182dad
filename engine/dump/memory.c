/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page contents. Each byte is copied twice, but by two threads at once: one reads chunks out of the tasks
 * (process_vm_readv(2)), the other writes them to the pages file while they are still in the cache. */
#include "collect.h"
#include "image.h"
#include "page-writer.h"
#include "pagemap.h"
#include "tracee.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ull

typedef struct DumpRange {
  uint64_t start, end;
  bool anonymous; /* pages of zeroes need not be kept */
  bool readable;  /* by process_vm_readv; else through /proc/PID/mem */
} DumpRange;

/* The private memory of one task that has to be kept. */
typedef struct TaskMemory {
  FrozenTask *task;
  GArray *ranges; /* DumpRange */
  guint64 pages;
} TaskMemory;

static void task_memory_free(void *p) {
  TaskMemory *m = p;
  g_array_unref(m->ranges);
  g_free(m);
}

static void add_guard(FrozenTask *task, const PageRange *r) {
  CkptTask *x = task->model->extra;
  x->guard = realloc(x->guard, (x->n_guard + 1) * sizeof *x->guard);
  CkptRange *g = x->guard[x->n_guard++] = malloc(sizeof *g);
  ckpt_range__init(g);
  g->vaddr = r->start;
  g->nr_pages = (r->end - r->start) / PAGE;
}

static bool scan_vma(TaskMemory *m, Pagemap *pagemap, const VmaEntry *v, GArray *scratch, GError **error) {
  if (!(v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || (v->status & (VMA_AREA_VVAR | VMA_AREA_VDSO | VMA_AREA_VSYSCALL)))
    return true;
  g_array_set_size(scratch, 0);
  if (!pagemap_scan(pagemap, v->start, v->end, scratch, error))
    return false;
  for (guint i = 0; i < scratch->len; i++) {
    const PageRange *r = &g_array_index(scratch, PageRange, i);
    if (r->guard) {
      add_guard(m->task, r);
      continue;
    }
    DumpRange d = {r->start, r->end, (v->status & VMA_ANON_PRIVATE) != 0, (v->prot & 1) != 0};
    g_array_append_val(m->ranges, d);
    m->pages += (r->end - r->start) / PAGE;
  }
  return true;
}

static TaskMemory *scan_task(FrozenTask *task, GError **error) {
  g_autoptr(Pagemap) pagemap = pagemap_open(task->pid, g_getenv("CHECKPOINTD_NO_PAGEMAP_SCAN") != NULL, error);
  if (!pagemap)
    return NULL;
  TaskMemory *m = g_new0(TaskMemory, 1);
  m->task = task;
  m->ranges = g_array_new(FALSE, FALSE, sizeof(DumpRange));
  g_autoptr(GArray) scratch = g_array_new(FALSE, FALSE, sizeof(PageRange));
  const MmEntry *mm = task->model->mm;
  for (size_t i = 0; i < mm->n_vmas; i++)
    if (!scan_vma(m, pagemap, mm->vmas[i], scratch, error)) {
      task_memory_free(m);
      return NULL;
    }
  return m;
}

static ssize_t read_by_mem(pid_t pid, uint64_t address, void *buffer, size_t size) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  ssize_t n = pread(fd, buffer, size, (off_t)address);
  int err = errno;
  (void)close(fd);
  return n < 0 ? -err : n;
}

static bool read_chunk(const FrozenTask *task, const DumpRange *r, uint64_t at, unsigned char *buffer, size_t size, GError **error) {
  int e = r->readable ? tracee_read(task->pid, at, buffer, size) : -EFAULT;
  if (e == -EFAULT) /* not readable for the task itself (PROT_NONE, exec-only) */
    e = read_by_mem(task->pid, at, buffer, size) == (ssize_t)size ? 0 : -EFAULT;
  if (e == 0)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "pid %d (%s): cannot read its memory at 0x%" G_GINT64_MODIFIER "x",
      (int)task->pid, task->stat.comm, at);
}

static bool is_zero(const unsigned char *page) {
  const uint64_t *w = (const uint64_t *)(const void *)page;
  if (w[0] | w[511])
    return false;
  uint64_t any = 0;
  for (size_t i = 0; i < PAGE / 8; i += 8) {
    any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
    if (any)
      return false;
  }
  return true;
}

/* Leaves out the pages of zeroes: moves the others together and notes them in @set. */
static size_t keep_pages(PageSet *set, uint64_t vaddr, unsigned char *buffer, size_t size, bool skip_zero, MemoryStats *stats) {
  if (!skip_zero) {
    page_set_add(set, vaddr, size / PAGE, PE_PRESENT);
    return size;
  }
  size_t kept = 0, run = 0;
  for (size_t at = 0; at <= size; at += PAGE) {
    if (at < size && !is_zero(buffer + at)) {
      run += PAGE;
      continue;
    }
    if (run) {
      page_set_add(set, vaddr + at - run, run / PAGE, PE_PRESENT);
      if (kept != at - run)
        memmove(buffer + kept, buffer + at - run, run);
      kept += run;
      run = 0;
    }
    stats->pages_zero += at < size;
  }
  return kept;
}

static bool dump_range(Job *job, const FrozenTask *task, const DumpRange *r, PageSet *set, PageWriter *writer, MemoryStats *stats, GError **error) {
  for (uint64_t at = r->start; at < r->end;) {
    size_t room;
    unsigned char *buffer = page_writer_reserve(writer, &room, error);
    if (!buffer)
      return false;
    size_t size = MIN(room, r->end - at);
    if (!read_chunk(task, r, at, buffer, size, error))
      return false;
    size_t kept = keep_pages(set, at, buffer, size, r->anonymous, stats);
    page_writer_commit(writer, kept);
    stats->pages_scanned += size / PAGE;
    stats->pages_written += kept / PAGE;
    stats->bytes_written += kept;
    job_add_bytes(job, size);
    at += size;
    if (!job_poll(job, error))
      return false;
  }
  return true;
}

static bool dump_task(Job *job, TaskMemory *m, guint32 pages_id, PageWriter *writer, MemoryStats *stats, GError **error) {
  int fd = image_create_pages(job_images_fd(job), pages_id, error);
  if (fd < 0)
    return false;
  PageSet *set = m->task->model->pages = page_set_new(pages_id);
  g_autofree char *name = g_strdup_printf("pages-%u.img", pages_id);
  page_writer_begin(writer, fd, name, set); /* takes fd */
  for (guint i = 0; i < m->ranges->len; i++)
    if (!dump_range(job, m->task, &g_array_index(m->ranges, DumpRange, i), set, writer, stats, error))
      return false;
  page_writer_finish(writer);
  return true;
}

static bool dump_shmem_extent(Job *job, const CollectedShmem *s, guint64 start, guint64 end, PageSet *set, PageWriter *writer,
    MemoryStats *stats, GError **error) {
  while (start < end) {
    size_t room;
    unsigned char *buffer = page_writer_reserve(writer, &room, error);
    if (!buffer)
      return false;
    size_t want = MIN(room, end - start), padded = (want + PAGE - 1) & ~(size_t)(PAGE - 1);
    ssize_t n = pread(s->fd, buffer, want, (off_t)start);
    if (n < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read shared memory %" G_GUINT64_FORMAT, s->shmid);
    memset(buffer + n, 0, padded - (size_t)n);
    size_t kept = keep_pages(set, start, buffer, padded, true, stats);
    page_writer_commit(writer, kept);
    stats->pages_scanned += padded / PAGE;
    stats->pages_written += kept / PAGE;
    stats->bytes_written += kept;
    job_add_bytes(job, want);
    start += padded;
    if (!job_poll(job, error))
      return false;
  }
  return true;
}

static bool dump_shmem(Job *job, Checkpoint *checkpoint, const CollectedShmem *s, guint32 pages_id, PageWriter *writer, MemoryStats *stats, GError **error) {
  int fd = image_create_pages(job_images_fd(job), pages_id, error);
  if (fd < 0)
    return false;
  PageSet *set = page_set_new(pages_id);
  checkpoint_add_shmem(checkpoint, s->shmid, set);
  g_autofree char *name = g_strdup_printf("pages-%u.img", pages_id);
  page_writer_begin(writer, fd, name, set);
  for (off_t data = 0; (guint64)data < s->size;) {
    data = lseek(s->fd, data, SEEK_DATA);
    if (data < 0)
      break; /* ENXIO: nothing but holes from here on */
    off_t hole = lseek(s->fd, data, SEEK_HOLE);
    guint64 start = (guint64)data & ~(PAGE - 1), end = hole < 0 ? s->size : MIN((guint64)hole, s->size);
    if (!dump_shmem_extent(job, s, start, end, set, writer, stats, error))
      return false;
    data = (off_t)end;
  }
  page_writer_finish(writer);
  return true;
}

static GPtrArray *scan_all(FrozenTree *tree, guint64 *ret_pages, GError **error) {
  g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(task_memory_free);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (task->zombie)
      continue;
    TaskMemory *m = scan_task(task, error);
    if (!m)
      return NULL;
    *ret_pages += m->pages;
    g_ptr_array_add(all, m);
  }
  return g_steal_pointer(&all);
}

bool dump_memory(Job *job, FrozenTree *tree, Checkpoint *checkpoint, const Collector *collector, MemoryStats *stats, GError **error) {
  guint64 pages = 0;
  g_autoptr(GPtrArray) all = scan_all(tree, &pages, error);
  if (!all)
    return false;
  size_t n_shmem;
  const CollectedShmem *shmem = collector_shmems(collector, &n_shmem);
  guint64 bytes = pages * PAGE;
  for (size_t i = 0; i < n_shmem; i++)
    bytes += shmem[i].size;
  job_set_total(job, bytes);
  PageWriter *writer = page_writer_new(bytes);
  guint32 pages_id = 1;
  bool ok = true;
  for (size_t i = 0; ok && i < n_shmem; i++)
    ok = dump_shmem(job, checkpoint, &shmem[i], pages_id++, writer, stats, error);
  for (guint i = 0; ok && i < all->len; i++)
    ok = dump_task(job, all->pdata[i], pages_id++, writer, stats, error);
  return page_writer_free(writer, ok ? error : NULL) && ok;
}

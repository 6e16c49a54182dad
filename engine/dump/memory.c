/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page contents: which pages a checkpoint needs, and that they are copied. */
#include "aio.h"
#include "collect.h"
#include "page-writer.h"
#include "pagemap.h"
#include "tracers.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE 4096ull
#define SPAN_GAP (2ull << 20) /* of nothing between mappings that one scan covers */

typedef struct DumpRange {
  uint64_t start, end;
  bool anonymous; /* pages of zeroes need not be kept */
  bool readable;  /* by process_vm_readv; else through /proc/PID/mem */
} DumpRange;

/* The private memory of one task that has to be kept. */
typedef struct TaskMemory {
  FrozenTask *task;
  GArray *ranges; /* DumpRange */
} TaskMemory;

static TaskMemory *task_memory_new(FrozenTask *task) {
  TaskMemory *m = g_new0(TaskMemory, 1);
  m->task = task;
  m->ranges = g_array_new(FALSE, FALSE, sizeof(DumpRange));
  return m;
}

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

static bool has_own_pages(const VmaEntry *v) {
  return (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) && !(v->status & (VMA_AREA_VVAR | VMA_AREA_VDSO | VMA_AREA_VSYSCALL | VMA_EXT_PLUGIN));
}

static void add_pages(TaskMemory *m, const VmaEntry *v, const PageRange *r) {
  PageRange part = {MAX(r->start, v->start), MIN(r->end, v->end), r->guard};
  if (part.start >= part.end)
    return;
  if (part.guard) {
    add_guard(m->task, &part);
    return;
  }
  if (m->task->provided && g_hash_table_contains(m->task->provided, &v->start))
    return;
  DumpRange d = {part.start, part.end, (v->status & VMA_ANON_PRIVATE) != 0, (v->prot & 1) != 0};
  g_array_append_val(m->ranges, d);
}

/* The code of this kernel's vdso, for the case that the restore happens under another one; rings of asynchronous I/O. */
static void add_whole(TaskMemory *m, const VmaEntry *v) {
  DumpRange d = {v->start, v->end, false, (v->prot & 1) != 0};
  g_array_append_val(m->ranges, d);
}

/* The mappings [@first, @end), scanned in one go. */
static bool scan_span(TaskMemory *m, Pagemap *pagemap, VmaEntry **vmas, size_t first, size_t end, GArray *scratch, GError **error) {
  g_array_set_size(scratch, 0);
  if (!pagemap_scan(pagemap, vmas[first]->start, vmas[end - 1]->end, scratch, error))
    return false;
  guint at = 0;
  for (size_t i = first; i < end; i++) {
    const VmaEntry *v = vmas[i];
    while (at < scratch->len && g_array_index(scratch, PageRange, at).end <= v->start)
      at++;
    for (guint k = at; has_own_pages(v) && k < scratch->len && g_array_index(scratch, PageRange, k).start < v->end; k++)
      add_pages(m, v, &g_array_index(scratch, PageRange, k));
  }
  return true;
}

/* Where the next span begins: mappings close to each other (stacks of threads) make one. */
static size_t span_end(VmaEntry **vmas, size_t n, size_t first) {
  size_t i = first + 1;
  while (has_own_pages(vmas[first]) && i < n && has_own_pages(vmas[i]) && vmas[i]->start - vmas[i - 1]->end <= SPAN_GAP)
    i++;
  return i;
}

static bool scan_task(TaskMemory *m, GError **error) {
  g_autoptr(Pagemap) pagemap = pagemap_open(m->task->view, g_getenv("CHECKPOINTD_NO_PAGEMAP_SCAN") != NULL, error);
  g_autoptr(GArray) scratch = g_array_new(FALSE, FALSE, sizeof(PageRange));
  const MmEntry *mm = m->task->model->mm;
  if (!pagemap)
    return false;
  bool ok = true;
  for (size_t i = 0, end; ok && i < mm->n_vmas; i = end) {
    end = span_end(mm->vmas, mm->n_vmas, i);
    if (mm->vmas[i]->status & (VMA_AREA_VDSO | VMA_AREA_AIORING))
      add_whole(m, mm->vmas[i]);
    ok = !has_own_pages(mm->vmas[i]) || scan_span(m, pagemap, mm->vmas, i, end, scratch, error);
  }
  return ok;
}

/* Files and ranges of a task, in address order. */
static void add_task(PageWriter *writer, const TaskMemory *m, guint32 pages_id) {
  PageSet *set = m->task->model->pages = page_set_new(pages_id);
  page_writer_file(writer, &(PageSource){.pid = m->task->view, .comm = m->task->stat.comm, .fd = -1}, set);
  for (guint i = 0; i < m->ranges->len; i++) {
    const DumpRange *r = &g_array_index(m->ranges, DumpRange, i);
    page_writer_range(writer, r->start, r->end,
        (r->anonymous ? PAGE_RANGE_SKIP_ZERO : 0) | (r->readable ? 0 : PAGE_RANGE_UNREADABLE));
  }
}

static void add_shmem(PageWriter *writer, Checkpoint *checkpoint, const CollectedShmem *s, guint32 pages_id) {
  PageSet *set = page_set_new(pages_id);
  checkpoint_add_shmem(checkpoint, s->shmid, set);
  page_writer_file(writer, &(PageSource){.fd = s->fd, .shmid = s->shmid}, set);
  for (off_t data = 0; (guint64)data < s->size;) {
    data = lseek(s->fd, data, SEEK_DATA);
    if (data < 0)
      break; /* ENXIO: nothing but holes from here on */
    off_t hole = lseek(s->fd, data, SEEK_HOLE);
    guint64 start = (guint64)data & ~(PAGE - 1), end = hole < 0 ? s->size : MIN((guint64)hole, s->size);
    end = (end + PAGE - 1) & ~(PAGE - 1);
    page_writer_range(writer, start, end, PAGE_RANGE_SKIP_ZERO);
    data = (off_t)end;
  }
}

#define RING_QUIET_USEC 50000
#define RING_UNSURE_USEC (2 * G_USEC_PER_SEC)
#define RING_PATIENCE_USEC (60 * G_USEC_PER_SEC)

/* Whether no block device of the machine is busy with any request; true, too, where the kernel does not tell
 * (Documentation/ABI/stable/sysfs-block: inflight). */
static bool disks_are_idle(void) {
  g_autoptr(GDir) dir = g_dir_open("/sys/block", 0, NULL);
  for (const char *name; dir && (name = g_dir_read_name(dir));) {
    g_autofree char *path = g_strdup_printf("/sys/block/%s/inflight", name);
    g_autofree char *text = NULL;
    unsigned long reads, writes;
    if (g_file_get_contents(path, &text, NULL, NULL) && sscanf(text, "%lu %lu", &reads, &writes) == 2 && reads + writes)
      return false;
  }
  return true;
}

/* A sum over the tails of all rings of the tree, and how many there are. */
static guint64 sum_tails(const FrozenTree *tree, guint *ret_n) {
  guint64 sum = 0;
  *ret_n = 0;
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    const MmEntry *mm = task->zombie ? NULL : task->model->mm;
    for (size_t k = 0; mm && k < mm->n_aios; k++) {
      guint32 tail = 0;
      (void)aio_ring_tail(task->view, mm->aios[k]->id, &tail);
      sum = sum * 31 + tail;
      ++*ret_n;
    }
  }
  return sum;
}

/* Requests that are under way complete while the tree stands still, and write into its memory: until nothing does any
 * more. How many there are the kernel does not tell: a short while without any is enough if the disks had nothing to do
 * meanwhile, and else a longer one. */
static bool drain_rings(Job *job, const FrozenTree *tree, GError **error) {
  guint n;
  guint64 before = sum_tails(tree, &n);
  gint64 began = g_get_monotonic_time(), changed = began;
  bool idle = false;
  if (!n)
    return true;
  for (gint64 now = began; now - changed < (idle ? RING_QUIET_USEC : RING_UNSURE_USEC); now = g_get_monotonic_time()) {
    guint64 sum = sum_tails(tree, &n);
    if (sum != before)
      changed = now, idle = false;
    idle = idle || disks_are_idle();
    before = sum;
    if (now - began > RING_PATIENCE_USEC)
      return engine_fail(error, ENGINE_ERROR_CODE__BUSY, "Asynchronous I/O (io_submit(2)) of the tree does not come to an end; try again");
    g_usleep(1000);
  }
  job_log(job, 4, "waited %d ms for the end of asynchronous I/O; requests that wait for an event (IOCB_CMD_POLL) cannot be seen and are lost",
      (int)((g_get_monotonic_time() - began) / 1000));
  return true;
}

typedef struct Scans {
  GPtrArray *memories; /* TaskMemory */
  gint next;
  GError *errors[2]; /* of each tracer's thread */
} Scans;

/* It is no tracing: whoever has a hand free takes the next. */
static void scan_share(void *data, unsigned which) {
  Scans *s = data;
  for (gint i; !s->errors[which] && (i = g_atomic_int_add(&s->next, 1)) < (gint)s->memories->len;)
    (void)scan_task(s->memories->pdata[i], &s->errors[which]);
}

static GPtrArray *scan_all(FrozenTree *tree, GError **error) {
  g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(task_memory_free);
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && task->owner[SHARE_MEMORY] == task)
      g_ptr_array_add(all, task_memory_new(task));
  }
  Scans scans = {.memories = all};
  tracers_run(scan_share, &scans);
  return engine_first_error(scans.errors[0], scans.errors[1], error) ? g_steal_pointer(&all) : NULL;
}

bool dump_memory(Job *job, FrozenTree *tree, Checkpoint *checkpoint, const Collector *collector, MemoryStats *stats, GError **error) {
  if (!drain_rings(job, tree, error))
    return false;
  g_autoptr(GPtrArray) all = scan_all(tree, error);
  if (!all)
    return false;
  g_autoptr(PageWriter) writer = page_writer_new(job);
  size_t n_shmem;
  const CollectedShmem *shmem = collector_shmems(collector, &n_shmem);
  guint32 pages_id = 1;
  for (size_t i = 0; i < n_shmem; i++)
    add_shmem(writer, checkpoint, &shmem[i], pages_id++);
  for (guint i = 0; i < all->len; i++)
    add_task(writer, all->pdata[i], pages_id++);
  job_set_total(job, page_writer_total(writer));
  return page_writer_run(writer, stats, error);
}

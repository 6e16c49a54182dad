/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "describe.h"
#include "describe-file.h"
#include "describe-row.h"
#include "image.h"
#include "memfd.pb-c.h"
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096u

/* --- tasks --- */

static const char *state_text(const Task *task) {
  switch (task->core && task->core->tc ? task->core->tc->task_state : 0) {
  case TASK_ALIVE:
    return "alive";
  case TASK_STOPPED:
    return "stopped";
  case TASK_ZOMBIE:
  case TASK_DEAD:
    return "zombie";
  default:
    return "unknown";
  }
}

static char *path_of(const Checkpoint *c, guint32 file_id) {
  const FileEntry *file = checkpoint_find_file(c, file_id);
  return file ? file_path_text(c, file) : g_strdup("");
}

static guint64 mapped_bytes(const MmEntry *mm) {
  guint64 bytes = 0;
  for (size_t i = 0; mm && i < mm->n_vmas; i++)
    bytes += mm->vmas[i]->end - mm->vmas[i]->start;
  return bytes;
}

static void describe_task(Job *job, const Checkpoint *c, const Task *task) {
  Row row;
  row_init(&row, "tasks");
  row_u64(&row, "pid", task->pstree->pid);
  row_u64(&row, "ppid", task->pstree->ppid);
  row_u64(&row, "pgid", task->pstree->pgid);
  row_u64(&row, "sid", task->pstree->sid);
  row_text(&row, "comm", task->core && task->core->tc ? task->core->tc->comm : "");
  row_take_text(&row, "exe", task->mm ? path_of(c, task->mm->exe_file_id) : g_strdup(""));
  row_text(&row, "state", state_text(task));
  row_u64(&row, "threads", task->threads->len);
  row_u64(&row, "vmas", task->mm ? task->mm->n_vmas : 0);
  row_u64(&row, "memory-bytes", mapped_bytes(task->mm));
  row_u64(&row, "pages-bytes", page_set_n_present(task->pages) * PAGE_BYTES);
  row_send(&row, job);
}

/* --- files --- */

static void describe_fd(Job *job, const Checkpoint *c, const Task *task, const FdinfoEntry *fd) {
  const FileEntry *file = checkpoint_find_file(c, fd->id);
  Row row;
  row_init(&row, "files");
  row_u64(&row, "pid", task->pstree->pid);
  row_u64(&row, "fd", fd->fd);
  row_take_text(&row, "type", file ? file_type_text(c, file) : g_strdup("unknown"));
  row_take_text(&row, "path", file ? file_path_text(c, file) : g_strdup(""));
  row_take_text(&row, "flags", file ? file_flags_text(c, file, fd) : g_strdup(""));
  row_send(&row, job);
}

static void describe_fds(Job *job, const Checkpoint *c, const Task *task) {
  for (guint i = 0; task->fds && i < task->fds->len; i++)
    describe_fd(job, c, task, task->fds->pdata[i]);
}

/* --- mappings --- */

/* The first that fits says what a mapping is. */
static const struct {
  guint32 status;
  const char *kind;
} kinds[] = {
    {VMA_AREA_VDSO, "vdso"},
    {VMA_AREA_VVAR, "vvar"},
    {VMA_AREA_VSYSCALL, "vsyscall"},
    {VMA_AREA_STACK, "stack"},
    {VMA_AREA_HEAP, "heap"},
    {VMA_AREA_MEMFD, "memfd"},
    {VMA_AREA_SYSVIPC, "sysv"},
    {VMA_AREA_SOCKET, "packet socket"},
    {VMA_AREA_AIORING, "aio"},
    {VMA_AREA_SHSTK, "shadow stack"},
    {VMA_AREA_GUARD, "guard"},
    {VMA_AREA_UPROBES, "uprobes"},
    {VMA_EXT_PLUGIN, "plugin"},
    {VMA_FILE_PRIVATE | VMA_FILE_SHARED, "file"},
    {VMA_ANON_SHARED, "shared"},
};

/* The kernel's own files behind shared anonymous memory are kept as memfds of their names. */
static bool is_shared_anonymous(const VmaEntry *v, const char *path) {
  return v->status & VMA_AREA_MEMFD && v->status & VMA_FILE_SHARED &&
         (!strcmp(path, "memfd:/dev/zero") || !strcmp(path, "memfd:/anon_hugepage"));
}

static const char *kind_text(const MmEntry *mm, const VmaEntry *v) {
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
    if (v->status & kinds[i].status)
      return kinds[i].kind;
  return v->start <= mm->mm_start_stack && mm->mm_start_stack < v->end ? "stack" : "anonymous";
}

static char *prot_text(const VmaEntry *v) {
  return g_strdup_printf("%c%c%c%c", v->prot & PROT_READ ? 'r' : '-', v->prot & PROT_WRITE ? 'w' : '-',
      v->prot & PROT_EXEC ? 'x' : '-', v->flags & MAP_SHARED ? 's' : 'p');
}

static guint64 entry_end(const PagemapEntry *e) {
  return e->vaddr + pagemap_entry_n_pages(e) * PAGE_BYTES;
}

/* The first entry that ends behind @start; they are in address order. */
static guint first_entry(const PageSet *set, guint64 start) {
  guint low = 0, high = set->entries->len;
  while (low < high) {
    guint middle = low + (high - low) / 2;
    if (entry_end(set->entries->pdata[middle]) > start)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* How many pages between @start and @end lie in the pages file of @set, which may be NULL. */
static guint64 pages_between(const PageSet *set, guint64 start, guint64 end) {
  guint64 bytes = 0;
  for (guint i = set ? first_entry(set, start) : 0; set && i < set->entries->len; i++) {
    const PagemapEntry *e = set->entries->pdata[i];
    if (e->vaddr >= end)
      break;
    if (pagemap_entry_flags(e) & PE_PRESENT)
      bytes += MIN(entry_end(e), end) - MAX(e->vaddr, start);
  }
  return bytes / PAGE_BYTES;
}

static const MemfdInodeEntry *memfd_inode_of(const Checkpoint *c, const FileEntry *file) {
  const GPtrArray *records = c->records[RECORD_MEMFD];
  for (guint i = 0; file && file->memfd && i < records->len; i++) {
    const MemfdInodeEntry *inode = (const MemfdInodeEntry *)((const Record *)records->pdata[i])->message;
    if (inode->inode_id == file->memfd->inode_id)
      return inode;
  }
  return NULL;
}

/* Where the pages of shared memory are; NULL for private mappings and files. */
static const PageSet *shared_pages(const Checkpoint *c, const VmaEntry *v) {
  if (v->status & VMA_ANON_SHARED)
    return checkpoint_find_shmem(c, v->shmid);
  if (!(v->status & VMA_AREA_MEMFD) || !(v->status & VMA_FILE_SHARED))
    return NULL;
  const MemfdInodeEntry *inode = memfd_inode_of(c, checkpoint_find_file(c, (guint32)v->shmid));
  return inode ? checkpoint_find_shmem(c, inode->shmid) : NULL;
}

static void describe_mapping(Job *job, const Checkpoint *c, const Task *task, const VmaEntry *v) {
  const PageSet *shared = shared_pages(c, v);
  bool of_file = v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) && !(v->status & VMA_EXT_PLUGIN);
  g_autofree char *path = of_file ? path_of(c, (guint32)v->shmid) : g_strdup("");
  bool anonymous = is_shared_anonymous(v, path);
  Row row;
  row_init(&row, "mappings");
  row_u64(&row, "pid", task->pstree->pid);
  row_u64(&row, "start", v->start);
  row_u64(&row, "end", v->end);
  row_take_text(&row, "prot", prot_text(v));
  row_text(&row, "kind", anonymous ? "shared" : kind_text(task->mm, v));
  row_text(&row, "path", anonymous ? "" : path);
  row_u64(&row, "pages",
      shared ? pages_between(shared, v->pgoff, v->pgoff + (v->end - v->start))
             : pages_between(task->pages, v->start, v->end));
  row_send(&row, job);
}

static void describe_mappings(Job *job, const Checkpoint *c, const Task *task) {
  for (size_t i = 0; task->mm && i < task->mm->n_vmas; i++)
    describe_mapping(job, c, task, task->mm->vmas[i]);
}

/* --- all --- */

bool describe_checkpoint(Job *job, const Checkpoint *checkpoint, GError **error) {
  static void (*const tables[])(Job *, const Checkpoint *, const Task *) = {
      describe_task, describe_fds, describe_mappings};
  for (size_t t = 0; t < G_N_ELEMENTS(tables); t++)
    for (guint i = 0; i < checkpoint->tasks->len; i++) {
      if (!job_poll(job, error))
        return false;
      tables[t](job, checkpoint, checkpoint->tasks->pdata[i]);
    }
  return true;
}

bool describe_run(Job *job, GError **error) {
  g_autoptr(Checkpoint) checkpoint = image_load(job_images_fd(job), error);
  return checkpoint && describe_checkpoint(job, checkpoint, error);
}

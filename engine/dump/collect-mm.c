/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mappings: /proc/PID/smaps -> vma_entry. The kind of a mapping follows from its flags and from the file behind it, which
 * is opened through /proc/PID/map_files, so that names play no part. */
#include "aio.h"
#include "collect.h"
#include "external.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#define MAP_DROPPABLE_ 8u /* a type, like MAP_PRIVATE; since 6.11 */

static void block_vma(Job *job, const FrozenTask *task, const ProcVma *v, const char *reason, const char *cure) {
  g_autofree char *object = g_strdup_printf("pid %d (%s) mapping %" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x%s%s", (int)task->pid,
      task->stat.comm, v->start, v->end, *v->path ? " " : "", v->path);
  job_block(job, "vma", task->pid, -1, object, reason, cure);
}

/* Memory that belongs to a kernel object: what its file is called. */
static const struct {
  const char *path, *reason, *cure;
} kernel_objects[] = {
    {"/secretmem", "it is secret memory (memfd_secret(2)), which nobody but the process may read", "unmap it first"},
    {"anon_inode:[perf_event]", "it is the ring buffer of a perf event", "close the event first"},
    {"anon_inode:[io_uring]", "it is a ring of io_uring", "close the ring first"},
    {"anon_inode:", "it maps a kernel object", "unmap it first"},
    {"socket:", "it is a ring of a socket (PACKET_MMAP and the like)", "close the socket first"},
    {"[uprobes]", "somebody traces it with uprobes: there are breakpoints in its code", "end the tracer (perf, bpftrace, SystemTap) first"},
};

/* Things about a mapping that cannot be made again, whatever lies behind it. */
static const struct {
  guint32 flags;
  const char *reason, *cure;
} refused_flags[] = {
    {VMF_UFFD_MISSING | VMF_UFFD_WP | VMF_UFFD_MINOR, "it is registered with userfaultfd",
        "let the program unregister it (UFFDIO_UNREGISTER) or close the userfaultfd first"},
    {VMF_SHADOW_STACK, "it is a shadow stack", "start the program without: GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"},
    {VMF_SYNC, "it is mapped with MAP_SYNC from persistent memory", "unmap it first"},
    {VMF_IO | VMF_PFNMAP | VMF_MIXEDMAP, "it maps a device", "unmap it first"},
};

static bool is_hugetlb_file(const ProcVma *v) {
  return (v->flags & VMF_HUGETLB) && !g_str_has_prefix(v->path, "/anon_hugepage") && !g_str_has_prefix(v->path, "/memfd:") &&
         !g_str_has_prefix(v->path, "/SYSV");
}

static const char *refusal(const ProcVma *v, const char **cure) {
  for (size_t i = 0; i < G_N_ELEMENTS(kernel_objects); i++)
    if (g_str_has_prefix(v->path, kernel_objects[i].path)) {
      *cure = kernel_objects[i].cure;
      return kernel_objects[i].reason;
    }
  for (size_t i = 0; i < G_N_ELEMENTS(refused_flags); i++)
    if (v->flags & refused_flags[i].flags) {
      *cure = refused_flags[i].cure;
      return refused_flags[i].reason;
    }
  *cure = "unmap it first";
  return is_hugetlb_file(v) ? "it maps a file on hugetlbfs" : NULL;
}

static guint64 madvise_bits(guint32 flags) {
  static const struct {
    guint32 flag;
    int advice;
  } map[] = {{VMF_DONTCOPY, MADV_DONTFORK}, {VMF_MERGEABLE, MADV_MERGEABLE}, {VMF_HUGEPAGE, MADV_HUGEPAGE},
      {VMF_NOHUGEPAGE, MADV_NOHUGEPAGE}, {VMF_DONTDUMP, MADV_DONTDUMP}, {VMF_WIPEONFORK, MADV_WIPEONFORK},
      {VMF_SEQ, MADV_SEQUENTIAL}, {VMF_RAND, MADV_RANDOM}};
  guint64 bits = 0;
  for (size_t i = 0; i < G_N_ELEMENTS(map); i++)
    if (flags & map[i].flag)
      bits |= 1ull << map[i].advice;
  return bits;
}

static VmaEntry *vma_new(const ProcVma *v) {
  VmaEntry *e = malloc(sizeof *e);
  vma_entry__init(e);
  e->start = v->start, e->end = v->end, e->fd = -1;
  e->prot = (v->flags & VMF_READ ? PROT_READ : 0u) | (v->flags & VMF_WRITE ? PROT_WRITE : 0u) | (v->flags & VMF_EXEC ? PROT_EXEC : 0u);
  e->madv = madvise_bits(v->flags);
  e->has_madv = e->madv != 0;
  return e;
}

static void fill_anonymous(VmaEntry *e, const ProcVma *v, const MmEntry *mm) {
  e->status = VMA_AREA_REGULAR | VMA_ANON_PRIVATE;
  e->flags = (v->flags & VMF_DROPPABLE ? MAP_DROPPABLE_ : MAP_PRIVATE) | MAP_ANONYMOUS;
  if (strcmp(v->path, "[heap]") == 0 || (v->start >= mm->mm_start_brk && v->start < mm->mm_brk && mm->mm_brk > mm->mm_start_brk))
    e->status |= VMA_AREA_HEAP;
  if (v->flags & VMF_GROWSDOWN)
    e->flags |= MAP_GROWSDOWN;
  if (v->flags & VMF_LOCKED)
    e->flags |= MAP_LOCKED;
  if (v->flags & VMF_NORESERVE)
    e->flags |= MAP_NORESERVE;
  if (v->flags & VMF_HUGETLB)
    e->flags |= MAP_HUGETLB | (guint32)__builtin_ctzll(v->page_kb * 1024) << MAP_HUGE_SHIFT;
}

/* Mapped files that were met before, in any task: (dev, inode, path, rights) -> file id. */
typedef struct SeenFile {
  guint32 id;
  bool memfd, blocked;
} SeenFile;

static bool open_behind(const FrozenTask *task, const ProcVma *v, FileProbe *probe, char **ret_link, GError **error) {
  char name[80];
  g_snprintf(name, sizeof name, "map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", v->start, v->end);
  *ret_link = proc_readlink(task->view, name, error);
  if (!*ret_link)
    return false;
  g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)task->view, name);
  bool writable = (v->flags & VMF_SHARED) && (v->flags & VMF_MAYWRITE);
  *probe = (FileProbe){.pid = task->view, .comm = task->stat.comm, .fd = -1, .pidfd = task->view_pidfd, .link = *ret_link,
      .flags = writable ? O_RDWR : O_RDONLY};
  probe->local = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW * 0);
  if (probe->local < 0 || fstat(probe->local, &probe->st) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open %s", path);
  return true;
}

/* What cannot be opened again can be looked at: /proc leads to the very inode. */
static void stat_behind(const FrozenTask *task, const ProcVma *v, struct stat *ret) {
  g_autofree char *path = g_strdup_printf("/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", (int)task->view, v->start, v->end);
  struct stat st;
  if (stat(path, &st) == 0)
    *ret = st;
}

static bool find_file(FrozenTask *task, const ProcVma *v, Collector *collector, GHashTable *seen, SeenFile *ret, GError **error) {
  bool writable = (v->flags & VMF_SHARED) && (v->flags & VMF_MAYWRITE);
  char *key = g_strdup_printf("%u:%u:%" G_GUINT64_FORMAT ":%d:%s", v->dev_major, v->dev_minor, v->inode, writable, v->path);
  SeenFile *known = g_hash_table_lookup(seen, key);
  if (known) {
    g_free(key);
    *ret = *known;
    return true;
  }
  FileProbe probe = {.local = -1};
  g_autofree char *link = NULL;
  SeenFile file = {0};
  bool ok = open_behind(task, v, &probe, &link, error);
  if (ok)
    file.id = collector_add_path(collector, &probe, &file.blocked, error);
  if (probe.local >= 0)
    (void)close(probe.local);
  if (!ok || (!file.id && !file.blocked)) {
    g_free(key);
    return false;
  }
  FileEntry *entry = file.id ? checkpoint_find_file(collector_checkpoint(collector), file.id) : NULL;
  file.memfd = entry && entry->type == FD_TYPES__MEMFD;
  g_hash_table_insert(seen, key, g_memdup2(&file, sizeof file));
  *ret = file;
  return true;
}

static bool fill_file(VmaEntry *e, FrozenTask *task, const ProcVma *v, Collector *collector, GHashTable *seen, GError **error) {
  SeenFile file;
  if (!find_file(task, v, collector, seen, &file, error))
    return false;
  bool shared = v->flags & VMF_SHARED;
  e->status = VMA_AREA_REGULAR | (shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE) | (file.memfd ? VMA_AREA_MEMFD : 0);
  e->flags = shared ? MAP_SHARED : MAP_PRIVATE;
  if (v->flags & VMF_LOCKED)
    e->flags |= MAP_LOCKED;
  if (v->flags & VMF_NORESERVE)
    e->flags |= MAP_NORESERVE;
  e->pgoff = v->offset;
  e->shmid = file.id;
  e->has_fdflags = true;
  e->fdflags = shared && (v->flags & VMF_MAYWRITE) ? O_RDWR : O_RDONLY;
  return true;
}

static bool is_sysv(const ProcVma *v) {
  return (v->flags & VMF_SHARED) && v->dev_major == 0 && g_str_has_prefix(v->path, "/SYSV");
}

static bool fill_sysv(VmaEntry *e, FrozenTask *task, const ProcVma *v, Collector *collector, GError **error) {
  FileProbe probe = {.local = -1};
  g_autofree char *link = NULL;
  bool ok = open_behind(task, v, &probe, &link, error) && collector_sysv(collector, &probe, error);
  if (probe.local >= 0)
    (void)close(probe.local);
  e->status = VMA_AREA_REGULAR | VMA_ANON_SHARED | VMA_AREA_SYSVIPC;
  e->flags = MAP_SHARED | MAP_ANONYMOUS | (v->flags & VMF_LOCKED ? MAP_LOCKED : 0u);
  e->shmid = v->inode;
  e->pgoff = v->offset;
  e->has_fdflags = true;
  e->fdflags = v->flags & VMF_MAYWRITE ? O_RDWR : O_RDONLY;
  return ok;
}

static bool is_ring(const ProcVma *v) {
  return g_str_has_prefix(v->path, AIO_RING_PATH);
}

/* *ret_kept is false when it is something to block the dump. */
static bool fill_ring(Job *job, VmaEntry *e, FrozenTask *task, const ProcVma *v, bool *ret_kept, GError **error) {
  MmEntry *mm = task->model->mm;
  *ret_kept = !v->foreign_ring;
  if (v->foreign_ring) {
    block_vma(job, task, v, "it is the AIO ring of another process, from which it came by fork(2)", "let the child unmap it");
    return true;
  }
  AioRingEntry *ring = aio_ring_collect(task->view, v->start, v->end, error);
  if (!ring)
    return false;
  mm->aios = realloc(mm->aios, (mm->n_aios + 1) * sizeof *mm->aios);
  mm->aios[mm->n_aios++] = ring;
  e->status = VMA_AREA_REGULAR | VMA_AREA_AIORING;
  e->flags = MAP_SHARED | MAP_ANONYMOUS;
  return true;
}

/* vvar and vdso come from the kernel; [vvar_vclock] is the end of vvar. */
static bool fill_special(VmaEntry *e, const ProcVma *v) {
  e->flags = MAP_PRIVATE | MAP_ANONYMOUS;
  e->status = VMA_AREA_REGULAR | VMA_ANON_PRIVATE;
  if (strcmp(v->path, "[vdso]") == 0)
    e->status |= VMA_AREA_VDSO;
  else if (g_str_has_prefix(v->path, "[vvar"))
    e->status |= VMA_AREA_VVAR;
  else if (strcmp(v->path, "[vsyscall]") == 0)
    e->status = VMA_ANON_PRIVATE | VMA_AREA_VSYSCALL;
  else
    return false;
  e->prot &= e->status & VMA_AREA_VSYSCALL ? PROT_EXEC : ~0u;
  if (e->status & VMA_AREA_VVAR) {
    e->has_madv = true;
    e->madv = 1ull << MADV_DONTDUMP;
  }
  return true;
}

static bool merge_vvar(MmEntry *mm, const VmaEntry *e) {
  VmaEntry *last = mm->n_vmas ? mm->vmas[mm->n_vmas - 1] : NULL;
  if (!last || !(last->status & e->status & VMA_AREA_VVAR) || last->end != e->start)
    return false;
  last->end = e->end;
  return true;
}

/* Its content is the ring's (uring.c). */
static bool fill_uring(VmaEntry *e, const ProcVma *v, Collector *collector) {
  guint32 id = g_str_has_prefix(v->path, "anon_inode:[io_uring]") ? collector_uring_of(collector, v->inode) : 0;
  if (!id)
    return false;
  e->status = VMA_AREA_REGULAR | VMA_FILE_SHARED;
  e->flags = MAP_SHARED;
  e->pgoff = v->offset;
  e->shmid = id;
  e->has_fdflags = true;
  e->fdflags = O_RDWR;
  return true;
}

/* The rings of a packet socket, in the images as CRIU has them; they come back empty. Only as a whole they can be mapped. */
static bool fill_packet(VmaEntry *e, const ProcVma *v, Collector *collector) {
  guint32 id = g_str_has_prefix(v->path, "socket:") && !v->offset ? collector_packet_of(collector, v->inode) : 0;
  const FileEntry *file = id ? checkpoint_find_file(collector_checkpoint(collector), id) : NULL;
  const PacketRing *rx = file && file->psk ? file->psk->rx_ring : NULL, *tx = file && file->psk ? file->psk->tx_ring : NULL;
  guint64 size = (rx ? (guint64)rx->block_size * rx->block_nr : 0) + (tx ? (guint64)tx->block_size * tx->block_nr : 0);
  if (!size || size != v->end - v->start)
    return false;
  e->status = VMA_AREA_REGULAR | VMA_AREA_SOCKET;
  e->flags = MAP_SHARED | (v->flags & VMF_LOCKED ? MAP_LOCKED : 0u);
  e->shmid = id;
  e->has_fdflags = true;
  e->fdflags = O_RDWR;
  return true;
}

/* Private huge pages have a file of the kernel behind them, but nobody else sees it. */
static bool is_anonymous(const ProcVma *v) {
  bool huge = (v->flags & VMF_HUGETLB) && g_str_has_prefix(v->path, "/anon_hugepage");
  return !(v->flags & VMF_SHARED) && (huge || !v->inode);
}

/* The entry of a file that cannot be opened again, not even for a look: an anonymous inode. */
static guint32 add_unopened(Collector *collector, const char *name, int flags) {
  FileEntry *entry = malloc(sizeof *entry);
  RegFileEntry *reg = malloc(sizeof *reg);
  FownEntry *fown = malloc(sizeof *fown);
  file_entry__init(entry);
  reg_file_entry__init(reg);
  fown_entry__init(fown);
  entry->id = reg->id = collector_new_file_id(collector);
  entry->type = FD_TYPES__REG;
  entry->reg = reg;
  reg->flags = (guint32)flags;
  reg->fown = fown;
  reg->name = strdup(name);
  reg->has_ext = reg->ext = true;
  checkpoint_add_file(collector_checkpoint(collector), entry);
  return entry->id;
}

/* The entry names the device by its path, as an external file. */
static bool fill_external(
    VmaEntry *e, const FrozenTask *task, const ProcVma *v, const FileProbe *probe, Collector *collector, GError **error) {
  bool blocked = false, shared = v->flags & VMF_SHARED;
  FileProbe device = *probe;
  device.elsewhere = true;
  guint32 id = probe->local < 0 ? add_unopened(collector, probe->link ? probe->link : v->path, probe->flags)
                                : collector_add_path(collector, &device, &blocked, error);
  if (!id)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "pid %d: what is mapped at %" G_GINT64_MODIFIER "x cannot be opened",
        (int)task->pid, v->start);
  e->status = VMA_AREA_REGULAR | (shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE) | VMA_EXT_PLUGIN;
  e->flags = shared ? MAP_SHARED : MAP_PRIVATE;
  e->pgoff = v->offset;
  e->shmid = id;
  e->has_fdflags = true;
  e->fdflags = shared && (v->flags & VMF_MAYWRITE) ? O_RDWR : O_RDONLY;
  return true;
}

/* What a plugin may know how to make again: memory of devices, and of kernel objects that can be mapped. */
static bool may_be_external(const ProcVma *v) {
  return (v->flags & (VMF_IO | VMF_PFNMAP | VMF_MIXEDMAP)) || g_str_has_prefix(v->path, "anon_inode:") ||
         g_str_has_prefix(v->path, "socket:");
}

/* Asks about a mapping that cannot be made from a file; *ret_taken: its entry is filled. */
static bool ask_about_mapping(FrozenTask *task, const ProcVma *v, const char *why, const char *cure, Collector *collector,
    VmaEntry *e, bool *ret_taken, GError **error) {
  FileProbe probe = {.pid = task->view, .comm = task->stat.comm, .fd = -1, .pidfd = task->view_pidfd, .local = -1};
  g_autofree char *link = NULL;
  g_autofree char *what = g_strdup_printf("mapping %" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x%s%s", v->start, v->end,
      *v->path ? " " : "", v->path);
  (void)open_behind(task, v, &probe, &link, NULL); /* some can be described only */
  if (probe.local < 0)
    stat_behind(task, v, &probe.st);
  ExternalObject o = external_of_probe(EXTERNAL_MAPPING, &probe, 0);
  o.path = link ? link : v->path;
  o.what = what;
  o.reason = why;
  o.cure = cure;
  o.map.start = v->start, o.map.end = v->end, o.map.offset = v->offset;
  o.map.prot = (int)e->prot;
  o.map.shared = v->flags & VMF_SHARED;
  g_auto(ExternalClaim) claim = {0};
  bool ok = collector_external(collector, &o, &claim, error);
  *ret_taken = ok && claim.action == EXTERNAL_PLUGIN;
  if (*ret_taken)
    ok = fill_external(e, task, v, &probe, collector, error);
  if (probe.local >= 0)
    (void)close(probe.local);
  return ok;
}

static bool collect_mapping(Job *job, FrozenTask *task, const ProcVma *v, Collector *collector, GHashTable *seen, GError **error) {
  MmEntry *mm = task->model->mm;
  VmaEntry *e = vma_new(v);
  const char *cure;
  bool ok = true, special = fill_special(e, v) || fill_uring(e, v, collector) || fill_packet(e, v, collector);
  const char *why = special ? NULL : refusal(v, &cure);
  bool taken = false, kept = true;
  if (why && may_be_external(v))
    ok = ask_about_mapping(task, v, why, cure, collector, e, &taken, error);
  else if (why)
    block_vma(job, task, v, why, cure);
  else if (!special && is_anonymous(v))
    fill_anonymous(e, v, mm);
  else if (!special && is_ring(v))
    ok = fill_ring(job, e, task, v, &kept, error);
  else if (!special && is_sysv(v))
    ok = fill_sysv(e, task, v, collector, error);
  else if (!special)
    ok = fill_file(e, task, v, collector, seen, error);
  if ((why && !taken) || !kept || !ok || merge_vvar(mm, e)) {
    vma_entry__free_unpacked(e, NULL);
    return ok;
  }
  mm->vmas[mm->n_vmas++] = e;
  return true;
}

static void note_lock_on_fault(FrozenTask *task, const ProcVma *v) {
  if (!(v->flags & VMF_LOCKONFAULT))
    return;
  CkptTask *x = task->model->extra;
  x->mlocked_onfault = realloc(x->mlocked_onfault, (x->n_mlocked_onfault + 1) * sizeof *x->mlocked_onfault);
  CkptRange *r = x->mlocked_onfault[x->n_mlocked_onfault++] = malloc(sizeof *r);
  ckpt_range__init(r);
  r->vaddr = v->start;
  r->nr_pages = (v->end - v->start) / 4096;
}

/* "[anon:NAME]", "[anon_shmem:NAME]": NAME; else NULL. */
static char *given_name(const ProcVma *v) {
  const char *name = g_str_has_prefix(v->path, "[anon:") ? v->path + 6 : g_str_has_prefix(v->path, "[anon_shmem:") ? v->path + 12 : NULL;
  size_t length = name ? strlen(name) : 0;
  return length && name[length - 1] == ']' ? strndup(name, length - 1) : NULL;
}

/* What goes into checkpoint.img about a mapping; @policy may be NULL and is taken over. */
static void note_details(FrozenTask *task, const ProcVma *v, CkptMempolicy *policy) {
  char *name = given_name(v);
  if (!name && !policy && !(v->flags & VMF_SEALED) && v->pkey <= 0)
    return;
  CkptMemory *m = task_memory(task);
  m->vmas = realloc(m->vmas, (m->n_vmas + 1) * sizeof *m->vmas);
  CkptVma *x = m->vmas[m->n_vmas++] = malloc(sizeof *x);
  ckpt_vma__init(x);
  x->start = v->start;
  x->name = name;
  x->policy = policy;
  x->has_sealed = x->sealed = v->flags & VMF_SEALED;
  x->has_pkey = v->pkey > 0;
  x->pkey = v->pkey > 0 ? (guint32)v->pkey : 0;
}

static gpointer new_seen(void) {
  return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

bool collect_mappings(Job *job, FrozenTask *task, Collector *collector, GError **error) {
  MmEntry *mm = task->model->mm;
  mm->vmas = calloc(task->facts.vmas->len + 1, sizeof *mm->vmas);
  static const char key;
  GHashTable *seen = collector_state(collector, &key, new_seen, (GDestroyNotify)g_hash_table_unref);
  for (guint i = 0; i < task->facts.vmas->len; i++) {
    const ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, i);
    note_lock_on_fault(task, v);
    if (!collect_mapping(job, task, v, collector, seen, error))
      return false;
    const VmaEntry *last = mm->n_vmas ? mm->vmas[mm->n_vmas - 1] : NULL;
    if (last && last->start == v->start && !(last->status & (VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL)))
      note_details(task, v, task->policies ? g_steal_pointer(&task->policies->pdata[i]) : NULL);
  }
  collector_sysv_task(collector, task->pid, task->stat.comm, mm);
  return job_poll(job, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* System V shared memory (sysvipc(7), shmget(2)). A segment is no file of a process, only mapped: it lives in the ipc
 * namespace, under an id and a key, until somebody removes it. So a dump keeps its content if nobody outside the tree has it
 * attached, and a restore takes the segment of that id and key up again, or makes it: the next id can be chosen
 * (Documentation/admin-guide/sysctl/kernel.rst, shm_next_id). Tasks attach it themselves.
 *
 * Semaphores and message queues are not seen: nothing in a process says that it uses them. They stay in the namespace. */

#include "internal.h"
#include "ipc-shm.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define PAGE 4096ull
#define HUGE_SHIFT 26  /* SHM_HUGE_SHIFT */
#define LOWEST 0x10000 /* address at which a segment may be attached */
#define NEXT_ID "/proc/sys/kernel/shm_next_id"

/* --- collect --- */

typedef struct Segment {
  int id;
  guint attached; /* mappings in the tree */
  pid_t pid;      /* of the first one, and its name */
  char *comm;
} Segment;

static void segment_free(void *p) {
  Segment *s = p;
  g_free(s->comm);
  g_free(s);
}

static gpointer segments_new(void) {
  return g_hash_table_new_full(NULL, NULL, NULL, segment_free);
}

static GHashTable *segments_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, segments_new, (GDestroyNotify)g_hash_table_unref);
}

static void block_segment(Collector *c, const Segment *s, const char *reason, const char *cure) {
  g_autofree char *object = g_strdup_printf("pid %d (%s): System V shared memory %d", (int)s->pid, s->comm, s->id);
  job_block(collector_job(c), "vma", s->pid, -1, object, reason, cure);
}

/* Huge pages: as shmget(2) takes them. */
static guint32 huge_flag(const FileProbe *probe) {
  struct statfs fs;
  if (fstatfs(probe->local, &fs) < 0 || fs.f_type != HUGETLBFS_MAGIC)
    return 0;
  return SHM_HUGETLB | (guint32)__builtin_ctzl((unsigned long)fs.f_bsize) << HUGE_SHIFT;
}

static guint64 page_size_of(const IpcShmEntry *e) {
  guint shift = e->has_hugetlb_flag ? (e->hugetlb_flag >> HUGE_SHIFT) & 0x3f : 0;
  return shift > 12 && shift < 40 ? 1ull << shift : PAGE;
}

static guint64 full_size(const IpcShmEntry *e) {
  guint64 page = page_size_of(e);
  return e->size > G_MAXINT64 - page ? 0 : (e->size + page - 1) & ~(page - 1);
}

static IpcShmEntry *entry_new(const FileProbe *probe, const struct shmid_ds *ds, int id) {
  IpcShmEntry *e = MESSAGE_NEW(IpcShmEntry, ipc_shm_entry__init);
  IpcDescEntry *d = e->desc = MESSAGE_NEW(IpcDescEntry, ipc_desc_entry__init);
  d->key = (guint32)ds->shm_perm.__key;
  d->uid = ds->shm_perm.uid, d->gid = ds->shm_perm.gid;
  d->cuid = ds->shm_perm.cuid, d->cgid = ds->shm_perm.cgid;
  d->mode = ds->shm_perm.mode;
  d->id = (guint32)id;
  e->size = ds->shm_segsz;
  e->has_in_pagemaps = e->in_pagemaps = true;
  e->hugetlb_flag = huge_flag(probe);
  e->has_hugetlb_flag = e->hugetlb_flag != 0;
  return e;
}

static Segment *segment_new(Collector *c, const FileProbe *probe, int id, GError **error) {
  struct shmid_ds ds;
  if (shmctl(id, IPC_STAT, &ds) < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "pid %d (%s): System V shared memory %d", (int)probe->pid,
        probe->comm, id);
    return NULL;
  }
  Segment *s = g_new0(Segment, 1);
  *s = (Segment){.id = id, .pid = probe->pid, .comm = g_strdup(probe->comm)};
  g_hash_table_insert(segments_of(c), GINT_TO_POINTER(id), s);
  checkpoint_add_record(collector_checkpoint(c), RECORD_IPC_SHM, &entry_new(probe, &ds, id)->base, NULL);
  collector_shmem_with_id(c, (guint64)id, probe->st.st_dev, probe->st.st_ino, ds.shm_segsz, probe->local);
  return s;
}

bool collector_sysv(Collector *c, const FileProbe *probe, GError **error) {
  int id = (int)probe->st.st_ino; /* the inode's number is the id */
  Segment *s = g_hash_table_lookup(segments_of(c), GINT_TO_POINTER(id));
  if (!s && !(s = segment_new(c, probe, id, error)))
    return false;
  s->attached++;
  return true;
}

static const IpcShmEntry *find_entry(const Checkpoint *c, guint64 id) {
  const GPtrArray *records = c->records[RECORD_IPC_SHM];
  for (guint i = 0; i < records->len; i++) {
    const IpcShmEntry *e = (const IpcShmEntry *)((const Record *)records->pdata[i])->message;
    if (e->desc->id == id)
      return e;
  }
  return NULL;
}

static bool is_read_only(const VmaEntry *v) {
  return v->has_fdflags && (v->fdflags & O_ACCMODE) == O_RDONLY;
}

bool sysv_attach_has(const SysvAttach *a, const VmaEntry *v) {
  return v->status & VMA_AREA_SYSVIPC && v->shmid == a->shmid && v->start - v->pgoff == a->base && is_read_only(v) == a->read_only;
}

/* Whether a mapping that belongs to @other (NULL: to anything else) lies where the whole of @a was attached. */
static bool lies_in(const SysvAttach *a, const SysvAttach *other, const MmEntry *mm) {
  for (size_t i = 0; i < mm->n_vmas && a->kept < a->size; i++) {
    const VmaEntry *v = mm->vmas[i];
    if (v->end > a->base && v->start < a->base + a->size && (other ? sysv_attach_has(other, v) : !sysv_attach_has(a, v)))
      return true;
  }
  return false;
}

/* First those in whose holes parts of others are. */
static void sort_attaches(GArray *attaches, const MmEntry *mm) {
  for (guint i = 0; i < attaches->len; i++) {
    guint next = i;
    for (guint k = i; k < attaches->len; k++) {
      bool first = true;
      for (guint j = i; j < attaches->len && first; j++)
        first = j == k || !lies_in(&g_array_index(attaches, SysvAttach, j), &g_array_index(attaches, SysvAttach, k), mm);
      if (first) {
        next = k;
        break;
      }
    }
    SysvAttach a = g_array_index(attaches, SysvAttach, next);
    g_array_index(attaches, SysvAttach, next) = g_array_index(attaches, SysvAttach, i);
    g_array_index(attaches, SysvAttach, i) = a;
  }
}

/* Whether a part of an attach that is made before stands in the way. */
static bool is_in_the_way(const GArray *attaches, guint index, const MmEntry *mm) {
  for (guint k = 0; k < index; k++)
    if (lies_in(&g_array_index(attaches, SysvAttach, index), &g_array_index(attaches, SysvAttach, k), mm))
      return true;
  return false;
}

GArray *sysv_attaches(const Checkpoint *c, const MmEntry *mm) {
  GArray *attaches = g_array_new(FALSE, FALSE, sizeof(SysvAttach));
  for (size_t i = 0; i < mm->n_vmas; i++) {
    const VmaEntry *v = mm->vmas[i];
    SysvAttach *known = NULL;
    if (!(v->status & VMA_AREA_SYSVIPC))
      continue;
    for (guint k = 0; k < attaches->len && !known; k++)
      if (sysv_attach_has(&g_array_index(attaches, SysvAttach, k), v))
        known = &g_array_index(attaches, SysvAttach, k);
    if (!known) {
      const IpcShmEntry *e = find_entry(c, v->shmid);
      SysvAttach a = {.shmid = v->shmid, .base = v->start - v->pgoff, .size = e ? full_size(e) : 0, .read_only = is_read_only(v)};
      g_array_append_val(attaches, a);
      known = &g_array_index(attaches, SysvAttach, attaches->len - 1);
    }
    known->executable |= (v->prot & PROT_EXEC) != 0;
    known->kept += v->end - v->start;
  }
  sort_attaches(attaches, mm);
  return attaches;
}

bool sysv_holes_used(const Checkpoint *c, const MmEntry *mm) {
  g_autoptr(GArray) attaches = sysv_attaches(c, mm);
  for (guint i = 0; i < attaches->len; i++)
    if (lies_in(&g_array_index(attaches, SysvAttach, i), NULL, mm))
      return true;
  return false;
}

/* They are attached one after the other, each as a whole, before anything else is mapped. */
void collector_sysv_task(Collector *c, pid_t pid, const char *comm, const MmEntry *mm) {
  g_autoptr(GArray) attaches = sysv_attaches(collector_checkpoint(c), mm);
  for (guint i = 0; i < attaches->len; i++) {
    const SysvAttach *a = &g_array_index(attaches, SysvAttach, i);
    bool outside = a->base < LOWEST || a->base > G_MAXINT64 || a->base + a->size > G_MAXINT64;
    if (!outside && !is_in_the_way(attaches, i, mm))
      continue;
    g_autofree char *object = g_strdup_printf("pid %d (%s): System V shared memory %" G_GUINT64_FORMAT, (int)pid, comm, a->shmid);
    job_block(collector_job(c), "vma", pid, -1, object, "a part of it was moved (mremap(2)) to where the whole could not be attached",
        "let the program attach it again");
  }
}

/* Whoever else has it attached would go on changing it, and finds it changed after the restore. */
bool sysv_collect_finish(Collector *c, GError **error) {
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, segments_of(c));
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    const Segment *s = value;
    struct shmid_ds ds;
    if (shmctl(s->id, IPC_STAT, &ds) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "System V shared memory %d", s->id);
    if (ds.shm_nattch > s->attached)
      block_segment(c, s, "processes outside of the tree have it attached, too",
          "checkpoint them together, under a common parent; ipcs -m -p shows who made it");
  }
  return true;
}

/* --- restore --- */

typedef struct Made {
  bool ready, ours;  /* ours: made by this restore */
  void *at;          /* attached here, so that it stays while it is marked for removal */
} Made;

typedef struct MadeTable {
  GHashTable *by_id; /* id -> Made */
  bool keep;
} MadeTable;

static void made_table_free(void *p) {
  MadeTable *t = p;
  GHashTableIter iter;
  gpointer id, value;
  g_hash_table_iter_init(&iter, t->by_id);
  while (g_hash_table_iter_next(&iter, &id, &value)) {
    const Made *m = value;
    if (m->at)
      (void)shmdt(m->at);
    if (m->ours && !t->keep)
      (void)shmctl(GPOINTER_TO_INT(id), IPC_RMID, NULL);
  }
  g_hash_table_unref(t->by_id);
  g_free(t);
}

static gpointer made_table_new(void) {
  MadeTable *t = g_new0(MadeTable, 1);
  t->by_id = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  return t;
}

static MadeTable *made_table(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, made_table_new, made_table_free);
}

static const Record *find_record(Restorer *r, guint64 id) {
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_IPC_SHM];
  const IpcShmEntry *e = find_entry(restorer_checkpoint(r), id);
  for (guint i = 0; i < records->len; i++)
    if (((const Record *)records->pdata[i])->message == &e->base)
      return records->pdata[i];
  return NULL;
}

/* The one that is there is taken up if it is the same and nobody uses it. */
static bool take_up(const IpcShmEntry *e, const struct shmid_ds *ds, GError **error) {
  if ((guint32)ds->shm_perm.__key != e->desc->key || ds->shm_segsz != e->size)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED,
        "System V shared memory %u is another segment now (key 0x%x, %zu bytes); remove it with ipcrm -m %u first", e->desc->id,
        (guint)ds->shm_perm.__key, ds->shm_segsz, e->desc->id);
  return ds->shm_nattch == 0 || engine_fail(error, ENGINE_ERROR_CODE__BUSY,
                                    "System V shared memory %u is attached by other processes; end them first", e->desc->id);
}

static bool choose_next_id(guint32 id, GError **error) {
  char text[16];
  int n = snprintf(text, sizeof text, "%u", id);
  _cleanup_fd_ int fd = open(NEXT_ID, O_WRONLY | O_CLOEXEC);
  return (fd >= 0 && write(fd, text, (size_t)n) == n) ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot choose a segment's id in " NEXT_ID);
}

/* Huge pages take CAP_IPC_LOCK, which the change of user id has made ineffective. */
static bool may_lock(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0)
    return false;
  data[0].effective |= data[0].permitted & 1u << CAP_IPC_LOCK;
  return syscall(SYS_capset, &header, data) == 0;
}

/* As the user who made it. Of this thread alone, which is what the system call does. */
static int get_as_creator(const IpcShmEntry *e) {
  guint32 huge = e->has_hugetlb_flag ? e->hugetlb_flag & (SHM_HUGETLB | 0x3fu << HUGE_SHIFT) : 0;
  int fd = -1;
  if (syscall(SYS_setresgid, -1, e->desc->cgid, -1) == 0 && syscall(SYS_setresuid, -1, e->desc->cuid, -1) == 0 && (!huge || may_lock()))
    fd = shmget((key_t)e->desc->key, e->size, IPC_CREAT | IPC_EXCL | (int)(e->desc->mode & 0777) | (int)huge);
  int err = errno;
  if (syscall(SYS_setresuid, -1, 0, -1) < 0 || syscall(SYS_setresgid, -1, 0, -1) < 0)
    g_error("cannot become root again");
  errno = err;
  return fd;
}

static bool make_segment(const IpcShmEntry *e, GError **error) {
  if (!choose_next_id(e->desc->id, error))
    return false;
  int id = get_as_creator(e);
  if (id < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno,
        "Cannot make System V shared memory %u (key 0x%x); is the key taken? ipcs -m shows it", e->desc->id, e->desc->key);
  if (id == (int)e->desc->id)
    return true;
  (void)shmctl(id, IPC_RMID, NULL);
  return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The id %u of a System V shared memory segment is taken", e->desc->id);
}

static bool fill_segment(Restorer *r, const IpcShmEntry *e, GBytes *content, const Made *m, GError **error) {
  char path[96];
  gsize n = 0;
  const void *bytes = content ? g_bytes_get_data(content, &n) : NULL;
  guint64 size = full_size(e);
  (void)snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)m->at, (unsigned long)m->at + size);
  _cleanup_fd_ int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open %s", path);
  if (!m->ours && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot empty System V shared memory %u", e->desc->id);
  if (bytes)
    memcpy(m->at, bytes, MIN(n, e->size));
  return !e->in_pagemaps || restorer_fill_shmem(r, e->desc->id, fd, error);
}

static bool set_owner(const IpcShmEntry *e, GError **error) {
  struct shmid_ds ds;
  int id = (int)e->desc->id;
  bool ok = shmctl(id, IPC_STAT, &ds) == 0;
  ds.shm_perm.uid = e->desc->uid, ds.shm_perm.gid = e->desc->gid;
  ds.shm_perm.mode = (unsigned short)(e->desc->mode & 0777);
  ok = ok && shmctl(id, IPC_SET, &ds) == 0;
  if (ok && e->desc->mode & SHM_LOCKED)
    ok = shmctl(id, SHM_LOCK, NULL) == 0;
  if (ok && e->desc->mode & SHM_DEST) /* goes with its last user: we are one until the tasks are */
    ok = shmctl(id, IPC_RMID, NULL) == 0;
  return ok || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the owner of System V shared memory %u",
                   e->desc->id);
}

bool restorer_sysv(Restorer *r, guint64 id, GError **error) {
  MadeTable *t = made_table(r);
  Made *m = g_hash_table_lookup(t->by_id, GUINT_TO_POINTER(id));
  if (m && m->ready)
    return true;
  const Record *record = id <= G_MAXINT ? find_record(r, id) : NULL;
  if (!record)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "There is no image of System V shared memory %" G_GUINT64_FORMAT, id);
  const IpcShmEntry *e = (const IpcShmEntry *)record->message;
  m = g_new0(Made, 1);
  g_hash_table_insert(t->by_id, GUINT_TO_POINTER(id), m);
  struct shmid_ds ds;
  bool there = shmctl((int)id, IPC_STAT, &ds) == 0;
  if (!(there ? take_up(e, &ds, error) : make_segment(e, error)))
    return false;
  m->ours = !there;
  void *at = shmat((int)id, NULL, 0);
  if (at == (void *)-1)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot attach System V shared memory %u", e->desc->id);
  m->at = at;
  return (m->ready = fill_segment(r, e, record->extra, m, error) && set_owner(e, error));
}

void sysv_keep(Restorer *r) {
  made_table(r)->keep = true;
}

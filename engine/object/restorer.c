/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The restorer: makes each open file description of a checkpoint once, in the engine, before any task exists. */

#include "image.h"
#include "internal.h"
#include "proc-file.h"
#include "reg-check.h"
#include "rights.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* In Restorer.fds while a description is being opened: an image in which files refer to each other in a circle. */
#define FD_OPENING -2

typedef struct SharedKey {
  FdTypes kind;
  guint64 key;
} SharedKey;

typedef struct KindState {
  gpointer state;
  GDestroyNotify destroy;
} KindState;

struct Restorer {
  Job *job;
  const Checkpoint *checkpoint;
  int images_fd;
  const NsSet *namespaces; /* may be NULL */
  GHashTable *fds;    /* file id -> descriptor + 3, or FD_OPENING + 3 */
  GHashTable *shared; /* SharedKey -> descriptor */
  GHashTable *states; /* key -> KindState */
  const NetPlaces *places; /* may be NULL */
  RegChecker *checker; /* may be NULL */
  bool any_late; /* files that are opened again when their processes are there */
};

static guint shared_hash(gconstpointer p) {
  const SharedKey *k = p;
  return (guint)(k->key ^ (k->key >> 32)) * 31 + (guint)k->kind;
}

static gboolean shared_equal(gconstpointer a, gconstpointer b) {
  const SharedKey *x = a, *y = b;
  return x->kind == y->kind && x->key == y->key;
}

static void shared_close(void *p) {
  int fd = GPOINTER_TO_INT(p);
  if (fd >= 0)
    (void)close(fd);
}

static void kind_state_free(void *p) {
  KindState *s = p;
  if (s->destroy)
    s->destroy(s->state);
  g_free(s);
}

Restorer *restorer_new(Job *job, const Checkpoint *checkpoint, int images_fd) {
  Restorer *r = g_new0(Restorer, 1);
  r->job = job;
  r->checkpoint = checkpoint;
  r->images_fd = images_fd;
  r->fds = g_hash_table_new(NULL, NULL);
  r->shared = g_hash_table_new_full(shared_hash, shared_equal, g_free, shared_close);
  r->states = g_hash_table_new_full(NULL, NULL, NULL, kind_state_free);
  for (guint i = 0; i < checkpoint->files->len && !r->any_late; i++) {
    const FileEntry *entry = checkpoint->files->pdata[i];
    const ObjectOps *ops = object_of_entry(checkpoint, entry);
    r->any_late = ops && ops->is_late && ops->is_late(entry);
  }
  raise_fd_limit();
  return r;
}

static int compare_fds(gconstpointer a, gconstpointer b) {
  return *(const int *)a - *(const int *)b;
}

/* Thousands of them lie side by side. */
static void close_fds(GHashTable *table) {
  g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, table);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    int fd = GPOINTER_TO_INT(value) - 3;
    if (fd >= 0)
      g_array_append_val(fds, fd);
  }
  g_array_sort(fds, compare_fds);
  for (guint i = 0, n; i < fds->len; i += n) {
    const int *run = &g_array_index(fds, int, i);
    for (n = 1; i + n < fds->len && run[n] == run[0] + (int)n;)
      n++;
    if (n == 1)
      (void)close(run[0]);
    else
      (void)syscall(SYS_close_range, (unsigned)run[0], (unsigned)run[n - 1], 0);
  }
}

void restorer_free(Restorer *r) {
  if (!r)
    return;
  close_fds(r->fds);
  g_hash_table_unref(r->fds);
  g_hash_table_unref(r->shared);
  g_hash_table_unref(r->states);
  g_free(r);
}

void restorer_set_namespaces(Restorer *r, const NsSet *set) {
  r->namespaces = set;
}

const NsSet *restorer_namespaces(const Restorer *r) {
  return r->namespaces;
}

void restorer_set_places(Restorer *r, const NetPlaces *places) {
  r->places = places;
}

const NetPlaces *restorer_places(const Restorer *r) {
  return r->places;
}

bool restorer_visit_net(const Restorer *r, guint32 id, NetVisit *visit, GError **error) {
  const NetPlace *place = id ? net_places_find(r->places, id) : NULL;
  return net_visit_begin(visit, place ? place->fd : -1, error);
}

Job *restorer_job(const Restorer *r) {
  return r->job;
}

const Checkpoint *restorer_checkpoint(const Restorer *r) {
  return r->checkpoint;
}

int restorer_images_fd(const Restorer *r) {
  return r->images_fd;
}

gpointer restorer_state(Restorer *r, const void *key, gpointer (*make)(void), GDestroyNotify destroy) {
  KindState *s = g_hash_table_lookup(r->states, key);
  if (!s) {
    s = g_new0(KindState, 1);
    s->state = make();
    s->destroy = destroy;
    g_hash_table_insert(r->states, (gpointer)key, s);
  }
  return s->state;
}

static gpointer holders_new(void) {
  return g_hash_table_new(NULL, NULL);
}

const Task *restorer_holder_of(Restorer *r, guint32 file_id) {
  static const char key;
  GHashTable *holders = restorer_state(r, &key, holders_new, (GDestroyNotify)g_hash_table_unref);
  const GPtrArray *tasks = r->checkpoint->tasks;
  for (guint t = g_hash_table_size(holders) ? 0 : tasks->len; t > 0; t--) {
    const Task *task = tasks->pdata[t - 1];
    for (guint i = 0; i < task->fds->len; i++)
      g_hash_table_insert(holders, GUINT_TO_POINTER(((FdinfoEntry *)task->fds->pdata[i])->id), (gpointer)task);
  }
  return g_hash_table_lookup(holders, GUINT_TO_POINTER(file_id));
}

void restorer_shared_put(Restorer *r, FdTypes kind, guint64 key, int fd) {
  SharedKey k = {.kind = kind, .key = key};
  g_hash_table_replace(r->shared, g_memdup2(&k, sizeof k), GINT_TO_POINTER(fd));
}

int restorer_shared_get(const Restorer *r, FdTypes kind, guint64 key) {
  SharedKey k = {.kind = kind, .key = key};
  gpointer fd;
  return g_hash_table_lookup_extended(r->shared, &k, NULL, &fd) ? GPOINTER_TO_INT(fd) : -1;
}

int restorer_shared_take(Restorer *r, FdTypes kind, guint64 key) {
  SharedKey k = {.kind = kind, .key = key};
  gpointer stolen, fd;
  if (!g_hash_table_steal_extended(r->shared, &k, &stolen, &fd))
    return -1;
  g_free(stolen);
  return GPOINTER_TO_INT(fd);
}

static const char *entry_text(const FileEntry *entry) {
  if (entry->reg)
    return entry->reg->name;
  const ObjectOps *ops = object_of_type(entry->type);
  return ops ? ops->name : NULL;
}

char *file_entry_name(const FileEntry *entry) {
  const char *text = entry_text(entry);
  return text ? g_strdup_printf("file id %u (%s)", entry->id, text)
              : g_strdup_printf("file id %u (type %d)", entry->id, (int)entry->type);
}

bool restorer_visit_mount(const Restorer *r, gint32 mount, NsVisit *ret_visit, GError **error) {
  const NsImage *ns = checkpoint_namespace_of_mount(r->checkpoint, mount);
  const NsEntry *place = ns ? ns_set_find(r->namespaces, ns->kind, ns->id) : NULL;
  *ret_visit = (NsVisit){0};
  int result = ns_set_size(r->namespaces) ? ns_visit_begin(ret_visit, CLONE_NEWNS, place ? place->fd : -1) : 0;
  return result == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -result, "Cannot go to the mount namespace of mount %d", mount);
}

static int entry_open(Restorer *r, const FileEntry *entry, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  if (!restorer_visit_net(r, file_entry_net_id(entry), &visit, error))
    return -1;
  const ObjectOps *ops = object_of_entry(r->checkpoint, entry);
  if (!ops || !ops->open) {
    const ProtobufCEnumValue *type = protobuf_c_enum_descriptor_get_value(&fd_types__descriptor, (int)entry->type);
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "File id %u is of type %s, which cannot be restored yet",
        entry->id, type ? type->name : "unknown");
    return -1;
  }
  return ops->open(r, entry, error);
}

static void restorer_put_fd(Restorer *r, guint32 file_id, int fd) {
  g_hash_table_insert(r->fds, GUINT_TO_POINTER(file_id), GINT_TO_POINTER(fd + 3));
}

int restorer_fd_of(Restorer *r, guint32 file_id, GError **error) {
  int fd = GPOINTER_TO_INT(g_hash_table_lookup(r->fds, GUINT_TO_POINTER(file_id))) - 3;
  if (fd >= 0)
    return fd;
  const FileEntry *entry = checkpoint_find_file(r->checkpoint, file_id);
  if (!entry || fd == FD_OPENING) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        entry ? "File id %u refers to itself" : "There is no file id %u", file_id);
    return -1;
  }
  g_hash_table_insert(r->fds, GUINT_TO_POINTER(file_id), GINT_TO_POINTER(FD_OPENING + 3));
  fd = entry_open(r, entry, error);
  if (fd >= 0) {
    restorer_put_fd(r, file_id, fd);
    return fd;
  }
  g_hash_table_remove(r->fds, GUINT_TO_POINTER(file_id));
  g_autofree char *name = file_entry_name(entry);
  g_prefix_error(error, "Cannot restore %s: ", name);
  return -1;
}

static gboolean is_spare(gpointer key, gpointer value, gpointer data) {
  FdTypes kind = ((const SharedKey *)key)->kind;
  return kind == FD_TYPES__PIPE || kind == FD_TYPES__FIFO || kind == FD_TYPES__UNIXSK;
}

void restorer_set_checker(Restorer *r, RegChecker *checker) {
  r->checker = checker;
}

RegChecker *restorer_checker(const Restorer *r) {
  return r->checker;
}

bool restorer_has(const Restorer *r, guint32 file_id) {
  return g_hash_table_contains(r->fds, GUINT_TO_POINTER(file_id));
}

bool restorer_closes_on_exec(const Restorer *r, guint32 file_id) {
  const FileEntry *entry = checkpoint_find_file(r->checkpoint, file_id);
  return entry && entry->type == FD_TYPES__REG && !checkpoint_find_external(r->checkpoint, file_id);
}

bool restorer_open_all(Restorer *r, GError **error) {
  if (!numbers_open(r, error))
    return false;
  guint n = 0;
  for (guint t = 0; t < r->checkpoint->tasks->len; t++) {
    const Task *task = r->checkpoint->tasks->pdata[t];
    for (guint i = 0; i < task->fds->len; i++) {
      const FdinfoEntry *e = task->fds->pdata[i];
      if (restorer_fd_of(r, e->id, error) < 0)
        return false;
      if (++n % 256 == 0 && !job_poll(r->job, error))
        return false;
    }
  }
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->settle && !(*ops)->settle(r, error))
      return false;
  (void)g_hash_table_foreach_remove(r->shared, is_spare, NULL);
  return tty_settle(r, error);
}

/* Files that the engine made itself (deleted ones) may belong to others; what lies at a path is the caller's choice. */
static int open_for_mapping(Restorer *r, int fd, guint32 file_id, int flags, GError **error) {
  FdPath path = fd_path(fd);
  bool ghost;
  CallerRights rights = {0};
  if (!ghost_find(r, file_id, &ghost, error) || (!ghost && !caller_rights_begin(r->job, &rights, error)))
    return -1;
  int opened = open(path.text, flags | O_CLOEXEC | O_NOCTTY), reason = errno;
  caller_rights_end(&rights);
  if (opened < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot open file id %u for its mappings", file_id);
  return opened;
}

int restorer_fd_for_mapping(Restorer *r, guint32 file_id, int flags, GError **error) {
  int fd = restorer_fd_of(r, file_id, error);
  int have = fd < 0 ? -1 : fcntl(fd, F_GETFL);
  flags &= O_ACCMODE;
  if (have < 0 || (!(have & O_PATH) && ((have & O_ACCMODE) == flags || (have & O_ACCMODE) == O_RDWR)))
    return fd;
  guint64 key = ((guint64)1 << 40) | (guint64)file_id << 2 | (guint64)flags; /* apart from the ghosts */
  int known = restorer_shared_get(r, FD_TYPES__REG, key);
  if (known >= 0)
    return known;
  int opened = open_for_mapping(r, fd, file_id, flags, error);
  if (opened < 0)
    return -1;
  restorer_shared_put(r, FD_TYPES__REG, key, opened);
  return opened;
}

int restorer_late_fd(Restorer *r, guint32 file_id, GError **error) {
  const FileEntry *entry = r->any_late ? checkpoint_find_file(r->checkpoint, file_id) : NULL;
  const ObjectOps *ops = entry ? object_of_entry(r->checkpoint, entry) : NULL;
  if (!ops || !ops->is_late || !ops->is_late(entry))
    return -1;
  int known = restorer_shared_get(r, entry->type, file_id);
  if (known >= 0)
    return known;
  int fd = ops->open_late(r, entry, error);
  if (fd >= 0)
    restorer_shared_put(r, entry->type, file_id, fd);
  return fd;
}

bool restorer_needs_thread(Restorer *r, guint32 file_id) {
  const FileEntry *entry = r->any_late ? checkpoint_find_file(r->checkpoint, file_id) : NULL;
  return entry && entry->reg && proc_file_is_of_thread(entry->reg->name);
}

bool restorer_finish(Restorer *r, GError **error) {
  return memfd_finish(r, error);
}

bool restorer_release(Restorer *r, GError **error) {
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->release && !(*ops)->release(r, error))
      return false;
  return true;
}

bool restorer_set_flags(int fd, guint32 flags, GError **error) {
  /* The kernel leaves all others as they are. */
  const int settable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  if (fcntl(fd, F_SETFL, (int)flags & settable) == 0)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the flags 0%o", flags);
}

void restorer_keep(Restorer *r) {
  sysv_keep(r);
  mqueue_keep(r);
  ghost_keep(r);
}

void restorer_fown_program(const FileEntry *entry, int fd, Program *p) {
  const ObjectOps *ops = object_of_type(entry->type);
  fown_program(ops && ops->fown ? ops->fown(entry) : NULL, fd, p);
}

void fown_program(const FownEntry *fown, int fd, Program *p) {
  if (!fown)
    return;
  if (fown->signum) {
    PROGRAM_CALL(p, "fcntl F_SETSIG", SYS_fcntl, ARG(fd), ARG(F_SETSIG), ARG(fown->signum));
    program_expect(p, EXPECT_OK, 0);
  }
  if (fown->pid) {
    struct f_owner_ex owner = {.type = (int)fown->pid_type, .pid = (pid_t)fown->pid};
    size_t at = program_data(p, &owner, sizeof owner);
    PROGRAM_CALL(p, "fcntl F_SETOWN_EX", SYS_fcntl, ARG(fd), ARG(F_SETOWN_EX), ARG_DATA(at));
    program_expect(p, EXPECT_ANY, 0); /* an owner outside the tree may be gone */
  }
}

/* --- shared memory --- */

/* Reads into a mapping of the object: one copy, and the only way into huge pages, which know no write(2). */
static bool fill_entry(Restorer *r, int pages_fd, off_t *at, const PagemapEntry *e, char *object, GError **error) {
  guint64 left = pagemap_entry_n_pages(e) * 4096;
  char *to = object + e->vaddr;
  while (left > 0) {
    ssize_t n = pread(pages_fd, to, MIN(left, 1 << 20), *at);
    if (n <= 0)
      return engine_fail_errno(
          error, ENGINE_ERROR_CODE__IMAGE_INVALID, n < 0 ? errno : ENODATA, "Cannot read pages of shared memory");
    *at += n;
    to += n;
    left -= (guint64)n;
    job_add_bytes(r->job, (guint64)n);
    if (!job_poll(r->job, error))
      return false;
  }
  return true;
}

static bool fill_all(Restorer *r, guint64 shmid, const PageSet *set, guint64 end, int pages_fd, char *object, GError **error) {
  off_t at = 0;
  for (guint i = 0; i < set->entries->len; i++) {
    const PagemapEntry *e = set->entries->pdata[i];
    guint64 n = pagemap_entry_n_pages(e);
    if (!(pagemap_entry_flags(e) & PE_PRESENT))
      continue;
    if (e->vaddr > end || n > (end - e->vaddr) / 4096)
      return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
          "pagemap-shmem-%" G_GUINT64_FORMAT ".img has pages behind the end of its object", shmid);
    if (!fill_entry(r, pages_fd, &at, e, object, error))
      return false;
  }
  return true;
}

bool restorer_fill_shmem(Restorer *r, guint64 shmid, int fd, GError **error) {
  const PageSet *set = checkpoint_find_shmem(r->checkpoint, shmid);
  if (!set || !set->entries->len)
    return true;
  struct stat st;
  if (fstat(fd, &st) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat shared memory");
  guint64 end = ((guint64)st.st_size + 4095) & ~4095ULL;
  _cleanup_fd_ int pages_fd = image_open_pages(r->images_fd, set->pages_id, error);
  if (pages_fd < 0)
    return false;
  char *object = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (object == MAP_FAILED)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot map shared memory of %" G_GUINT64_FORMAT " bytes", end);
  bool ok = fill_all(r, shmid, set, end, pages_fd, object, error);
  (void)munmap(object, end);
  if (!ok)
    return false;
  return ftruncate(fd, st.st_size) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot cut shared memory to its size");
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Ghosts: regular files without a name that somebody still has open. Their content goes into ghost-file-<id>.img, once
 * per inode; a remap record says which file ids mean it.
 *
 * At restore the file is made at the path it had and unlinked at once: so /proc/PID/fd says "path (deleted)" as before.
 * Then it is filled. What lies at that path now is never touched: then the ghost passes through another name in the
 * same directory. */

#include "ghost-file.pb-c.h"
#include "image.h"
#include "internal.h"
#include "remap-file-path.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

/* --- collect --- */

static guint ghost_key_hash(gconstpointer p) {
  const guint64 *k = p;
  return (guint)(k[0] * 31 + k[1]);
}

static gboolean ghost_key_equal(gconstpointer a, gconstpointer b) {
  return memcmp(a, b, 2 * sizeof(guint64)) == 0;
}

static gpointer ghost_ids_new(void) {
  return g_hash_table_new_full(ghost_key_hash, ghost_key_equal, g_free, NULL);
}

static Timeval *timeval_new(struct timespec t) {
  Timeval *tv = MESSAGE_NEW(Timeval, timeval__init);
  tv->tv_sec = (guint64)t.tv_sec;
  tv->tv_usec = (guint64)t.tv_nsec / 1000;
  return tv;
}

static GhostFileEntry *ghost_entry_new(const struct stat *st) {
  GhostFileEntry *ghost = MESSAGE_NEW(GhostFileEntry, ghost_file_entry__init);
  ghost->uid = st->st_uid;
  ghost->gid = st->st_gid;
  ghost->mode = st->st_mode;
  ghost->has_dev = true;
  ghost->dev = (guint32)(major(st->st_dev) << 20 | minor(st->st_dev));
  ghost->has_ino = true;
  ghost->ino = st->st_ino;
  ghost->atim = timeval_new(st->st_atim);
  ghost->mtim = timeval_new(st->st_mtim);
  return ghost;
}

static bool ghost_write(Collector *c, const FileProbe *probe, guint32 ghost_id, GError **error) {
  if (collector_images_fd(c) < 0)
    return true;
  FdPath path = fd_path(probe->local);
  _cleanup_fd_ int content = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (content < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the file %s", probe->link);
  GhostFileEntry *ghost = ghost_entry_new(&probe->st);
  guint64 written = 0;
  bool ok = image_create_ghost(
      collector_images_fd(c), ghost_id, &ghost->base, content, (guint64)probe->st.st_size, &written, error);
  ghost_file_entry__free_unpacked(ghost, NULL);
  if (ok)
    job_add_bytes(collector_job(c), written);
  return ok;
}

bool ghost_embed(Collector *c, const FileProbe *probe, guint32 *ret_ghost_id, GError **error) {
  static const char key;
  GHashTable *ids = collector_state(c, &key, ghost_ids_new, (GDestroyNotify)g_hash_table_unref);
  guint64 inode[2] = {probe->st.st_dev, probe->st.st_ino};
  *ret_ghost_id = GPOINTER_TO_UINT(g_hash_table_lookup(ids, inode));
  if (*ret_ghost_id)
    return true;
  *ret_ghost_id = collector_new_ghost_id(c);
  if (!ghost_write(c, probe, *ret_ghost_id, error))
    return false;
  g_hash_table_insert(ids, g_memdup2(inode, sizeof inode), GUINT_TO_POINTER(*ret_ghost_id));
  return true;
}

bool ghost_collect(Collector *c, const FileProbe *probe, guint32 file_id, GError **error) {
  guint32 ghost_id = 0;
  if (!ghost_embed(c, probe, &ghost_id, error))
    return false;
  RemapFilePathEntry *remap = MESSAGE_NEW(RemapFilePathEntry, remap_file_path_entry__init);
  remap->orig_id = file_id;
  remap->remap_id = ghost_id;
  remap->has_remap_type = true;
  remap->remap_type = REMAP_TYPE__GHOST;
  checkpoint_add_record(collector_checkpoint(c), RECORD_REMAP, &remap->base, NULL);
  return true;
}

/* --- restore --- */

static gpointer remaps_new(void) {
  return g_hash_table_new(NULL, NULL);
}

/* file id -> RemapFilePathEntry */
static GHashTable *remaps_of(Restorer *r) {
  static const char key;
  GHashTable *remaps = restorer_state(r, &key, remaps_new, (GDestroyNotify)g_hash_table_unref);
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_REMAP];
  for (guint i = g_hash_table_size(remaps) ? records->len : 0; i < records->len; i++) {
    RemapFilePathEntry *remap = (RemapFilePathEntry *)((Record *)records->pdata[i])->message;
    g_hash_table_insert(remaps, GUINT_TO_POINTER(remap->orig_id), remap);
  }
  return remaps;
}

bool ghost_find(Restorer *r, guint32 file_id, guint32 *ret_ghost_id, GError **error) {
  const RemapFilePathEntry *remap = g_hash_table_lookup(remaps_of(r), GUINT_TO_POINTER(file_id));
  *ret_ghost_id = 0;
  if (!remap)
    return true;
  /* Old images say "ghost" with bit 31 of the id, and have no type. */
  bool old_ghost = !remap->has_remap_type && remap->remap_id & 0x80000000U;
  if (!old_ghost && (!remap->has_remap_type || remap->remap_type != REMAP_TYPE__GHOST))
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "Deleted files that were kept by a hard link or belong to a dead process cannot be restored yet");
  *ret_ghost_id = remap->remap_id & 0x7fffffffU;
  return true;
}

/* --- a name for a moment --- */

typedef struct Directory {
  char *path;
  bool made; /* by us */
} Directory;

/* Parameters and result of name_file(). */
typedef struct Naming {
  const char *directory, *base;
  GArray *missing; /* of Directory, outermost first */
  int fd;          /* open for reading and writing, or -1 */
  int error;
} Naming;

static void directory_clear(gpointer p) {
  g_free(((Directory *)p)->path);
}

static GArray *missing_directories(const char *path) {
  GArray *missing = g_array_new(false, false, sizeof(Directory));
  g_array_set_clear_func(missing, directory_clear);
  g_autofree char *at = g_strdup(path);
  while (!g_file_test(at, G_FILE_TEST_IS_DIR) && strcmp(at, "/") != 0 && strcmp(at, ".") != 0) {
    Directory d = {.path = at};
    g_array_prepend_val(missing, d);
    at = g_path_get_dirname(d.path);
  }
  return missing;
}

/* The helper's body: system calls only, its memory is the engine's. Sets @n->fd or @n->error. */
static int name_file(void *argument) {
  Naming *n = argument;
  (void)setsid(); /* what kills the engine's group or comes from its terminal is not meant for us */
  n->error = 0;
  for (guint i = 0; i < n->missing->len && !n->error; i++) {
    Directory *d = &g_array_index(n->missing, Directory, i);
    d->made = mkdir(d->path, 0700) == 0;
    n->error = d->made || errno == EEXIST ? 0 : errno;
  }
  int dir = n->error ? -1 : open(n->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  n->fd = n->error ? -1 : openat(dir, n->base, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  n->error = n->error || n->fd >= 0 ? n->error : errno;
  if (n->fd >= 0)
    (void)unlinkat(dir, n->base, 0);
  if (dir >= 0)
    (void)close(dir);
  for (guint i = n->missing->len; i > 0; i--)
    if (g_array_index(n->missing, Directory, i - 1).made)
      (void)rmdir(g_array_index(n->missing, Directory, i - 1).path);
  return 0;
}

/* Runs name_file() in a process that shares memory and descriptors with the engine, and outlives it: a SIGKILL of the
 * engine at whatever moment leaves neither the file nor its directories behind. */
static int run_naming(Naming *n) {
  enum { STACK = 65536 };
  g_autofree char *stack = g_malloc(STACK);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  n->fd = -1;
  n->error = EINTR; /* if it is killed */
  pid_t pid =
      clone(name_file, (char *)((uintptr_t)(stack + STACK) & ~(uintptr_t)63), CLONE_VM | CLONE_FILES | CLONE_VFORK, n);
  if (pid < 0)
    n->error = errno;
  while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
    ;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return n->fd;
}

/* An empty file that had the name @base in @directory for a moment; another name if that is taken. */
static int make_unlinked(const char *directory, const char *base, GError **error) {
  g_autoptr(GArray) missing = missing_directories(directory);
  g_autofree char *name = g_strdup(base);
  Naming n = {.directory = directory, .missing = missing, .fd = -1, .error = EEXIST};
  for (int try = 0; try < 3 && n.error == EEXIST; try++) {
    n.base = name;
    (void)run_naming(&n);
    g_free(name);
    name = g_strdup_printf("%.200s.%08x", base, g_random_int());
  }
  if (n.fd < 0)
    engine_fail_errno(
        error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, n.error, "Cannot make the deleted file %s/%s", directory, base);
  return n.fd;
}

/* A file that never had a name (O_TMPFILE: the kernel calls it "#" and its inode) may still be given one by the
 * application; only such a file can. Or -1, without an error. */
static int make_nameless(const GhostFileEntry *ghost, const char *directory, const char *base) {
  g_autofree char *name = g_strdup_printf("#%" G_GUINT64_FORMAT, ghost->ino);
  if (!ghost->has_ino || strcmp(base, name) != 0)
    return -1;
  return open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* --- its content --- */

static bool ghost_fill(Restorer *r, const GhostFileEntry *ghost, guint32 id, int fd, GError **error) {
  if (!image_copy_ghost(restorer_images_fd(r), id, fd, error))
    return false;
  if (fchown(fd, ghost->uid, ghost->gid) < 0 || fchmod(fd, ghost->mode & 07777) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set owner and mode of a deleted file");
  if (!ghost->atim || !ghost->mtim)
    return true;
  struct timespec times[2] = {
      {.tv_sec = (time_t)ghost->atim->tv_sec, .tv_nsec = (long)(ghost->atim->tv_usec * 1000)},
      {.tv_sec = (time_t)ghost->mtim->tv_sec, .tv_nsec = (long)(ghost->mtim->tv_usec * 1000)},
  };
  if (futimens(fd, times) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the times of a deleted file");
  return true;
}

static int ghost_make_at(Restorer *r, const GhostFileEntry *ghost, guint32 id, const char *path, GError **error) {
  g_autofree char *directory = g_path_get_dirname(path);
  g_autofree char *base = g_path_get_basename(path);
  _cleanup_fd_ int fd = make_nameless(ghost, directory, base);
  if (fd < 0 && (fd = make_unlinked(directory, base, error)) < 0)
    return -1;
  if (!ghost_fill(r, ghost, id, fd, error))
    return -1;
  /* Not open for writing: it may be a program that is to be executed. */
  FdPath own = fd_path(fd);
  int there = open(own.text, O_PATH | O_CLOEXEC);
  if (there < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the deleted file %s", path);
  return there;
}

static int ghost_make(Restorer *r, const RegFileEntry *reg, guint32 id, GError **error) {
  GhostFileEntry *ghost = (GhostFileEntry *)image_read_ghost(restorer_images_fd(r), id, error);
  if (!ghost)
    return -1;
  int fd = -1;
  if (!S_ISREG(ghost->mode)) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "%s is a deleted file of mode 0%o, only regular files can be "
        "restored yet",
        reg->name, ghost->mode);
  } else {
    fd = ghost_make_at(r, ghost, id, reg->name, error);
  }
  ghost_file_entry__free_unpacked(ghost, NULL);
  return fd;
}

int ghost_open(Restorer *r, const RegFileEntry *reg, guint32 ghost_id, GError **error) {
  int fd = restorer_shared_get(r, FD_TYPES__REG, ghost_id);
  if (fd >= 0)
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
  const char *base = strrchr(reg->name, '/');
  if (reg->name[0] != '/' || !base[1] || strcmp(base, "/.") == 0 || strcmp(base, "/..") == 0) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s is no absolute path of a file", reg->name);
    return -1;
  }
  fd = ghost_make(r, reg, ghost_id, error);
  if (fd < 0)
    return -1;
  restorer_shared_put(r, FD_TYPES__REG, ghost_id, fd);
  return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

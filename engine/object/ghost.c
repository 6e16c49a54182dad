/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Ghosts: regular files without a name that somebody still has open. Their content goes into ghost-file-<id>.img, once
 * per inode; a remap record says which file ids mean it.
 *
 * At restore the file is made without a name (O_TMPFILE), filled, linked at the path it had, opened there with O_PATH
 * and unlinked again: so /proc/PID/fd says "path (deleted)" as before. What lies at that path now is never touched:
 * then the ghost passes through another name in the same directory. */

#include "ghost-file.pb-c.h"
#include "image.h"
#include "internal.h"
#include "remap-file-path.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

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
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the deleted file %s", probe->link);
  GhostFileEntry *ghost = ghost_entry_new(&probe->st);
  guint64 written = 0;
  bool ok = image_create_ghost(
      collector_images_fd(c), ghost_id, &ghost->base, content, (guint64)probe->st.st_size, &written, error);
  ghost_file_entry__free_unpacked(ghost, NULL);
  if (ok)
    job_add_bytes(collector_job(c), written);
  return ok;
}

bool ghost_collect(Collector *c, const FileProbe *probe, guint32 file_id, GError **error) {
  static const char key;
  GHashTable *ids = collector_state(c, &key, ghost_ids_new, (GDestroyNotify)g_hash_table_unref);
  guint64 inode[2] = {probe->st.st_dev, probe->st.st_ino};
  guint32 ghost_id = GPOINTER_TO_UINT(g_hash_table_lookup(ids, inode));
  if (!ghost_id) {
    ghost_id = collector_new_ghost_id(c);
    if (!ghost_write(c, probe, ghost_id, error))
      return false;
    g_hash_table_insert(ids, g_memdup2(inode, sizeof inode), GUINT_TO_POINTER(ghost_id));
  }
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

/* Makes the missing directories of a path; those it made are added to @made. */
static bool make_parents(const char *directory, GPtrArray *made, GError **error) {
  if (g_file_test(directory, G_FILE_TEST_IS_DIR))
    return true;
  g_autofree char *parent = g_path_get_dirname(directory);
  if (strlen(parent) < strlen(directory) && !make_parents(parent, made, error))
    return false;
  if (mkdir(directory, 0700) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno,
        "Cannot make the directory %s of a deleted file", directory);
  g_ptr_array_add(made, g_strdup(directory));
  return true;
}

static void remove_parents(GPtrArray *made) {
  for (guint i = made->len; i > 0; i--)
    (void)rmdir(made->pdata[i - 1]);
}

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

/* A file without a name in @dir, or, where the file system has no O_TMPFILE, one that was unlinked (*ret_name then
 * names it; it is unlinked once it is open by that name). */
static int make_nameless(int dir, const char *base, char **ret_name, GError **error) {
  int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0)
    return fd;
  g_autofree char *name = g_strdup_printf("%.200s.%08x", base, g_random_int());
  fd = openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot make a file for a deleted one");
  else
    *ret_name = g_steal_pointer(&name);
  return fd;
}

/* Gives the file its old name for a moment; another one if that is taken. */
static int open_by_name(int dir, int fd, const char *base, const char *temporary, GError **error) {
  FdPath path = fd_path(fd);
  g_autofree char *name = g_strdup(base);
  int linked = -1;
  for (int try = 0; linked < 0 && try < 3; try++) {
    linked = temporary ? renameat2(dir, temporary, dir, name, RENAME_NOREPLACE)
                       : linkat(AT_FDCWD, path.text, dir, name, AT_SYMLINK_FOLLOW);
    if (linked < 0) {
      g_free(name);
      name = g_strdup_printf("%.200s.%08x", base, g_random_int());
    }
  }
  if (linked < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot name a deleted file");
    if (temporary)
      (void)unlinkat(dir, temporary, 0);
    return -1;
  }
  int named = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  (void)unlinkat(dir, name, 0);
  if (named < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a deleted file");
  return named;
}

static int ghost_make_in(
    Restorer *r, const GhostFileEntry *ghost, guint32 id, const char *directory, const char *base, GError **error) {
  _cleanup_fd_ int dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot open the directory %s", directory);
    return -1;
  }
  g_autofree char *temporary = NULL;
  _cleanup_fd_ int fd = make_nameless(dir, base, &temporary, error);
  if (fd < 0)
    return -1;
  if (!ghost_fill(r, ghost, id, fd, error)) {
    if (temporary)
      (void)unlinkat(dir, temporary, 0);
    return -1;
  }
  return open_by_name(dir, fd, base, temporary, error);
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
    g_autofree char *directory = g_path_get_dirname(reg->name);
    g_autofree char *base = g_path_get_basename(reg->name);
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(g_free);
    if (make_parents(directory, made, error))
      fd = ghost_make_in(r, ghost, id, directory, base, error);
    remove_parents(made);
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

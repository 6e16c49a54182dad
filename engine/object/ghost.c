/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Ghosts: files, directories, FIFOs and the like without a name that somebody still has open. They go into
 * ghost-file-<id>.img, once per inode; a remap record says which file ids mean it. ghost-restore.c makes them again. */

#include "ghost-file.pb-c.h"
#include "image.h"
#include "internal.h"
#include "remap-file-path.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/sysmacros.h>

/* --- collect --- */

static guint ghost_key_hash(gconstpointer p) {
  const guint64 *k = p;
  return (guint)(k[0] * 31 + k[1]);
}

static gboolean ghost_key_equal(gconstpointer a, gconstpointer b) {
  return memcmp(a, b, 2 * sizeof(guint64)) == 0;
}

/* One that is to be written. */
typedef struct Pending {
  guint32 id;
  int local; /* a duplicate */
  char *link;
  struct stat st;
} Pending;

typedef struct Ghosts {
  GHashTable *ids; /* inode: id */
  GArray *pending; /* Pending */
} Ghosts;

static void pending_clear(gpointer data) {
  Pending *p = data;
  fd_cleanup(&p->local);
  g_free(p->link);
}

static gpointer ghosts_new(void) {
  Ghosts *g = g_new0(Ghosts, 1);
  g->ids = g_hash_table_new_full(ghost_key_hash, ghost_key_equal, g_free, NULL);
  g->pending = g_array_new(FALSE, FALSE, sizeof(Pending));
  g_array_set_clear_func(g->pending, pending_clear);
  return g;
}

static void ghosts_free(gpointer data) {
  Ghosts *g = data;
  g_hash_table_unref(g->ids);
  g_array_unref(g->pending);
  g_free(g);
}

static Ghosts *ghosts_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, ghosts_new, ghosts_free);
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
  ghost->has_rdev = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
  ghost->rdev = (guint32)st->st_rdev;
  ghost->atim = timeval_new(st->st_atim);
  ghost->mtim = timeval_new(st->st_mtim);
  return ghost;
}

static bool read_target(const Pending *probe, GhostFileEntry *ghost, GError **error) {
  char target[PATH_MAX];
  ssize_t n = readlinkat(probe->local, "", target, sizeof target - 1);
  if (n < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the symbolic link %s", probe->link);
  target[n] = '\0';
  ghost->symlnk_target = g_strdup(target);
  return true;
}

static bool ghost_write(Collector *c, const Pending *probe, GError **error) {
  FdPath path = fd_path(probe->local);
  bool regular = S_ISREG(probe->st.st_mode);
  _cleanup_fd_ int content = regular ? open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
  if (regular && content < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the file %s", probe->link);
  GhostFileEntry *ghost = ghost_entry_new(&probe->st);
  if (S_ISLNK(probe->st.st_mode) && !read_target(probe, ghost, error)) {
    ghost_file_entry__free_unpacked(ghost, NULL);
    return false;
  }
  guint64 written = 0;
  bool ok = image_create_ghost(
      collector_images_fd(c), probe->id, &ghost->base, content, (guint64)probe->st.st_size, &written, error);
  ghost_file_entry__free_unpacked(ghost, NULL);
  if (ok)
    job_add_bytes(collector_job(c), written);
  return ok;
}

bool ghosts_write(Collector *c, GError **error) {
  GArray *pending = ghosts_of(c)->pending;
  for (guint i = 0; i < pending->len; i++)
    if (!ghost_write(c, &g_array_index(pending, Pending, i), error) || !job_poll(collector_job(c), error))
      return false;
  g_array_set_size(pending, 0);
  return true;
}

bool ghost_embed(Collector *c, const FileProbe *probe, guint32 *ret_ghost_id, GError **error) {
  Ghosts *g = ghosts_of(c);
  guint64 inode[2] = {probe->st.st_dev, probe->st.st_ino};
  *ret_ghost_id = GPOINTER_TO_UINT(g_hash_table_lookup(g->ids, inode));
  if (*ret_ghost_id)
    return true;
  Pending p = {.id = collector_new_ghost_id(c), .local = -1, .st = probe->st};
  if (collector_images_fd(c) >= 0) { /* an explanation writes nothing */
    p.local = fcntl(probe->local, F_DUPFD_CLOEXEC, 0);
    if (p.local < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot keep the file %s", probe->link);
    p.link = g_strdup(probe->link);
    g_array_append_val(g->pending, p);
  }
  *ret_ghost_id = p.id;
  g_hash_table_insert(g->ids, g_memdup2(inode, sizeof inode), GUINT_TO_POINTER(p.id));
  return true;
}

/* By what it takes on its disk, as CRIU counts it: holes are free. */
char *ghost_too_large(const Collector *c, const FileProbe *probe) {
  const EngineOptions *o = job_options(collector_job(c));
  guint64 size = (guint64)probe->st.st_blocks * 512;
  if (!o->has_ghost_limit || !o->ghost_limit || !S_ISREG(probe->st.st_mode) || size <= o->ghost_limit)
    return NULL;
  return g_strdup_printf("it was deleted, so that its %" G_GUINT64_FORMAT
                         " bytes would go into the checkpoint, and the option ghost-limit is %" G_GUINT64_FORMAT,
      size, o->ghost_limit);
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

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Deleted files at the restore. All are made at the first question for one: named for a moment (ghost-name.c), then filled. Three
 * kinds of records lead here: ghosts, whose content is in the checkpoint; links that the dump made (link-remap); and files that
 * are found again by their handle (ckpt_linked_file), because other names of theirs were left. */

#include "ghost-file.pb-c.h"
#include "ghost-name.h"
#include "image.h"
#include "remap-file-path.pb-c.h"
#include "rights.h"
#include <errno.h>
#include <fcntl.h>
#include <syslog.h>

typedef struct Ghosts {
  bool loaded;
  GPtrArray *all;        /* Ghost */
  GHashTable *by_id;     /* image id -> Ghost */
  GHashTable *by_file;   /* file id -> GhostName */
  GPtrArray *litter;     /* paths of link_remap.N, which go when the tree lives */
} Ghosts;

static void ghosts_free(void *p) {
  Ghosts *gs = p;
  g_hash_table_unref(gs->by_file);
  g_hash_table_unref(gs->by_id);
  g_ptr_array_unref(gs->all);
  g_ptr_array_unref(gs->litter);
  g_free(gs);
}

static gpointer ghosts_new(void) {
  Ghosts *gs = g_new0(Ghosts, 1);
  gs->all = g_ptr_array_new_with_free_func(ghost_free);
  gs->by_id = g_hash_table_new(NULL, NULL);
  gs->by_file = g_hash_table_new(NULL, NULL);
  gs->litter = g_ptr_array_new_with_free_func(g_free);
  return gs;
}

static Ghosts *ghosts_of(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, ghosts_new, ghosts_free);
}

/* --- what is to be made --- */

static bool add_file(Restorer *r, Ghost *g, guint32 file_id, GError **error) {
  Ghosts *gs = ghosts_of(r);
  const FileEntry *entry = checkpoint_find_file(restorer_checkpoint(r), file_id);
  const char *path = entry && entry->reg ? entry->reg->name : NULL;
  const char *base = path ? strrchr(path, '/') : NULL;
  if (!base || path[0] != '/' || !base[1] || strcmp(base, "/.") == 0 || strcmp(base, "/..") == 0)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "remap-fpath.img: file id %u has no path of a file", file_id);
  GhostName *n = ghost_add_name(g, path);
  int flags = (int)entry->reg->flags;
  bool nameless = (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & O_NOFOLLOW || nameless) && !(flags & O_PATH)) {
    ExactOpen exact = {.file_id = file_id, .flags = reg_open_flags((guint32)flags), .nameless = nameless, .fd = -1};
    g_array_append_val(n->exact, exact);
  }
  g_hash_table_insert(gs->by_file, GUINT_TO_POINTER(file_id), n);
  return true;
}

static Ghost *ghost_load(Restorer *r, guint32 id, GError **error) {
  Ghosts *gs = ghosts_of(r);
  Ghost *g = g_hash_table_lookup(gs->by_id, GUINT_TO_POINTER(id));
  if (g)
    return g;
  GhostFileEntry *e = (GhostFileEntry *)image_read_ghost(restorer_images_fd(r), id, error);
  if (!e)
    return NULL;
  g = ghost_new(id);
  g->mode = e->mode;
  g->rdev = e->rdev;
  g->target = g_strdup(e->symlnk_target ? e->symlnk_target : "");
  ghost_file_entry__free_unpacked(e, NULL);
  g_ptr_array_add(gs->all, g);
  g_hash_table_insert(gs->by_id, GUINT_TO_POINTER(id), g);
  return g;
}

static bool add_link(Restorer *r, const RemapFilePathEntry *remap, GError **error) {
  Ghosts *gs = ghosts_of(r);
  const FileEntry *link = checkpoint_find_file(restorer_checkpoint(r), remap->remap_id);
  if (!link || !link->reg || link->reg->name[0] != '/')
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "remap-fpath.img: file id %u is no link", remap->remap_id);
  CallerRights rights;
  int fd = -1;
  if (caller_rights_begin(restorer_job(r), &rights, error))
    fd = open(link->reg->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  int reason = errno;
  caller_rights_end(&rights);
  Ghost *g = ghost_new(0);
  g->source = fd;
  g->own_path = true;
  g_ptr_array_add(gs->all, g);
  if (fd >= 0)
    g_ptr_array_add(gs->litter, g_strdup(link->reg->name));
  else
    engine_fail_errno(&g->failure, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, reason,
        "Cannot open %s, the link that the dump made to a file whose name was gone", link->reg->name);
  return add_file(r, g, remap->orig_id, error);
}

static int open_handle(const CkptLinkedFile *f, GError **error) {
  struct {
    struct file_handle head;
    unsigned char bytes[MAX_HANDLE_SZ];
  } h = {.head = {.handle_bytes = (unsigned)f->handle.len, .handle_type = f->handle_type}};
  struct stat st;
  if (f->handle.len > MAX_HANDLE_SZ) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "checkpoint.img: a file handle of %zu bytes", f->handle.len);
    return -1;
  }
  memcpy(h.head.f_handle, f->handle.data, f->handle.len);
  _cleanup_fd_ int mount = open(f->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  _cleanup_fd_ int fd = mount < 0 ? -1 : open_by_handle_at(mount, &h.head, O_PATH | O_CLOEXEC);
  if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == f->ino)
    return fd_take(&fd);
  engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, fd >= 0 ? ESTALE : errno,
      "The file, which had lost the name it was opened by, is not on the file system of %s any more (at the next dump the option "
      "link-remap gives it a name to keep it)", f->directory);
  return -1;
}

static bool add_linked(Restorer *r, const CkptLinkedFile *f, GError **error) {
  if (g_hash_table_contains(ghosts_of(r)->by_file, GUINT_TO_POINTER(f->file_id)))
    return true; /* it has a link, too */
  Ghost *g = ghost_new(0);
  g_ptr_array_add(ghosts_of(r)->all, g);
  g->source = open_handle(f, &g->failure);
  return add_file(r, g, f->file_id, error);
}

static bool add_remap(Restorer *r, const RemapFilePathEntry *remap, GError **error) {
  /* Old images say "ghost" with bit 31 of the id, and have no type. */
  bool old_ghost = !remap->has_remap_type && remap->remap_id & 0x80000000U;
  if (remap->has_remap_type && remap->remap_type == REMAP_TYPE__PROCFS)
    return true; /* proc-file.c */
  if (!old_ghost && (!remap->has_remap_type || remap->remap_type == REMAP_TYPE__LINKED))
    return add_link(r, remap, error);
  Ghost *g = ghost_load(r, remap->remap_id & 0x7fffffffU, error);
  return g && add_file(r, g, remap->orig_id, error);
}

/* --- making them --- */

/* A file that never had a name (O_TMPFILE: the kernel calls it "#" and a number) may still be given one by the application;
 * only such a file can. */
static ExactOpen *maker_of(const Ghost *g) {
  const GhostName *n = g->names->pdata[0];
  for (guint i = 0; i < n->exact->len; i++)
    if (g_array_index(n->exact, ExactOpen, i).nameless)
      return &g_array_index(n->exact, ExactOpen, i);
  return NULL;
}

static void make_nameless(Ghost *g) {
  const ExactOpen *maker = maker_of(g);
  const GhostName *n = g->names->pdata[0];
  if (g->names->len == 1 && g->source < 0 && S_ISREG(g->mode) && n->base[0] == '#' && n->base[1] &&
      strspn(n->base + 1, "0123456789") == strlen(n->base + 1))
    g->fd = open(n->directory, O_TMPFILE | O_CLOEXEC | (maker ? maker->flags : O_RDWR), 0600);
  g->done = g->fd >= 0;
}

/* Where its directory does not let us: the application cannot tell, but for the name in /proc. */
static void make_anywhere(Restorer *r, Ghost *g) {
  static const char *const places[] = {"/var/tmp", "/tmp", "/dev/shm"};
  const GhostName *n = g->names->pdata[0];
  for (size_t i = 0; g->fd < 0 && i < G_N_ELEMENTS(places); i++) {
    g->fd = open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (g->fd >= 0)
      job_log(restorer_job(r), LOG_WARNING, "The deleted file %s cannot have its name in /proc again (%s); it is one of %s now", n->path,
          g_strerror(n->error), places[i]);
  }
}

static bool set_attributes(const Ghost *g, const GhostFileEntry *e, int fd, GError **error) {
  FdPath path = fd_path(fd);
  if (fchownat(fd, "", e->uid, e->gid, AT_EMPTY_PATH) < 0 || (!S_ISLNK(g->mode) && chmod(path.text, e->mode & 07777) < 0))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set owner and mode of a deleted file");
  if (!e->atim || !e->mtim || S_ISLNK(g->mode))
    return true;
  struct timespec times[2] = {
      {.tv_sec = (time_t)e->atim->tv_sec, .tv_nsec = (long)(e->atim->tv_usec * 1000)},
      {.tv_sec = (time_t)e->mtim->tv_sec, .tv_nsec = (long)(e->mtim->tv_usec * 1000)},
  };
  return utimensat(AT_FDCWD, path.text, times, 0) == 0 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the times of a deleted file");
}

static bool fill(Restorer *r, const Ghost *g, int fd, GError **error) {
  if (g->source >= 0)
    return true;
  GhostFileEntry *e = (GhostFileEntry *)image_read_ghost(restorer_images_fd(r), g->id, error);
  bool ok = e && (g->fd < 0 || image_copy_ghost(restorer_images_fd(r), g->id, g->fd, error)) && set_attributes(g, e, fd, error);
  if (e)
    ghost_file_entry__free_unpacked(e, NULL);
  return ok;
}

static int open_again(int fd) {
  FdPath path = fd_path(fd);
  return open(path.text, O_PATH | O_CLOEXEC);
}

/* Every name gets a descriptor; none stays open for writing: it may be a program that is to be executed. */
static bool settle(Restorer *r, Ghost *g, GError **error) {
  GhostName *first = g->names->pdata[0];
  if (g->fd >= 0)
    first->fd = open_again(g->fd);
  else if (first->fd < 0 && g->source >= 0) /* it goes by one of its other names */
    first->fd = fcntl(g->source, F_DUPFD_CLOEXEC, 0);
  if (first->fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, first->error ? first->error : errno,
        "Cannot make the deleted file %s", first->path);
  for (guint i = 1; i < g->names->len; i++) {
    GhostName *n = g->names->pdata[i];
    if (n->fd < 0)
      n->fd = fcntl(first->fd, F_DUPFD_CLOEXEC, 0);
  }
  bool ok = fill(r, g, first->fd, error);
  ExactOpen *maker = g->done ? maker_of(g) : NULL;
  if (maker)
    maker->fd = fd_take(&g->fd);
  fd_cleanup(&g->fd);
  g->fd = -1;
  return ok;
}

static bool make_all(Restorer *r, GError **error) {
  const GPtrArray *all = ghosts_of(r)->all;
  CallerRights rights;
  bool ok = caller_rights_begin(restorer_job(r), &rights, error);
  for (guint i = 0; ok && i < all->len; i++) {
    Ghost *g = all->pdata[i];
    g->done = g->failure != NULL;
    if (!g->done)
      make_nameless(g);
  }
  if (ok)
    ghosts_name(all);
  caller_rights_end(&rights);
  for (guint i = 0; ok && i < all->len; i++) {
    Ghost *g = all->pdata[i];
    if (g->failure)
      continue;
    if (g->fd < 0 && g->source < 0 && S_ISREG(g->mode))
      make_anywhere(r, g);
    (void)settle(r, g, &g->failure);
    ok = job_poll(restorer_job(r), error);
  }
  return ok;
}

static bool load(Restorer *r, GError **error) {
  Ghosts *gs = ghosts_of(r);
  const Checkpoint *c = restorer_checkpoint(r);
  if (gs->loaded)
    return true;
  gs->loaded = true;
  const GPtrArray *remaps = c->records[RECORD_REMAP];
  for (guint i = 0; i < remaps->len; i++)
    if (!add_remap(r, (const RemapFilePathEntry *)((const Record *)remaps->pdata[i])->message, error))
      return false;
  for (guint i = 0; i < c->linked_files->len; i++)
    if (!add_linked(r, c->linked_files->pdata[i], error))
      return false;
  return make_all(r, error);
}

/* --- for reg.c --- */

bool ghost_find(Restorer *r, guint32 file_id, bool *ret_is_one, GError **error) {
  *ret_is_one = false;
  if (!load(r, error))
    return false;
  *ret_is_one = g_hash_table_contains(ghosts_of(r)->by_file, GUINT_TO_POINTER(file_id));
  return true;
}

/* The one that was opened by its name with these flags, if any. */
static int take_exact(GhostName *n, guint32 file_id, int flags) {
  for (guint i = 0; i < n->exact->len; i++) {
    ExactOpen *e = &g_array_index(n->exact, ExactOpen, i);
    if (e->file_id == file_id && e->flags == flags && e->fd >= 0)
      return fd_take(&e->fd);
  }
  return -1;
}

int ghost_open(Restorer *r, const RegFileEntry *reg, int flags, GError **error) {
  GhostName *n = g_hash_table_lookup(ghosts_of(r)->by_file, GUINT_TO_POINTER(reg->id));
  const Ghost *g = n->ghost;
  if (g->failure) {
    if (error)
      *error = g_error_copy(g->failure);
    return -1;
  }
  int fd = take_exact(n, reg->id, reg_open_flags((guint32)flags));
  if (fd >= 0)
    return fd;
  if (flags & O_PATH && flags & O_NOFOLLOW)
    return fcntl(n->fd, F_DUPFD_CLOEXEC, 0); /* opened so itself */
  FdPath path = fd_path(n->fd);
  CallerRights rights = {0};
  if (!g->own_path || caller_rights_begin(restorer_job(r), &rights, error)) {
    fd = open(path.text, reg_open_flags((guint32)flags) & ~O_NOFOLLOW);
    if (fd < 0)
      engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the deleted file %s", reg->name);
  }
  caller_rights_end(&rights);
  return fd;
}

void ghost_keep(Restorer *r) {
  const GPtrArray *litter = ghosts_of(r)->litter;
  CallerRights rights;
  if (litter->len && caller_rights_begin(restorer_job(r), &rights, NULL)) {
    for (guint i = 0; i < litter->len; i++)
      (void)unlink(litter->pdata[i]);
    caller_rights_end(&rights);
  }
}

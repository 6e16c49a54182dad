/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A file that lost the name it was opened by and has others, which the kernel does not tell. It is known by its handle
 * (name_to_handle_at(2)), by which the restore finds it again, as long as it exists on that file system. With the option link-remap
 * the dump gives it a name of its own beside the old one, link_remap.N as CRIU does, so that it stays whatever happens to the
 * others; the restore removes that again. Both are in the checkpoint then. */

#include "internal.h"
#include "remap-file-path.pb-c.h"
#include "rights.h"
#include <errno.h>
#include <fcntl.h>

#define NAMES_TRIED 16

static gpointer links_new(void) {
  return g_ptr_array_new_with_free_func(g_free);
}

static GPtrArray *links_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, links_new, (GDestroyNotify)g_ptr_array_unref);
}

/* The nearest directory of @path on the file system of the file; NULL: none. */
static char *directory_of(const FileProbe *probe, const char *path) {
  char *at = g_path_get_dirname(path);
  struct stat st;
  for (;;) {
    if (stat(at, &st) == 0 && S_ISDIR(st.st_mode) && st.st_dev == probe->st.st_dev)
      return at;
    if (strcmp(at, "/") == 0) {
      g_free(at);
      return NULL;
    }
    char *up = g_path_get_dirname(at);
    g_free(at);
    at = up;
  }
}

typedef struct Handle {
  struct file_handle head;
  unsigned char bytes[MAX_HANDLE_SZ];
} Handle;

/* Whether the handle can be had, and leads back here. */
static bool read_handle(const FileProbe *probe, const char *directory, Handle *h) {
  int mount_id;
  struct stat st;
  *h = (Handle){.head = {.handle_bytes = MAX_HANDLE_SZ}};
  if (name_to_handle_at(probe->local, "", &h->head, &mount_id, AT_EMPTY_PATH) < 0)
    return false;
  _cleanup_fd_ int mount = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  _cleanup_fd_ int fd = mount < 0 ? -1 : open_by_handle_at(mount, &h->head, O_PATH | O_CLOEXEC);
  return fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == probe->st.st_ino && st.st_dev == probe->st.st_dev;
}

static bool note_handle(Collector *c, const FileProbe *probe, guint32 file_id, const char *path) {
  Handle h;
  g_autofree char *directory = directory_of(probe, path);
  if (!directory || !read_handle(probe, directory, &h))
    return false;
  CkptLinkedFile *f = MESSAGE_NEW(CkptLinkedFile, ckpt_linked_file__init);
  f->file_id = file_id;
  f->handle_type = h.head.handle_type;
  f->handle.len = h.head.handle_bytes;
  f->handle.data = g_memdup2(h.head.f_handle, h.head.handle_bytes);
  f->ino = probe->st.st_ino;
  f->directory = g_steal_pointer(&directory);
  g_ptr_array_add(collector_checkpoint(c)->linked_files, f);
  return true;
}

/* link_remap.N, newly allocated; NULL: it cannot be made, errno says why. */
static char *make_link(Collector *c, const FileProbe *probe, guint32 file_id, const char *path) {
  g_autofree char *directory = g_path_get_dirname(path);
  FdPath own = fd_path(probe->local);
  CallerRights rights;
  char *made = NULL;
  if (caller_rights_begin(collector_job(c), &rights, NULL))
    for (guint i = 0; i < NAMES_TRIED && !made; i++) {
      made = g_strdup_printf("%s/link_remap.%u", directory, file_id + i * 100000);
      if (linkat(AT_FDCWD, own.text, AT_FDCWD, made, AT_SYMLINK_FOLLOW) == 0)
        break;
      g_clear_pointer(&made, g_free);
      if (errno != EEXIST)
        break;
    }
  int reason = errno;
  caller_rights_end(&rights);
  errno = reason;
  return made;
}

static bool collect_link(Collector *c, const FileProbe *probe, guint32 file_id, const char *path) {
  char *link = make_link(c, probe, file_id, path);
  if (!link)
    return false;
  g_ptr_array_add(links_of(c), link);
  FileEntry *file = MESSAGE_NEW(FileEntry, file_entry__init);
  FileProbe named = *probe;
  named.link = link;
  named.path_checked = true;
  file->id = collector_new_file_id(c);
  reg_collect_path(&named, file);
  checkpoint_add_file(collector_checkpoint(c), file);
  RemapFilePathEntry *remap = MESSAGE_NEW(RemapFilePathEntry, remap_file_path_entry__init);
  remap->orig_id = file_id;
  remap->remap_id = file->id;
  remap->has_remap_type = true;
  remap->remap_type = REMAP_TYPE__LINKED;
  checkpoint_add_record(collector_checkpoint(c), RECORD_REMAP, &remap->base, NULL);
  return true;
}

bool link_collect(Collector *c, const FileProbe *probe, guint32 file_id, const char *path) {
  bool handle = note_handle(c, probe, file_id, path);
  if (!job_options(collector_job(c))->link_remap)
    return handle;
  if (collector_images_fd(c) < 0) { /* an explanation has no effects */
    g_autofree char *directory = g_path_get_dirname(path);
    struct stat st;
    return handle || (stat(directory, &st) == 0 && st.st_dev == probe->st.st_dev);
  }
  return collect_link(c, probe, file_id, path) || handle;
}

void link_collect_end(Collector *c) {
  const GPtrArray *links = links_of(c);
  CallerRights rights;
  if (!links->len || job_is_committed(collector_job(c)) || !caller_rights_begin(collector_job(c), &rights, NULL))
    return;
  for (guint i = 0; i < links->len; i++)
    (void)unlink(links->pdata[i]);
  caller_rights_end(&rights);
}

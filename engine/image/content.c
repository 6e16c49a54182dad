/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "content.h"
#include "digest.h"
#include "reader.h"
#include "remap-file-path.pb-c.h"
#include <errno.h>

/* Bit 31 of a remap id marks a ghost in old images. */
#define REMAP_GHOST_OLD 0x80000000u

/* @w (may be NULL) notes what is found. */
static bool content_visit_pages(ImageWriter *w, const ImageSource *source, const PageSet *pages, GError **error) {
  guint64 wanted = page_set_n_present(pages) * IMAGE_PAGE_SIZE;
  ImageDigest d = {0};
  int r = image_source_size(source, image_name(d.file, IMAGE_PAGES, pages->pages_id), &d.size);
  if (r == -ENOENT)
    return wanted == 0 || image_invalid(error, IMAGE_PAGES, pages->pages_id, "missing");
  if (r == -ENOTSUP)
    return image_invalid(error, IMAGE_PAGES, pages->pages_id, "not a regular file");
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "%s: stat", d.file);
  if (d.size != wanted)
    return image_invalid(error, IMAGE_PAGES, pages->pages_id,
        "%" G_GUINT64_FORMAT " bytes, its pagemap asks for %" G_GUINT64_FORMAT, d.size, wanted);
  d.hashed = d.paged = pages->has_digest;
  d.digest = pages->digest;
  if (w)
    g_array_append_val(w->digests, d);
  return true;
}

static bool content_visit_all_pages(ImageWriter *w, const ImageSource *source, const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) noted = g_hash_table_new(NULL, NULL); /* those that share memory have it in one file */
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    if (t->pages && !content_visit_pages(g_hash_table_add(noted, GUINT_TO_POINTER(t->pages->pages_id)) ? w : NULL, source, t->pages, error))
      return false;
  }
  GHashTableIter iter;
  gpointer pages;
  g_hash_table_iter_init(&iter, c->shmem);
  while (g_hash_table_iter_next(&iter, NULL, &pages))
    if (!content_visit_pages(w, source, pages, error))
      return false;
  return true;
}

static bool content_note_ghost(ImageWriter *w, guint32 id, guint64 size, GError **error) {
  ImageDigest d = {.size = size};
  image_name(d.file, IMAGE_GHOST, id);
  if (size <= image_kind(IMAGE_GHOST)->limit) { /* hashing is a second reading */
    g_auto(ImageReader) r = {0};
    const ImageSource source = {.dir_fd = w->dir_fd};
    bool found;
    if (!image_reader_open(&r, &source, IMAGE_GHOST, id, &found, error))
      return false;
    if (!found || r.size != size)
      return image_invalid(error, IMAGE_GHOST, id, "changed while it was read");
    d.hashed = true;
    d.digest = digest_of(r.data, r.size);
  }
  g_array_append_val(w->digests, d);
  return true;
}

static bool content_visit_ghosts(ImageWriter *w, const ImageSource *source, const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
  const GPtrArray *remaps = c->records[RECORD_REMAP];
  for (guint i = 0; i < remaps->len; i++) {
    const RemapFilePathEntry *e = (RemapFilePathEntry *)((Record *)remaps->pdata[i])->message;
    if (e->has_remap_type ? e->remap_type != REMAP_TYPE__GHOST : !(e->remap_id & REMAP_GHOST_OLD))
      continue;
    guint32 id = e->remap_id & ~REMAP_GHOST_OLD;
    char name[IMAGE_NAME_MAX];
    guint64 size;
    if (!g_hash_table_add(done, GUINT_TO_POINTER(id)))
      continue;
    if (image_source_size(source, image_name(name, IMAGE_GHOST, id), &size) < 0)
      return image_invalid(error, IMAGE_GHOST, id, "missing, though remap-fpath.img names it");
    if (w && !content_note_ghost(w, id, size, error))
      return false;
  }
  return true;
}

/* What was in file systems of the tree's own: archives that have checksums of their own. */
static bool content_visit_tmpfs(ImageWriter *w, const ImageSource *source, const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->mounts->len; i++) {
    const CkptMount *m = c->mounts->pdata[i];
    const MntEntry *e = m->content ? checkpoint_find_mount_entry(c, m->mnt_id) : NULL;
    ImageDigest d = {0};
    if (!e)
      continue;
    if (image_source_size(source, image_name(d.file, IMAGE_TMPFS, e->root_dev), &d.size) < 0)
      return image_invalid(error, IMAGE_TMPFS, e->root_dev, "missing, though it has what was in %s", e->mountpoint);
    if (w)
      g_array_append_val(w->digests, d);
  }
  return true;
}

bool content_check(const ImageSource *source, const Checkpoint *checkpoint, GError **error) {
  return content_visit_all_pages(NULL, source, checkpoint, error) &&
         content_visit_ghosts(NULL, source, checkpoint, error) && content_visit_tmpfs(NULL, source, checkpoint, error);
}

bool content_note(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  const ImageSource source = {.dir_fd = w->dir_fd};
  return content_visit_all_pages(w, &source, checkpoint, error) && content_visit_ghosts(w, &source, checkpoint, error) &&
         content_visit_tmpfs(w, &source, checkpoint, error);
}

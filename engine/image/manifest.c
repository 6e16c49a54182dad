/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "manifest.h"
#include "digest.h"
#include <errno.h>
#include <string.h>

static void free_message(void *m) {
  if (m)
    protobuf_c_message_free_unpacked(m, NULL);
}

void manifest_init(Manifest *m) {
  *m = (Manifest){
      .tasks = g_ptr_array_new_with_free_func(free_message),
      .externals = g_ptr_array_new_with_free_func(free_message),
      .netlinks = g_ptr_array_new_with_free_func(free_message),
      .mapped_locks = g_ptr_array_new_with_free_func(free_message),
      .linked_files = g_ptr_array_new_with_free_func(free_message),
      .sockets = g_ptr_array_new_with_free_func(free_message),
      .plugins = g_ptr_array_new_with_free_func(free_message),
      .plugin_objects = g_ptr_array_new_with_free_func(free_message),
      .ttys = g_ptr_array_new_with_free_func(free_message),
      .urings = g_ptr_array_new_with_free_func(free_message),
      .mqueues = g_ptr_array_new_with_free_func(free_message),
      .epolls = g_ptr_array_new_with_free_func(free_message),
      .pidfds = g_ptr_array_new_with_free_func(free_message),
      .fs_marks = g_ptr_array_new_with_free_func(free_message),
      .watches = g_ptr_array_new_with_free_func(free_message),
      .nets = g_ptr_array_new_with_free_func(free_message),
      .mounts = g_ptr_array_new_with_free_func(free_message),
      .files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
  };
}

void manifest_deinit(Manifest *m) {
  g_clear_pointer(&m->creator, free_message);
  g_clear_pointer(&m->tasks, g_ptr_array_unref);
  g_clear_pointer(&m->network, free_message);
  g_clear_pointer(&m->externals, g_ptr_array_unref);
  g_clear_pointer(&m->netlinks, g_ptr_array_unref);
  g_clear_pointer(&m->mapped_locks, g_ptr_array_unref);
  g_clear_pointer(&m->linked_files, g_ptr_array_unref);
  g_clear_pointer(&m->sockets, g_ptr_array_unref);
  g_clear_pointer(&m->plugins, g_ptr_array_unref);
  g_clear_pointer(&m->plugin_objects, g_ptr_array_unref);
  g_clear_pointer(&m->ttys, g_ptr_array_unref);
  g_clear_pointer(&m->urings, g_ptr_array_unref);
  g_clear_pointer(&m->mqueues, g_ptr_array_unref);
  g_clear_pointer(&m->epolls, g_ptr_array_unref);
  g_clear_pointer(&m->pidfds, g_ptr_array_unref);
  g_clear_pointer(&m->fs_marks, g_ptr_array_unref);
  g_clear_pointer(&m->watches, g_ptr_array_unref);
  g_clear_pointer(&m->nets, g_ptr_array_unref);
  g_clear_pointer(&m->mounts, g_ptr_array_unref);
  g_clear_pointer(&m->files, g_hash_table_unref);
}

static bool manifest_add_file(Manifest *m, const ImageReader *r, const CkptDigest *d, GError **error) {
  if (!*d->file || strchr(d->file, '/') || d->file[0] == '.' || strlen(d->file) >= IMAGE_NAME_MAX)
    return image_reader_fail(r, error, "it lists a file with a strange name");
  if (g_hash_table_contains(m->files, d->file))
    return image_reader_fail(r, error, "it lists %s twice", d->file);
  ManifestFile *f = g_new0(ManifestFile, 1);
  f->size = d->size;
  f->hashed = d->has_xxh3 || d->has_pages_xxh3;
  f->paged = d->has_pages_xxh3;
  f->digest = f->paged ? d->pages_xxh3 : d->xxh3;
  g_hash_table_insert(m->files, g_strdup(d->file), f);
  return true;
}

/* Takes the parts it wants out of @e, which is freed by the caller. */
static bool manifest_take(Manifest *m, const ImageReader *r, CkptEntry *e, GError **error) {
  if (e->creator) {
    if (m->creator)
      return image_reader_fail(r, error, "it names its creator twice");
    m->creator = g_steal_pointer(&e->creator);
  }
  for (size_t i = 0; i < e->n_digests; i++)
    if (!manifest_add_file(m, r, e->digests[i], error))
      return false;
  if (e->task)
    g_ptr_array_add(m->tasks, g_steal_pointer(&e->task));
  if (e->network) {
    if (m->network)
      return image_reader_fail(r, error, "it describes the network twice");
    m->network = g_steal_pointer(&e->network);
  }
  for (size_t i = 0; i < e->n_external; i++)
    g_ptr_array_add(m->externals, g_steal_pointer(&e->external[i]));
  for (size_t i = 0; i < e->n_netlink; i++)
    g_ptr_array_add(m->netlinks, g_steal_pointer(&e->netlink[i]));
  for (size_t i = 0; i < e->n_mapped_lock; i++)
    g_ptr_array_add(m->mapped_locks, g_steal_pointer(&e->mapped_lock[i]));
  for (size_t i = 0; i < e->n_linked_file; i++)
    g_ptr_array_add(m->linked_files, g_steal_pointer(&e->linked_file[i]));
  for (size_t i = 0; i < e->n_socket; i++)
    g_ptr_array_add(m->sockets, g_steal_pointer(&e->socket[i]));
  e->n_external = e->n_netlink = e->n_mapped_lock = e->n_linked_file = e->n_socket = 0;
  if (e->plugin)
    g_ptr_array_add(m->plugins, g_steal_pointer(&e->plugin));
  if (e->plugin_object)
    g_ptr_array_add(m->plugin_objects, g_steal_pointer(&e->plugin_object));
  for (size_t i = 0; i < e->n_tty; i++)
    g_ptr_array_add(m->ttys, g_steal_pointer(&e->tty[i]));
  e->n_tty = 0;
  if (e->uring)
    g_ptr_array_add(m->urings, g_steal_pointer(&e->uring));
  if (e->mqueue)
    g_ptr_array_add(m->mqueues, g_steal_pointer(&e->mqueue));
  for (size_t i = 0; i < e->n_watch; i++)
    g_ptr_array_add(m->watches, g_steal_pointer(&e->watch[i]));
  for (size_t i = 0; i < e->n_pidfd; i++)
    g_ptr_array_add(m->pidfds, g_steal_pointer(&e->pidfd[i]));
  e->n_pidfd = 0;
  for (size_t i = 0; i < e->n_epoll; i++)
    g_ptr_array_add(m->epolls, g_steal_pointer(&e->epoll[i]));
  e->n_epoll = 0;
  for (size_t i = 0; i < e->n_fs_mark; i++)
    g_ptr_array_add(m->fs_marks, g_steal_pointer(&e->fs_mark[i]));
  for (size_t i = 0; i < e->n_mount; i++)
    g_ptr_array_add(m->mounts, g_steal_pointer(&e->mount[i]));
  e->n_watch = e->n_fs_mark = e->n_mount = 0;
  for (size_t i = 0; i < e->n_netns; i++)
    g_ptr_array_add(m->nets, g_steal_pointer(&e->netns[i]));
  e->n_netns = 0;
  return true;
}

static gsize seal_pack(guint8 *out, guint64 seal) {
  CkptEntry entry = CKPT_ENTRY__INIT;
  entry.has_seal = true;
  entry.seal = seal;
  CkptEnvelope envelope = CKPT_ENVELOPE__INIT;
  envelope.entry = &entry;
  return ckpt_envelope__pack(&envelope, out);
}

/* The last entry, which begins at @start, must be byte for byte what we would write: so no bit of the file can change
 * unseen. */
static bool manifest_check_seal(const ImageReader *r, gsize start, GError **error) {
  guint8 wanted[64];
  guint32 size = (guint32)seal_pack(wanted + 4, digest_of(r->data, start));
  guint32 le = GUINT32_TO_LE(size);
  memcpy(wanted, &le, 4);
  if (r->size - start != 4 + (gsize)size || memcmp(r->data + start, wanted, 4 + (gsize)size) != 0)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "%s: offset %zu: the digest of the file is wrong: it was damaged", r->name, start);
  return true;
}

static bool manifest_decode(Manifest *m, ImageReader *r, GError **error) {
  bool sealed = false;
  while (!sealed) {
    gsize start = r->at;
    ProtobufCMessage *p;
    if (!image_reader_next(r, &p, NULL, error))
      return false;
    if (!p)
      return image_reader_fail(r, error, "it ends without the digest of itself: it was cut or damaged");
    CkptEnvelope *envelope = (CkptEnvelope *)p;
    bool ok = true;
    sealed = envelope->entry && envelope->entry->has_seal;
    if (sealed)
      ok = manifest_check_seal(r, start, error);
    else if (envelope->entry)
      ok = manifest_take(m, r, envelope->entry, error);
    free_message(p);
    if (!ok)
      return false;
  }
  m->present = true;
  return true;
}

bool manifest_load(Manifest *m, ImageReader *r, const ImageSource *source, GError **error) {
  bool found;
  if (!image_reader_open(r, source, IMAGE_CHECKPOINT, 0, &found, error))
    return false;
  return !found || manifest_decode(m, r, error);
}

static bool file_fail(GError **error, const char *name, const char *reason) {
  return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: %s", name, reason);
}

static bool file_check_size(const ManifestFile *f, const char *name, guint64 size, GError **error) {
  if (f->size != size)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "%s: %" G_GUINT64_FORMAT " bytes, %" G_GUINT64_FORMAT " when it was written: it was cut or damaged", name, size,
        f->size);
  return true;
}

bool manifest_check(Manifest *m, const ImageReader *r, GError **error) {
  if (!m->present)
    return true;
  ManifestFile *f = g_hash_table_lookup(m->files, r->name);
  if (!f)
    return file_fail(error, r->name, "not listed in checkpoint.img: it belongs to another checkpoint");
  if (!file_check_size(f, r->name, r->size, error))
    return false;
  if (f->hashed && !f->paged && digest_of(r->data, r->size) != f->digest)
    return file_fail(error, r->name, "its digest is not the one in checkpoint.img: it was damaged");
  f->seen = true;
  return true;
}

void manifest_give_pages(const Manifest *m, PageSet *pages) {
  char name[IMAGE_NAME_MAX];
  const ManifestFile *f = g_hash_table_lookup(m->files, image_name(name, IMAGE_PAGES, pages->pages_id));
  pages->has_digest = f && f->paged;
  pages->digest = pages->has_digest ? f->digest : 0;
}

bool manifest_check_absent(const Manifest *m, const char *name, GError **error) {
  return !g_hash_table_contains(m->files, name) || file_fail(error, name, "missing, though listed in checkpoint.img");
}

/* Besides pages, whose time comes later, only ghost files are both unread and hashed. */
static bool manifest_check_ghost(
    Manifest *m, ImageReader *r, const ImageSource *source, const char *name, GError **error) {
  const ImageKind *kind = image_kind(IMAGE_GHOST);
  gsize prefix = strlen(kind->name);
  if (strncmp(name, kind->name, prefix) != 0)
    return file_fail(error, name, "listed in checkpoint.img, but no part of the checkpoint");
  bool found;
  if (!image_reader_open(r, source, IMAGE_GHOST, g_ascii_strtoull(name + prefix, NULL, 16), &found, error))
    return false;
  if (!found)
    return file_fail(error, name, "missing, though listed in checkpoint.img");
  return strcmp(r->name, name) == 0 ? manifest_check(m, r, error) : file_fail(error, name, "no name of an image file");
}

static bool manifest_check_unread(
    Manifest *m, ImageReader *r, const ImageSource *source, const char *name, const ManifestFile *f, GError **error) {
  guint64 size = 0;
  int r_size = image_source_size(source, name, &size);
  if (r_size == -ENOENT)
    return file_fail(error, name, "missing, though listed in checkpoint.img");
  if (r_size == -ENOTSUP)
    return file_fail(error, name, "not a regular file");
  if (r_size < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r_size, "%s: stat", name);
  if (!file_check_size(f, name, size, error))
    return false;
  return !f->hashed || g_str_has_prefix(name, image_kind(IMAGE_PAGES)->name) ||
         manifest_check_ghost(m, r, source, name, error);
}

bool manifest_check_rest(Manifest *m, ImageReader *r, const ImageSource *source, GError **error) {
  GHashTableIter iter;
  gpointer name, file;
  g_hash_table_iter_init(&iter, m->files);
  while (g_hash_table_iter_next(&iter, &name, &file))
    if (!((ManifestFile *)file)->seen && !manifest_check_unread(m, r, source, name, file, error))
      return false;
  return true;
}

static bool store_entry(ImageWriter *w, CkptEntry *entry, GError **error) {
  CkptEnvelope envelope = CKPT_ENVELOPE__INIT;
  envelope.entry = entry;
  return image_writer_add(w, &envelope.base, NULL, error);
}

/* The messages of the threads belong to the model: they are lent to a copy of the task's for the time of packing. */
static bool store_task(ImageWriter *w, const Task *task, GError **error) {
  g_autoptr(GPtrArray) threads = g_ptr_array_new();
  for (guint i = 0; i < task->threads->len; i++) {
    const Thread *t = task->threads->pdata[i];
    if (t->extra)
      g_ptr_array_add(threads, t->extra);
  }
  if (!task->extra && !threads->len)
    return true;
  CkptTask copy = CKPT_TASK__INIT;
  if (task->extra)
    copy = *task->extra;
  copy.pid = (guint32)task_pid(task);
  copy.n_threads = threads->len;
  copy.threads = (CkptThread **)threads->pdata;
  CkptEntry entry = CKPT_ENTRY__INIT;
  entry.task = &copy;
  return store_entry(w, &entry, error);
}

static bool store_digests(ImageWriter *w, GError **error) {
  guint n = w->digests->len;
  g_autofree CkptDigest *digests = g_new0(CkptDigest, n);
  g_autofree CkptDigest **pointers = g_new0(CkptDigest *, n);
  for (guint i = 0; i < n; i++) {
    ImageDigest *from = &g_array_index(w->digests, ImageDigest, i);
    ckpt_digest__init(&digests[i]);
    digests[i].file = from->file;
    digests[i].size = from->size;
    digests[i].has_pages_xxh3 = from->paged;
    digests[i].has_xxh3 = from->hashed && !from->paged;
    *(from->paged ? &digests[i].pages_xxh3 : &digests[i].xxh3) = from->digest;
    pointers[i] = &digests[i];
  }
  CkptEntry entry = CKPT_ENTRY__INIT;
  entry.n_digests = n;
  entry.digests = pointers;
  return store_entry(w, &entry, error);
}

static bool store_events(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  for (guint i = 0; i < checkpoint->urings->len; i++) {
    CkptEntry entry = CKPT_ENTRY__INIT;
    entry.uring = checkpoint->urings->pdata[i];
    if (!store_entry(w, &entry, error))
      return false;
  }
  for (guint i = 0; i < checkpoint->mqueues->len; i++) {
    CkptEntry entry = CKPT_ENTRY__INIT;
    entry.mqueue = checkpoint->mqueues->pdata[i];
    if (!store_entry(w, &entry, error))
      return false;
  }
  CkptEntry watches = CKPT_ENTRY__INIT;
  watches.n_watch = checkpoint->watches->len;
  watches.watch = (CkptWatch **)checkpoint->watches->pdata;
  watches.n_pidfd = checkpoint->pidfds->len;
  watches.pidfd = (CkptPidfd **)checkpoint->pidfds->pdata;
  watches.n_epoll = checkpoint->epolls->len;
  watches.epoll = (CkptEpoll **)checkpoint->epolls->pdata;
  watches.n_fs_mark = checkpoint->fs_marks->len;
  watches.fs_mark = (CkptFsMark **)checkpoint->fs_marks->pdata;
  return (!watches.n_epoll && !watches.n_pidfd && !watches.n_watch && !watches.n_fs_mark) || store_entry(w, &watches, error);
}

static bool store_nets(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  for (guint i = 0; i < checkpoint->net_namespaces->len; i++) {
    CkptNetns *extra = ((NetNamespace *)checkpoint->net_namespaces->pdata[i])->extra;
    CkptEntry entry = CKPT_ENTRY__INIT;
    entry.n_netns = 1;
    entry.netns = &extra;
    if (extra && !store_entry(w, &entry, error))
      return false;
  }
  return true;
}

static bool store_plugins(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  for (guint i = 0; i < checkpoint->plugins->len; i++) {
    CkptEntry entry = CKPT_ENTRY__INIT;
    entry.plugin = checkpoint->plugins->pdata[i];
    if (!store_entry(w, &entry, error))
      return false;
  }
  for (guint i = 0; i < checkpoint->plugin_objects->len; i++) {
    CkptEntry entry = CKPT_ENTRY__INIT;
    entry.plugin_object = checkpoint->plugin_objects->pdata[i];
    if (!store_entry(w, &entry, error))
      return false;
  }
  return true;
}

static bool store_mounts(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  CkptEntry entry = CKPT_ENTRY__INIT;
  entry.n_mount = checkpoint->mounts->len;
  entry.mount = (CkptMount **)checkpoint->mounts->pdata;
  return !entry.n_mount || store_entry(w, &entry, error);
}

bool manifest_store(ImageWriter *w, const Checkpoint *checkpoint, GError **error) {
  image_writer_begin(w, IMAGE_CHECKPOINT, 0);
  CkptEntry entry = CKPT_ENTRY__INIT;
  entry.creator = checkpoint->creator;
  if (entry.creator && !store_entry(w, &entry, error))
    return false;
  for (guint i = 0; i < checkpoint->tasks->len; i++)
    if (!store_task(w, checkpoint->tasks->pdata[i], error))
      return false;
  CkptEntry network = CKPT_ENTRY__INIT;
  network.network = checkpoint->network;
  if (network.network && !store_entry(w, &network, error))
    return false;
  CkptEntry externals = CKPT_ENTRY__INIT;
  externals.n_external = checkpoint->externals->len;
  externals.external = (CkptExternal **)checkpoint->externals->pdata;
  if (externals.n_external && !store_entry(w, &externals, error))
    return false;
  CkptEntry more = CKPT_ENTRY__INIT;
  more.n_netlink = checkpoint->netlinks->len;
  more.netlink = (CkptNetlink **)checkpoint->netlinks->pdata;
  more.n_mapped_lock = checkpoint->mapped_locks->len;
  more.mapped_lock = (CkptMappedLock **)checkpoint->mapped_locks->pdata;
  more.n_linked_file = checkpoint->linked_files->len;
  more.linked_file = (CkptLinkedFile **)checkpoint->linked_files->pdata;
  more.n_socket = checkpoint->sockets->len;
  more.socket = (CkptSocket **)checkpoint->sockets->pdata;
  if ((more.n_netlink || more.n_mapped_lock || more.n_linked_file || more.n_socket) && !store_entry(w, &more, error))
    return false;
  CkptEntry ttys = CKPT_ENTRY__INIT;
  ttys.n_tty = checkpoint->ttys->len;
  ttys.tty = (CkptTty **)checkpoint->ttys->pdata;
  if (ttys.n_tty && !store_entry(w, &ttys, error))
    return false;
  if (!store_events(w, checkpoint, error) || !store_nets(w, checkpoint, error) || !store_mounts(w, checkpoint, error) || !store_plugins(w, checkpoint, error) || !store_digests(w, error))
    return false;
  CkptEntry seal = CKPT_ENTRY__INIT;
  seal.has_seal = true;
  seal.seal = digest_of(w->data, w->size);
  return store_entry(w, &seal, error) && image_writer_put(w, false, error);
}

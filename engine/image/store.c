/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Model -> files. The order does not matter but for the last two: checkpoint.img knows all others, and inventory.img,
 * by which a directory becomes a checkpoint, comes when everything else is there. */

#include "at-a-time.h"
#include "content.h"
#include "image.h"
#include "manifest.h"
#include "verify.h"
#include "writer.h"
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

/* All of @messages as one file. */
static bool store_list(ImageWriter *w, ImageKindId id, guint64 number, const GPtrArray *messages, GError **error) {
  image_writer_begin(w, id, number);
  if (!image_writer_add_all(w, messages, error))
    return false;
  image_writer_note(w);
  return image_writer_put(w, false, error);
}

static bool store_pages(ImageWriter *w, ImageKindId id, guint64 number, const PageSet *pages, GError **error) {
  image_writer_begin(w, id, number);
  PagemapHead head = PAGEMAP_HEAD__INIT;
  head.pages_id = pages->pages_id;
  if (!image_writer_add(w, &head.base, NULL, error))
    return false;
  if (!image_writer_add_all(w, pages->entries, error))
    return false;
  image_writer_note(w);
  return image_writer_put(w, false, error);
}

static bool store_tree(ImageWriter *w, const Checkpoint *c, GError **error) {
  image_writer_begin(w, IMAGE_PSTREE, 0);
  for (guint i = 0; i < c->tasks->len; i++)
    if (!image_writer_add(w, &((Task *)c->tasks->pdata[i])->pstree->base, NULL, error))
      return false;
  image_writer_note(w);
  return image_writer_put(w, false, error);
}

/* Tables of descriptors are kept by files_id: one that tasks share is written once. */
static bool store_fds(ImageWriter *w, const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    if (t->ids && g_hash_table_add(done, GUINT_TO_POINTER(t->ids->files_id)) &&
        !store_list(w, IMAGE_FDINFO, t->ids->files_id, t->fds, error))
      return false;
  }
  return true;
}

static bool store_task(ImageWriter *w, const Task *t, GError **error) {
  guint64 pid = t->pstree->pid;
  if (!image_writer_single(w, IMAGE_CORE, pid, &t->core->base, error))
    return false;
  if (task_is_zombie(t))
    return true;
  return image_writer_single(w, IMAGE_IDS, pid, &t->ids->base, error) &&
         image_writer_single(w, IMAGE_MM, pid, &t->mm->base, error) &&
         image_writer_single(w, IMAGE_FS, pid, &t->fs->base, error) &&
         store_pages(w, IMAGE_PAGEMAP, pid, t->pages, error);
}

/* Files of tasks and threads: there may be thousands, a few microseconds of the file system's each. */
typedef struct Part {
  const Task *task;
  const Thread *thread; /* NULL: the task's own files */
} Part;

typedef struct Parts {
  const Part *list;
  guint n;
  _Atomic guint next;
} Parts;

/* A writer, and the thread that uses it. */
typedef struct PartWriter {
  Parts *parts;
  ImageWriter *writer;
  GError *error;
} PartWriter;

#define MANY_PARTS 32

static void *store_share(void *data) {
  PartWriter *p = data;
  for (guint i; !p->error && (i = atomic_fetch_add(&p->parts->next, 1)) < p->parts->n;) {
    const Part *part = &p->parts->list[i];
    if (part->thread)
      (void)image_writer_single(p->writer, IMAGE_CORE, (guint64)part->thread->tid, &part->thread->core->base, &p->error);
    else
      (void)store_task(p->writer, part->task, &p->error);
  }
  return NULL;
}

static GArray *list_parts(const Checkpoint *c) {
  GArray *list = g_array_new(FALSE, FALSE, sizeof(Part));
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    for (guint k = 0; k == 0 || (k < t->threads->len && !task_is_zombie(t)); k++) {
      Part part = {t, k ? t->threads->pdata[k] : NULL};
      g_array_append_val(list, part);
    }
  }
  return list;
}

static bool store_tasks(ImageWriter *w, const Checkpoint *c, GError **error) {
  g_autoptr(GArray) list = list_parts(c);
  Parts parts = {.list = (const Part *)(const void *)list->data, .n = list->len};
  g_auto(ImageWriter) other = {0};
  image_writer_init(&other, w->dir_fd);
  PartWriter first = {&parts, w, NULL}, second = {&parts, &other, NULL};
  at_a_time(list->len >= MANY_PARTS, store_share, &first, &second);
  image_writer_take(w, &other);
  return engine_first_error(first.error, second.error, error);
}

static bool store_records(ImageWriter *w, const Checkpoint *c, GError **error) {
  for (int kind = 0; kind < RECORD_N_KINDS; kind++) {
    const GPtrArray *records = c->records[kind];
    if (!records->len)
      continue;
    image_writer_begin(w, image_kind_of_record((RecordKind)kind), image_number_of_record((RecordKind)kind, c));
    for (guint i = 0; i < records->len; i++) {
      const Record *r = records->pdata[i];
      if (!image_writer_add(w, r->message, r->extra, error))
        return false;
    }
    image_writer_note(w);
    if (!image_writer_put(w, false, error))
      return false;
  }
  return true;
}

static bool store_shmem(ImageWriter *w, const Checkpoint *c, GError **error) {
  GHashTableIter iter;
  gpointer shmid, pages;
  g_hash_table_iter_init(&iter, c->shmem);
  while (g_hash_table_iter_next(&iter, &shmid, &pages))
    if (!store_pages(w, IMAGE_SHMEM_PAGEMAP, *(guint64 *)shmid, pages, error))
      return false;
  return true;
}

static bool store_tcp_streams(ImageWriter *w, const Checkpoint *c, GError **error) {
  GHashTableIter iter;
  gpointer ino, record;
  g_hash_table_iter_init(&iter, c->tcp_streams);
  while (g_hash_table_iter_next(&iter, &ino, &record)) {
    const Record *r = record;
    image_writer_begin(w, IMAGE_TCP_STREAM, GPOINTER_TO_UINT(ino));
    if (!image_writer_add(w, r->message, r->extra, error))
      return false;
    image_writer_note(w);
    if (!image_writer_put(w, false, error))
      return false;
  }
  return true;
}

static bool store_namespaces(ImageWriter *w, const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->namespaces->len; i++) {
    const NsImage *ns = c->namespaces->pdata[i];
    if ((ns->uts && !image_writer_single(w, IMAGE_UTSNS, ns->id, &ns->uts->base, error)) ||
        (ns->mounts->len && !store_list(w, IMAGE_MOUNTS, ns->id, ns->mounts, error)))
      return false;
  }
  return true;
}

static bool store_net(ImageWriter *w, const NetNamespace *ns, GError **error) {
  if (!image_writer_single(w, IMAGE_NETNS, ns->id, &ns->entry->base, error) ||
      (ns->devices->len && !store_list(w, IMAGE_NETDEV, ns->id, ns->devices, error)))
    return false;
  for (int i = 0; i < NET_RAW_N_KINDS; i++) {
    if (!ns->raw[i])
      continue;
    image_writer_begin(w, (ImageKindId)(IMAGE_IFADDR + i), ns->id);
    image_writer_raw(w, ns->raw[i]);
    image_writer_note(w);
    if (!image_writer_put(w, false, error))
      return false;
  }
  return true;
}

static bool store_nets(ImageWriter *w, const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->net_namespaces->len; i++)
    if (!store_net(w, c->net_namespaces->pdata[i], error))
      return false;
  return true;
}

static bool store_all(ImageWriter *w, const Checkpoint *c, GError **error) {
  return store_tree(w, c, error) && store_tasks(w, c, error) && store_fds(w, c, error) && store_list(w, IMAGE_FILES, 0, c->files, error) && store_records(w, c, error) && store_namespaces(w, c, error) &&
         store_shmem(w, c, error) && store_tcp_streams(w, c, error) && store_nets(w, c, error);
}

/* checkpoint.img has to know the digest of the inventory, which is to be written after it. */
static bool store_manifest(ImageWriter *w, const Checkpoint *c, GError **error) {
  image_writer_begin(w, IMAGE_INVENTORY, 0);
  if (!image_writer_add(w, &c->inventory->base, NULL, error))
    return false;
  image_writer_note(w);
  return content_note(w, c, error) && manifest_store(w, c, error);
}

static bool store_inventory(ImageWriter *w, const Checkpoint *c, bool durable, GError **error) {
  if (durable && syncfs(w->dir_fd) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "images directory: syncfs");
  image_writer_begin(w, IMAGE_INVENTORY, 0);
  if (!image_writer_add(w, &c->inventory->base, NULL, error) || !image_writer_put(w, durable, error))
    return false;
  if (durable && fsync(w->dir_fd) < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "images directory: fsync");
    (void)unlinkat(w->dir_fd, w->name, 0);
    return false;
  }
  return true;
}

bool image_store(const Checkpoint *checkpoint, int dir_fd, bool durable, guint64 *written, GError **error) {
  g_auto(ImageWriter) w = {0};
  image_writer_init(&w, dir_fd);
  if (!verify_checkpoint(checkpoint, error) || !store_all(&w, checkpoint, error) ||
      !store_manifest(&w, checkpoint, error) || !store_inventory(&w, checkpoint, durable, error))
    return false;
  if (written)
    *written = w.written;
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"
#include <string.h>

static bool same_message(const ProtobufCMessage *a, const ProtobufCMessage *b) {
  size_t size = protobuf_c_message_get_packed_size(a);
  if (size != protobuf_c_message_get_packed_size(b))
    return false;
  g_autofree uint8_t *x = g_malloc(size + 1), *y = g_malloc(size + 1);
  return protobuf_c_message_pack(a, x) == size && protobuf_c_message_pack(b, y) == size && memcmp(x, y, size) == 0;
}

static bool same_pages(const PageSet *a, const PageSet *b) {
  if (a->pages_id != b->pages_id || a->entries->len != b->entries->len)
    return false;
  for (guint i = 0; i < a->entries->len; i++) {
    const PagemapEntry *x = a->entries->pdata[i], *y = b->entries->pdata[i];
    if (x->vaddr != y->vaddr || pagemap_entry_n_pages(x) != pagemap_entry_n_pages(y) || pagemap_entry_flags(x) != pagemap_entry_flags(y))
      return false;
  }
  return true;
}

static const Task *first_of(GHashTable *seen, guint32 id, const Task *t) {
  const Task *first = id ? g_hash_table_lookup(seen, GUINT_TO_POINTER(id)) : NULL;
  if (id && !first)
    g_hash_table_insert(seen, GUINT_TO_POINTER(id), (gpointer)t);
  return first;
}

static bool verify_table(const Checkpoint *c, const Thread *th, GError **error) {
  const CkptThreadTable *table = th->extra ? th->extra->table : NULL;
  for (size_t i = 0; table && i < table->n_fds; i++) {
    const CkptThreadFd *fd = table->fds[i];
    if (fd->fd > G_MAXINT32 || (i && fd->fd <= table->fds[i - 1]->fd) || verify_file_type(c, fd->file_id) == FD_TYPES__UND)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "thread %d: fd %u is out of order, or file id %u is not in files.img", th->tid, fd->fd, fd->file_id);
  }
  return true;
}

/* Directories that threads have apart from their process. @lends: that shares its own with another. */
static bool verify_threads_apart(const Checkpoint *c, const Task *t, bool lends, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < t->threads->len; i++) {
    const Thread *th = t->threads->pdata[i];
    const CkptThreadFs *fs = th->extra ? th->extra->fs : NULL;
    if (!verify_table(c, th, error))
      return false;
    if (!i && th->extra && th->extra->table)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "the main thread %d has a table apart from its process", th->tid);
    if (!fs)
      continue;
    if (!i || !fs->id || fs->umask > 0777 || verify_file_type(c, fs->cwd_id) != FD_TYPES__REG || verify_file_type(c, fs->root_id) != FD_TYPES__REG)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "thread %d cannot have these directories", th->tid);
    if (!g_hash_table_add(seen, GUINT_TO_POINTER(fs->id)) && lends)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "threads of task %u share a directory, and it shares another", t->pstree->pid);
  }
  return true;
}

static bool lends_fs(GHashTable *count, const Task *t) {
  return GPOINTER_TO_UINT(g_hash_table_lookup(count, GUINT_TO_POINTER(t->ids->fs_id))) > 1;
}

bool verify_sharing(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) memories = g_hash_table_new(NULL, NULL), actions = g_hash_table_new(NULL, NULL);
  g_autoptr(GHashTable) count = g_hash_table_new(NULL, NULL); /* fs_id -> tasks */
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    gpointer id = GUINT_TO_POINTER(t->ids ? t->ids->fs_id : 0);
    g_hash_table_insert(count, id, GUINT_TO_POINTER(GPOINTER_TO_UINT(g_hash_table_lookup(count, id)) + (id != NULL)));
  }
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    if (!t->ids)
      continue;
    if (!verify_threads_apart(c, t, lends_fs(count, t), error))
      return false;
    const Task *memory = first_of(memories, t->ids->vm_id, t), *handlers = first_of(actions, t->ids->sighand_id, t);
    if (memory && (!same_message(&t->mm->base, &memory->mm->base) || !same_pages(t->pages, memory->pages)))
      return image_invalid(error, IMAGE_MM, t->pstree->pid, "its vm_id is that of task %u, but its memory is another", memory->pstree->pid);
    if (handlers && (handlers->ids->vm_id != t->ids->vm_id || !t->ids->vm_id))
      return image_invalid(error, IMAGE_IDS, t->pstree->pid, "its sighand_id is that of task %u, its vm_id is not", handlers->pstree->pid);
  }
  return true;
}

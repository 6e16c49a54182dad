/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files -> model. Which files there are follows from pstree.img; what they say about each other is checked afterwards,
 * by verify_checkpoint(). */

#include "load.h"
#include "at-a-time.h"
#include "content.h"
#include "image.h"
#include "ipc-shm.pb-c.h"
#include "manifest.h"
#include "memfd.pb-c.h"
#include "verify.h"
#include "sk-inet.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>

typedef struct Loader {
  const ImageSource *source;
  Checkpoint *checkpoint; /* being filled */
  Manifest manifest;
  ImageReader reader; /* of one file after the other */
} Loader;

/* Opens a file for the reader and checks its digest; one that checkpoint.img lists must be there. */
static bool loader_open(Loader *l, ImageKindId id, guint64 number, bool *ret_found, GError **error) {
  if (!image_reader_open(&l->reader, l->source, id, number, ret_found, error))
    return false;
  if (*ret_found)
    return manifest_check(&l->manifest, &l->reader, error);
  char name[IMAGE_NAME_MAX];
  return manifest_check_absent(&l->manifest, image_name(name, id, number), error);
}

static bool loader_require(Loader *l, ImageKindId id, guint64 number, GError **error) {
  bool found;
  if (!loader_open(l, id, number, &found, error))
    return false;
  return found || image_invalid(error, id, number, "missing");
}

/* The message of a file with exactly one; NULL on failure. */
static void *loader_single(Loader *l, ImageKindId id, guint64 number, GError **error) {
  ProtobufCMessage *m = NULL;
  if (!loader_require(l, id, number, error) || !image_reader_single(&l->reader, &m, error))
    return NULL;
  return m;
}

static PageSet *load_pages(Loader *l, ImageKindId id, guint64 number, GError **error) {
  ProtobufCMessage *m;
  if (!loader_require(l, id, number, error) || !image_reader_next(&l->reader, &m, NULL, error))
    return NULL;
  if (!m) {
    image_reader_fail(&l->reader, error, "there is no pagemap_head");
    return NULL;
  }
  PageSet *set = page_set_new(((PagemapHead *)m)->pages_id);
  protobuf_c_message_free_unpacked(m, NULL);
  while (image_reader_next(&l->reader, &m, NULL, error)) {
    if (!m) {
      manifest_give_pages(&l->manifest, set);
      return set;
    }
    g_ptr_array_add(set->entries, m);
  }
  page_set_free(set);
  return NULL;
}

static bool load_fds(Loader *l, Task *t, GError **error) {
  for (guint i = 0; l->checkpoint->tasks->pdata[i] != t; i++) { /* those before it have theirs */
    const Task *other = l->checkpoint->tasks->pdata[i];
    if (other->ids && other->ids->files_id == t->ids->files_id) {
      g_ptr_array_unref(t->fds);
      t->fds = g_ptr_array_ref(other->fds);
      return true;
    }
  }
  return loader_require(l, IMAGE_FDINFO, t->ids->files_id, error) && image_reader_rest(&l->reader, t->fds, error);
}

/* Files of tasks and threads, of which there may be thousands. */
typedef struct LoadPart {
  Task *task;
  CoreEntry **core; /* where it belongs; NULL: all other files of the task */
  guint64 tid;
} LoadPart;

typedef struct LoadParts {
  const GArray *list; /* LoadPart */
  _Atomic guint next;
} LoadParts;

/* A loader, and the thread that uses it. */
typedef struct PartLoader {
  LoadParts *parts;
  Loader *loader;
  GError *error;
} PartLoader;

#define MANY_PARTS 32

static bool load_part(Loader *l, const LoadPart *p, GError **error) {
  Task *t = p->task;
  guint64 pid = t->pstree->pid;
  if (p->core)
    return (*p->core = loader_single(l, IMAGE_CORE, p->tid, error)) != NULL;
  return (t->ids = loader_single(l, IMAGE_IDS, pid, error)) && (t->mm = loader_single(l, IMAGE_MM, pid, error)) &&
         (t->fs = loader_single(l, IMAGE_FS, pid, error)) && (t->pages = load_pages(l, IMAGE_PAGEMAP, pid, error));
}

static void *load_share(void *data) {
  PartLoader *p = data;
  for (guint i; !p->error && (i = atomic_fetch_add(&p->parts->next, 1)) < p->parts->list->len;)
    (void)load_part(p->loader, &g_array_index(p->parts->list, LoadPart, i), &p->error);
  return NULL;
}

static bool load_parts(Loader *l, const GArray *list, GError **error) {
  LoadParts parts = {.list = list};
  Loader other = {.source = l->source, .checkpoint = l->checkpoint, .manifest = l->manifest};
  PartLoader first = {&parts, l, NULL}, second = {&parts, &other, NULL};
  at_a_time(list->len >= MANY_PARTS, load_share, &first, &second);
  image_reader_deinit(&other.reader);
  return engine_first_error(first.error, second.error, error);
}

static void add_threads(Task *t, CoreEntry **cores) {
  for (size_t i = 1; i < t->pstree->n_threads; i++)
    if (cores[i])
      g_ptr_array_add(t->threads, thread_new((pid_t)t->pstree->threads[i], cores[i]));
}

/* Leaders' cores are read first: they say whether there is anything else. */
static bool load_tasks(Loader *l, GError **error) {
  GPtrArray *tasks = l->checkpoint->tasks;
  g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(LoadPart));
  g_autoptr(GPtrArray) cores = g_ptr_array_new_with_free_func(g_free);
  for (guint i = 0; i < tasks->len; i++) {
    Task *t = tasks->pdata[i];
    LoadPart p = {t, &t->core, t->pstree->pid};
    g_array_append_val(list, p);
  }
  bool ok = load_parts(l, list, error);
  g_array_set_size(list, 0);
  for (guint i = 0; i < tasks->len; i++) {
    Task *t = tasks->pdata[i];
    size_t n = ok && !task_is_zombie(t) ? MAX(t->pstree->n_threads, 1) : 0; /* none: it is refused later */
    CoreEntry **own = g_new0(CoreEntry *, MAX(n, 1));
    g_ptr_array_add(cores, own);
    if (t->core)
      g_ptr_array_add(t->threads, thread_new((pid_t)t->pstree->pid, t->core));
    for (size_t k = 0; k < n; k++) {
      LoadPart p = {t, k ? &own[k] : NULL, k ? t->pstree->threads[k] : t->pstree->pid};
      g_array_append_val(list, p);
    }
  }
  ok = ok && load_parts(l, list, error);
  for (guint i = 0; i < tasks->len; i++) {
    Task *t = tasks->pdata[i];
    if (t->core && !task_is_zombie(t) && list->len)
      add_threads(t, cores->pdata[i]);
  }
  for (guint i = 0; ok && i < tasks->len; i++)
    ok = task_is_zombie(tasks->pdata[i]) || load_fds(l, tasks->pdata[i], error);
  return ok;
}

static bool load_tree(Loader *l, GError **error) {
  if (!loader_require(l, IMAGE_PSTREE, 0, error))
    return false;
  ProtobufCMessage *m;
  do {
    if (!image_reader_next(&l->reader, &m, NULL, error))
      return false;
    if (!m)
      break;
    Task *t = task_new();
    t->pstree = (PstreeEntry *)m;
    checkpoint_add_task(l->checkpoint, t);
  } while (m);
  return verify_tree(l->checkpoint, error);
}

static bool load_files(Loader *l, GError **error) {
  g_autoptr(GPtrArray) entries = image_messages_new();
  if (!loader_require(l, IMAGE_FILES, 0, error) || !image_reader_rest(&l->reader, entries, error))
    return false;
  for (guint i = 0; i < entries->len; i++) {
    FileEntry *e = entries->pdata[i];
    if (checkpoint_find_file(l->checkpoint, e->id))
      return image_invalid(error, IMAGE_FILES, 0, "file id %u twice", e->id);
    checkpoint_add_file(l->checkpoint, e);
    entries->pdata[i] = NULL;
  }
  return true;
}

static bool load_records(Loader *l, RecordKind kind, GError **error) {
  bool found;
  if (!loader_open(l, image_kind_of_record(kind), image_number_of_record(kind, l->checkpoint), &found, error))
    return false;
  while (found) {
    ProtobufCMessage *m;
    GBytes *extra;
    if (!image_reader_next(&l->reader, &m, &extra, error))
      return false;
    if (!m)
      break;
    checkpoint_add_record(l->checkpoint, kind, m, extra);
  }
  return true;
}

/* The files of one namespace of the tree's own. */
static bool load_namespace(Loader *l, NsImage *ns, GError **error) {
  ProtobufCMessage *m;
  if (ns->kind == CLONE_NEWUTS)
    return (ns->uts = loader_single(l, IMAGE_UTSNS, ns->id, error)) != NULL;
  if (ns->kind != CLONE_NEWNS)
    return true;
  if (!loader_require(l, IMAGE_MOUNTS, ns->id, error))
    return false;
  while (image_reader_next(&l->reader, &m, NULL, error)) {
    if (!m)
      return true;
    g_ptr_array_add(ns->mounts, m);
  }
  return false;
}

/* Which there are say the ids of the tasks, held against those of whoever made the dump. */
static bool load_namespaces(Loader *l, GError **error) {
  static const guint32 kinds[] = {CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWNS};
  Checkpoint *c = l->checkpoint;
  const TaskKobjIdsEntry *outside = c->inventory->root_ids;
  for (guint i = 0; outside && i < c->tasks->len; i++) {
    const TaskKobjIdsEntry *ids = ((const Task *)c->tasks->pdata[i])->ids;
    for (size_t k = 0; ids && k < G_N_ELEMENTS(kinds); k++) {
      guint32 id = ns_id_of(ids, kinds[k]), theirs = ns_id_of(outside, kinds[k]);
      if (id && theirs && id != theirs && !checkpoint_find_namespace(c, kinds[k], id) &&
          !load_namespace(l, checkpoint_add_namespace(c, kinds[k], id), error))
        return false;
    }
  }
  return true;
}

static GBytes *load_raw(Loader *l, ImageKindId id, guint64 number, bool *ret_found, GError **error) {
  if (!loader_open(l, id, number, ret_found, error) || !*ret_found)
    return NULL;
  return g_bytes_new(l->reader.data, l->reader.size);
}

static bool load_net(Loader *l, guint32 id, GError **error) {
  bool found;
  ProtobufCMessage *m;
  if (checkpoint_find_net(l->checkpoint, id) || !loader_open(l, IMAGE_NETNS, id, &found, error) || !found)
    return !*error;
  if (!image_reader_single(&l->reader, &m, error))
    return false;
  NetNamespace *ns = net_namespace_new(id);
  ns->entry = (NetnsEntry *)m;
  g_ptr_array_add(l->checkpoint->net_namespaces, ns);
  if (!loader_open(l, IMAGE_NETDEV, id, &found, error))
    return false;
  while (found) {
    if (!image_reader_next(&l->reader, &m, NULL, error))
      return false;
    if (!m)
      break;
    g_ptr_array_add(ns->devices, m);
  }
  for (int i = 0; i < NET_RAW_N_KINDS; i++) {
    ns->raw[i] = load_raw(l, (ImageKindId)(IMAGE_IFADDR + i), id, &found, error);
    if (!ns->raw[i] && found)
      return false;
    if (*error)
      return false;
  }
  return true;
}

/* Which there are, tasks and sockets say; those without netns-N.img are the caller's. */
static bool load_nets(Loader *l, GError **error) {
  GError *failure = NULL;
  for (guint i = 0; !failure && i < l->checkpoint->tasks->len; i++) {
    const Task *t = l->checkpoint->tasks->pdata[i];
    if (t->ids && t->ids->has_net_ns_id)
      (void)load_net(l, t->ids->net_ns_id, &failure);
  }
  for (guint i = 0; !failure && i < l->checkpoint->files->len; i++) {
    guint32 id = file_entry_net_id(l->checkpoint->files->pdata[i]);
    if (id)
      (void)load_net(l, id, &failure);
  }
  for (guint i = 0; !failure && i < l->manifest.nets->len; i++) {
    CkptNetns *extra = l->manifest.nets->pdata[i];
    NetNamespace *ns = checkpoint_find_net(l->checkpoint, extra->id);
    if (!ns || ns->extra)
      (void)image_invalid(&failure, IMAGE_CHECKPOINT, 0, "it describes network namespace %u, which is not there, or twice", extra->id);
    else
      ns->extra = g_steal_pointer(&l->manifest.nets->pdata[i]);
  }
  if (failure)
    g_propagate_error(error, failure);
  return !failure;
}

/* Every socket may have one; which of them must is for the restore to say. */
static bool load_tcp_streams(Loader *l, GError **error) {
  for (guint i = 0; i < l->checkpoint->files->len; i++) {
    const InetSkEntry *sk = ((FileEntry *)l->checkpoint->files->pdata[i])->isk;
    if (!sk || sk->proto != IPPROTO_TCP || checkpoint_find_tcp_stream(l->checkpoint, sk->ino))
      continue;
    bool found;
    ProtobufCMessage *m;
    GBytes *extra = NULL;
    if (!loader_open(l, IMAGE_TCP_STREAM, sk->ino, &found, error))
      return false;
    if (!found)
      continue;
    if (!image_reader_next(&l->reader, &m, &extra, error))
      return false;
    if (!m)
      return image_reader_fail(&l->reader, error, "there is no entry");
    checkpoint_add_tcp_stream(l->checkpoint, sk->ino, m, extra);
    if (l->reader.at != l->reader.size)
      return image_reader_fail(&l->reader, error, "more than one entry");
  }
  return true;
}

static bool load_one_shmem(Loader *l, guint64 shmid, GError **error) {
  if (checkpoint_find_shmem(l->checkpoint, shmid))
    return true;
  PageSet *pages = load_pages(l, IMAGE_SHMEM_PAGEMAP, shmid, error);
  if (!pages)
    return false;
  checkpoint_add_shmem(l->checkpoint, shmid, pages);
  return true;
}

/* System V segments of old images have their content in ipcns-shm itself. */
static bool has_own_content(const Checkpoint *c, const VmaEntry *v) {
  const GPtrArray *records = c->records[RECORD_IPC_SHM];
  for (guint i = 0; (v->status & VMA_AREA_SYSVIPC) && i < records->len; i++) {
    const IpcShmEntry *e = (const IpcShmEntry *)((const Record *)records->pdata[i])->message;
    if (e->desc->id == v->shmid)
      return !e->in_pagemaps;
  }
  return false;
}

/* Shared memory is named by memfds with content and by shared anonymous mappings. */
static bool load_shmem(Loader *l, GError **error) {
  const GPtrArray *memfds = l->checkpoint->records[RECORD_MEMFD];
  for (guint i = 0; i < memfds->len; i++) {
    const MemfdInodeEntry *e = (MemfdInodeEntry *)((Record *)memfds->pdata[i])->message;
    if (e->size > 0 && !load_one_shmem(l, e->shmid, error))
      return false;
  }
  for (guint i = 0; i < l->checkpoint->tasks->len; i++) {
    const Task *t = l->checkpoint->tasks->pdata[i];
    for (size_t k = 0; t->mm && k < t->mm->n_vmas; k++)
      if ((t->mm->vmas[k]->status & VMA_ANON_SHARED) && !has_own_content(l->checkpoint, t->mm->vmas[k]) &&
          !load_one_shmem(l, t->mm->vmas[k]->shmid, error))
        return false;
  }
  return true;
}

/* What checkpoint.img says about a task moves into the model. Its threads come in the order of the task's, some may be
 * missing. */
static bool load_task_extra(Loader *l, CkptTask *extra, GError **error) {
  Task *t = checkpoint_find_task(l->checkpoint, (pid_t)extra->pid);
  if (!t || t->extra)
    return image_invalid(
        error, IMAGE_CHECKPOINT, 0, "it describes task %u, which pstree.img does not have", extra->pid);
  guint at = 0;
  for (size_t i = 0; i < extra->n_threads; i++, at++) {
    while (at < t->threads->len && ((Thread *)t->threads->pdata[at])->tid != (pid_t)extra->threads[i]->tid)
      at++;
    if (at == t->threads->len)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "it describes thread %u, which task %u does not have",
          extra->threads[i]->tid, extra->pid);
    ((Thread *)t->threads->pdata[at])->extra = g_steal_pointer(&extra->threads[i]);
  }
  return true;
}

static GPtrArray *swap_array(GPtrArray **a, GPtrArray **b) {
  GPtrArray *was = *a;
  *a = *b;
  *b = was;
  return *a;
}

static bool load_sockets(Loader *l, GError **error) {
  GPtrArray *from = l->manifest.sockets;
  for (guint i = 0; i < from->len; i++) {
    if (!verify_socket(l->checkpoint, from->pdata[i], error))
      return false;
    checkpoint_add_socket(l->checkpoint, g_steal_pointer(&from->pdata[i]));
  }
  return true;
}

/* Rings, message queues; what is in them is checked by verify_events(). */
static void load_events(Loader *l) {
  (void)swap_array(&l->checkpoint->urings, &l->manifest.urings);
  (void)swap_array(&l->checkpoint->mqueues, &l->manifest.mqueues);
  (void)swap_array(&l->checkpoint->epolls, &l->manifest.epolls);
  (void)swap_array(&l->checkpoint->pidfds, &l->manifest.pidfds);
  (void)swap_array(&l->checkpoint->fs_marks, &l->manifest.fs_marks);
  (void)swap_array(&l->checkpoint->watches, &l->manifest.watches);
  (void)swap_array(&l->checkpoint->mounts, &l->manifest.mounts);
}

/* Options of netlink sockets, locks of mapped files, files that lost their names. */
static bool load_more(Loader *l, GError **error) {
  load_events(l);
  const GPtrArray *all = swap_array(&l->checkpoint->netlinks, &l->manifest.netlinks);
  for (guint i = 0; i < all->len; i++) {
    const CkptNetlink *n = all->pdata[i];
    if (verify_file_type(l->checkpoint, n->file_id) != FD_TYPES__NETLINKSK)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u is no netlink socket in files.img", n->file_id);
  }
  const GPtrArray *locks = swap_array(&l->checkpoint->mapped_locks, &l->manifest.mapped_locks);
  for (guint i = 0; i < locks->len; i++) {
    const CkptMappedLock *lock = locks->pdata[i];
    if (verify_file_type(l->checkpoint, lock->file_id) != FD_TYPES__REG || lock->type > F_WRLCK)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u has a lock and is no file, or it is of type %u", lock->file_id, lock->type);
  }
  const GPtrArray *linked = swap_array(&l->checkpoint->linked_files, &l->manifest.linked_files);
  for (guint i = 0; i < linked->len; i++) {
    const CkptLinkedFile *f = linked->pdata[i];
    if (verify_file_type(l->checkpoint, f->file_id) != FD_TYPES__REG || f->handle.len > MAX_HANDLE_SZ || f->directory[0] != '/')
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u has a handle and is no file, or the handle is none", f->file_id);
  }
  return true;
}

/* Mappings have no file id, and are found by their address. */
static bool load_externals(Loader *l, GError **error) {
  GPtrArray *from = l->manifest.externals;
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < from->len; i++) {
    const CkptExternal *e = from->pdata[i];
    if (e->file_id && verify_file_type(l->checkpoint, e->file_id) == FD_TYPES__UND)
      return image_invalid(
          error, IMAGE_CHECKPOINT, 0, "the external file id %u is not in files.img", e->file_id);
    if (e->file_id && !g_hash_table_add(seen, GUINT_TO_POINTER(e->file_id)))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "it describes the external file id %u twice", e->file_id);
  }
  for (guint i = 0; i < from->len; i++)
    checkpoint_add_external(l->checkpoint, g_steal_pointer(&from->pdata[i]));
  return true;
}

static bool check_plugin_object(const Loader *l, const CkptPluginObject *m, GHashTable *seen, GError **error) {
  const PluginObject *o = m->object;
  g_autofree char *key = g_strdup_printf("%" G_GUINT64_FORMAT ":%s", o->id, m->plugin);
  if (!g_hash_table_contains(seen, m->plugin))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "it has an object of the plugin %s, which it does not list", m->plugin);
  if (!o->kind || (o->kind & (o->kind - 1)) || !o->id)
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "a plugin's object %" G_GUINT64_FORMAT " is of kind %u", o->id, o->kind);
  if (o->has_start != o->has_end || (o->has_end && ((o->start | o->end) & 4095 || o->start >= o->end)))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "a plugin's object %" G_GUINT64_FORMAT ": its mapping cannot be", o->id);
  if (o->has_end && !checkpoint_find_task(l->checkpoint, (pid_t)o->pid))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "a plugin's object %" G_GUINT64_FORMAT " is of pid %d, which is not in it", o->id, o->pid);
  if (g_hash_table_contains(seen, key))
    return image_invalid(error, IMAGE_CHECKPOINT, 0, "the plugin %s has the object %" G_GUINT64_FORMAT " twice", m->plugin, o->id);
  g_hash_table_add(seen, g_steal_pointer(&key));
  return true;
}

/* Names of plugins and keys of their objects ("id:name") in one set: no name has a colon. */
static bool load_plugins(Loader *l, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  const GPtrArray *plugins = swap_array(&l->checkpoint->plugins, &l->manifest.plugins);
  const GPtrArray *objects = swap_array(&l->checkpoint->plugin_objects, &l->manifest.plugin_objects);
  for (guint i = 0; i < plugins->len; i++) {
    const CkptPlugin *m = plugins->pdata[i];
    if (!*m->name || strchr(m->name, ':') || !g_hash_table_add(seen, g_strdup(m->name)))
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "it lists the plugin \"%s\" twice, or that is no name", m->name);
  }
  for (guint i = 0; i < objects->len; i++)
    if (!check_plugin_object(l, objects->pdata[i], seen, error))
      return false;
  return true;
}

static bool load_extras(Loader *l, GError **error) {
  l->checkpoint->creator = g_steal_pointer(&l->manifest.creator);
  GPtrArray *ttys = l->manifest.ttys;
  l->manifest.ttys = l->checkpoint->ttys;
  l->checkpoint->ttys = ttys;
  l->checkpoint->network = g_steal_pointer(&l->manifest.network);
  for (guint i = 0; i < l->manifest.tasks->len; i++) {
    CkptTask *extra = l->manifest.tasks->pdata[i];
    if (!load_task_extra(l, extra, error))
      return false;
    g_clear_pointer(&extra->threads, free);
    extra->n_threads = 0;
    checkpoint_find_task(l->checkpoint, (pid_t)extra->pid)->extra = extra;
    l->manifest.tasks->pdata[i] = NULL;
  }
  return true;
}

static bool load_all(Loader *l, GError **error) {
  guint64 size;
  if (image_source_size(l->source, "inventory.img", &size) == -ENOENT)
    return image_invalid(error, IMAGE_INVENTORY, 0, "missing: the directory holds no complete checkpoint");
  if (!manifest_load(&l->manifest, &l->reader, l->source, error))
    return false;
  l->checkpoint->inventory = loader_single(l, IMAGE_INVENTORY, 0, error);
  if (!l->checkpoint->inventory || !verify_inventory(l->checkpoint, error) || !load_tree(l, error))
    return false;
  if (!load_tasks(l, error) || !load_namespaces(l, error) || !load_files(l, error))
    return false;
  for (int kind = 0; kind < RECORD_N_KINDS; kind++)
    if (!load_records(l, (RecordKind)kind, error))
      return false;
  return load_tcp_streams(l, error) && load_nets(l, error) && load_shmem(l, error) && load_extras(l, error) && load_externals(l, error) && load_more(l, error) && load_sockets(l, error) && load_plugins(l, error) && verify_checkpoint(l->checkpoint, error) &&
         content_check(l->source, l->checkpoint, error) &&
         manifest_check_rest(&l->manifest, &l->reader, l->source, error);
}

Checkpoint *load_checkpoint(const ImageSource *source, GError **error) {
  g_autoptr(Checkpoint) checkpoint = checkpoint_new();
  Loader l = {.source = source, .checkpoint = checkpoint};
  manifest_init(&l.manifest);
  bool ok = load_all(&l, error);
  manifest_deinit(&l.manifest);
  image_reader_deinit(&l.reader);
  return ok ? g_steal_pointer(&checkpoint) : NULL;
}

Checkpoint *image_load(int dir_fd, GError **error) {
  const ImageSource source = {.dir_fd = dir_fd};
  return load_checkpoint(&source, error);
}

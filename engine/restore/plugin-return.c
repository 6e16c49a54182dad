/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Plugins are asked once an object, before the first open file is made: one of them may have to wait for another. Their
 * memory comes in files as long as the mappings, which every task inherits and reads from, as it does from pages. */

#include "plugin-return.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ull
#define READ_MAX (64ull << 20)
#define GAP_MAX (64ull << 10) /* reading such a gap of an anonymous mapping costs less than a call */
#define EXTENTS_MAX 100

typedef struct Place {
  pid_t pid;
  guint64 start;
} Place;

typedef struct Given {
  int fd;
  guint64 offset;
} Given;

struct PluginReturn {
  PluginSet *set;
  Restorer *restorer;
  GHashTable *files;    /* file id -> descriptor + 1 */
  GHashTable *mappings; /* Place -> Given */
  GHashTable *memory;   /* Place -> Given */
  bool preparing, again;
};

static guint place_hash(gconstpointer p) {
  const Place *x = p;
  return (guint)(x->start >> 12) * 31 + (guint)x->pid;
}

static gboolean place_equal(gconstpointer a, gconstpointer b) {
  const Place *x = a, *y = b;
  return x->pid == y->pid && x->start == y->start;
}

static void given_free(void *p) {
  Given *g = p;
  if (g->fd >= 0)
    (void)close(g->fd);
  g_free(g);
}

PluginReturn *plugin_return_new(PluginSet *set, Restorer *restorer) {
  PluginReturn *x = g_new0(PluginReturn, 1);
  x->set = set;
  x->restorer = restorer;
  x->files = g_hash_table_new(NULL, NULL);
  x->mappings = g_hash_table_new_full(place_hash, place_equal, g_free, given_free);
  x->memory = g_hash_table_new_full(place_hash, place_equal, g_free, given_free);
  return x;
}

void plugin_return_free(PluginReturn *x) {
  if (!x)
    return;
  GHashTableIter iter;
  gpointer fd;
  g_hash_table_iter_init(&iter, x->files);
  while (g_hash_table_iter_next(&iter, NULL, &fd))
    (void)close(GPOINTER_TO_INT(fd) - 1);
  g_hash_table_unref(x->files);
  g_hash_table_unref(x->mappings);
  g_hash_table_unref(x->memory);
  g_free(x);
}

/* --- descriptors --- */

static const CkptPluginObject *find_object(const PluginReturn *x, guint32 file_id) {
  const GPtrArray *all = restorer_checkpoint(x->restorer)->plugin_objects;
  for (guint i = 0; i < all->len; i++) {
    const CkptPluginObject *m = all->pdata[i];
    if (m->object->id == file_id)
      return m;
  }
  return NULL;
}

/* What is known of an object that none of our plugins took: another program made the checkpoint. */
static struct checkpoint_object object_of(const ExternalObject *o) {
  return (struct checkpoint_object){
      .size = sizeof(struct checkpoint_object),
      .kind = o->kind == EXTERNAL_UNIX ? CHECKPOINT_KIND_UNIX_SOCKET : CHECKPOINT_KIND_FILE,
      .id = o->file_id,
      .pid = o->pid,
      .number = o->fd,
      .comm = o->comm,
      .fd = -1,
      .path = o->path,
      .socket_type = o->sock.type,
      .socket_state = o->sock.state,
      .peer_ino = o->sock.peer_ino,
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32,
  };
}

/* A socket whose other end is closed. -1 with error. */
static int make_disconnected(const struct checkpoint_object *o, GError **error) {
  int ends[2];
  if (o->kind != CHECKPOINT_KIND_UNIX_SOCKET || socketpair(AF_UNIX, o->socket_type | SOCK_CLOEXEC, 0, ends) < 0) {
    engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "A plugin wants file id %" G_GUINT64_FORMAT " to be found disconnected, but only sockets can be", o->id);
    return -1;
  }
  (void)close(ends[1]);
  return ends[0];
}

/* -1 without an error: to be asked again. */
static int restore_object(PluginReturn *x, const ExternalObject *o, const char *name, GError **error) {
  const CkptPluginObject *m = find_object(x, o->file_id);
  const struct checkpoint_object object = m ? plugin_object_of(m->object) : object_of(o);
  PluginRestored restored;
  if (!plugins_restore(x->set, m ? m->plugin : name, &object, &restored, error) || restored.again)
    return -1;
  if (restored.disconnected)
    return make_disconnected(&object, error);
  if (m && object.kind == CHECKPOINT_KIND_FILE && !restorer_set_flags(restored.fd, (guint32)object.flags, error)) {
    g_prefix_error(error, "Plugin %s: ", m->plugin);
    (void)close(restored.fd);
    return -1;
  }
  return restored.fd;
}

bool plugin_return_ask(
    PluginReturn *x, const ExternalObject *o, const char *name, ExternalAnswer *ret_answer, GError **error) {
  gpointer key = GUINT_TO_POINTER(o->file_id);
  GError *failure = NULL;
  int fd = GPOINTER_TO_INT(g_hash_table_lookup(x->files, key)) - 1;
  if (fd < 0 && (name || plugins_count(x->set)))
    fd = restore_object(x, o, name, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  x->again = fd < 0;
  if (fd >= 0 && x->preparing)
    g_hash_table_insert(x->files, key, GINT_TO_POINTER(fd + 1));
  if (fd < 0 || x->preparing)
    return true;
  g_hash_table_remove(x->files, key);
  ret_answer->action = EXTERNAL_PLUGIN;
  ret_answer->fd = fd;
  return true;
}

bool plugin_return_is_preparing(const PluginReturn *x) {
  return x && x->preparing;
}

static bool is_theirs(const FileEntry *e) {
  return e->type == FD_TYPES__EXT || (e->usk && e->usk->uflags & (1 << 1) /* callback */);
}

/* Through the same questions as later, so that rules of the restore go first. */
static bool prepare_one(PluginReturn *x, const FileEntry *e, GError **error) {
  ExternalObject o = {.kind = e->usk ? EXTERNAL_UNIX : EXTERNAL_OTHER, .file_id = e->id};
  g_auto(ExternalAnswer) answer = {.fd = -1};
  if (e->usk) {
    o.sock.type = (int)e->usk->type;
    o.sock.state = e->usk->state;
    o.sock.ino = e->usk->ino;
    o.sock.peer_ino = e->usk->peer;
  }
  x->again = false;
  return restorer_external(x->restorer, &o, &answer, error);
}

bool plugin_return_prepare(PluginReturn *x, GError **error) {
  g_autoptr(GPtrArray) waiting = g_ptr_array_new();
  const GPtrArray *files = restorer_checkpoint(x->restorer)->files;
  for (guint i = 0; i < files->len; i++)
    if (is_theirs(files->pdata[i]))
      g_ptr_array_add(waiting, files->pdata[i]);
  x->preparing = true;
  for (guint before = waiting->len + 1; plugins_count(x->set) && waiting->len && waiting->len < before;) {
    before = waiting->len;
    for (guint i = 0; i < waiting->len;) {
      if (!prepare_one(x, waiting->pdata[i], error))
        return false;
      if (x->again)
        i++;
      else
        g_ptr_array_remove_index(waiting, i);
    }
  }
  x->preparing = false;
  if (!plugins_count(x->set) || !waiting->len)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
      "Plugins want to be asked again about %u objects, the first of which is file id %u, but no other object is left "
      "to wait for",
      waiting->len, ((const FileEntry *)waiting->pdata[0])->id);
}

/* --- mappings --- */

static void give(GHashTable *table, pid_t pid, guint64 start, int fd, guint64 offset) {
  Place *place = g_new(Place, 1);
  Given *given = g_new(Given, 1);
  *place = (Place){pid, start};
  *given = (Given){fd, offset};
  g_hash_table_replace(table, place, given);
}

static const CkptPluginObject *find_mapping(const PluginReturn *x, const Task *task, const VmaEntry *v) {
  const GPtrArray *all = restorer_checkpoint(x->restorer)->plugin_objects;
  for (guint i = 0; i < all->len; i++) {
    const CkptPluginObject *m = all->pdata[i];
    const PluginObject *o = m->object;
    if (o->kind == CHECKPOINT_KIND_MAPPING && o->pid == task_pid(task) && o->start == v->start && o->end == v->end)
      return m;
  }
  return NULL;
}

/* A checkpoint of another program has no more than the entry. */
static struct checkpoint_object mapping_of(const PluginReturn *x, const Task *task, const VmaEntry *v) {
  const FileEntry *file = checkpoint_find_file(restorer_checkpoint(x->restorer), (guint32)v->shmid);
  return (struct checkpoint_object){
      .size = sizeof(struct checkpoint_object),
      .kind = CHECKPOINT_KIND_MAPPING,
      .id = v->shmid,
      .pid = task_pid(task),
      .number = -1,
      .comm = task->core->tc->comm,
      .fd = -1,
      .path = file && file->reg ? file->reg->name : NULL,
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32,
      .start = v->start,
      .end = v->end,
      .offset = v->pgoff,
      .protection = (int)v->prot,
      .shared = (v->flags & MAP_SHARED) != 0,
  };
}

bool plugin_return_mapping(
    PluginReturn *x, const Task *task, const VmaEntry *v, int *ret_fd, guint64 *ret_pgoff, GError **error) {
  const Place place = {task_pid(task), v->start};
  const Given *known = g_hash_table_lookup(x->mappings, &place);
  const CkptPluginObject *m = known ? NULL : find_mapping(x, task, v);
  const struct checkpoint_object object = m ? plugin_object_of(m->object) : mapping_of(x, task, v);
  PluginRestored restored;
  if (!known) {
    if (!plugins_restore(x->set, m ? m->plugin : NULL, &object, &restored, error))
      return false;
    if (restored.fd < 0 || restored.offset % PAGE)
      return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "pid %d: for the mapping at %" G_GINT64_MODIFIER "x a plugin has to give a descriptor, and whole pages",
          (int)task_pid(task), v->start);
    give(x->mappings, place.pid, place.start, restored.fd, restored.offset);
    known = g_hash_table_lookup(x->mappings, &place);
  }
  *ret_fd = known->fd;
  *ret_pgoff = known->offset;
  return true;
}

/* --- memory --- */

static const VmaEntry *find_private(const PluginReturn *x, const PluginObject *o) {
  const Task *task = checkpoint_find_task(restorer_checkpoint(x->restorer), (pid_t)o->pid);
  for (size_t i = 0; task && task->mm && i < task->mm->n_vmas; i++) {
    const VmaEntry *v = task->mm->vmas[i];
    if (v->start == o->start && v->end == o->end && v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE))
      return v;
  }
  return NULL;
}

static bool fill_one(PluginReturn *x, const CkptPluginObject *m, GError **error) {
  const struct checkpoint_object object = plugin_object_of(m->object);
  if (!find_private(x, m->object))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "checkpoint.img: the plugin %s has memory of pid %d at %" G_GINT64_MODIFIER "x, where there is no such mapping",
        m->plugin, m->object->pid, m->object->start);
  int fd = memfd_create("checkpoint-plugin", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)(object.end - object.start)) < 0) {
    if (fd >= 0)
      (void)close(fd);
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make room for memory of a plugin");
  }
  give(x->memory, object.pid, object.start, fd, 0);
  return plugins_restore_memory(x->set, m->plugin, &object, fd, error);
}

bool plugin_return_fill(PluginReturn *x, GError **error) {
  const GPtrArray *all = restorer_checkpoint(x->restorer)->plugin_objects;
  for (guint i = 0; i < all->len; i++) {
    const CkptPluginObject *m = all->pdata[i];
    if (m->object->kind == CHECKPOINT_KIND_MEMORY && !fill_one(x, m, error))
      return false;
  }
  return true;
}

typedef struct Extent {
  guint64 start, end;
} Extent;

/* Where data is in the file, in whole pages, at most up to @size. */
static GArray *list_extents(int fd, guint64 size, guint64 gap) {
  GArray *all = g_array_new(FALSE, FALSE, sizeof(Extent));
  for (off_t data = 0; (guint64)data < size;) {
    data = lseek(fd, data, SEEK_DATA);
    if (data < 0 || (guint64)data >= size)
      break;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    Extent e = {(guint64)data & ~(PAGE - 1), hole < 0 ? size : MIN(((guint64)hole + PAGE - 1) & ~(PAGE - 1), size)};
    Extent *last = all->len ? &g_array_index(all, Extent, all->len - 1) : NULL;
    if (last && e.start - last->end <= gap)
      last->end = e.end;
    else
      g_array_append_val(all, e);
    data = (off_t)e.end;
  }
  return all;
}

static void build_read(const VmaEntry *v, int fd, const Extent *e, Program *p) {
  for (guint64 at = e->start; at < e->end;) {
    guint64 n = MIN(e->end - at, READ_MAX);
    const struct iovec iov = {(void *)(uintptr_t)(v->start + at), n};
    size_t data = program_data(p, &iov, sizeof iov);
    PROGRAM_CALL(p, "preadv of a plugin's memory", SYS_preadv, ARG(fd), ARG_DATA(data), ARG(1), ARG(at), ARG(0));
    program_expect(p, EXPECT_EQUAL, (gint64)n);
    at += n;
  }
}

static bool build_memory(const VmaEntry *v, int fd, bool inherited, Program *p, GError **error) {
  bool anonymous = v->status & VMA_ANON_PRIVATE;
  g_autoptr(GArray) extents = list_extents(fd, v->end - v->start, anonymous ? GAP_MAX : 0);
  if (extents->len > EXTENTS_MAX && anonymous) {
    g_array_index(extents, Extent, 0).end = g_array_index(extents, Extent, extents->len - 1).end;
    g_array_set_size(extents, 1);
  }
  if (extents->len > EXTENTS_MAX)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "A plugin gave the mapping at %" G_GINT64_MODIFIER "x in %u pieces, more than %d", v->start, extents->len,
        EXTENTS_MAX);
  if (inherited)
    PROGRAM_CALL(p, "madvise DONTNEED", SYS_madvise, ARG(v->start), ARG(v->end - v->start), ARG(MADV_DONTNEED));
  if (!extents->len)
    return true;
  PROGRAM_CALL(p, "mprotect to fill", SYS_mprotect, ARG(v->start), ARG(v->end - v->start),
      ARG(v->prot | PROT_READ | PROT_WRITE));
  for (guint i = 0; i < extents->len; i++)
    build_read(v, fd, &g_array_index(extents, Extent, i), p);
  return true;
}

/* Children that inherit the memory come before the protections, so those are set at the end for all. */
bool plugin_return_build(PluginReturn *x, const Task *task, bool inherited, Program *p, GError **error) {
  for (size_t i = 0; x && g_hash_table_size(x->memory) && task->mm && i < task->mm->n_vmas; i++) {
    const VmaEntry *v = task->mm->vmas[i];
    const Place place = {task_pid(task), v->start};
    const Given *given = g_hash_table_lookup(x->memory, &place);
    if (given && !build_memory(v, given->fd, inherited, p, error))
      return false;
  }
  return true;
}

bool plugin_return_has(const PluginReturn *x, const Task *task, const VmaEntry *v) {
  const Place place = {task_pid(task), v->start};
  return x && g_hash_table_contains(x->memory, &place);
}

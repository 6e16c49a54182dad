/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Plugins are asked once an object, before the first open file is made: one of them may have to wait for another. Their
 * memory comes in files as long as the mappings, which every task inherits and reads from, as it does from pages. */

#include "plugin-return.h"
#include "file-state.h"
#include "ghost-file.pb-c.h"
#include "image.h"
#include "rule.h"
#include "unix-private.h"
#include "unix.h"
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

/* A connection that its process makes, and that a plugin is told about then. */
typedef struct Connection {
  guint32 file_id;
  char *plugin;
  PluginObject *object;
} Connection;

struct PluginReturn {
  PluginSet *set;
  Restorer *restorer;
  const ExternalObject *current; /* that is asked about now; NULL: none */
  GHashTable *files;    /* file id -> PluginRestored */
  GPtrArray *connections;
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

static void restored_free(void *p) {
  PluginRestored *restored = p;
  if (restored->fd >= 0)
    (void)close(restored->fd);
  plugin_said_clear(&restored->said);
  g_free(restored);
}

static void connection_free(void *p) {
  Connection *c = p;
  plugin_object__free_unpacked(c->object, NULL);
  g_free(c->plugin);
  g_free(c);
}

/* --- what plugins may ask --- */

static int help_connect_as(void *data, int fd, const char *address, uid_t uid, gid_t gid) {
  const ExternalObject *o = ((const PluginReturn *)data)->current;
  g_autoptr(GBytes) given = address ? rule_address_bytes(address) : NULL;
  gsize size = o ? o->sock.peer_name_size : 0;
  const guint8 *name = given ? g_bytes_get_data(given, &size) : o ? o->sock.peer_name : NULL;
  return address && !given ? -EINVAL : unix_reach_as(fd, name, size, uid, gid);
}

static bool help_is_address(const char *address) {
  g_autoptr(GBytes) bytes = rule_address_bytes(address);
  return bytes;
}

static int help_content_hash(int fd, guint64 *ret_hash) {
  return file_state_hash(fd, ret_hash, NULL) ? 0 : -EIO;
}

static void content_of(const GhostFileEntry *ghost, const CkptFileState *state, struct checkpoint_content *ret) {
  ret->length = state->size;
  ret->mode = ghost->mode;
  ret->uid = ghost->uid;
  ret->gid = ghost->gid;
  ret->mtime_sec = ghost->mtim ? (gint64)ghost->mtim->tv_sec : 0;
  ret->mtime_nsec = ghost->mtim ? (guint32)(ghost->mtim->tv_usec * 1000) : 0;
  ret->hash = state->content;
}

static int help_content_get(void *data, int fd, struct checkpoint_content *ret) {
  const PluginReturn *x = data;
  Restorer *r = x->restorer;
  const CkptExternal *record =
      x->current ? checkpoint_find_external(restorer_checkpoint(r), x->current->file_id) : NULL;
  const CkptFileState *state = record ? record->file : NULL;
  if (!state || !state->has_ghost_id || !state->has_content)
    return -ENOENT;
  g_autoptr(GError) failure = NULL;
  GhostFileEntry *ghost = (GhostFileEntry *)image_read_ghost(restorer_images_fd(r), state->ghost_id, &failure);
  bool ok = ghost && S_ISREG(ghost->mode) && (fd < 0 || image_copy_ghost(restorer_images_fd(r), state->ghost_id, fd, &failure));
  if (ok)
    content_of(ghost, state, ret);
  if (ghost)
    ghost_file_entry__free_unpacked(ghost, NULL);
  if (!ok)
    job_log(restorer_job(r), 3, "%s", failure ? failure->message : "the kept content is of no regular file");
  return ok ? 0 : -EBADMSG;
}

PluginReturn *plugin_return_new(PluginSet *set, Restorer *restorer) {
  PluginReturn *x = g_new0(PluginReturn, 1);
  const PluginServices services = {.data = x,
      .connect_as = help_connect_as,
      .is_address = help_is_address,
      .content_get = help_content_get,
      .content_hash = help_content_hash};
  plugins_set_services(set, &services);
  x->set = set;
  x->restorer = restorer;
  x->files = g_hash_table_new_full(NULL, NULL, NULL, restored_free);
  x->connections = g_ptr_array_new_with_free_func(connection_free);
  x->mappings = g_hash_table_new_full(place_hash, place_equal, g_free, given_free);
  x->memory = g_hash_table_new_full(place_hash, place_equal, g_free, given_free);
  return x;
}

void plugin_return_free(PluginReturn *x) {
  if (!x)
    return;
  g_hash_table_unref(x->files);
  g_ptr_array_unref(x->connections);
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

/* What is known of an object that none of our plugins took: another program made the checkpoint, or an earlier version. The
 * two names are owned by the caller. */
static struct checkpoint_object object_of(const ExternalObject *o, char **ret_name, char **ret_peer_name) {
  *ret_name = o->sock.name_size ? unix_name_text(o->sock.name, o->sock.name_size) : NULL;
  *ret_peer_name = o->sock.peer_name_size ? unix_name_text(o->sock.peer_name, o->sock.peer_name_size) : NULL;
  return (struct checkpoint_object){
      .size = sizeof(struct checkpoint_object),
      .kind = o->kind == EXTERNAL_UNIX ? CHECKPOINT_KIND_UNIX_SOCKET : CHECKPOINT_KIND_FILE,
      .id = o->file_id,
      .pid = o->pid,
      .number = o->fd,
      .comm = o->comm,
      .fd = -1,
      .flags = o->flags,
      .mode = o->st.st_mode,
      .ino = o->st.st_ino,
      .rdev = o->st.st_rdev,
      .path = o->path,
      .socket_type = o->sock.type,
      .socket_state = o->sock.state,
      .socket_name = *ret_name,
      .peer_ino = o->sock.peer_ino,
      .peer_pid = o->sock.peer_pid,
      .peer_uid = o->sock.peer_known ? o->sock.peer_uid : G_MAXUINT32,
      .peer_gid = o->sock.peer_known ? o->sock.peer_gid : G_MAXUINT32,
      .peer_comm = o->sock.peer_comm,
      .peer_name = *ret_peer_name,
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

static bool check_flags(const CkptPluginObject *m, const PluginRestored *restored, GError **error) {
  bool file = m && m->object->kind == CHECKPOINT_KIND_FILE && restored->fd >= 0;
  if (!file || restorer_set_flags(restored->fd, (guint32)m->object->flags, error))
    return true;
  g_prefix_error(error, "Plugin %s: ", m->plugin);
  return false;
}

static void note_connection(PluginReturn *x, const PluginRestored *restored, const struct checkpoint_object *object) {
  Connection *c = g_new(Connection, 1);
  *c = (Connection){(guint32)object->id, g_strdup(restored->plugin), plugin_object_copy(object)};
  g_ptr_array_add(x->connections, c);
}

/* NULL with error. */
static PluginRestored *restore_object(PluginReturn *x, const ExternalObject *o, const ExternalAnswer *whom, GError **error) {
  const CkptPluginObject *m = find_object(x, o->file_id);
  g_autofree char *name = NULL, *peer_name = NULL;
  struct checkpoint_object object = m ? plugin_object_of(m->object) : object_of(o, &name, &peer_name);
  const CkptExternal *record = checkpoint_find_external(restorer_checkpoint(x->restorer), o->file_id);
  bool callback = !record || external_action_of(record->action) == EXTERNAL_PLUGIN;
  PluginRestored *restored = g_new0(PluginRestored, 1);
  restored->fd = -1;
  if (whom->plugin)
    object.argument = whom->value;
  x->current = o;
  bool ok = plugins_restore(
      x->set, whom->plugin ? whom->plugin : m ? m->plugin : NULL, whom->only, &object, restored, error);
  x->current = NULL;
  if (ok && restored->disconnected && (callback || object.kind != CHECKPOINT_KIND_UNIX_SOCKET))
    restored->fd = make_disconnected(&object, error);
  ok = ok && (!restored->disconnected || !callback || restored->fd >= 0) && check_flags(m, restored, error);
  if (ok && restored->connect)
    note_connection(x, restored, &object);
  if (ok)
    return restored;
  restored_free(restored);
  return NULL;
}

/* What the object's kind does then. */
static void fill_answer(const PluginReturn *x, const ExternalObject *o, PluginRestored *restored, ExternalAnswer *ret) {
  g_clear_pointer(&ret->value, g_free);
  g_clear_pointer(&ret->send, g_bytes_unref);
  ret->fd = restored->fd;
  restored->fd = -1;
  ret->action = ret->fd >= 0           ? EXTERNAL_PLUGIN
                : restored->connect    ? EXTERNAL_RECONNECT
                : restored->reopen     ? EXTERNAL_REOPEN
                : restored->disconnected ? EXTERNAL_CLOSE
                                       : EXTERNAL_NOBODY;
  if (restored->connect) {
    ret->address = restored->said.address ? rule_address_bytes(restored->said.address) : NULL;
    ret->send = g_steal_pointer(&restored->said.first);
  }
  if (restored->disconnected && !x->preparing)
    job_log(restorer_job(x->restorer), 4, "pid %d (%s) fd %d: its connection comes back closed: %s", (int)o->pid,
        o->comm ? o->comm : "", o->fd, restored->said.reason ? restored->said.reason : "the plugin says so");
}

bool plugin_return_ask(PluginReturn *x, const ExternalObject *o, ExternalAnswer *ret_answer, GError **error) {
  gpointer key = GUINT_TO_POINTER(o->file_id);
  PluginRestored *restored = NULL;
  GError *failure = NULL;
  if (!g_hash_table_steal_extended(x->files, key, NULL, (gpointer *)&restored) &&
      (ret_answer->plugin || plugins_count(x->set)))
    restored = restore_object(x, o, ret_answer, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  x->again = !restored || restored->again;
  if (restored && !x->again && x->preparing) {
    g_hash_table_insert(x->files, key, restored);
    return true;
  }
  if (restored && !x->again)
    fill_answer(x, o, restored, ret_answer);
  if (restored)
    restored_free(restored);
  return true;
}

bool plugin_return_connected(PluginReturn *x, GError **error) {
  for (guint i = 0; i < x->connections->len; i++) {
    const Connection *c = x->connections->pdata[i];
    const struct checkpoint_object object = plugin_object_of(c->object);
    g_auto(PluginSaid) said = {0};
    bool keep = true;
    int fd = restorer_fd_of(x->restorer, c->file_id, error);
    if (fd < 0 || !plugins_connected(x->set, c->plugin, &object, fd, &keep, &said, error))
      return false;
    if (keep)
      continue;
    job_log(restorer_job(x->restorer), 4, "pid %d (%s) fd %d: its connection comes back closed: %s", object.pid,
        object.comm ? object.comm : "", object.number, said.reason ? said.reason : "the plugin says so");
    (void)shutdown(fd, SHUT_RDWR);
  }
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
    if (!plugins_restore(x->set, m ? m->plugin : NULL, false, &object, &restored, error))
      return false;
    plugin_said_clear(&restored.said);
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
  int fd = memfd_create("checkpoint-plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)(object.end - object.start)) < 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) { /* as long as the mapping, whoever has it */
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

guint64 plugin_return_bytes(const PluginReturn *x) {
  GHashTableIter iter;
  gpointer place, given;
  guint64 bytes = 0;
  g_hash_table_iter_init(&iter, x->memory);
  while (g_hash_table_iter_next(&iter, &place, &given)) {
    struct stat st;
    g_autoptr(GArray) extents =
        list_extents(((const Given *)given)->fd, fstat(((const Given *)given)->fd, &st) == 0 ? (guint64)st.st_size : 0, 0);
    for (guint i = 0; i < extents->len; i++)
      bytes += g_array_index(extents, Extent, i).end - g_array_index(extents, Extent, i).start;
  }
  return bytes;
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

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Unix sockets, the restore's side. Connected sockets are made two at a time, filled through each other, and shut down
 * as they were; those with names come about in a child with a root of its own (unix-private.c), since the names may
 * belong to others by now. Listening sockets and bound datagram sockets are bound in the file system: the file that the
 * dumped process left behind is replaced, unless somebody listens there. */

#include "external.h"
#include "sockopts.h"
#include "unix-connect.h"
#include "unix-diag.h"
#include "unix-private.h"
#include "unix-queue.h"
#include "unix.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

static gpointer inodes_new(void) {
  return g_hash_table_new(NULL, NULL);
}

static const UnixSkEntry *find_socket(Restorer *r, guint32 ino) {
  static const char key;
  GHashTable *inodes = restorer_state(r, &key, inodes_new, (GDestroyNotify)g_hash_table_unref);
  const GPtrArray *files = restorer_checkpoint(r)->files;
  for (guint i = g_hash_table_size(inodes) ? files->len : 0; i < files->len; i++) {
    UnixSkEntry *u = ((FileEntry *)files->pdata[i])->usk;
    if (u)
      g_hash_table_insert(inodes, GUINT_TO_POINTER(u->ino), u);
  }
  return ino ? g_hash_table_lookup(inodes, GUINT_TO_POINTER(ino)) : NULL;
}

/* The user of its first holder. */
static AsWho owner_of(Restorer *r, const UnixSkEntry *u) {
  const Task *task = u ? restorer_holder_of(r, u->id) : NULL;
  const CredsEntry *creds = task && task->core && task->core->thread_core ? task->core->thread_core->creds : NULL;
  return (AsWho){.pid = task ? task_pid(task) : 0, .uid = creds ? creds->euid : geteuid(), .gid = creds ? creds->egid : getegid()};
}

/* Whom @u sees behind its other end (SO_PEERCRED): as it was; where that is not known, the one who has @other. From images of a
 * caller's only processes of the images. */
static AsWho who_behind(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *other) {
  const CkptSocket *s = u ? checkpoint_find_socket(restorer_checkpoint(r), u->id) : NULL;
  bool untrusted = job_options(restorer_job(r))->untrusted_images;
  if (!s || !s->peer || (untrusted && !checkpoint_find_task(restorer_checkpoint(r), (pid_t)s->peer->pid)))
    return owner_of(r, other ? other : u);
  if (kill((pid_t)s->peer->pid, 0) == 0 || errno != ESRCH)
    job_log(restorer_job(r), 3,
        "The unix socket of inode %u was connected to one of pid %u, which another process has now: SO_PEERCRED shows another",
        u->ino, s->peer->pid);
  static const gid_t none;
  AsWho who = {.pid = (pid_t)s->peer->pid, .uid = s->peer->uid, .gid = s->peer->gid};
  if (!untrusted) {
    who.groups = s->peer->n_group ? s->peer->group : &none;
    who.n_groups = s->peer->n_group;
  }
  return who;
}

static PrivateName private_name(const UnixSkEntry *u, AsWho who) {
  PrivateName name = {.who = who};
  if (u && u->name.len) {
    name.name = u->name.data;
    name.size = u->name.len;
    name.directory = u->name_dir;
  }
  return name;
}

/* Every socket is made once, most of them together with another. */
static GHashTable *made_sockets(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, inodes_new, (GDestroyNotify)g_hash_table_unref);
}

static void put_socket(Restorer *r, guint32 ino, int fd) {
  g_hash_table_add(made_sockets(r), GUINT_TO_POINTER(ino));
  restorer_shared_put(r, FD_TYPES__UNIXSK, ino, fd);
}

static bool is_connected_type(const UnixSkEntry *u) {
  return u->type == SOCK_STREAM || u->type == SOCK_SEQPACKET;
}

/* --- pairs --- */

static bool listens_at(Restorer *r, const UnixSkEntry *u) {
  const GPtrArray *files = restorer_checkpoint(r)->files;
  for (guint i = 0; i < files->len; i++) {
    const UnixSkEntry *l = ((FileEntry *)files->pdata[i])->usk;
    if (l && l->state == UNIX_LISTEN && l->name.len == u->name.len &&
        memcmp(l->name.data, u->name.data, u->name.len) == 0)
      return true;
  }
  return false;
}

/* ends[0] is @u's, ends[1] that of @v, which may be NULL (its holder has closed it). */
static bool make_ends(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *v, int ends[2], GError **error) {
  bool u_named = u->name.len > 0, v_named = v && v->name.len > 0;
  AsWho behind_u = who_behind(r, u, v), behind_v = who_behind(r, v && v->id ? v : NULL, u);
  if (!is_connected_type(u) || (!u_named && !v_named))
    return unix_pair_as((int)u->type, &behind_u, ends, error);
  bool u_serves = u_named && (!v_named || listens_at(r, u));
  PrivateName u_name = private_name(u, behind_v), v_name = private_name(v, behind_u);
  return unix_private_pair((int)u->type, u_serves ? &u_name : &v_name, u_serves ? &v_name : &u_name,
      &ends[u_serves ? 0 : 1], &ends[u_serves ? 1 : 0], error);
}

/* SHUT_RD, SHUT_WR and SHUT_RDWR are one less than the images' READ, WRITE and BOTH. */
static bool shut_down(const UnixSkEntry *u, int fd, GError **error) {
  if (!u->has_shutdown || u->shutdown == SK_SHUTDOWN__NONE || shutdown(fd, (int)u->shutdown - 1) == 0)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot shut a unix socket down");
}

/* Who closes with data unread resets the connection. */
static bool leave_unread(Restorer *r, const UnixSkEntry *u, int fd, GError **error) {
  const CkptSocket *s = checkpoint_find_socket(restorer_checkpoint(r), u->id);
  return !s || !s->reset || send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot write to a unix socket that was reset");
}

static bool pair_finish(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *v, const int ends[2], GError **error) {
  if (!unix_queue_restore(r, u->id, ends[1], NULL, 0, NULL, error))
    return false;
  if (!v)
    return leave_unread(r, u, ends[0], error);
  return unix_queue_restore(r, v->id, ends[0], NULL, 0, NULL, error) && shut_down(u, ends[0], error) &&
         shut_down(v, ends[1], error);
}

/* --- what has to wait until everything is open --- */

typedef struct Later {
  const UnixSkEntry *u, *v; /* v: its other end, NULL where that is closed; then its descriptor is */
  int closed;               /* this one, owned; or -1 */
  bool pair;
} Later;

/* Where the file of a socket is that has none in the file system. */
typedef struct Place {
  const UnixSkEntry *u;
  int directory;
} Place;

typedef struct Settling {
  GArray *later;  /* Later */
  GArray *places; /* Place */
} Settling;

static gpointer settling_new(void) {
  Settling *s = g_new0(Settling, 1);
  s->later = g_array_new(FALSE, FALSE, sizeof(Later));
  s->places = g_array_new(FALSE, FALSE, sizeof(Place));
  return s;
}

static void settling_free(gpointer data) {
  Settling *s = data;
  for (guint i = 0; i < s->later->len; i++)
    fd_cleanup(&g_array_index(s->later, Later, i).closed);
  for (guint i = 0; i < s->places->len; i++)
    fd_cleanup(&g_array_index(s->places, Place, i).directory);
  g_array_unref(s->later);
  g_array_unref(s->places);
  g_free(s);
}

static Settling *settling_of(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, settling_new, settling_free);
}

static void finish_later(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *v, bool pair, int closed) {
  Later later = {.u = u, .v = v, .pair = pair, .closed = closed};
  g_array_append_val(settling_of(r)->later, later);
}

static bool bind_address(Restorer *r, const UnixSkEntry *u, int fd, GError **error);

/* @gone: whose name the other end had, where that is closed (@v is NULL); may be NULL. */
static bool make_pair(
    Restorer *r, const UnixSkEntry *u, const UnixSkEntry *v, const UnixSkEntry *gone, GError **error) {
  int ends[2] = {-1, -1};
  if (!make_ends(r, u, v ? v : gone, ends, error))
    return false;
  put_socket(r, u->ino, ends[0]);
  _cleanup_fd_ int closed = -1;
  if (v)
    put_socket(r, v->ino, ends[1]);
  else
    closed = ends[1];
  if (u->type == SOCK_DGRAM && ((u->name.len && !bind_address(r, u, ends[0], error)) ||
                                   (v && v->name.len && !bind_address(r, v, ends[1], error))))
    return false;
  if (!unix_queue_is_late(r, u->id) && (!v || !unix_queue_is_late(r, v->id)))
    return pair_finish(r, u, v, ends, error);
  finish_later(r, u, v, true, fd_take(&closed));
  return true;
}

/* --- names in the file system --- */

/* Whether some socket is bound to the file: then it must not be replaced. */
static bool in_use(Restorer *r, const struct stat *st) {
  g_autoptr(GHashTable) all = unix_diag_all(restorer_places(r), NULL);
  GHashTableIter iter;
  gpointer value;
  if (!all)
    return true;
  g_hash_table_iter_init(&iter, all);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    const UnixDiag *d = value;
    if (d->has_file && d->vfs_ino == (guint32)st->st_ino &&
        d->vfs_dev == (guint32)(major(st->st_dev) << 20 | minor(st->st_dev)))
      return true;
  }
  return false;
}

static bool clear_way(Restorer *r, const char *path, GError **error) {
  struct stat st;
  if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat %s", path);
  if (!S_ISSOCK(st.st_mode))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "%s, where a socket is to be bound, is another file now; move it away", path);
  if (in_use(r, &st))
    return engine_fail(
        error, ENGINE_ERROR_CODE__BUSY, "The socket address %s is in use by another process; stop it first", path);
  if (unlink(path) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot remove the old socket %s", path);
  return true;
}

static bool set_perms(const UnixSkEntry *u, const char *path, GError **error) {
  const FilePermsEntry *perms = u->file_perms;
  if (!perms)
    return true;
  if (fchownat(AT_FDCWD, path, perms->uid, perms->gid, AT_SYMLINK_NOFOLLOW) < 0 || chmod(path, perms->mode & 07777) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set owner and mode of %s", path);
  return true;
}

/* bind(2) with the working directory that a relative name needs. */
static int bind_in(const char *directory, int fd, const UnixAddress *address, uint32_t size) {
  _cleanup_fd_ int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory && (here < 0 || chdir(directory) < 0))
    return -errno;
  mode_t mask = umask(0177);
  int r = bind(fd, (const struct sockaddr *)address, size) == 0 ? 0 : -errno;
  (void)umask(mask);
  if (directory && fchdir(here) < 0)
    return -errno;
  return r;
}

/* Its file is gone, or not where its name says. */
static bool bind_elsewhere(Restorer *r, const UnixSkEntry *u, const char *path, int fd, GError **error) {
  PrivateName name = private_name(u, (AsWho){0});
  if (path)
    return clear_way(r, path, error) && unix_private_bind_at(fd, &name, path, error) && set_perms(u, path, error);
  Place place = {.u = u, .directory = -1};
  if (!unix_private_bind(fd, &name, &place.directory, error))
    return false;
  g_array_append_val(settling_of(r)->places, place);
  return true;
}

static bool bind_path(Restorer *r, const UnixSkEntry *u, int fd, GError **error) {
  const CkptSocket *extra = checkpoint_find_socket(restorer_checkpoint(r), u->id);
  bool deleted = u->has_deleted && u->deleted;
  if (deleted || (extra && extra->path))
    return bind_elsewhere(r, u, deleted ? NULL : extra->path, fd, error);
  g_autofree char *name = g_strndup((const char *)u->name.data, u->name.len);
  bool relative = name[0] != '/';
  if (relative && !u->name_dir)
    return engine_fail(
        error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The directory of the relative socket address %s is not known", name);
  g_autofree char *path = relative ? g_strdup_printf("%s/%s", u->name_dir, name) : g_strdup(name);
  if (!clear_way(r, path, error))
    return false;
  UnixAddress address;
  int result = bind_in(relative ? u->name_dir : NULL, fd, &address, unix_address(&address, u->name.data, u->name.len));
  if (result < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, result, "Cannot bind a socket to %s", path);
  return set_perms(u, path, error);
}

static bool bind_address(Restorer *r, const UnixSkEntry *u, int fd, GError **error) {
  UnixAddress address;
  uint32_t size = unix_address(&address, u->name.data, u->name.len);
  if (!u->name.len)
    return true;
  if (!size)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A socket address is too long");
  if (unix_has_path(u))
    return bind_path(r, u, fd, error);
  if (bind_patiently(fd, &address, size) == 0)
    return true;
  g_autofree char *text = unix_name_text(u->name.data, u->name.len);
  return engine_fail_errno(error, errno == EADDRINUSE ? ENGINE_ERROR_CODE__BUSY : ENGINE_ERROR_CODE__FAILED, errno,
      "Cannot bind a socket to %s", text);
}

/* --- sockets of their own --- */

/* Where a bound socket can be reached, whatever lies at its path now. @ret_directory: to be closed after the use; -1: none. */
static uint32_t address_of(Restorer *r, const UnixSkEntry *u, UnixAddress *address, int *ret_directory, GError **error) {
  const CkptSocket *extra = checkpoint_find_socket(restorer_checkpoint(r), u->id);
  const GArray *places = settling_of(r)->places;
  *ret_directory = -1;
  for (guint i = 0; i < places->len; i++)
    if (g_array_index(places, Place, i).u == u)
      return unix_address_at(address, g_array_index(places, Place, i).directory, u->name.data, u->name.len);
  if (!unix_has_path(u) || (u->name.data[0] == '/' && !(extra && extra->path)))
    return unix_address(address, u->name.data, u->name.len);
  g_autofree char *name = g_strndup((const char *)u->name.data, u->name.len);
  g_autofree char *path = extra && extra->path ? g_strdup(extra->path) : g_strdup_printf("%s/%s", u->name_dir ? u->name_dir : "", name);
  g_autofree char *directory = g_path_get_dirname(path);
  *ret_directory = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (*ret_directory >= 0)
    return unix_address_at(address, *ret_directory, (const uint8_t *)path, strlen(path));
  engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot open %s", directory);
  return 0;
}

static int find_sender(Restorer *r, const uint8_t *name, size_t size, GError **error) {
  const GPtrArray *files = restorer_checkpoint(r)->files;
  for (guint i = 0; i < files->len; i++) {
    const FileEntry *entry = files->pdata[i];
    const UnixSkEntry *u = entry->usk;
    if (u && u->type == SOCK_DGRAM && !(u->uflags & UNIX_EXTERNAL) && u->name.len == size &&
        memcmp(u->name.data, name, size) == 0 && !(u->has_shutdown && u->shutdown & SK_SHUTDOWN__WRITE))
      return restorer_fd_of(r, entry->id, error);
  }
  return -1;
}

/* Datagrams that are queued in a bound socket; those without a sender come from a nameless one. */
static bool fill_bound(Restorer *r, const UnixSkEntry *u, GError **error) {
  if (u->type != SOCK_DGRAM || !u->name.len || unix_queue_is_empty(r, u->id))
    return true;
  UnixAddress address;
  _cleanup_fd_ int directory = -1;
  uint32_t size = address_of(r, u, &address, &directory, error);
  if (!size)
    return false;
  _cleanup_fd_ int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return unix_queue_restore(r, u->id, sender, &address, size, find_sender, error);
}

static bool make_any(Restorer *r, const UnixSkEntry *u, int *ret_fd, GError **error);

/* Connections that were accepted carry the listener's name. One in the abstract namespace can be bound by one socket at a
 * time, so they come first. */
static bool make_accepted(Restorer *r, const UnixSkEntry *listener, GError **error) {
  const GPtrArray *files = restorer_checkpoint(r)->files;
  for (guint i = 0; i < files->len; i++) {
    const UnixSkEntry *s = ((FileEntry *)files->pdata[i])->usk;
    if (!s || s->state != UNIX_ESTABLISHED || s->uflags & UNIX_EXTERNAL || !is_connected_type(s) ||
        s->name.len != listener->name.len || memcmp(s->name.data, listener->name.data, s->name.len) != 0 ||
        g_hash_table_contains(made_sockets(r), GUINT_TO_POINTER(s->ino)))
      continue;
    int given = -1;
    if (!make_any(r, s, &given, error))
      return false;
    if (given >= 0)
      put_socket(r, s->ino, given);
  }
  return true;
}

static bool listen_again(Restorer *r, const UnixSkEntry *u, int fd, GError **error) {
  if (u->state != UNIX_LISTEN)
    return true;
  AsWho who = who_behind(r, u, u);
  return unix_listen_as(fd, (int)u->backlog, &who, error);
}

/* A datagram socket may be connected to one that is still to be made, and may only be sent to by others before. */
static bool make_single(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *peer, GError **error) {
  if (u->state == UNIX_LISTEN && u->name.len && !unix_has_path(u) && !make_accepted(r, u, error))
    return false;
  int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket of type %u", u->type);
  put_socket(r, u->ino, fd);
  if (!bind_address(r, u, fd, error) || !listen_again(r, u, fd, error))
    return false;
  if (peer || unix_queue_is_late(r, u->id)) {
    finish_later(r, u, peer, false, -1);
    return true;
  }
  return fill_bound(r, u, error) && shut_down(u, fd, error);
}

static bool is_listed(Restorer *r, const UnixSkEntry *listener, guint32 id) {
  const CkptSocket *extra = checkpoint_find_socket(restorer_checkpoint(r), listener->id);
  for (size_t i = 0; extra && i < extra->n_waiting; i++)
    if (extra->waiting[i] == id)
      return true;
  return false;
}

/* Connected to a listener of the tree that has not accepted yet. */
static bool make_waiting(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *listener, GError **error) {
  int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket of type %u", u->type);
  put_socket(r, u->ino, fd);
  if (is_listed(r, listener, u->id))
    return bind_address(r, u, fd, error); /* connected when all is open, in the order of the queue */
  if (listener->has_deleted && listener->deleted)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "A connection waits at a listening socket whose file is gone, that cannot be restored yet");
  const char *name = (const char *)listener->name.data;
  bool relative = unix_has_path(listener) && name[0] != '/' && listener->name_dir;
  g_autofree char *path = relative ? g_strdup_printf("%s/%.*s", listener->name_dir, (int)listener->name.len, name) : NULL;
  g_autoptr(GBytes) address = path ? g_bytes_new(path, strlen(path) + 1) : g_bytes_new(name, listener->name.len);
  if (!bind_address(r, u, fd, error))
    return false;
  unix_connect_later(r, u, address, NULL);
  return true;
}

static bool make_group(Restorer *r, const UnixSkEntry *u, GError **error) {
  const UnixSkEntry *peer = find_socket(r, u->peer);
  bool connected = u->state == UNIX_ESTABLISHED;
  if (u->peer && !peer)
    return engine_fail(
        error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "Its peer (inode %u) is outside the checkpoint", u->peer);
  if (is_connected_type(u) && connected && peer && peer->state == UNIX_LISTEN)
    return make_waiting(r, u, peer, error);
  bool late = u->type == SOCK_DGRAM && peer && u->name.len && peer->name.len &&
              (unix_queue_has_senders(r, u->id) || unix_queue_has_senders(r, peer->id));
  if (peer && peer->peer == u->ino && peer != u && peer->type == u->type && !late)
    return make_pair(r, u, peer, NULL, error);
  if (is_connected_type(u) && connected && u->peer)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "Its peer (inode %u) is another's", u->peer);
  /* Its other end is closed. A datagram socket that others are connected to looks the same, but has a name. */
  if (connected && !u->peer && (is_connected_type(u) || !u->name.len))
    return make_pair(r, u, NULL, NULL, error);
  return make_single(r, u, peer, error);
}

/* --- the other end is outside the tree --- */

/* A plugin or a rule took it at the dump, or the images of another program name its peer as external. */
static bool is_outside(Restorer *r, const UnixSkEntry *u) {
  const UnixSkEntry *peer = find_socket(r, u->peer);
  return u->uflags & UNIX_CALLBACK || (peer && peer->uflags & UNIX_EXTERNAL) ||
         checkpoint_find_external(restorer_checkpoint(r), u->id);
}

static bool make_reconnected(
    Restorer *r, const UnixSkEntry *u, const ExternalObject *o, const ExternalAnswer *answer, GError **error) {
  g_autoptr(GBytes) address = answer->address        ? g_bytes_ref(answer->address)
                              : o->sock.peer_name_size ? g_bytes_new(o->sock.peer_name, o->sock.peer_name_size)
                                                       : NULL;
  if (!address)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
        "The unix socket of inode %u had a peer without an address: action=reconnect needs one "
        "(action=reconnect:ADDRESS)", u->ino);
  int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket of type %u", u->type);
  put_socket(r, u->ino, fd);
  if (!bind_address(r, u, fd, error) || !fill_bound(r, u, error))
    return false;
  unix_connect_later(r, u, address, answer->send);
  return true;
}

static bool make_closed(Restorer *r, const UnixSkEntry *u, const ExternalObject *o, GError **error) {
  UnixSkEntry gone = UNIX_SK_ENTRY__INIT;
  gone.name.data = (uint8_t *)o->sock.peer_name;
  gone.name.len = is_connected_type(u) ? o->sock.peer_name_size : 0;
  gone.type = u->type;
  return make_pair(r, u, NULL, &gone, error);
}

static ExternalObject outside_object(Restorer *r, const UnixSkEntry *u) {
  ExternalObject o = {.kind = EXTERNAL_UNIX, .file_id = u->id};
  const UnixSkEntry *peer = find_socket(r, u->peer);
  o.sock.type = (int)u->type;
  o.sock.state = u->state;
  o.sock.ino = u->ino;
  o.sock.peer_ino = u->peer;
  o.sock.name = u->name.data;
  o.sock.name_size = u->name.len;
  if (peer) {
    o.sock.peer_name = peer->name.data;
    o.sock.peer_name_size = peer->name.len;
  }
  return o;
}

/* A ready descriptor in *ret_fd, or a socket among the shared ones. */
static bool make_outside(Restorer *r, const UnixSkEntry *u, int *ret_fd, GError **error) {
  ExternalObject o = outside_object(r, u);
  g_auto(ExternalAnswer) answer = {.fd = -1};
  if (!restorer_external(r, &o, &answer, error))
    return false;
  if (answer.fd >= 0) {
    *ret_fd = fd_take(&answer.fd);
    return true;
  }
  if (answer.action == EXTERNAL_RECONNECT)
    return make_reconnected(r, u, &o, &answer, error);
  if (answer.action == EXTERNAL_CLOSE)
    return make_closed(r, u, &o, error);
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
      "Its peer (inode %u) is outside the checkpoint, and neither a rule nor a plugin says how to go on without it",
      o.sock.peer_ino);
}

static bool make_any(Restorer *r, const UnixSkEntry *u, int *ret_fd, GError **error) {
  if (restorer_shared_get(r, FD_TYPES__UNIXSK, u->ino) >= 0)
    return true;
  return is_outside(r, u) ? make_outside(r, u, ret_fd, error) : make_group(r, u, error);
}

int unix_open(Restorer *r, const FileEntry *entry, GError **error) {
  const UnixSkEntry *u = entry->usk;
  if (!u || !u->opts || (!is_connected_type(u) && u->type != SOCK_DGRAM) || u->uflags & UNIX_EXTERNAL) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no valid unix_sk_entry");
    return -1;
  }
  int given = -1;
  if (!make_any(r, u, &given, error))
    return -1;
  if (given >= 0 && !(u->uflags & UNIX_CALLBACK))
    return given; /* the caller's own: it is as it is */
  /* What a plugin's socket is connected to is theirs to know, how the application uses it is ours. */
  _cleanup_fd_ int fd = given >= 0 ? given : restorer_shared_take(r, FD_TYPES__UNIXSK, u->ino);
  if (fd < 0) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "There are two sockets of inode %u", u->ino);
    return -1;
  }
  if (!sockopts_restore(fd, u->opts, error) || !sockopts_restore_more(r, entry->id, fd, SOCKOPTS_LATE, false, error) ||
      !restorer_set_flags(fd, u->flags, error))
    return -1;
  return fd_take(&fd);
}

bool unix_program(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error) {
  const CkptSocket *extra = checkpoint_find_socket(restorer_checkpoint(r), entry->id);
  if (entry->usk->state != UNIX_LISTEN || (extra && extra->peer))
    return true;
  /* Who listened last is whom clients see (SO_PEERCRED). */
  PROGRAM_CALL(p, "listen", SYS_listen, ARG(fd), ARG(entry->usk->backlog));
  program_expect(p, EXPECT_OK, 0);
  return true;
}

/* --- when everything is open --- */

static bool fill_one(Restorer *r, const Later *later, GError **error) {
  const UnixSkEntry *u = later->u, *v = later->v;
  int ends[2] = {restorer_fd_of(r, u->id, error), -1};
  if (ends[0] < 0)
    return false;
  if (!later->pair)
    return fill_bound(r, u, error);
  ends[1] = v ? restorer_fd_of(r, v->id, error) : later->closed;
  return ends[1] >= 0 && pair_finish(r, u, v, ends, error);
}

static bool connect_one(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *to, const AsWho *who, GError **error) {
  int fd = restorer_fd_of(r, u->id, error), target = fd < 0 ? -1 : restorer_fd_of(r, to->id, error);
  UnixAddress address;
  _cleanup_fd_ int directory = -1;
  uint32_t size = target < 0 ? 0 : address_of(r, to, &address, &directory, error);
  if (!size)
    return false;
  g_autofree char *text = unix_name_text(to->name.data, to->name.len);
  bool ok = unix_connect_as(fd, &address, size, who, error);
  if (!ok)
    g_prefix_error(error, "Socket address %s: ", text);
  return ok;
}

/* A socket that is connected takes datagrams of its peer only, and lets nobody else connect: those come first. */
static bool is_awaited(const GArray *later, const Later *one) {
  for (guint i = 0; i < later->len; i++) {
    const Later *l = &g_array_index(later, Later, i);
    if (!l->pair && l->v == one->u && l->u != one->v && l->u != one->u)
      return true;
  }
  return false;
}

static bool connect_datagrams(Restorer *r, GArray *later, GError **error) {
  const AsWho self = {.uid = geteuid(), .gid = getegid()};
  for (bool more = true; more;) {
    more = false;
    for (guint i = 0; i < later->len; i++) {
      Later *l = &g_array_index(later, Later, i);
      if (l->pair || !l->v || is_awaited(later, l))
        continue;
      if (!connect_one(r, l->u, l->v, &self, error))
        return false;
      l->v = NULL;
      more = true;
    }
  }
  return true;
}

/* Those that nobody had accepted, in the order in which they are going to be. */
static bool connect_waiting(Restorer *r, GError **error) {
  const GPtrArray *sockets = restorer_checkpoint(r)->sockets;
  for (guint i = 0; i < sockets->len; i++) {
    const CkptSocket *extra = sockets->pdata[i];
    const FileEntry *listener = extra->n_waiting ? checkpoint_find_file(restorer_checkpoint(r), extra->file_id) : NULL;
    for (size_t k = 0; listener && listener->usk && k < extra->n_waiting; k++) {
      const FileEntry *client = checkpoint_find_file(restorer_checkpoint(r), extra->waiting[k]);
      if (!client || !client->usk || client->usk->peer != listener->usk->ino)
        return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "A connection that waits is connected to another socket");
      const AsWho who = owner_of(r, client->usk);
      if (!connect_one(r, client->usk, listener->usk, &who, error) ||
          !shut_down(client->usk, restorer_fd_of(r, client->id, NULL), error))
        return false;
    }
  }
  return true;
}

/* What would be in the way of filling a queue. */
static bool set_last_options(Restorer *r, GError **error) {
  const GPtrArray *sockets = restorer_checkpoint(r)->sockets;
  for (guint i = 0; i < sockets->len; i++) {
    const CkptSocket *s = sockets->pdata[i];
    const FileEntry *entry = s->n_option ? checkpoint_find_file(restorer_checkpoint(r), s->file_id) : NULL;
    if (!entry || !entry->usk || checkpoint_find_external(restorer_checkpoint(r), s->file_id))
      continue;
    int fd = restorer_fd_of(r, s->file_id, error);
    if (fd < 0 || !sockopts_restore_more(r, s->file_id, fd, SOCKOPTS_LAST, false, error))
      return false;
  }
  return true;
}

bool unix_settle(Restorer *r, GError **error) {
  Settling *s = settling_of(r);
  for (guint i = 0; i < s->later->len; i++) { /* grows */
    const Later later = g_array_index(s->later, Later, i);
    if (!fill_one(r, &later, error))
      return false;
  }
  if (!connect_datagrams(r, s->later, error) || !connect_waiting(r, error))
    return false;
  for (guint i = 0; i < s->later->len; i++) {
    const Later *l = &g_array_index(s->later, Later, i);
    if (!l->pair && (l->v || !shut_down(l->u, restorer_fd_of(r, l->u->id, NULL), error)))
      return l->v ? engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "Datagram sockets are connected in a circle") : false;
    fd_cleanup(&g_array_index(s->later, Later, i).closed);
    g_array_index(s->later, Later, i).closed = -1;
  }
  for (guint i = 0; i < s->places->len; i++) {
    const Place *p = &g_array_index(s->places, Place, i);
    g_autofree char *name = g_strndup((const char *)p->u->name.data, p->u->name.len);
    const char *slash = strrchr(name, '/');
    (void)unlinkat(p->directory, slash ? slash + 1 : name, 0);
  }
  return set_last_options(r, error);
}

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

/* Whom others see behind the socket: the user of its first holder. */
static void owner_of(Restorer *r, const UnixSkEntry *u, uid_t *ret_uid, gid_t *ret_gid) {
  const Task *task = u ? restorer_holder_of(r, u->id) : NULL;
  const CredsEntry *creds = task && task->core && task->core->thread_core ? task->core->thread_core->creds : NULL;
  *ret_uid = creds ? creds->euid : geteuid();
  *ret_gid = creds ? creds->egid : getegid();
}

static PrivateName private_name(Restorer *r, const UnixSkEntry *u) {
  PrivateName name = {0};
  owner_of(r, u, &name.uid, &name.gid);
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
  if (!is_connected_type(u) || (!u_named && !v_named)) {
    uid_t uid;
    gid_t gid;
    owner_of(r, u, &uid, &gid);
    return unix_pair_as((int)u->type, uid, gid, ends, error);
  }
  bool u_serves = u_named && (!v_named || listens_at(r, u));
  PrivateName u_name = private_name(r, u), v_name = private_name(r, v);
  return unix_private_pair((int)u->type, u_serves ? &u_name : &v_name, u_serves ? &v_name : &u_name,
      &ends[u_serves ? 0 : 1], &ends[u_serves ? 1 : 0], error);
}

/* SHUT_RD, SHUT_WR and SHUT_RDWR are one less than the images' READ, WRITE and BOTH. */
static bool shut_down(const UnixSkEntry *u, int fd, GError **error) {
  if (!u->has_shutdown || u->shutdown == SK_SHUTDOWN__NONE || shutdown(fd, (int)u->shutdown - 1) == 0)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot shut a unix socket down");
}

static bool pair_finish(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *v, const int ends[2], GError **error) {
  if (!unix_queue_restore(r, u->id, ends[1], NULL, 0, error))
    return false;
  if (!v)
    return true;
  return unix_queue_restore(r, v->id, ends[0], NULL, 0, error) && shut_down(u, ends[0], error) &&
         shut_down(v, ends[1], error);
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
  return pair_finish(r, u, v, ends, error);
}

/* --- names in the file system --- */

/* Whether some socket is bound to the file: then it must not be replaced. */
static bool in_use(const struct stat *st) {
  g_autoptr(GHashTable) all = unix_diag_all(NULL);
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

static bool clear_way(const char *path, GError **error) {
  struct stat st;
  if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat %s", path);
  if (!S_ISSOCK(st.st_mode))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "%s, where a socket is to be bound, is another file now; move it away", path);
  if (in_use(&st))
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

static bool bind_path(Restorer *r, const UnixSkEntry *u, int fd, GError **error) {
  if (u->has_deleted && u->deleted) {
    PrivateName name = private_name(r, u);
    return unix_private_bind(fd, &name, error);
  }
  g_autofree char *name = g_strndup((const char *)u->name.data, u->name.len);
  bool relative = name[0] != '/';
  if (relative && !u->name_dir)
    return engine_fail(
        error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The directory of the relative socket address %s is not known", name);
  g_autofree char *path = relative ? g_strdup_printf("%s/%s", u->name_dir, name) : g_strdup(name);
  if (!clear_way(path, error))
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
  if (bind(fd, (const struct sockaddr *)&address, size) == 0)
    return true;
  g_autofree char *text = unix_name_text(u->name.data, u->name.len);
  return engine_fail_errno(error, errno == EADDRINUSE ? ENGINE_ERROR_CODE__BUSY : ENGINE_ERROR_CODE__FAILED, errno,
      "Cannot bind a socket to %s", text);
}

/* --- sockets of their own --- */

/* Datagrams that are queued in a bound socket come from a nameless one. */
static bool fill_bound(Restorer *r, const UnixSkEntry *u, GError **error) {
  UnixAddress address;
  uint32_t size = unix_address(&address, u->name.data, u->name.len);
  if (u->type != SOCK_DGRAM || !u->name.len || (u->has_deleted && u->deleted))
    return true;
  if (unix_has_path(u) && u->name.data[0] != '/')
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "Datagrams queued in a socket with a relative address cannot be restored yet");
  _cleanup_fd_ int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return unix_queue_restore(r, u->id, sender, &address, size, error);
}

/* A datagram socket of the tree, which must be bound first. */
static bool connect_to(Restorer *r, const UnixSkEntry *peer, int fd, GError **error) {
  g_autofree char *text = unix_name_text(peer->name.data, peer->name.len);
  UnixAddress address;
  uint32_t size = unix_address(&address, peer->name.data, peer->name.len);
  const FileEntry *entry = checkpoint_find_file(restorer_checkpoint(r), peer->id);
  if (!entry)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The socket %s has no file id", text);
  if (restorer_fd_of(r, entry->id, error) < 0)
    return false;
  _cleanup_fd_ int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (peer->name_dir && (here < 0 || chdir(peer->name_dir) < 0))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot enter %s", peer->name_dir);
  int connected = connect(fd, (const struct sockaddr *)&address, size), reason = errno;
  if (peer->name_dir && fchdir(here) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot go back from %s", peer->name_dir);
  return connected == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, reason,
                               "Cannot connect a datagram socket to %s", text);
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

static bool make_single(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *peer, GError **error) {
  if (u->state == UNIX_LISTEN && u->name.len && !unix_has_path(u) && !make_accepted(r, u, error))
    return false;
  int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket of type %u", u->type);
  put_socket(r, u->ino, fd);
  if (!bind_address(r, u, fd, error))
    return false;
  if (u->state == UNIX_LISTEN && listen(fd, (int)u->backlog) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot listen at a unix socket");
  if (!fill_bound(r, u, error) || (peer && !connect_to(r, peer, fd, error)))
    return false;
  return shut_down(u, fd, error);
}

/* Connected to a listener of the tree that has not accepted yet. */
static bool make_waiting(Restorer *r, const UnixSkEntry *u, const UnixSkEntry *listener, GError **error) {
  int fd = socket(AF_UNIX, (int)u->type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket of type %u", u->type);
  put_socket(r, u->ino, fd);
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
  if (peer && peer->peer == u->ino && peer != u && peer->type == u->type)
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
  if (answer.action == EXTERNAL_RECONNECT || answer.action == EXTERNAL_DBUS)
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
  if (!sockopts_restore(fd, u->opts, error) || !restorer_set_flags(fd, u->flags, error))
    return -1;
  return fd_take(&fd);
}

bool unix_program(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error) {
  if (entry->usk->state != UNIX_LISTEN)
    return true;
  /* Who listened last is whom clients see (SO_PEERCRED). */
  PROGRAM_CALL(p, "listen", SYS_listen, ARG(fd), ARG(entry->usk->backlog));
  program_expect(p, EXPECT_OK, 0);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Unix sockets, the dump's side. What the socket itself cannot tell (its peer, the name of the peer, how many
 * connections wait) comes from sock_diag, asked once for all. Whether both ends of a connection are in the tree is
 * known at the end; a connection that leads out of it blocks, but a datagram socket that was connected to a name
 * (syslog) is connected to that name again. */

#include "external.h"
#include "unix.h"
#include "sockopts.h"
#include "unix-diag.h"
#include "unix-queue.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89E0 /* SIOCPROTOPRIVATE + 0 */
#endif
#define DELETED " (deleted)"

typedef struct UnixSeen {
  GHashTable *diag;   /* inode -> UnixDiag, NULL before the first socket */
  GHashTable *by_ino;  /* inode -> file id */
  GHashTable *outside; /* the same for entries of sockets that are not in the tree */
  GArray *ids;        /* file ids in the order they were seen */
  GHashTable *queues;  /* file id -> GPtrArray of UnixPacket */
} UnixSeen;

static gpointer seen_new(void) {
  UnixSeen *s = g_new0(UnixSeen, 1);
  s->by_ino = g_hash_table_new(NULL, NULL);
  s->outside = g_hash_table_new(NULL, NULL);
  s->ids = g_array_new(FALSE, FALSE, sizeof(guint32));
  s->queues = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
  return s;
}

static void seen_free(gpointer data) {
  UnixSeen *s = data;
  g_clear_pointer(&s->diag, g_hash_table_unref);
  g_hash_table_unref(s->by_ino);
  g_hash_table_unref(s->outside);
  g_array_unref(s->ids);
  g_hash_table_unref(s->queues);
  g_free(s);
}

static UnixSeen *seen_of(Collector *c) {
  return collector_state(c, &unix_ops, seen_new, seen_free);
}

char *unix_name_text(const uint8_t *name, size_t size) {
  if (!size)
    return g_strdup("unnamed");
  if (name[0])
    return g_strndup((const char *)name, size);
  g_autofree char *abstract = g_strndup((const char *)name + 1, size - 1);
  g_autofree char *valid = g_utf8_make_valid(abstract, -1);
  return g_strdup_printf("@%s", valid);
}

static bool unix_claims(const FileProbe *probe) {
  return S_ISSOCK(probe->st.st_mode) && probe->st.st_dev == kernel_devs()->sockets && !(probe->flags & O_PATH) &&
         sockopt_get(probe->local, SOL_SOCKET, SO_DOMAIN, -1) == AF_UNIX;
}

/* An accepted connection has the name of the listener it came through, and no file of its own. */
static bool has_own_file(const UnixSkEntry *u) {
  return u->type == SOCK_DGRAM || u->state != UNIX_ESTABLISHED;
}

static bool is_mounted_apart(const Collector *c, int fd) {
  struct statx sx = {0};
  return ns_set_size(collector_namespaces(c)) && statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) == 0 &&
         ns_set_of_mount(collector_namespaces(c), sx.stx_mask & STATX_MNT_ID ? sx.stx_mnt_id : 0);
}

/* A socket's file that lost the name it was bound by and has another: servers that bind a name of their own first give it the known one
 * by link(2), in the same directory. Its path, newly allocated; NULL: it is not there. */
static char *find_other_name(const char *lost, const struct stat *st) {
  g_autofree char *directory = g_path_get_dirname(lost);
  char *found = NULL;
  DIR *dir = opendir(directory);
  for (const struct dirent *e; dir && !found && (e = readdir(dir));) {
    struct stat there;
    if (e->d_ino == st->st_ino && fstatat(dirfd(dir), e->d_name, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_dev == st->st_dev &&
        there.st_ino == st->st_ino)
      found = g_build_filename(directory, e->d_name, NULL);
  }
  if (dir)
    (void)closedir(dir);
  return found;
}

/* The file of a bound socket: its owner and mode, whether it is still there, where a relative name began, and where it is now if
 * it was renamed, or its task sees another root. */
static void collect_file(Collector *c, UnixSkEntry *u, const FileProbe *probe) {
  _cleanup_fd_ int fd = ioctl(probe->local, SIOCUNIXFILE);
  struct stat st;
  char link[4200];
  if (fd < 0 || fstat(fd, &st) < 0 || !probe_readlink(fd, link, sizeof link, NULL))
    return;
  if (is_mounted_apart(c, fd)) {
    g_autofree char *what = g_strdup_printf("unix socket (%s)", link);
    collector_block(c, probe, what, "it is bound in a mount namespace of the tree's own, where that cannot be done again yet",
        "have it bind an abstract name, or a path of a directory that is mounted outside before that namespace is made");
  }
  u->file_perms = MESSAGE_NEW(FilePermsEntry, file_perms_entry__init);
  u->file_perms->mode = st.st_mode;
  u->file_perms->uid = st.st_uid;
  u->file_perms->gid = st.st_gid;
  if (g_str_has_suffix(link, DELETED) && st.st_nlink == 0) {
    u->has_deleted = u->deleted = true;
    link[strlen(link) - strlen(DELETED)] = '\0';
  }
  struct stat there;
  if (!u->deleted && has_own_file(u) && g_str_has_suffix(link, DELETED) && lstat(link, &there) < 0) {
    g_autofree char *other = find_other_name(link, &st);
    if (other)
      socket_extra(collector_checkpoint(c), u->id)->path = g_steal_pointer(&other);
    else
      collector_block(c, probe, "unix socket", "its file has lost the name that it was bound by, and its other names are not known",
          "have it bind the name by which it is to be found");
    return;
  }
  g_autofree char *name = g_strndup((const char *)u->name.data, u->name.len);
  g_autofree char *tail = g_strdup_printf("/%s", g_str_has_prefix(name, "./") ? name + 2 : name);
  if (name[0] != '/' && g_str_has_suffix(link, tail)) {
    size_t length = strlen(link) - strlen(tail);
    u->name_dir = length ? g_strndup(link, length) : g_strdup("/");
    return;
  }
  bool as_named = name[0] == '/' && stat(name, &there) == 0 && there.st_dev == st.st_dev && there.st_ino == st.st_ino;
  if (!as_named && !u->deleted && has_own_file(u))
    socket_extra(collector_checkpoint(c), u->id)->path = g_strdup(link);
}

/* Who made the pair, connected or listened. */
static void collect_peer(Collector *c, const UnixSkEntry *u, int fd) {
  struct ucred cred = {0};
  socklen_t size = sizeof cred;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0 || cred.pid <= 0)
    return;
  CkptCred *p = MESSAGE_NEW(CkptCred, ckpt_cred__init);
  p->pid = (guint32)cred.pid;
  p->uid = cred.uid;
  p->gid = cred.gid;
  gid_t none;
  size = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, &none, &size) < 0 && errno == ERANGE && size) {
    p->group = g_malloc0(size);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, p->group, &size) == 0)
      p->n_group = size / sizeof(gid_t);
  }
  socket_extra(collector_checkpoint(c), u->id)->peer = p;
}

static UnixSkEntry *entry_new(const FileProbe *probe, const UnixDiag *d, guint32 id) {
  UnixSkEntry *u = MESSAGE_NEW(UnixSkEntry, unix_sk_entry__init);
  u->id = id;
  u->ino = (guint32)probe->st.st_ino;
  u->type = d->type;
  u->state = d->state;
  u->flags = (guint32)probe->flags;
  u->backlog = d->wqueue;
  u->peer = d->peer;
  u->fown = collector_fown(probe);
  gsize size = 0;
  gconstpointer name = d->name ? g_bytes_get_data(d->name, &size) : NULL;
  u->name.len = size;
  u->name.data = size ? g_memdup2(name, size) : NULL;
  u->has_shutdown = d->shutdown != 0;
  u->shutdown = (SkShutdown)(d->shutdown & 3);
  return u;
}

static bool unix_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  UnixSeen *s = seen_of(c);
  if (!s->diag && !(s->diag = unix_diag_all(collector_places(c), error)))
    return false;
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER((guint32)probe->st.st_ino));
  if (!d) {
    collector_block(c, probe, "unix socket", "it belongs to another network namespace",
        "dump from the process on that made the namespace");
    return true;
  }
  entry->usk = entry_new(probe, d, entry->id);
  entry->usk->opts = sockopts_collect(probe->local, AF_UNIX, 0, error);
  if (!entry->usk->opts)
    return false;
  if (unix_has_path(entry->usk))
    collect_file(c, entry->usk, probe);
  collect_peer(c, entry->usk, probe->local);
  sockopts_collect_more(c, entry->id, probe->local, false);
  sockopts_check(c, probe, "unix socket");
  g_hash_table_insert(s->by_ino, GUINT_TO_POINTER(d->ino), GUINT_TO_POINTER(entry->id));
  g_array_append_val(s->ids, entry->id);
  return true;
}

/* --- the view of the whole tree --- */

static const char *type_text(guint32 type) {
  return type == SOCK_STREAM ? "stream" : type == SOCK_DGRAM ? "datagram" : "seqpacket";
}

static void block(Collector *c, const UnixSkEntry *u, const char *reason, const char *cure) {
  FileProbe probe;
  if (!collector_probe_of(c, u->id, &probe))
    return;
  g_autofree char *name = unix_name_text(u->name.data, u->name.len);
  g_autofree char *what = g_strdup_printf("unix %s socket (%s)", type_text(u->type), name);
  collector_block(c, &probe, what, reason, cure);
}

/* Who holds the other end. SO_PEERCRED of a connected socket says who listened or connected; datagrams have none, so the
 * holder's own ids are taken. */
static void describe_holder(Collector *c, const UnixSkEntry *u, ExternalObject *o, char **ret_comm) {
  struct ucred cred;
  socklen_t size = sizeof cred;
  if (getsockopt(o->local, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid > 0) {
    o->sock.peer_known = true;
    o->sock.peer_pid = cred.pid;
    o->sock.peer_uid = cred.uid;
    o->sock.peer_gid = cred.gid;
  }
  g_autofree char *link = g_strdup_printf("socket:[%u]", u->peer);
  pid_t holder = u->peer ? outside_holder(c, link, 0, ret_comm) : 0;
  o->sock.peer_comm = *ret_comm;
  if (!holder)
    return;
  struct stat st;
  g_autofree char *path = g_strdup_printf("/proc/%d", (int)holder);
  o->sock.peer_pid = holder;
  if (!o->sock.peer_known && stat(path, &st) == 0) {
    o->sock.peer_known = true;
    o->sock.peer_uid = st.st_uid;
    o->sock.peer_gid = st.st_gid;
  }
}

static void describe_socket(const UnixSkEntry *u, GBytes *peer_name, ExternalObject *o) {
  int unread = 0;
  o->sock.type = (int)u->type;
  o->sock.state = u->state;
  o->sock.ino = u->ino;
  o->sock.peer_ino = u->peer;
  o->sock.name = u->name.data;
  o->sock.name_size = u->name.len;
  if (peer_name)
    o->sock.peer_name = g_bytes_get_data(peer_name, &o->sock.peer_name_size);
  if (ioctl(o->local, FIONREAD, &unread) == 0 && unread > 0)
    o->sock.unread = (guint32)unread;
}

/* The address that the peer can be reached at. */
static GBytes *peer_name_of(const FileProbe *probe) {
  struct sockaddr_un address;
  socklen_t size = sizeof address, header = offsetof(struct sockaddr_un, sun_path);
  if (getpeername(probe->local, (struct sockaddr *)&address, &size) < 0 || size <= header)
    return NULL;
  return g_bytes_new(address.sun_path, MIN(size, sizeof address) - header);
}

static bool ask_about_peer(Collector *c, const UnixSkEntry *u, GBytes *peer_name, const FileProbe *probe,
    ExternalClaim *ret_claim, GError **error) {
  ExternalObject o = external_of_probe(EXTERNAL_UNIX, probe, u->id);
  g_autofree char *comm = NULL;
  describe_socket(u, peer_name, &o);
  describe_holder(c, u, &o, &comm);
  g_autofree char *name = unix_name_text(u->name.data, u->name.len);
  g_autofree char *peer = unix_name_text(o.sock.peer_name, o.sock.peer_name_size);
  bool at = u->name.len || !o.sock.peer_name_size;
  g_autofree char *what = g_strdup_printf("unix %s socket (%s%s)", type_text(u->type), at ? "" : "to ", at ? name : peer);
  g_autofree char *reason = comm ? g_strdup_printf("its peer is pid %d (%s), outside the tree", (int)o.sock.peer_pid, comm)
                                 : g_strdup("its peer is another process, outside the tree");
  o.what = what;
  o.reason = reason;
  o.cure = peer_name
               ? "end that connection before the dump, dump from their common parent on, or say what to do with it by a rule "
                 "(external: action=reconnect or close) or a plugin"
               : "end that connection before the dump, dump from their common parent on, or say what to do with it by a rule "
                 "(external: action=close) or a plugin";
  return collector_external(c, &o, ret_claim, error);
}

/* An entry for the socket outside, as the images have it: it is not restored, only its address is used. */
static void add_external(Collector *c, UnixSeen *s, const UnixSkEntry *u, const guint8 *name, gsize size) {
  if (g_hash_table_contains(s->outside, GUINT_TO_POINTER(u->peer)))
    return;
  FileEntry *entry = MESSAGE_NEW(FileEntry, file_entry__init);
  entry->type = FD_TYPES__UNIXSK;
  entry->id = collector_new_file_id(c);
  UnixSkEntry *e = entry->usk = MESSAGE_NEW(UnixSkEntry, unix_sk_entry__init);
  e->id = entry->id;
  e->ino = u->peer;
  e->type = u->type;
  e->state = u->type == SOCK_DGRAM ? UNIX_CLOSE : UNIX_LISTEN;
  e->flags = O_RDWR;
  e->uflags = UNIX_EXTERNAL;
  e->name.len = size;
  e->name.data = g_memdup2(name, size);
  e->fown = fown_none();
  e->opts = MESSAGE_NEW(SkOptsEntry, sk_opts_entry__init);
  checkpoint_add_file(collector_checkpoint(c), entry);
  g_hash_table_insert(s->outside, GUINT_TO_POINTER(e->ino), GUINT_TO_POINTER(entry->id));
}

static void keep_claim(Collector *c, UnixSeen *s, UnixSkEntry *u, GBytes *name, ExternalAction action) {
  gsize size = 0;
  const guint8 *data = name ? g_bytes_get_data(name, &size) : NULL;
  if (action == EXTERNAL_PLUGIN)
    u->uflags |= UNIX_CALLBACK;
  else if (action == EXTERNAL_CLOSE)
    u->peer = 0; /* as if the other side had closed it */
  else if ((action == EXTERNAL_RECONNECT || action == EXTERNAL_DBUS) && size)
    add_external(c, s, u, data, size);
}

typedef enum PeerState { PEER_ERROR, PEER_BLOCKS, PEER_INSIDE, PEER_OUTSIDE } PeerState;

/* The other end is not in the tree: somebody must have an answer, or it blocks. PEER_INSIDE: what is queued in it can be
 * given back. */
static PeerState collect_outside(Collector *c, UnixSeen *s, UnixSkEntry *u, GError **error) {
  FileProbe probe;
  g_auto(ExternalClaim) claim = {0};
  if (!collector_probe_of(c, u->id, &probe)) {
    engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The unix socket of file id %u is gone", u->id);
    return PEER_ERROR;
  }
  g_autoptr(GBytes) name = peer_name_of(&probe);
  if (!ask_about_peer(c, u, name, &probe, &claim, error))
    return PEER_ERROR;
  if (claim.action == EXTERNAL_NOBODY)
    return PEER_BLOCKS;
  keep_claim(c, s, u, name, claim.action);
  bool queue = claim.action == EXTERNAL_CLOSE || (claim.action == EXTERNAL_RECONNECT && u->type == SOCK_DGRAM);
  return queue ? PEER_INSIDE : PEER_OUTSIDE;
}

static bool leaves_out(Collector *c) {
  return job_options(collector_job(c))->skip_in_flight;
}

/* Of a connection that nobody has accepted: what was sent lies in a socket that nobody can look into. */
static bool has_sent(Collector *c, guint32 file_id) {
  int sent = 0;
  return ioctl(collector_local_of(c, file_id), SIOCOUTQ, &sent) < 0 || sent > 0;
}

/* Connected, and not accepted yet: the images have the listening socket as its peer. */
static PeerState collect_waiting(Collector *c, UnixSeen *s, UnixSkEntry *u, guint32 listener, GError **error) {
  if (!listener) {
    block(c, u, "its connection is in the middle of being made or ended", "try again in a moment");
    return PEER_BLOCKS;
  }
  u->peer = listener;
  if (!g_hash_table_contains(s->by_ino, GUINT_TO_POINTER(listener)))
    return collect_outside(c, s, u, error);
  if (!has_sent(c, u->id))
    return PEER_INSIDE;
  if (leaves_out(c)) {
    u->peer = 0; /* as if the other side had closed it */
    return PEER_INSIDE;
  }
  block(c, u, "it has sent data on a connection that the other side has not accepted yet",
      "try again in a moment, or use the option skip-in-flight to have it closed");
  return PEER_BLOCKS;
}

static PeerState check_peer(Collector *c, UnixSeen *s, UnixSkEntry *u, GError **error) {
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->ino));
  bool connected = u->type != SOCK_DGRAM && u->state == UNIX_ESTABLISHED;
  if (connected && !u->peer && u->shutdown != SK_SHUTDOWN__BOTH)
    return collect_waiting(c, s, u, d->waits_at, error);
  if (!u->peer || g_hash_table_contains(s->by_ino, GUINT_TO_POINTER(u->peer)))
    return PEER_INSIDE;
  return collect_outside(c, s, u, error);
}

/* Clients of the tree are connected again, in their order. What others have sent is lost with their connection. */
static void check_waiting(Collector *c, const UnixSeen *s, const UnixSkEntry *u, const UnixDiag *d) {
  guint strange = d->waiting ? 0 : d->rqueue;
  for (guint i = 0; d->waiting && i < d->waiting->len; i++) {
    gpointer ino = GUINT_TO_POINTER(g_array_index(d->waiting, guint32, i));
    guint32 id = GPOINTER_TO_UINT(g_hash_table_lookup(s->by_ino, ino));
    strange += !id;
    if (!id || has_sent(c, id)) /* its own blocker */
      continue;
    CkptSocket *extra = socket_extra(collector_checkpoint(c), u->id);
    extra->waiting = g_renew(uint32_t, extra->waiting, extra->n_waiting + 1);
    extra->waiting[extra->n_waiting++] = id;
  }
  g_autofree char *reason =
      g_strdup_printf("%u connections from outside the tree, or closed again, wait to be accepted", strange);
  if (strange && !leaves_out(c))
    block(c, u, reason, "try again in a moment, or use the option skip-in-flight to leave them out");
}

static bool is_from(const UnixPacket *packet, GBytes *name) {
  return !packet->sender || (name && g_bytes_equal(packet->sender, name));
}

/* Packets go back into a pair through its other end; into any other socket by its address. */
static bool collect_queue(Collector *c, const UnixSeen *s, const UnixSkEntry *u, GError **error) {
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->ino));
  const UnixDiag *peer = d && d->peer ? g_hash_table_lookup(s->diag, GUINT_TO_POINTER(d->peer)) : NULL;
  const GPtrArray *packets = g_hash_table_lookup(s->queues, GUINT_TO_POINTER(u->id));
  bool inside = peer && g_hash_table_contains(s->by_ino, GUINT_TO_POINTER(peer->ino));
  bool mutual = inside && peer->peer == u->ino, closed = d && d->peer && !u->peer;
  bool pair = u->type != SOCK_DGRAM || mutual || closed || (u->state == UNIX_ESTABLISHED && !u->peer && !u->name.len);
  bool strangers = false;
  for (guint i = 0; packets && i < packets->len; i++)
    strangers |= !is_from(packets->pdata[i], peer ? peer->name : NULL);
  if (!packets || !packets->len)
    return true;
  if (u->type == SOCK_DGRAM && !u->name.len && (!pair || strangers))
    block(c, u, "datagrams are queued in it, and it has no address to send them to again", "try again in a moment");
  else if (strangers && (closed || (mutual && !peer->name)))
    block(c, u, "datagrams of other named sockets are queued in it", "try again in a moment");
  else
    unix_queue_note(c, u->id, packets, u->type == SOCK_DGRAM && (!pair || strangers));
  return true;
}

static bool finish_one(Collector *c, UnixSeen *s, guint32 id, GError **error) {
  const FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), id);
  if (!entry || !entry->usk)
    return true;
  UnixSkEntry *u = entry->usk;
  u->ns_id = collector_net_ns_of(c, id);
  u->has_ns_id = u->ns_id != 0;
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->ino));
  if (u->state == UNIX_LISTEN) {
    check_waiting(c, s, u, d);
    return true;
  }
  PeerState state = check_peer(c, s, u, error);
  return state == PEER_INSIDE ? collect_queue(c, s, u, error) : state != PEER_ERROR;
}

/* What lies in the queues, and in those of sockets that lie in queues. */
static bool unix_collect_flight(Collector *c, GError **error) {
  UnixSeen *s = seen_of(c);
  for (guint i = 0; i < s->ids->len; i++) { /* grows */
    guint32 id = g_array_index(s->ids, guint32, i);
    const FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), id);
    FileProbe probe;
    if (!entry || !entry->usk || entry->usk->state == UNIX_LISTEN)
      continue;
    if (!unix_queue_has_any(collector_local_of(c, id))) {
      collector_drop_local(c, id);
      continue;
    }
    if (!collector_probe_of(c, id, &probe))
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The unix socket of file id %u is gone", id);
    if (!entry->usk->peer && entry->usk->type != SOCK_DGRAM && unix_queue_is_reset(probe.local)) {
      CkptSocket *extra = socket_extra(collector_checkpoint(c), id);
      extra->has_reset = extra->reset = true;
    }
    GPtrArray *packets = unix_queue_peek(c, &probe, probe.local, (int)entry->usk->type, error);
    if (!packets)
      return false;
    g_hash_table_insert(s->queues, GUINT_TO_POINTER(id), packets);
    if (entry->usk->type == SOCK_STREAM && unix_queue_has_urgent(probe.local))
      block(c, entry->usk, "urgent data (MSG_OOB) has not been read", "try again in a moment");
    collector_drop_local(c, id);
    if (i % 64 == 63 && !job_poll(collector_job(c), error))
      return false;
  }
  return true;
}

static bool unix_collect_finish(Collector *c, GError **error) {
  UnixSeen *s = seen_of(c);
  for (guint i = 0; i < s->ids->len; i++) {
    guint32 id = g_array_index(s->ids, guint32, i);
    if (!finish_one(c, s, id, error))
      return false;
    collector_drop_local(c, id);
    if (i % 64 == 63 && !job_poll(collector_job(c), error))
      return false;
  }
  return true;
}

static const FownEntry *unix_fown(const FileEntry *entry) {
  return entry->usk ? entry->usk->fown : NULL;
}

const ObjectOps unix_ops = {
    .name = "unix socket",
    .type = FD_TYPES__UNIXSK,
    .claims = unix_claims,
    .collect = unix_collect,
    .collect_flight = unix_collect_flight,
    .collect_finish = unix_collect_finish,
    .open = unix_open,
    .settle = unix_settle,
    .program = unix_program,
    .fown = unix_fown,
};

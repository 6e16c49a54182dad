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
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89E0 /* SIOCPROTOPRIVATE + 0 */
#endif
#define DELETED " (deleted)"

typedef struct UnixSeen {
  GHashTable *diag;   /* inode -> UnixDiag, NULL before the first socket */
  GHashTable *by_ino; /* inode -> file id */
  GArray *ids;        /* file ids in the order they were seen */
} UnixSeen;

static gpointer seen_new(void) {
  UnixSeen *s = g_new0(UnixSeen, 1);
  s->by_ino = g_hash_table_new(NULL, NULL);
  s->ids = g_array_new(FALSE, FALSE, sizeof(guint32));
  return s;
}

static void seen_free(gpointer data) {
  UnixSeen *s = data;
  g_clear_pointer(&s->diag, g_hash_table_unref);
  g_hash_table_unref(s->by_ino);
  g_array_unref(s->ids);
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

/* The file of a bound socket: its owner and mode, whether it is still there, and where a relative name began. */
static void collect_file(UnixSkEntry *u, const FileProbe *probe) {
  _cleanup_fd_ int fd = ioctl(probe->local, SIOCUNIXFILE);
  struct stat st;
  char link[4200];
  if (fd < 0 || fstat(fd, &st) < 0 || !probe_readlink(fd, link, sizeof link, NULL))
    return;
  u->file_perms = MESSAGE_NEW(FilePermsEntry, file_perms_entry__init);
  u->file_perms->mode = st.st_mode;
  u->file_perms->uid = st.st_uid;
  u->file_perms->gid = st.st_gid;
  if (g_str_has_suffix(link, DELETED) && st.st_nlink == 0) {
    u->has_deleted = u->deleted = true;
    link[strlen(link) - strlen(DELETED)] = '\0';
  }
  g_autofree char *name = g_strndup((const char *)u->name.data, u->name.len);
  g_autofree char *tail = g_strdup_printf("/%s", g_str_has_prefix(name, "./") ? name + 2 : name);
  if (name[0] == '/' || !g_str_has_suffix(link, tail))
    return;
  size_t length = strlen(link) - strlen(tail);
  u->name_dir = length ? g_strndup(link, length) : g_strdup("/");
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
  if (!s->diag && !(s->diag = unix_diag_all(error)))
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
    collect_file(entry->usk, probe);
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

/* Who holds the other end, from SO_PEERCRED: of a connected stream socket the one who listened or connected. */
static void describe_peer(const UnixSeen *s, const UnixSkEntry *u, ExternalObject *o) {
  const UnixDiag *peer = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->peer));
  o->sock.type = (int)u->type;
  o->sock.state = u->state;
  o->sock.ino = u->ino;
  o->sock.peer_ino = u->peer;
  o->sock.name = u->name.data;
  o->sock.name_size = u->name.len;
  if (peer && peer->name)
    o->sock.peer_name = g_bytes_get_data(peer->name, &o->sock.peer_name_size);
  struct ucred cred;
  socklen_t size = sizeof cred;
  if (getsockopt(o->local, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid > 0) {
    o->sock.peer_known = true;
    o->sock.peer_pid = cred.pid;
    o->sock.peer_uid = cred.uid;
    o->sock.peer_gid = cred.gid;
  }
}

static bool ask_about_peer(Collector *c, const UnixSeen *s, UnixSkEntry *u, ExternalClaim *ret_claim, GError **error) {
  FileProbe probe;
  if (!collector_probe_of(c, u->id, &probe))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The unix socket of file id %u is gone", u->id);
  ExternalObject o = external_of_probe(EXTERNAL_UNIX, &probe, u->id);
  describe_peer(s, u, &o);
  g_autofree char *link = g_strdup_printf("socket:[%u]", u->peer);
  g_autofree char *comm = NULL;
  pid_t holder = outside_holder(c, link, 0, &comm);
  if (holder)
    o.sock.peer_pid = holder;
  o.sock.peer_comm = comm;
  g_autofree char *name = unix_name_text(u->name.data, u->name.len);
  g_autofree char *what = g_strdup_printf("unix %s socket (%s)", type_text(u->type), name);
  g_autofree char *reason = holder ? g_strdup_printf("its peer is pid %d (%s), outside the tree", (int)holder, comm)
                                   : g_strdup("its peer is another process, outside the tree");
  o.what = what;
  o.reason = reason;
  o.cure = "end that connection before the dump, dump from their common parent on, or use a plugin for it";
  return collector_external(c, &o, ret_claim, error);
}

/* The other end is not in the tree: somebody must have an answer, or it blocks. */
static bool collect_outside(Collector *c, const UnixSeen *s, UnixSkEntry *u, GError **error) {
  g_auto(ExternalClaim) claim = {0};
  if (!ask_about_peer(c, s, u, &claim, error))
    return false;
  if (claim.action == EXTERNAL_PLUGIN)
    u->uflags |= UNIX_CALLBACK;
  return true;
}

/* A socket outside that datagrams go to by name: an entry of its own, marked as external. */
static bool add_external(Collector *c, const UnixSeen *s, const UnixSkEntry *u) {
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->peer));
  if (!d || !d->name || d->type != SOCK_DGRAM)
    return false;
  gsize size = 0;
  const guint8 *name = g_bytes_get_data(d->name, &size);
  if (!size || (name[0] && name[0] != '/'))
    return false;
  if (g_hash_table_contains(s->by_ino, GUINT_TO_POINTER(d->ino)))
    return true;
  FileEntry *entry = MESSAGE_NEW(FileEntry, file_entry__init);
  entry->type = FD_TYPES__UNIXSK;
  entry->id = collector_new_file_id(c);
  FileProbe nobody = {.flags = O_RDWR | O_PATH, .st.st_ino = d->ino};
  entry->usk = entry_new(&nobody, d, entry->id);
  entry->usk->flags = O_RDWR;
  entry->usk->uflags = UNIX_EXTERNAL;
  entry->usk->peer = 0;
  entry->usk->opts = MESSAGE_NEW(SkOptsEntry, sk_opts_entry__init);
  checkpoint_add_file(collector_checkpoint(c), entry);
  g_hash_table_insert(s->by_ino, GUINT_TO_POINTER(d->ino), GUINT_TO_POINTER(entry->id));
  return true;
}

typedef enum PeerState { PEER_ERROR, PEER_BLOCKS, PEER_INSIDE, PEER_OUTSIDE } PeerState;

static PeerState check_peer(Collector *c, const UnixSeen *s, UnixSkEntry *u, GError **error) {
  bool connected = u->type != SOCK_DGRAM && u->state == UNIX_ESTABLISHED;
  if (connected && !u->peer && u->shutdown != SK_SHUTDOWN__BOTH) {
    block(c, u, "its connection was not accepted by the other side yet", "try again in a moment");
    return PEER_BLOCKS;
  }
  if (!u->peer || g_hash_table_contains(s->by_ino, GUINT_TO_POINTER(u->peer)))
    return PEER_INSIDE;
  if (u->type == SOCK_DGRAM && add_external(c, s, u))
    return PEER_INSIDE;
  return collect_outside(c, s, u, error) ? PEER_OUTSIDE : PEER_ERROR;
}

static bool collect_queue(Collector *c, const UnixSeen *s, const UnixSkEntry *u, GError **error) {
  const UnixDiag *peer = u->peer ? g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->peer)) : NULL;
  int fd = collector_local_of(c, u->id);
  switch (unix_queue_collect(c, u->id, fd, (int)u->type, peer ? peer->name : NULL, error)) {
  case QUEUE_ERROR:
    return false;
  case QUEUE_RIGHTS:
    block(c, u, "file descriptors are on the way in it", "try again in a moment");
    break;
  case QUEUE_SENDER:
    block(c, u, "datagrams of other named sockets are queued in it", "try again in a moment");
    break;
  case QUEUE_DONE:
    if (u->deleted && u->state == UNIX_CLOSE)
      block(c, u, "datagrams are queued in it and its file is gone", "try again in a moment");
    break;
  default:
    break;
  }
  return true;
}

static bool finish_one(Collector *c, const UnixSeen *s, guint32 id, GError **error) {
  const FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), id);
  if (!entry || !entry->usk)
    return true;
  UnixSkEntry *u = entry->usk;
  u->ns_id = collector_net_ns_of(c, id);
  u->has_ns_id = u->ns_id != 0;
  const UnixDiag *d = g_hash_table_lookup(s->diag, GUINT_TO_POINTER(u->ino));
  if (u->state == UNIX_LISTEN) {
    g_autofree char *reason = g_strdup_printf("%u connections wait to be accepted", d->rqueue);
    if (d->rqueue)
      block(c, u, reason, "try again in a moment");
    return true;
  }
  PeerState state = check_peer(c, s, u, error);
  return state == PEER_INSIDE ? collect_queue(c, s, u, error) : state != PEER_ERROR;
}

static bool unix_collect_finish(Collector *c, GError **error) {
  const UnixSeen *s = seen_of(c);
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
    .collect_finish = unix_collect_finish,
    .open = unix_open,
    .program = unix_program,
    .fown = unix_fown,
};

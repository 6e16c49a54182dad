/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "describe-file.h"
#include "memfd.pb-c.h"
#include "remap-file-path.pb-c.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

/* As in the kernel's tcp_states.h; unix sockets use them too. */
enum { STATE_ESTABLISHED = 1, STATE_LISTEN = 10 };

typedef char *(*Teller)(const Checkpoint *c, const FileEntry *file);

/* --- files with a path --- */

static bool is_deleted(const Checkpoint *c, guint32 id) {
  const GPtrArray *remaps = c->records[RECORD_REMAP];
  for (guint i = 0; i < remaps->len; i++)
    if (((const RemapFilePathEntry *)((const Record *)remaps->pdata[i])->message)->orig_id == id)
      return true;
  return false;
}

static char *reg_type(const Checkpoint *c, const FileEntry *file) {
  mode_t mode = file->reg->has_mode ? file->reg->mode : S_IFREG;
  if (S_ISDIR(mode))
    return g_strdup("directory");
  return g_strdup(S_ISCHR(mode) || S_ISBLK(mode) ? "device" : S_ISFIFO(mode) ? "fifo" : "file");
}

static char *reg_path(const Checkpoint *c, const FileEntry *file) {
  return g_strconcat(file->reg->name, is_deleted(c, file->id) ? " (deleted)" : NULL, NULL);
}

/* The path of a file whose name is that of a second entry, or @or. */
static char *path_of_second(const Checkpoint *c, bool has_id, guint32 id, const char * or) {
  const FileEntry *second = has_id ? checkpoint_find_file(c, id) : NULL;
  return second && second->reg ? reg_path(c, second) : g_strdup(or);
}

static char *fifo_path(const Checkpoint *c, const FileEntry *file) {
  return path_of_second(c, file->fifo->has_regf_id, file->fifo->regf_id, "");
}

static char *tty_path(const Checkpoint *c, const FileEntry *file) {
  return path_of_second(c, file->tty->has_regf_id, file->tty->regf_id, "");
}

static char *pipe_path(const Checkpoint *c, const FileEntry *file) {
  return g_strdup_printf("pipe:%u", file->pipe->pipe_id);
}

static char *memfd_path(const Checkpoint *c, const FileEntry *file) {
  const GPtrArray *records = c->records[RECORD_MEMFD];
  for (guint i = 0; i < records->len; i++) {
    const MemfdInodeEntry *inode = (const MemfdInodeEntry *)((const Record *)records->pdata[i])->message;
    if (inode->inode_id == file->memfd->inode_id)
      return g_strconcat("memfd:", inode->name, NULL);
  }
  return g_strdup("");
}

/* --- sockets --- */

static char *inet_type(const Checkpoint *c, const FileEntry *file) {
  const char *six = file->isk->family == AF_INET6 ? "6" : "";
  switch (file->isk->proto) {
  case IPPROTO_TCP:
    return g_strconcat("tcp", six, NULL);
  case IPPROTO_UDP:
    return g_strconcat("udp", six, NULL);
  case IPPROTO_UDPLITE:
    return g_strconcat("udplite", six, NULL);
  case IPPROTO_ICMP:
  case IPPROTO_ICMPV6:
    return g_strconcat("icmp", six, NULL);
  default:
    return g_strconcat("ip", six, NULL);
  }
}

static char *inet_address(guint32 family, size_t n, const guint32 *words, guint32 port) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (n >= (family == AF_INET6 ? 4 : 1))
    (void)inet_ntop((int)family, words, text, sizeof text);
  return g_strdup_printf(family == AF_INET6 ? "[%s]:%u" : "%s:%u", text, port);
}

static char *inet_path(const Checkpoint *c, const FileEntry *file) {
  const InetSkEntry *i = file->isk;
  g_autofree char *from = inet_address(i->family, i->n_src_addr, i->src_addr, i->src_port);
  g_autofree char *to = inet_address(i->family, i->n_dst_addr, i->dst_addr, i->dst_port);
  if (i->dst_port)
    return g_strconcat(from, " -> ", to, NULL);
  if (i->state == STATE_LISTEN)
    return g_strconcat("listening ", from, NULL);
  return i->src_port ? g_strconcat("bound to ", from, NULL) : g_strdup("not connected");
}

static char *unix_type(const Checkpoint *c, const FileEntry *file) {
  guint32 type = file->usk->type;
  return g_strconcat("unix ",
      type == SOCK_STREAM      ? "stream"
      : type == SOCK_DGRAM     ? "datagram"
      : type == SOCK_SEQPACKET ? "seqpacket"
                               : "socket",
      NULL);
}

/* Its address as ss shows it: a path, an abstract name behind an @, or its number. */
static char *unix_address_text(const UnixSkEntry *u) {
  const char *name = (const char *)u->name.data;
  if (!u->name.len)
    return g_strdup_printf("unix:%u", u->ino);
  if (!name[0])
    return g_strdup_printf("@%.*s", (int)MIN(u->name.len - 1, 108), name + 1);
  g_autofree char *path = g_strndup(name, u->name.len);
  return g_strdup_printf("%s%s%s%s", u->name_dir ? u->name_dir : "", u->name_dir ? "/" : "", path,
      u->has_deleted && u->deleted ? " (deleted)" : "");
}

static const UnixSkEntry *unix_by_ino(const Checkpoint *c, guint32 ino) {
  for (guint i = 0; i < c->files->len; i++) {
    const FileEntry *file = c->files->pdata[i];
    if (file->usk && file->usk->ino == ino)
      return file->usk;
  }
  return NULL;
}

static char *unix_path(const Checkpoint *c, const FileEntry *file) {
  const UnixSkEntry *u = file->usk, *peer = u->peer ? unix_by_ino(c, u->peer) : NULL;
  g_autofree char *address = unix_address_text(u);
  g_autofree char *to = peer ? unix_address_text(peer) : NULL;
  if (u->state == STATE_LISTEN)
    return g_strconcat("listening ", address, NULL);
  return to ? g_strconcat(address, " -> ", to, NULL) : g_steal_pointer(&address);
}

/* --- what has no name --- */

static char *eventfd_path(const Checkpoint *c, const FileEntry *file) {
  return g_strdup_printf("counter %" G_GUINT64_FORMAT, file->efd->counter);
}

static char *eventpoll_path(const Checkpoint *c, const FileEntry *file) {
  const EventpollFileEntry *e = file->epfd;
  if (e->n_tfd == 0)
    return g_strdup("watches nothing");
  g_autoptr(GString) text = g_string_new(e->n_tfd == 1 ? "watches fd" : "watches fds");
  for (size_t i = 0; i < MIN(e->n_tfd, 16); i++)
    g_string_append_printf(text, "%s %u", i ? "," : "", e->tfd[i]->tfd);
  if (e->n_tfd > 16)
    g_string_append_printf(text, " and %zu more", e->n_tfd - 16);
  return g_string_free(g_steal_pointer(&text), FALSE);
}

static char *inotify_path(const Checkpoint *c, const FileEntry *file) {
  return g_strdup_printf("%zu watches", file->ify->n_wd);
}

static char *signalfd_path(const Checkpoint *c, const FileEntry *file) {
  g_autoptr(GString) text = g_string_new(NULL);
  for (int signo = 1; signo <= 64; signo++) {
    const char *name = sigabbrev_np(signo);
    if (!(file->sgfd->sigmask & (UINT64_C(1) << (signo - 1))))
      continue;
    if (name)
      g_string_append_printf(text, "%sSIG%s", text->len ? " " : "", name);
    else
      g_string_append_printf(text, "%ssignal %d", text->len ? " " : "", signo);
  }
  return g_string_free(g_steal_pointer(&text), FALSE);
}

static char *timerfd_path(const Checkpoint *c, const FileEntry *file) {
  const TimerfdEntry *t = file->tfd;
  const char *clock = t->clockid == CLOCK_REALTIME    ? "realtime"
                      : t->clockid == CLOCK_BOOTTIME  ? "boottime"
                      : t->clockid == CLOCK_MONOTONIC ? "monotonic"
                                                      : "alarm";
  if (!t->vsec && !t->vnsec)
    return g_strdup_printf("%s, not set", clock);
  if (!t->isec && !t->insec)
    return g_strdup_printf("%s, once in %.3f s", clock, (double)t->vsec + (double)t->vnsec / 1e9);
  return g_strdup_printf("%s, every %.3f s", clock, (double)t->isec + (double)t->insec / 1e9);
}

static char *pidfd_path(const Checkpoint *c, const FileEntry *file) {
  return g_strdup_printf("pid %d", file->pidfd->nspid);
}

/* --- the table --- */

static const struct {
  FdTypes type;
  const char *field; /* of file_entry */
  const char *name;  /* NULL: tell_type says */
  Teller tell_type, tell_path;
} kinds[] = {
    {FD_TYPES__REG, "reg", NULL, reg_type, reg_path},
    {FD_TYPES__PIPE, "pipe", "pipe", NULL, pipe_path},
    {FD_TYPES__FIFO, "fifo", "fifo", NULL, fifo_path},
    {FD_TYPES__INETSK, "isk", NULL, inet_type, inet_path},
    {FD_TYPES__UNIXSK, "usk", NULL, unix_type, unix_path},
    {FD_TYPES__EVENTFD, "efd", "eventfd", NULL, eventfd_path},
    {FD_TYPES__EVENTPOLL, "epfd", "epoll", NULL, eventpoll_path},
    {FD_TYPES__INOTIFY, "ify", "inotify", NULL, inotify_path},
    {FD_TYPES__SIGNALFD, "sgfd", "signalfd", NULL, signalfd_path},
    {FD_TYPES__PACKETSK, "psk", "packet socket", NULL, NULL},
    {FD_TYPES__TTY, "tty", "terminal", NULL, tty_path},
    {FD_TYPES__FANOTIFY, "ffy", "fanotify", NULL, NULL},
    {FD_TYPES__NETLINKSK, "nlsk", "netlink", NULL, NULL},
    {FD_TYPES__NS, "nsf", "namespace", NULL, NULL},
    {FD_TYPES__TUNF, "tunf", "tun", NULL, NULL},
    {FD_TYPES__EXT, "ext", "plugin", NULL, NULL},
    {FD_TYPES__TIMERFD, "tfd", "timerfd", NULL, timerfd_path},
    {FD_TYPES__MEMFD, "memfd", "memfd", NULL, memfd_path},
    {FD_TYPES__BPFMAP, "bpf", "bpf map", NULL, NULL},
    {FD_TYPES__PIDFD, "pidfd", "pidfd", NULL, pidfd_path},
};

static ssize_t kind_of(const FileEntry *file) {
  for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
    if (kinds[i].type == file->type)
      return (ssize_t)i;
  return -1;
}

char *file_type_text(const Checkpoint *checkpoint, const FileEntry *file) {
  ssize_t kind = kind_of(file);
  if (kind < 0)
    return g_strdup("unknown");
  return kinds[kind].name ? g_strdup(kinds[kind].name) : kinds[kind].tell_type(checkpoint, file);
}

char *file_path_text(const Checkpoint *checkpoint, const FileEntry *file) {
  ssize_t kind = kind_of(file);
  return kind >= 0 && kinds[kind].tell_path ? kinds[kind].tell_path(checkpoint, file) : g_strdup("");
}

/* The message of an entry that has the flags it was opened with; a FIFO keeps them in its second entry. May be NULL. */
static const ProtobufCMessage *message_with_flags(const Checkpoint *c, const FileEntry *file) {
  if (file->type == FD_TYPES__FIFO)
    file = file->fifo->has_regf_id ? checkpoint_find_file(c, file->fifo->regf_id) : NULL;
  ssize_t kind = file ? kind_of(file) : -1;
  if (kind < 0)
    return NULL;
  const ProtobufCFieldDescriptor *f =
      protobuf_c_message_descriptor_get_field_by_name(&file_entry__descriptor, kinds[kind].field);
  return *(ProtobufCMessage *const *)((const guint8 *)file + f->offset);
}

static bool open_flags_of(const Checkpoint *c, const FileEntry *file, guint32 *ret_flags) {
  const ProtobufCMessage *m = message_with_flags(c, file);
  const ProtobufCFieldDescriptor *f =
      m ? protobuf_c_message_descriptor_get_field_by_name(m->descriptor, "flags") : NULL;
  if (!f || f->type != PROTOBUF_C_TYPE_UINT32)
    return false;
  *ret_flags = *(const guint32 *)((const guint8 *)m + f->offset);
  return true;
}

char *file_flags_text(const Checkpoint *checkpoint, const FileEntry *file, const FdinfoEntry *fd) {
  static const struct {
    guint32 bit;
    const char *word;
  } words[] = {{O_APPEND, " append"}, {O_NONBLOCK, " nonblock"}, {O_DIRECT, " direct"}, {O_SYNC & ~O_DSYNC, " sync"}};
  g_autoptr(GString) text = g_string_new(NULL);
  guint32 flags = 0;
  if (open_flags_of(checkpoint, file, &flags)) {
    guint32 mode = flags & O_ACCMODE;
    g_string_append(text, flags & O_PATH ? "path" : mode == O_RDONLY ? "r" : mode == O_WRONLY ? "w" : "rw");
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++)
      if (flags & words[i].bit)
        g_string_append(text, words[i].word);
  }
  if (fd && fd->flags & FD_CLOEXEC)
    g_string_append(text, text->len ? " cloexec" : "cloexec");
  return g_string_free(g_steal_pointer(&text), FALSE);
}

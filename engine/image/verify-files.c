/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memfd.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-inet.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "verify.h"
#include <netinet/in.h>

/* files.img: every entry must carry the one message of its type, with the same id in it. */

static const struct {
  FdTypes type;
  const char *field; /* of file_entry */
} type_fields[] = {
    {FD_TYPES__REG, "reg"},
    {FD_TYPES__PIPE, "pipe"},
    {FD_TYPES__FIFO, "fifo"},
    {FD_TYPES__INETSK, "isk"},
    {FD_TYPES__UNIXSK, "usk"},
    {FD_TYPES__EVENTFD, "efd"},
    {FD_TYPES__EVENTPOLL, "epfd"},
    {FD_TYPES__INOTIFY, "ify"},
    {FD_TYPES__SIGNALFD, "sgfd"},
    {FD_TYPES__PACKETSK, "psk"},
    {FD_TYPES__TTY, "tty"},
    {FD_TYPES__FANOTIFY, "ffy"},
    {FD_TYPES__NETLINKSK, "nlsk"},
    {FD_TYPES__NS, "nsf"},
    {FD_TYPES__TUNF, "tunf"},
    {FD_TYPES__EXT, "ext"},
    {FD_TYPES__TIMERFD, "tfd"},
    {FD_TYPES__MEMFD, "memfd"},
    {FD_TYPES__BPFMAP, "bpf"},
    {FD_TYPES__PIDFD, "pidfd"},
};

FdTypes verify_file_type(const Checkpoint *c, guint32 id) {
  const FileEntry *e = checkpoint_find_file(c, id);
  return e ? e->type : FD_TYPES__UND;
}

/* The message of an entry's type; NULL if it has none. All of them begin with `required uint32 id = 1`. */
static const ProtobufCMessage *file_message(const FileEntry *e) {
  for (size_t i = 0; i < G_N_ELEMENTS(type_fields); i++)
    if (type_fields[i].type == e->type) {
      const ProtobufCFieldDescriptor *f =
          protobuf_c_message_descriptor_get_field_by_name(&file_entry__descriptor, type_fields[i].field);
      return *(ProtobufCMessage *const *)((const guint8 *)e + f->offset);
    }
  return NULL;
}

static bool verify_file(const FileEntry *e, GError **error) {
  if (e->id == 0)
    return image_invalid(error, IMAGE_FILES, 0, "0 is no file id");
  const ProtobufCMessage *m = file_message(e);
  if (!m)
    return image_invalid(
        error, IMAGE_FILES, 0, "file id %u: type %d is unknown or its message is missing", e->id, e->type);
  const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(m->descriptor, 1);
  guint32 id = *(const guint32 *)((const guint8 *)m + f->offset);
  if (id != e->id)
    return image_invalid(error, IMAGE_FILES, 0, "file id %u: its %s has id %u", e->id, m->descriptor->name, id);
  return true;
}

static bool verify_memfds(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) inodes = g_hash_table_new(NULL, NULL);
  const GPtrArray *records = c->records[RECORD_MEMFD];
  for (guint i = 0; i < records->len; i++) {
    const MemfdInodeEntry *e = (MemfdInodeEntry *)((Record *)records->pdata[i])->message;
    if (e->inode_id > G_MAXUINT32 || !g_hash_table_add(inodes, GUINT_TO_POINTER((guint32)e->inode_id)))
      return image_invalid(
          error, IMAGE_MEMFD, 0, "inode_id %" G_GUINT64_FORMAT " is too large or there twice", e->inode_id);
    if (e->size > G_MAXINT64)
      return image_invalid(error, IMAGE_MEMFD, 0,
          "inode_id %" G_GUINT64_FORMAT ": size %" G_GUINT64_FORMAT " is too large", e->inode_id, e->size);
  }
  for (guint i = 0; i < c->files->len; i++) {
    const FileEntry *e = c->files->pdata[i];
    if (e->type == FD_TYPES__MEMFD && !g_hash_table_contains(inodes, GUINT_TO_POINTER(e->memfd->inode_id)))
      return image_invalid(
          error, IMAGE_FILES, 0, "file id %u: inode_id %u is not in memfd.img", e->id, e->memfd->inode_id);
  }
  return true;
}

static bool verify_remaps(const Checkpoint *c, GError **error) {
  const GPtrArray *records = c->records[RECORD_REMAP];
  for (guint i = 0; i < records->len; i++) {
    const RemapFilePathEntry *e = (RemapFilePathEntry *)((Record *)records->pdata[i])->message;
    if (verify_file_type(c, e->orig_id) == FD_TYPES__UND)
      return image_invalid(error, IMAGE_REMAP, 0, "file id %u is not in files.img", e->orig_id);
    if (e->has_remap_type && e->remap_type == REMAP_TYPE__LINKED && verify_file_type(c, e->remap_id) == FD_TYPES__UND)
      return image_invalid(
          error, IMAGE_REMAP, 0, "file id %u: its link %u is not in files.img", e->orig_id, e->remap_id);
  }
  return true;
}

#define FILTER_INSTRUCTIONS 4096 /* BPF_MAXINSNS */
#define CHAIN_INSTRUCTIONS 32768 /* of all filters of a thread */

/* How long a chain is, with what the kernel counts for each filter. */
static size_t chain_length(const SeccompEntry *e, size_t last) {
  size_t length = 0;
  for (const SeccompFilter *f = e->seccomp_filters[last]; f && length <= CHAIN_INSTRUCTIONS;
      f = f->has_prev ? e->seccomp_filters[f->prev] : NULL)
    length += f->filter.len / 8 + 4;
  return length;
}

/* Filters of seccomp.img, a list in which each names an earlier one as the next to run. */
static bool verify_seccomp(const Checkpoint *c, GError **error) {
  const GPtrArray *records = c->records[RECORD_SECCOMP];
  for (guint i = 0; i < records->len; i++) {
    const SeccompEntry *e = (SeccompEntry *)((Record *)records->pdata[i])->message;
    for (size_t k = 0; k < e->n_seccomp_filters; k++) {
      const SeccompFilter *f = e->seccomp_filters[k];
      if (f->has_prev && f->prev >= k)
        return image_invalid(
            error, IMAGE_SECCOMP, 0, "filter %zu: it refers to filter %u, not an earlier one", k, f->prev);
      if (f->filter.len % 8 != 0 || f->filter.len / 8 > FILTER_INSTRUCTIONS)
        return image_invalid(error, IMAGE_SECCOMP, 0, "filter %zu: %zu bytes are no BPF program", k, f->filter.len);
      if (chain_length(e, k) > CHAIN_INSTRUCTIONS + FILTER_INSTRUCTIONS)
        return image_invalid(error, IMAGE_SECCOMP, 0, "filter %zu: more of them than the kernel takes", k);
    }
  }
  return true;
}

/* What the kernel takes: shifts of the window, and sizes of a segment. */
#define WSCALE_MAX 14
#define MSS_MIN 48
#define TCP_STATE_CLOSE 7
#define ERRNO_MAX 4095

static bool verify_tcp_streams(const Checkpoint *c, GError **error) {
  GHashTableIter iter;
  gpointer ino, record;
  g_hash_table_iter_init(&iter, c->tcp_streams);
  while (g_hash_table_iter_next(&iter, &ino, &record)) {
    const TcpStreamEntry *s = (const TcpStreamEntry *)((const Record *)record)->message;
    const char *wrong = s->snd_wscale > WSCALE_MAX || (s->has_rcv_wscale && s->rcv_wscale > WSCALE_MAX) ? "window scale"
                        : s->mss_clamp < MSS_MIN || s->mss_clamp > G_MAXUINT16                         ? "segment size"
                        : s->has_unsq_len && s->unsq_len > s->outq_len                                 ? "unsq_len"
                                                                                                       : NULL;
    if (wrong)
      return image_invalid(error, IMAGE_TCP_STREAM, GPOINTER_TO_UINT(ino), "its %s is impossible", wrong);
  }
  return true;
}

static const InetSkEntry *find_closed(const Checkpoint *c, guint32 id) {
  const FileEntry *e = checkpoint_find_file(c, id);
  return e && e->isk && e->isk->proto == IPPROTO_TCP && e->isk->state == TCP_STATE_CLOSE ? e->isk : NULL;
}

static bool verify_tcp_ended(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (size_t i = 0; c->network && i < c->network->n_tcp_ended; i++) {
    const CkptTcpEnded *e = c->network->tcp_ended[i];
    const InetSkEntry *s = find_closed(c, e->id);
    const Record *record = s ? checkpoint_find_tcp_stream(c, s->ino) : NULL;
    const char *wrong = !s || !record ? "there is no such closed TCP socket"
                        : ((const TcpStreamEntry *)record->message)->outq_len ? "it has something to send"
                        : e->address.len != (s->family == AF_INET6 ? 16 : 4)  ? "its address has the wrong length"
                        : e->port > G_MAXUINT16                               ? "its port is out of range"
                        : e->has_error && (!e->error || e->error > ERRNO_MAX) ? "its error is none"
                        : !g_hash_table_add(seen, GUINT_TO_POINTER(e->id))    ? "it is described twice"
                                                                              : NULL;
    if (wrong)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "ended TCP connection of file id %u: %s", e->id, wrong);
  }
  return true;
}

/* Descriptors that are on their way in a queue. */
static bool verify_queues(const Checkpoint *c, GError **error) {
  const GPtrArray *records = c->records[RECORD_SK_QUEUES];
  for (guint i = 0; i < records->len; i++) {
    const SkPacketEntry *e = (const SkPacketEntry *)((const Record *)records->pdata[i])->message;
    for (size_t k = 0; k < e->n_scm; k++)
      for (size_t n = 0; n < e->scm[k]->n_rights; n++)
        if (verify_file_type(c, e->scm[k]->rights[n]) == FD_TYPES__UND)
          return image_invalid(error, IMAGE_SK_QUEUES, 0, "file id %u is not in files.img", e->scm[k]->rights[n]);
  }
  return true;
}

bool verify_files(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->files->len; i++)
    if (!verify_file(c->files->pdata[i], error))
      return false;
  return verify_queues(c, error) && verify_memfds(c, error) && verify_remaps(c, error) && verify_seccomp(c, error) &&
         verify_tcp_streams(c, error) && verify_tcp_ended(c, error) && verify_ttys(c, error) && verify_events(c, error);
}

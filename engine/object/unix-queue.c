/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-queue.h"
#include "sk-packet.pb-c.h"
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_SIZE 4096
/* No datagram is longer: net.core.wmem_max bounds the send buffer, which root may exceed up to INT_MAX / 2. */
#define PACKET_FIRST (256 * 1024)

typedef struct Peek {
  int fd, type;
  int total; /* bytes in the queue; -1 where the kernel does not say (datagrams) */
  guint8 *buffer;
  size_t size;
  ssize_t n; /* received; may be larger than size: then it was cut */
  bool rights;
  struct sockaddr_un from;
  socklen_t from_size;
} Peek;

static void take_rights(const struct cmsghdr *cmsg, Peek *peek) {
  if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
    return;
  peek->rights = true;
  size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (size_t i = 0; i < n; i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
    (void)close(fd);
  }
}

static int peek_once(Peek *peek) {
  char control[CONTROL_SIZE] __attribute__((aligned(8)));
  struct iovec iov = {.iov_base = peek->buffer, .iov_len = peek->size};
  struct msghdr msg = {
      .msg_name = &peek->from,
      .msg_namelen = sizeof peek->from,
      .msg_iov = &iov,
      .msg_iovlen = 1,
      .msg_control = control,
      .msg_controllen = sizeof control,
  };
  int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | (peek->type == SOCK_STREAM ? 0 : MSG_TRUNC);
  peek->n = recvmsg(peek->fd, &msg, flags);
  if (peek->n < 0)
    return -errno;
  peek->from_size = msg.msg_namelen;
  for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg))
    take_rights(cmsg, peek);
  return 0;
}

static void add_packet(Collector *c, guint32 file_id, const Peek *peek, size_t n) {
  SkPacketEntry *packet = MESSAGE_NEW(SkPacketEntry, sk_packet_entry__init);
  packet->id_for = file_id;
  packet->length = (guint32)n;
  checkpoint_add_record(collector_checkpoint(c), RECORD_SK_QUEUES, &packet->base, g_bytes_new(peek->buffer, n));
}

static bool from_elsewhere(const Peek *peek, GBytes *peer_name) {
  size_t header = offsetof(struct sockaddr_un, sun_path);
  if (peek->type != SOCK_DGRAM || peek->from_size <= header)
    return false;
  size_t size = peek->from_size - header;
  return !peer_name || g_bytes_get_size(peer_name) != size ||
         memcmp(g_bytes_get_data(peer_name, NULL), peek->from.sun_path, size) != 0;
}

/* One after the other: SO_PEEK_OFF makes each peek begin where the one before ended. It never asks for more than there
 * is: a receive that finds nothing would take away a pending error. */
static QueueResult collect_all(Collector *c, guint32 file_id, Peek *peek, GBytes *peer_name, GError **error) {
  int offset = 0;
  while (offset != peek->total) {
    if (setsockopt(peek->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0)
      break;
    int r = peek_once(peek);
    if (r == -EAGAIN || (r == 0 && peek->n == 0 && peek->type != SOCK_DGRAM))
      return offset ? QUEUE_DONE : QUEUE_EMPTY;
    if (r == -ECONNRESET) /* told once */
      continue;
    if (r < 0)
      break;
    if (peek->rights)
      return QUEUE_RIGHTS;
    if (from_elsewhere(peek, peer_name))
      return QUEUE_SENDER;
    if ((size_t)peek->n > peek->size) {
      peek->size = (size_t)peek->n;
      peek->buffer = g_realloc(peek->buffer, peek->size);
      continue;
    }
    add_packet(c, file_id, peek, (size_t)peek->n);
    offset += (int)peek->n;
  }
  if (offset == peek->total)
    return QUEUE_DONE;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read what is queued in a unix socket");
  return QUEUE_ERROR;
}

QueueResult unix_queue_collect(Collector *c, guint32 file_id, int fd, int type, GBytes *peer_name, GError **error) {
  int queued = -1;
  if (type != SOCK_DGRAM && ioctl(fd, FIONREAD, &queued) < 0)
    queued = -1;
  if (queued == 0)
    return QUEUE_EMPTY;
  Peek peek = {.fd = fd, .type = type, .total = queued, .size = (size_t)MAX(queued, PACKET_FIRST)};
  peek.buffer = g_malloc(peek.size);
  int before = -1;
  socklen_t size = sizeof before;
  (void)getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &before, &size);
  QueueResult result = collect_all(c, file_id, &peek, peer_name, error);
  (void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before);
  g_free(peek.buffer);
  return result;
}

/* --- restore --- */

static gpointer queues_new(void) {
  return g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
}

/* file id -> GPtrArray of Record */
static const GPtrArray *queue_of(Restorer *r, guint32 file_id) {
  static const char key;
  GHashTable *queues = restorer_state(r, &key, queues_new, (GDestroyNotify)g_hash_table_unref);
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_SK_QUEUES];
  for (guint i = g_hash_table_size(queues) ? records->len : 0; i < records->len; i++) {
    Record *record = records->pdata[i];
    gpointer id = GUINT_TO_POINTER(((SkPacketEntry *)record->message)->id_for);
    GPtrArray *queue = g_hash_table_lookup(queues, id);
    if (!queue) {
      queue = g_ptr_array_new();
      g_hash_table_insert(queues, id, queue);
    }
    g_ptr_array_add(queue, record);
  }
  return g_hash_table_lookup(queues, GUINT_TO_POINTER(file_id));
}

static bool send_packet(int fd, const Record *record, const void *to, guint32 to_size, GError **error) {
  gsize size = 0, sent = 0;
  const guint8 *data = record->extra ? g_bytes_get_data(record->extra, &size) : NULL;
  do {
    ssize_t n = sendto(fd, data + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL, to, to_size);
    if (n < 0)
      return engine_fail_errno(
          error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot put %zu queued bytes back into a unix socket", size - sent);
    sent += (gsize)n;
  } while (sent < size);
  return true;
}

bool unix_queue_restore(Restorer *r, guint32 file_id, int fd, const void *to, guint32 to_size, GError **error) {
  const GPtrArray *queue = queue_of(r, file_id);
  if (!queue)
    return true;
  /* What is queued is charged to the sender, whose own buffer may have been made smaller since. */
  int before = 0, large = INT_MAX / 4;
  socklen_t size = sizeof before;
  (void)getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &before, &size);
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large);
  for (guint i = 0; i < queue->len; i++) {
    const Record *record = queue->pdata[i];
    if (((const SkPacketEntry *)record->message)->n_scm)
      return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
          "File descriptors on the way in a socket cannot be "
          "restored yet");
    if (!send_packet(fd, record, to, to_size, error))
      return false;
  }
  before /= 2;
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &before, sizeof before);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-queue.h"
#include "sk-packet.pb-c.h"
#include "sockopts.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_SIZE 4096
#define RIGHTS_MAX 253 /* SCM_MAX_FD */
/* No datagram is longer: net.core.wmem_max bounds the send buffer, which root may exceed up to INT_MAX / 2. */
#define PACKET_FIRST (256 * 1024)

typedef struct Peek {
  int fd, type;
  int total; /* bytes in the queue; -1 where the kernel does not say (datagrams) */
  guint8 *buffer;
  size_t size;
  ssize_t n; /* received; may be larger than size: then it was cut */
  int rights[RIGHTS_MAX];
  size_t n_rights;
  struct ucred cred;
  bool has_cred;
  struct sockaddr_un from;
  socklen_t from_size;
} Peek;

static void drop_rights(Peek *peek) {
  for (size_t i = 0; i < peek->n_rights; i++)
    (void)close(peek->rights[i]);
  peek->n_rights = 0;
}

static void take_control(const struct cmsghdr *cmsg, Peek *peek) {
  size_t size = cmsg->cmsg_len - CMSG_LEN(0);
  if (cmsg->cmsg_level != SOL_SOCKET)
    return;
  if (cmsg->cmsg_type == SCM_CREDENTIALS && size >= sizeof peek->cred) {
    memcpy(&peek->cred, CMSG_DATA(cmsg), sizeof peek->cred);
    peek->has_cred = true;
  }
  for (size_t i = 0; cmsg->cmsg_type == SCM_RIGHTS && i < size / sizeof(int); i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
    if (peek->n_rights < RIGHTS_MAX)
      peek->rights[peek->n_rights++] = fd;
    else
      (void)close(fd);
  }
#ifdef SCM_PIDFD
  if (cmsg->cmsg_type == SCM_PIDFD) {
    int fd;
    memcpy(&fd, CMSG_DATA(cmsg), sizeof fd);
    (void)close(fd);
  }
#endif
}

/* Looks at what begins at @offset, @limit bytes at most. */
static int peek_at(Peek *peek, int offset, size_t limit) {
  char control[CONTROL_SIZE] __attribute__((aligned(8)));
  struct iovec iov = {.iov_base = peek->buffer, .iov_len = limit};
  struct msghdr msg = {
      .msg_name = &peek->from,
      .msg_namelen = sizeof peek->from,
      .msg_iov = &iov,
      .msg_iovlen = 1,
      .msg_control = control,
      .msg_controllen = sizeof control,
  };
  int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | (peek->type == SOCK_STREAM ? 0 : MSG_TRUNC);
  if (setsockopt(peek->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0)
    return -errno;
  peek->n_rights = 0;
  peek->has_cred = false;
  peek->n = recvmsg(peek->fd, &msg, flags);
  if (peek->n < 0)
    return -errno;
  peek->from_size = msg.msg_namelen;
  for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg))
    take_control(cmsg, peek);
  return 0;
}

/* In a stream what carries descriptors ends a read, but begins none: the bytes before it come along. The descriptors belong
 * to the bytes that they were sent with, so their beginning is looked for: the same again with room for one byte less. The
 * kernel copies what one call of the sender's has queued as a whole, or not at all (a peek for fewer bytes would not do: it
 * goes on to descriptors behind them). */
static int split_stream(Peek *peek, int offset) {
  long page = sysconf(_SC_PAGESIZE);
  size_t n = (size_t)peek->n, size = (n + (size_t)page - 1) / (size_t)page * (size_t)page;
  char *memory = mmap(NULL, size + (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + size, (size_t)page, PROT_NONE) < 0)
    return -ENOMEM;
  struct iovec iov = {.iov_base = memory + size - (n - 1), .iov_len = n};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  int r = setsockopt(peek->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0 ? -errno : 0;
  ssize_t before = r == 0 ? recvmsg(peek->fd, &msg, MSG_PEEK | MSG_DONTWAIT) : -1;
  if (r == 0 && before < 0 && errno != EFAULT)
    r = -errno;
  (void)munmap(memory, size + (size_t)page);
  if (before > 0) {
    drop_rights(peek);
    peek->n = before;
  }
  return r;
}

static void packet_free(void *p) {
  UnixPacket *packet = p;
  g_bytes_unref(packet->data);
  g_clear_pointer(&packet->rights, g_array_unref);
  g_clear_pointer(&packet->sender, g_bytes_unref);
  g_free(packet);
}

static bool take_packet(Collector *c, const FileProbe *carrier, Peek *peek, GPtrArray *packets, GError **error) {
  const size_t header = offsetof(struct sockaddr_un, sun_path);
  UnixPacket *packet = g_new0(UnixPacket, 1);
  packet->data = g_bytes_new(peek->buffer, (size_t)peek->n);
  packet->has_cred = peek->has_cred && peek->cred.pid > 0;
  packet->pid = peek->cred.pid;
  packet->uid = peek->cred.uid;
  packet->gid = peek->cred.gid;
  if (peek->type == SOCK_DGRAM && peek->from_size > header)
    packet->sender = g_bytes_new(peek->from.sun_path, MIN(peek->from_size, sizeof peek->from) - header);
  g_ptr_array_add(packets, packet);
  packet->rights = peek->n_rights ? g_array_new(FALSE, FALSE, sizeof(guint32)) : NULL;
  for (size_t i = 0; i < peek->n_rights; i++) {
    guint32 id = collector_add_flight(c, carrier, peek->rights[i], error);
    if (!id) {
      for (size_t k = i + 1; k < peek->n_rights; k++)
        (void)close(peek->rights[k]);
      return false;
    }
    g_array_append_val(packet->rights, id);
  }
  return true;
}

static bool has_end(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLRDHUP};
  return poll(&p, 1, 0) == 1 && p.revents & POLLRDHUP;
}

/* In a stream, nothing is the end. A packet may be empty, which looks like the end where that has come: what comes after it tells. */
static bool is_over(const Peek *peek, int offset) {
  return peek->n == 0 && (peek->type == SOCK_STREAM || (peek->type == SOCK_SEQPACKET && offset == peek->total && has_end(peek->fd)));
}

/* Behind the last byte there may be empty packets. */
static bool goes_on(const Peek *peek, int offset) {
  return offset != peek->total || (peek->type == SOCK_SEQPACKET && !has_end(peek->fd));
}

/* One after the other, each beginning where the one before ended (SO_PEEK_OFF; empty ones are shown once). It never asks a stream
 * for more than there is: a receive that finds nothing would take away a pending error. */
static bool peek_all(Collector *c, const FileProbe *carrier, Peek *peek, GPtrArray *packets, GError **error) {
  int offset = 0, r = 0;
  while (goes_on(peek, offset)) {
    r = peek_at(peek, offset, peek->size);
    if (r == -EAGAIN || (r == 0 && is_over(peek, offset)))
      return true;
    if (r == -ECONNRESET) /* told once */
      continue;
    if (r == 0 && peek->type == SOCK_STREAM && peek->n_rights)
      r = split_stream(peek, offset);
    if (r < 0)
      break;
    if ((size_t)peek->n > peek->size) {
      drop_rights(peek);
      peek->size = (size_t)peek->n;
      peek->buffer = g_realloc(peek->buffer, peek->size);
      continue;
    }
    offset += (int)peek->n;
    if (!take_packet(c, carrier, peek, packets, error))
      return false;
  }
  return offset == peek->total ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot read what is queued in a unix socket");
}

bool unix_queue_has_any(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLPRI};
  return poll(&p, 1, 0) == 1;
}

bool unix_queue_is_reset(int fd) {
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) == 1 && p.revents & POLLERR;
}

GPtrArray *unix_queue_peek(Collector *c, const FileProbe *carrier, int fd, int type, GError **error) {
  g_autoptr(GPtrArray) packets = g_ptr_array_new_with_free_func(packet_free);
  int queued = -1;
  if (type != SOCK_DGRAM && ioctl(fd, FIONREAD, &queued) < 0)
    queued = -1;
  if (queued == 0 && (type == SOCK_STREAM || has_end(fd) || !unix_queue_has_any(fd)))
    return g_steal_pointer(&packets);
  g_autofree Peek *peek = g_new0(Peek, 1);
  *peek = (Peek){.fd = fd, .type = type, .total = queued, .size = (size_t)MAX(queued, PACKET_FIRST)};
  peek->buffer = g_malloc(peek->size);
  int before = -1;
  socklen_t size = sizeof before;
  (void)getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &before, &size);
  bool ok = peek_all(c, carrier, peek, packets, error);
  (void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before);
  g_free(peek->buffer);
  return ok ? g_steal_pointer(&packets) : NULL;
}

bool unix_queue_has_urgent(int fd) {
  char byte;
  return recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1;
}

static void note_more(CkptSocket *s, guint number, const UnixPacket *packet, bool sender) {
  bool has_sender = sender && packet->sender;
  if (!packet->has_cred && !has_sender)
    return;
  CkptPacket *more = MESSAGE_NEW(CkptPacket, ckpt_packet__init);
  more->number = number;
  if (packet->has_cred) {
    more->cred = MESSAGE_NEW(CkptCred, ckpt_cred__init);
    more->cred->pid = (guint32)packet->pid;
    more->cred->uid = packet->uid;
    more->cred->gid = packet->gid;
  }
  if (has_sender) {
    gsize size;
    gconstpointer data = g_bytes_get_data(packet->sender, &size);
    more->has_sender = true;
    more->sender = (ProtobufCBinaryData){.len = size, .data = g_memdup2(data, size)};
  }
  s->packet = g_renew(CkptPacket *, s->packet, s->n_packet + 1);
  s->packet[s->n_packet++] = more;
}

void unix_queue_note(Collector *c, guint32 file_id, const GPtrArray *packets, bool sender) {
  Checkpoint *checkpoint = collector_checkpoint(c);
  for (guint i = 0; i < packets->len; i++) {
    const UnixPacket *packet = packets->pdata[i];
    SkPacketEntry *e = MESSAGE_NEW(SkPacketEntry, sk_packet_entry__init);
    e->id_for = file_id;
    e->length = (guint32)g_bytes_get_size(packet->data);
    if (packet->rights) {
      e->n_scm = 1;
      e->scm = g_new0(ScmEntry *, 1);
      e->scm[0] = MESSAGE_NEW(ScmEntry, scm_entry__init);
      e->scm[0]->type = SCM_RIGHTS;
      e->scm[0]->n_rights = packet->rights->len;
      e->scm[0]->rights = g_memdup2(packet->rights->data, packet->rights->len * sizeof(guint32));
    }
    note_more(socket_extra(checkpoint, file_id), i, packet, sender);
    checkpoint_add_record(checkpoint, RECORD_SK_QUEUES, &e->base, g_bytes_ref(packet->data));
  }
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

static const CkptPacket *more_of(Restorer *r, guint32 file_id, guint number) {
  const CkptSocket *s = checkpoint_find_socket(restorer_checkpoint(r), file_id);
  for (size_t i = 0; s && i < s->n_packet; i++)
    if (s->packet[i]->number == number)
      return s->packet[i];
  return NULL;
}

bool unix_queue_is_empty(Restorer *r, guint32 file_id) {
  return !queue_of(r, file_id);
}

bool unix_queue_has_senders(Restorer *r, guint32 file_id) {
  const CkptSocket *s = checkpoint_find_socket(restorer_checkpoint(r), file_id);
  for (size_t i = 0; s && i < s->n_packet; i++)
    if (s->packet[i]->has_sender)
      return true;
  return false;
}

bool unix_queue_is_late(Restorer *r, guint32 file_id) {
  const GPtrArray *queue = queue_of(r, file_id);
  const CkptSocket *s = checkpoint_find_socket(restorer_checkpoint(r), file_id);
  for (guint i = 0; queue && i < queue->len; i++)
    if (((const SkPacketEntry *)((const Record *)queue->pdata[i])->message)->n_scm)
      return true;
  return s && s->n_packet;
}

typedef struct Sending {
  int fd;
  struct msghdr msg;
  struct iovec iov;
  char control[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] __attribute__((aligned(8)));
} Sending;

static void *add_control(Sending *s, int type, size_t size) {
  struct cmsghdr *cmsg = (struct cmsghdr *)(void *)(s->control + s->msg.msg_controllen);
  *cmsg = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = type, .cmsg_len = CMSG_LEN(size)};
  s->msg.msg_control = s->control;
  s->msg.msg_controllen += CMSG_SPACE(size);
  return CMSG_DATA(cmsg);
}

static bool add_rights(Restorer *r, Sending *s, const SkPacketEntry *packet, GError **error) {
  int fds[RIGHTS_MAX];
  size_t n = 0;
  for (size_t i = 0; i < packet->n_scm; i++)
    for (size_t k = 0; packet->scm[i]->type == SCM_RIGHTS && k < packet->scm[i]->n_rights; k++) {
      if (n == RIGHTS_MAX)
        return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "More descriptors are on their way in one packet than can be");
      int fd = restorer_fd_of(r, packet->scm[i]->rights[k], error);
      if (fd < 0)
        return false;
      fds[n++] = fd;
    }
  if (n)
    memcpy(add_control(s, SCM_RIGHTS, n * sizeof *fds), fds, n * sizeof *fds);
  return true;
}

/* What is queued in a stream may be more than one packet of the kernel's. What comes along goes with the first of them. */
static int do_send(void *data) {
  Sending *s = data;
  do {
    ssize_t n = sendmsg(s->fd, &s->msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
      return -errno;
    s->iov.iov_base = (char *)s->iov.iov_base + n;
    s->iov.iov_len -= (size_t)n;
    s->msg.msg_control = NULL;
    s->msg.msg_controllen = 0;
  } while (s->iov.iov_len);
  return 0;
}

/* Credentials are those of the process that sends; whose pid it is must be there, or be that process. */
static int send_as(Restorer *r, Sending *s, const CkptCred *cred) {
  if (!cred)
    return do_send(s);
  AsWho who = {.pid = (pid_t)cred->pid, .uid = cred->uid, .gid = cred->gid};
  bool other = false;
  int result = as_process(&who, do_send, s, &other);
  if (other)
    job_log(restorer_job(r), 3, "A packet queued in a unix socket comes from pid %u, which another process has: it is seen with another pid", cred->pid);
  return result;
}

/* A socket of the tree with that address, or one that has it for now. */
static int sender_socket(Restorer *r, const CkptPacket *more, UnixSenderOf sender_of, bool *ret_own, GError **error) {
  GError *failure = NULL;
  int fd = sender_of(r, more->sender.data, more->sender.len, &failure);
  if (fd >= 0 || failure) {
    if (failure)
      g_propagate_error(error, failure);
    return fd;
  }
  _cleanup_fd_ int made = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  UnixAddress address;
  uint32_t size = unix_address(&address, more->sender.data, more->sender.len);
  PrivateName name = {.name = more->sender.data, .size = more->sender.len, .directory = "/"};
  bool path = more->sender.data[0] != '\0';
  if (made < 0 || !size || (!path && bind_patiently(made, &address, size) < 0)) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__BUSY, size ? errno : ENAMETOOLONG,
        "The address @%.*s, which a queued datagram came from, cannot be had", (int)more->sender.len - 1, more->sender.data + 1);
    return -1;
  }
  if (path && !unix_private_bind(made, &name, NULL, error))
    return -1;
  *ret_own = true;
  return fd_take(&made);
}

static void large_buffer(int fd, int *ret_before) {
  int large = INT_MAX / 4;
  socklen_t size = sizeof *ret_before;
  (void)getsockopt(fd, SOL_SOCKET, SO_SNDBUF, ret_before, &size);
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large);
}

static void former_buffer(int fd, int before) {
  before /= 2;
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &before, sizeof before);
}

static bool send_packet(Restorer *r, Sending *s, const Record *record, const CkptPacket *more, UnixSenderOf sender_of, GError **error) {
  gsize size = 0;
  bool own = false, named = more && more->has_sender && sender_of;
  int fd = s->fd, before = 0;
  gconstpointer bytes = record->extra ? g_bytes_get_data(record->extra, &size) : NULL;
  s->iov = (struct iovec){.iov_base = (void *)bytes, .iov_len = size};
  s->msg.msg_control = NULL;
  s->msg.msg_controllen = 0;
  if (!add_rights(r, s, (const SkPacketEntry *)record->message, error))
    return false;
  if (named && (s->fd = sender_socket(r, more, sender_of, &own, error)) < 0)
    return false;
  if (named)
    large_buffer(s->fd, &before);
  int result = send_as(r, s, more ? more->cred : NULL);
  if (named && !own)
    former_buffer(s->fd, before);
  if (own)
    (void)close(s->fd);
  s->fd = fd;
  return result == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, result, "Cannot put %zu queued bytes back into a unix socket", (size_t)size);
}

bool unix_queue_restore(Restorer *r, guint32 file_id, int fd, const UnixAddress *to, guint32 to_size, UnixSenderOf sender_of, GError **error) {
  const GPtrArray *queue = queue_of(r, file_id);
  if (!queue)
    return true;
  /* What is queued is charged to the sender, whose own buffer may have been made smaller since. */
  int before = 0;
  large_buffer(fd, &before);
  g_autofree Sending *s = g_new0(Sending, 1);
  s->fd = fd;
  s->msg = (struct msghdr){.msg_name = (void *)to, .msg_namelen = to_size, .msg_iov = &s->iov, .msg_iovlen = 1};
  bool ok = true;
  for (guint i = 0; ok && i < queue->len; i++)
    ok = send_packet(r, s, queue->pdata[i], more_of(r, file_id, i), to ? sender_of : NULL, error);
  former_buffer(fd, before);
  return ok;
}

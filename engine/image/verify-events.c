/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"
#include <string.h>

/* Rings of io_uring(7), POSIX message queues. */

#define SQ_MAX 32768u /* the kernel's own limits */
#define CQ_MAX 65536u
#define FILES_MAX 1048576u
#define BUFFERS_MAX 16384u
#define INDEXES_MAX 16u
#define RINGS_MAX ((64u << 10) + CQ_MAX * 32 + SQ_MAX * 4)

static bool is_power(guint32 n, guint32 max) {
  return n && !(n & (n - 1)) && n <= max;
}

static bool uring_fail(GError **error, const CkptUring *u, const char *reason) {
  return image_invalid(error, IMAGE_CHECKPOINT, 0, "io_uring of file id %u: %s", u->file_id, reason);
}

static bool verify_registered(const CkptUring *u, GError **error) {
  guint32 n_files = u->has_n_files ? u->n_files : 0, n_buffers = u->has_n_buffers ? u->n_buffers : 0;
  if (n_files > FILES_MAX || n_buffers > BUFFERS_MAX)
    return uring_fail(error, u, "it has more files or buffers than a ring can have");
  for (size_t i = 0; i < u->n_file; i++)
    if (u->file[i]->index >= n_files || u->file[i]->fd > G_MAXINT32)
      return uring_fail(error, u, "one of its files is out of range");
  for (size_t i = 0; i < u->n_buffer; i++)
    if (u->buffer[i]->index >= n_buffers)
      return uring_fail(error, u, "one of its buffers is out of range");
  for (size_t i = 0; i < u->n_registered; i++)
    if (u->registered[i]->index >= INDEXES_MAX)
      return uring_fail(error, u, "it is registered under an impossible number");
  return true;
}

/* Waits only, and nothing that names credentials or links. */
static bool verify_request(const CkptUring *u, const CkptUringRequest *q, GError **error) {
  static const unsigned char known[] = {6 /* POLL_ADD */, 11 /* TIMEOUT */, 13 /* ACCEPT */, 22 /* READ */, 27 /* RECV */, 49 /* READ_MULTISHOT */};
  const guint flags = 1 | 16 | 32 | 64; /* FIXED_FILE, ASYNC, BUFFER_SELECT, CQE_SKIP_SUCCESS */
  if (q->sqe.len != 64 || !memchr(known, q->sqe.data[0], sizeof known) || q->sqe.data[1] & ~flags || q->sqe.data[42] || q->sqe.data[43])
    return uring_fail(error, u, "one of its requests is none that waits");
  if ((q->sqe.data[0] == 11) != (q->has_sec && q->has_nsec) || (q->has_sec && (q->sec < 0 || q->nsec < 0 || q->nsec >= 1000000000)))
    return uring_fail(error, u, "one of its timeouts is impossible");
  return true;
}

static bool verify_requests(const CkptUring *u, GError **error) {
  if (u->n_request > u->sq_head || ((u->n_request || u->n_group) && u->flags & 2u /* SQPOLL */) || (u->has_eventfd && u->eventfd > G_MAXINT32))
    return uring_fail(error, u, "its requests in flight are impossible");
  for (size_t i = 0; i < u->n_request; i++)
    if (!verify_request(u, u->request[i], error))
      return false;
  return true;
}

static bool verify_groups(const CkptUring *u, GError **error) {
  g_autoptr(GHashTable) ids = g_hash_table_new(NULL, NULL);
  for (size_t i = 0; i < u->n_group; i++) {
    const CkptUringGroup *g = u->group[i];
    if (g->id > 0xffff || !is_power(g->entries, SQ_MAX) || g->head > 0xffff || g->flags & ~3u || g->content.len != (size_t)g->entries * 16 ||
        (g->flags & 1) == (g->has_address ? 1u : 0u) || (g->has_address && g->address % 4096) || !g_hash_table_add(ids, GUINT_TO_POINTER(g->id)))
      return uring_fail(error, u, "one of its groups of buffers is impossible");
  }
  return true;
}

static bool verify_uring(const Checkpoint *c, const CkptUring *u, GError **error) {
  if (verify_file_type(c, u->file_id) != FD_TYPES__EXT)
    return uring_fail(error, u, "it is not in files.img");
  if (!is_power(u->sq_entries, SQ_MAX) || !is_power(u->cq_entries, CQ_MAX))
    return uring_fail(error, u, "its size is impossible");
  if (u->rings.len > RINGS_MAX || u->sqes.len > (gsize)SQ_MAX * 128 || u->array_at > u->rings.len)
    return uring_fail(error, u, "its content is too large");
  if (u->rings.len < 4096 || u->sqes.len < (gsize)u->sq_entries * 64 || u->array_at % 4)
    return uring_fail(error, u, "its content is not complete");
  if (u->sq_tail - u->sq_head > u->sq_entries || u->cq_tail - u->cq_head > u->cq_entries)
    return uring_fail(error, u, "its counters contradict each other");
  return verify_registered(u, error) && verify_requests(u, error) && verify_groups(u, error);
}

/* The kernel's own limits. */
#define MESSAGES_MAX 65536u
#define MESSAGE_SIZE_MAX (16u << 20)
#define PRIORITY_MAX 32768u

static bool mqueue_fail(GError **error, const CkptMqueue *q, const char *reason) {
  return image_invalid(error, IMAGE_CHECKPOINT, 0, "message queue of file id %u: %s", q->file_id, reason);
}

static bool verify_mqueue(const Checkpoint *c, const CkptMqueue *q, GError **error) {
  if (verify_file_type(c, q->file_id) != FD_TYPES__EXT)
    return mqueue_fail(error, q, "it is not in files.img");
  if (checkpoint_find_mqueue(c, q->file_id) != q || checkpoint_find_uring(c, q->file_id))
    return mqueue_fail(error, q, "it is described twice");
  if (!*q->name || strchr(q->name, '/') || strlen(q->name) > 255 || q->name[0] == '.')
    return mqueue_fail(error, q, "its name is none");
  if (q->max_messages > MESSAGES_MAX || q->message_size > MESSAGE_SIZE_MAX || q->n_message > q->max_messages)
    return mqueue_fail(error, q, "it is too large");
  for (size_t i = 0; i < q->n_message; i++)
    if (q->message[i]->priority >= PRIORITY_MAX || q->message[i]->data.len > q->message_size)
      return mqueue_fail(error, q, "one of its messages is too large, or too important");
  return true;
}

/* A signalfd or pidfd belongs to who registers it. */
static bool verify_away(const Checkpoint *c, const CkptEpoll *e, GError **error) {
  const FileEntry *file = checkpoint_find_file(c, e->file_id);
  for (size_t i = 0; i < e->n_away; i++) {
    FdTypes type = verify_file_type(c, e->away[i]->file_id);
    if (!file || !file->epfd || e->away[i]->index >= file->epfd->n_tfd || type == FD_TYPES__UND || type == FD_TYPES__SIGNALFD ||
        type == FD_TYPES__PIDFD || e->away[i]->file_id == e->file_id)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u is no epoll that could wait for file id %u so", e->file_id, e->away[i]->file_id);
  }
  return true;
}

static bool verify_others(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->pidfds->len; i++) {
    const CkptPidfd *p = c->pidfds->pdata[i];
    if (verify_file_type(c, p->file_id) != FD_TYPES__PIDFD || !p->pid || p->pid > G_MAXINT32)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u is no pidfd of process %u", p->file_id, p->pid);
  }
  for (guint i = 0; i < c->epolls->len; i++) {
    const CkptEpoll *e = c->epolls->pdata[i];
    if (verify_file_type(c, e->file_id) != FD_TYPES__EVENTPOLL || e->busy_poll_budget > G_MAXUINT16 || e->prefer_busy_poll > 1)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "file id %u is no epoll that polls so", e->file_id);
    if (!verify_away(c, e, error))
      return false;
  }
  return true;
}

static bool verify_watches(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->watches->len; i++) {
    const CkptWatch *w = c->watches->pdata[i];
    FdTypes type = verify_file_type(c, w->file_id);
    if ((type != FD_TYPES__INOTIFY && type != FD_TYPES__FANOTIFY) || verify_file_type(c, w->target) != FD_TYPES__REG)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "watch %u of file id %u: one of the two is of the wrong type", w->number, w->file_id);
  }
  for (guint i = 0; i < c->fs_marks->len; i++) {
    const CkptFsMark *m = c->fs_marks->pdata[i];
    if (verify_file_type(c, m->file_id) != FD_TYPES__FANOTIFY || m->path[0] != '/')
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "a file system is marked by file id %u, which is no fanotify", m->file_id);
  }
  return true;
}

bool verify_events(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->urings->len; i++) {
    const CkptUring *u = c->urings->pdata[i];
    if (checkpoint_find_uring(c, u->file_id) != u)
      return uring_fail(error, u, "it is described twice");
    if (!verify_uring(c, u, error))
      return false;
  }
  for (guint i = 0; i < c->mqueues->len; i++)
    if (!verify_mqueue(c, c->mqueues->pdata[i], error))
      return false;
  return verify_watches(c, error) && verify_others(c, error);
}

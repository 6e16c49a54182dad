/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rings again. One that belongs to a thread is made switched off, and becomes that thread's when it switches it on. */

#include "internal.h"
#include "uring.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static bool fail_ring(const CkptUring *u, int e, const char *what, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "The io_uring of file id %u: %s", u->file_id, what);
}

/* Both counters, by requests that do nothing, and by completions of none. */
static bool advance(int fd, UringMap *map, const CkptUring *u, GError **error) {
  const UringCounts n = uring_counts(u);
  for (guint32 done = 0, some; done < n.requests; done += some) {
    bool quiet = done < n.silent;
    some = uring_fill(map, (quiet ? n.silent : n.requests) - done, quiet);
    int e = uring_enter(fd, some, 0, 0);
    if (e != (int)some)
      return fail_ring(u, e < 0 ? -e : EIO, "its counters cannot be set", error);
    uring_reap(map);
  }
  for (guint32 done = 0; done < n.extra;) {
    int e = uring_post(fd, map, n.extra - done);
    if (e <= 0)
      return fail_ring(u, -e, "its completions cannot be counted up", error);
    uring_reap(map);
    done += (guint32)e;
  }
  return true;
}

static int make(const CkptUring *u, struct io_uring_params *p) {
  const guint32 base = IORING_SETUP_CQSIZE | (u->flags & URING_KNOWN_FLAGS & ~(guint32)(IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF)) |
                       (u->flags & URING_SINGLE_ISSUER ? IORING_SETUP_R_DISABLED : 0u) |
                       (u->flags & URING_DEFER_TASKRUN ? URING_TASKRUN_FLAG : 0u);
  *p = (struct io_uring_params){.flags = base | IORING_SETUP_SUBMIT_ALL, .cq_entries = u->cq_entries};
  int fd = uring_setup(u->sq_entries, p);
  if (fd != -EINVAL)
    return fd;
  *p = (struct io_uring_params){.flags = base, .cq_entries = u->cq_entries}; /* before 5.18 */
  return uring_setup(u->sq_entries, p);
}

static bool fits(const CkptUring *u, const UringMap *m, GError **error) {
  const guint32 cqes_at = u->has_cqes_at ? u->cqes_at : URING_CQES_AT;
  if ((m->p.sq_off.array != u->array_at && u->array_at != u->rings.len) || u->sqes.len > m->sqes_size || m->p.cq_off.cqes != cqes_at ||
      m->p.sq_off.array + (gsize)u->sq_entries * 4 > m->rings_size)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "The io_uring of file id %u: this kernel lays rings out in another way", u->file_id);
  return true;
}

static bool map_as(int fd, const CkptUring *u, const struct io_uring_params *p, UringMap *ret, GError **error) {
  *ret = (UringMap){0};
  int e = uring_map(fd, p, ret);
  return e == 0 ? fits(u, ret, error) : fail_ring(u, -e, "it cannot be mapped", error);
}

bool uring_map_restored(int fd, const CkptUring *u, UringMap *ret, GError **error) {
  struct io_uring_params p;
  int like = make(u, &p);
  if (like < 0)
    return fail_ring(u, -like, "it cannot be made", error);
  (void)close(like);
  return map_as(fd, u, &p, ret, error);
}

/* Its content follows when it is in use (engine/restore/rings.c). The counters of one that belongs to a thread are that thread's
 * business. */
static bool count(int fd, const CkptUring *u, const struct io_uring_params *p, GError **error) {
  UringMap map;
  bool ok = map_as(fd, u, p, &map, error);
  for (size_t i = 0; ok && i < u->n_group; i++) {
    int e = u->group[i]->has_address ? 0 : uring_register_group(fd, u->group[i]); /* tasks are going to map it */
    ok = e == 0 || fail_ring(u, -e, "its buffers cannot be registered", error);
  }
  if (ok && !uring_counts_late(u))
    ok = advance(fd, &map, u, error);
  uring_unmap(&map);
  return ok;
}

bool uring_is_late(const Checkpoint *checkpoint, guint32 file_id) {
  const CkptUring *u = checkpoint->urings->len ? checkpoint_find_uring(checkpoint, file_id) : NULL;
  return u && u->flags & IORING_SETUP_SQPOLL;
}

/* The submitting thread of a ring that has one is to rest soon: its program wakes it when there is something to do. */
#define IDLE_MSEC 10

struct io_uring_params uring_late_params(const CkptUring *u) {
  return (struct io_uring_params){.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | (u->flags & URING_KNOWN_FLAGS),
      .cq_entries = u->cq_entries, .sq_thread_cpu = u->cpu, .sq_thread_idle = IDLE_MSEC};
}

/* The submitting thread takes what it finds. */
static bool give(int fd, UringMap *map, guint32 n, const CkptUring *u, GError **error) {
  guint32 tail = *uring_word(map, map->p.sq_off.tail);
  for (int patience = 0; patience < 20000; patience++) {
    guint32 head = __atomic_load_n(uring_word(map, map->p.sq_off.head), __ATOMIC_ACQUIRE);
    if (head == tail)
      return true;
    if (__atomic_load_n(uring_word(map, map->p.sq_off.flags), __ATOMIC_ACQUIRE) & IORING_SQ_NEED_WAKEUP)
      (void)uring_enter(fd, n, 0, IORING_ENTER_SQ_WAKEUP);
    g_usleep(patience < 100 ? 20 : 500);
  }
  return fail_ring(u, ETIME, "its thread takes no requests", error);
}

/* A thread's completions come a little after it has taken the requests. */
static bool await(UringMap *map, guint32 tail, const CkptUring *u, GError **error) {
  for (int patience = 0; __atomic_load_n(uring_word(map, map->p.cq_off.tail), __ATOMIC_ACQUIRE) != tail; patience++) {
    if (patience > 20000)
      return fail_ring(u, ETIME, "its thread completes no requests", error);
    g_usleep(patience < 100 ? 20 : 500);
  }
  uring_reap(map);
  return true;
}

bool uring_fill_late(int fd, const CkptUring *u, GError **error) {
  UringMap map;
  const UringCounts n = uring_counts(u);
  bool ok = uring_map_restored(fd, u, &map, error);
  for (guint32 done = 0, some; ok && done < n.requests; done += some) {
    bool quiet = done < n.silent;
    some = uring_fill(&map, (quiet ? n.silent : n.requests) - done, quiet);
    ok = give(fd, &map, some, u, error) && await(&map, quiet ? 0 : done + some - n.silent, u, error);
  }
  for (guint32 done = 0; ok && done < n.extra;) {
    int e = uring_post(fd, &map, n.extra - done);
    ok = e > 0 ? await(&map, n.requests - n.silent + done + (guint32)e, u, error)
               : fail_ring(u, -e, "its completions cannot be counted up", error);
    done += ok ? (guint32)e : 0;
  }
  if (ok)
    uring_put_completions(&map, u);
  if (ok)
    uring_put_requests(&map, u);
  uring_unmap(&map);
  return ok;
}

int uring_open(Restorer *r, const FileEntry *entry, GError **error) {
  const CkptUring *u = checkpoint_find_uring(restorer_checkpoint(r), entry->id);
  struct io_uring_params p;
  if (u->flags & ~(guint32)URING_KNOWN_FLAGS || u->sq_head > URING_REQUESTS_MAX || u->cq_tail > URING_REQUESTS_MAX) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The io_uring of file id %u has impossible flags or counters", entry->id);
    return -1;
  }
  if (u->flags & IORING_SETUP_SQPOLL)
    return open("/dev/null", O_RDWR | O_CLOEXEC); /* keeps its place */
  _cleanup_fd_ int fd = make(u, &p);
  if (fd < 0) {
    fail_ring(u, -fd, fd == -EPERM ? "it cannot be made (is kernel.io_uring_disabled set?)" : "it cannot be made", error);
    return -1;
  }
  return count(fd, u, &p, error) ? fd_take(&fd) : -1;
}

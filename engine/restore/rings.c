/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings of io_uring(7): what only the threads that use them can do. They exist already (uring-restore.c); those of one
 * thread are switched on by it and then brought to their counters, all get their files, buffers and limits. */
#include "ring-groups.h"
#include "stages.h"
#include "uring.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REGISTER_SPARSE 1u
#define REGISTER_RING_FDS_ 20

struct resource_register {
  guint32 n, flags;
  guint64 reserved, data, tags;
};

struct resource_update {
  guint32 offset, reserved;
  guint64 data, tags;
  guint32 n, reserved2;
};

bool ring_run(Restore *r, const PlanThread *th, const Program *p, GError **error) {
  size_t mark = region_mark(r->region);
  LoadedProgram loaded;
  g_autofree char *who = g_strdup_printf("tid %d (io_uring)", (int)th->thread->tid);
  if (!region_load(r->region, p, NULL, &loaded, error))
    return false;
  region_start(r->region, th->lane, &loaded);
  if (!region_wait(r->region, th->lane, th->thread->tid, error) || !region_check(th->lane, &loaded, who, error))
    return false;
  region_release(r->region, mark);
  return true;
}

static int fd_in(const Task *task, guint32 file_id) {
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->id == file_id)
      return (int)e->fd;
  }
  return -1;
}

static bool find_user(const Restore *r, const CkptUring *u, pid_t tid, RingUser *ret) {
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; t->task && !t->zombie && k < t->threads->len; k++) {
      const PlanThread *th = &g_array_index(t->threads, PlanThread, k);
      if (th->thread->tid != tid)
        continue;
      *ret = (RingUser){u, t, th, fd_in(t->task, u->file_id)};
      return ret->fd >= 0;
    }
  }
  return false;
}

static void add_register(const RingUser *x, guint32 opcode, const void *data, size_t size, guint32 n, Program *p) {
  size_t at = data ? program_data(p, data, size) : 0;
  PROGRAM_CALL(p, "io_uring_register", SYS_io_uring_register, ARG(x->fd), ARG(opcode), data ? ARG_DATA(at) : ARG(0), ARG(n));
  program_expect(p, EXPECT_OK, 0);
}

static void add_files(const RingUser *x, Program *p) {
  const struct resource_register all = {.n = x->u->n_files, .flags = REGISTER_SPARSE};
  add_register(x, IORING_REGISTER_FILES2, &all, sizeof all, sizeof all, p);
  for (size_t i = 0; i < x->u->n_file; i++) {
    gint32 fd = (gint32)x->u->file[i]->fd;
    struct resource_update one = {.offset = x->u->file[i]->index};
    size_t value = program_data(p, &fd, sizeof fd), at = program_data(p, &one, sizeof one);
    program_data_pointer(p, at + offsetof(struct resource_update, data), value);
    PROGRAM_CALL(p, "io_uring_register a file", SYS_io_uring_register, ARG(x->fd), ARG(IORING_REGISTER_FILES_UPDATE), ARG_DATA(at), ARG(1));
    program_expect(p, EXPECT_EQUAL, 1);
  }
}

static void add_buffers(const RingUser *x, Program *p) {
  const struct resource_register all = {.n = x->u->n_buffers, .flags = REGISTER_SPARSE};
  add_register(x, IORING_REGISTER_BUFFERS2, &all, sizeof all, sizeof all, p);
  for (size_t i = 0; i < x->u->n_buffer; i++) {
    const CkptUringBuffer *b = x->u->buffer[i];
    const guint64 iov[2] = {b->address, b->size};
    struct resource_update one = {.offset = b->index, .n = 1};
    size_t value = program_data(p, iov, sizeof iov), at = program_data(p, &one, sizeof one);
    program_data_pointer(p, at + offsetof(struct resource_update, data), value);
    PROGRAM_CALL(p, "io_uring_register a buffer", SYS_io_uring_register, ARG(x->fd), ARG(IORING_REGISTER_BUFFERS_UPDATE), ARG_DATA(at), ARG(sizeof one));
    program_expect(p, EXPECT_EQUAL, 1);
  }
}

static void add_setup(const RingUser *x, Program *p) {
  const CkptUring *u = x->u;
  const guint32 limits[2] = {u->bounded, u->unbounded};
  if (u->has_n_files && u->n_files)
    add_files(x, p);
  if (u->has_n_buffers && u->n_buffers)
    add_buffers(x, p);
  for (size_t i = 0; i < u->n_group; i++)
    if (u->group[i]->has_address)
      uring_group_program(u->group[i], x->fd, p);
  if (u->has_bounded && u->has_unbounded)
    add_register(x, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, sizeof limits, 2, p);
}

static bool run_setup(Restore *r, const RingUser *x, GError **error) {
  g_autoptr(Program) p = program_new();
  if (x->u->flags & URING_SINGLE_ISSUER)
    add_register(x, IORING_REGISTER_ENABLE_RINGS, NULL, 0, 0, p);
  PROGRAM_CALL(p, "io_uring_enter", SYS_io_uring_enter, ARG(x->fd), ARG(1), ARG(0), ARG(0), ARG(0), ARG(0)); /* its first use */
  program_expect(p, EXPECT_EQUAL, 0);
  add_setup(x, p);
  return ring_run(r, x->thread, p, error);
}

static bool run_enter(Restore *r, const RingUser *x, guint32 n, guint32 flags, GError **error) {
  g_autoptr(Program) p = program_new();
  PROGRAM_CALL(p, "io_uring_enter", SYS_io_uring_enter, ARG(x->fd), ARG(n), ARG(0), ARG(flags), ARG(0), ARG(0));
  program_expect(p, EXPECT_EQUAL, n);
  return ring_run(r, x->thread, p, error) && job_poll(r->job, error);
}

/* The thread takes the requests, we give them and take the completions. @chosen: those that were made already. */
static bool run_requests(Restore *r, const RingUser *x, UringMap *map, guint32 chosen, GError **error) {
  const UringCounts n = uring_counts(x->u);
  for (guint32 done = 0, some; done < n.requests - chosen; done += some) {
    bool quiet = done < n.silent;
    some = uring_fill(map, (quiet ? n.silent : n.requests - chosen) - done, quiet);
    if (!run_enter(r, x, some, 0, error))
      return false;
    uring_reap(map);
  }
  return true;
}

static bool run_posts(Restore *r, const RingUser *x, int fd, UringMap *map, GError **error) {
  const UringCounts n = uring_counts(x->u);
  for (guint32 done = 0; done < n.extra;) {
    int e = uring_post(fd, map, n.extra - done);
    if (e <= 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -e, "The io_uring of file id %u: its completions cannot be counted up", x->u->file_id);
    if (!run_enter(r, x, 0, IORING_ENTER_GETEVENTS, error))
      return false;
    uring_reap(map);
    done += (guint32)e;
  }
  guint32 tail = *uring_word(map, map->p.cq_off.tail);
  return tail == x->u->cq_tail ||
         engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The io_uring of file id %u: it has %u completions, not %u", x->u->file_id, tail, x->u->cq_tail);
}

/* --- requests in flight --- */

static bool find_requester(const Restore *r, const CkptUring *u, const CkptUringRequest *q, RingUser *ret, GError **error) {
  return find_user(r, u, (pid_t)q->tid, ret) || engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
      "The io_uring of file id %u has a request of tid %u, which does not have it", u->file_id, q->tid);
}

/* What a wait is told at once if it could not begin. */
static bool is_wrong(gint32 result) {
  return result == -EINVAL || result == -EBADF || result == -EFAULT || result == -EOPNOTSUPP || result == -EPERM || result == -ENOMEM;
}

static bool check_begun(const CkptUring *u, const struct io_uring_sqe *sqe, const UringMap *map, guint32 before, GError **error) {
  guint32 tail = __atomic_load_n(uring_word(map, map->p.cq_off.tail), __ATOMIC_ACQUIRE);
  size_t size = u->flags & IORING_SETUP_CQE32 ? 32 : 16;
  for (; before != tail; before++) {
    struct io_uring_cqe cqe;
    memcpy(&cqe, map->rings + map->p.cq_off.cqes + (before & (u->cq_entries - 1)) * size, sizeof cqe);
    if (cqe.user_data == sqe->user_data && is_wrong(cqe.res))
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -cqe.res, "The io_uring of file id %u: operation %u on descriptor %d cannot be made again",
          u->file_id, sqe->opcode, sqe->fd);
  }
  return true;
}

/* A timeout's span is read when the request is taken. */
static bool run_request(Restore *r, const CkptUring *u, const CkptUringRequest *q, UringMap *map, GError **error) {
  RingUser x;
  LoadedProgram loaded;
  struct io_uring_sqe sqe;
  const gint64 time[2] = {q->sec, q->nsec};
  size_t mark = region_mark(r->region);
  g_autoptr(Program) p = program_new();
  memcpy(&sqe, q->sqe.data, sizeof sqe);
  if (!find_requester(r, u, q, &x, error))
    return false;
  size_t span = program_data(p, time, sizeof time), pointer = program_data(p, NULL, 8);
  program_data_pointer(p, pointer, span);
  PROGRAM_CALL(p, "io_uring_enter a request in flight", SYS_io_uring_enter, ARG(x.fd), ARG(1), ARG(0), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_EQUAL, 1);
  if (!region_load(r->region, p, NULL, &loaded, error))
    return false;
  if (q->has_sec)
    memcpy(&sqe.addr, loaded.data + pointer, sizeof sqe.addr);
  guint32 before = __atomic_load_n(uring_word(map, map->p.cq_off.tail), __ATOMIC_ACQUIRE);
  g_autofree char *who = g_strdup_printf("tid %u (io_uring)", q->tid);
  uring_place(map, &sqe);
  region_start(r->region, x.thread->lane, &loaded);
  if (!region_wait(r->region, x.thread->lane, x.thread->thread->tid, error) || !region_check(x.thread->lane, &loaded, who, error))
    return false;
  region_release(r->region, mark);
  return check_begun(u, &sqe, map, before, error);
}

static bool run_eventfd(Restore *r, const RingUser *x, GError **error) {
  g_autoptr(Program) p = program_new();
  const gint32 fd = (gint32)x->u->eventfd;
  if (!x->u->has_eventfd)
    return true;
  add_register(x, x->u->eventfd_async ? IORING_REGISTER_EVENTFD_ASYNC : IORING_REGISTER_EVENTFD, &fd, sizeof fd, 1, p);
  return ring_run(r, x->thread, p, error);
}

static bool fill(Restore *r, const RingUser *x, int fd, UringMap *map, GError **error) {
  const CkptUring *u = x->u;
  guint32 done = 0;
  if (uring_counts_late(u) && (!ring_groups_run(r, x, fd, map, &done, error) || !run_requests(r, x, map, done, error) || !run_posts(r, x, fd, map, error)))
    return false;
  if (!ring_groups_put(r, x, fd, error))
    return false;
  uring_put_completions(map, u);
  if (!run_eventfd(r, x, error))
    return false;
  for (size_t i = 0; i < u->n_request; i++)
    if (!run_request(r, u, u->request[i], map, error))
      return false;
  uring_put_requests(map, u);
  return true;
}

static bool run_content(Restore *r, const RingUser *x, GError **error) {
  UringMap map = {0};
  int fd = restorer_fd_of(r->restorer, x->u->file_id, error);
  bool ok = fd >= 0 && uring_map_restored(fd, x->u, &map, error) && fill(r, x, fd, &map, error);
  uring_unmap(&map);
  return ok;
}

static void add_index(const RingUser *x, const CkptUringIndex *index, Program *p) {
  struct resource_update one = {.offset = index->index, .data = (guint64)x->fd};
  size_t at = program_data(p, &one, sizeof one);
  PROGRAM_CALL(p, "io_uring_register its number", SYS_io_uring_register, ARG(x->fd), ARG(REGISTER_RING_FDS_), ARG_DATA(at), ARG(1));
  program_expect(p, EXPECT_EQUAL, 1);
}

static bool run_index(Restore *r, const CkptUring *u, const CkptUringIndex *index, GError **error) {
  RingUser x;
  if (!find_user(r, u, (pid_t)index->tid, &x))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The io_uring of file id %u is registered by tid %u, which does not have it",
        u->file_id, index->tid);
  g_autoptr(Program) p = program_new();
  add_index(&x, index, p);
  return ring_run(r, x.thread, p, error);
}

static bool find_owner(const Restore *r, const CkptUring *u, RingUser *ret, GError **error) {
  return find_user(r, u, (pid_t)u->owner, ret) ||
         engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The io_uring of file id %u belongs to tid %u, which does not have it",
             u->file_id, u->owner);
}

static bool run_ring(Restore *r, const CkptUring *u, GError **error) {
  RingUser x;
  if (!find_owner(r, u, &x, error) || !run_setup(r, &x, error) || !run_content(r, &x, error))
    return false;
  for (size_t i = 0; i < u->n_registered; i++)
    if (!run_index(r, u, u->registered[i], error))
      return false;
  return true;
}

bool rings_run(Restore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->urings->len; i++) {
    const CkptUring *u = r->checkpoint->urings->pdata[i];
    if (!(u->flags & IORING_SETUP_SQPOLL) && !run_ring(r, u, error))
      return false;
  }
  return true;
}

/* --- with a thread of the kernel's --- */

static bool build_late(Restore *r, const RingUser *x, Program *p, GError **error) {
  struct io_uring_params params = uring_late_params(x->u);
  size_t at = program_data(p, &params, sizeof params);
  size_t made = PROGRAM_CALL(p, "io_uring_setup", SYS_io_uring_setup, ARG(x->u->sq_entries), ARG_DATA(at));
  program_expect(p, EXPECT_OK, 0);
  for (guint i = 0; i < x->task->task->fds->len; i++) {
    const FdinfoEntry *e = x->task->task->fds->pdata[i];
    if (e->id == x->u->file_id)
      PROGRAM_CALL(p, "dup3", SYS_dup3, ARG_RESULT(made), ARG(e->fd), ARG(e->flags & 1 ? O_CLOEXEC : 0));
  }
  PROGRAM_CALL(p, "close", SYS_close, ARG_RESULT(made));
  if (!ring_maps_build_late(r, x->task, x->u, x->fd, p, error))
    return false;
  add_setup(x, p);
  for (size_t i = 0; i < x->u->n_registered; i++)
    add_index(x, x->u->registered[i], p);
  return true;
}

bool rings_build_late(Restore *r, const PlanTask *t, Program *p, GError **error) {
  bool any = r->restorer && t->owner[SHARE_FILES] == t && restorer_thread_pidfds(r->restorer, t->task, p);
  for (guint i = 0; r->restorer && i < r->checkpoint->urings->len; i++) {
    const CkptUring *u = r->checkpoint->urings->pdata[i];
    RingUser x;
    if (!(u->flags & IORING_SETUP_SQPOLL) || (pid_t)u->owner != t->pid)
      continue;
    if (!find_owner(r, u, &x, error) || !build_late(r, &x, p, error))
      return false;
    any = true;
  }
  return !any || restorer_epoll_rings(r->restorer, t->task, p, error);
}

static bool fill_late(Restore *r, const CkptUring *u, GError **error) {
  RingUser x;
  if (!find_owner(r, u, &x, error))
    return false;
  int pidfd = (int)syscall(SYS_pidfd_open, x.task->pid, 0);
  int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, x.fd, 0);
  bool ok = fd >= 0 ? uring_fill_late(fd, u, error)
                    : engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot get the io_uring of pid %d", (int)x.task->pid);
  if (fd >= 0)
    (void)close(fd);
  if (pidfd >= 0)
    (void)close(pidfd);
  return ok;
}

bool rings_fill_late(Restore *r, GError **error) {
  for (guint i = 0; i < r->checkpoint->urings->len; i++) {
    const CkptUring *u = r->checkpoint->urings->pdata[i];
    if (u->flags & IORING_SETUP_SQPOLL && !fill_late(r, u, error))
      return false;
  }
  return true;
}

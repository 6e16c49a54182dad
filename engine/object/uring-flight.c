/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests in flight. What the kernel is busy with gets the time to end; what waits for something is made again at the restore, if
 * the kernel can be read (uring-inside.h). Else only a ring is taken in which nothing is in flight, which the counters tell: each
 * request ends with one completion, unless requests with several completions (or none) were ever used. */

#include "proc.h"
#include "uring-look.h"
#include <linux/io_uring.h>
#include <sys/mman.h>

#define PATIENCE_USEC (1000 * 1000)
#define DISK_PATIENCE_USEC (60 * 1000 * 1000)
#define PAUSE_USEC 2000
#define PATIENT_LOOKS 50 /* at least so many in vain: on a busy machine one may take as long as all patience */
#define CURE "let the program cancel it, or use epoll instead (UV_USE_IO_URING=0 for node and libuv)"

static gint32 by_counters(const Look *l) {
  guint32 dropped = *uring_word(&l->map, l->map.p.sq_off.dropped);
  return (gint32)((guint32)l->facts.cached_sq_head - dropped - (guint32)l->facts.cached_cq_tail - l->facts.n_overflow);
}

static gint32 in_flight(const Look *l) {
  return !l->has_inside ? by_counters(l) : l->in.in_flight >= 0 ? l->in.in_flight : by_counters(l) + (gint32)l->in.extra;
}

static const UringRequest *request_at(const Look *l, guint k) {
  return &g_array_index(l->in.requests, UringRequest, k);
}

/* The first that cannot be made again, or is being worked on. */
static const UringRequest *hindered(const Look *l) {
  for (guint k = 0; l->has_inside && k < l->in.requests->len; k++)
    if (request_at(l, k)->hinder || request_at(l, k)->passing)
      return request_at(l, k);
  return NULL;
}

bool uring_is_settled(const Look *l) {
  bool taken = l->facts.sq_thread < 0 || l->facts.sq_head == l->facts.sq_tail;
  guint known = l->has_inside ? l->in.n_listed : 0;
  return taken && !l->facts.n_overflow && (l->has_inside || !l->facts.n_polls) && in_flight(l) == (gint32)known && !hindered(l) &&
         (!known || l->facts.sq_thread < 0);
}

/* Whether a worker runs or waits for a device: that ends, however slow the disk is. Who waits for data or a peer sleeps. */
static bool is_worked_on(const Look *l) {
  g_autoptr(GArray) tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
  ProcStat stat;
  if (!proc_threads(l->pid, tids, NULL))
    return false;
  for (guint k = 0; k < tids->len; k++) {
    pid_t tid = g_array_index(tids, pid_t, k);
    if (tid != l->sq_tid && proc_is_kernel_worker(l->pid, tid) && proc_thread_stat(l->pid, tid, &stat, NULL) &&
        (stat.state == 'D' || stat.state == 'R'))
      return true;
  }
  return false;
}

/* Completions are made by the thread that asked for them, and may begin what waited for them: patience begins anew with each look
 * at which something was being done. */
bool uring_settle(Look *l, GError **error) {
  gint64 now = g_get_monotonic_time(), until = now + PATIENCE_USEC;
  int in_vain = 0;
  for (gint64 last = now + DISK_PATIENCE_USEC;; now = g_get_monotonic_time()) {
    if (!uring_look_again(l, error) || !job_poll(collector_job(l->c), error))
      return false;
    if (uring_is_settled(l) || (!l->has_inside && l->facts.n_polls) || (now > until && in_vain > PATIENT_LOOKS))
      return true;
    in_vain++;
    if (is_worked_on(l) && now < last)
      until = now + PATIENCE_USEC, in_vain = 0;
    (void)uring_look_enter(l);
    g_usleep(PAUSE_USEC);
  }
}

static bool block_hindered(const Look *l) {
  const UringRequest *q = hindered(l);
  if (!q)
    return false;
  g_autofree char *where = q->file ? g_strdup_printf(" on %s %d", q->sqe[1] & IOSQE_FIXED_FILE ? "registered file" : "descriptor", q->fd) : g_strdup("");
  g_autofree char *reason = g_strdup_printf("%s (operation %u)%s is in flight, and cannot be made again: %s", uring_op_name(q->opcode), q->opcode,
      where, q->hinder ? q->hinder : "it is being worked on");
  uring_look_block(l, reason, q->hinder ? CURE : "try again");
  return true;
}

static bool block_listed(const Look *l) {
  g_autofree char *reason = NULL;
  if (block_hindered(l))
    return true;
  if (in_flight(l) == (gint32)l->in.n_listed)
    reason = g_strdup_printf("%u requests of a ring with a submitting thread (IORING_SETUP_SQPOLL) are in flight", l->in.n_listed);
  else if (l->in.in_flight >= 0 || in_flight(l) > (gint32)l->in.n_listed)
    reason = g_strdup_printf("%d requests are in flight that a worker or a device is busy with, or that wait for others (IOSQE_IO_DRAIN)%s",
        in_flight(l) - (gint32)l->in.n_listed, l->in.in_flight >= 0 ? "" : ", or had no completion (IOSQE_CQE_SKIP_SUCCESS)");
  if (reason)
    uring_look_block(l, reason, CURE);
  return reason != NULL;
}

void uring_block_in_flight(const Look *l) {
  const char *cure = CURE;
  g_autofree char *reason = NULL;
  if (l->facts.n_overflow)
    reason = g_strdup_printf("%u completions did not fit in its queue", l->facts.n_overflow), cure = "try again when the program has read some";
  else if (l->facts.sq_thread >= 0 && l->facts.sq_head != l->facts.sq_tail)
    reason = g_strdup("its submitting thread does not come to an end"), cure = "try again";
  else if (l->has_inside && block_listed(l))
    return;
  else if (l->facts.n_polls)
    reason = g_strdup_printf("%u requests are in flight that wait for files to be ready: %s (operation %u)%s", l->facts.n_polls,
        uring_op_name(l->facts.poll_op), l->facts.poll_op, l->facts.n_polls > 1 ? " and others" : "");
  else if (in_flight(l) > 0)
    reason = g_strdup_printf("%d requests are in flight (a timeout, a futex, a device), or had no completion (IOSQE_CQE_SKIP_SUCCESS)", in_flight(l));
  else
    reason = g_strdup("it was used for requests with several completions (multishot): the kernel does not tell whether any is in flight");
  uring_look_block(l, reason, cure);
}

/* --- into the record --- */

int uring_find_fd(const Look *l, const Task *task, guint64 file) {
  for (guint i = 0; file && i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (uring_reader_file(l->reader, collector_local_of(l->c, e->id)) == file)
      return (int)e->fd;
  }
  return -1;
}

/* Whose thread it is; NULL if that task does not have the ring. */
static const Task *task_of(const Look *l, pid_t tid) {
  const Checkpoint *checkpoint = collector_checkpoint(l->c);
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    bool has_thread = false;
    for (guint k = 0; task->threads && k < task->threads->len; k++)
      has_thread |= ((Thread *)task->threads->pdata[k])->tid == tid;
    for (guint i = 0; has_thread && i < task->fds->len; i++)
      if (((FdinfoEntry *)task->fds->pdata[i])->id == l->u->file_id)
        return task;
  }
  return NULL;
}

/* The number by which it was named may be another file's by now. */
static bool find_file(const Look *l, const Task *task, const UringRequest *q, struct io_uring_sqe *sqe) {
  if (!q->file)
    return true;
  if (sqe->flags & IOSQE_FIXED_FILE)
    return l->in.files && q->fd >= 0 && (guint32)q->fd < l->in.n_files && l->in.files[q->fd] == q->file;
  guint32 id = q->fd >= 0 ? collector_file_id_of(l->c, (pid_t)task->pstree->pid, q->fd) : 0;
  if (!id || uring_reader_file(l->reader, collector_local_of(l->c, id)) != q->file)
    sqe->fd = uring_find_fd(l, task, q->file);
  return sqe->fd >= 0;
}

static bool save_request(const Look *l, const UringRequest *q) {
  struct io_uring_sqe sqe;
  const Task *task = task_of(l, q->tid);
  memcpy(&sqe, q->sqe, sizeof sqe);
  if (!task || !find_file(l, task, q, &sqe)) {
    g_autofree char *reason = g_strdup_printf("%s (operation %u) is in flight, and %s", uring_op_name(q->opcode), q->opcode,
        task ? "its file is open in no descriptor" : "the thread that made it does not have the ring");
    uring_look_block(l, reason, CURE);
    return false;
  }
  CkptUringRequest *r = MESSAGE_NEW(CkptUringRequest, ckpt_uring_request__init);
  r->sqe.len = sizeof sqe;
  r->sqe.data = g_memdup2(&sqe, sizeof sqe);
  r->tid = (guint32)q->tid;
  r->has_sec = r->has_nsec = q->timed;
  r->sec = q->sec, r->nsec = q->nsec;
  l->u->request = g_renew(CkptUringRequest *, l->u->request, l->u->n_request + 1);
  l->u->request[l->u->n_request++] = r;
  return true;
}

bool uring_save_requests(const Look *l) {
  for (guint k = 0; l->has_inside && k < l->in.requests->len; k++)
    if (!save_request(l, request_at(l, k)))
      return false;
  return true;
}

int uring_request_local(Collector *c, const CkptUringRequest *q) {
  const Checkpoint *checkpoint = collector_checkpoint(c);
  struct io_uring_sqe sqe;
  memcpy(&sqe, q->sqe.data, sizeof sqe);
  if (sqe.opcode == IORING_OP_TIMEOUT || sqe.flags & IOSQE_FIXED_FILE)
    return -1;
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    for (guint k = 0; task->threads && k < task->threads->len; k++)
      if (((Thread *)task->threads->pdata[k])->tid == (pid_t)q->tid)
        return collector_local_of(c, collector_file_id_of(c, (pid_t)task->pstree->pid, sqe.fd));
  }
  return -1;
}

static bool takes(const CkptUring *u, guint64 user_data) {
  for (size_t i = 0; i < u->n_request; i++) {
    struct io_uring_sqe sqe;
    memcpy(&sqe, u->request[i]->sqe.data, sizeof sqe);
    if (sqe.opcode != IORING_OP_POLL_ADD && sqe.opcode != IORING_OP_TIMEOUT && sqe.user_data == user_data)
      return true;
  }
  return false;
}

bool uring_has_moved(const CkptUring *u, const UringMap *map, guint32 tail) {
  const size_t size = u->flags & IORING_SETUP_CQE32 ? 32 : 16;
  if (tail - u->cq_tail > u->cq_entries)
    return true;
  for (guint32 at = u->cq_tail; at != tail; at++) {
    struct io_uring_cqe cqe;
    memcpy(&cqe, map->rings + map->p.cq_off.cqes + (at & (u->cq_entries - 1)) * size, sizeof cqe);
    if (takes(u, cqe.user_data))
      return true;
  }
  return false;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A request in flight is made again from what the kernel has kept of it. That is right for those that wait and have done nothing
 * so far: polls, accepts, receipts and reads of what is not there yet, timeouts. Those that had the kernel copy something at the
 * beginning (names, vectors of buffers) are hindered: a program may use that memory for something else then. */

#include "uring-inside.h"
#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <time.h>

#define OP_READ_MULTISHOT 49
#define CQE_SKIP (1u << 6)
#define KEPT_FLAGS (IOSQE_FIXED_FILE | IOSQE_ASYNC | IOSQE_BUFFER_SELECT | CQE_SKIP) /* drained and linked they are no more */
#define RECV_KEPT (1u | 2u | 16u) /* POLL_FIRST, MULTISHOT, BUNDLE */
#define RECV_MULTISHOT 2u
#define RECV_POLL_FIRST 1u
#define ACCEPT_MULTISHOT 1u
#define TIMEOUT_CLOCKS (IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME)
#define TIMEOUT_MULTISHOT (1u << 6)
#define NSEC_PER_SEC_ 1000000000ll

typedef struct Field {
  const char *structure, *member;
  size_t at; /* in UringLayout */
  bool optional;
} Field;

#define AT(field) offsetof(UringLayout, field)

static const Field fields[] = {
    {"file", "private_data", AT(file_private), false},
    {"file", "f_ref.refcnt", AT(file_refs), true}, /* since 6.13, one less */
    {"file", "f_count", AT(file_count), true},
    {"task_struct", "files", AT(files), false},
    {"task_struct", "thread_pid", AT(thread_pid), false},
    {"files_struct", "fdt", AT(fdt), false},
    {"fdtable", "fd", AT(fd_table), false},
    {"fdtable", "max_fds", AT(max_fds), false},
    {"pid", "level", AT(level), false},
    {"pid", "numbers", AT(numbers), false},
    {"io_ring_ctx", "flags", AT(ctx_flags), false},
    {"io_ring_ctx", "nr_req_allocated", AT(requests), true}, /* since 6.16 */
    {"io_ring_ctx", "cq_extra", AT(extra), true},            /* before 6.16 */
    {"io_ring_ctx", "submit_state.free_list.next", AT(free_list), false},
    {"io_ring_ctx", "cancel_table.hbs", AT(hbs), false},
    {"io_ring_ctx", "cancel_table.hash_bits", AT(hash_bits), false},
    {"io_ring_ctx", "cancel_table_locked.hbs", AT(locked_hbs), true}, /* before 6.12 */
    {"io_ring_ctx", "cancel_table_locked.hash_bits", AT(locked_bits), true},
    {"io_hash_bucket", "list", AT(bucket_list), false},
    {"io_ring_ctx", "timeout_list", AT(timeouts), false},
    {"io_ring_ctx", "ltimeout_list", AT(link_timeouts), false},
    {"io_ring_ctx", "futex_list", AT(futexes), true},
    {"io_ring_ctx", "waitid_list", AT(waitids), true},
    {"io_ring_ctx", "cancelable_uring_cmd", AT(commands), true},
    {"io_ring_ctx", "cq_timeouts", AT(n_timeouts), false},
    {"io_ring_ctx", "cached_cq_tail", AT(cq_tail), false},
    {"io_ring_ctx", "io_ev_fd", AT(evfd), false},
    {"io_ring_ctx", "io_bl_xa.xa_head", AT(groups), true},
    {"io_ring_ctx", "personalities.xa_head", AT(personalities), false},
    {"io_ring_ctx", "restrictions.registered", AT(restricted), false},
    {"io_ring_ctx", "file_table.data.nr", AT(n_file_nodes), true},
    {"io_ring_ctx", "file_table.data.nodes", AT(file_nodes), true},
    {"io_ring_ctx", "nr_user_files", AT(n_file_slots), true}, /* before 6.13 */
    {"io_ring_ctx", "file_table.files", AT(file_slots), true},
    {"io_ev_fd", "cq_ev_fd", AT(evfd_ctx), false},
    {"io_ev_fd", "eventfd_async", AT(evfd_async), true},
    {"eventfd_ctx", "flags", AT(eventfd_flags), true},
    {"io_kiocb", "opcode", AT(opcode), false},
    {"io_kiocb", "flags", AT(flags), false},
    {"io_kiocb", "cqe.user_data", AT(user_data), false},
    {"io_kiocb", "cqe.fd", AT(fd), false},
    {"io_kiocb", "tctx", AT(tctx), true},
    {"io_kiocb", "task", AT(task), true}, /* before 6.13 */
    {"io_kiocb", "link", AT(link), false},
    {"io_kiocb", "hash_node", AT(hash), false},
    {"io_kiocb", "async_data", AT(data), false},
    {"io_kiocb", "creds", AT(creds), false},
    {"io_kiocb", "buf_index", AT(buf_index), false},
    {"io_kiocb", "poll_refs", AT(poll_refs), false},
    {"io_uring_task", "task", AT(tctx_task), true},
    {"io_rsrc_node", "file_ptr", AT(node_file), true},
    {"io_poll", "events", AT(poll_events), false},
    {"io_accept", "addr", AT(accept_addr), false},
    {"io_accept", "addr_len", AT(accept_size), false},
    {"io_accept", "flags", AT(accept_flags), false},
    {"io_accept", "iou_flags", AT(accept_iou), true},
    {"io_accept", "file_slot", AT(accept_slot), false},
    {"io_sr_msg", "buf", AT(sr_buf), false},
    {"io_sr_msg", "len", AT(sr_len), false},
    {"io_sr_msg", "done_io", AT(sr_done), false},
    {"io_sr_msg", "msg_flags", AT(sr_msg_flags), false},
    {"io_sr_msg", "flags", AT(sr_flags), false},
    {"io_sr_msg", "buf_group", AT(sr_group), true},
    {"io_sr_msg", "mshot_len", AT(sr_mshot), true},
    {"io_sr_msg", "mshot_total_len", AT(sr_total), true},
    {"io_rw", "kiocb.ki_pos", AT(rw_pos), false},
    {"io_rw", "addr", AT(rw_addr), false},
    {"io_rw", "len", AT(rw_len), false},
    {"io_rw", "flags", AT(rw_flags), false},
    {"io_async_rw", "bytes_done", AT(async_done), false},
    {"io_async_rw", "buf_group", AT(async_group), true},
    {"io_timeout", "off", AT(timeout_off), false},
    {"io_timeout", "target_seq", AT(timeout_target), false},
    {"io_timeout", "repeats", AT(timeout_repeats), true},
    {"io_timeout", "list", AT(timeout_list), false},
    {"io_timeout_data", "timer", AT(timer), false},
    {"io_timeout_data", "timer.node.expires", AT(timer_expires), true},
    {"io_timeout_data", "ts.tv_sec", AT(timer_sec), false},
    {"io_timeout_data", "ts.tv_nsec", AT(timer_nsec), false},
    {"io_timeout_data", "mode", AT(timer_mode), false},
    {"io_timeout_data", "flags", AT(timer_flags), false},
    {"io_buffer_list", "buf_ring", AT(bl_ring), true},
    {"io_buffer_list", "nr_entries", AT(bl_entries), true},
    {"io_buffer_list", "head", AT(bl_head), true},
    {"io_buffer_list", "mask", AT(bl_mask), true},
    {"io_buffer_list", "flags", AT(bl_flags), true},
    {"io_buffer_list", "bgid", AT(bl_id), true},
    {"io_buffer_list", "region.pages", AT(bl_pages), true},
    {"io_buffer_list", "region.flags", AT(bl_region_flags), true},
};

static guint64 flag_of(const KernelTypes *t, const char *name) {
  gint64 bit = kernel_types_constant(t, name, -1);
  return bit >= 0 && bit < 64 ? 1ull << bit : 0;
}

bool uring_layout_find(const KernelTypes *t, UringLayout *ret) {
  UringLayout l = {0};
  for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
    int at = kernel_types_offset(t, fields[i].structure, fields[i].member);
    if (at < 0 && !fields[i].optional)
      return false;
    *(int *)(void *)((char *)&l + fields[i].at) = at;
  }
  l.file_slots = kernel_types_size(t, "io_fixed_file") == 8 ? l.file_slots : -1;
  l.bucket_size = kernel_types_size(t, "io_hash_bucket");
  l.request_size = kernel_types_size(t, "io_kiocb");
  l.async_size = kernel_types_size(t, "io_async_rw");
  l.timer_size = kernel_types_size(t, "io_timeout_data");
  l.f_link = flag_of(t, "REQ_F_LINK_BIT") | flag_of(t, "REQ_F_HARDLINK_BIT") | flag_of(t, "REQ_F_LINK_TIMEOUT_BIT");
  l.f_arm = flag_of(t, "REQ_F_ARM_LTIMEOUT_BIT");
  l.f_creds = flag_of(t, "REQ_F_CREDS_BIT");
  l.f_data = flag_of(t, "REQ_F_ASYNC_DATA_BIT");
  l.f_cur_pos = flag_of(t, "REQ_F_CUR_POS_BIT");
  l.f_multishot = flag_of(t, "REQ_F_APOLL_MULTISHOT_BIT");
  l.f_partial = flag_of(t, "REQ_F_PARTIAL_IO_BIT");
  *ret = l;
  if (l.requests < 0 && l.extra < 0) /* then nothing says how many there are */
    return false;
  return l.bucket_size && l.request_size && l.request_size <= KERNEL_READ_MAX && l.async_size && l.async_size <= KERNEL_READ_MAX && l.timer_size &&
         l.timer_size <= KERNEL_READ_MAX && l.f_creds && l.f_data && (l.task >= 0 || (l.tctx >= 0 && l.tctx_task >= 0));
}

const char *uring_op_name(guint op) {
  static const char *const names[] = {[1] = "a readv", [2] = "a writev", [3] = "an fsync", [4] = "a read", [5] = "a write", [6] = "a poll",
      [9] = "a sendmsg", [10] = "a recvmsg", [11] = "a timeout", [13] = "an accept", [15] = "a timeout of another request", [16] = "a connect",
      [22] = "a read", [23] = "a write", [26] = "a send", [27] = "a recv", [29] = "an epoll_ctl", [30] = "a splice", [46] = "a command to a device",
      [47] = "a send", [48] = "a sendmsg", [49] = "a read", [50] = "a waitid", [51] = "a futex wait", [53] = "a futex wait", [58] = "a recv",
      [59] = "an epoll_wait"};
  return op < G_N_ELEMENTS(names) && names[op] ? names[op] : "a request";
}

static guint64 field(const unsigned char *bytes, int at, size_t size) {
  guint64 value = 0;
  memcpy(&value, bytes + at, size);
  return value;
}
#define U64(at) field(bytes, (at), 8)
#define U32(at) ((guint32)field(bytes, (at), 4))
#define U16(at) ((guint16)field(bytes, (at), 2))

static void decode_poll(const UringLayout *l, const unsigned char *bytes, struct io_uring_sqe *s) {
  guint32 events = U32(l->poll_events);
  s->poll32_events = events & ~(guint32)(EPOLLONESHOT | EPOLLET);
  s->len = (events & EPOLLONESHOT ? 0 : IORING_POLL_ADD_MULTI) | (events & EPOLLET ? 0 : 1u << 3 /* ADD_LEVEL */);
}

static void decode_accept(const UringLayout *l, const unsigned char *bytes, struct io_uring_sqe *s) {
  s->addr = U64(l->accept_addr);
  s->addr2 = U64(l->accept_size);
  s->accept_flags = U32(l->accept_flags);
  s->file_index = U32(l->accept_slot);
  s->ioprio = l->accept_iou >= 0 ? (guint16)U32(l->accept_iou) : U64(l->flags) & l->f_multishot ? ACCEPT_MULTISHOT : 0;
}

static const char *decode_recv(const UringLayout *l, const unsigned char *bytes, struct io_uring_sqe *s) {
  const bool multishot = U64(l->flags) & l->f_multishot;
  if (U32(l->sr_done))
    return "it has done a part of its work";
  s->addr = U64(l->sr_buf);
  s->len = U32(l->sr_len);
  s->msg_flags = U32(l->sr_msg_flags);
  s->ioprio = (guint16)(U16(l->sr_flags) & RECV_KEPT) | RECV_POLL_FIRST;
  s->buf_group = s->flags & IOSQE_BUFFER_SELECT ? l->sr_group >= 0 ? U16(l->sr_group) : U16(l->buf_index) : 0;
  if (multishot) {
    s->ioprio |= RECV_MULTISHOT;
    s->addr = 0;
    s->len = l->sr_mshot >= 0 ? U32(l->sr_mshot) : 0;
    if (l->sr_total >= 0 && U32(l->sr_total))
      return "it ends after a number of bytes"; /* some of which it may have had */
  } else if (s->flags & IOSQE_BUFFER_SELECT) {
    s->addr = 0;
  }
  return NULL;
}

static const char *decode_read(const UringLayout *l, const unsigned char *bytes, const unsigned char *more, struct io_uring_sqe *s) {
  if (U64(l->flags) & l->f_partial)
    return "it has done a part of its work";
  if (more && field(more, l->async_done, 8))
    return "it has done a part of its work";
  s->addr = U64(l->rw_addr);
  s->len = U32(l->rw_len);
  s->off = U64(l->flags) & l->f_cur_pos ? (guint64)-1 : U64(l->rw_pos);
  s->rw_flags = (gint32)U32(l->rw_flags);
  if (s->flags & IOSQE_BUFFER_SELECT) {
    if (l->async_group >= 0 && !more)
      return "the kernel does not tell which buffers it may take";
    s->addr = 0;
    s->buf_group = l->async_group >= 0 ? (guint16)field(more, l->async_group, 2) : U16(l->buf_index);
  }
  if (s->opcode == OP_READ_MULTISHOT)
    s->len = 0;
  return NULL;
}

static gint64 now_of(guint32 flags) {
  struct timespec now;
  (void)clock_gettime(flags & IORING_TIMEOUT_BOOTTIME ? CLOCK_BOOTTIME : flags & IORING_TIMEOUT_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
  return now.tv_sec * NSEC_PER_SEC_ + now.tv_nsec;
}

/* What is left of it; a time of day stays one. */
static const char *decode_timeout(const UringLayout *l, const unsigned char *bytes, const unsigned char *more, guint32 tail, UringRequest *q,
    struct io_uring_sqe *s) {
  if (!more || l->timer_expires < 0)
    return "the kernel does not tell when it ends";
  guint32 flags = (guint32)field(more, l->timer_flags, 4), off = U32(l->timeout_off);
  gint64 left = (gint64)field(more, l->timer_expires, 8) - now_of(flags);
  bool of_day = flags & IORING_TIMEOUT_ABS && flags & IORING_TIMEOUT_REALTIME, again = flags & TIMEOUT_MULTISHOT;
  q->timed = true;
  q->sec = (gint64)field(more, l->timer_sec, 8), q->nsec = (gint64)field(more, l->timer_nsec, 8);
  s->len = 1;
  s->timeout_flags = of_day ? flags : flags & ~(guint32)(IORING_TIMEOUT_ABS | TIMEOUT_CLOCKS);
  if (!of_day && flags & IORING_TIMEOUT_BOOTTIME)
    s->timeout_flags |= IORING_TIMEOUT_BOOTTIME;
  if (!of_day && !again)
    q->sec = MAX(left, 0) / NSEC_PER_SEC_, q->nsec = MAX(left, 0) % NSEC_PER_SEC_;
  if (again)
    s->off = off ? l->timeout_repeats >= 0 ? U32(l->timeout_repeats) : off : 0;
  else if (off)
    s->off = MAX((gint32)(U32(l->timeout_target) - tail), 1);
  return NULL;
}

static const char *decode(const UringLayout *l, const unsigned char *bytes, const unsigned char *more, guint32 tail, UringRequest *q,
    struct io_uring_sqe *s) {
  const guint64 flags = U64(l->flags);
  if (flags & (l->f_link | l->f_arm) || U64(l->link))
    return "it is linked to others";
  if (flags & l->f_creds)
    return "it has credentials of its own";
  switch (q->opcode) {
  case IORING_OP_POLL_ADD:
    decode_poll(l, bytes, s);
    return NULL;
  case IORING_OP_ACCEPT:
    decode_accept(l, bytes, s);
    return NULL;
  case IORING_OP_RECV:
    return decode_recv(l, bytes, s);
  case IORING_OP_READ:
  case OP_READ_MULTISHOT:
    return decode_read(l, bytes, more, s);
  case IORING_OP_TIMEOUT:
    return decode_timeout(l, bytes, more, tail, q, s);
  default:
    return "the kernel has copied what it needs of the program's memory, or of its state";
  }
}

void uring_request_decode(const UringLayout *l, const unsigned char *bytes, const unsigned char *more, guint32 tail, UringRequest *q) {
  struct io_uring_sqe s = {0};
  q->opcode = bytes[l->opcode];
  q->fd = (gint32)U32(l->fd);
  q->file = U64(0);
  q->passing = U32(l->poll_refs) & 0x3fffffffu && q->opcode != IORING_OP_TIMEOUT;
  q->takes = q->opcode != IORING_OP_POLL_ADD && q->opcode != IORING_OP_TIMEOUT;
  s.opcode = (guint8)q->opcode;
  s.flags = (guint8)(U64(l->flags) & KEPT_FLAGS);
  s.fd = q->fd;
  s.user_data = U64(l->user_data);
  q->hinder = decode(l, bytes, more, tail, q, &s);
  _Static_assert(sizeof s == sizeof q->sqe, "a request has 64 bytes");
  memcpy(q->sqe, &s, sizeof s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a ring of io_uring(7) keeps for itself, as far as the kernel lets it be read (kernel-types.h): the requests in flight, the
 * eventfd that is told, the groups of buffers. Without that right, or on a kernel that has these things in other places than
 * those this version knows, all of it stays hidden, and a dump refuses what depends on it. */

#include "internal.h"
#include "kernel-types.h"

/* A request in flight. */
typedef struct UringRequest {
  guint64 at;        /* where the kernel has it */
  guint64 file;      /* the same of its file, 0: none */
  pid_t tid;         /* who is told of it */
  guint opcode;
  gint32 fd;         /* a number in its table, or among the registered files */
  const char *hinder; /* why it cannot be made again; NULL: it can */
  bool passing;      /* it is being worked on at this very moment */
  bool takes;        /* its end takes something from somewhere (a connection, data) */
  unsigned char sqe[64];
  bool timed;        /* sqe.addr is to point to that time */
  gint64 sec, nsec;
} UringRequest;

/* Buffers to choose from (IORING_REGISTER_PBUF_RING). */
typedef struct UringGroup {
  guint32 id, entries, head, flags; /* flags: IOU_PBUF_RING_* */
  guint64 pages; /* where the kernel has its first page's description; of memory of its own: 0 */
  bool empty;    /* of those given by requests: none is left */
  bool legacy;   /* given by requests (IORING_OP_PROVIDE_BUFFERS) */
  bool unknown;  /* of a kind that this version does not know */
} UringGroup;

typedef struct UringInside {
  guint32 setup_flags;
  gint32 in_flight;     /* exactly; -1: the kernel keeps no count */
  guint32 extra;        /* completions that are no request's last, where it keeps none */
  guint n_listed;       /* of them, found */
  GArray *requests;     /* UringRequest */
  guint64 eventfd;      /* where the kernel has what it tells, 0: none */
  bool eventfd_async;
  bool restricted, personalities;
  GArray *groups;       /* UringGroup; NULL: cannot be read */
  guint64 *files;       /* registered ones: where the kernel has them; NULL: cannot be read */
  guint32 n_files;
} UringInside;

void uring_inside_clear(UringInside *i);

typedef struct UringReader UringReader;

/* NULL: nothing can be read. */
UringReader *uring_reader_new(void);
void uring_reader_free(UringReader *r);
/* Where the kernel has the file behind one of our descriptors, and what that is a face of; 0: cannot be read. */
guint64 uring_reader_file(UringReader *r, int fd);
guint64 uring_reader_private(UringReader *r, guint64 file);
/* How many hold the file behind our descriptor @fd (descriptors, requests); 0: cannot be read. */
gint64 uring_reader_refs(UringReader *r, int fd);
/* Whether nobody but our own descriptors holds it. */
bool uring_reader_is_ours(UringReader *r, int fd);
/* The flags that the eventfd behind our descriptor @fd was made with; -1: cannot be read. */
gint64 uring_reader_eventfd_flags(UringReader *r, int fd);
/* sizeof(struct page). */
guint64 uring_reader_page_size(const UringReader *r);
/* Reads all of the ring behind our descriptor @fd. False if it changes too fast, or cannot be read. */
bool uring_inside_read(UringReader *r, int fd, UringInside *ret);

/* --- uring-request.c --- */

/* Where things are on this kernel. -1: not there. */
typedef struct UringLayout {
  int file_private, file_refs, file_count, files, fdt, fd_table, max_fds, thread_pid, level, numbers;
  int ctx_flags, requests, extra, free_list, hbs, hash_bits, locked_hbs, locked_bits, bucket_list, timeouts, link_timeouts, futexes, waitids, commands, n_timeouts, cq_tail,
      evfd, groups, personalities, restricted, n_file_nodes, file_nodes, n_file_slots, file_slots;
  int evfd_ctx, evfd_async, eventfd_flags;
  int opcode, flags, user_data, fd, tctx, task, link, hash, data, creds, buf_index, poll_refs;
  int tctx_task;
  int node_file;
  int poll_events;
  int accept_addr, accept_size, accept_flags, accept_iou, accept_slot;
  int sr_buf, sr_len, sr_done, sr_msg_flags, sr_flags, sr_group, sr_mshot, sr_total;
  int rw_pos, rw_addr, rw_len, rw_flags, async_done, async_group;
  int timeout_off, timeout_target, timeout_repeats, timeout_list, timer, timer_sec, timer_nsec, timer_mode, timer_flags, timer_expires;
  int bl_ring, bl_entries, bl_head, bl_mask, bl_flags, bl_id, bl_pages, bl_region_flags;
  guint32 bucket_size, request_size, async_size, timer_size;
  guint64 f_link, f_arm, f_creds, f_data, f_cur_pos, f_multishot, f_partial;
} UringLayout;

bool uring_layout_find(const KernelTypes *t, UringLayout *ret);
/* Makes the request that would be made again, given the bytes of the kernel's @bytes and of its @more (NULL: none), and what
 * the ring has completed (@tail, without the timeouts). Sets hinder where it cannot. Pure. */
void uring_request_decode(const UringLayout *l, const unsigned char *bytes, const unsigned char *more, guint32 tail, UringRequest *q);
/* "a recvmsg". */
const char *uring_op_name(guint opcode);

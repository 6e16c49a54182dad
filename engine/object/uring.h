/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A ring of io_uring(7), as its memory shows it to whoever has its descriptor. */

#include "object.h"
#include <linux/io_uring.h>

#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1u << 7)
#endif
#define URING_SINGLE_ISSUER (1u << 12) /* since 6.0 */
#define URING_DEFER_TASKRUN (1u << 13) /* since 6.1 */
#define URING_TASKRUN_FLAG (1u << 9)
#define URING_REGISTERED_RING (1u << 4) /* of io_uring_enter(2) */
/* What a ring can be made of. The rest are hints that nobody can see, or makes a ring that nobody can look into. */
#define URING_KNOWN_FLAGS                                                                                              \
  (IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF | IORING_SETUP_SQE128 | IORING_SETUP_CQE32 |        \
      URING_SINGLE_ISSUER | URING_DEFER_TASKRUN)
/* Also what makes no difference here: CQSIZE, CLAMP, ATTACH_WQ, R_DISABLED, SUBMIT_ALL, COOP_TASKRUN, TASKRUN_FLAG,
 * REGISTERED_FD_ONLY, NO_SQARRAY, HYBRID_IOPOLL. */
#define URING_HINT_FLAGS (0x78u | 0x380u | 0x18000u | 0x20000u)
/* Where completions begin since Linux 6.6; before that behind six cache lines. */
#define URING_CQES_AT 64u
/* As many requests are made to do nothing, until the counters of a new ring are those of the old one. */
#define URING_REQUESTS_MAX (1u << 28)

typedef struct UringMap {
  unsigned char *rings, *sqes; /* shared with the ring */
  size_t rings_size, sqes_size;
  struct io_uring_params p; /* sizes, and where things are */
} UringMap;

/* Maps what is there. @p: of this ring, or of one that is like it. Whatever the size of its entries. 0 or a negative errno:
 * -EINVAL for a ring whose memory is the program's own. */
int uring_map(int fd, const struct io_uring_params *p, UringMap *ret);
void uring_unmap(UringMap *map);
guint32 *uring_word(const UringMap *map, guint32 offset);

int uring_setup(guint32 entries, struct io_uring_params *p); /* descriptor or negative errno */
int uring_enter(int fd, guint32 submit, guint32 wait, guint32 flags);
int uring_register(int fd, guint32 opcode, const void *arg, guint32 n);

/* The next batch of requests that do nothing, in place and ready to be taken: at most @want, at most what the ring holds
 * and its completions have room for. Those without a completion if @silent. Returns how many. */
guint32 uring_fill(UringMap *map, guint32 want, bool silent);
/* How a new ring gets its counters: requests that do nothing, the first of them without a completion; and completions of no request
 * of its own, where some had several. What is in flight is made again and counts, too. */
typedef struct UringCounts {
  guint32 requests, silent, extra;
} UringCounts;
UringCounts uring_counts(const CkptUring *u);
/* Groups of buffers: how they may be registered (IOU_PBUF_RING_MMAP, INC). */
#define URING_GROUP_MMAP 1u
#define URING_GROUP_FLAGS 3u
/* How many requests it takes to let the kernel choose @head buffers; each may take that many at a time. */
#define URING_GROUP_BATCH 256u
static inline guint32 uring_group_requests(guint32 head, guint32 entries) {
  guint32 batch = MIN(MAX(entries, 1), URING_GROUP_BATCH);
  return (head + batch - 1) / batch;
}
/* Whether the thread that the ring belongs to has to bring it to its counters. */
static inline bool uring_counts_late(const CkptUring *u) {
  for (size_t i = 0; i < u->n_group; i++)
    if (u->group[i]->head)
      return true;
  return u->flags & URING_SINGLE_ISSUER;
}
/* One in memory of the kernel's, by the engine; 0 or a negative errno. One in the program's memory, by a program. */
int uring_register_group(int fd, const CkptUringGroup *g);
void uring_group_program(const CkptUringGroup *g, int fd, Program *p);
/* That memory of the kernel's; NULL: it cannot be mapped. */
unsigned char *uring_map_group(int fd, guint32 id, size_t size);
void uring_unmap_group(unsigned char *map, size_t size);

/* At most @want completions that another ring sends to this one, as far as there is room: how many, or a negative errno. In a ring
 * of one thread they arrive when that asks for them. */
int uring_post(int fd, const UringMap *map, guint32 want);
/* All completions are taken. */
void uring_reap(UringMap *map);
/* A map of a ring that was just made for @u (uring_open), as it was made. False with error. */
bool uring_map_restored(int fd, const CkptUring *u, UringMap *ret, GError **error);
/* Of a ring with a submitting thread: how its thread has to make it; and counters and content of it, given a descriptor. */
struct io_uring_params uring_late_params(const CkptUring *u);
bool uring_fill_late(int fd, const CkptUring *u, GError **error);
/* The content that was saved, in a ring whose counters are right already: completions, then (when all requests in flight have been
 * made again) requests. */
void uring_put_completions(UringMap *map, const CkptUring *u);
void uring_put_requests(UringMap *map, const CkptUring *u);
/* A request of the image, in place as the next to be taken. */
void uring_place(UringMap *map, const void *sqe);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "internal.h"
#include "uring.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGE 4096u

int uring_setup(guint32 entries, struct io_uring_params *p) {
  long fd = syscall(SYS_io_uring_setup, entries, p);
  return fd < 0 ? -errno : (int)fd;
}

int uring_enter(int fd, guint32 submit, guint32 wait, guint32 flags) {
  long n = syscall(SYS_io_uring_enter, fd, submit, wait, flags, NULL, 0);
  return n < 0 ? -errno : (int)n;
}

int uring_register(int fd, guint32 opcode, const void *arg, guint32 n) {
  long done = syscall(SYS_io_uring_register, fd, opcode, arg, n);
  return done < 0 ? -errno : (int)done;
}

guint32 *uring_word(const UringMap *map, guint32 offset) {
  return (guint32 *)(void *)(map->rings + offset);
}

/* Mappings may be longer than what is behind them. A read beyond the end fails in a system call, not here. */
static size_t pages_behind(const unsigned char *at, size_t size) {
  int ends[2];
  size_t there = 0;
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
    return 0;
  for (char byte; there < size && write(ends[1], at + there, 1) == 1 && read(ends[0], &byte, 1) == 1;)
    there += PAGE;
  (void)close(ends[0]);
  (void)close(ends[1]);
  return there;
}

static int map_part(int fd, off_t offset, size_t most, size_t least, unsigned char **ret, size_t *ret_size) {
  for (size_t size = (most + PAGE - 1) & ~(size_t)(PAGE - 1);; size -= PAGE) {
    void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    if (m == MAP_FAILED && (size <= PAGE || size - PAGE < least))
      return -errno;
    if (m == MAP_FAILED)
      continue;
    (void)madvise(m, size, MADV_DONTFORK); /* processes that outlive us would keep the ring */
    *ret = m;
    *ret_size = pages_behind(m, size);
    if (*ret_size < size)
      (void)munmap(*ret + *ret_size, size - *ret_size);
    return *ret_size ? 0 : -EFAULT;
  }
}

int uring_map(int fd, const struct io_uring_params *p, UringMap *ret) {
  UringMap m = {.p = *p};
  size_t cqes = p->cq_off.cqes + (size_t)p->cq_entries * sizeof(struct io_uring_cqe);
  size_t most = p->cq_off.cqes + (size_t)p->cq_entries * 32 + PAGE + (size_t)p->sq_entries * 4;
  int e = map_part(fd, IORING_OFF_SQ_RING, most, cqes, &m.rings, &m.rings_size);
  if (e < 0)
    return e;
  e = map_part(fd, (off_t)IORING_OFF_SQES, (size_t)p->sq_entries * 128, (size_t)p->sq_entries * 64, &m.sqes, &m.sqes_size);
  *ret = m;
  if (e < 0)
    uring_unmap(ret);
  return e;
}

void uring_unmap(UringMap *map) {
  if (map->rings)
    (void)munmap(map->rings, map->rings_size);
  if (map->sqes)
    (void)munmap(map->sqes, map->sqes_size);
  map->rings = map->sqes = NULL;
}

static size_t sqe_size(const UringMap *map) {
  return map->p.flags & IORING_SETUP_SQE128 ? 128 : 64;
}

guint32 uring_fill(UringMap *map, guint32 want, bool silent) {
  guint32 n = MIN(want, MIN(map->p.sq_entries, map->p.cq_entries)), mask = map->p.sq_entries - 1;
  guint32 tail = *uring_word(map, map->p.sq_off.tail);
  for (guint32 i = 0; i < n; i++) {
    struct io_uring_sqe *sqe = (struct io_uring_sqe *)(void *)(map->sqes + ((tail + i) & mask) * sqe_size(map));
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->flags = silent ? IOSQE_CQE_SKIP_SUCCESS : 0;
    uring_word(map, map->p.sq_off.array)[(tail + i) & mask] = (tail + i) & mask;
  }
  __atomic_store_n(uring_word(map, map->p.sq_off.tail), tail + n, __ATOMIC_RELEASE);
  return n;
}

void uring_reap(UringMap *map) {
  guint32 tail = __atomic_load_n(uring_word(map, map->p.cq_off.tail), __ATOMIC_ACQUIRE);
  __atomic_store_n(uring_word(map, map->p.cq_off.head), tail, __ATOMIC_RELEASE);
}

/* Indexes nobody ever wrote (a ring that was made without them): each request is where its number says. */
static void put_array(UringMap *map, const CkptUring *u) {
  guint32 *array = uring_word(map, map->p.sq_off.array), any = 0;
  gsize there = MIN(u->rings.len - u->array_at, (gsize)u->sq_entries * 4);
  bool first_only = true;
  memset(array, 0, (size_t)u->sq_entries * 4);
  memcpy(array, u->rings.data + u->array_at, there);
  for (guint32 i = 0; i < u->sq_entries; i++)
    any |= array[i];
  for (gsize i = sqe_size(map); first_only && i < u->sqes.len; i++)
    first_only = !u->sqes.data[i];
  for (guint32 i = 0; !any && !(first_only && u->sq_tail > 1) && i < u->sq_entries; i++)
    array[i] = i;
}

void uring_put_completions(UringMap *map, const CkptUring *u) {
  gsize cqes = map->p.cq_off.cqes, end = MIN(u->array_at, map->rings_size);
  if (end > cqes)
    memcpy(map->rings + cqes, u->rings.data + cqes, end - cqes);
  *uring_word(map, map->p.cq_off.flags) = *(const guint32 *)(const void *)(u->rings.data + map->p.cq_off.flags);
  __atomic_store_n(uring_word(map, map->p.cq_off.head), u->cq_head, __ATOMIC_RELEASE);
}

void uring_put_requests(UringMap *map, const CkptUring *u) {
  put_array(map, u);
  memcpy(map->sqes, u->sqes.data, MIN(u->sqes.len, map->sqes_size));
  *uring_word(map, map->p.sq_off.dropped) = *(const guint32 *)(const void *)(u->rings.data + map->p.sq_off.dropped);
  __atomic_store_n(uring_word(map, map->p.sq_off.tail), u->sq_tail, __ATOMIC_RELEASE);
}

void uring_place(UringMap *map, const void *sqe) {
  guint32 mask = map->p.sq_entries - 1, tail = *uring_word(map, map->p.sq_off.tail);
  unsigned char *at = map->sqes + (tail & mask) * sqe_size(map);
  memset(at, 0, sqe_size(map));
  memcpy(at, sqe, sizeof(struct io_uring_sqe));
  uring_word(map, map->p.sq_off.array)[tail & mask] = tail & mask;
  __atomic_store_n(uring_word(map, map->p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
}

/* --- counters --- */

UringCounts uring_counts(const CkptUring *u) {
  UringCounts n = {.requests = u->sq_head - (guint32)u->n_request};
  n.silent = n.requests > u->cq_tail ? n.requests - u->cq_tail : 0;
  n.extra = u->cq_tail > n.requests ? u->cq_tail - n.requests : 0;
  return n;
}

#define OP_MSG_RING 40
#define POST_BATCH 128u

/* From a ring of our own that lives as long as the call. */
static int post(int own, UringMap *from, int fd, guint32 n) {
  guint32 tail = *uring_word(from, from->p.sq_off.tail);
  for (guint32 i = 0; i < n; i++) {
    struct io_uring_sqe message = {.opcode = OP_MSG_RING, .fd = fd};
    uring_place(from, &message);
  }
  int sent = uring_enter(own, n, 0, 0);
  if (sent != (int)n)
    *uring_word(from, from->p.sq_off.tail) = tail;
  return sent == 0 ? -EIO : sent;
}

int uring_post(int fd, const UringMap *map, guint32 want) {
  struct io_uring_params p = {0};
  guint32 used = *uring_word(map, map->p.cq_off.tail) - *uring_word(map, map->p.cq_off.head), room = map->p.cq_entries - MIN(used, map->p.cq_entries);
  guint32 n = MIN(MIN(want, room), POST_BATCH);
  _cleanup_fd_ int own = uring_setup(POST_BATCH, &p);
  UringMap from;
  int e = own < 0 ? own : uring_map(own, &p, &from);
  if (e < 0)
    return e;
  e = post(own, &from, fd, n);
  uring_unmap(&from);
  return e;
}

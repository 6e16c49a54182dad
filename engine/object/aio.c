/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What can be read of a context is its ring: completed events between head and tail. Where the tail stands the kernel keeps
 * for itself, too, and only completions move it. So a new context completes as many writes to /dev/null as it takes: those
 * before the head are fetched at once, the others stay, and get the bytes of the old events.
 *
 * Requests that are not finished nobody shows. A dump waits until nothing completes any more; see docs/coverage.md. */

#include "aio.h"
#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define PAGE 4096ull
#define EVENT_SIZE 32u
#define MAGIC 0xa10a10a1u
#define BATCH 512u
#define MAX_RING (256ull << 20)

_Static_assert(sizeof(AioHeader) == EVENT_SIZE && sizeof(struct io_event) == EVENT_SIZE, "a ring is an array of 32 bytes each");

static guint64 capacity(guint64 size) {
  return size / EVENT_SIZE - 1;
}

bool aio_header_valid(const AioHeader *h, guint64 size) {
  return h->magic == MAGIC && size && !(size % PAGE) && size <= MAX_RING && h->nr == capacity(size) && h->tail < h->nr;
}

static bool read_header(pid_t pid, guint64 start, AioHeader *h) {
  struct iovec local = {h, sizeof *h}, remote = {(void *)(uintptr_t)start, sizeof *h}; /* NOLINT(performance-no-int-to-ptr) */
  return process_vm_readv(pid, &local, 1, &remote, 1, 0) == sizeof *h;
}

bool aio_ring_tail(pid_t pid, guint64 start, guint32 *ret_tail) {
  AioHeader h;
  if (!read_header(pid, start, &h))
    return false;
  *ret_tail = h.tail;
  return true;
}

/* The least number of requests for which the kernel makes a ring that large: it doubles it and adds two. */
static guint32 requests_of(guint64 size) {
  guint64 before = size > PAGE ? capacity(size - PAGE) : 0;
  return (guint32)MAX((before + 1) / 2, 1 + (before > 2 ? (before - 2) / 2 : 0));
}

AioRingEntry *aio_ring_collect(pid_t pid, guint64 start, guint64 end, GError **error) {
  AioHeader h;
  if (!read_header(pid, start, &h)) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "pid %d: cannot read its AIO ring", (int)pid);
    return NULL;
  }
  if (!aio_header_valid(&h, end - start)) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "pid %d: its AIO ring at 0x%" G_GINT64_MODIFIER "x is not as this version knows them",
        (int)pid, start);
    return NULL;
  }
  AioRingEntry *e = malloc(sizeof *e);
  aio_ring_entry__init(e);
  e->id = start;
  e->nr_req = requests_of(end - start);
  e->ring_len = (guint32)(end - start);
  return e;
}

/* Where the program's data has what all batches of one ring use. */
typedef struct Batch {
  size_t id; /* of the context, eight bytes */
  size_t pointers, events;
} Batch;

static Batch add_batch(int null_fd, Program *p) {
  struct iocb iocb = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (guint32)null_fd};
  Batch b = {.id = program_data(p, NULL, 8)};
  size_t at = program_data(p, &iocb, sizeof iocb);
  b.pointers = program_data(p, NULL, BATCH * 8);
  for (size_t i = 0; i < BATCH; i++)
    program_data_pointer(p, b.pointers + i * 8, at);
  b.events = program_data(p, NULL, BATCH * EVENT_SIZE);
  return b;
}

static void add_completions(const Batch *b, guint64 start, guint32 n, bool fetch, Program *p) {
  for (guint32 part; n; n -= part) {
    part = MIN(n, BATCH);
    PROGRAM_CALL(p, "io_submit", SYS_io_submit, ARG(start), ARG(part), ARG_DATA(b->pointers));
    program_expect(p, EXPECT_EQUAL, part);
    if (!fetch)
      continue;
    PROGRAM_CALL(p, "io_getevents", SYS_io_getevents, ARG(start), ARG(part), ARG(part), ARG_DATA(b->events), ARG(0));
    program_expect(p, EXPECT_EQUAL, part);
  }
}

void aio_ring_build(const AioRingEntry *e, guint64 start, const AioHeader *h, int null_fd, int pages_fd, guint64 pages_at, Program *p) {
  guint32 head = h->head % h->nr, waiting = h->tail >= head ? h->tail - head : h->nr - (head - h->tail);
  Batch b = add_batch(null_fd, p);
  /* its place is taken, so that the kernel makes it somewhere else */
  PROGRAM_CALL(p, "mmap for an AIO ring", SYS_mmap, ARG(start), ARG(e->ring_len), ARG(PROT_NONE),
      ARG(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE), ARG(-1), ARG(0));
  program_expect(p, EXPECT_EQUAL, (gint64)start);
  PROGRAM_CALL(p, "io_setup (see sysctl fs.aio-max-nr)", SYS_io_setup, ARG(requests_of(e->ring_len)), ARG_DATA(b.id));
  PROGRAM_CALL(p, "mremap AIO ring", SYS_mremap, ARG_WORD(b.id), ARG(e->ring_len), ARG(e->ring_len), ARG(MREMAP_MAYMOVE | MREMAP_FIXED),
      ARG(start));
  program_expect(p, EXPECT_EQUAL, (gint64)start);
  add_completions(&b, start, head, true, p);
  add_completions(&b, start, waiting, false, p);
  PROGRAM_CALL(p, "pread64 events", SYS_pread64, ARG(pages_fd), ARG(start + EVENT_SIZE), ARG(e->ring_len - EVENT_SIZE), ARG(pages_at + EVENT_SIZE));
  program_expect(p, EXPECT_EQUAL, (gint64)e->ring_len - EVENT_SIZE);
}

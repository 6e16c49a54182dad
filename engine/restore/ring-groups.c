/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The kernel chooses a buffer when a request takes it, so requests take as many as were taken before: each receives some bytes from
 * a socket, one byte a buffer, into a page that is there for the purpose. The lists are filled for that, and are put back afterwards,
 * before any request of the program's is made again. */

#include "ring-groups.h"
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define PAGE 4096u
#define CHUNK 16384u /* of a list, in one program */
#define RECV_BUNDLE (1u << 4)

typedef struct Entry { /* struct io_uring_buf; the first one's end is the tail */
  guint64 address;
  guint32 size;
  guint16 id, tail;
} Entry;

/* Made in the task for the time. */
typedef struct Source {
  gint32 ends[2];
  guint64 page;
} Source;

static bool make_source(Restore *r, const RingUser *x, Source *ret, GError **error) {
  size_t mark = region_mark(r->region);
  LoadedProgram loaded;
  g_autoptr(Program) p = program_new();
  g_autofree char *who = g_strdup_printf("tid %d (io_uring)", (int)x->thread->thread->tid);
  size_t ends = program_data(p, NULL, sizeof ret->ends);
  size_t page = PROGRAM_CALL(p, "mmap for buffers", SYS_mmap, ARG(0), ARG(PAGE), ARG(PROT_READ | PROT_WRITE), ARG(MAP_PRIVATE | MAP_ANONYMOUS), ARG(-1), ARG(0));
  program_expect(p, EXPECT_OK, 0);
  PROGRAM_CALL(p, "socketpair for buffers", SYS_socketpair, ARG(AF_UNIX), ARG(SOCK_STREAM | SOCK_CLOEXEC), ARG(0), ARG_DATA(ends));
  program_expect(p, EXPECT_OK, 0);
  if (!region_load(r->region, p, NULL, &loaded, error))
    return false;
  region_start(r->region, x->thread->lane, &loaded);
  if (!region_wait(r->region, x->thread->lane, x->thread->thread->tid, error) || !region_check(x->thread->lane, &loaded, who, error))
    return false;
  memcpy(ret->ends, loaded.data + ends, sizeof ret->ends);
  ret->page = (guint64)loaded.results[page];
  region_release(r->region, mark);
  return true;
}

static bool drop_source(Restore *r, const RingUser *x, const Source *s, GError **error) {
  g_autoptr(Program) p = program_new();
  PROGRAM_CALL(p, "close", SYS_close, ARG(s->ends[0]));
  PROGRAM_CALL(p, "close", SYS_close, ARG(s->ends[1]));
  PROGRAM_CALL(p, "munmap", SYS_munmap, ARG(s->page), ARG(PAGE));
  return ring_run(r, x->thread, p, error);
}

/* Memory of the program's is written by itself. */
static bool put_there(Restore *r, const RingUser *x, guint64 address, const unsigned char *bytes, size_t size, GError **error) {
  for (size_t done = 0, part; done < size; done += part) {
    g_autoptr(Program) p = program_new();
    part = MIN(size - done, CHUNK);
    const guint64 local[2] = {0, part}, remote[2] = {address + done, part};
    size_t data = program_data(p, bytes + done, part), from = program_data(p, local, sizeof local), to = program_data(p, remote, sizeof remote);
    program_data_pointer(p, from, data);
    PROGRAM_CALL(p, "process_vm_writev a list of buffers", SYS_process_vm_writev, ARG(x->task->pid), ARG_DATA(from), ARG(1), ARG_DATA(to), ARG(1), ARG(0));
    program_expect(p, EXPECT_EQUAL, (gint64)part);
    if (!ring_run(r, x->thread, p, error))
      return false;
  }
  return true;
}

static bool put(Restore *r, const RingUser *x, int fd, const CkptUringGroup *g, const unsigned char *bytes, GError **error) {
  if (g->has_address)
    return put_there(r, x, g->address, bytes, g->content.len, error);
  unsigned char *map = uring_map_group(fd, g->id, g->content.len);
  if (!map)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "The buffers of the io_uring of file id %u cannot be mapped", x->u->file_id);
  memcpy(map, bytes, g->content.len);
  uring_unmap_group(map, g->content.len);
  return true;
}

static bool take(Restore *r, const RingUser *x, const CkptUringGroup *g, const Source *s, UringMap *map, guint32 n, GError **error) {
  static const unsigned char bytes[URING_GROUP_BATCH];
  struct io_uring_sqe sqe = {.opcode = IORING_OP_RECV, .flags = IOSQE_BUFFER_SELECT, .ioprio = RECV_BUNDLE, .fd = s->ends[0], .len = n,
      .msg_flags = MSG_DONTWAIT, .buf_group = (guint16)g->id};
  struct io_uring_cqe cqe;
  guint32 at = *uring_word(map, map->p.cq_off.tail);
  size_t size = x->u->flags & IORING_SETUP_CQE32 ? 32 : 16;
  g_autoptr(Program) p = program_new();
  size_t data = program_data(p, bytes, n);
  PROGRAM_CALL(p, "write for buffers", SYS_write, ARG(s->ends[1]), ARG_DATA(data), ARG(n));
  program_expect(p, EXPECT_EQUAL, n);
  PROGRAM_CALL(p, "io_uring_enter", SYS_io_uring_enter, ARG(x->fd), ARG(1), ARG(1), ARG(IORING_ENTER_GETEVENTS), ARG(0), ARG(0));
  program_expect(p, EXPECT_EQUAL, 1);
  uring_place(map, &sqe);
  if (!ring_run(r, x->thread, p, error))
    return false;
  memcpy(&cqe, map->rings + map->p.cq_off.cqes + (at & (x->u->cq_entries - 1)) * size, sizeof cqe);
  uring_reap(map);
  return cqe.res == (gint32)n || engine_fail(error, ENGINE_ERROR_CODE__FAILED,
      "The io_uring of file id %u: its buffers cannot be counted (%d instead of %u)", x->u->file_id, cqe.res, n);
}

static bool run_group(Restore *r, const RingUser *x, int fd, const CkptUringGroup *g, const Source *s, UringMap *map, GError **error) {
  g_autofree Entry *list = g_new0(Entry, g->entries);
  for (guint32 i = 0; i < g->entries; i++)
    list[i] = (Entry){.address = s->page, .size = 1};
  list[0].tail = (guint16)g->head;
  for (guint32 done = 0, n; done < g->head; done += n) {
    n = MIN(g->head - done, MIN(URING_GROUP_BATCH, g->entries));
    if (!put(r, x, fd, g, (const unsigned char *)list, error) || !take(r, x, g, s, map, n, error))
      return false;
  }
  return true;
}

static guint32 requests_of(const CkptUring *u) {
  guint32 n = 0;
  for (size_t i = 0; i < u->n_group; i++)
    n += uring_group_requests(u->group[i]->head, u->group[i]->entries);
  return n;
}

bool ring_groups_run(Restore *r, const RingUser *x, int fd, UringMap *map, guint32 *ret_requests, GError **error) {
  Source s;
  const UringCounts n = uring_counts(x->u);
  *ret_requests = requests_of(x->u);
  if (*ret_requests > n.requests - n.silent)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The io_uring of file id %u: more buffers were chosen than it had completions for",
        x->u->file_id);
  if (!*ret_requests)
    return true;
  if (!make_source(r, x, &s, error))
    return false;
  for (size_t i = 0; i < x->u->n_group; i++) {
    const CkptUringGroup *g = x->u->group[i];
    if (!run_group(r, x, fd, g, &s, map, error))
      return false;
  }
  return drop_source(r, x, &s, error);
}

bool ring_groups_put(Restore *r, const RingUser *x, int fd, GError **error) {
  for (size_t i = 0; i < x->u->n_group; i++)
    if (!put(r, x, fd, x->u->group[i], x->u->group[i]->content.data, error))
      return false;
  return true;
}

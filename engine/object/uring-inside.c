/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Lists of the kernel's are walked without its locks. The tree stands still, so little changes; what did is found by looking
 * at the number of completions before and after, and by counting: every request in flight has to be in one of the lists. */

#include "uring-inside.h"
#include <errno.h>
#include <unistd.h>

#define MOST 65536u /* of anything in a list */
#define TRIES 5
#define XA_CHUNK_BITS 6
#define XA_SLOTS (1u << XA_CHUNK_BITS)
#define IOBL_BUF_RING 1u
#define IOBL_INC 2u
#define IOU_PBUF_RING_MMAP_ 1u
#define IOU_PBUF_RING_INC_ 2u

struct UringReader {
  KernelReader *kernel;
  UringLayout l;
  guint64 table; /* of our descriptors */
  int xa_shift, xa_slots;
  gint64 region_user;
  guint32 page_size; /* of struct page */
};

UringReader *uring_reader_new(void) {
  UringReader *r = g_new0(UringReader, 1);
  g_autoptr(KernelTypes) types = kernel_types_open();
  r->kernel = types && uring_layout_find(types, &r->l) ? kernel_reader_new() : NULL;
  if (!r->kernel) {
    g_free(r);
    return NULL;
  }
  r->xa_shift = kernel_types_offset(types, "xa_node", "shift");
  r->xa_slots = kernel_types_offset(types, "xa_node", "slots");
  r->page_size = kernel_types_size(types, "page");
  r->region_user = kernel_types_constant(types, "IO_REGION_F_USER_PROVIDED", 0);
  return r;
}

void uring_reader_free(UringReader *r) {
  if (r)
    kernel_reader_free(r->kernel);
  g_free(r);
}

void uring_inside_clear(UringInside *i) {
  g_clear_pointer(&i->requests, g_array_unref);
  g_clear_pointer(&i->groups, g_array_unref);
  g_clear_pointer(&i->files, g_free);
}

static bool read_word(UringReader *r, guint64 at, guint64 *ret) {
  return kernel_read(r->kernel, at, ret, 8);
}

static bool read_half(UringReader *r, guint64 at, guint32 *ret) {
  return kernel_read(r->kernel, at, ret, 4);
}

static bool own_table(UringReader *r, guint64 *ret_table, guint32 *ret_size) {
  guint64 files, fdt;
  return read_word(r, kernel_reader_self(r->kernel) + (guint64)r->l.files, &files) && read_word(r, files + (guint64)r->l.fdt, &fdt) &&
         read_half(r, fdt + (guint64)r->l.max_fds, ret_size) && read_word(r, fdt + (guint64)r->l.fd_table, ret_table);
}

guint64 uring_reader_file(UringReader *r, int fd) {
  guint64 table, file = 0;
  guint32 most;
  if (fd < 0 || !own_table(r, &table, &most) || (guint32)fd >= most || !read_word(r, table + (guint64)fd * 8, &file))
    return 0;
  return file;
}

guint64 uring_reader_private(UringReader *r, guint64 file) {
  guint64 value = 0;
  return file && read_word(r, file + (guint64)r->l.file_private, &value) ? value : 0;
}

gint64 uring_reader_eventfd_flags(UringReader *r, int fd) {
  guint64 ctx = r && r->l.eventfd_flags >= 0 ? uring_reader_private(r, uring_reader_file(r, fd)) : 0;
  guint32 flags;
  return ctx && read_half(r, ctx + (guint64)r->l.eventfd_flags, &flags) ? (gint64)flags : -1;
}

guint64 uring_reader_page_size(const UringReader *r) {
  return r->page_size;
}

gint64 uring_reader_refs(UringReader *r, int fd) {
  guint64 file = r && fd >= 0 ? uring_reader_file(r, fd) : 0, n;
  int at = !r ? -1 : r->l.file_refs >= 0 ? r->l.file_refs : r->l.file_count;
  return file && at >= 0 && read_word(r, file + (guint64)at, &n) ? (gint64)n + (at == r->l.file_refs) : 0;
}

bool uring_reader_is_ours(UringReader *r, int fd) {
  guint64 table, file = r ? uring_reader_file(r, fd) : 0, part[KERNEL_READ_MAX / 8];
  guint32 most;
  gint64 own = 0;
  if (!file || !own_table(r, &table, &most))
    return true;
  for (guint32 at = 0, n; at < most; at += n) {
    n = MIN(most - at, G_N_ELEMENTS(part));
    if (!kernel_read(r->kernel, table + (guint64)at * 8, part, (size_t)n * 8))
      return true;
    for (guint32 k = 0; k < n; k++)
      own += part[k] == file;
  }
  return uring_reader_refs(r, fd) <= own;
}

/* Its number in the innermost pid namespace that it is in: the engine's own. */
static pid_t tid_of(UringReader *r, const unsigned char *bytes) {
  guint64 task, pid;
  guint32 level, nr;
  memcpy(&task, bytes + (r->l.task >= 0 ? r->l.task : r->l.tctx), 8);
  if (r->l.task < 0 && !read_word(r, task + (guint64)r->l.tctx_task, &task))
    return 0;
  if (!read_word(r, task + (guint64)r->l.thread_pid, &pid) || !read_half(r, pid + (guint64)r->l.level, &level) || level > 32 ||
      !read_half(r, pid + (guint64)r->l.numbers + (guint64)level * 16, &nr)) /* struct upid */
    return 0;
  return (pid_t)nr;
}

/* What a request has beside itself. */
static bool read_more(UringReader *r, const unsigned char *bytes, unsigned char *more, bool *ret_any) {
  guint64 flags, data;
  guint opcode = bytes[r->l.opcode];
  memcpy(&flags, bytes + r->l.flags, 8);
  memcpy(&data, bytes + r->l.data, 8);
  *ret_any = flags & r->l.f_data && data;
  return !*ret_any || kernel_read(r->kernel, data, more, opcode == 11 /* TIMEOUT */ ? r->l.timer_size : r->l.async_size);
}

static bool add_request(UringReader *r, UringInside *i, guint32 tail, guint64 at) {
  unsigned char bytes[KERNEL_READ_MAX], more[KERNEL_READ_MAX];
  UringRequest q = {.at = at};
  bool any = false;
  if (i->requests->len >= MOST || !kernel_read(r->kernel, at, bytes, r->l.request_size) || !read_more(r, bytes, more, &any))
    return false;
  uring_request_decode(&r->l, bytes, any ? more : NULL, tail, &q);
  q.tid = tid_of(r, bytes);
  g_array_append_val(i->requests, q);
  return true;
}

/* Of a list with one pointer: its elements are @inside of requests. @ends: where a circle of them begins. */
static bool add_list(UringReader *r, UringInside *i, guint32 tail, guint64 first, guint64 end, int inside) {
  guint n = 0;
  for (guint64 at = first; at && at != end; n++)
    if (n > MOST || !add_request(r, i, tail, at - (guint64)inside) || !read_word(r, at, &at))
      return false;
  return true;
}

static bool add_hashed(UringReader *r, UringInside *i, guint32 tail, guint64 ctx, int table, int size) {
  guint64 buckets, first;
  guint32 bits;
  if (table < 0 || size < 0)
    return true;
  if (!read_word(r, ctx + (guint64)table, &buckets) || !read_half(r, ctx + (guint64)size, &bits) || bits > 16)
    return false;
  for (guint32 k = 0; buckets && k < 1u << bits; k++)
    if (!read_word(r, buckets + (guint64)k * r->l.bucket_size + (guint64)r->l.bucket_list, &first) || !add_list(r, i, tail, first, 0, r->l.hash))
      return false;
  return true;
}

/* A circle. Those of link timeouts are counted, and hinder the request that they are linked to. */
static bool add_circle(UringReader *r, UringInside *i, guint32 tail, guint64 head, int inside) {
  guint64 first;
  return read_word(r, head, &first) && add_list(r, i, tail, first, head, inside);
}

static bool add_optional(UringReader *r, UringInside *i, guint32 tail, guint64 ctx, int list) {
  guint64 first;
  return list < 0 || (read_word(r, ctx + (guint64)list, &first) && add_list(r, i, tail, first, 0, r->l.hash));
}

/* All that were ever allocated, without those that wait for a new use. */
static bool count(UringReader *r, UringInside *i, guint64 ctx) {
  guint32 all, idle = 0;
  guint64 at;
  i->in_flight = -1;
  if (r->l.requests < 0)
    return read_half(r, ctx + (guint64)r->l.extra, &i->extra);
  if (!read_half(r, ctx + (guint64)r->l.requests, &all) || !read_word(r, ctx + (guint64)r->l.free_list, &at))
    return false;
  for (; at; idle++)
    if (idle > all || !read_word(r, at, &at))
      return false;
  i->in_flight = (gint32)(all - idle);
  return true;
}

static bool read_requests(UringReader *r, UringInside *i, guint64 ctx) {
  guint32 tail, timeouts;
  const UringLayout *l = &r->l;
  if (!read_half(r, ctx + (guint64)l->cq_tail, &tail) || !read_half(r, ctx + (guint64)l->n_timeouts, &timeouts) || !count(r, i, ctx))
    return false;
  guint32 so_far = tail - timeouts, after;
  if (!add_hashed(r, i, so_far, ctx, l->hbs, l->hash_bits) || !add_hashed(r, i, so_far, ctx, l->locked_hbs, l->locked_bits) || !add_circle(r, i, so_far, ctx + (guint64)l->timeouts, l->timeout_list) ||
      !add_circle(r, i, so_far, ctx + (guint64)l->link_timeouts, l->timeout_list) || !add_optional(r, i, so_far, ctx, l->futexes) ||
      !add_optional(r, i, so_far, ctx, l->waitids) || !add_optional(r, i, so_far, ctx, l->commands))
    return false;
  i->n_listed = i->requests->len;
  return read_half(r, ctx + (guint64)l->cq_tail, &after) && after == tail;
}

static bool read_eventfd(UringReader *r, UringInside *i, guint64 ctx) {
  guint64 at;
  guint32 async = 0;
  if (!read_word(r, ctx + (guint64)r->l.evfd, &at))
    return false;
  if (at && (!read_word(r, at + (guint64)r->l.evfd_ctx, &i->eventfd) || r->l.evfd_async < 0 || !read_half(r, at + (guint64)r->l.evfd_async, &async)))
    return false;
  i->eventfd_async = async & 1;
  return true;
}

/* A slot of older kernels is the file, with marks in its lowest bits. */
static bool read_slots(UringReader *r, UringInside *i, guint64 ctx) {
  guint64 slots;
  if (!read_half(r, ctx + (guint64)r->l.n_file_slots, &i->n_files) || !read_word(r, ctx + (guint64)r->l.file_slots, &slots) || i->n_files > 1u << 20)
    return false;
  i->files = g_new0(guint64, i->n_files + 1);
  for (guint32 k = 0; k < i->n_files; k++) {
    if (!read_word(r, slots + (guint64)k * 8, &i->files[k]))
      return false;
    i->files[k] &= ~7ull;
  }
  return true;
}

static bool read_files(UringReader *r, UringInside *i, guint64 ctx) {
  guint64 nodes, node, file;
  if (r->l.n_file_slots >= 0 && r->l.file_slots >= 0)
    return read_slots(r, i, ctx);
  if (r->l.n_file_nodes < 0 || r->l.file_nodes < 0 || r->l.node_file < 0)
    return true;
  if (!read_half(r, ctx + (guint64)r->l.n_file_nodes, &i->n_files) || !read_word(r, ctx + (guint64)r->l.file_nodes, &nodes) || i->n_files > 1u << 20)
    return false;
  i->files = g_new0(guint64, i->n_files + 1);
  for (guint32 k = 0; k < i->n_files; k++) {
    if (!read_word(r, nodes + (guint64)k * 8, &node) || (node && !read_word(r, node + (guint64)r->l.node_file, &file)))
      return false;
    i->files[k] = node ? file & ~7ull : 0;
  }
  return true;
}

/* --- groups of buffers --- */

static bool add_group(UringReader *r, UringInside *i, guint64 at) {
  const UringLayout *l = &r->l;
  UringGroup g = {0};
  guint32 flags = 0, region = 0;
  guint64 pages;
  if (!read_half(r, at + (guint64)l->bl_id, &g.id) || !read_half(r, at + (guint64)l->bl_entries, &g.entries) ||
      !read_half(r, at + (guint64)l->bl_head, &g.head) || !read_half(r, at + (guint64)l->bl_flags, &flags) ||
      !read_half(r, at + (guint64)l->bl_region_flags, &region) || !read_word(r, at + (guint64)l->bl_pages, &pages))
    return false;
  g.id &= 0xffff, g.entries &= 0xffff, g.head &= 0xffff, flags &= 0xffff;
  if (!g.entries)
    g.entries = 0x8000u << 1; /* the most does not fit */
  g.legacy = !(flags & IOBL_BUF_RING);
  g.unknown = flags & ~(IOBL_BUF_RING | IOBL_INC) || !r->region_user;
  g.flags = flags & IOBL_INC ? IOU_PBUF_RING_INC_ : 0;
  guint64 first = 0; /* of a list that begins where the other kind has its ring */
  g.empty = g.legacy && read_word(r, at + (guint64)l->bl_ring, &first) && first == at + (guint64)l->bl_ring;
  if (!g.legacy && !(region & r->region_user))
    g.flags |= IOU_PBUF_RING_MMAP_;
  else if (!g.legacy && !read_word(r, pages, &g.pages))
    return false;
  g_array_append_val(i->groups, g);
  return true;
}

/* An xarray (include/linux/xarray.h): pointers with 2 in their lowest bits are nodes. */
static bool walk(UringReader *r, UringInside *i, guint64 entry, int depth) {
  guint64 slots[XA_SLOTS], node = entry - 2;
  guint32 shift = 0;
  if (!entry)
    return true;
  if ((entry & 3) == 0)
    return add_group(r, i, entry);
  if ((entry & 3) != 2 || entry < 4096 || depth > 4 || !read_half(r, node + (guint64)r->xa_shift, &shift) ||
      !kernel_read(r->kernel, node + (guint64)r->xa_slots, slots, sizeof slots))
    return entry < 4096; /* a mark of the array's own */
  for (guint k = 0; k < XA_SLOTS; k++)
    if (!walk(r, i, slots[k], depth + 1))
      return false;
  return true;
}

static bool read_groups(UringReader *r, UringInside *i, guint64 ctx) {
  const UringLayout *l = &r->l;
  guint64 head;
  if (l->groups < 0 || l->bl_ring < 0 || l->bl_entries < 0 || l->bl_head < 0 || l->bl_flags < 0 || l->bl_id < 0 || l->bl_pages < 0 ||
      l->bl_region_flags < 0 || r->xa_shift < 0 || r->xa_slots < 0)
    return true;
  i->groups = g_array_new(FALSE, FALSE, sizeof(UringGroup));
  return read_word(r, ctx + (guint64)l->groups, &head) && walk(r, i, head, 0);
}

static bool read_all(UringReader *r, guint64 ctx, UringInside *i) {
  guint64 personalities;
  unsigned char restricted;
  *i = (UringInside){.requests = g_array_new(FALSE, FALSE, sizeof(UringRequest))};
  if (!read_half(r, ctx + (guint64)r->l.ctx_flags, &i->setup_flags) || !read_eventfd(r, i, ctx) || !read_requests(r, i, ctx) || !read_files(r, i, ctx) ||
      !read_groups(r, i, ctx) || !read_word(r, ctx + (guint64)r->l.personalities, &personalities) ||
      !kernel_read(r->kernel, ctx + (guint64)r->l.restricted, &restricted, 1))
    return false;
  i->personalities = personalities != 0;
  i->restricted = restricted != 0;
  return true;
}

bool uring_inside_read(UringReader *r, int fd, UringInside *ret) {
  guint64 ctx = uring_reader_private(r, uring_reader_file(r, fd));
  for (int i = 0; ctx && i < TRIES; i++) {
    if (read_all(r, ctx, ret))
      return true;
    uring_inside_clear(ret);
    g_usleep(200);
  }
  return false;
}

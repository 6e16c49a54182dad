/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Groups of buffers that requests choose from (IORING_REGISTER_PBUF_RING). Entries and tail are in memory that program and kernel
 * share: the program's own, whose address the kernel does not keep, only the pages; or the kernel's, mapped from the ring. The
 * head is the kernel's. A new group begins at zero: see engine/restore/ring-groups.c. */

#include "uring-look.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <sys/mman.h>

#define PAGE 4096ull
#define ENTRY 16u
#define OFF_PBUF_RING 0x80000000ull
#define OFF_PBUF_SHIFT 16
#define REGISTER_PBUF_RING 22u
#define PFN_MASK ((1ull << 55) - 1)
#define PRESENT (1ull << 63)
#define CURE "let the program unregister them before the dump"

typedef struct GroupRegister { /* struct io_uring_buf_reg */
  guint64 address;
  guint32 entries;
  guint16 group, flags;
  guint64 reserved[3];
} GroupRegister;

static bool page_frame(int pagemap, guint64 address, guint64 *ret) {
  guint64 word;
  if (pread(pagemap, &word, sizeof word, (off_t)(address / PAGE * sizeof word)) != sizeof word || !(word & PRESENT))
    return false;
  *ret = word & PFN_MASK;
  return *ret != 0;
}

/* The kernel's description of page frame 0 (vmemmap), learned from a group in memory of our own. */
static guint64 first_page(UringReader *r) {
  struct io_uring_params p = {0};
  UringInside in = {0};
  guint64 frame = 0, found = 0;
  _cleanup_fd_ int ring = uring_setup(1, &p), pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  void *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (own == MAP_FAILED)
    return 0;
  GroupRegister g = {.address = (guint64)(uintptr_t)own, .entries = 1};
  if (ring >= 0 && pagemap >= 0 && uring_register(ring, REGISTER_PBUF_RING, &g, 1) == 0 && uring_inside_read(r, ring, &in) && in.groups &&
      in.groups->len == 1 && page_frame(pagemap, g.address, &frame))
    found = g_array_index(in.groups, UringGroup, 0).pages - frame * uring_reader_page_size(r);
  uring_inside_clear(&in);
  (void)munmap(own, PAGE);
  return found;
}

static guint64 find_frame(const Task *task, int pagemap, guint64 frame) {
  guint64 words[512];
  for (size_t i = 0; task->mm && i < task->mm->n_vmas; i++) {
    const VmaEntry *v = task->mm->vmas[i];
    for (guint64 at = v->start; at < v->end; at += sizeof words / sizeof *words * PAGE) {
      guint64 n = MIN((v->end - at) / PAGE, G_N_ELEMENTS(words));
      ssize_t got = pread(pagemap, words, n * sizeof *words, (off_t)(at / PAGE * sizeof *words));
      for (guint64 k = 0; got > 0 && k < (guint64)got / sizeof *words; k++)
        if (words[k] & PRESENT && (words[k] & PFN_MASK) == frame)
          return at + k * PAGE;
    }
  }
  return 0;
}

/* Where the program has the page that the kernel has described at @page; 0: nowhere. */
static guint64 find_address(const Look *l, guint64 page) {
  guint64 first = first_page(l->reader), size = uring_reader_page_size(l->reader);
  g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)l->pid);
  _cleanup_fd_ int pagemap = open(path, O_RDONLY | O_CLOEXEC);
  if (!first || !size || pagemap < 0 || page < first || (page - first) % size)
    return 0;
  return find_frame(l->task, pagemap, (page - first) / size);
}

unsigned char *uring_map_group(int fd, guint32 id, size_t size) {
  void *m = mmap(NULL, (size + PAGE - 1) & ~(PAGE - 1), PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(OFF_PBUF_RING | (guint64)id << OFF_PBUF_SHIFT));
  return m == MAP_FAILED ? NULL : m;
}

void uring_unmap_group(unsigned char *map, size_t size) {
  (void)munmap(map, (size + PAGE - 1) & ~(PAGE - 1));
}

static bool read_content(const Look *l, CkptUringGroup *g) {
  g->content.len = (size_t)g->entries * ENTRY;
  g->content.data = g_malloc(g->content.len);
  if (g->has_address) {
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", (int)l->pid);
    _cleanup_fd_ int mem = open(path, O_RDONLY | O_CLOEXEC);
    return mem >= 0 && pread(mem, g->content.data, g->content.len, (off_t)g->address) == (ssize_t)g->content.len;
  }
  unsigned char *map = uring_map_group(l->probe.local, g->id, g->content.len);
  if (!map)
    return false;
  memcpy(g->content.data, map, g->content.len);
  uring_unmap_group(map, g->content.len);
  return true;
}

/* What comes first is at a page's beginning. */
static const char *save_group(const Look *l, const UringGroup *from) {
  if (from->legacy)
    return "they were given by requests (IORING_OP_PROVIDE_BUFFERS)";
  if (from->unknown || from->flags & ~(guint32)URING_GROUP_FLAGS)
    return "they are of a kind that this version does not know";
  if (l->facts.sq_thread >= 0)
    return "it has a submitting thread (IORING_SETUP_SQPOLL)";
  CkptUringGroup *g = MESSAGE_NEW(CkptUringGroup, ckpt_uring_group__init);
  g->id = from->id, g->entries = from->entries, g->head = from->head, g->flags = from->flags;
  l->u->group = g_renew(CkptUringGroup *, l->u->group, l->u->n_group + 1);
  l->u->group[l->u->n_group++] = g;
  g->has_address = !(from->flags & URING_GROUP_MMAP);
  g->address = g->has_address ? find_address(l, from->pages) : 0;
  if (g->has_address && !g->address)
    return "the program has not mapped their list any more";
  return read_content(l, g) ? NULL : "their list cannot be read";
}

bool uring_save_groups(const Look *l) {
  guint64 wanted = 0;
  for (guint i = 0; l->in.groups && i < l->in.groups->len; i++) {
    const UringGroup *g = &g_array_index(l->in.groups, UringGroup, i);
    const char *hinder = g->legacy && g->empty ? NULL : save_group(l, g);
    wanted += g->legacy ? 0 : uring_group_requests(g->head, g->entries);
    if (!hinder)
      continue;
    g_autofree char *reason = g_strdup_printf("it has buffers to choose from (group %u), and %s", g->id, hinder);
    uring_look_block(l, reason, CURE);
    return false;
  }
  UringCounts n = uring_counts(l->u);
  if (wanted <= n.requests - n.silent && !(wanted && l->u->flags & IORING_SETUP_IOPOLL))
    return true;
  uring_look_block(l, "more of its buffers were chosen than its finished requests could have, and the kernel counts them from zero", CURE);
  return false;
}

int uring_register_group(int fd, const CkptUringGroup *g) {
  GroupRegister r = {.entries = g->entries, .group = (guint16)g->id, .flags = (guint16)g->flags};
  return uring_register(fd, REGISTER_PBUF_RING, &r, 1);
}

void uring_group_program(const CkptUringGroup *g, int fd, Program *p) {
  const GroupRegister r = {.address = g->address, .entries = g->entries, .group = (guint16)g->id, .flags = (guint16)g->flags};
  size_t at = program_data(p, &r, sizeof r);
  PROGRAM_CALL(p, "io_uring_register buffers to choose from", 427 /* io_uring_register */, ARG(fd), ARG(REGISTER_PBUF_RING), ARG_DATA(at), ARG(1));
  program_expect(p, EXPECT_OK, 0);
}

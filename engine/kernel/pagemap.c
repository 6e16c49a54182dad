/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pagemap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE 4096ull

/* From the kernel's uapi linux/fs.h of 6.7 and later; Debian 12's headers are older. */
struct page_region {
  uint64_t start, end, categories;
};
struct pm_scan_arg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)
#define IS_FILE (1 << 2)
#define IS_PRESENT (1 << 3)
#define IS_SWAPPED (1 << 4)
#define IS_PFNZERO (1 << 5)
#define IS_GUARD (1 << 8)

/* Bits of a /proc/PID/pagemap entry */
#define PM_PRESENT (1ull << 63)
#define PM_SWAP (1ull << 62)
#define PM_FILE (1ull << 61)
#define PM_GUARD (1ull << 58)
#define PM_PFN ((1ull << 55) - 1)

struct Pagemap {
  pid_t pid;
  int fd;
  bool scan;       /* PAGEMAP_SCAN works */
  bool scan_guard; /* and knows guard pages (6.15) */
  uint64_t zero_pfn; /* of the fall-back; 0: unknown */
};

static long scan_once(const Pagemap *p, struct pm_scan_arg *arg, uint64_t start, uint64_t end, struct page_region *regions,
    size_t n) {
  uint64_t wanted = IS_PRESENT | IS_SWAPPED | (p->scan_guard ? IS_GUARD : 0);
  *arg = (struct pm_scan_arg){.size = sizeof *arg,
      .start = start,
      .end = end,
      .vec = (uintptr_t)regions,
      .vec_len = n,
      .category_inverted = IS_PFNZERO | IS_FILE,
      .category_mask = IS_PFNZERO | IS_FILE,
      .category_anyof_mask = wanted,
      .return_mask = p->scan_guard ? IS_GUARD : 0};
  if (!p->scan_guard)
    arg->return_mask = IS_PRESENT | IS_SWAPPED;
  return ioctl(p->fd, SCAN_IOCTL, arg);
}

static void probe_scan(Pagemap *p) {
  struct page_region regions[1];
  struct pm_scan_arg arg;
  p->scan = p->scan_guard = true;
  if (scan_once(p, &arg, 0, 0x1000, regions, 1) >= 0)
    return;
  p->scan_guard = false;
  p->scan = scan_once(p, &arg, 0, 0x1000, regions, 1) >= 0;
}

/* The frame number of the shared zero page, seen through a page of our own that was only read. */
static uint64_t find_zero_pfn(void) {
  static const volatile char *probe;
  static char area[3 * 4096];
  probe = (const char *)(((uintptr_t)area + PAGE) & ~(uintptr_t)(PAGE - 1));
  (void)*probe;
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)probe / PAGE * 8)) != sizeof entry)
      entry = 0;
    (void)close(fd);
  }
  return entry & PM_PRESENT ? entry & PM_PFN : 0;
}

Pagemap *pagemap_open(pid_t pid, bool force_fallback, GError **error) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open %s", path);
    return NULL;
  }
  Pagemap *p = g_new0(Pagemap, 1);
  p->pid = pid;
  p->fd = fd;
  if (!force_fallback)
    probe_scan(p);
  if (!p->scan)
    p->zero_pfn = find_zero_pfn();
  return p;
}

void pagemap_close(Pagemap *pagemap) {
  if (!pagemap)
    return;
  (void)close(pagemap->fd);
  g_free(pagemap);
}

static void add_range(GArray *ranges, uint64_t start, uint64_t end, bool guard) {
  if (ranges->len) {
    PageRange *last = &g_array_index(ranges, PageRange, ranges->len - 1);
    if (last->end == start && last->guard == guard) {
      last->end = end;
      return;
    }
  }
  PageRange r = {start, end, guard};
  g_array_append_val(ranges, r);
}

static bool scan_ioctl(Pagemap *p, uint64_t start, uint64_t end, GArray *ranges, GError **error) {
  struct page_region regions[512];
  while (start < end) {
    struct pm_scan_arg arg;
    long n = scan_once(p, &arg, start, end, regions, G_N_ELEMENTS(regions));
    if (n < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot scan the page map of process %d", (int)p->pid);
    for (long i = 0; i < n; i++)
      add_range(ranges, regions[i].start, regions[i].end, p->scan_guard && (regions[i].categories & IS_GUARD));
    start = arg.walk_end;
  }
  return true;
}

static bool read_entries(const Pagemap *p, uint64_t start, uint64_t *entries, size_t n, GError **error) {
  ssize_t got = pread(p->fd, entries, n * 8, (off_t)(start / PAGE * 8));
  if (got != (ssize_t)(n * 8))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, got < 0 ? errno : EIO,
        "Cannot read the page map of process %d", (int)p->pid);
  return true;
}

static bool scan_entries(Pagemap *p, uint64_t start, uint64_t end, GArray *ranges, GError **error) {
  uint64_t entries[4096];
  while (start < end) {
    size_t n = MIN((end - start) / PAGE, G_N_ELEMENTS(entries));
    if (!read_entries(p, start, entries, n, error))
      return false;
    for (size_t i = 0; i < n; i++) {
      uint64_t e = entries[i], at = start + i * PAGE;
      bool zero = (e & PM_PRESENT) && p->zero_pfn && (e & PM_PFN) == p->zero_pfn;
      if (e & PM_GUARD)
        add_range(ranges, at, at + PAGE, true);
      else if ((e & (PM_PRESENT | PM_SWAP)) && !(e & PM_FILE) && !zero)
        add_range(ranges, at, at + PAGE, false);
    }
    start += n * PAGE;
  }
  return true;
}

bool pagemap_scan(Pagemap *p, uint64_t start, uint64_t end, GArray *ranges, GError **error) {
  return p->scan ? scan_ioctl(p, start, end, ranges, error) : scan_entries(p, start, end, ranges, error);
}

bool pagemap_frames(Pagemap *p, uint64_t start, uint64_t end, uint64_t *frames, GError **error) {
  size_t n = (end - start) / PAGE;
  if (!read_entries(p, start, frames, n, error))
    return false;
  for (size_t i = 0; i < n; i++)
    frames[i] = frames[i] & PM_PRESENT ? frames[i] & PM_PFN : 0;
  return true;
}

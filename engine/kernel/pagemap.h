/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Which pages of a mapping exist, and what they are: PAGEMAP_SCAN where the kernel has it (6.7), else the entries of
 * /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */

#include "error.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct PageRange {
  uint64_t start, end;
  bool guard; /* MADV_GUARD_INSTALL */
} PageRange;

typedef struct Pagemap Pagemap;

/* @force_fallback: do without PAGEMAP_SCAN (tests). */
Pagemap *pagemap_open(pid_t pid, bool force_fallback, GError **error);
void pagemap_close(Pagemap *pagemap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Pagemap, pagemap_close)

/* Appends the ranges of private memory of [start, end) that a checkpoint has to carry: present or swapped pages that are
 * neither the shared zero page nor unmodified pages of the file. Guard pages come as ranges of their own. */
bool pagemap_scan(Pagemap *pagemap, uint64_t start, uint64_t end, GArray *ranges, GError **error);
/* Frame numbers of [start, end), one uint64_t a page, 0 where there is none (needs CAP_SYS_ADMIN to be other than 0). */
bool pagemap_frames(Pagemap *pagemap, uint64_t start, uint64_t end, uint64_t *frames, GError **error);

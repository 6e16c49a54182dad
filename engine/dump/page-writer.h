/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Page contents into pages files. What is to be copied is said first, file by file and range by range; then it is copied
 * by as many threads as there are processors (four at most), each of which takes the next half megabyte out of the task into a
 * buffer that stays in its cache, counts its digest, and writes it to its place. Only the question where that is makes one
 * wait for the other: pages of zeroes are left out, so the place is known once everything before has been read. */

#include "checkpoint.h"
#include "collect.h"
#include "error.h"
#include "job.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct PageWriter PageWriter;

/* Where pages come from. */
typedef struct PageSource {
  pid_t pid;         /* a stopped task, or 0 */
  const char *comm;  /* its name, borrowed, for messages */
  int fd;            /* of a shared memory object, borrowed; -1 */
  guint64 shmid;     /* its id, for messages */
} PageSource;

typedef enum PageRangeFlags {
  PAGE_RANGE_SKIP_ZERO = 1,  /* pages of zeroes need not be kept */
  PAGE_RANGE_UNREADABLE = 2, /* for the task itself: read through /proc/PID/mem */
} PageRangeFlags;

/* @job is borrowed. */
PageWriter *page_writer_new(Job *job);
void page_writer_free(PageWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageWriter, page_writer_free)
/* Ranges that follow come from @source (copied) and go to pages-<set->pages_id>.img; @set (borrowed) gets entries and
 * digest. */
void page_writer_file(PageWriter *writer, const PageSource *source, PageSet *set);
/* Whole pages, in ascending order. */
void page_writer_range(PageWriter *writer, uint64_t start, uint64_t end, PageRangeFlags flags);
/* Bytes of all ranges so far. */
guint64 page_writer_total(const PageWriter *writer);
/* Copies everything. Reports progress to the job. On error (also: cancelled) files are left incomplete. */
bool page_writer_run(PageWriter *writer, MemoryStats *stats, GError **error);

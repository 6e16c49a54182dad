/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Asynchronous I/O (io_setup(2)): a ring of completed requests that the kernel and the process share. Its address is the
 * context's id. */

#include "error.h"
#include "mm.pb-c.h"
#include "program.h"

#define AIO_RING_PATH "/[aio]"

/* The beginning of a ring, as the kernel lays it out (struct aio_ring of fs/aio.c; libaio reads it, too). */
typedef struct AioHeader {
  guint32 id, nr, head, tail, magic, compat, incompat, header_length;
} AioHeader;

/* The entry of the ring at @start, newly allocated; NULL with error. */
AioRingEntry *aio_ring_collect(pid_t pid, guint64 start, guint64 end, GError **error);
/* Whether a header from an image may be one of a ring of @size bytes. */
bool aio_header_valid(const AioHeader *header, guint64 size);
/* Where the tail of the ring at @start stands; false when it cannot be read. */
bool aio_ring_tail(pid_t pid, guint64 start, guint32 *ret_tail);
/* Makes the ring again: at its address, with its events; @null_fd: /dev/null for writing, @pages_fd: has its bytes at
 * @pages_at; both descriptors of the task. */
void aio_ring_build(const AioRingEntry *entry, guint64 start, const AioHeader *header, int null_fd, int pages_fd, guint64 pages_at, Program *p);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Writes pages files from a second thread. The producer reserves room, fills it and commits; buffers go to the thread
 * when they are full or the file ends. Small amounts are written without a thread. */

#include "checkpoint.h"
#include "error.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct PageWriter PageWriter;

/* @expected: bytes to come, decides whether a thread is worth it. */
PageWriter *page_writer_new(guint64 expected);
/* What follows goes to @fd, which is taken over; @name is for messages. @set (borrowed until page_writer_finish()) gets the
 * digest of the file. */
void page_writer_begin(PageWriter *writer, int fd, const char *name, PageSet *set);
/* Page aligned room for at least one page; NULL with error when an earlier write failed. */
unsigned char *page_writer_reserve(PageWriter *writer, size_t *ret_room, GError **error);
void page_writer_commit(PageWriter *writer, size_t used);
/* The file has all its pages. */
void page_writer_finish(PageWriter *writer);
/* Waits until everything is written. false with the first error. */
bool page_writer_free(PageWriter *writer, GError **error);

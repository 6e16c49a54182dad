/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Image files, each put together in one buffer and written by openat, write, close. Every file written is remembered
 * with its size and digest for checkpoint.img. */

#include "catalog.h"

typedef struct ImageDigest {
  char file[IMAGE_NAME_MAX];
  guint64 size;
  bool paged; /* a pages file: digest_of_pages() */
  guint64 digest;
  bool hashed; /* false: size only */
} ImageDigest;

typedef struct ImageWriter {
  int dir_fd; /* borrowed */
  const ImageKind *kind;
  char name[IMAGE_NAME_MAX];
  guint8 *data;
  gsize size;
  gsize capacity;
  guint64 written; /* bytes of all files so far */
  GArray *digests; /* ImageDigest */
} ImageWriter;

void image_writer_init(ImageWriter *w, int dir_fd);
void image_writer_deinit(ImageWriter *w);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageWriter, image_writer_deinit)

/* Of another writer, for the same directory: what it has noted. */
void image_writer_take(ImageWriter *w, const ImageWriter *other);

/* Begins a new file in the buffer. */
void image_writer_begin(ImageWriter *w, ImageKindId id, guint64 number);
/* Appends one entry; @extra may be NULL. */
bool image_writer_add(ImageWriter *w, const ProtobufCMessage *message, GBytes *extra, GError **error);
/* Appends entries without anything behind them. Of thousands another thread packs the second half. */
bool image_writer_add_all(ImageWriter *w, const GPtrArray *messages, GError **error);
/* Appends bytes as they are, for raw files. */
void image_writer_raw(ImageWriter *w, GBytes *bytes);
/* Notes size and digest of what is in the buffer. */
void image_writer_note(ImageWriter *w);
/* Creates the file, exclusively and 0600; the caller closes the descriptor. -1 on failure. */
int image_writer_create(ImageWriter *w, GError **error);
/* Writes the buffer to a new file. With @sync it has reached the disk when this returns. A file that could not be
 * written whole is removed again. */
bool image_writer_put(ImageWriter *w, bool sync, GError **error);
/* A file of one entry: begin, add, note, put. */
bool image_writer_single(
    ImageWriter *w, ImageKindId id, guint64 number, const ProtobufCMessage *message, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One image file, read whole and then taken apart entry by entry. No length in it is believed: everything is bounded by
 * what was read, and no allocation is larger than a small multiple of it. Errors name file, offset and reason. */

#include "catalog.h"
#include "source.h"

typedef struct ImageReader {
  const ImageKind *kind;
  char name[IMAGE_NAME_MAX];
  guint8 *data; /* owned; kept and reused by the next file */
  gsize capacity;
  gsize size;
  gsize at;
  guint n_entries;
} ImageReader;

void image_reader_deinit(ImageReader *r);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageReader, image_reader_deinit)

/* Reads one file of a checkpoint and checks how it begins. *ret_found is false, and nothing else happens, if it does
 * not exist. A reader may be opened again and again. */
bool image_reader_open(
    ImageReader *r, const ImageSource *source, ImageKindId id, guint64 number, bool *ret_found, GError **error);
/* The same from memory, which is copied. */
bool image_reader_feed(ImageReader *r, ImageKindId id, guint64 number, const void *data, gsize size, GError **error);

/* The next entry: a new message for the caller to free, and the bytes behind it (NULL if its kind has none; @ret_extra
 * may be NULL). *ret_message is NULL at the end of the file. */
bool image_reader_next(ImageReader *r, ProtobufCMessage **ret_message, GBytes **ret_extra, GError **error);
/* All entries that are left, added to @messages, which owns them (also what was there before an error). The kind must be one without bytes
 * behind its entries. Of a large file another thread takes the second half apart. */
bool image_reader_rest(ImageReader *r, GPtrArray *messages, GError **error);
/* An array for that. */
GPtrArray *image_messages_new(void);
/* The only entry of a file that has exactly one. */
bool image_reader_single(ImageReader *r, ProtobufCMessage **ret_message, GError **error);

/* IMAGE_INVALID "<file>: offset <where we are>: <reason>"; returns false. */
bool image_reader_fail(const ImageReader *r, GError **error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* True if no message in these bytes of a @descriptor lies deeper than @depth levels: protobuf-c unpacks by recursion.
 */
bool image_depth_ok(const ProtobufCMessageDescriptor *descriptor, const guint8 *data, gsize size, int depth);

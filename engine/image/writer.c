/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writer.h"
#include "at-a-time.h"
#include "digest.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void image_writer_init(ImageWriter *w, int dir_fd) {
  *w = (ImageWriter){.dir_fd = dir_fd, .digests = g_array_new(FALSE, FALSE, sizeof(ImageDigest))};
}

void image_writer_deinit(ImageWriter *w) {
  g_clear_pointer(&w->data, g_free);
  g_clear_pointer(&w->digests, g_array_unref);
}

void image_writer_take(ImageWriter *w, const ImageWriter *other) {
  g_array_append_vals(w->digests, other->digests->data, other->digests->len);
  w->written += other->written;
}

static guint8 *writer_grow(ImageWriter *w, gsize n) {
  if (w->capacity - w->size < n) {
    w->capacity = MAX(MAX(w->capacity * 2, 16384), w->size + n);
    w->data = g_realloc(w->data, w->capacity);
  }
  guint8 *p = w->data + w->size;
  w->size += n;
  return p;
}

static void writer_u32(ImageWriter *w, guint32 value) {
  guint32 v = GUINT32_TO_LE(value);
  memcpy(writer_grow(w, sizeof v), &v, sizeof v);
}

void image_writer_begin(ImageWriter *w, ImageKindId id, guint64 number) {
  w->kind = image_kind(id);
  w->size = 0;
  image_name(w->name, id, number);
  if (w->kind->frame == IMAGE_FRAME_COMMON)
    writer_u32(w, IMAGE_MAGIC_COMMON);
  if (w->kind->frame == IMAGE_FRAME_SERVICE)
    writer_u32(w, IMAGE_MAGIC_SERVICE);
  if (w->kind->frame != IMAGE_FRAME_RAW)
    writer_u32(w, w->kind->magic);
}

bool image_writer_add(ImageWriter *w, const ProtobufCMessage *message, GBytes *extra, GError **error) {
  gsize n = protobuf_c_message_get_packed_size(message);
  if (n > G_MAXINT32)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s: an entry of %zu bytes is too large", w->name, n);
  gsize m = extra ? g_bytes_get_size(extra) : 0;
  if (m != (w->kind->extra ? w->kind->extra(message) : 0))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s: %zu bytes of data, the entry says otherwise", w->name, m);
  writer_u32(w, (guint32)n);
  protobuf_c_message_pack(message, writer_grow(w, n));
  if (m)
    memcpy(writer_grow(w, m), g_bytes_get_data(extra, NULL), m);
  return true;
}

/* Some of a list, into a buffer. */
typedef struct Half {
  ImageWriter *writer;
  const GPtrArray *messages;
  guint from, to;
  GError *error;
} Half;

static void *add_half(void *data) {
  Half *h = data;
  for (guint i = h->from; i < h->to && !h->error; i++)
    (void)image_writer_add(h->writer, h->messages->pdata[i], NULL, &h->error);
  return NULL;
}

#define WORTH_A_THREAD 2048u /* messages */

bool image_writer_add_all(ImageWriter *w, const GPtrArray *messages, GError **error) {
  ImageWriter other = {.kind = w->kind};
  memcpy(other.name, w->name, sizeof other.name);
  bool large = messages->len >= WORTH_A_THREAD;
  guint middle = large ? messages->len / 2 : messages->len;
  Half first = {w, messages, 0, middle, NULL}, second = {&other, messages, middle, messages->len, NULL};
  at_a_time(large, add_half, &first, &second);
  if (other.size)
    memcpy(writer_grow(w, other.size), other.data, other.size);
  g_free(other.data);
  return engine_first_error(first.error, second.error, error);
}

void image_writer_raw(ImageWriter *w, GBytes *bytes) {
  gsize n = 0;
  const void *data = g_bytes_get_data(bytes, &n);
  if (n)
    memcpy(writer_grow(w, n), data, n);
}

void image_writer_note(ImageWriter *w) {
  ImageDigest d = {.size = w->size, .digest = digest_of(w->data, w->size), .hashed = true};
  memcpy(d.file, w->name, sizeof d.file);
  g_array_append_val(w->digests, d);
}

static bool writer_flush(ImageWriter *w, int fd, bool sync, GError **error) {
  for (gsize done = 0; done < w->size;) {
    ssize_t n = write(fd, w->data + done, w->size - done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: write", w->name);
    done += (gsize)n;
  }
  if (sync && fsync(fd) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: fsync", w->name);
  return true;
}

int image_writer_create(ImageWriter *w, GError **error) {
  int fd = openat(w->dir_fd, w->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST)
    engine_fail(error, ENGINE_ERROR_CODE__CHECKPOINT_EXISTS, "%s: exists already in the images directory", w->name);
  else if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: create", w->name);
  return fd;
}

bool image_writer_put(ImageWriter *w, bool sync, GError **error) {
  int fd = image_writer_create(w, error);
  if (fd < 0)
    return false;
  bool ok = writer_flush(w, fd, sync, error);
  if (close(fd) < 0 && ok) /* NFS tells about a full disk here */
    ok = engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: close", w->name);
  if (!ok) {
    (void)unlinkat(w->dir_fd, w->name, 0);
    return false;
  }
  w->written += w->size;
  return true;
}

bool image_writer_single(
    ImageWriter *w, ImageKindId id, guint64 number, const ProtobufCMessage *message, GError **error) {
  image_writer_begin(w, id, number);
  if (!image_writer_add(w, message, NULL, error))
    return false;
  image_writer_note(w);
  return image_writer_put(w, false, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "at-a-time.h"
#include "reader.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NESTING_MAX 64

void image_reader_deinit(ImageReader *r) {
  g_clear_pointer(&r->data, g_free);
  r->capacity = r->size = r->at = 0;
}

bool image_reader_fail(const ImageReader *r, GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *reason = g_strdup_vprintf(format, ap);
  va_end(ap);
  return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: offset %zu: %s", r->name, r->at, reason);
}

static guint32 get_u32(const guint8 *p) {
  guint32 v;
  memcpy(&v, p, sizeof v);
  return GUINT32_FROM_LE(v);
}

static bool reader_take_magic(ImageReader *r, guint32 wanted, const char *what, GError **error) {
  if (r->size - r->at < 4)
    return image_reader_fail(r, error, "the file ends inside its header (%zu bytes)", r->size);
  guint32 magic = get_u32(r->data + r->at);
  if (magic != wanted)
    return image_reader_fail(r, error, "%s is 0x%08x, not 0x%08x", what, magic, wanted);
  r->at += 4;
  return true;
}

static bool reader_begin(ImageReader *r, GError **error) {
  r->at = 0;
  r->n_entries = 0;
  if (r->kind->frame == IMAGE_FRAME_COMMON && !reader_take_magic(r, IMAGE_MAGIC_COMMON, "the common magic", error))
    return false;
  if (r->kind->frame == IMAGE_FRAME_SERVICE && !reader_take_magic(r, IMAGE_MAGIC_SERVICE, "the service magic", error))
    return false;
  return r->kind->frame == IMAGE_FRAME_RAW || reader_take_magic(r, r->kind->magic, "the magic", error);
}

static void reader_reserve(ImageReader *r, gsize size) {
  if (size <= r->capacity)
    return;
  g_free(r->data);
  r->capacity = MAX(size, 16384);
  r->data = g_malloc(r->capacity);
}

static bool reader_slurp(ImageReader *r, int fd, GError **error) {
  struct stat st;
  if (fstat(fd, &st) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: stat", r->name);
  if (!S_ISREG(st.st_mode))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: not a regular file", r->name);
  if ((guint64)st.st_size > r->kind->limit)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "%s: %" G_GINT64_FORMAT " bytes, more than the %" G_GUINT64_FORMAT " such a file may have", r->name,
        (gint64)st.st_size, r->kind->limit);
  reader_reserve(r, (gsize)st.st_size);
  while (r->size < (gsize)st.st_size) {
    ssize_t n = read(fd, r->data + r->size, (gsize)st.st_size - r->size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: read", r->name);
    if (n == 0)
      break;
    r->size += (gsize)n;
  }
  return true;
}

static void reader_target(ImageReader *r, ImageKindId id, guint64 number) {
  r->kind = image_kind(id);
  r->size = r->at = 0;
  image_name(r->name, id, number);
}

/* *ret_found false: no such file. */
static bool reader_open_file(ImageReader *r, int dir_fd, bool *ret_found, GError **error) {
  /* O_NONBLOCK: a FIFO of that name must not stop us */
  int fd = openat(dir_fd, r->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  *ret_found = fd >= 0;
  if (fd < 0 && errno == ENOENT)
    return true;
  if (fd < 0 && errno == ELOOP)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: a symbolic link", r->name);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: open", r->name);
  bool ok = reader_slurp(r, fd, error);
  (void)close(fd);
  return ok && reader_begin(r, error);
}

bool image_reader_open(
    ImageReader *r, const ImageSource *source, ImageKindId id, guint64 number, bool *ret_found, GError **error) {
  if (source->memory) {
    char name[IMAGE_NAME_MAX];
    GBytes *bytes = g_hash_table_lookup(source->memory, image_name(name, id, number));
    *ret_found = bytes != NULL;
    return !bytes || image_reader_feed(r, id, number, g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), error);
  }
  reader_target(r, id, number);
  return reader_open_file(r, source->dir_fd, ret_found, error);
}

bool image_reader_feed(ImageReader *r, ImageKindId id, guint64 number, const void *data, gsize size, GError **error) {
  reader_target(r, id, number);
  if (size > r->kind->limit)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: %zu bytes are too many", r->name, size);
  reader_reserve(r, size);
  if (size)
    memcpy(r->data, data, size);
  r->size = size;
  return reader_begin(r, error);
}

/* A varint of at most 64 bits; moves @p behind it. */
static bool take_varint(const guint8 **p, const guint8 *end, guint64 *ret) {
  guint64 v = 0;
  for (int shift = 0; *p < end && shift < 70; shift += 7) {
    guint8 b = *(*p)++;
    v |= shift < 64 ? (guint64)(b & 0x7f) << shift : 0;
    if (!(b & 0x80)) {
      *ret = v;
      return true;
    }
  }
  return false;
}

bool image_depth_ok(const ProtobufCMessageDescriptor *descriptor, const guint8 *p, gsize size, int depth) {
  const guint8 *end = p + size;
  while (p < end) {
    guint64 key, length;
    if (!take_varint(&p, end, &key))
      return true; /* malformed: protobuf-c says so, at this level */
    switch (key & 7) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
      if (!take_varint(&p, end, &length))
        return true;
      continue;
    case PROTOBUF_C_WIRE_TYPE_64BIT:
      length = 8;
      break;
    case PROTOBUF_C_WIRE_TYPE_32BIT:
      length = 4;
      break;
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
      if (!take_varint(&p, end, &length))
        return true;
      break;
    default:
      return true;
    }
    if (length > (guint64)(end - p))
      return true;
    const ProtobufCFieldDescriptor *f =
        key >> 3 <= G_MAXUINT32 ? protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(key >> 3)) : NULL;
    if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && (key & 7) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED &&
        (depth <= 1 || !image_depth_ok(f->descriptor, p, (gsize)length, depth - 1)))
      return false;
    p += length;
  }
  return true;
}

static bool reader_take_extra(ImageReader *r, const ProtobufCMessage *m, GBytes **ret_extra, GError **error) {
  if (ret_extra)
    *ret_extra = NULL;
  if (!r->kind->extra)
    return true;
  guint64 length = r->kind->extra(m);
  if (length > r->size - r->at)
    return image_reader_fail(
        r, error, "an entry wants %" G_GUINT64_FORMAT " bytes of data, %zu are left", length, r->size - r->at);
  if (ret_extra)
    *ret_extra = g_bytes_new(r->data + r->at, (gsize)length);
  r->at += (gsize)length;
  return true;
}

bool image_reader_next(ImageReader *r, ProtobufCMessage **ret_message, GBytes **ret_extra, GError **error) {
  *ret_message = NULL;
  if (ret_extra)
    *ret_extra = NULL;
  if (r->at == r->size)
    return true;
  if (r->size - r->at < 4)
    return image_reader_fail(r, error, "the file ends inside the size of an entry");
  guint32 size = get_u32(r->data + r->at);
  if (size > r->size - r->at - 4)
    return image_reader_fail(r, error, "an entry of %u bytes, %zu are left", size, r->size - r->at - 4);
  const ProtobufCMessageDescriptor *d = r->n_entries == 0 && r->kind->head ? r->kind->head : r->kind->entry;
  const guint8 *payload = r->data + r->at + 4;
  if (r->kind->nested && !image_depth_ok(d, payload, size, NESTING_MAX))
    return image_reader_fail(r, error, "%s: nested more than %d levels deep", d->name, NESTING_MAX);
  ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, size, payload);
  if (!m)
    return image_reader_fail(r, error, "%u bytes are no %s", size, d->name);
  r->at += 4 + (gsize)size;
  if (!reader_take_extra(r, m, ret_extra, error)) {
    protobuf_c_message_free_unpacked(m, NULL);
    return false;
  }
  r->n_entries++;
  *ret_message = m;
  return true;
}

static void message_free(void *p) {
  if (p)
    protobuf_c_message_free_unpacked(p, NULL);
}

GPtrArray *image_messages_new(void) {
  return g_ptr_array_new_with_free_func(message_free);
}

/* Where the entry begins that the middle of what is left lies in or before; what was read so far, if that is not to be found. */
static gsize find_middle(const ImageReader *r, guint *ret_entries) {
  gsize at = r->at, middle = r->at + (r->size - r->at) / 2;
  for (*ret_entries = 0; at < middle && r->size - at >= 4; ++*ret_entries) {
    guint32 size = get_u32(r->data + at);
    if (size > r->size - at - 4)
      return r->at;
    at += 4 + (gsize)size;
  }
  return at;
}

/* Some of a file's entries. */
typedef struct Half {
  ImageReader reader; /* its data is another's */
  GPtrArray *messages;
  GError *error;
} Half;

static void *read_half(void *data) {
  Half *h = data;
  ProtobufCMessage *m;
  while (image_reader_next(&h->reader, &m, NULL, &h->error) && m)
    g_ptr_array_add(h->messages, m);
  return NULL;
}

#define WORTH_A_THREAD (128u << 10)

bool image_reader_rest(ImageReader *r, GPtrArray *messages, GError **error) {
  guint n = 0;
  bool large = r->size - r->at >= WORTH_A_THREAD;
  gsize middle = large ? find_middle(r, &n) : r->size;
  Half first = {.reader = *r, .messages = messages}, second = {.reader = *r, .messages = image_messages_new()};
  g_autoptr(GPtrArray) later = second.messages;
  first.reader.size = middle;
  second.reader.at = middle;
  second.reader.n_entries += n;
  at_a_time(large, read_half, &first, &second);
  for (guint i = 0; i < later->len; i++)
    g_ptr_array_add(messages, g_steal_pointer(&later->pdata[i]));
  r->at = r->size;
  return engine_first_error(first.error, second.error, error);
}

bool image_reader_single(ImageReader *r, ProtobufCMessage **ret_message, GError **error) {
  ProtobufCMessage *m;
  if (!image_reader_next(r, &m, NULL, error))
    return false;
  if (!m)
    return image_reader_fail(r, error, "there is no entry");
  if (r->at != r->size) {
    protobuf_c_message_free_unpacked(m, NULL);
    return image_reader_fail(r, error, "%zu bytes behind the only entry", r->size - r->at);
  }
  *ret_message = m;
  return true;
}

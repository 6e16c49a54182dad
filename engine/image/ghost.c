/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* ghost-file-<id>.img: the entry, then the content. A file with holes has `chunks` set and its data as extents, each a
 * ghost_chunk_entry before the bytes; any other has its bytes right behind the entry. Content is copied by the kernel
 * where it can. */

#include "ghost-file.pb-c.h"
#include "image.h"
#include "reader.h"
#include "writer.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_MAX 65536 /* the entry with its framing: a path is the longest thing in it */
#define COPY_BUFFER (256 * 1024)

typedef struct Ghost {
  int fd;
  guint64 size; /* of the file */
  guint64 at;   /* behind the entry */
  char name[IMAGE_NAME_MAX];
  GhostFileEntry *entry;
} Ghost;

static void ghost_deinit(Ghost *g) {
  if (g->fd >= 0)
    (void)close(g->fd);
  if (g->entry)
    ghost_file_entry__free_unpacked(g->entry, NULL);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Ghost, ghost_deinit)

static void close_fd(int *fd) {
  if (*fd >= 0)
    (void)close(*fd);
}
#define _cleanup_close_ __attribute__((cleanup(close_fd)))

static bool copy_by_hand(int in, off_t from, int out, off_t to, guint64 n) {
  g_autofree char *buffer = g_malloc(COPY_BUFFER);
  while (n) {
    ssize_t got = pread(in, buffer, MIN(n, COPY_BUFFER), from);
    if (got <= 0) {
      errno = got ? errno : ENODATA;
      return false;
    }
    for (ssize_t done = 0; done < got;) {
      ssize_t put = pwrite(out, buffer + done, (size_t)(got - done), to + done);
      if (put < 0)
        return false;
      done += put;
    }
    from += got;
    to += got;
    n -= (guint64)got;
  }
  return true;
}

/* Neither descriptor's position is used or moved. errno is ENODATA if @in is too short. */
static bool copy_range(int in, guint64 from, int out, guint64 to, guint64 n) {
  off_t i = (off_t)from, o = (off_t)to;
  while (n) {
    ssize_t got = copy_file_range(in, &i, out, &o, MIN(n, (guint64)1 << 30), 0);
    if (got <= 0) /* other file systems, old kernels, too short: all come out the same way */
      return copy_by_hand(in, i, out, o, n);
    n -= (guint64)got;
  }
  return true;
}

static bool write_all(int fd, const guint8 *data, gsize size, guint64 at) {
  while (size) {
    ssize_t n = pwrite(fd, data, size, (off_t)at);
    if (n < 0)
      return false;
    data += n;
    at += (guint64)n;
    size -= (gsize)n;
  }
  return true;
}

/* Puts the writer's buffer and then @n bytes of content, from @from on, at the end of the file, which is at *at. */
static bool ghost_append(ImageWriter *w, int out, guint64 *at, int content, guint64 from, guint64 n, GError **error) {
  if (!write_all(out, w->data, w->size, *at))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: write", w->name);
  *at += w->size;
  if (n && !copy_range(content, from, out, *at, n))
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "%s: copy of the deleted file's content", w->name);
  *at += n;
  return true;
}

static bool ghost_append_chunks(ImageWriter *w, int out, guint64 *at, int content, guint64 size, GError **error) {
  for (off_t data = 0, hole; (data = lseek(content, data, SEEK_DATA)) >= 0 && (guint64)data < size; data = hole) {
    hole = lseek(content, data, SEEK_HOLE);
    if (hole < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: search for holes", w->name);
    hole = (off_t)MIN((guint64)hole, size);
    GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
    chunk.off = (guint64)data;
    chunk.len = (guint64)(hole - data);
    w->size = 0;
    if (!image_writer_add(w, &chunk.base, NULL, error) ||
        !ghost_append(w, out, at, content, chunk.off, chunk.len, error))
      return false;
  }
  return true;
}

static bool ghost_write(ImageWriter *w, int out, const GhostFileEntry *entry, int content, guint64 size,
    guint64 *ret_written, GError **error) {
  off_t hole = content >= 0 && size ? lseek(content, 0, SEEK_HOLE) : -1;
  bool chunks = hole >= 0 && (guint64)hole < size;
  GhostFileEntry copy = *entry;
  copy.has_chunks = chunks;
  copy.chunks = chunks;
  copy.has_size = chunks;
  copy.size = chunks ? size : 0;
  if (!image_writer_add(w, &copy.base, NULL, error) ||
      !ghost_append(w, out, ret_written, content, 0, chunks || content < 0 ? 0 : size, error))
    return false;
  return !chunks || ghost_append_chunks(w, out, ret_written, content, size, error);
}

/* An open file description of our own: the one we were given is the application's, whose position must not move, and
 * may be write-only or O_PATH. */
static int ghost_open_content(int content_fd, GError **error) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", content_fd);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "deleted file: open for reading");
  return fd;
}

bool image_create_ghost(
    int dir_fd, guint32 id, ProtobufCMessage *ghost, int content_fd, guint64 size, guint64 *written, GError **error) {
  g_auto(ImageWriter) w = {0};
  _cleanup_close_ int content = -1;
  if (content_fd >= 0 && (content = ghost_open_content(content_fd, error)) < 0)
    return false;
  image_writer_init(&w, dir_fd);
  image_writer_begin(&w, IMAGE_GHOST, id);
  _cleanup_close_ int out = image_writer_create(&w, error);
  if (out < 0)
    return false;
  guint64 n = 0;
  if (!ghost_write(&w, out, (const GhostFileEntry *)ghost, content, size, &n, error)) {
    (void)unlinkat(dir_fd, w.name, 0);
    return false;
  }
  if (written)
    *written = n;
  return true;
}

/* Opens the file and reads its entry. */
static bool ghost_open(Ghost *g, int dir_fd, guint32 id, GError **error) {
  g_auto(ImageReader) r = {0};
  struct stat st;
  g->fd =
      openat(dir_fd, image_name(g->name, IMAGE_GHOST, id), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (g->fd < 0)
    return engine_fail_errno(error, errno == ENOENT ? ENGINE_ERROR_CODE__IMAGE_INVALID : ENGINE_ERROR_CODE__FAILED,
        errno, "%s: open", g->name);
  if (fstat(g->fd, &st) < 0 || !S_ISREG(st.st_mode))
    return image_invalid(error, IMAGE_GHOST, id, "not a regular file");
  g->size = (guint64)st.st_size;
  g_autofree guint8 *head = g_malloc(HEAD_MAX);
  ssize_t n = pread(g->fd, head, HEAD_MAX, 0);
  if (n < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: read", g->name);
  ProtobufCMessage *m = NULL;
  if (!image_reader_feed(&r, IMAGE_GHOST, id, head, (gsize)n, error) || !image_reader_next(&r, &m, NULL, error))
    return false;
  if (!m)
    return image_reader_fail(&r, error, "there is no entry");
  g->entry = (GhostFileEntry *)m;
  g->at = r.at;
  return true;
}

ProtobufCMessage *image_read_ghost(int dir_fd, guint32 id, GError **error) {
  g_auto(Ghost) g = {.fd = -1};
  return ghost_open(&g, dir_fd, id, error) ? &g_steal_pointer(&g.entry)->base : NULL;
}

static bool ghost_fail(const Ghost *g, GError **error, const char *reason) {
  return engine_fail(
      error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: offset %" G_GUINT64_FORMAT ": %s", g->name, g->at, reason);
}

/* Takes the next chunk entry; NULL on failure. */
static GhostChunkEntry *ghost_take_chunk(Ghost *g, GError **error) {
  guint8 buffer[68];
  guint32 size;
  ssize_t n = pread(g->fd, buffer, sizeof buffer, (off_t)g->at);
  if (n < (ssize_t)sizeof size) {
    ghost_fail(g, error, "the file ends inside the size of a chunk");
    return NULL;
  }
  memcpy(&size, buffer, sizeof size);
  size = GUINT32_FROM_LE(size);
  GhostChunkEntry *c = size <= (gsize)n - sizeof size ? ghost_chunk_entry__unpack(NULL, size, buffer + 4) : NULL;
  if (!c) {
    ghost_fail(g, error, "no ghost_chunk_entry");
    return NULL;
  }
  g->at += 4 + (guint64)size;
  return c;
}

static bool ghost_copy_bytes(Ghost *g, int into_fd, guint64 offset, guint64 n, GError **error) {
  if (!copy_range(g->fd, g->at, into_fd, offset, n))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: copy of the content", g->name);
  g->at += n;
  return true;
}

static bool ghost_copy_chunks(Ghost *g, int into_fd, GError **error) {
  while (g->at < g->size) {
    GhostChunkEntry *c = ghost_take_chunk(g, error);
    if (!c)
      return false;
    guint64 length = c->len, offset = c->off;
    ghost_chunk_entry__free_unpacked(c, NULL);
    if (length > g->size - g->at)
      return ghost_fail(g, error, "a chunk is longer than the file");
    if (length > g->entry->size || offset > g->entry->size - length)
      return ghost_fail(g, error, "a chunk lies beyond the end of the content");
    if (!ghost_copy_bytes(g, into_fd, offset, length, error))
      return false;
  }
  return true;
}

bool image_copy_ghost(int dir_fd, guint32 id, int into_fd, GError **error) {
  g_auto(Ghost) g = {.fd = -1};
  if (!ghost_open(&g, dir_fd, id, error))
    return false;
  bool chunks = g.entry->has_chunks && g.entry->chunks;
  guint64 size = chunks ? g.entry->size : g.size - g.at;
  if (size > G_MAXINT64)
    return ghost_fail(&g, error, "the content is too large");
  if (ftruncate(into_fd, (off_t)size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "%s: make room for the content", g.name);
  return chunks ? ghost_copy_chunks(&g, into_fd, error) : ghost_copy_bytes(&g, into_fd, 0, size, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "digest.h"
#include "image.h"
#include "writer.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int image_create_pages(int dir_fd, guint32 pages_id, GError **error) {
  ImageWriter w = {.dir_fd = dir_fd};
  image_name(w.name, IMAGE_PAGES, pages_id);
  return image_writer_create(&w, error);
}

int image_open_pages(int dir_fd, guint32 pages_id, GError **error) {
  char name[IMAGE_NAME_MAX];
  int fd = openat(
      dir_fd, image_name(name, IMAGE_PAGES, pages_id), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    engine_fail_errno(
        error, errno == ENOENT ? ENGINE_ERROR_CODE__IMAGE_INVALID : ENGINE_ERROR_CODE__FAILED, errno, "%s: open", name);
  return fd;
}

#define CHUNK (256 * 1024) /* stays in the cache between reading and hashing */

static bool digest_file(int fd, guint64 *ret_value) {
  g_autofree guint8 *buffer = g_malloc(CHUNK);
  Digest d;
  digest_init(&d);
  for (off_t at = 0;;) {
    ssize_t n = pread(fd, buffer, CHUNK, at);
    if (n < 0)
      return false;
    if (n == 0)
      break;
    digest_update(&d, buffer, (gsize)n);
    at += n;
  }
  *ret_value = digest_value(&d);
  return true;
}

bool image_check_pages(int dir_fd, const PageSet *pages, GError **error) {
  if (!pages->has_xxh64)
    return true;
  int fd = image_open_pages(dir_fd, pages->pages_id, error);
  if (fd < 0)
    return false;
  guint64 value = 0;
  bool ok = digest_file(fd, &value);
  int err = errno;
  (void)close(fd);
  if (!ok)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "pages-%u.img: read", pages->pages_id);
  return value == pages->xxh64 || image_invalid(error, IMAGE_PAGES, pages->pages_id,
                                      "its digest is not the one in checkpoint.img: it was damaged");
}

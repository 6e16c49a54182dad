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
  *ret_value = 0;
  for (off_t at = 0;;) {
    size_t have = 0;
    for (ssize_t n = 1; n > 0 && have < CHUNK; have += (size_t)n)
      if ((n = pread(fd, buffer + have, CHUNK - have, at + (off_t)have)) < 0)
        return false;
    *ret_value += digest_of_pages(buffer, have / IMAGE_PAGE_SIZE, (guint64)at / IMAGE_PAGE_SIZE);
    if (have < CHUNK)
      return true;
    at += CHUNK;
  }
}

bool image_check_pages(int dir_fd, const PageSet *pages, GError **error) {
  if (!pages->has_digest)
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
  return value == pages->digest || image_invalid(error, IMAGE_PAGES, pages->pages_id,
                                      "its digest is not the one in checkpoint.img: it was damaged");
}

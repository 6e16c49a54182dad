/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image.h"
#include "writer.h"
#include <errno.h>
#include <fcntl.h>

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

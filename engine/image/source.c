/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int image_source_size(const ImageSource *source, const char *name, guint64 *ret_size) {
  struct stat st;
  if (source->memory) {
    GBytes *bytes = g_hash_table_lookup(source->memory, name);
    if (!bytes)
      return -ENOENT;
    *ret_size = g_bytes_get_size(bytes);
    return 0;
  }
  if (fstatat(source->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  if (!S_ISREG(st.st_mode))
    return -ENOTSUP;
  *ret_size = (guint64)st.st_size;
  return 0;
}

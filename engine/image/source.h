/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Where image files come from: a directory, or memory (tests and fuzzers; nothing is ever read from disk then). */

#include <glib.h>
#include <stdbool.h>

typedef struct ImageSource {
  int dir_fd;         /* borrowed */
  GHashTable *memory; /* name -> GBytes, borrowed; NULL: the directory */
} ImageSource;

/* Size of a regular file; 0, or -ENOENT, -ENOTSUP if it is no regular file, another negative errno. */
int image_source_size(const ImageSource *source, const char *name, guint64 *ret_size);

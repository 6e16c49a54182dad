/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdint.h>

/* Directory trees by descriptor; symbolic links are never followed. */

/* Removes @name below @dirfd, whatever it is. 0 also when there is nothing; negative errno. */
int file_tree_remove(int dirfd, const char *name);

/* Bytes the tree occupies on disk (st_blocks); unreadable parts count as nothing. */
uint64_t file_tree_bytes(int dirfd, const char *name);

/* open(2) of a directory, never through a symbolic link. Negative errno. */
int file_tree_open(int dirfd, const char *name);

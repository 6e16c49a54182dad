/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a file was like at the dump, and what is different about it now. */

#include "external.h"

/* @checks: what is worth keeping; size, time and mode always are. @local may be O_PATH. NULL with error. */
CkptFileState *file_state_new(int local, const struct stat *st, unsigned checks, GError **error);
/* FILE_CHANGED (or INVALID_ARGS, for what the dump has not kept) if one of @checks fails. @path is for the message, @fd
 * as @local, @st what fstat(2) says of it. */
bool file_state_check(
    const CkptFileState *was, const char *path, int fd, const struct stat *st, unsigned checks, GError **error);
/* The hash of all bytes. */
bool file_state_hash(int local, guint64 *ret_hash, GError **error);

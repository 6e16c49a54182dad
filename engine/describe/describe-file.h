/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "checkpoint.h"

/* The terms of people who look at open files: lsof and ss, not CRIU. All return new strings. */

/* "file", "directory", "pipe", "tcp", "unix stream", …; "unknown" for what a later version may know. */
char *file_type_text(const Checkpoint *checkpoint, const FileEntry *file);
/* Its path, or what it is: "pipe:3", "listening 127.0.0.1:80"; "" if there is nothing to say. */
char *file_path_text(const Checkpoint *checkpoint, const FileEntry *file);
/* "r", "w" or "rw", and what else it was opened with. @fd may be NULL; else its close-on-exec flag is told. */
char *file_flags_text(const Checkpoint *checkpoint, const FileEntry *file, const FdinfoEntry *fd);

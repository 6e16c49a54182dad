/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What inotify and fanotify watch: files that the kernel names by a handle only (proc(5), fdinfo). */

#include "internal.h"
#include "fsnotify.pb-c.h"

#define WATCHED_HANDLE_BYTES 128 /* of fh_entry.handle, as CRIU writes it: MAX_HANDLE_SZ */

typedef struct Watched {
  guint32 sdev, bytes, type;
  guint64 ino;
  unsigned char handle[WATCHED_HANDLE_BYTES];
} Watched;

/* "fhandle-bytes:8 fhandle-type:1 f_handle:0200000000000000" at the end of a line of fdinfo. */
bool watched_parse(const char *line, Watched *w);
/* The handle as the images have it. */
FhEntry *watched_entry(const Watched *w, const char *path);
/* A place in the file system with that kernel device number (as fdinfo shows it: major << 20 | minor), opened; -1: none.
 * @ret_path (may be NULL): where; the caller frees. */
int watched_mount(guint32 sdev, char **ret_path);
/* Finds the file and its path: true, or false with the reason it cannot be found. A deleted one is found if a task of the tree
 * has it open: then *ret_target is its file id, else 0. */
bool watched_find(Collector *c, const Watched *w, char path[static PATH_MAX], guint32 *ret_target, const char **ret_reason);
/* An O_PATH descriptor of what watch (or mark) @number of @file_id is on: another file of the checkpoint, what the handle names,
 * or what is at the path (another machine, a restored backup). -1 with error. */
int watched_open(Restorer *r, guint32 file_id, guint32 number, guint32 sdev, guint64 ino, const FhEntry *h, GError **error);
/* Notes that a watch is on another file of the checkpoint. */
void watched_note(Collector *c, guint32 file_id, guint32 number, guint32 target);

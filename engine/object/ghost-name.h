/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Names for a moment. /proc shows the name under which a file was opened, also when that is gone; so a deleted file is made
 * (or a file whose other names remain is linked) at the path it had, opened, and unlinked at once: "path (deleted)" as before. All
 * of a checkpoint together, since directories that were deleted contain each other and deleted files. What lies at such a path now
 * is never touched: then another name in the same directory is used. */

#include "internal.h"

typedef struct Ghost Ghost;

/* A descriptor that must have been opened by the name itself, since O_NOFOLLOW among its flags is lost otherwise; or be the very
 * one that made a nameless file: O_TMPFILE. */
typedef struct ExactOpen {
  guint32 file_id;
  int flags;
  bool nameless;
  int fd; /* -1: not opened */
} ExactOpen;

/* One name of a ghost; several file ids may mean it. */
typedef struct GhostName {
  Ghost *ghost;
  char *path;      /* absolute, as it was */
  char *directory; /* of it */
  char *base;      /* the last part, or what was tried in its place */
  int fd;          /* O_PATH, by this name; -1 */
  int error;       /* errno; 0: it had its moment */
  GArray *exact;   /* ExactOpen */
} GhostName;

struct Ghost {
  guint32 id;     /* of its image; 0: a link */
  mode_t mode;    /* its type, for what is to be made */
  dev_t rdev;
  char *target;   /* of a symbolic link */
  int source;     /* O_PATH descriptor of the file that gets its name back; -1: it is to be made */
  bool own_path;  /* source was opened by a path that the caller can change */
  int fd;         /* a regular file that was made: open for reading and writing; -1 */
  bool done;
  GPtrArray *names; /* GhostName */
  GError *failure;
};

Ghost *ghost_new(guint32 id);
void ghost_free(void *ghost);
/* The name of that path, made if it is new. */
GhostName *ghost_add_name(Ghost *g, const char *path);
/* Gives all of @ghosts (Ghost) that are not done their names for a moment. What does not work is said in names[]->error. A helper
 * process that shares the engine's memory and descriptors does it, with the rights of this thread: it outlives a SIGKILL of the
 * engine, and leaves nothing behind. */
void ghosts_name(const GPtrArray *ghosts);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* checkpoint.img: what CRIU's format has no place for, and the list of all other files with their sizes and digests.
 * Its last entry seals it: the digest of everything before. A directory without it is a checkpoint of another program.
 */

#include "reader.h"
#include "writer.h"

typedef struct ManifestFile {
  guint64 size;
  bool paged;
  guint64 digest;
  bool hashed;
  bool seen; /* read and found right */
} ManifestFile;

typedef struct Manifest {
  bool present;
  CkptCreator *creator; /* owned until taken */
  GPtrArray *tasks;     /* CkptTask, owned until taken */
  CkptNetwork *network; /* owned until taken */
  GPtrArray *externals; /* CkptExternal, the same */
  GPtrArray *netlinks;  /* CkptNetlink, the same */
  GPtrArray *mapped_locks; /* CkptMappedLock, the same */
  GPtrArray *linked_files; /* CkptLinkedFile, the same */
  GPtrArray *sockets;   /* CkptSocket, the same */
  GPtrArray *plugins, *plugin_objects; /* CkptPlugin, CkptPluginObject, the same */
  GPtrArray *ttys;      /* CkptTty, the same */
  GPtrArray *urings;    /* CkptUring, the same */
  GPtrArray *mqueues;   /* CkptMqueue, the same */
  GPtrArray *epolls; /* CkptEpoll, the same */
  GPtrArray *pidfds; /* CkptPidfd, the same */
  GPtrArray *fs_marks; /* CkptFsMark, the same */
  GPtrArray *watches; /* CkptWatch, the same */
  GPtrArray *nets;      /* CkptNetns, the same */
  GPtrArray *mounts; /* CkptMount, the same */
  GHashTable *files;    /* name -> ManifestFile */
} Manifest;

void manifest_init(Manifest *m);
void manifest_deinit(Manifest *m);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Manifest, manifest_deinit)

/* Reads checkpoint.img if it is there; the reader is used for it. */
bool manifest_load(Manifest *m, ImageReader *r, const ImageSource *source, GError **error);
/* Compares the file in the reader with what was noted of it. Always right without checkpoint.img. */
bool manifest_check(Manifest *m, const ImageReader *r, GError **error);
/* Gives a page set the digest of its file, if there is one. */
void manifest_give_pages(const Manifest *m, PageSet *pages);
/* For a file that is not there: an error if it should be. */
bool manifest_check_absent(const Manifest *m, const char *name, GError **error);
/* The same for every file that was not read: sizes, and digests where there are some, of pages not. */
bool manifest_check_rest(Manifest *m, ImageReader *r, const ImageSource *source, GError **error);

/* Writes checkpoint.img with the digests that the writer has noted. */
bool manifest_store(ImageWriter *w, const Checkpoint *checkpoint, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Checkpoints to test with: one that CRIU made, and the same with everything added that a checkpoint can hold. */

#include "checkpoint.h"
#include "source.h"

/* The files of CRIU's checkpoint, name -> GBytes; pages are zeros. */
GHashTable *fixture_golden(void);
/* image_load() of files in memory. */
Checkpoint *fixture_load(GHashTable *files, GError **error);
/* CRIU's checkpoint with a zombie, records of every kind and everything that checkpoint.img can hold. */
Checkpoint *fixture_rich(void);

/* A new directory in /dev/shm or /tmp; *ret_path is for fixture_remove(), which removes it with its files. */
int fixture_directory(char **ret_path);
void fixture_remove(char *path, int dir_fd);
/* Makes the pages files and ghosts that a checkpoint needs before it can be stored. */
void fixture_content(const Checkpoint *checkpoint, int dir_fd);
/* fixture_rich(), stored; its files. */
GHashTable *fixture_stored(void);
/* All files of a directory. */
GHashTable *fixture_slurp(const char *path);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Images on disk <-> Checkpoint in memory, CRIU's v1.1 layout. Images are input from an enemy: every length is bounded
 * by the file, every number checked before use, every failure is IMAGE_INVALID (or IMAGE_INCOMPATIBLE) and names file,
 * offset and reason. */

#include "checkpoint.h"
#include "error.h"

/* Reads everything but page contents and ghost contents. Verifies on the way: inventory present and its version known;
 * every task of pstree.img has its files; every file id that a fdinfo, a mapping or a fs entry names exists with the
 * right type; mappings are page aligned, ordered, disjoint and below the task size; the pagemaps are ordered, lie
 * inside mappings and the pages files have exactly the size they ask for; thread lists agree with core files; parents
 * exist and come before their children, no pid twice. If checkpoint.img is there its digests (sizes always; sha256 of
 * everything but pages) are checked. @dir_fd is borrowed. NULL on failure. */
Checkpoint *image_load(int dir_fd, GError **error);

/* Writes everything but pages and ghosts (which are written by image_pages and image_ghost while dumping),
 * checkpoint.img and, last, inventory.img. @durable: all of it reaches the disk first (syncfs before the inventory,
 * fsync of inventory and directory after). Files are created 0600, exclusively. @written (may be NULL) gets the number
 * of bytes. */
bool image_store(const Checkpoint *checkpoint, int dir_fd, bool durable, guint64 *written, GError **error);

/* Opens or creates one file of a checkpoint for raw content: "pages-%u.img". The caller closes the descriptor. */
int image_create_pages(int dir_fd, guint32 pages_id, GError **error);
int image_open_pages(int dir_fd, guint32 pages_id, GError **error);

/* ghost-file-%x.img: the content of a deleted file. Creation copies @size bytes from @content_fd (holes are kept as
 * chunks); @ghost is borrowed. Opening returns the entry (owned by the caller) and copies the content into @into_fd. */
bool image_create_ghost(
    int dir_fd, guint32 id, ProtobufCMessage *ghost, int content_fd, guint64 size, guint64 *written, GError **error);
ProtobufCMessage *image_read_ghost(int dir_fd, guint32 id, GError **error);
bool image_copy_ghost(int dir_fd, guint32 id, int into_fd, GError **error);

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
 * exist and come before their children, no pid twice; arrays that stand for fixed ones of the kernel (registers,
 * capabilities, siginfo) have their sizes. If checkpoint.img is there, every file it lists must be there with its size
 * and digest (all but pages and ghosts over 16 MiB have one), and no other may be used. @dir_fd is borrowed. NULL on
 * failure.
 *
 * Tasks with the same files_id share one Task.fds array. Threads of zombies: the leader alone. Shared memory is loaded
 * for every memfd with content and every ANON_SHARED mapping: those must have their pagemap-shmem-<shmid>.img, even an
 * empty one. */
Checkpoint *image_load(int dir_fd, GError **error);

/* Writes everything but pages and ghosts (which are written by image_create_pages and image_create_ghost while dumping
 * and must be complete by now), checkpoint.img and, last, inventory.img. The same cross checks as after loading are
 * made first: a checkpoint that could not be restored is IMAGE_INVALID and nothing is written. Of tasks with the same
 * files_id the fds of the first are written.
 *
 * @durable: all of it reaches the disk first (syncfs before the inventory, fsync of inventory and directory after).
 * Files are created 0600, exclusively (CHECKPOINT_EXISTS names the file in the way). @written (may be NULL) gets the
 * number of bytes. After a failure there is no inventory.img; other files may be left behind. @dir_fd must not be
 * O_PATH. */
bool image_store(const Checkpoint *checkpoint, int dir_fd, bool durable, guint64 *written, GError **error);

/* Opens or creates one file of a checkpoint for raw content: "pages-%u.img". The caller closes the descriptor. */
int image_create_pages(int dir_fd, guint32 pages_id, GError **error);
int image_open_pages(int dir_fd, guint32 pages_id, GError **error);

/* Compares the bytes of a pages file with PageSet.digest; true at once if it has none. Reads the whole file once, at
 * some GB/s; may run in a thread of its own beside whatever else reads it. */
bool image_check_pages(int dir_fd, const PageSet *pages, GError **error);

/* ghost-file-%x.img: the content of a deleted file; @ghost is a GhostFileEntry. Creation copies @size bytes of what
 * @content_fd refers to (-1: no content, for a FIFO or a symbolic link); holes are kept. The position of @content_fd is
 * not moved and it need not be readable: it is opened anew through /proc. @ghost is borrowed. A failure leaves no file.
 */
bool image_create_ghost(
    int dir_fd, guint32 id, ProtobufCMessage *ghost, int content_fd, guint64 size, guint64 *written, GError **error);
/* The GhostFileEntry of a ghost, owned by the caller. NULL on failure. */
ProtobufCMessage *image_read_ghost(int dir_fd, guint32 id, GError **error);
/* Gives @into_fd, a writable regular file without O_APPEND, exactly the content of the ghost. */
bool image_copy_ghost(int dir_fd, guint32 id, int into_fd, GError **error);

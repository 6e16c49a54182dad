/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the kinds share among themselves and nobody else needs. */

#include "ns-visit.h"
#include "object.h"
#include <string.h>
#include <unistd.h>

/* A message on the heap, initialised: MESSAGE_NEW(PipeEntry, pipe_entry__init). malloc'ed, as protobuf-c frees it. */
#define MESSAGE_NEW(Type, init)                                                                                        \
  ({                                                                                                                   \
    Type *message_new_ = g_new(Type, 1);                                                                               \
    init(message_new_);                                                                                                \
    message_new_;                                                                                                      \
  })

static inline void fd_cleanup(const int *fd) {
  if (*fd >= 0)
    (void)close(*fd);
}
#define _cleanup_fd_ __attribute__((cleanup(fd_cleanup)))

static inline int fd_take(int *fd) {
  int taken = *fd;
  *fd = -1;
  return taken;
}

/* Room for "/proc/self/fd/N". */
typedef struct FdPath {
  char text[32];
} FdPath;
FdPath fd_path(int fd);

/* --- probe.c --- */

/* Fills st, mnt_id, flags and pos of a probe whose local descriptor is set. */
bool probe_stat(FileProbe *probe, GError **error);
/* readlink of /proc/self/fd/<fd> into @buffer; false with error. */
bool probe_readlink(int fd, char *buffer, size_t size, GError **error);
/* The same with an open /proc/self/fd, for many. */
bool probe_readlink_at(int self_fd, int fd, char *buffer, size_t size, GError **error);
/* The value behind "key:" in a fdinfo text, leading blanks skipped; NULL if there is none. Points into @text. */
const char *fdinfo_value(const char *text, const char *key);
/* The same as a number in @base. */
bool fdinfo_number(const char *text, const char *key, int base, guint64 *ret_value);
/* The kind of an anonymous inode: true if the link is "anon_inode:[name]" or "anon_inode:name". */
bool probe_is_anon(const FileProbe *probe, const char *name);
/* Fills the owner of a probe. */
void probe_owner(FileProbe *probe);
/* bind(2). What a request of io_uring(7) held is closed a moment after its process has ended: an address in use is asked for again
 * for some milliseconds. */
int bind_patiently(int fd, const void *address, guint32 size);
/* How much a socket's receive queue takes, in bytes, with what the kernel needs for it; 0: not known. */
guint32 socket_memory(int fd);
/* A FownEntry of zeroes. */
FownEntry *fown_none(void);
/* Ordinals of the kernel's own file systems, learned once: st_dev of sockets, pipes, and of memfds and shared memory.
 */
typedef struct KernelDevs {
  dev_t sockets;
  dev_t pipes;
  dev_t shmem;
} KernelDevs;
const KernelDevs *kernel_devs(void);
/* RLIMIT_NOFILE of the engine: soft to hard. */
void raise_fd_limit(void);
/* "pid 12 (dbus-daemon)" of some process outside the tree that has @link ("socket:[17]") open, for reading (S_IRUSR) or
 * writing (S_IWUSR) if @access says so; NULL if none is found. */
pid_t outside_holder(const Collector *c, const char *link, mode_t access, char **ret_comm); /* 0: none */
/* The same for many links at once, of any process if @c is NULL, a table link -> value: *ret_value is that of the one found. NULL: nobody has any. */
char *outside_holder_of_any(const Collector *c, GHashTable *links, guint32 *ret_value);
char *find_outside_holder(const Collector *c, const char *link, mode_t access);

/* --- kinds --- */

extern const ObjectOps reg_ops, pipe_ops, fifo_ops, eventfd_ops, epoll_ops, timerfd_ops, signalfd_ops, memfd_ops;
extern const ObjectOps inotify_ops, netlink_ops, pidfd_ops, uring_ops, ns_ops;
extern const ObjectOps mqueue_ops, fanotify_ops;
extern const ObjectOps unix_ops, inet_ops, packet_ops, tty_ops, ext_ops, unsupported_ops;

/* --- restorer.c --- */

/* What is done by a path until the visit ends is done in the mount namespace that has the mount with that id in the images
 * (reg_file_entry.mnt_id); the engine's own: of none of the tree's. ns_visit_end() ends it. */
bool restorer_visit_mount(const Restorer *r, gint32 mount, NsVisit *ret_visit, GError **error);
/* Adds owner and signal of a description to a program; nothing where @fown is NULL or empty. */
void fown_program(const FownEntry *fown, int fd, Program *p);

/* Whether the description is there already, or about to be. */
bool restorer_has(const Restorer *r, guint32 file_id);

/* --- numbers.c --- */

/* Opens the files of a task that has hundreds, as many as can be at their own numbers. The others are left. */
bool numbers_open(Restorer *r, GError **error);

/* --- sysv.c --- */

/* The tree lives: segments that were made for it stay. */
void sysv_keep(Restorer *r);

/* After the last mapping: segments that others use are blockers. */
bool sysv_collect_finish(Collector *c, GError **error);

/* --- reg.c --- */

/* The entry of a file that lies at a path, also for kinds that have something more to say about it (FIFO); NULL with
 * error, or without one when it was blocked. */
RegFileEntry *reg_collect_entry(Collector *c, const FileProbe *probe, guint32 id, GError **error);
/* Whether the description is a regular file or directory on a file system with paths, or one of the plain devices. */
bool reg_claims(const FileProbe *probe);

/* An entry that says no more than the path, flags and type of a file or device. */
void reg_collect_path(const FileProbe *probe, FileEntry *entry);

/* What open(2) takes of the flags that the kernel reports, or an image says. */
int reg_open_flags(guint32 flags);
/* In place of a path that does not fit into PATH_MAX. */
#define LONG_PATH "/(a path of more than 4095 bytes)"

/* --- collector.c --- */

/* The alive words of the regions, NULL: none. */
const GPtrArray *collector_alive(const Collector *c);

/* --- build-id.c --- */

/* The build id of the file behind @local (O_PATH too), as 32-bit words in the byte order of the machine; their number,
 * 0 if it has none. The caller frees. */
size_t build_id_read(int local, guint32 **ret_words);

/* --- ghost.c --- */

/* Notes the content of a deleted file (once per inode) and the remap record of @file_id. */
bool ghost_collect(Collector *c, const FileProbe *probe, guint32 file_id, GError **error);
/* The same of a file that still has its name. */
bool ghost_embed(Collector *c, const FileProbe *probe, guint32 *ret_ghost_id, GError **error);
/* Writes all of them, when every descriptor was looked at: watches of the tree (inotify(7)) hear of it. */
bool ghosts_write(Collector *c, GError **error);
/* Why the option ghost-limit keeps it out, newly allocated; NULL where it does not. */
char *ghost_too_large(const Collector *c, const FileProbe *probe);

/* --- ghost-restore.c --- */

/* Whether the file of a reg file id had no name, or lost the one it was opened by. Makes all such files at the first call. */
bool ghost_find(Restorer *r, guint32 file_id, bool *ret_is_one, GError **error);
/* It, opened with @flags; owned by the caller; -1 with error. */
int ghost_open(Restorer *r, const RegFileEntry *reg, int flags, GError **error);
/* The tree lives: names that the dump made for it go. */
void ghost_keep(Restorer *r);

/* --- link-remap.c --- */

/* Notes how to find a file again that lost its name @path and has others; false where there is no way. */
bool link_collect(Collector *c, const FileProbe *probe, guint32 file_id, const char *path);
/* Removes the names that were made, unless the dump succeeded. */
void link_collect_end(Collector *c);

/* --- pipe.c, for FIFOs too --- */

/* Copies what is in a pipe into records of @kind. @reader can be read. */
bool pipe_collect_data(Collector *c, RecordKind kind, guint32 pipe_id, int reader, bool packets, GError **error);
/* Sets the size and writes the content; @writer is non-blocking. */
bool pipe_restore_data(Restorer *r, RecordKind kind, guint32 pipe_id, int writer, GError **error);

/* --- tty-restore.c --- */

/* When every description is open: settings, contents, hang-ups of pseudo terminals. */
bool tty_settle(Restorer *r, GError **error);

/* --- pidfd.c --- */

/* Whether a file id is a pidfd of a thread, which its task makes itself when all threads are there. */
bool pidfd_is_last(const Checkpoint *checkpoint, guint32 file_id);

/* --- mqueue.c --- */

/* The tree lives: queues stay. */
void mqueue_keep(Restorer *r);

/* --- uring-restore.c --- */

int uring_open(Restorer *r, const FileEntry *entry, GError **error);
/* Whether a file id is a ring that its thread makes itself, at last: its requests are taken with the credentials of whoever
 * made it. */
bool uring_is_late(const Checkpoint *checkpoint, guint32 file_id);

/* --- memfd.c --- */

/* The seals that would have kept mappings from being made. */
bool memfd_finish(Restorer *r, GError **error);

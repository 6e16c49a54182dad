/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Kinds of open files. A kind is one file in this folder: how to recognise it, how to collect it (kernel -> image
 * message) and how to make it again (image message -> descriptor), side by side, in one const ObjectOps listed in
 * registry.c.
 *
 * Dump. The collector visits every descriptor of every task once, while the tree is frozen, finds out which descriptors
 * share one open file description, and calls `collect` once per description, through a duplicate of it in the engine
 * (pidfd_getfd). After the last one, `collect_finish` of every kind runs once: for what needs the view of the whole
 * tree (both ends of a pipe, socket pairs, epoll targets).
 *
 * What cannot be brought back is a blocker, not an error: the kind says job_block() and returns true; the dump fails
 * after everything was visited, naming all blockers, and Explain lists them. An error (false) ends the dump at once: it
 * is for what should never fail.
 *
 * Restore. `open` makes each description once, in the engine (root, same namespaces as the tree), before any task
 * exists; tasks inherit it by fork. A kind whose descriptions come in groups (the two ends of a pipe) makes the group
 * at the first call and remembers the rest in restore_shared_*(). Then, once every holder has all its descriptors at
 * their final numbers, `program` runs for every (holder, fd) and may add system calls that one of the holders executes
 * itself (epoll registrations). */

#include "checkpoint.h"
#include "job.h"
#include "net-place.h"
#include "ns-set.h"
#include "program.h"
#include <sys/stat.h>

typedef struct FileProbe {
  pid_t pid;         /* a holder */
  const char *comm;  /* its name, for messages */
  int fd;            /* the number there; -1 for what no descriptor holds (a mapped file, a working directory) */
  int local;         /* our duplicate of it, borrowed, CLOEXEC; O_PATH descriptors too */
  int pidfd;         /* of the holder, borrowed */
  struct stat st;    /* fstat of it */
  guint64 mnt_id;    /* statx's stx_mnt_id, 0 when not known */
  guint32 mount;     /* that mount's id in the images, if it is in a mount namespace of the tree's own; else 0 */
  const char *link;  /* readlink of /proc/PID/fd/N: "/path", "/path (deleted)", "pipe:[12]", "anon_inode:[eventfd]" */
  int flags;         /* F_GETFL */
  off_t pos;         /* of regular files and directories, else 0 */
  bool path_checked; /* the link is a path, and leads to this inode */
  bool elsewhere;    /* a plugin has the mapping of it: only its path is noted, whatever it is */
  pid_t carrier;     /* on its way in a socket that this task has: pid and fd are the engine's then; else 0 */
  int carrier_fd;    /* and its number there */
  struct {           /* F_GETOWN_EX and F_GETSIG, if known */
    bool known;
    int type, signal;
    pid_t pid;
  } owner;
} FileProbe;

/* One holder of a description, as the collector saw it. */
typedef struct FileHolder {
  pid_t pid;
  int fd;
  guint32 file_id;
  guint64 dev, ino; /* of stat(2); 0: not known */
  mode_t mode;
} FileHolder;

typedef struct Collector Collector;

/* One descriptor of a task, as whoever asked the task itself saw it. */
typedef struct CollectedFd {
  int fd;
  bool cloexec; /* FD_CLOEXEC */
} CollectedFd;

/* @job and @checkpoint are borrowed; so is @images_fd, -1 in Explain. */
Collector *collector_new(Job *job, Checkpoint *checkpoint, int images_fd);
void collector_free(Collector *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Collector, collector_free)
/* Visits every descriptor of one frozen task: fills task->fds and adds each description seen for the first time to the
 * checkpoint. @fds (ascending by number) is what the task itself said; NULL: read from /proc/PID/fdinfo, which costs
 * about 10 us a descriptor. @pidfd and @task must stay until collector_free(). Of tasks that share a descriptor table
 * (CLONE_FILES) only the first is visited; all others have an empty task->fds. @parent: one visited before whose descriptors it
 * may have by fork(2), or 0. */
bool collector_visit_task(Collector *c, pid_t pid, pid_t parent, const char *comm, int pidfd, const CollectedFd *fds, size_t n_fds,
    Task *task, GError **error);
/* After the last task and the last collector_add_path(): runs collect_finish of every kind. */
bool collector_finish(Collector *c, GError **error);

/* After the memory and before the images are stored: for what lives on while the tree is frozen (TCP connections). With
 * @kill the tree is about to be killed, and others must not notice that its files are closed. */
/* @words (uint32_t *, taken over): the alive words of all regions (region.h), for collector_seal(). */
void collector_set_alive(Collector *c, GPtrArray *words);
bool collector_seal(Collector *c, bool kill, GError **error);
/* Undoes what is left of it: when the tree is dead (@killed), or before it is let go; also when collector_seal() failed
 * or was never called. */
void collector_end(Collector *c, bool killed);

/* The namespaces of the tree's own, borrowed; NULL: none. */
void collector_set_namespaces(Collector *c, const NsSet *set);
const NsSet *collector_namespaces(const Collector *c);

Job *collector_job(const Collector *c);
Checkpoint *collector_checkpoint(const Collector *c); /* being filled */
/* A descriptor of the images directory for kinds with files of their own (ghosts); -1 in Explain, where nothing is
 * written. */
int collector_images_fd(const Collector *c);
/* A new id of the one number space of files; a new id for shared memory objects; a new id for ghost files. */
guint32 collector_new_file_id(Collector *c);
guint64 collector_new_shmid(Collector *c);
guint32 collector_new_ghost_id(Collector *c);
/* A process whose main thread has ended is visited by the id of another thread: it is known by its own as well. */
void collector_alias_task(Collector *c, pid_t pid, pid_t visited);
/* Whether a task was visited. */
bool collector_has_task(const Collector *c, pid_t pid);
/* The id of the description behind (pid, fd), 0 if there is none. Only for tasks that were visited. */
guint32 collector_file_id_of(const Collector *c, pid_t pid, int fd);
/* The first holder of a description; NULL if none has it as a descriptor (a mapped file). */
const FileHolder *collector_holder_of(const Collector *c, guint32 file_id);
/* A duplicate of the description that stays open until the collector goes; borrowed. */
int collector_local_of(const Collector *c, guint32 file_id);
/* Closes it early, for those who ask for thousands. */
void collector_drop_local(const Collector *c, guint32 file_id);
/* The id of the network namespace that a socket is of; of others, the one of the first holder; 0: not known. */
guint32 collector_net_ns_of(const Collector *c, guint32 file_id);
/* The network namespaces that the tree lives in, if any is not the engine's own; borrowed. Sockets of these are taken, others
 * block. NULL: all is the engine's own. */
void collector_set_places(Collector *c, const NetPlaces *places);
const NetPlaces *collector_places(const Collector *c);
/* Goes to the namespace with that id, where it is not the engine's own; comes back at the end of the visit. */
bool collector_visit_net(const Collector *c, guint32 id, NetVisit *visit, GError **error);
/* The probe of a description again, as `collect` saw it (for collect_finish); false if it is gone. Its local descriptor
 * and its link stay until the collector goes. */
bool collector_probe_of(Collector *c, guint32 file_id, FileProbe *ret_probe);
/* State of a kind for one collection (or one restore), made at the first call by @make, freed by @destroy at the end.
 */
gpointer collector_state(Collector *c, const void *key, gpointer (*make)(void), GDestroyNotify destroy);
/* Number of descriptors in the tree that hold a description. */
guint collector_n_holders(const Collector *c, guint32 file_id);
/* Makes (or finds) the entry of a file that is mapped, executed, or a directory a task stands in, given an O_PATH or
 * ordinary descriptor of it (@local) and its path as the kernel names it (@link). @fd is -1; @st and @mnt_id need not
 * be set. @flags: as for open(2). Returns its file id, 0 on error or when it was blocked (then *blocked is set). Same
 * (inode, path, flags) gives the same id. Takes regular files, directories, memfds and shared memory objects. */
guint32 collector_add_path(Collector *c, const FileProbe *probe, bool *blocked, GError **error);
/* A descriptor that lies in the queue of a socket (SCM_RIGHTS), which @carrier describes; @fd, our copy, is taken over. Returns
 * the file id, 0 with error. Only before the collect_finish of the kinds. */
guint32 collector_add_flight(Collector *c, const FileProbe *carrier, int fd, GError **error);
/* Shared memory by inode: the shmid of a memfd or shared anonymous mapping; made at the first call. @size in bytes.
 * Content is read through @fd (a duplicate is kept) in the memory stage. */
guint64 collector_shmem_of(Collector *c, dev_t dev, ino_t ino, guint64 size, int fd);
/* The same under an id of the caller's: System V segments, below 2^31. */
void collector_shmem_with_id(Collector *c, guint64 shmid, dev_t dev, ino_t ino, guint64 size, int fd);
/* A mapping of a System V shared memory segment, described by @probe (local, st). Notes the segment and its content. Its id is
 * the inode's number. */
bool collector_sysv(Collector *c, const FileProbe *probe, GError **error);
/* The file id of the ring (io_uring) with that inode; 0: no descriptor in the tree leads to it (yet). */
guint32 collector_uring_of(Collector *c, guint64 ino);
/* The same of a packet socket, whose rings can be mapped. */
guint32 collector_packet_of(Collector *c, guint64 ino);
/* One shmat(2): all mappings of a segment at the same place, of which parts may have been unmapped or have other protections. */
typedef struct SysvAttach {
  guint64 shmid, base, size; /* size: of the whole segment, in full pages; 0: there is no image of it */
  guint64 kept;              /* bytes of it that are still mapped */
  bool read_only, executable;
} SysvAttach;
/* Those of an address space, by the addresses of their first mappings; newly allocated. Pure. */
GArray *sysv_attaches(const Checkpoint *checkpoint, const MmEntry *mm);
/* The attach that a mapping belongs to. */
bool sysv_attach_has(const SysvAttach *attach, const VmaEntry *vma);
/* Whether something else lies where a part of an attach was unmapped. */
bool sysv_holes_used(const Checkpoint *checkpoint, const MmEntry *mm);
/* When the mappings of a task are collected: blockers for what could not be attached again. */
void collector_sysv_task(Collector *c, pid_t pid, const char *comm, const MmEntry *mm);
/* What the memory stage writes: every shared memory object, in the order of their shmids. @fd is readable and borrowed.
 */
typedef struct CollectedShmem {
  guint64 shmid;
  dev_t dev;
  ino_t ino;
  guint64 size; /* bytes */
  int fd;
} CollectedShmem;
const CollectedShmem *collector_shmems(const Collector *c, size_t *ret_n);

/* Runs a program in the agent of a thread of the tree, whatever its ops return: *@results are those, @data (may be NULL) the
 * first @size bytes of its data afterwards. The tree lives on, perhaps, so it must not change anything the application sees. */
typedef bool (*CollectorAsk)(void *data, pid_t pid, pid_t tid, const Program *p, gint64 *results, unsigned char *out,
    size_t size, GError **error);
void collector_set_ask(Collector *c, CollectorAsk ask, void *data);
bool collector_ask(Collector *c, pid_t pid, pid_t tid, const Program *p, gint64 *results, unsigned char *data, size_t size,
    GError **error);

/* "pid 812 (redis-server) fd 7", newly allocated. */
char *file_probe_name(const FileProbe *probe);
/* job_block() with that name. @what is the object ("unix stream socket"), joined to it. */
void collector_block(Collector *c, const FileProbe *probe, const char *what, const char *reason, const char *cure);
/* Fills fown from F_GETOWN_EX, F_GETSIG and F_GETOWNER_UIDS of a descriptor. A newly allocated message. */
FownEntry *collector_fown(const FileProbe *probe);
/* One line "key:\tvalue" of /proc/PID/fdinfo/FD; the text of the whole file, newly allocated; NULL with error. */
char *file_probe_fdinfo(const FileProbe *probe, GError **error);

typedef struct Restorer Restorer;

/* @job, @checkpoint and @images_fd are borrowed. Raises the engine's RLIMIT_NOFILE to what it may have. */
Restorer *restorer_new(Job *job, const Checkpoint *checkpoint, int images_fd);
/* Closes every descriptor that is still its own. */
void restorer_free(Restorer *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Restorer, restorer_free)
/* Opens every description that some task's fdinfo names, and closes what only the making of them needed (the other end
 * of a pipe whose holder is gone). */
bool restorer_open_all(Restorer *r, GError **error);
/* The same file with the access mode of @flags (O_RDONLY, O_WRONLY, O_RDWR), for a mapping: the entry of a mapped file
 * does not say how it was opened, the mapping (VmaEntry.fdflags) does. Borrowed; -1 with error. */
int restorer_fd_for_mapping(Restorer *r, guint32 file_id, int flags, GError **error);
/* After all tasks have made their mappings: what would have been in their way (F_SEAL_FUTURE_WRITE of memfds). */
bool restorer_finish(Restorer *r, GError **error);
/* Shared anonymous memory as CRIU's images have it, by its shmid alone; made and filled at the first call. A descriptor,
 * borrowed; -1 with error. */
int restorer_anon_shared(Restorer *r, guint64 shmid, GError **error);
/* Makes sure that a System V segment exists with its content, before tasks attach it. */
bool restorer_sysv(Restorer *r, guint64 id, GError **error);
/* The tree lives: what was made outside of it (System V segments) is not removed again by restorer_free(). */
void restorer_keep(Restorer *r);
/* Of a session whose leader is in the tree: a descriptor of its controlling terminal, and the process group in its
 * foreground (0: not known). -1: it has none, or none of the tree's. */
int restorer_terminal_of(Restorer *r, pid_t sid, pid_t *ret_foreground);
/* Whether the terminal of a job is not the one of this process's session: then the root of the tree is to lead a session
 * of its own on it. */
bool restorer_needs_session(const Job *job);
/* Gives the terminal that replaces the one outside (shell_job) the settings and the foreground group of that one, when
 * nothing can fail any more; does nothing where none was replaced. */
void restorer_take_terminal(Restorer *r);
/* Then, when all tasks run: tells those in the foreground that what they see is another window (SIGWINCH). */
void restorer_tell_terminal(Restorer *r);
/* When nothing can fail any more but this, just before the tasks are let go: descriptions whose world must not see them
 * earlier (TCP connections) become live. */
bool restorer_release(Restorer *r, GError **error);
/* Adds the owner and signal of a description (F_SETOWN_EX, F_SETSIG) to its first holder's program; nothing when it has
 * none. @fd is its number there. */
void restorer_fown_program(const FileEntry *entry, int fd, Program *p);

/* What a task does for its descriptors when it has its credentials (connections to others). */
bool restorer_late_program(Restorer *r, const Task *task, Program *p, GError **error);

/* Opens a task's pidfds of threads, when there are threads; whether there were any. */
bool restorer_thread_pidfds(Restorer *r, const Task *task, Program *p);
/* Registrations in a task's epolls of what it has made itself, at last: rings (io_uring), pidfds of threads. */
bool restorer_epoll_rings(Restorer *r, const Task *task, Program *p, GError **error);

/* The namespaces of the tree's own, borrowed; NULL: none. */
void restorer_set_namespaces(Restorer *r, const NsSet *set);
const NsSet *restorer_namespaces(const Restorer *r);
/* The network namespaces of the checkpoint's own; borrowed. NULL: it has none. */
void restorer_set_places(Restorer *r, const NetPlaces *places);
const NetPlaces *restorer_places(const Restorer *r);
bool restorer_visit_net(const Restorer *r, guint32 id, NetVisit *visit, GError **error);

Job *restorer_job(const Restorer *r);
const Checkpoint *restorer_checkpoint(const Restorer *r);
int restorer_images_fd(const Restorer *r);
/* The description behind a file id, opened at need, in the engine; borrowed; -1 with error. For kinds that refer to
 * other files (epoll targets, a FIFO's path, memfd mappings). */
int restorer_fd_of(Restorer *r, guint32 file_id, GError **error);
/* Whether that descriptor is known to be close-on-exec. */
bool restorer_closes_on_exec(const Restorer *r, guint32 file_id);
/* The late descriptor of a file id, made at the first call, borrowed; -1 without error for kinds that have none, -1 with
 * error. */
int restorer_late_fd(Restorer *r, guint32 file_id, GError **error);
/* Whether a late description is one of a thread (/proc/PID/task/TID), and needs that to exist, too. */
bool restorer_needs_thread(Restorer *r, guint32 file_id);
/* The first task that has a description, NULL if none has. */
const Task *restorer_holder_of(Restorer *r, guint32 file_id);
/* A place for groups: maps (kind, key) to a descriptor that the restorer owns and closes at the end. get: -1 if there
 * is none; take: the same and hands it over to the caller. */
void restorer_shared_put(Restorer *r, FdTypes kind, guint64 key, int fd);
int restorer_shared_get(const Restorer *r, FdTypes kind, guint64 key);
int restorer_shared_take(Restorer *r, FdTypes kind, guint64 key);
/* As collector_state(). */
gpointer restorer_state(Restorer *r, const void *key, gpointer (*make)(void), GDestroyNotify destroy);
/* Fills the content of a shared memory object (pagemap-shmem-<shmid>) into @fd, which has its size already. */
bool restorer_fill_shmem(Restorer *r, guint64 shmid, int fd, GError **error);
/* "file id 12 (/tmp/x)", newly allocated. */
char *file_entry_name(const FileEntry *entry);
/* Opens a regular file entry (also deleted ones from ghosts, at its recorded path and flags, position not yet set), for
 * kinds that lie on one (FIFO). New descriptor or -1. */
int restorer_open_reg(Restorer *r, const RegFileEntry *reg, int flags, GError **error);
/* O_NONBLOCK, O_APPEND, O_ASYNC … by F_SETFL on a fresh descriptor. */
bool restorer_set_flags(int fd, guint32 flags, GError **error);

typedef struct ObjectOps {
  const char *name; /* as users know it: "eventfd" */
  FdTypes type;
  /* True if this kind takes the description. The registry asks in its order; the first one gets it. */
  bool (*claims)(const FileProbe *probe);
  /* @entry has id and type set; fill the sub-message (malloc'ed as protobuf-c does). */
  bool (*collect)(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error);
  /* Both may be NULL. collect_flight: once, before the first collect_finish, finds what no descriptor table has. */
  bool (*collect_flight)(Collector *c, GError **error);
  bool (*collect_finish)(Collector *c, GError **error);
  /* May be NULL. collector_seal() and collector_end(). */
  bool (*seal)(Collector *c, bool kill, GError **error);
  void (*end)(Collector *c, bool killed);
  /* A new descriptor (CLOEXEC, any number), owned by the caller; -1 with error. */
  int (*open)(Restorer *r, const FileEntry *entry, GError **error);
  /* May be NULL. Whether `open` gives a place holder only, and the real one can be made when all tasks exist: by open_late,
   * once, in the engine; every holder fetches it before `program` runs. */
  bool (*is_late)(const FileEntry *entry);
  int (*open_late)(Restorer *r, const FileEntry *entry, GError **error);
  /* May be NULL. Runs once per description, for its first holder: @fd is its final number there. */
  bool (*program)(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error);
  /* May be NULL. Once, when every description that some table has is open, and before any task exists: what needs several of
   * them at a time (queues with descriptors in them). */
  bool (*settle)(Restorer *r, GError **error);
  /* May be NULL. restorer_release(). */
  bool (*release)(Restorer *r, GError **error);
  /* May be NULL. Owner (F_SETOWN/F_SETSIG) of the description is restored from it in the holder's program. */
  const FownEntry *(*fown)(const FileEntry *entry);
} ObjectOps;

/* The kind that claims a description; never NULL (the last kind blocks everything). */
const ObjectOps *object_claim(const FileProbe *probe);
/* The kind of an image entry; NULL for types that nobody handles. */
const ObjectOps *object_of_type(FdTypes type);
/* The kind of an entry of a checkpoint; NULL as above. */
const ObjectOps *object_of_entry(const Checkpoint *checkpoint, const FileEntry *entry);
/* NULL-terminated. */
const ObjectOps *const *object_registry(void);

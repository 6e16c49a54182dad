/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A checkpoint in memory. Its leaves are the messages of the image files, as CRIU names them; what ties them together
 * (which task, which file, which pages) is here. Everything reachable from a Checkpoint is owned by it; messages are
 * allocated as protobuf-c does (malloc) and freed with it. */

#include "checkpoint.pb-c.h"
#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fs.pb-c.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "mnt.pb-c.h"
#include "netdev.pb-c.h"
#include "pagemap.pb-c.h"
#include "pstree.pb-c.h"
#include "tty.pb-c.h"
#include "utsns.pb-c.h"
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* core_entry.tc.task_state */
/* Of zombies, images have TASK_DEAD; TASK_ZOMBIE is a later criu's. */
enum { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3, TASK_ZOMBIE = 6 };

/* vma_entry.status, bits */
enum {
  VMA_AREA_REGULAR = 1 << 0,
  VMA_AREA_STACK = 1 << 1,
  VMA_AREA_VSYSCALL = 1 << 2,
  VMA_AREA_VDSO = 1 << 3,
  VMA_AREA_HEAP = 1 << 5,
  VMA_FILE_PRIVATE = 1 << 6,
  VMA_FILE_SHARED = 1 << 7,
  VMA_ANON_SHARED = 1 << 8,
  VMA_ANON_PRIVATE = 1 << 9,
  VMA_AREA_SYSVIPC = 1 << 10,
  VMA_AREA_SOCKET = 1 << 11,
  VMA_AREA_VVAR = 1 << 12,
  VMA_AREA_AIORING = 1 << 13,
  VMA_AREA_MEMFD = 1 << 14,
  VMA_AREA_SHSTK = 1 << 15,
  VMA_AREA_GUARD = 1 << 16,
  VMA_AREA_UPROBES = 1 << 17,
  VMA_EXT_PLUGIN = 1 << 27,
};

/* pagemap_entry.flags */
enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };

/* remap_file_path_entry.remap_type */
enum { REMAP_LINKED = 0, REMAP_GHOST = 1, REMAP_PROCFS = 2 };

/* The pages of one address space or one shared memory object: entries in address order; the PRESENT ones lie one after
 * the other in pages-<pages_id>.img. Whoever writes them may note their digest (engine/image/digest.h) as they pass by; it
 * is kept in checkpoint.img, and whoever reads them may ask for the check (image_check_pages). */
typedef struct PageSet {
  guint32 pages_id;
  bool has_digest;
  guint64 digest; /* of the pages in the file: digest_of_pages() */
  GPtrArray *entries; /* PagemapEntry */
} PageSet;

PageSet *page_set_new(guint32 pages_id);
void page_set_free(PageSet *set);
/* Appends @n pages at @vaddr, joined to the last entry where that is adjacent and has the same flags. */
void page_set_add(PageSet *set, guint64 vaddr, guint64 n_pages, guint32 flags);
/* nr_pages of an entry of either generation of the format (nr_pages or compat_nr_pages). */
guint64 pagemap_entry_n_pages(const PagemapEntry *entry);
/* flags of an entry, PRESENT or PARENT filled in for old entries without them. */
guint32 pagemap_entry_flags(const PagemapEntry *entry);
/* Pages with PRESENT, that is those that lie in the pages file. */
guint64 page_set_n_present(const PageSet *set);

typedef struct Thread {
  pid_t tid;
  CoreEntry *core;   /* for the leader the same message as Task.core */
  CkptThread *extra; /* may be NULL */
} Thread;

typedef struct Task {
  PstreeEntry *pstree;   /* pid, ppid, pgid, sid, threads */
  CoreEntry *core;       /* of the leader */
  TaskKobjIdsEntry *ids; /* NULL for zombies */
  MmEntry *mm;           /* NULL for zombies; MmEntry.vmas is the list of mappings */
  FsEntry *fs;           /* NULL for zombies */
  GPtrArray *fds;        /* FdinfoEntry */
  GPtrArray *threads;    /* Thread; [0] is the leader */
  PageSet *pages;        /* NULL for zombies */
  CkptTask *extra;       /* may be NULL: made by another program */
} Task;

static inline pid_t task_pid(const Task *t) {
  return (pid_t)t->pstree->pid;
}
bool task_is_zombie(const Task *t);
/* A 32-bit program (ia32). */
bool task_is_ia32(const Task *t);

/* One entry of an image file that is not tied to a task: the message and the raw bytes behind it, if its kind has any. */
typedef struct Record {
  ProtobufCMessage *message;
  GBytes *extra; /* may be NULL */
} Record;

/* The singleton image files a checkpoint may hold, besides files.img */
typedef enum RecordKind {
  RECORD_PIPES_DATA, /* PipeDataEntry + bytes */
  RECORD_FIFO_DATA,  /* PipeDataEntry + bytes */
  RECORD_SK_QUEUES,  /* SkPacketEntry + bytes */
  RECORD_MEMFD,      /* MemfdInodeEntry */
  RECORD_REMAP,      /* RemapFilePathEntry */
  RECORD_SECCOMP,    /* SeccompEntry */
  RECORD_CGROUP,     /* CgroupEntry */
  RECORD_TIMENS,     /* TimensEntry */
  RECORD_EVENTPOLL_TFD, /* EventpollTfdEntry: old images only; new ones nest them in EventpollFileEntry */
  RECORD_TTY_INFO,   /* TtyInfoEntry */
  RECORD_TTY_DATA,   /* TtyDataEntry */
  RECORD_FILE_LOCKS, /* FileLockEntry */
  RECORD_IPC_SHM, /* IpcShmEntry; the file is numbered by the ipc namespace's id */
  RECORD_N_KINDS
} RecordKind;

/* A namespace that the tree has and whoever dumped it had not. */
typedef struct NsImage {
  guint32 kind;      /* CLONE_NEWNS, CLONE_NEWUTS, … */
  guint32 id;        /* as ids-PID.img has it, and the number of its files */
  GPtrArray *mounts; /* CLONE_NEWNS: MntEntry, parents before what is mounted on them; the first is the root */
  UtsnsEntry *uts;   /* CLONE_NEWUTS */
} NsImage;
/* Raw images of a network namespace, as `ip addr save` and its like write them. */
typedef enum NetRaw {
  NET_RAW_IFADDR,
  NET_RAW_ROUTE,
  NET_RAW_ROUTE6,
  NET_RAW_RULE,
  NET_RAW_NFTABLES,
  NET_RAW_N_KINDS
} NetRaw;

/* A network namespace that is not the one of whoever dumped. Where only the id is there, it is an empty one. */
typedef struct NetNamespace {
  guint32 id;
  NetnsEntry *entry;
  GPtrArray *devices;          /* NetDeviceEntry */
  GBytes *raw[NET_RAW_N_KINDS]; /* NULL: no such file */
  CkptNetns *extra;            /* may be NULL: made by another program */
} NetNamespace;

NetNamespace *net_namespace_new(guint32 id);
void net_namespace_free(NetNamespace *ns);

/* The content of a deleted file: ghost-file-<id>.img. Small ones are held here as chunks; the content is read from the
 * file again at restore. */
typedef struct Checkpoint {
  InventoryEntry *inventory;
  GPtrArray *tasks;              /* Task; [0] is the root, parents before children */
  GHashTable *tasks_by_pid;      /* GINT_TO_POINTER(pid) -> Task, borrowed */
  GPtrArray *files;              /* FileEntry, in id order of their making */
  GHashTable *files_by_id;       /* GUINT_TO_POINTER(id) -> FileEntry, borrowed */
  GPtrArray *records[RECORD_N_KINDS]; /* Record */
  GHashTable *shmem;             /* guint64* shmid -> PageSet: shared anonymous memory and memfds */
  CkptCreator *creator;          /* may be NULL */
  GHashTable *tcp_streams;       /* GUINT_TO_POINTER(inode) -> Record: TcpStreamEntry and the bytes of both queues */
  CkptNetwork *network;          /* may be NULL */
  GPtrArray *netlinks;           /* CkptNetlink */
  GPtrArray *mapped_locks;       /* CkptMappedLock */
  GPtrArray *linked_files;       /* CkptLinkedFile */
  GPtrArray *sockets;            /* CkptSocket */
  GHashTable *sockets_by_id;     /* GUINT_TO_POINTER(file id) -> CkptSocket, borrowed */
  GPtrArray *externals;          /* CkptExternal: objects whose other side is not here */
  GHashTable *externals_by_id;   /* GUINT_TO_POINTER(file id) -> CkptExternal, borrowed */
  GPtrArray *plugins;            /* CkptPlugin: who keeps something here */
  GPtrArray *plugin_objects;     /* CkptPluginObject: what they took */
  GPtrArray *ttys;               /* CkptTty, one a pseudo terminal */
  GPtrArray *urings;             /* CkptUring */
  GPtrArray *mqueues;            /* CkptMqueue, one a description */
  GPtrArray *epolls; /* CkptEpoll */
  GPtrArray *pidfds; /* CkptPidfd */
  GPtrArray *fs_marks; /* CkptFsMark */
  GPtrArray *watches; /* CkptWatch */
  GPtrArray *namespaces; /* NsImage; empty for trees in the namespaces of whoever dumped them */
  GPtrArray *net_namespaces; /* NetNamespace */
  GPtrArray *mounts; /* CkptMount: of all of them */
} Checkpoint;

Checkpoint *checkpoint_new(void);
void checkpoint_free(Checkpoint *checkpoint);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Checkpoint, checkpoint_free)

/* The checkpoint takes @task, @entry, @message, @extra, @pages over. Adding a file id twice is a bug of the caller. */
Task *task_new(void);
void task_free(Task *task);
Thread *thread_new(pid_t tid, CoreEntry *core);
void thread_free(Thread *thread);
void checkpoint_add_task(Checkpoint *checkpoint, Task *task);
void checkpoint_add_file(Checkpoint *checkpoint, FileEntry *entry);
void checkpoint_add_record(Checkpoint *checkpoint, RecordKind kind, ProtobufCMessage *message, GBytes *extra);
void checkpoint_add_shmem(Checkpoint *checkpoint, guint64 shmid, PageSet *pages);
Task *checkpoint_find_task(const Checkpoint *checkpoint, pid_t pid);
/* Whether a task before it has the same descriptor table (CLONE_FILES). */
bool checkpoint_repeats_fds(const Checkpoint *checkpoint, const Task *task);
FileEntry *checkpoint_find_file(const Checkpoint *checkpoint, guint32 id);
void checkpoint_add_external(Checkpoint *checkpoint, CkptExternal *external);
/* The record of an external object; NULL for file id 0 and where there is none. */
CkptExternal *checkpoint_find_external(const Checkpoint *checkpoint, guint32 file_id);
/* What files.img does not say about a socket; NULL where there is nothing. */
void checkpoint_add_socket(Checkpoint *checkpoint, CkptSocket *socket);
CkptSocket *checkpoint_find_socket(const Checkpoint *checkpoint, guint32 file_id);
/* What is known about pseudo terminal @index, and the entry of tty-info.img with an id; NULL if there is none. */
CkptTty *checkpoint_find_tty(const Checkpoint *checkpoint, guint32 index);
/* The description of a POSIX message queue with that file id; NULL if it is none. */
CkptMqueue *checkpoint_find_mqueue(const Checkpoint *checkpoint, guint32 file_id);
/* The ring behind a file id; NULL if it is none. */
CkptUring *checkpoint_find_uring(const Checkpoint *checkpoint, guint32 file_id);
TtyInfoEntry *checkpoint_find_tty_info(const Checkpoint *checkpoint, guint32 id);
/* Of the socket with that inode (InetSkEntry.ino); replaces an earlier one. */
void checkpoint_add_tcp_stream(Checkpoint *checkpoint, guint32 ino, ProtobufCMessage *message, GBytes *extra);
const Record *checkpoint_find_tcp_stream(const Checkpoint *checkpoint, guint32 ino);
/* NULL: it is the one of whoever dumped, or restores. */
NetNamespace *checkpoint_find_net(const Checkpoint *checkpoint, guint32 id);
/* The network namespace that a socket's entry names; 0: none. */
guint32 file_entry_net_id(const FileEntry *entry);
PageSet *checkpoint_find_shmem(const Checkpoint *checkpoint, guint64 shmid);
/* Of CLONE_NEW… kinds; 0: not known. */
guint32 ns_id_of(const TaskKobjIdsEntry *ids, guint32 kind);
/* A new one, which is the checkpoint's; or the one that is there with that kind and id; NULL if there is none. */
NsImage *checkpoint_add_namespace(Checkpoint *checkpoint, guint32 kind, guint32 id);
NsImage *checkpoint_find_namespace(const Checkpoint *checkpoint, guint32 kind, guint32 id);
/* The mount namespace of the tree's own that has a mount with that id (mnt_entry.mnt_id); NULL: none. */
const NsImage *checkpoint_namespace_of_mount(const Checkpoint *checkpoint, gint32 mnt_id);
/* What checkpoint.img says about a mount; NULL: nothing. */
const CkptMount *checkpoint_find_mount(const Checkpoint *checkpoint, guint32 mnt_id);
/* The mount with that id, in any namespace of the tree's own; NULL: none. */
const MntEntry *checkpoint_find_mount_entry(const Checkpoint *checkpoint, guint32 mnt_id);

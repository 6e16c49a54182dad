/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The interface of checkpointd's plugins. docs/plugins.md is its manual, plugins/template/ a plugin to begin with.
 *
 * A plugin is a shared object that exports one constant structure:
 *
 *     CHECKPOINT_PLUGIN = {
 *         CHECKPOINT_PLUGIN_HEADER("mine", "1.0", "What it does"),
 *         .kinds = CHECKPOINT_KIND_FILE,
 *         .dump = mine_dump,
 *         .restore = mine_restore,
 *     };
 *
 * Every callback may be missing. Those that return int return 0 for success (more where it says so), a negative errno
 * for failure, which fails the whole job and names the plugin, and -ENOTSUP for "not mine": the next plugin is asked.
 *
 * All callbacks run in one thread of the engine, as root, one after the other. They must not change the process: no
 * signal handlers, no chdir(2), umask(2), set*id(2). A plugin may keep descriptors of its own between its callbacks,
 * close-on-exec, and closes them in fini; one that forgets is named in the log. A plugin that is not trusted that far
 * is better a program of its own (docs/plugins.md, "Out of process").
 *
 * Growth: structures only ever grow at their end, and begin with their size as whoever made them knew it. Members
 * behind that size must not be looked at; CHECKPOINT_HAS() asks. What cannot grow so gets a new CHECKPOINT_PLUGIN_ABI.
 * CHECKPOINT_PLUGIN_REVISION counts how often it has grown; what came with which says so. A plugin that answers with what
 * came later than the engine it runs in fails the job, named: it asks first (host->revision).
 */
#ifndef CHECKPOINT_PLUGIN_H
#define CHECKPOINT_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHECKPOINT_PLUGIN_ABI 1
#define CHECKPOINT_PLUGIN_REVISION 4 /* programs may ask; nothing here has grown */
/* The name of the exported symbol. */
#define CHECKPOINT_PLUGIN_SYMBOL "checkpoint_plugin_abi"

/* What a job does. */
enum checkpoint_stage {
  CHECKPOINT_STAGE_DUMP = 0,
  CHECKPOINT_STAGE_PRE_DUMP = 1,
  CHECKPOINT_STAGE_RESTORE = 2,
  /* What would a dump do? Only plugins with CHECKPOINT_PLUGIN_EXPLAINS are asked; nothing may be changed anywhere. */
  CHECKPOINT_STAGE_EXPLAIN = 3,
};

/* Kinds of objects; a bit each. */
enum checkpoint_kind {
  CHECKPOINT_KIND_UNIX_SOCKET = 1 << 0, /* its other end is outside of the tree */
  CHECKPOINT_KIND_FILE = 1 << 1,        /* a device, an anonymous inode, whatever the engine does not know */
  CHECKPOINT_KIND_MAPPING = 1 << 2,     /* a mapping of a device or of another kernel object */
  CHECKPOINT_KIND_MEMORY = 1 << 3,      /* the content of a private mapping */
  CHECKPOINT_KIND_MOUNT = 1 << 4,       /* a mount that comes from outside */
  CHECKPOINT_KIND_LINK = 1 << 5,        /* a network link that leads outside */
};

/* One object. Texts are NULL and numbers 0 where they do not apply or are not known; file descriptors are -1 then. At a
 * restore everything is as it was at the dump, except `fd`, which is -1. All pointers are lent for the call. */
struct checkpoint_object {
  size_t size; /* of this structure */
  uint32_t kind;
  uint32_t reserved;
  uint64_t id; /* unique in the checkpoint; the same at dump and restore */

  int32_t pid;      /* a task that has it */
  int32_t number;   /* the descriptor's number there; -1: it has none */
  const char *comm; /* the task's name */
  int32_t fd;       /* dump: a duplicate of it, lent; must not be closed */
  int32_t flags;    /* F_GETFL */

  /* Files and sockets: stat(2). */
  uint32_t mode;
  uint32_t reserved_mode;
  uint64_t dev, ino, rdev;
  const char *path; /* as /proc/PID/fd has it: "/dev/net/tun", "anon_inode:[perf_event]" */

  /* Sockets. A name that begins with '@' is an abstract one. */
  int32_t socket_type;   /* SOCK_STREAM … */
  uint32_t socket_state; /* 1 connected, 7 unconnected, 10 listening */
  const char *socket_name;
  uint64_t peer_ino;
  int32_t peer_pid;            /* 0: not known */
  uint32_t peer_uid, peer_gid; /* -1: not known */
  uint32_t unread;             /* bytes queued towards the application */
  const char *peer_comm;
  const char *peer_name;

  /* Mappings and memory. */
  uint64_t start, end, offset; /* bytes; offset in what is mapped */
  int32_t protection;          /* PROT_READ … */
  int32_t shared;              /* MAP_SHARED */

  /* Revision 2: what the rule says that sends it to the plugin, behind the name: action=plugin:NAME:ARGUMENT. */
  const char *argument;

  /* Revision 3: network links. `path` is the link's name, `pid` a task that lives in its network namespace, `fd` (lent, at the
   * dump and at the restore) the namespace itself, for setns(2). */
  uint32_t link_index;
  uint32_t link_type;    /* ARPHRD_ETHER … */
  const char *link_kind; /* "vxlan", "tun"; "": it has none, as hardware */
  /* Revision 3: mounts. `path` is the mountpoint in the namespace, `fd` (dump) what is mounted there (O_PATH). At a restore, where
   * it is to be mounted now, and where what the engine usually has as its root lies meanwhile ("/old"). */
  const char *filesystem; /* its type; may be NULL at a restore */
  const char *source;     /* what was mounted */
  const char *target, *outside;
};

/* What was kept of a file (revision 2). */
struct checkpoint_content {
  size_t size; /* of this structure */
  uint64_t length;
  uint32_t mode, uid, gid;
  uint32_t mtime_nsec;
  int64_t mtime_sec;
  uint64_t hash; /* as content_hash() makes it */
};

/* What the engine offers to plugins. It outlives fini. */
struct checkpoint_host {
  size_t size;
  uint32_t abi;
  uint32_t stage; /* enum checkpoint_stage */
  void *data;     /* the engine's */
  /* The images directory, lent; -1 in EXPLAIN. A plugin that uses records needs no files. */
  int images_fd;
  /* For whom the job is: a uid, or CHECKPOINT_CALLER_TRUSTED for root, and for whom an administrator's action was
   * granted. The engine is root all the same, and so is what a plugin makes: for others it must not make what that user
   * could not make without it. */
  uint32_t caller;

  /* A line of the job's log; @priority as in syslog(3): 3 error, 4 warning, 6 information, 7 debug. */
  void (*log)(const struct checkpoint_host *host, int priority, const char *format, ...)
      __attribute__((format(printf, 3, 4)));
  /* How far the present callback is, in units of its own. Whoever watches the job sees it. Returns -ECANCELED when the
   * job is to end: a callback that takes long should return it then. */
  int (*progress)(const struct checkpoint_host *host, uint64_t done, uint64_t total);

  /* Records: bytes (by convention a protobuf message) that the engine keeps in the checkpoint, for an object by its id,
   * or for the plugin itself with id 0. Those of an object that is not taken in the end are dropped. */
  /* Dump. Adds one, of at most CHECKPOINT_RECORD_MAX bytes, and 32 MiB in a checkpoint. -E2BIG, -EDQUOT, -EROFS (in a
   * restore), -ENOENT (no object of this plugin has the id). */
  int (*record_add)(const struct checkpoint_host *host, uint64_t id, const void *data, size_t size);
  /* Restore. The record number @index (from 0 on), lent until fini. -ENOENT behind the last one. */
  int (*record_get)(
      const struct checkpoint_host *host, uint64_t id, uint32_t index, const void **ret_data, size_t *ret_size);

  /* Dump. Copies memory of a frozen task of the tree. Negative errno; all or nothing. */
  int (*memory_read)(const struct checkpoint_host *host, int pid, uint64_t address, void *buffer, size_t size);

  /* --- revision 2 --- */
  uint32_t revision; /* the engine's CHECKPOINT_PLUGIN_REVISION */
  uint32_t reserved;

  /* In dump, restore and connected: why the answer is REFUSED or DISCONNECTED, and what would help (may be NULL), for people.
   * Both are copied. */
  void (*explain)(const struct checkpoint_host *host, const char *reason, const char *cure);
  /* Dump. 1: @pid is a task of the tree; 0: it is not. */
  int (*has_task)(const struct checkpoint_host *host, int pid);
  /* In dump and restore of a unix socket: connect(2) of @fd, seen by the other side as made by a process of that user.
   * @address: a path, or '@' and an abstract name; NULL: where the object in question is (was) connected to. Nothing else of
   * the engine is changed: rights on the path are the engine's own. Negative errno. */
  int (*connect_as)(const struct checkpoint_host *host, int fd, const char *address, uint32_t uid, uint32_t gid);
  /* In restore, before the answer CHECKPOINT_CONNECT: to connect to @address (as above; NULL: where it was), and to say
   * @first, of at most 4096 bytes, there at once. -EINVAL: no address, or too long. */
  int (*connect_to)(const struct checkpoint_host *host, const char *address, const void *first, size_t size);
  /* In dump, before the answer CHECKPOINT_REOPEN: the content of the regular file in question goes into the images, once
   * for each inode, holes kept. -EINVAL: it is none. */
  int (*content_keep)(const struct checkpoint_host *host);
  /* In restore: what was kept of the object in question. @fd: an empty file that gets the content; -1: only tells. -ENOENT:
   * nothing was. */
  int (*content_get)(const struct checkpoint_host *host, int fd, struct checkpoint_content *ret_content);
  /* The hash of the content of any regular file (fd may be O_PATH), to compare it with what was kept. */
  int (*content_hash)(const struct checkpoint_host *host, int fd, uint64_t *ret_hash);
};

#define CHECKPOINT_RECORD_MAX (64u * 1024)
#define CHECKPOINT_CALLER_TRUSTED UINT32_MAX

/* Answers of `dump` and `restore` besides 0 and negative ones. */
enum {
  /* Not yet: asks to be called again when the other objects of plugins are there. */
  CHECKPOINT_AGAIN = 1,
  /* No descriptor, the application shall find the object gone: a socket whose other end is closed. Sockets only. In dump
   * (revision 2): so it will be, and the plugin need not be asked again. In connected: it is shut down. */
  CHECKPOINT_DISCONNECTED = 2,
  /* Revision 2, of unix sockets. In dump: the socket will be connected anew. In restore: the engine makes it, with its name
   * and options, and the restored process itself connects it, when it has its credentials (see connect_to); then `connected`
   * is called. What was queued is restored for datagrams, else dropped. */
  CHECKPOINT_CONNECT = 3,
  /* Revision 2, of files. In dump: the file will be opened again by its path, by the engine. In restore: there it is now. */
  CHECKPOINT_REOPEN = 4,
  /* Revision 2, in dump: the object is the plugin's, but cannot be dumped as it is now, for the reason in explain(): a
   * blocker of its own, which is named with all others. */
  CHECKPOINT_REFUSED = 5,
};

/* Moments in the life of a tree, for what has to be told (accelerators, above all). */
enum checkpoint_moment {
  CHECKPOINT_MOMENT_PAUSE = 1,      /* dump, per task: it is about to be frozen, and still runs */
  CHECKPOINT_MOMENT_CHECKPOINT = 2, /* dump, per task: the whole tree stands still */
  CHECKPOINT_MOMENT_DUMPED = 3,     /* dump, once, with the root's pid: all is collected, the memory too */
  CHECKPOINT_MOMENT_BEGIN = 4,      /* restore, once, pid 0: nothing is made yet */
  CHECKPOINT_MOMENT_FORKED = 5,     /* restore, once, with the root's pid: every task exists, with its memory */
  CHECKPOINT_MOMENT_RESUME = 6,     /* restore, per task: all is made, it is about to run */
};

/* checkpoint_plugin.flags */
enum {
  CHECKPOINT_PLUGIN_EXPLAINS = 1 << 0, /* may be asked in CHECKPOINT_STAGE_EXPLAIN */
  /* Revision 2: may be asked about images that the job's caller could have written (the engine has no more rights than the
   * caller then). Its restore answers with CONNECT, REOPEN or DISCONNECTED only, never with a descriptor. */
  CHECKPOINT_PLUGIN_UNTRUSTED = 1 << 1,
};

struct checkpoint_plugin {
  size_t size; /* of this structure */
  uint32_t abi;
  uint32_t flags;
  const char *name; /* letters, digits, '-', '_', '.'; unique; kept in the checkpoints that it is needed for */
  const char *version;
  const char *description;
  uint32_t kinds; /* what it is asked about */

  /* The order of questions: small numbers first, then names as strcmp(3) has them; but never before the plugins named
   * in @after (ending with NULL; NULL: none). */
  int32_t priority;
  const char *const *after;

  /* Before anything else. The job is refused when it fails. @ret_context is handed to all other callbacks. */
  int (*init)(const struct checkpoint_host *host, void **ret_context);
  /* At the end, if init succeeded. @result: 0, or the negative errno of the job's failure (-ECANCELED …). */
  void (*fini)(void *context, int result);

  /* One batch a job: before the first and after the last object that is offered to anybody. @n_objects: how many come
   * (a restore); 0: not known yet (a dump). */
  int (*begin)(void *context, uint64_t n_objects);
  int (*end)(void *context);

  /* UNIX_SOCKET, FILE, MAPPING, MOUNT. 0: taken; or DISCONNECTED, CONNECT, REOPEN, REFUSED. LINK (revision 3): 0 or REFUSED; the
   * thread is in the link's network namespace meanwhile. */
  int (*dump)(void *context, const struct checkpoint_object *object);
  /* Makes it again: 0 with a new descriptor, which is handed over, AGAIN, DISCONNECTED, CONNECT or REOPEN. First
   * asked is the plugin that took it; if that answers -ENOTSUP, all others; if nobody has it, the restore fails. -ESTALE, with
   * an explanation, fails it as FileChanged: what is there now is not what was there. The
   * engine sets the status flags (F_SETFL), the owner and signal, and a socket's options. For a MAPPING, the mapping is
   * made of the descriptor at *ret_offset, which holds the old one before the call. A LINK (revision 3) has no descriptor: with
   * the answer 0 it is in the namespace object->fd, under its name; all may pass (-ENOTSUP), where a script brings it. For a MOUNT
   * (revision 3) the descriptor is of what shall be mounted at `target`: a directory or file (O_PATH), a mount that is nowhere yet
   * (open_tree(2), fsmount(2)); or of what the plugin has mounted there itself. */
  int (*restore)(void *context, const struct checkpoint_object *object, int *ret_fd, uint64_t *ret_offset);

  /* MEMORY: a private mapping of a frozen task. 0: the plugin has the content, or knows how to make it; none of it goes
   * into the images. */
  int (*memory_dump)(void *context, const struct checkpoint_object *object);
  /* @fd, lent, is an empty file as long as the mapping: what is written into it appears there, what is not is zero (of
   * a file mapping: what is in the file). */
  int (*memory_restore)(void *context, const struct checkpoint_object *object, int fd);

  /* A moment of task @pid. Every plugin is told; -ENOTSUP is no failure. */
  int (*moment)(void *context, uint32_t moment, int pid);

  /* Revision 2. After the answer CHECKPOINT_CONNECT of `restore`: every process has connected, and none runs yet. @fd, lent,
   * is the connection, to say there what has to be said on the process's behalf. 0, or CHECKPOINT_DISCONNECTED. */
  int (*connected)(void *context, const struct checkpoint_object *object, int fd);
};

#define CHECKPOINT_PLUGIN_HEADER(name_, version_, description_)                                                        \
  .size = sizeof(struct checkpoint_plugin), .abi = CHECKPOINT_PLUGIN_ABI, .name = (name_), .version = (version_),      \
  .description = (description_)

/* Whether a structure that begins with `size` has a member. */
#define CHECKPOINT_HAS(pointer, member)                                                                                \
  ((pointer)->size >= offsetof(__typeof__(*(pointer)), member) + sizeof((pointer)->member))

#define CHECKPOINT_PLUGIN                                                                                              \
  extern const struct checkpoint_plugin checkpoint_plugin_abi;                                                         \
  __attribute__((visibility("default"))) const struct checkpoint_plugin checkpoint_plugin_abi

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* External objects: what leads out of the tree, or what no kind can collect by itself. A kind never asks a policy or a
 * plugin. It describes the object and calls collector_external(); whoever runs the dump has registered a function that
 * asks policies, then plugins (engine/dump/external.c). Their claim says what the kind writes into its image entry.
 * If nobody takes the object, it becomes the blocker that the kind would have named.
 *
 * Restore goes the same way back: a kind that meets an entry of an external object calls restorer_external(), and gets
 * an answer: a ready descriptor, or what to do (engine/restore/external.c).
 *
 * What was claimed stands in checkpoint.img (ckpt_external), with the description, so that rules given at the restore
 * are held against the same object. */

#include "object.h"

typedef enum ExternalKind {
  EXTERNAL_UNIX = 1, /* a unix socket whose other end is not in the tree */
  EXTERNAL_FILE,     /* a regular file, directory, FIFO or O_PATH descriptor */
  EXTERNAL_DEVICE,   /* an open character or block device */
  EXTERNAL_MAPPING,  /* a mapping of a device or of another object that cannot be mapped from a file */
  EXTERNAL_OTHER,    /* anonymous inodes, sockets of other families, namespaces: what nothing else is */
  EXTERNAL_PIPE,     /* one end of a pipe whose other end is not in the tree */
} ExternalKind;

typedef enum ExternalAction {
  EXTERNAL_NOBODY = 0, /* not claimed */
  EXTERNAL_RECONNECT,  /* unix: connect again, to @value if it is set */
  EXTERNAL_CLOSE,      /* unix: comes back with its other end closed */
  EXTERNAL_INHERIT,    /* a descriptor of the restore's caller, by the key @value */
  EXTERNAL_REOPEN,     /* file, device: open again by its path */
  EXTERNAL_REMAP,      /* file, device: open @value instead */
  EXTERNAL_EMBED,      /* file: its content is in the checkpoint (of a rule: the plugin file-embed) */
  EXTERNAL_PLUGIN,     /* the plugin @plugin has it */
  EXTERNAL_DBUS,       /* unix: reconnect, as the plugin dbus does it */
  EXTERNAL_FAIL,       /* blocks, whatever else might be possible */
  EXTERNAL_N_ACTIONS
} ExternalAction;

/* Everything known about one object; all pointers are borrowed for the time of the call. */
typedef struct ExternalObject {
  ExternalKind kind;
  guint32 file_id;  /* 0: a mapping */
  pid_t pid;        /* a holder; 0 in a restore where none is known */
  const char *comm; /* its name */
  int fd;           /* its number there; -1: a mapped file, a working directory, a mapping */
  int local;        /* dump: our duplicate, borrowed; must not be closed. -1: there is none */
  int pidfd;        /* dump: of the holder, borrowed; -1 otherwise */
  int flags;        /* open flags as F_GETFL says */
  struct stat st;   /* of the file, device or socket; zero at a restore */
  const char *path; /* of files and devices, "/…"; else what the kernel calls it ("anon_inode:[inotify]") */
  bool optional;    /* the kind can do without: only explicit rules may take it, no plugin is asked by itself */
  struct {          /* EXTERNAL_UNIX */
    int type;       /* SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM */
    guint32 state;  /* 1 connected, 7 unconnected, 10 listening */
    guint32 ino;    /* the socket's inode, and that of its peer (0: none) */
    guint32 peer_ino;
    const guint8 *name, *peer_name; /* as in sun_path; abstract ones begin with a zero byte */
    gsize name_size, peer_name_size;
    pid_t peer_pid; /* who holds the other end; 0: not known */
    uid_t peer_uid;
    gid_t peer_gid;
    bool peer_known; /* peer_uid and peer_gid are (SO_PEERCRED, or the holder's) */
    const char *peer_comm; /* and peer_pid: of a pipe's other end, too */
    guint32 unread; /* bytes queued towards the application */
  } sock;
  struct { /* EXTERNAL_MAPPING */
    guint64 start, end, offset;
    int prot;
    bool shared;
  } map;
  /* The blocker it would be. */
  const char *what; /* "unix stream socket (unnamed)" */
  const char *reason, *cure;
} ExternalObject;

/* What of a file must be as it was at the dump. */
enum {
  EXTERNAL_CHECK_SIZE = 1 << 0,
  EXTERNAL_CHECK_MTIME = 1 << 1,
  EXTERNAL_CHECK_BUILD_ID = 1 << 2,
  EXTERNAL_CHECK_CONTENT = 1 << 3,
};
/* "size,mtime", "none"; newly allocated. */
char *external_checks_text(unsigned checks);
bool external_checks_parse(const char *text, unsigned *ret_checks);

/* "unix", "file", …; "reconnect", "close", …. Never NULL. */
const char *external_kind_name(ExternalKind kind);
const char *external_action_name(ExternalAction action);
/* 0 (of no kind, EXTERNAL_NOBODY) for other texts. */
ExternalKind external_kind_of(const char *name);
ExternalAction external_action_of(const char *name);

/* --- dump --- */

typedef struct ExternalClaim {
  ExternalAction action; /* EXTERNAL_NOBODY: becomes the blocker; EXTERNAL_FAIL: blocks with the reason below */
  char *value;           /* owned; may be NULL */
  GBytes *send;          /* owned; reconnect: what is said first on the new connection; may be NULL */
  unsigned checks;       /* of files: EXTERNAL_CHECK_* that the restore is to make */
  bool has_checks;
  char *plugin;          /* owned; who has it, or is to be asked; NULL: any, or none */
  char *rule;            /* owned; which rule or plugin decided and where it stands, for people */
  char *reason, *cure;   /* owned; for EXTERNAL_FAIL, else the object's own are taken */
} ExternalClaim;
void external_claim_clear(ExternalClaim *claim);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ExternalClaim, external_claim_clear)

/* Fills @ret_claim, which is zeroed. false: the job ends with @error (a plugin failed). */
typedef bool (*ExternalAsk)(void *data, const ExternalObject *object, ExternalClaim *ret_claim, GError **error);
/* Who is asked; without it nobody takes anything. @data is borrowed. @ordinary: also about what the kinds can do without
 * (optional objects); otherwise those cost nothing. */
void collector_set_external(Collector *c, ExternalAsk ask, void *data, bool ordinary);
bool collector_asks_about_ordinary(Collector *c);
/* For kinds: asks, notes a claim in the checkpoint (ckpt_external), and blocks what was refused, or what nobody took
 * and is not optional. ret_claim->action is EXTERNAL_NOBODY in both cases. */
bool collector_external(Collector *c, const ExternalObject *object, ExternalClaim *ret_claim, GError **error);
/* What a probe tells; kind, what, reason and cure are the caller's to fill. */
ExternalObject external_of_probe(ExternalKind kind, const FileProbe *probe, guint32 file_id);
/* For kinds that block with collector_block(): the same, but asks first. If somebody took it, the entry becomes one of
 * type EXT. @entry may be NULL (nothing to write: then only a blocker can come of it). */
bool collector_block_external(Collector *c, ExternalKind kind, const FileProbe *probe, FileEntry *entry,
    const char *what, const char *reason, const char *cure, GError **error);

/* --- restore --- */

typedef struct ExternalAnswer {
  ExternalAction action; /* EXTERNAL_NOBODY: as if there were no rule */
  int fd;                /* INHERIT, PLUGIN: the new descriptor, owned by whoever asked; else -1 */
  char *value;           /* owned; REMAP: where to */
  GBytes *address;       /* owned; RECONNECT: the sun_path; NULL: where it was */
  GBytes *send;          /* owned; RECONNECT */
  char *plugin;          /* owned; who is to be asked; NULL: any, or none */
  bool only;             /* and nobody else: a rule of the restore says so */
  unsigned checks;       /* of files: EXTERNAL_CHECK_*, */
  bool has_checks;       /* where a rule, an option or the dump's rule says which; else what is recorded is compared */
  bool if_kept;          /* what the dump has not kept is not compared, instead of being an error */
} ExternalAnswer;
void external_answer_clear(ExternalAnswer *answer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ExternalAnswer, external_answer_clear)

/* @record: what stands in checkpoint.img about it; NULL: nothing (another program made the checkpoint, or the object was
 * not external then). */
typedef bool (*ExternalResolve)(void *data, const ExternalObject *object, const CkptExternal *record,
    ExternalAnswer *ret_answer, GError **error);
/* @ordinary: it is to be asked about objects, too, that were not external at the dump; otherwise those cost nothing. */
void restorer_set_external(Restorer *r, ExternalResolve resolve, void *data, bool ordinary);
/* For kinds: @object's file_id, path and sock are set by the caller, the rest comes from the record and the holder. */
bool restorer_external(Restorer *r, ExternalObject *object, ExternalAnswer *ret_answer, GError **error);

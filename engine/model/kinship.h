/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Who makes whom, so that everybody ends in the session and shares the tables that it had (clone(2), unshare(2), setsid(2)).
 * Pure: made from numbers alone, and used by the restore to make the tasks as by the dump to say beforehand that it can. */

#include "checkpoint.h"

typedef enum ShareKind { SHARE_MEMORY, SHARE_SIGHAND, SHARE_FILES, SHARE_FS, SHARE_SYSVSEM, SHARE_KINDS } ShareKind;

/* The id of what @task (no zombie) shares of a kind; 0: nothing. */
guint32 share_id(const Task *task, ShareKind kind);
/* The flag of clone(2), and how people call it: "memory". */
guint64 share_flag(ShareKind kind);
const char *share_name(ShareKind kind);

typedef struct Kin {
  pid_t pid, sid;
  struct Kin *parent; /* NULL: the root */
  bool zombie, late;
  bool helper; /* a leader of a session that died and is needed for a moment, or a brief one, of any pid: 0 */
  bool brief;  /* forked by a member of a session to fork an orphan, whom its end gives to the orphan's parent */
  int exit_signal;
  guint32 ids[SHARE_KINDS]; /* equal ones are shared; 0: nothing */
  /* from here on: the answer */
  bool setsid;  /* it becomes leader of a session of its own */
  bool adopted; /* it is made by a sibling (CLONE_PARENT), or by a brief helper */
  struct Kin *maker;
  GPtrArray *makes;                 /* Kin, in this order */
  struct Kin *owner[SHARE_KINDS];   /* who has it for all that share it; itself where it shares with nobody */
  struct Kin *carries[SHARE_KINDS]; /* owner of what it has in common with its maker when it is made; NULL: nothing */
  guint64 clone_flags;              /* the same as flags of clone(2) */
  guint64 unshare_before;           /* what its maker leaves before (unshare(2)) */
  guint64 unshare_last;             /* what it leaves itself when all others are made */
  void *data;                       /* the caller's */
} Kin;

typedef struct Kinship {
  GPtrArray *all; /* Kin; parents before children, helpers last */
  bool shares;    /* anything */
} Kinship;

/* What stands in the way. @other is NULL where it is a session. */
typedef struct KinshipTrouble {
  const Kin *kin, *other;
  ShareKind kind;
} KinshipTrouble;

Kinship *kinship_new(void);
void kinship_free(Kinship *kinship);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Kinship, kinship_free)
/* The next one; what is no answer is the caller's to fill in. @parent is one of those added before. */
Kin *kinship_add(Kinship *kinship, pid_t pid, Kin *parent);
Kin *kinship_find(const Kinship *kinship, pid_t pid);
/* Answers for all, or says who cannot be made. */
bool kinship_solve(Kinship *kinship, KinshipTrouble *ret_trouble);

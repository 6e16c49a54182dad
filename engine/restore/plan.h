/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The plan of a restore: who is made by whom and when, where the agents live. Pure: made from the model alone. */

#include "job.h"
#include "kinship.h"
#include "region.h"

typedef struct PlanThread {
  const Thread *thread;
  Lane *lane;
  struct Program *program; /* built beforehand; borrowed; NULL: not yet */
  LoadedProgram loaded;
  guint64 ip_shift; /* it goes on so much further on (foreign-vdso.c) */
  bool by_second;   /* the process's second thread makes it */
  bool sets_fs;  /* the first of those that share a directory apart from their process */
  bool seized;   /* traced already, see seccomp.c */
  enum { THREAD_UNBUILT, THREAD_LOADED, THREAD_STARTED, THREAD_DONE } progress; /* of its program */
  gint64 sleep_end_nsec; /* of that sleep, by CLOCK_MONOTONIC */
  long op_sleep; /* index of the op that re-arms an interrupted sleep; -1: none */
} PlanThread;

typedef struct PlanTask {
  const Task *task; /* NULL for a helper: a leader of a process group or session that died before the dump and is needed for a moment */
  pid_t pid, sid, pgid; /* as they will be: an outside session is mapped. pid 0: any that is free (brief) */
  struct PlanTask *parent;
  GPtrArray *children; /* PlanTask, borrowed: those that it makes, its own and adopted siblings */
  bool zombie, helper;
  bool setsid; /* becomes leader of a session of its own */
  bool late;   /* made after its parent's memory, because pages are shared with it */
  bool adopted; /* an orphan in a session that its parent was never in: a sibling of that session makes it, or a brief helper */
  bool brief;   /* a helper that ends when it has made its child, which comes to its own parent by that */
  bool passed_on; /* made by such a one */
  int exit_signal; /* what the parent gets when it ends */
  bool created;
  bool ends; /* a brief helper that is to be reaped now */
  struct Kin *kin; /* while it is planned */
  struct PlanTask *owner[SHARE_KINDS]; /* who sets up what several share: itself, where it shares with nobody */
  guint32 has_sharers;                 /* bits of kinds that others have from it */
  bool shares_memory;                  /* with its maker */
  guint64 clone_flags, unshare_before, unshare_last; /* see kinship.h */
  guint left;   /* of an owner of memory: how many that have it still need their agents */
  bool stands; /* stopped by job control, as before */
  Lane *lane;
  GArray *threads; /* PlanThread; [0] is the leader */
} PlanTask;

typedef struct Plan {
  const Checkpoint *checkpoint;
  GPtrArray *tasks; /* PlanTask; parents before children; helpers last */
  uint64_t region_start, region_size; /* free in every task and in this process */
  uint64_t behind_start;              /* room that follows the region, for good */
  bool shares;                        /* any two tasks anything */
  bool foreign_session;               /* the root's session leader is outside: it gets a session of its own */
} Plan;

/* IMAGE_INVALID or NOT_SUPPORTED for trees that cannot be built. @behind: bytes of room to keep free behind the region. */
Plan *plan_new(const Checkpoint *checkpoint, const EngineOptions *options, guint64 behind, GError **error);
void plan_free(Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Plan, plan_free)
/* The same private mapping in both, so that pages may be shared copy-on-write. */
bool plan_vma_shared(const VmaEntry *child, const VmaEntry *parent);

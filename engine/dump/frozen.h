/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The tree while it is frozen: what the stages of a dump hand to each other besides the model. Every thread is in
 * ptrace-stop, or runs an agent once it was injected. */

#include "facts.h"
#include "inject.h"
#include "job.h"
#include "kinship.h"
#include "ns-set.h"
#include "object.h"
#include "proc.h"
#include "thread-look.h"

typedef struct FrozenThread {
  StoppedThread state; /* tid, registers, mask; xstate only while injecting */
  bool in_agent;
  bool has_regs; /* they are known already */
  bool alike;    /* its process's [0], but for what is in sight: no agent asks it (alike.h) */
  ThreadSight sight; /* of many (alike.h); its tid is 0 where it was not seen */
  bool seccomp_strict;
  guint own_files; /* the same of its descriptor table */
  int table_pidfd; /* for pidfd_getfd(2) from there, plus 1; 0: none */
  Task *table;     /* what the collector fills */
  guint own_fs; /* it has a directory apart from its process: a number, the same for those of it that share it; 0: it has not */
  bool own_dispatch, shadow_stack; /* no agent may run in it (traits.h) */
  bool dispatch_hidden; /* the kernel does not tell whether own_dispatch is so */
  guint8 own_keys; /* in which of its keyrings (traits.c) */
  guint64 core_cookie;
  bool suspect;                 /* may be restricted by Landlock (landlock.h) */
  int seccomp_filters;          /* how many; negative: some, which this process may not see */
  Lane *lane;
  LoadedProgram loaded;
  guint64 sleep_nr;             /* the system call it slept in when frozen, 0: none to keep the time of */
  gint64 sleep_remaining_nsec;  /* what was left of it */
  gint64 sleep_began_nsec, sleep_duration_nsec; /* by the clock of sleep_cpu (run-clock.h) */
  int sleep_cpu;
  bool sleep_later; /* that clock is not known yet */
  gint64 sleep_seen_nsec;       /* then, by CLOCK_MONOTONIC; 0: it can be asked each time */
  Thread *model;                /* borrowed */
} FrozenThread;

/* A POSIX timer, and when by its clock it went off first without its signal having been taken. */
typedef struct TimerFirst {
  gint32 id;
  guint thread; /* whose agent has taken it */
  gint64 first, interval; /* nanoseconds */
} TimerFirst;

typedef struct FrozenTask {
  pid_t pid, ppid;
  unsigned tracer; /* who has seized it (tracers.h) */
  bool split;      /* nobody alone: its threads are many */
  bool looked;     /* at what the kernel keeps of its threads, if it lets us */
  pid_t view;    /* the thread through which /proc and others show it: the leader, or one that lives where that has ended */
  int pidfd;
  int view_pidfd; /* for pidfd_getfd(2): pidfd, or one of the thread; -1 */
  ProcStat stat;
  bool zombie;
  bool headless; /* its main thread has ended, others go on */
  bool lends_fs;    /* others have its directory */
  bool shares_undo; /* others have its list of semaphores to be undone */
  bool ia32;     /* a 32-bit program (compat.h) */
  bool has_ldt;  /* segments of its own (modify_ldt(2)) */
  bool refused_code; /* it runs code of a kind that is not taken: blocked */
  bool no_agent; /* blocked: an agent's system calls could be its death (seccomp that cannot be suspended, traits.h), or refused_code */
  bool unsuspendable; /* seccomp */
  bool stopped; /* by job control */
  int stop_signal;
  guint index; /* in the tree */
  struct FrozenTask *owner[SHARE_KINDS]; /* the first of the tree that has the same memory, …; itself where it shares with nobody */
  GArray *threads; /* FrozenThread that live; [0] is the leader, or speaks for it */
  unsigned char *xstates; /* of all of them, while injecting */
  size_t xstate_room;     /* of each */
  TaskFacts facts; /* once collected */
  GArray *fds;     /* CollectedFd, ascending */
  uint64_t lowest_sp; /* of all threads that share its memory; 0: it shares it with nobody */
  uint64_t region_at; /* where its agents' region is, or is going to be; 0: wherever the kernel puts it */
  GPtrArray *policies; /* CkptMempolicy, one a mapping of the facts, NULL for the default; NULL: all have that */
  GHashTable *provided; /* guint64* start of mappings whose content a plugin has; NULL: none */
  gint64 timers_at;     /* g_get_monotonic_time() when its timers were read */
  GArray *sleep_notes;  /* SleepNote: what an earlier engine knew, once somebody has asked; NULL: none */
  bool sleep_asked;     /* whether there are any */
  GArray *overruns;     /* TimerFirst: whose pending signals were put back; NULL: none */
  Injection *injection; /* its memory's owner's */
  LoadedProgram leader_loaded;
  Task *model; /* borrowed */
} FrozenTask;

/* Processes of the dump's own. */
typedef struct FrozenHelpers {
  struct Sweeper *sweeper;   /* sweeper.h */
  struct Stranger *stranger; /* landlock.h */
} FrozenHelpers;

typedef struct FrozenTree {
  GPtrArray *tasks; /* FrozenTask; parents before children */
  bool shares; /* any two tasks anything */
  gint64 frozen_at; /* g_get_monotonic_time() when the last task stood; 0 before */
  gint64 thawed_at;
  FrozenHelpers helpers;
  NsSet *namespaces; /* of its own; NULL: none */
} FrozenTree;

/* Stops every task and thread of the tree of @root (ptrace(2): SEIZE, INTERRUPT) and looks again until nothing new turns
 * up. NO_SUCH_PROCESS, NOT_PERMITTED_TARGET (kernel thread, pid 1, ourselves), BUSY (traced by somebody else: named).
 * On failure everything runs again. */
FrozenTree *freeze_tree(Job *job, pid_t root, GError **error);
/* Lets every task go that was not killed: agents are taken out first. Errors cannot be cured here and are logged.
 * @stopped: into a SIGSTOP. */
void thaw_tree(Job *job, FrozenTree *tree, bool stopped);
/* SIGKILL for every task, and waits until they are dead. */
void kill_tree(FrozenTree *tree);
/* Forks them while the engine is small, and before anybody waits for it; the stranger as a user whom the process may have left
 * behind when it stands. What cannot be made now is NULL. */
FrozenHelpers helpers_start(pid_t root);
/* Until none of the engine's descriptors is open in them: who waits for the end of one waits for theirs, too. */
void helpers_wait(FrozenHelpers *helpers);
/* Of a tree that cannot be frozen; else they are the tree's. */
void helpers_end(FrozenHelpers *helpers);
/* Ends the helpers. */
void frozen_tree_send_home(FrozenTree *tree);
/* Frees; the tree must be thawed or killed. */
void frozen_tree_free(FrozenTree *tree);

/* Seizes one thread and stops it; *stop_signal: by which signal it stands still anyway, 0: none. Returns 0 or a negative
 * errno. */
int freeze_thread(pid_t tid, int *stop_signal);

FrozenTask *frozen_tree_find(const FrozenTree *tree, pid_t pid);

/* May the job's caller take every task of this tree? NOT_PERMITTED_TARGET names the first that it may not. */
bool authorize_tree(Job *job, const FrozenTree *tree, GError **error);

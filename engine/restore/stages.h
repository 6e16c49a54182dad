/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the stages of a restore hand to each other. */

#include "external-restore.h"
#include "ns-set.h"
#include "plan.h"

typedef struct ForeignVdso ForeignVdso;
typedef struct NetRestore NetRestore;

typedef struct Restore {
  Job *job;
  Checkpoint *checkpoint;
  Restorer *restorer; /* NULL in a plan that is only printed */
  ExternalReturn *external;
  PluginSet *plugins;
  PluginReturn *plugin_return; /* NULL in a plan that is only printed */
  Plan *plan;
  Region *region;
  GHashTable *pages_fds; /* pages id -> descriptor + 1, inherited by every task */
  pid_t root;
  guint64 pages_restored, pages_shared;
  GPtrArray *programs;  /* Program: those of threads, until the end */
  GPtrArray *made_groups; /* control groups: directories; NULL: none */
  struct Guardian *guardian;
  struct Verifier *verifier;
  ForeignVdso *foreign_vdso;
  NsSet *namespaces; /* of the tree's own; NULL: none */
  GArray *home;      /* int: the engine's own, if there are others; see namespaces.c */
  NetRestore *nets; /* NULL: there is no network namespace of the tree's own */
  int null_fd; /* /dev/null for writing, plus 1; 0: nobody needs it */
} Restore;

/* Not a result of any system call: the op has not run yet. */
#define RESULT_PENDING INT64_MIN

/* The descriptor of a file id, in this process. In a plan that is only printed nothing is open: the id itself. */
int restore_fd(Restore *r, guint32 file_id, GError **error);

/* Builds, loads and runs one program in the agent of a task, and checks its results. */
typedef bool (*BuildFunc)(Restore *r, PlanTask *task, Program *program, GError **error);
/* The same stage for many tasks: all are started, then all are waited for. NULL entries are skipped. */
bool stage_run(Restore *r, GPtrArray *tasks, const char *name, BuildFunc build, GError **error);
/* Something to do while they run. */
typedef bool (*MeanwhileFunc)(Restore *r, GError **error);
bool stage_run_meanwhile(Restore *r, GPtrArray *tasks, const char *name, BuildFunc build, MeanwhileFunc meanwhile, GError **error);

/* --- networks.c --- */
/* Makes them, before any file is opened. */
bool networks_restore(Restore *r, GError **error);
void networks_free(NetRestore *nets);
/* One of them, for tasks to enter; owned by the caller. -1 with error. */
int networks_open(const Restore *r, guint32 id, GError **error);

/* --- skeleton.c --- */
/* PidInUse, before anything is made. */
bool skeleton_check_pids(Restore *r, GError **error);
/* The root task, out of this process, emptied down to its agent. */
bool skeleton_make_root(Restore *r, GError **error);
/* BuildFuncs: leave what was inherited from this process; the children that have to be there before the memory; those
 * after it; process groups in two rounds; ends of zombies and helpers. */
bool skeleton_build_early(Restore *r, PlanTask *task, Program *p, GError **error);
bool skeleton_build_late(Restore *r, PlanTask *task, Program *p, GError **error);
bool skeleton_build_helpers(Restore *r, PlanTask *task, Program *p, GError **error);
bool skeleton_build_group(Restore *r, PlanTask *task, Program *p, GError **error);
/* A brief helper has made its child: it ends, and the child comes to its own parent. */
bool skeleton_pass_on(Restore *r, PlanTask *helper, GError **error);
/* Zombies end, helpers end and are reaped. */
bool skeleton_end_dead(Restore *r, GError **error);
/* Kills whatever was made. */
void skeleton_kill_all(Restore *r);

/* --- namespaces.c --- */
/* Before files are opened. NOT_SUPPORTED for kinds that cannot be made again. */
bool namespaces_make(Restore *r, GError **error);
/* A task leaves those of its maker, before it makes anybody. */
void namespaces_build(const Restore *r, const PlanTask *task, Program *p);
void namespaces_clear(Restore *r);

/* --- terminals.c --- */
/* A session leader takes its terminal. */
void terminals_build_control(Restore *r, PlanTask *task, Program *p);
/* When the groups are there: which is in the foreground, and who has let its terminal go. */
bool terminals_build(Restore *r, PlanTask *task, Program *p, GError **error);

/* --- mm.c --- */
/* Where addresses of programs end. */
guint64 mm_task_size(void);
bool mm_open_pages(Restore *r, GError **error);
/* The descriptor to map a file mapping from, with the rights it needs; opened at the first call. -1 with error.
 * *ret_pgoff: where in it. */
int mm_file_fd(Restore *r, const Task *task, const VmaEntry *vma, guint64 *ret_pgoff, GError **error);
/* Where pages lie in the pages file, in bytes; false when they are not kept, or not together. */
bool mm_find_pages(const PageSet *set, guint64 address, guint64 n_pages, guint64 *ret_offset);
void mm_build_advice(const VmaEntry *vma, Program *p);
bool mm_build(Restore *r, PlanTask *task, Program *p, GError **error);
/* Protections, advice, locks, guards, the mm fields: when nobody inherits from it any more. */
bool mm_build_finish(Restore *r, PlanTask *task, Program *p, GError **error);

/* --- foreign-vdso.c --- */
/* Which tasks have the vdso of another kernel. IMAGE_INCOMPATIBLE when such a one cannot be helped. */
bool foreign_vdso_look(Restore *r, GError **error);
void foreign_vdso_free(ForeignVdso *vdso);
/* Bytes that it needs behind the region, for good. */
guint64 foreign_vdso_room(const ForeignVdso *vdso);
/* With the plan: what goes into the tasks. */
bool foreign_vdso_prepare(Restore *r, GError **error);
bool foreign_vdso_has(const ForeignVdso *vdso, const Task *task);
void foreign_vdso_build(const Restore *r, const PlanTask *task, Program *p);
typedef struct AddressSpan {
  guint64 start, end;
} AddressSpan;
#define FOREIGN_VDSO_SPANS 2
/* What of the room behind the region the task's memory has, from low to high; how many. */
guint foreign_vdso_spans(const Restore *r, const PlanTask *task, AddressSpan spans[static FOREIGN_VDSO_SPANS]);

/* --- mm-details.c --- */
/* Whether this machine has what the mappings need (protection keys, mseal); before anything is made. */
bool details_check(const Checkpoint *checkpoint, GError **error);
/* Takes protection keys, before there are mappings. */
void details_build_keys(const PlanTask *task, Program *p);
/* Where the pages of a mapping are to come from. */
void details_build_policy(const Restore *r, const PlanTask *task, const VmaEntry *vma, Program *p);
/* The rest of what vma_entry and mm_entry have no field for; seals last. */
void details_build(const Restore *r, const PlanTask *task, Program *p);
/* The same for a thread's own policy. */
void details_build_thread(const Restore *r, const Thread *thread, Program *p);

/* --- files.c --- */
/* Working directory, root and umask: here where a descriptor table is shared, else with the descriptors. */
bool files_build_directories(Restore *r, PlanTask *task, Program *p, GError **error);
/* The descriptors of a thread that has a table apart from its process. */
bool files_build_thread_table(Restore *r, const PlanThread *thread, Program *p, GError **error);
/* Directories of a thread that has them apart from its process. */
bool files_build_thread_fs(Restore *r, const PlanTask *task, const PlanThread *thread, Program *p, GError **error);
bool files_build(Restore *r, PlanTask *task, Program *p, GError **error);
/* Locks of tasks that share a descriptor table, when the descriptors are there. */
bool locks_build_shared(Restore *r, PlanTask *task, Program *p, GError **error);
/* Those of threads (/proc/PID/task/TID), when these exist. */
bool files_build_of_threads(Restore *r, PlanTask *task, Program *p, GError **error);
/* Descriptors by number, each from where it is now; moves in an order that loses none. Exposed for tests. */
typedef struct FdMove {
  int from, to;
  bool cloexec;
  bool was_cloexec; /* it is known to be already, where it is now */
} FdMove;
void files_plan_moves(Program *p, const FdMove *moves, size_t n);

/* --- locks.c --- */
/* Locks and leases of open file descriptions; checks all of them. */
bool locks_take(Restore *r, GError **error);
/* A task's own, when its descriptors are final: closing any descriptor of a file gives them back. */
void locks_build(Restore *r, const PlanTask *task, Program *p);

/* --- ring-map.c --- */
bool ring_is_map(const Restore *r, const VmaEntry *vma);
/* The mappings of rings, when all others are made. */
bool ring_maps_build(Restore *r, PlanTask *task, Program *p, GError **error);
/* Of one that the task has just made itself, as descriptor @fd. */
bool ring_maps_build_late(Restore *r, const PlanTask *task, const CkptUring *u, int fd, Program *p, GError **error);

/* --- rings.c --- */
/* When every thread has an agent, and before it has its credentials. */
bool rings_run(Restore *r, GError **error);
/* Those with a submitting thread, by the leader when it has its credentials; then their content, by this process. */
bool rings_build_late(Restore *r, const PlanTask *task, Program *p, GError **error);
bool rings_fill_late(Restore *r, GError **error);

/* --- attributes.c --- */
bool attributes_build(Restore *r, PlanTask *task, Program *p, GError **error);
/* What can only be written to /proc by this process. */
bool attributes_write_proc(Restore *r, PlanTask *task, GError **error);

/* --- timers.c --- */
/* All timers of a task; those with a signal that is pending, or was taken last, by a thread of their own are armed later. */
bool timers_build(const PlanTask *task, Program *p, GError **error);
/* Pending signals of a thread, or (NULL) of its process, but SIGSTOP; timers' own are made by arming the timers. */
bool timers_queue_signals(const PlanTask *task, const PlanThread *thread, const SignalQueueEntry *queue, Program *p, GError **error);
/* Whether a SIGSTOP was pending: it is sent at the release. */
bool timers_has_stop(const PlanTask *task);
/* In the thread: timers that tell it what the signal counted that it took last. 0: those of the process. */
void timers_build_taken(const PlanTask *task, pid_t tid, Program *p);

/* --- threads.c --- */
bool threads_build_clones(Restore *r, PlanTask *task, Program *p, GError **error);
/* While the tasks get their memory: builds the programs of many threads. */
bool threads_prepare(Restore *r, GError **error);
/* While the threads are made: loads these, and those that need nothing of the later stages begin. */
bool threads_begin(Restore *r, GError **error);
/* Waits for those; their lanes are free then. */
bool threads_await_begun(Restore *r, GError **error);
/* Runs every thread's own program; the sleeping ones are left asleep. */
bool threads_run(Restore *r, GError **error);
/* What it would run. */
bool threads_print(Restore *r, PlanTask *task, FILE *out, GError **error);

/* --- traits.c --- */
/* What a thread says about itself. */
void traits_build(const Restore *r, const Thread *thread, Program *p);
/* What children inherit: login uid, keys. */
void traits_build_early(const Restore *r, const PlanTask *task, Program *p);
/* What this process writes, and a look at what was not to be had. */
void traits_finish(const Restore *r, const PlanTask *task);

/* --- compat-thread.c --- */
/* Of a thread of a 32-bit program: entries of the GDT, the list of robust futexes. */
void compat_build_areas(const CoreEntry *core, Program *p);
/* Begins the system call @nr (a 32-bit number) anew, for which the program had the registers @regs, with @left of its time (@msec
 * the same). Its op, or -1: it is none that keeps an end of its own. */
long compat_build_sleep(const UserX86RegsEntry *regs, guint32 nr, const struct timespec *left, guint64 msec, Program *p);

/* --- seccomp.c --- */
bool seccomp_is_used(const PlanTask *task, const PlanThread *thread);
/* Traces a thread that is going to get filters, with those suspended. */
bool seccomp_seize(const PlanTask *task, PlanThread *thread, GError **error);
bool seccomp_build(const Restore *r, const PlanTask *task, const PlanThread *thread, Program *p, GError **error);
/* Bytes of programs that its filters take. */
guint64 seccomp_room(const Checkpoint *checkpoint, const Thread *thread);

/* --- creds.c --- */
/* Everything but PR_SET_DUMPABLE: what can be traced by its user has the region in its memory, and other tasks may still
 * be root in theirs. That one is set at the release. */
void creds_build(Restore *r, const CredsEntry *creds, Program *p);

/* --- cgroup.c --- */
/* While every task is a single thread. What fails is logged, and an error if the option manage_cgroups was given. */
bool cgroup_move_tasks(Restore *r, GError **error);
/* Threads that are in other groups than their process. */
bool cgroup_move_threads(Restore *r, GError **error);
/* Of a restore that failed. */
void cgroup_remove_made(Restore *r);

/* --- release.c --- */
/* Registers for every thread, agents out, all go. */
bool release_tree(Restore *r, GError **error);

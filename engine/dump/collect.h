/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Collecting: kernel -> model, while the tree is frozen. */

#include "dispatch.h"
#include "frozen.h"
#include "object.h"

/* What every task is asked by its own agents, in one program per thread; the same ops for all, data and results in each
 * lane. */
typedef struct ThreadProgram ThreadProgram;
/* @stranger: a process to look at (landlock.h), 0: none. @session_keys: see traits.h. @ia32: for 32-bit programs. */
ThreadProgram *thread_program_new(pid_t stranger, bool session_keys, bool ia32);
void thread_program_free(ThreadProgram *p);
const Program *thread_program_get(const ThreadProgram *p);
/* Fills the thread's core entry and extra from what came back. */
bool thread_program_decode(const ThreadProgram *p, FrozenThread *thread, bool leader, GError **error);
/* The same of a thread that is like @first, the first of its process (alike.h), which has been decoded. */
bool thread_program_decode_alike(const ThreadProgram *p, const FrozenThread *first, FrozenThread *thread, GError **error);
/* To be run next, if the thread can have ambient capabilities; else NULL. */
const Program *thread_program_ambient(const ThreadProgram *p, const FrozenThread *thread);
void thread_program_decode_ambient(FrozenThread *thread, const LoadedProgram *loaded);

/* What a process is asked about its memory (collect-policy.c). */
typedef struct MemoryOps {
  size_t future, mdwe, merge, ldt, pkeys; /* ops */
  size_t rings;                      /* ops, one for each AIO ring */
  size_t policies;                   /* data */
  size_t n_policies;
} MemoryOps;
void memory_ops_add(MemoryOps *m, const FrozenTask *task, Program *p);
/* When the region is there: one of the questions is about it. */
void memory_ops_set_region(const MemoryOps *m, Program *p, uint64_t address);
bool memory_ops_decode(const MemoryOps *m, FrozenTask *task, GError **error);
/* The policy a thread has set, NULL: the default; from data of mempolicy_size() bytes that get_mempolicy(2) has filled. */
size_t mempolicy_size(void);
CkptMempolicy *mempolicy_decode(const unsigned char *data);
/* 0 where the kernel has none. */
guint mempolicy_max_nodes(void);
CkptMemory *task_memory(FrozenTask *task);

/* Asked once per process, by its leader. */
typedef struct ProcessProgram {
  Program *program;
  size_t sigactions, itimers, rlimits, dumpable, subreaper, thp, brk, keepcaps, fds, timers, membarrier, tiles;
  MemoryOps memory;
  GArray *timer_infos; /* PosixTimerInfo */
  GArray *fd_numbers;  /* int */
  bool fds_in_a_row;   /* 0 and so on: fds is data, a byte each, and no op */
} ProcessProgram;
ProcessProgram *process_program_new(const FrozenTask *task);
void process_program_free(ProcessProgram *p);
bool process_program_decode(const ProcessProgram *p, FrozenTask *task, GError **error);

/* Registers, masks, pending signals by ptrace, before agents run; also builds the models of the threads. */
bool collect_registers(Job *job, FrozenTree *tree, Checkpoint *checkpoint, GError **error);
/* What is pending for one thread, or for its whole process. Allocated (malloc). */
SignalQueueEntry *collect_signals(pid_t tid, bool shared);
/* epoll_wait(2) and its like answer EINTR when they are stopped: @thread makes them again. */
void undo_spurious_eintr(FrozenThread *thread, bool signal_pending);
/* Allocated, from ProcVmas, whose paths it borrows. @lowest_sp: of all threads that share the memory, 0: it is not shared. */
InjectMap *inject_maps(const GArray *vmas, uint64_t lowest_sp);
/* Injects agents and runs the programs. */
bool collect_by_agents(Job *job, FrozenTree *tree, GError **error);
/* A CollectorAsk; @data is the FrozenTree. */
bool ask_thread(void *data, pid_t pid, pid_t tid, const Program *p, gint64 *results, unsigned char *out, size_t size, GError **error);
/* From what /proc told about a task (its facts): ids, sessions, memory layout, cgroups, limits. Blockers go to the job. */
bool collect_task(Job *job, FrozenTree *tree, FrozenTask *task, GError **error);
/* Which namespaces a task is in: those of the tree's own become its set, what cannot be brought back is blocked. When its ids are
 * there. */
void collect_task_namespaces(Job *job, FrozenTree *tree, const FrozenTask *task);
/* What is in the tree's own namespaces. */
bool collect_namespaces(Job *job, FrozenTree *tree, Collector *collector, PluginSet *plugins, GError **error);
/* Control groups and their properties, into cgroup.img. */
void collect_cgroups(Job *job, FrozenTree *tree, Checkpoint *checkpoint);
/* Mappings of a task; files behind them go through the collector. */
bool collect_mappings(Job *job, FrozenTask *task, Collector *collector, GError **error);
/* Blockers for tasks that may hold System V semaphores. After the agents came in. */
void collect_undo(Job *job, const FrozenTree *tree);
/* cwd, root, exe. */
bool collect_fs(Job *job, const FrozenTree *tree, FrozenTask *task, Collector *collector, GError **error);

/* Whether a process of the tree serves a file system (FUSE): a blocker, and no file may be looked at then. */
bool collect_fuse(Job *job, const FrozenTree *tree);
/* Begins to read which file locks the machine has; NULL if that is not needed. When the facts are known. */
typedef struct LocksReader LocksReader;
LocksReader *locks_start(const FrozenTree *tree);
void locks_free(LocksReader *reader);
/* File locks and leases of the tree; blockers without option file_locks. After the descriptors are known. */
bool collect_locks(Job *job, const FrozenTree *tree, Collector *collector, LocksReader *reader, GError **error);

/* Page contents of every task's private memory, and of shared memory objects, into pages-*.img. */
typedef struct MemoryStats {
  guint64 pages_scanned, pages_written, pages_zero, bytes_written;
} MemoryStats;
bool dump_memory(Job *job, FrozenTree *tree, Checkpoint *checkpoint, const Collector *collector, MemoryStats *stats, GError **error);

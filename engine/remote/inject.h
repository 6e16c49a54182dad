/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Injection: agents in the threads of a stopped process, and the way back. From the first borrowed register on, every
 * thread has a way home that needs nobody: see agent.S and docs/architecture.md ("a dying engine harms nobody"). */

#include "region.h"
#include <sys/user.h>

/* Where one kind of code lies, found once per file. */
typedef struct GadgetCache GadgetCache;
GadgetCache *gadget_cache_new(void);
void gadget_cache_free(GadgetCache *cache);

/* A thread in ptrace-stop and what it was doing; the state is only read. */
typedef struct StoppedThread {
  pid_t tid;
  struct user_regs_struct regs;
  uint64_t sigmask;
  bool group_stop; /* stopped by job control: the interruption may be a second stop, which comes when it is resumed */
  const void *xstate;
  size_t xstate_size;
} StoppedThread;

/* An executable or stack mapping of the target, for finding code and a place for the frame. */
typedef struct InjectMap {
  uint64_t start, end, offset, dev, inode;
  bool executable, stack;
  const char *path;
} InjectMap;

typedef struct Injection Injection;

/* An agent in a process's leader, its thread group leader or a thread that speaks for it, in ptrace-stop; in steps, so that many processes make theirs
 * at a time. Whatever fails leaves the leader as it was, and the injection to be freed.
 *
 * Begins to map a region of at least @room bytes into the process. @at: where the kernel should put it if it can, 0: anywhere. @n_threads: of
 * the whole process; a process of one thread also unmaps the region on its way home. NULL and NOT_SUPPORTED when no way home can be built. */
Injection *inject_begin(const StoppedThread *leader, size_t n_threads, uint64_t at, size_t room, const InjectMap *maps, size_t n_maps,
    GadgetCache *cache, GError **error);
/* Once for each, before any is finished. */
bool inject_proceed(Injection *injection, const StoppedThread *leader, GError **error);
/* The region is there, and the leader's lane. @at: as before. */
bool inject_finish(Injection *injection, const StoppedThread *leader, uint64_t at, GError **error);
/* The leader has its agent, which runs what region_prepare() has put into its lane at once. */
bool inject_leader(Injection *injection, const StoppedThread *leader, GError **error);
/* Instead of that: the leader is as it was. */
void inject_undo(Injection *injection, const StoppedThread *leader);
/* Bytes of the region that one more thread takes, without programs. */
size_t inject_thread_room(size_t xstate_size);
/* A lane with a way home for a further thread; NULL with error. By any thread of this process. */
Lane *inject_add_lane(Injection *injection, const StoppedThread *thread, GError **error);
/* The agent in that thread. It runs what region_prepare() has put into the lane at once. On failure the thread is as it
 * was. */
bool inject_thread(Injection *injection, const StoppedThread *thread, Lane *lane, GError **error);

Region *injection_region(Injection *injection);
/* Where the target's own code has a system call instruction. */
uint64_t injection_syscall(const Injection *injection);
Lane *injection_leader_lane(Injection *injection);

/* Stops one thread that runs an agent and gives it its registers and mask back; it stays in ptrace-stop. The leader last:
 * it also unmaps the region (injection_free() only closes the coordinator's side). Exact: interrupted system calls go on
 * as if they had not been. */
bool inject_cure_thread(Injection *injection, const StoppedThread *thread, GError **error);
bool inject_cure_leader(Injection *injection, const StoppedThread *leader, GError **error);
void injection_free(Injection *injection);

/* Where inject_process() lets the leader stand until it is home; 0: nowhere. */
uint64_t inject_leader_frame(const StoppedThread *leader, const InjectMap *maps, size_t n_maps);
/* What a coordinator that was killed left: unmaps @size bytes at @address by @leader, which is in ptrace-stop, like all
 * its fellows not in there, and stays so. */
bool inject_unmap(const StoppedThread *leader, const InjectMap *maps, size_t n_maps, uint64_t address, size_t size, GError **error);

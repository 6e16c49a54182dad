/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The memory that the coordinator shares with agents: the agent's code in its first page, then lanes with their programs,
 * results and data. A region knows its address on both sides; allocation only goes forward.
 *
 * Its second word of protection is the *alive* word, a robust mutex that the coordinator holds while the region lives: the
 * kernel marks it when the coordinator dies, and every agent sees that (see agent.S). */

#include "error.h"
#include "lane.h"
#include "program.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define REGION_CODE_SIZE 4096 /* the agent's page, to which no agent writes */

typedef struct Region Region;

/* Takes a MAP_SHARED mapping of @size bytes at @local over; @remote is its address in the tasks. Writes the agent and takes
 * the alive word. */
Region *region_new(void *local, uint64_t remote, size_t size);
/* The same for a mapping of @pid, the first one in it of @mapped bytes, where the warden (warden.h), if there is one, takes the alive word. NULL with error: @local
 * is unmapped. */
Region *region_new_in(pid_t pid, size_t mapped, void *local, uint64_t remote, size_t size, GError **error);
/* Gives the alive word back and unmaps the coordinator's side. Agents must be gone, or they take it for the end. */
void region_free(Region *region);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Region, region_free)

/* The alive word, for whoever takes it over for a while (tcp-guard.h); not where there is a warden. */
uint32_t *region_alive(const Region *region);
uint64_t region_remote(const Region *region);
size_t region_size(const Region *region);
uint64_t region_agent(const Region *region); /* address of the agent's entry in the tasks */
/* Allocates @size bytes, 64-byte aligned; NULL when the region is full. */
void *region_alloc(Region *region, size_t size);
uint64_t region_to_remote(const Region *region, const void *local);
void *region_to_local(const Region *region, uint64_t remote);
/* Everything allocated after region_mark() is given back by region_release(). */
size_t region_mark(const Region *region);
void region_release(Region *region, size_t mark);

/* The lanes added from now on have an alive word of their own (of a thousand; then they share the last). The kernel wakes one
 * waiter of each, which wakes the others if it gets that far: one that dies with the coordinator, as its tracees may, does
 * not. So processes that do not die together should not share one. Not where there is a warden. False: the region is full. */
bool region_add_word(Region *region);

/* A lane without a program and without a home. */
Lane *region_add_lane(Region *region);

/* How much a program takes there. */
size_t region_program_size(const Program *program);
/* The same, with ops that are there already. */
size_t region_program_size_shared(const Program *program);
/* A program in place, with room for its results. Several lanes can run the same ops with data and results of their own:
 * pass the first one as @shared_ops. */
typedef struct LoadedProgram {
  const Program *program;
  Op *ops;
  int64_t *results;
  unsigned char *data;
} LoadedProgram;
bool region_load(Region *region, const Program *program, const Op *shared_ops, LoadedProgram *ret, GError **error);

/* Points a lane at a program and counts its command up; region_start() wakes an agent that waits already. */
void region_prepare(Region *region, Lane *lane, const LoadedProgram *loaded);
void region_start(Region *region, Lane *lane, const LoadedProgram *loaded);
bool region_is_done(const Lane *lane);
/* Waits until the program has run; @tid is watched meanwhile (its death is an error). */
bool region_wait(Region *region, Lane *lane, pid_t tid, GError **error);
/* The same, but for some milliseconds at most; *ret_done tells whether it has. */
bool region_wait_moment(Region *region, Lane *lane, pid_t tid, bool *ret_done, GError **error);
/* After it has: an error that names the op if one failed or a result was not as expected. @who: "pid 12". */
bool region_check(const Lane *lane, const LoadedProgram *loaded, const char *who, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Small things that a thread has said about itself by prctl(2) and its like, and those of them that cannot be kept. */

#include "frozen.h"

typedef struct TraitOps {
  size_t op_mce, tsc, op_cpuid, op_flusher, op_speculation, op_cookie, cookie;
  bool session; /* its keys are asked for, too */
  size_t op_ring_ids[5], op_ring_reads[5], ring_data[5];
} TraitOps;

/* Asked in the thread program; what is in session keyrings (keyrings(7)) only with @session_keys. */
void trait_ops_add(TraitOps *t, Program *p, bool session_keys);
void trait_ops_decode(const TraitOps *t, FrozenThread *thread);

/* Threads that an agent would kill, by what ptrace tells: they dispatch their own system calls, or have a shadow stack. True
 * if this one must get none; the reason is told by traits_check(). */
bool traits_forbid_agent(const FrozenThread *thread);
/* Finds that out; while it is stopped. */
void traits_look(FrozenThread *thread);

/* What /proc tells of a task: the niceness of its autogroup. */
void traits_collect(FrozenTask *task);
/* Whether some task of the tree may have keys in a session keyring, by what /proc tells of their users. */
bool traits_have_session_keys(const FrozenTree *tree);
/* Blocks what cannot be kept. */
void traits_check(Job *job, const FrozenTree *tree);

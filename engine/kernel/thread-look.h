/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the kernel keeps of each thread that a tracer has stopped (its task_struct), read without running anything in the thread:
 * a microsecond each, where an agent takes thirty. What threads of a process mostly have in common (credentials, scheduling,
 * descriptors, …) is not made sense of, only compared, byte by byte: a thread that is alike one that was asked needs no asking.
 * Takes what kernel-types.h takes. */

#include "kernel-types.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

typedef struct ThreadSight {
  pid_t tid;
  uint64_t sas_sp, sas_size; /* sigaltstack(2) */
  uint32_t sas_flags;        /* SS_AUTODISARM only */
  uint64_t tid_address;      /* set_tid_address(2) */
  uint64_t robust;           /* set_robust_list(2), of 64-bit programs */
  uint32_t pdeath;           /* PR_SET_PDEATHSIG */
  char name[16];
  bool pending;              /* signals of its own */
  bool parent;               /* it has made children that are still there */
  bool ruled;                /* its system calls are: by seccomp, by a dispatcher of its own, by audit */
  const unsigned char *traits; /* thread_look_size() bytes: everything else that a thread can be asked for; valid during the call */
} ThreadSight;

/* What can be seen of one that nobody has stopped. */
typedef struct ThreadGlimpse {
  pid_t tid;
  bool worker; /* of io_uring's: nobody traces it */
  bool runs;   /* on a processor, or would like to; its registers say nothing */
  struct user_regs_struct regs; /* up to ss: with which it came into the kernel */
} ThreadGlimpse;

typedef struct ThreadLook ThreadLook;

/* NULL where the kernel does not say where in its structures things are, or lets nobody read them, or numbers its threads otherwise
 * than this process does (pid namespaces). */
ThreadLook *thread_look_new(const KernelTypes *types);
void thread_look_free(ThreadLook *look);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ThreadLook, thread_look_free)
/* Of ThreadSight.traits, in bytes. */
size_t thread_look_size(const ThreadLook *look);
/* Calls @see for each thread that the calling thread traces, those last that it has traced longest, until it returns false; several
 * threads may look at a time. They must all be stopped. False if not all could be seen. */
bool thread_look_at_traced(const ThreadLook *look, bool (*see)(void *data, const ThreadSight *sight), void *data);
/* The threads of a process that runs, into @ret (ThreadGlimpse), by ascending number; some that come or go meanwhile may be left out.
 * False, and nothing of value in @ret, if they could not be seen. */
bool thread_look_at_process(const ThreadLook *look, pid_t pid, int pidfd, GArray *ret);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the kernel keeps of a process that stands still, read without its text: the flags of its mappings, for which
 * /proc/PID/smaps would walk through all its pages and write a kilobyte each; and by what processes are alike whose files in /proc say
 * the same. A program of the kernel's iterators reads it (Documentation/bpf/bpf_iterators.rst, bpf(2)). Takes what kernel-types.h
 * takes. */

#include "kernel-types.h"
#include "proc.h"

/* Where the kernel has what, or what it has: nobody's to make sense of, but equal where the things are. */
#define PROCESS_COMMON_WORDS 8
typedef struct ProcessSight {
  uint64_t common[PROCESS_COMMON_WORDS]; /* namespaces, control groups, personality, login id, adjustment of the OOM killer, core dump filter */
  uint64_t memory, files, fs;            /* what clone(2) may share */
  uint64_t exe, cwd[2], root[2];         /* files, by mount and name */
} ProcessSight;

typedef struct ProcessLook ProcessLook;

/* NULL where the kernel does not say where in its structures things are, or lets nobody read them. Reads the process's own
 * mappings, to learn what the flags of some are called. */
ProcessLook *process_look_new(const KernelTypes *types);
void process_look_free(ProcessLook *look);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ProcessLook, process_look_free)
/* The mappings of @pid, as proc_vmas() gives them, and its sight. Flags that were not met before are looked up in smaps, once.
 * *ret_seen: @ret_sight has been filled. By any thread. NULL with error. */
GArray *process_look_vmas(ProcessLook *look, pid_t pid, ProcessSight *ret_sight, bool *ret_seen, GError **error);

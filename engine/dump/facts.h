/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What files in /proc tell about a frozen task, read by other threads of the engine while its own (the tracer, who alone may
 * use ptrace) collects registers. A handful of files a task is half the time of a dump of many small processes. */

#include "process-look.h"
#include "proc.h"
#include <sys/stat.h>

#define FACTS_NAMESPACES 9

typedef struct TaskFacts {
  pid_t pid;
  bool dead; /* a zombie has none */
  ProcStatus status;
  char *auxv, *cgroup, *personality, *loginuid, *oom_score_adj, *coredump_filter, *timers; /* may be NULL, but for auxv */
  size_t auxv_size;
  GArray *vmas;       /* ProcVma */
  GArray *fd_numbers; /* int; candidates: every descriptor in use is among them */
  ino_t ns[FACTS_NAMESPACES]; /* of facts_namespace_name(), 0: not known */
  ProcessSight sight;
  bool seen; /* there is one */
  GError *error;      /* why there are none */
} TaskFacts;

/* The file in /proc/PID/ns of an index below FACTS_NAMESPACES. */
const char *facts_namespace_name(size_t i);

typedef struct FactsReader FactsReader;

/* Begins to read; @facts (borrowed) have pid and dead set, all else zero. @large: even one of them takes long. @look may be NULL. */
FactsReader *facts_start(TaskFacts *const *facts, guint n, bool large, ProcessLook *look);
/* Helps and waits until all are read. */
void facts_finish(FactsReader *reader);
/* Frees what was read, not @facts itself. */
void facts_clear(TaskFacts *facts);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* When sleeps will end that an engine has seen, for the next engine that sees them. A sleep that was interrupted keeps its end
 * inside the kernel, and its arguments tell how long it was to be in the beginning. The notes are a key in the keyring of the
 * engine's user (keyrings(7)): the kernel forgets it when the last of the sleeps is over, and nothing is left anywhere. */

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct SleepNote {
  guint32 tid, syscall_nr;
  gint64 end_nsec; /* CLOCK_MONOTONIC */
  guint64 runs;    /* sleep_runs() before it went on to sleep */
} SleepNote;

/* How often a thread has run so far; 0: nobody knows. */
guint64 sleep_runs(pid_t pid, pid_t tid);
/* @start_time: of the process (ProcStat), for its number alone may be another's later. @notes: SleepNote. A kernel without keys,
 * or without room for one: the next engine does not know. */
void sleep_notes_keep(pid_t pid, guint64 start_time, const GArray *notes);
/* NULL: there are none. */
GArray *sleep_notes_find(pid_t pid, guint64 start_time);

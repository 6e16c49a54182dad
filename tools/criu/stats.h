/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* stats-dump and stats-restore, as `crit decode` and container engines read them. */

#include "job.h"

/* When each phase of a job began, microseconds of the monotonic clock; taken from the job's sink. */
typedef struct CriuTimes {
  gint64 start, freeze, collect, memory, memory_end, thaw, end;
} CriuTimes;

void criu_times_phase(CriuTimes *times, const char *phase);
void criu_times_end(CriuTimes *times);

/* Writes the file into the directory; 0 or a negative errno. @show: prints it too, as --display-stats does. */
int criu_stats_write_dump(int dir_fd, const Job *job, const CriuTimes *times, bool show);
int criu_stats_write_restore(int dir_fd, const Job *job, const CriuTimes *times, bool show);

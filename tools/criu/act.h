/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The actions of criu. Each takes the open directories and the log, and returns the exit status: 0 or 1. */

#include "log.h"
#include "options.h"
#include "stats.h"

typedef struct CriuRun {
  const CriuOptions *options;
  CriuLog *log;
  int images_fd;
  int work_fd; /* the same descriptor where no work directory was given */
} CriuRun;

int act_dump(CriuRun *run);
int act_restore(CriuRun *run);
int act_check(CriuRun *run);

/* --- shared by dump and restore --- */

/* The sink of a job: log lines into the log, phases into the times. */
typedef struct CriuSink {
  CriuRun *run;
  Job *job; /* borrowed, once there is one */
  CriuTimes times;
} CriuSink;

JobSink criu_sink(CriuSink *sink);
/* Logs the failure and, where the log is a file, says it on standard error too. Returns 1. */
int criu_failed(CriuRun *run, const char *what, const GError *error);
/* Statistics lie where the log does (criu's page) and beside the images (where tools look). */
void criu_write_stats(CriuRun *run, const Job *job, CriuSink *sink,
    int (*write)(int dir_fd, const Job *job, const CriuTimes *times, bool show));

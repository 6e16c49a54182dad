/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The log of criu: a file or standard error; "(00.000123) " before every line from verbosity 3 on, failures marked
 * "Error (…): ", warnings "Warn  (…): ", which is what container engines look for. */

#include <glib.h>
#include <stdbool.h>
#include <syslog.h>

typedef struct CriuLog CriuLog;

/* Writes to standard error at first. */
CriuLog *criu_log_new(unsigned verbosity);
void criu_log_free(CriuLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CriuLog, criu_log_free)

/* From here on into the file @path below @dir_fd; it is emptied first. Returns 0 or a negative errno. */
int criu_log_open(CriuLog *log, int dir_fd, const char *path);

/* @priority: as of syslog(3); @where: the part of the program, shown in brackets. */
void criu_log(CriuLog *log, int priority, const char *where, const char *format, ...) G_GNUC_PRINTF(4, 5);

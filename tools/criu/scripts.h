/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Action scripts: commands of a shell that run at certain moments, with their name in CRTOOLS_SCRIPT_ACTION, the images
 * directory in CRTOOLS_IMAGE_DIR and the root's pid, where there is one, in CRTOOLS_INIT_PID. */

#include "act.h"

/* Runs all of them for one moment, one after the other, and waits. @job (may be NULL) is looked after meanwhile. false with
 * error: one has failed, which ends the command; but not at pre-resume and post-resume, where it is only logged. @root 0:
 * there is none yet. */
bool scripts_run(CriuRun *run, Job *job, const char *action, pid_t root, GError **error);

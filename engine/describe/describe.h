/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a checkpoint holds, told as rows of three tables: its tasks, their open files, their mappings. The images are
 * loaded and verified as for a restore; nothing of them is restored. docs/man/org.criu.Checkpoint.5 has the columns. */

#include "checkpoint.h"
#include "job.h"

/* Describes the checkpoint in job_images_fd() through job_row(): all tasks, then all files, then all mappings, so that
 * whoever takes only some has the best of it. */
bool describe_run(Job *job, GError **error);
/* The same for one that is loaded. */
bool describe_checkpoint(Job *job, const Checkpoint *checkpoint, GError **error);

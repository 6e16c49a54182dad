/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* In whose name the engine works. It is root because of what it does to tasks; what it does to files of a caller's it
 * does with the caller's rights, and images from a caller it reads as nothing more than the caller. */

#include "job.h"

/* For the rest of its life this process is the caller: its ids and groups, control groups, resource limits, niceness,
 * bounding set, no_new_privs and login uid, learnt from the process behind @pidfd (job_caller()->pid), and of all
 * capabilities only CAP_CHECKPOINT_RESTORE (which chooses pids, nothing else that others would notice). A caller that
 * is confined in a way that cannot be handed on (seccomp, namespaces, a root directory, a security label of its own) is
 * NOT_PERMITTED_TARGET. It goes on in a child: the process that was started only waits for its end, ends it by its own, and
 * passes SIGTERM on. Call it before any thread is made. */
bool identity_become_caller(Job *job, int pidfd, GError **error);

/* From here on files are made, and owned, as the caller would (file system ids and groups, no capability to override
 * permissions, quotas or reserves); reading and tracing stay what they are. INVALID_ARGS if the images' directory is
 * none that the caller may write to. */
bool identity_write_as_caller(Job *job, GError **error);

/* A directory that nobody else cleans up: CHECKPOINT_EXISTS if it holds images already; and what a failed dump left
 * there goes again. */
bool identity_directory_is_free(int dir_fd, GError **error);
void identity_directory_clear(int dir_fd);

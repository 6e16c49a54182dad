/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The kernel notes in a socket who made it, listened or connected (SO_PEERCRED), and in a message who sent it
 * (SCM_CREDENTIALS): the pid and credentials of the caller. So such calls are made in a short-lived process with that pid and those
 * credentials, which shares the engine's memory and descriptors. What was noted stays when the process has gone. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct AsWho {
  pid_t pid; /* 0: any */
  uid_t uid;
  gid_t gid;
  const gid_t *groups; /* borrowed; NULL with n_groups 0: as they are here */
  size_t n_groups;
} AsWho;

/* Calls @work(@data) as @who; returns what it returns (0 or a negative errno), or a negative errno. @work must only make
 * system calls: it runs while this process waits, on its stack. A pid that another process has by now is not had:
 * *ret_other (may be NULL) is set, and @work runs under another one. File system rights stay those of this process. */
int as_process(const AsWho *who, int (*work)(void *data), void *data, bool *ret_other);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* A process somebody wants to dump or have explained, pinned by a pidfd so that the
 * number cannot come to mean another process. */
typedef struct Target {
  pid_t pid;
  int pidfd;
  uid_t uids[4]; /* real, effective, saved, file system */
  char comm[64]; /* escaped as in /proc/PID/status */
} Target;

/* Pins process @pid and reads who owns it. NoSuchProcess, or NotPermittedTarget for
 * what nobody may dump: pid 1, kernel threads, threads that are not their process. */
Target *target_new(pid_t pid, GError **error);
/* The same of the process behind a pidfd of the caller's, which stays the caller's. InvalidArgs if it is none. */
Target *target_new_from_pidfd(int pidfd, GError **error);
void target_free(Target *target);
/* Nothing more is done to it: its pid and name stay known, the pidfd is closed. NULL is accepted. */
void target_unpin(Target *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Target, target_free)

/* Reads the owner again. NoSuchProcess when the process is gone. */
bool target_refresh(Target *target, GError **error);

/* All four uids are @uid. */
bool target_is_of(const Target *target, uid_t uid);

/* @pid is @ancestor or one of its descendants, as far as /proc tells now. */
bool target_is_within(pid_t pid, pid_t ancestor);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A look into another namespace, by the main thread of this process: what it does until it comes back (open(2), mount(2),
 * socket(2), …) it does there. Of a mount namespace it has that one's root as root and working directory meanwhile. Other
 * threads stay where they are. Whoever has been elsewhere once shares its working directory with no other thread any more.
 *
 * Visits may be nested, of the same or of different kinds, and end in reverse order. */

#include <stdbool.h>

typedef struct NsVisit {
  int kind, before;
} NsVisit;

/* @kind: CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET or CLONE_NEWIPC. @fd: of /proc/PID/ns/…, which stays open until the visit
 * ends; -1: home, from within another visit. 0, or a negative errno: nothing has changed then. */
int ns_visit_begin(NsVisit *ret_visit, int kind, int fd);
/* The same with a new namespace (unshare(2)), which goes with the visit if nobody keeps *ret_fd, a descriptor of it. */
int ns_visit_new(NsVisit *ret_visit, int kind, int *ret_fd);
/* Ends this process if there is no way back. */
void ns_visit_end(const NsVisit *visit);

/* A file in /proc of where this process is at home, wherever it is: "self/mountinfo", "thread-self/ns/net". */
int ns_visit_open_proc(const char *name, int flags);
/* "mnt", "uts", …: the name of the kind in /proc/PID/ns; NULL for others. */
const char *ns_kind_name(int kind);

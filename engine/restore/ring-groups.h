/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Groups of buffers of rings (IORING_REGISTER_PBUF_RING): how the kernel comes to count as many as were chosen before. */

#include "stages.h"
#include "uring.h"

/* The thread that works with a ring. */
typedef struct RingUser {
  const CkptUring *u;
  const PlanTask *task;
  const PlanThread *thread;
  int fd; /* there */
} RingUser;

/* Runs a program in a thread, and checks its results. */
bool ring_run(Restore *r, const PlanThread *th, const Program *p, GError **error);
/* Lets the kernel choose buffers until all heads are right; *ret_requests: what it took, each with a completion that is
 * taken. @fd, @map: the ring, here. */
bool ring_groups_run(Restore *r, const RingUser *x, int fd, UringMap *map, guint32 *ret_requests, GError **error);
/* Then: the lists as they were. */
bool ring_groups_put(Restore *r, const RingUser *x, int fd, GError **error);

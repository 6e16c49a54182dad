/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A list of structures in the kernel's memory, many of them at a time; takes what kernel-types.h takes. */

#include <glib.h>

#define KERNEL_WALK_STEPS 16u
#define KERNEL_WALK_ASIDE 256u

typedef struct KernelWalk {
  guint32 size; /* of the structure, at most KERNEL_READ_MAX */
  int link;     /* where in it the list's link is, to the next one's */
  int aside;    /* where in it a pointer is; -1: none */
  guint64 aside_at;   /* bytes behind which something is that is wanted, too */
  guint32 aside_size; /* at most KERNEL_WALK_ASIDE */
} KernelWalk;

/* @at: a link, @end: that of the list's head. */
typedef struct KernelPlace {
  guint64 at, end;
} KernelPlace;

/* One of them; valid until the next step. */
typedef struct KernelRecord {
  guint64 address;
  const unsigned char *data, *aside;
} KernelRecord;

typedef struct KernelWalker KernelWalker;

/* NULL where it is not allowed. */
KernelWalker *kernel_walker_new(const KernelWalk *walk);
void kernel_walker_free(KernelWalker *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KernelWalker, kernel_walker_free)
/* Reads the next ones, up to KERNEL_WALK_STEPS, into @ret, and moves @place behind them. Returns how many, 0 at the end; -1 if one
 * could not be read. The list's lock is not taken. */
int kernel_walker_step(KernelWalker *w, KernelPlace *place, KernelRecord ret[static KERNEL_WALK_STEPS]);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One ring of io_uring(7) while a dump looks at it. */

#include "uring-inside.h"
#include "uring.h"

/* What fdinfo says now. */
typedef struct UringFacts {
  guint64 sq_mask, sq_head, cached_sq_head, sq_tail, cq_mask, cq_head, cached_cq_tail;
  gint64 sq_thread; /* as the kernel numbers it, in no namespace; -1: none */
  guint n_polls, n_overflow;
  guint poll_op;
  bool personalities;
} UringFacts;

/* The one ring under work. */
typedef struct Look {
  Collector *c;
  CkptUring *u;
  FileProbe probe;
  UringFacts facts;
  UringMap map;
  char *text; /* of fdinfo */
  pid_t pid, tid; /* who may use it */
  pid_t sq_tid;   /* its submitting thread, 0: none was found */
  const Task *task;
  UringReader *reader; /* borrowed, NULL: the kernel shows no more than fdinfo */
  UringInside in;      /* what it has read, if has_inside */
  bool has_inside;
} Look;

/* Makes a request of io_uring_enter(2) as a thread that may use the ring. */
gint64 uring_look_enter(const Look *l);
/* Fills facts, text and inside anew. */
bool uring_look_again(Look *l, GError **error);
void uring_look_block(const Look *l, const char *reason, const char *cure);

/* --- uring-flight.c --- */

/* Gives what is nearly done the time to end: a second, and a minute as long as a worker runs or waits for a disk. False with error. */
bool uring_settle(Look *l, GError **error);
/* Whether nothing is in flight but what can be made again. */
bool uring_is_settled(const Look *l);
/* Names what is not. */
void uring_block_in_flight(const Look *l);
/* What is in flight, into the record; false: blocked. */
bool uring_save_requests(const Look *l);
/* Whether a request that takes something has done so since: completions between those saved and now. */
bool uring_has_moved(const CkptUring *u, const UringMap *map, guint32 tail);
/* Our duplicate of the file that a request of the record is about; -1: none, or a registered one. */
int uring_request_local(Collector *c, const CkptUringRequest *q);
/* The groups of buffers, into the record (uring-group.c); after flags, counters and requests. False: blocked. */
bool uring_save_groups(const Look *l);
/* A descriptor of the ring's task that is the file which the kernel has at @file; -1: none. */
int uring_find_fd(const Look *l, const Task *task, guint64 file);

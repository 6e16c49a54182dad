/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One step of tracing as data, so that another process can make it (warden.h). A step of the warden's leaves its task either stopped or
 * running, never between the two stops of a system call. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum TraceOp {
  TRACE_SEIZE,     /* a: options */
  TRACE_OPTIONS,   /* a: options */
  TRACE_INTERRUPT, /* does not wait */
  TRACE_STOP,      /* interrupts and waits */
  TRACE_WAIT,      /* data: int, the status */
  TRACE_WAIT_INTERRUPTED, /* gives the signal of a group stop, 0: none; a: does not wait, -EAGAIN */
  TRACE_WAIT_END,
  TRACE_HAS_STOPPED, /* 1: a stop, of no signal, waits to be taken; 0: none */
  TRACE_PASS_STOP,   /* lets a stop of no system call, if it is in one, take its course; gives 1 then */
  TRACE_RESUME,      /* a: request, b: signal */
  TRACE_DETACH,
  TRACE_RUN, /* data: registers, set and read back; a: stops of system calls to wait for, b: goes on then */
  TRACE_CALL_BEGIN,   /* not of the warden; data: registers. Lets it come to the first stop of a system call, and does not wait */
  TRACE_CALL_PROCEED, /* not of the warden; waits for that, and lets it come to the second */
  TRACE_CALL_END,     /* not of the warden; waits for that; data: registers, read */
  TRACE_GET_REGS,
  TRACE_SET_REGS,
  TRACE_GET_XSTATE, /* gives the size */
  TRACE_SET_XSTATE,
  TRACE_GET_SIGMASK,
  TRACE_SET_SIGMASK,
  TRACE_PEEK_SIGNALS, /* a: shared, b: from; data: siginfo_t; gives how many */
  TRACE_GET_FILTER,   /* a: index, the oldest is 0; data: struct sock_filter, or NULL; gives their number */
  TRACE_GET_METADATA, /* data: struct seccomp_metadata */
  TRACE_GET_RSEQ,
  TRACE_GET_DISPATCH,
  TRACE_GET_SHADOW_STACK,
  TRACE_HOME, /* of the warden only; data: TraceHome */
  TRACE_OWN,  /* of the warden only: takes the robust mutex; data: TraceOwn */
} TraceOp;

typedef struct TraceCall {
  TraceOp op;
  pid_t tid;
  uint64_t a, b;
  void *data;
  size_t size;
} TraceCall;

/* Makes the step in this process. A negative errno, or what the op gives. */
int64_t trace_perform(const TraceCall *call);

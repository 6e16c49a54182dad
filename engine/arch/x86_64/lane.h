/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The memory that the coordinator and an agent share: offsets are known to agent.S, too, so this header is plain
 * preprocessor where it is read by the assembler. One lane belongs to one thread. */

#define LANE_COMMAND 0    /* u32, futex: the coordinator counts it up to have the program run */
#define LANE_DONE 4       /* u32, futex: the agent copies the command here when it has run */
#define LANE_OPS 8        /* address of the ops in the task */
#define LANE_N_OPS 16
#define LANE_RESULTS 24   /* address of one s64 per op */
#define LANE_DATA 32      /* address of the program's data */
#define LANE_STOPPED 40   /* index of the op that failed; n_ops if none did */
#define LANE_WAITV 48     /* two struct futex_waitv of 24 bytes: command, alive */
#define LANE_ALIVE 96     /* address of the coordinator's robust futex word */
#define LANE_HOME 104     /* what to do when the coordinator is dead, see below */
#define LANE_HOME_SP 112
#define LANE_HOME_IP 120
#define LANE_HOME_NR 128
#define LANE_HOME_ARGS 136 /* 6 of them */
#define LANE_HOME_WAIT 184 /* address of a u32 that must fall to 0 first; 0: none */
#define LANE_SIZE 192

#define LANE_HOME_DIE 0 /* kill the whole process: a task of an unfinished restore */
#define LANE_HOME_GO 1  /* make the system call at LANE_HOME_IP, whose `ret` leads to rt_sigreturn; of a 32-bit one ARGS 0 and 1 only */

#define OP_NR 0     /* u32 */
#define OP_FLAGS 4  /* u16 */
#define OP_KINDS 6  /* u16: two bits an argument, enum ArgKind */
#define OP_ARGS 8   /* 6 x u64 */
#define OP_EXTRA 56 /* OP_FLAG_CLONE: lane address of the child; OP_FLAG_REPEAT: where the first argument ends */
#define OP_SIZE 64

#define OP_FLAG_IGNORE 1 /* go on after an error */
#define OP_FLAG_CLONE 2  /* the child (result 0) goes on at the lane in OP_EXTRA; tried for a while where its number is taken */
#define OP_FLAG_TILES 4  /* when the call has answered 0, use AMX: the third argument is the address of a tile configuration */
#define OP_FLAG_REPEAT 16 /* for each first argument up to OP_EXTRA, all others the same; the lowest bytes of the results go where the sixth points to */
#define OP_FLAG_IA32 8   /* a 32-bit system call (int $0x80), by its 32-bit number */

#ifndef __ASSEMBLER__
#include <stdint.h>

typedef struct Op {
  uint32_t nr;
  uint16_t flags, kinds;
  uint64_t args[6];
  uint64_t extra;
} Op;

struct lane_waitv {
  uint64_t value, address;
  uint32_t flags, reserved;
};

typedef struct Lane {
  uint32_t command, done;
  uint64_t ops, n_ops, results, data, stopped;
  struct lane_waitv waitv[2];
  uint64_t alive;
  uint64_t home, home_sp, home_ip, home_nr, home_args[6];
  uint64_t home_wait;
} Lane;

_Static_assert(sizeof(Op) == OP_SIZE, "Op is known to agent.S");
_Static_assert(sizeof(Lane) == LANE_SIZE, "Lane is known to agent.S");

/* The agent: position independent code, entered with rbx = address of a lane. */
extern const unsigned char agent_start[], agent_end[];
#endif

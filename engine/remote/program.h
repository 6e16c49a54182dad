/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A syscall program: a vector of {number, 6 arguments, what to expect} that an agent runs inside a task in one go. An
 * argument is a plain value, an address in the task's lane (for data that goes with the program or comes back), or the
 * result of an earlier op. Programs are plain data: they can be printed and tested without running them.
 *
 * Data lies in the program's blob, at offsets from its start; program_data() adds to it and gives the offset, which
 * program_add() takes as ARG_DATA(offset). After the run the blob of the lane holds what the kernel wrote there. */

#include "error.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum ArgKind { ARG_KIND_VALUE = 0, ARG_KIND_DATA = 1, ARG_KIND_RESULT = 2, ARG_KIND_WORD = 3 } ArgKind;

typedef struct Arg {
  ArgKind kind;
  uint64_t value;
} Arg;

#define ARG(v) ((Arg){ARG_KIND_VALUE, (uint64_t)(v)})
#define ARG_DATA(offset) ((Arg){ARG_KIND_DATA, (offset)})
#define ARG_RESULT(op) ((Arg){ARG_KIND_RESULT, (op)})
#define ARG_WORD(offset) ((Arg){ARG_KIND_WORD, (offset)}) /* the eight bytes of data there, as an earlier op has left them */

typedef enum Expect {
  EXPECT_OK,      /* any result but -1..-4095; else the program stops here */
  EXPECT_ANY,     /* never stops the program */
  EXPECT_EQUAL,   /* exactly the given value; checked by the coordinator afterwards */
} Expect;

typedef struct Program Program;

Program *program_new(void);
void program_free(Program *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Program, program_free)

/* Adds data (8-byte aligned; @bytes NULL: zeroes) and returns its offset. */
size_t program_data(Program *p, const void *bytes, size_t size);
size_t program_string(Program *p, const char *text);
/* The eight bytes of data at @at become the address (in the task) of the data at @target. */
void program_data_pointer(Program *p, size_t at, size_t target);
/* Adds an op and returns its index. @what is a static string that names it in errors and plans ("epoll_ctl add"). Missing
 * arguments are 0. */
size_t program_add(Program *p, const char *what, long nr, const Arg *args, size_t n_args);
#define PROGRAM_CALL(p, what, nr, ...) \
  program_add((p), (what), (nr), (const Arg[]){__VA_ARGS__}, sizeof((const Arg[]){__VA_ARGS__}) / sizeof(Arg))
/* Changes a plain value among the arguments of an op. */
void program_set_arg(Program *p, size_t op, size_t arg, uint64_t value);
/* Of the op added last. */
void program_expect(Program *p, Expect expect, int64_t value);

/* The op added last is a 32-bit system call, made by `int $0x80`: its number is one of those, and its data has to lie below
 * 4 GiB. */
void program_ia32(Program *p);
/* Of the op added last, a clone: its child goes on at the lane of that address (in the tasks). */
void program_child_lane(Program *p, uint64_t lane);
/* Then its ops must stay in place after it has run: a child may still be about to read where it goes on. */
bool program_has_clones(const Program *p);

/* The op added last, a call of at most five arguments whose sixth is data, is made for its first argument and all that follow it up to, and
 * without, @end: of each result the lowest byte goes there. */
void program_repeat(Program *p, uint64_t end);
/* Of the op added last, whose third argument is the data of a tile configuration (64 bytes): when it has answered 0, the thread
 * uses AMX for a moment. From then on the kernel has room for its tiles. */
void program_use_tiles(Program *p);

size_t program_n_ops(const Program *p);
/* True for preadv(2), whose results are bytes of memory restored. */
bool program_op_reads(const Program *p, size_t op);
/* Do all its ops pass? @first: of the first argument, which may be an offset (ARG_DATA). */
bool program_all(const Program *p, bool (*test)(uint32_t nr, uint64_t first));
/* For --plan and golden tests: one line an op, "mmap(0x7f…, 4096, …) = 0x7f…  # stack". */
void program_print(const Program *p, FILE *out);

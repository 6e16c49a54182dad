/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "subject.h"

/* Sets up what is refused; descriptors stay open. clean_up (may be NULL) is called at the end. */
typedef struct RefusedCase {
  const char *name;
  void (*set_up)(void);
  void (*clean_up)(void);
} RefusedCase;

typedef struct RefusedTable {
  void (*begin)(int argc, char **argv); /* of the file: what subject.h knows is static */
  const RefusedCase *cases;             /* the last one is empty */
} RefusedTable;

extern const RefusedTable kernel_cases, file_cases, socket_cases, task_cases;

/* BASE.@name, allocated. */
char *place(const char *name);
/* @fd, which must be one. */
int kept(int fd);
/* A process that is in the tree no more, with the standard descriptors and @fds only (seven at most), has done @work
 * (may be NULL). */
void outside(void (*work)(void), const int *fds, int n);
/* A child has done @work, with all descriptors. */
void child(void (*work)(void));
/* The process that is to be explained and dumped. */
void look_at(pid_t pid);
__attribute__((noreturn)) void idle(void);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One kernel object, set up and verified. The same cases serve two tests: roundtrip (collect from a stopped child, open
 * in another process) and the programs object-<file>, which live through a whole dump and restore.
 *
 * verify() knows nothing but the fixed descriptor numbers, @dir and constants, since in roundtrip it runs in a process
 * that never ran setup(); and it leaves the object as it found it, since the programs call it again and again. Within
 * one file the cases use numbers of their own, from 10 on. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

typedef struct ObjectCase {
  const char *name;
  /* NULL, or what went wrong. @dir is an empty scratch directory, an absolute path. */
  const char *(*setup)(const char *dir);
  const char *(*verify)(const char *dir);
  /* After the child is gone and before the restore: what changed meanwhile. May be NULL. */
  const char *(*between)(const char *dir);
  /* The dump must be refused, with this text among the reasons. verify is not called. */
  const char *blocked;
  /* The restore must fail, with this text in the error. */
  const char *unrestorable;
  bool racy; /* not for the programs: verify() can run once only, or /proc shows a difference that does not matter */
} ObjectCase;

/* The cases of one file, ended by one without a name. */
extern const ObjectCase object_cases[];

/* Fails with a text that names the line; for setup() and verify(). */
#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      return case_failure(__FILE__, __LINE__, #condition);                                                             \
  } while (0)
const char *case_failure(const char *file, int line, const char *condition);

/* Whether no dump can come any more: then verify() may do what passes through states that cannot be dumped (a
 * connection that was not accepted yet). */
extern bool case_final;
/* Forks a process that is not in the tree; true there, which must not return. @ret_ok: whether there is one. */
bool case_fork_outside(bool *ret_ok);
/* For what was forked so: ends when the process has been gone for so many seconds. */
_Noreturn void case_outlive(pid_t pid, unsigned seconds);
/* Moves a descriptor to its fixed number; false if it is none. */
bool case_place(int fd, int number);
/* "<dir>/<name>" in one of a few static buffers. */
const char *case_path(const char *dir, const char *name);
/* Whether two descriptors are one description. */
bool case_same(int a, int b);
/* Whether /proc/self/fd/<fd> reads @text. */
bool case_link_is(int fd, const char *text);

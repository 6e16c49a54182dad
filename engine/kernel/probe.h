/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What this kernel offers, found out by trying. Probes change nothing and need no privileges of their own; without
 * the engine's privileges some say no. */

#include <stdbool.h>
#include <stddef.h>

typedef struct Probe {
  const char *name; /* as `criu check --feature` names it, where it does */
  const char *what; /* for people: "pids can be chosen (clone3 set_tid)" */
  bool required;    /* the engine does not work without it */
  bool (*test)(void);
} Probe;

const Probe *probe_table(size_t *ret_n);
/* NULL if there is none of that name. */
const Probe *probe_find(const char *name);

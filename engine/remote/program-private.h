/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the runner of programs knows about them. */

#include "lane.h"
#include "program.h"

typedef struct OpInfo {
  const char *what; /* static */
  uint8_t n_args;
  Expect expect;
  int64_t value;
} OpInfo;

struct Program {
  GArray *ops;   /* Op */
  GArray *infos; /* OpInfo */
  GByteArray *data;
  GArray *pointers; /* size_t: places in data that hold an offset and become an address */
};

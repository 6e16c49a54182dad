/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What the administrator allows; /etc/checkpointd/checkpointd.conf, see checkpointd(8). */
typedef struct Limits {
  uint32_t jobs_running;         /* at the same time */
  uint32_t jobs_per_user;        /* queued and running, of one uid */
  uint32_t jobs_total;           /* queued and running */
  uint64_t bytes_per_user;       /* in the store; 0: no limit */
  uint32_t checkpoints_per_user; /* in the store; 0: no limit */
  uint64_t keep_free_bytes;      /* no dump begins with less than this left in the store's file system */
  bool durable;                  /* dumps reach the disk before their tree is killed */
} Limits;

/* The built-in values, then those of the key file at @path. A missing file is fine;
 * an unknown key, a bad value, or a file others than root can write is an error. */
bool limits_load(Limits *limits, const char *path, GError **error);

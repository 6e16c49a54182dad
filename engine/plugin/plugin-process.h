/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A plugin that is a program: what its manifest says (manifest-file.c) and its life (process.c). */

#include "plugin-private.h"

typedef struct Process {
  char *program; /* path */
  gint64 deadline_usec;
  pid_t pid; /* 0: not running */
  int fd;    /* -1 */
  guint32 serial;
} Process;

extern const PluginDoor process_door;

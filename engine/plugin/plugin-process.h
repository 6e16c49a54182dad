/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A plugin that is a program: what its manifest says (manifest-file.c), its life (process.c), what it asks (questions.c). */

#include "plugin-private.h"

typedef struct Process {
  char *program; /* path */
  gint64 deadline_usec;
  pid_t pid; /* 0: not running */
  int fd;    /* -1 */
  guint32 serial;
} Process;

extern const PluginDoor process_door;

/* Whether a descriptor may come with it. */
bool question_takes_descriptor(const PluginQuestion *q);
/* Fills @m but for its serial. @fd: what came along, borrowed; @content: room for what is told of a content; *ret_fd: what goes
 * with the answer, owned by the caller, or -1. */
void question_answer(Plugin *p, const PluginQuestion *q, int fd, PluginRequest *m, PluginContent *content, int *ret_fd);

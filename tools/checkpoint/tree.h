// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>
#include <stdbool.h>

// The process tree of @tasks (aa{sv} with pid and ppid) as lines of text: a pair of the drawing
// that leads to a task and its index in @tasks, in drawing order. Whatever the pids say, every
// task comes out exactly once.
typedef struct TreeLine {
  char *drawing;
  gsize task;
} TreeLine;

// GArray of TreeLine; free with g_array_unref().
GArray *tree_lines(GVariant *tasks, bool unicode);

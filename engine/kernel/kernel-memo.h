/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What was found in the kernel's description of itself, kept until the next boot: to look through five megabytes of it takes two
 * milliseconds, in every dump. The file is believed if it is root's, nobody else may write to it, and it was written since this
 * kernel was booted; else it is not there. */

#include <glib.h>
#include <stdbool.h>

#define KERNEL_MEMO_PATH "/run/checkpointd.kernel-types"

typedef struct KernelMemo KernelMemo;

/* Reads CHECKPOINTD_KERNEL_MEMO (empty: none), or else KERNEL_MEMO_PATH, by root only. Never NULL: there may be nothing in it. */
KernelMemo *kernel_memo_open(void);
/* Writes it if anything was added, and may be. */
void kernel_memo_close(KernelMemo *m);
bool kernel_memo_is_empty(const KernelMemo *m);
bool kernel_memo_get(const KernelMemo *m, const char *question, gint64 *ret);
/* @question has no line end. */
void kernel_memo_put(KernelMemo *m, const char *question, gint64 answer);

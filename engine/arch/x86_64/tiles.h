/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The tile registers of AMX (Intel SDM, volume 1, chapter 18) in xsave areas of the standard format, as ptrace(2) gives them
 * (NT_X86_XSTATE). The kernel keeps room for them only for threads that have used some, with a permission of their process
 * (Documentation/arch/x86/xstate.rst). */

#include "checkpoint.pb-c.h"
#include "error.h"
#include <stddef.h>
#include <stdint.h>

#define TILES_FEATURE 18 /* XTILEDATA: what arch_prctl(2) is asked for */

/* Newly allocated message (malloc); NULL if they are all in their initial state. */
CkptTiles *tiles_encode(const void *xstate, size_t size);
/* Adds @tiles, which must have been verified, to what regs_decode() has made. IMAGE_INCOMPATIBLE if @xstate has no place for
 * them. */
bool tiles_decode(const CkptTiles *tiles, void *xstate, size_t size, GError **error);
/* True if this processor and its kernel have tiles like those of the images. */
bool tiles_available(void);

/* How much of @xstate holds anything: a signal frame that is larger than what the kernel has for the thread is none to it, and
 * would leave the thread with its SSE registers only (arch/x86/kernel/fpu/signal.c). *ret_features, which may be NULL: the
 * components that have their place in it. */
size_t tiles_needed_size(const void *xstate, size_t size, uint64_t *ret_features);

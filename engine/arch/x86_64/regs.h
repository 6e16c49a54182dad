/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Thread registers <-> thread_info_x86 of core images. */

#include "core.pb-c.h"
#include "error.h"
#include <sys/user.h>

/* @xstate: NT_X86_XSTATE bytes. Newly allocated message (malloc). */
ThreadInfoX86 *regs_encode(const struct user_regs_struct *regs, const void *xstate, size_t xstate_size);
/* Fills @regs, and @xstate (exactly @xstate_size bytes, which is the kernel's size: regs_xstate_size()). IMAGE_INCOMPATIBLE
 * when the image has state that this CPU has not. */
bool regs_decode(const ThreadInfoX86 *info, struct user_regs_struct *regs, void *xstate, size_t xstate_size, GError **error);
/* The size that PTRACE_SETREGSET NT_X86_XSTATE wants, from CPUID; 0 if the CPU has no xsave. */
size_t regs_xstate_size(void);
/* True if the xsave area holds live state that user_x86_xsave_entry has no field for (AMX tiles). */
bool regs_needs_raw_xstate(const void *xstate, size_t xstate_size);

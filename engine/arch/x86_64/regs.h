/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Thread registers <-> thread_info_x86 of core images. */

#include "core.pb-c.h"
#include "error.h"
#include <sys/user.h>

/* @xstate: NT_X86_XSTATE bytes. Newly allocated message (malloc). */
ThreadInfoX86 *regs_encode(const struct user_regs_struct *regs, const void *xstate, size_t xstate_size);
/* Fills @regs, and @xstate (exactly @xstate_size bytes, which is the kernel's size). IMAGE_INCOMPATIBLE
 * when the image has state that this CPU has not. */
bool regs_decode(const ThreadInfoX86 *info, struct user_regs_struct *regs, void *xstate, size_t xstate_size, GError **error);

/* Of the xsave area, standard format (Intel SDM, volume 1, 13.4). */
#define XSTATE_XCR0 464   /* what the processor saves, 8 bytes that the kernel puts into the software's part (NT_X86_XSTATE) */
#define XSTATE_BV 512     /* what is not in its initial state */
#define XSTATE_LEGACY 576 /* first component that has a place of its own */
#define XSTATE_COMPONENTS 63

typedef struct XsaveComponent {
  uint32_t size, offset;
} XsaveComponent;

/* Where component @n has its place on this CPU; zeroes if it has none. */
XsaveComponent regs_component(unsigned n);

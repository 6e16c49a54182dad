/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The vdso that this kernel gives to programs. */

#include "error.h"
#include "program.h"

typedef struct PresentVdso {
  unsigned char *object;  /* NULL: none */
  size_t size, vvar_size; /* bytes; [vvar] lies in front of it */
} PresentVdso;

/* To 64-bit programs. */
bool present_vdso_find(PresentVdso *ret, GError **error);
/* To 32-bit ones, learned by a child that maps it. KERNEL_MISSING_FEATURE where there are none. */
bool present_vdso_find_ia32(PresentVdso *ret, GError **error);
/* Maps it in the task, with [vvar] at @at. */
void present_vdso_build(bool ia32, guint64 at, Program *p);
void present_vdso_clear(PresentVdso *vdso);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The vdso of another kernel: a small shared object that the kernel maps into every process (vdso(7)), whose functions
 * read clocks from the [vvar] pages in front of it. Both change from kernel to kernel, and programs keep addresses in it. */

#include <glib.h>
#include <stdbool.h>

/* Bytes at the beginning of a function that a jump takes, in 64-bit code and in 32-bit code. */
#define VDSO_PATCH_SIZE(ia32) ((ia32) ? 5u : 13u)

typedef struct VdsoSymbol {
  const char *name; /* in the object */
  guint32 offset;   /* of the function in it */
} VdsoSymbol;

/* The functions of the vdso in the @size bytes of @object, which may be anything: VdsoSymbol, newly allocated; NULL when it
 * is no such object. */
GArray *vdso_symbols(const unsigned char *object, size_t size);
/* Puts a jump to the function of the same name in @present (@present_size bytes, in the tasks at @present_at) over each
 * function of @object (in the tasks at @at). Both are of 32-bit programs, or none. @ret_patched (may be NULL): offsets of
 * those (guint32), appended. */
void vdso_redirect(unsigned char *object, size_t size, guint64 at, const unsigned char *present, size_t present_size, guint64 present_at,
    GArray *ret_patched);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the kernel keeps for itself, and its description of it: BTF (Documentation/bpf/btf.rst) says where in which structure
 * a thing is, on the kernel that runs; a program of a few instructions (bpf(2), BPF_PROG_TYPE_SYSCALL) reads it. Takes
 * CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), CONFIG_DEBUG_INFO_BTF, and no lockdown for confidentiality. Nothing is changed. */

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct KernelTypes KernelTypes;

/* NULL where the kernel does not describe itself, or CHECKPOINTD_NO_KERNEL_TYPES is set. What was asked since the last boot is known
 * (kernel-memo.h). For one thread at a time. */
KernelTypes *kernel_types_open(void);
void kernel_types_free(KernelTypes *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KernelTypes, kernel_types_free)
/* Where @member ("cqe.fd": of a member of a member) is in a structure, in bytes, also in nameless unions; -1: nowhere, or not on a
 * byte. */
int kernel_types_offset(const KernelTypes *t, const char *structure, const char *member);
/* The size of a structure in bytes; 0: there is none. */
guint32 kernel_types_size(const KernelTypes *t, const char *structure);
/* The value of an enumerator; @otherwise if there is none. */
gint64 kernel_types_constant(const KernelTypes *t, const char *name, gint64 otherwise);

/* The number of a function among the types; 0: there is none. */
guint32 kernel_types_function(const KernelTypes *t, const char *name);

typedef struct KernelReader KernelReader;

/* NULL where it is not allowed. */
KernelReader *kernel_reader_new(void);
void kernel_reader_free(KernelReader *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KernelReader, kernel_reader_free)
/* Copies kernel memory, @size bytes (at most KERNEL_READ_MAX); false if it cannot be read. */
#define KERNEL_READ_MAX 4096u
bool kernel_read(KernelReader *r, guint64 address, void *ret, size_t size);
/* The address of this thread's task_struct. */
guint64 kernel_reader_self(KernelReader *r);

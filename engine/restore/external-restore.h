/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What becomes of an external object at a restore, in the same order as at the dump: rules of the job, what the
 * checkpoint says, plugins. */

#include "external.h"

typedef struct ExternalReturn ExternalReturn;
/* Registers itself with @restorer (borrowed, must outlive the last call). NULL with error. */
ExternalReturn *external_return_new(Job *job, Restorer *restorer, GError **error);
void external_return_free(ExternalReturn *ret);
/* A mapping with VMA_EXT_PLUGIN: a plugin may give another file and offset for it. *ret_fd (owned by the caller) is -1
 * where the file of the entry itself is to be mapped at @ret_pgoff. */
bool external_return_mapping(ExternalReturn *ret, const Task *task, const VmaEntry *vma, int *ret_fd,
    guint64 *ret_pgoff, GError **error);

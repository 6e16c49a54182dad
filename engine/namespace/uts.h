/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Names of a machine (uts_namespaces(7)). */

#include "ns-set.h"

/* Fills @image from the namespace of @entry, which is open. */
bool uts_collect(const NsEntry *entry, NsImage *image, GError **error);
/* Makes it again. */
bool uts_make(const NsImage *image, NsEntry *entry, GError **error);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Files whose content is in the checkpoint (action=embed). */

#include "internal.h"

/* The file lies at its path with the content it had at the dump: it is made if it is not there; FILE_CHANGED if it has
 * another content. */
bool embedded_prepare(Restorer *r, const RegFileEntry *reg, const CkptExternal *record, GError **error);

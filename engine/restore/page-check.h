/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Page contents against the digests in checkpoint.img, by a thread beside the reading of the pages: nothing is released
 * before it has agreed. */

#include "checkpoint.h"
#include "error.h"

typedef struct Verifier Verifier;

/* @checkpoint and @dir_fd are borrowed until verifier_join(). */
Verifier *verifier_start(const Checkpoint *checkpoint, int dir_fd);
/* Waits and frees; IMAGE_INVALID names the first file that is not as it was written. NULL is fine. */
bool verifier_join(Verifier *verifier, GError **error);

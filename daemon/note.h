/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* What the service itself notes about a checkpoint, in the file "meta" beside its
 * images: a key file whose values are GVariants in their text form. */

/* Writes @note (a{sv}, not consumed) as @dirfd's "meta"; fsync()ed when @durable. In place: only
 * drafts are written to, and a new inode for each would cost more than the rest of the draft. */
bool note_write(int dirfd, GVariant *note, bool durable, GError **error);

/* a{sv}, owned by the caller; NULL when there is none or it is damaged. */
GVariant *note_read(int dirfd);

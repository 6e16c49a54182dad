/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The files of raw content, pages-*.img and ghost-file-*.img: made while dumping and read while restoring, only looked
 * at from outside when the rest is stored or loaded. */

#include "source.h"
#include "writer.h"

/* Every pages file must be there with exactly the size its pagemap asks for, every ghost file that a remap names must
 * exist. */
bool content_check(const ImageSource *source, const Checkpoint *checkpoint, GError **error);
/* The same, and notes them for checkpoint.img: sizes of pages files, with the digest that the page set
 * has, sizes and (up to 16 MiB) digests of ghosts. */
bool content_note(ImageWriter *w, const Checkpoint *checkpoint, GError **error);

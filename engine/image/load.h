/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "checkpoint.h"
#include "source.h"

/* image_load() from a directory or from memory. */
Checkpoint *load_checkpoint(const ImageSource *source, GError **error);

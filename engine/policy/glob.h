/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Patterns of rules: `*` stands for any characters but '/', `**` for any at all, `?` for one that is not '/', and a
 * backslash takes the next character as it is. All others stand for themselves. */

#include <stdbool.h>
#include <stddef.h>

/* @text needs no final zero. Takes time in proportion to both lengths, whatever the pattern. */
bool glob_matches(const char *pattern, const char *text, size_t size);

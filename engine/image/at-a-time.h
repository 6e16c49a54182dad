/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Two pieces of work, side by side. */

#include <stdbool.h>

/* Runs @work with @first, and with @second: by a thread of its own if it is worth one and can have it, else one after the other. */
void at_a_time(bool worth, void *(*work)(void *data), void *first, void *second);

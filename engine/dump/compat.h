/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* 32-bit programs (ia32): which tasks are some, and what of that kind cannot be taken. */

#include "frozen.h"

/* When registers and facts are known, before any agent. Blockers go to the job. */
void compat_check(Job *job, FrozenTree *tree);

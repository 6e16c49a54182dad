// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <stdint.h>

// 0, or an exit status, the reason having been said.
int operand_parse_pid(const char *text, uint32_t *ret_pid);
// COMM-PID-YYYYMMDD-HHMMSS, with what no name may hold replaced.
char *operand_default_name(uint32_t pid);

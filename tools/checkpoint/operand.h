// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

// 0, or an exit status, the reason having been said.
int operand_parse_pid(const char *text, uint32_t *ret_pid);
// COMM-PID-YYYYMMDD-HHMMSS, with what no name may hold replaced.
char *operand_default_name(uint32_t pid);
// Opens the directory of --directory, which is made (mode 0700) if it is not there and @make; the
// caller closes it. Negative: the exit status, the reason having been said, as -status.
int operand_open_directory(const char *path, bool make);
// A pidfd of a process; -status as above.
int operand_open_process(uint32_t pid);

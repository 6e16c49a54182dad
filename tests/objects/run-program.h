/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A stand-in for engine/remote: programs that the calling process runs itself, without an agent. */

#include "program.h"

/* false: an op did not give what it expects; @ret_what names it, @ret_result is what came back. */
bool program_run_here(Program *p, const char **ret_what, long *ret_result);

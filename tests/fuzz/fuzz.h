/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A fuzz target is one file fuzz-<name>.c that defines this function, and a row in meson.build. Inputs that are worth
 * keeping go to corpus/<name>/; the suite `unit` runs them all with the ordinary compiler, the suite `fuzz`
 * (`tools/test fuzz`; FUZZ_SECONDS, 60 by default) searches for new ones with clang's libFuzzer. A target is
 * deterministic, leaves nothing behind and aborts where a promise is broken. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

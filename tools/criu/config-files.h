/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "options.h"

/* Options from everywhere, the later ones winning: /etc/criu/default.conf, ~/.criu/default.conf, the file that
 * CRIU_CONFIG_FILE names, the one of --config, the command line. The first two may be missing. NULL with @error set. */
CriuOptions *criu_config_read(int argc, char *const *argv, GError **error);

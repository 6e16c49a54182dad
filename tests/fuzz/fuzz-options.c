/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The drop-in's command line and configuration files. The first byte says which of the two the rest is: odd, the text
 * of a file; even, a command line, one argument a line. */

#include "fuzz.h"
#include "options.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  g_autoptr(CriuOptions) options = criu_options_new();
  g_autoptr(GError) error = NULL;
  if (!size)
    return 0;
  g_autofree char *text = g_strndup((const char *)data + 1, size - 1);
  bool ok;
  if (data[0] & 1) {
    ok = criu_options_parse_config(options, "config", text, &error);
  } else {
    g_auto(GStrv) words = g_strsplit(text, "\n", -1);
    ok = criu_options_parse_args(options, (int)g_strv_length(words), words, &error);
  }
  if (ok != (error == NULL))
    abort();
  if (!ok)
    return 0;
  g_autoptr(GError) unfit = NULL;
  if (criu_options_check(options, &unfit) != (unfit == NULL))
    abort();
  g_free(criu_options_idle(options));
  return 0;
}

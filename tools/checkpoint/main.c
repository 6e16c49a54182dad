// SPDX-License-Identifier: LGPL-2.1-or-later
// checkpoint(1): the bus interface org.criu.Checkpoint for people and scripts.
#include "command-options.h"
#include "context.h"
#include "verbs.h"

#include <locale.h>

static const Verb verbs[] = {
    {"dump", "PID [NAME]", "write an application to disk and end it", 1, 2, verb_dump},
    {"restore", "NAME", "bring it back", 0, 1, verb_restore},
    {"list", "", "the checkpoints there are", 0, 0, verb_list},
    {"show", "NAME", "what is in one: tree, mappings, open files", 1, 1, verb_show},
    {"explain", "PID", "what would block a dump, and its cure", 1, 1, verb_explain},
    {"remove", "NAME…", "delete checkpoints", 1, 1000, verb_remove},
    {"jobs", "", "what is going on", 0, 0, verb_jobs},
    {"monitor", "", "watch jobs until Ctrl-C", 0, 0, verb_monitor},
    {"plugins", "", "the plugins of this system", 0, 0, verb_plugins},
    {"check", "", "whether this system can do it", 0, 0, verb_check},
    {NULL, NULL, NULL, 0, 0, NULL},
};

int main(int argc, char **argv) {
  g_auto(Options) options = {};
  g_auto(Context) context = {};
  const Verb *verb = NULL;
  char **arguments = NULL;

  (void)setlocale(LC_ALL, "");
  int r = options_parse(&options, verbs, argc, argv, &verb, &arguments);
  if (r != OPTIONS_RUN)
    return r;
  r = context_init(&context, &options);
  if (r != 0)
    return r;
  return verb->run(&context, arguments);
}

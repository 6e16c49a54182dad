/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "act.h"
#include "probe.h"
#include <stdio.h>
#include <string.h>

static int list_features(void) {
  size_t n = 0;
  const Probe *probes = probe_table(&n);
  for (size_t i = 0; i < n; i++)
    printf("%s%s", i ? " " : "", probes[i].name);
  printf("\n");
  return 0;
}

static int check_feature(CriuRun *run, const char *name) {
  if (!strcmp(name, "list"))
    return list_features();
  const Probe *probe = probe_find(name);
  if (!probe) {
    criu_log(run->log, LOG_ERR, "check", "Unknown feature %s", name);
    return 1;
  }
  if (probe->test())
    return 0;
  criu_log(run->log, LOG_WARNING, "check", "The kernel does not have %s: %s", name, probe->what);
  return 1;
}

int act_check(CriuRun *run) {
  const CriuOptions *options = run->options;
  bool everything = options->check_all || options->check_extra || options->check_experimental;
  size_t n = 0, lacking_required = 0, lacking_optional = 0;
  const Probe *probes = probe_table(&n);
  if (options->feature)
    return check_feature(run, options->feature);
  for (size_t i = 0; i < n; i++) {
    if ((!probes[i].required && !everything) || probes[i].test())
      continue;
    criu_log(run->log, probes[i].required ? LOG_ERR : LOG_WARNING, "check",
        "The kernel, or a privilege, is missing for %s: %s", probes[i].name, probes[i].what);
    lacking_required += probes[i].required;
    lacking_optional += !probes[i].required;
  }
  if (lacking_required)
    printf("Does not look good.\n");
  else if (lacking_optional)
    printf("Looks good but some kernel features are missing\n"
           "which, depending on your process tree, may cause\n"
           "dump or restore failure.\n");
  else
    printf("Looks good.\n");
  return lacking_required || lacking_optional ? 1 : 0;
}

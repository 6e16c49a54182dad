/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "external-dump.h"

struct ExternalStage {
  Job *job;
  Collector *collector;
};

/* @ret_claim stays EXTERNAL_NOBODY where no rule speaks about the object. */
static bool ask_policies(ExternalStage *s, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  return true;
}

/* The same for plugins. Not called for optional objects, unless a rule says action=plugin. */
static bool ask_plugins(ExternalStage *s, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  return true;
}

static bool stage_ask(void *data, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  ExternalStage *s = data;
  if (!ask_policies(s, o, ret_claim, error))
    return false;
  bool wanted = ret_claim->action == EXTERNAL_PLUGIN || (ret_claim->action == EXTERNAL_NOBODY && !o->optional);
  return !wanted || ask_plugins(s, o, ret_claim, error);
}

ExternalStage *external_stage_new(Job *job, Collector *collector, GError **error) {
  ExternalStage *s = g_new0(ExternalStage, 1);
  s->job = job;
  s->collector = collector;
  collector_set_external(collector, stage_ask, s);
  return s;
}

void external_stage_free(ExternalStage *s) {
  g_free(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The order at a restore: a descriptor that the caller gives for the object; the job's rules; what checkpoint.img says;
 * and for the images of other programs, which say only that a peer is external, to connect again. */

#include "external-restore.h"
#include "outside-ends.h"
#include "rules.h"
#include <fcntl.h>

struct ExternalReturn {
  Job *job;
  Restorer *restorer;
  Rules *rules;
  PluginReturn *plugins; /* borrowed */
  const char *validation; /* the option file_validation, or NULL */
};

/* The keys that a descriptor for the object may have been given by, most exact first. */
static char *default_key(const ExternalObject *o) {
  if (o->kind == EXTERNAL_UNIX || o->kind == EXTERNAL_PIPE)
    return g_strdup_printf("%s:[%u]", o->kind == EXTERNAL_PIPE ? "pipe" : "socket", o->sock.ino);
  return g_strdup(o->path && o->path[0] == '/' ? o->path + 1 : o->path ? o->path : "");
}

static bool is_given(const ExternalReturn *x, const ExternalObject *o) {
  if (!job_inherits(x->job))
    return false;
  g_autofree char *key = default_key(o);
  return job_inherited(x->job, key) >= 0;
}

static int take_inherited(const ExternalReturn *x, const char *key) {
  int fd = job_inherited(x->job, key);
  return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool inherit(ExternalReturn *x, const ExternalObject *o, ExternalAnswer *ret_answer, GError **error) {
  g_autofree char *key = ret_answer->value && !is_given(x, o) ? g_strdup(ret_answer->value) : default_key(o);
  ret_answer->fd = take_inherited(x, key);
  return ret_answer->fd >= 0 || engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
                                    "The descriptor %s is to be inherited, but none was given under that name "
                                    "(--inherit-fd fd[N]:%s)", key, key);
}

static bool follow(const ExternalObject *o, const Rule *rule, ExternalAnswer *ret_answer, GError **error) {
  ret_answer->action = rule->action;
  ret_answer->value = g_strdup(rule->value);
  ret_answer->plugin = rule_plugin(rule, &ret_answer->value);
  ret_answer->only = ret_answer->plugin;
  if (rule->send)
    ret_answer->send = rule_expand_send(rule, o);
  g_autofree char *text = rule_text(rule);
  return rule->action != EXTERNAL_FAIL || engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "%s (%s: %s)",
                                              rule->reason ? rule->reason : "A rule forbids to restore it", rule->source,
                                              text);
}

static bool follow_record(const CkptExternal *record, ExternalAnswer *ret_answer, GError **error) {
  ret_answer->action = external_action_of(record->action);
  ret_answer->value = g_strdup(record->value);
  ret_answer->plugin = g_strdup(record->plugin ? record->plugin : rule_plugin_of(ret_answer->action));
  if (record->has_send)
    ret_answer->send = g_bytes_new(record->send.data, record->send.len);
  return ret_answer->action || engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
                                   "checkpoint.img: file id %u asks for the action %s, which this version does not know",
                                   record->file_id, record->action);
}

/* What to compare of a file: a rule of the job, the option file_validation, the rule of the dump. */
static bool find_checks(const ExternalReturn *x, const ExternalObject *o, const CkptExternal *record,
    ExternalAnswer *ret_answer, GError **error) {
  const Rule *rule = rules_find_checks(x->rules, o);
  const char *text = x->validation ? x->validation : record && record->file ? record->file->checks : NULL;
  ret_answer->if_kept = !rule && x->validation;
  ret_answer->has_checks = rule || text;
  if (rule)
    ret_answer->checks = rule->checks;
  return rule || !text || external_checks_parse(text, &ret_answer->checks) ||
         engine_fail(error, x->validation ? ENGINE_ERROR_CODE__INVALID_ARGS : ENGINE_ERROR_CODE__IMAGE_INVALID,
             "%.40s does not say what to compare of files", text);
}

bool external_return_converse(ExternalReturn *x, GError **error) {
  return plugin_return_connected(x->plugins, error);
}

/* @ret_answer stays EXTERNAL_NOBODY where nobody speaks about the object. */
static bool ask_policies(ExternalReturn *x, const ExternalObject *o, const CkptExternal *record,
    ExternalAnswer *ret_answer, GError **error) {
  const Rule *rule = rules_find(x->rules, o);
  bool ok = true;
  if (is_given(x, o))
    ret_answer->action = EXTERNAL_INHERIT;
  else if (rule)
    ok = follow(o, rule, ret_answer, error);
  else if (record)
    ok = follow_record(record, ret_answer, error);
  else if (o->kind == EXTERNAL_UNIX && o->sock.peer_name_size)
    ret_answer->action = EXTERNAL_RECONNECT;
  if (ok && (o->kind == EXTERNAL_FILE || o->kind == EXTERNAL_DEVICE))
    ok = find_checks(x, o, record, ret_answer, error);
  if (ok && ret_answer->action == EXTERNAL_INHERIT)
    ok = inherit(x, o, ret_answer, error);
  if (ok && ret_answer->action == EXTERNAL_RECONNECT && ret_answer->value && !ret_answer->plugin) {
    ret_answer->address = rule_address_bytes(ret_answer->value);
    ok = ret_answer->address || engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
                                    "checkpoint.img: file id %u: %.120s is no address", o->file_id, ret_answer->value);
  }
  return ok;
}

static bool return_resolve(void *data, const ExternalObject *o, const CkptExternal *record,
    ExternalAnswer *ret_answer, GError **error) {
  ExternalReturn *x = data;
  if (!ask_policies(x, o, record, ret_answer, error))
    return false;
  bool plugin = ret_answer->plugin || ret_answer->action == EXTERNAL_PLUGIN ||
                (ret_answer->action == EXTERNAL_NOBODY && !o->optional);
  if (plugin && x->plugins && !plugin_return_ask(x->plugins, o, ret_answer, error))
    return false;
  if (ret_answer->action != EXTERNAL_NOBODY && !plugin && !plugin_return_is_preparing(x->plugins))
    job_object(x->job, NULL, external_kind_name(o->kind), o->file_id,
        external_action_name(ret_answer->action), ret_answer->value);
  return true;
}

void external_return_set_plugins(ExternalReturn *x, PluginReturn *plugins) {
  x->plugins = plugins;
}

ExternalReturn *external_return_new(Job *job, Restorer *restorer, GError **error) {
  ExternalReturn *x = g_new0(ExternalReturn, 1);
  const EngineOptions *options = job_options(job);
  x->job = job;
  x->restorer = restorer;
  x->rules = rules_new();
  x->validation = options->file_validation && *options->file_validation ? options->file_validation : NULL;
  for (size_t i = 0; i < options->n_external; i++)
    if (!outside_end_is(options->external[i]) && !rules_add(x->rules, options->external[i], "option external", error)) {
      external_return_free(x);
      return NULL;
    }
  restorer_set_external(
      restorer, return_resolve, x, rules_size(x->rules) || x->validation || job_inherits(job));
  return x;
}

void external_return_free(ExternalReturn *x) {
  if (!x)
    return;
  rules_free(x->rules);
  g_free(x);
}

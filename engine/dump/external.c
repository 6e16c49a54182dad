/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Policies come first: the job's rules in their order, its option ext-unix-sk, the rules of the machine; then plugins; and
 * last what needs neither: a datagram socket has no connection to lose, so it is connected to its address again. A rule
 * that cannot be followed is a blocker of its own, which names the rule; it never falls through to the next. */

#include "external-dump.h"
#include "outside-ends.h"
#include "plugin-stage.h"
#include "rules.h"
#include <sys/socket.h>

struct ExternalStage {
  Job *job;
  Rules *own;         /* the job's */
  Rules *machine;     /* those of the configuration directories */
  PluginSet *plugins; /* borrowed; NULL: there are none */
  PluginHelp help;
};

static void refuse(ExternalClaim *claim, const char *cure, const char *format, ...) G_GNUC_PRINTF(3, 4);
static void refuse(ExternalClaim *claim, const char *cure, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_free(claim->reason);
  g_free(claim->cure);
  claim->action = EXTERNAL_FAIL;
  claim->reason = g_strdup_vprintf(format, ap);
  claim->cure = g_strdup(cure);
  va_end(ap);
}

/* --- what a rule needs to be followed --- */

static void check_reconnect(const ExternalObject *o, const Rule *rule, ExternalClaim *claim) {
  bool stream = o->sock.type != SOCK_DGRAM;
  const guint8 *name = o->sock.peer_name;
  if (!claim->value && !o->sock.peer_name_size)
    refuse(claim, "give one with action=reconnect:ADDRESS, or take action=close",
        "%s, but its peer has no address to connect to (%s)", o->reason, claim->rule);
  else if (!claim->value && name[0] != '/' && name[0] != '\0')
    refuse(claim, "give an absolute path with action=reconnect:ADDRESS",
        "%s, but its peer's address is a relative path (%s)", o->reason, claim->rule);
  else if (stream && o->sock.unread && !(rule && rule->drop_unread))
    refuse(claim, "try again in a moment, or accept the loss with unread=drop",
        "%s, and %u bytes from there have not been read, which a new connection would not bring (%s)", o->reason,
        o->sock.unread, claim->rule);
}

static void follow(const ExternalObject *o, const Rule *rule, ExternalClaim *claim) {
  g_autofree char *text = rule_text(rule);
  claim->action = rule->action;
  claim->value = g_strdup(rule->value);
  claim->rule = g_strdup_printf("%s: %s", rule->source, text);
  if (rule->action == EXTERNAL_FAIL)
    refuse(claim, rule->cure ? rule->cure : o->cure, "%s (%s)", rule->reason ? rule->reason : o->reason, rule->source);
  else if (rule->action == EXTERNAL_RECONNECT)
    check_reconnect(o, rule, claim);
  claim->has_checks = rule->has_checks;
  claim->checks = rule->checks;
  if (rule->send)
    claim->send = rule_expand_send(rule, o);
  if (claim->action == rule->action)
    claim->plugin = rule_plugin(rule, &claim->value);
}

static void follow_default(const ExternalObject *o, const char *rule, ExternalClaim *claim) {
  claim->action = EXTERNAL_RECONNECT;
  claim->rule = g_strdup(rule);
  check_reconnect(o, NULL, claim);
}

/* A rule that only says what must not change: the file is opened again, as without it. One that cannot be has other
 * needs. */
static void follow_checks(ExternalStage *s, const ExternalObject *o, ExternalClaim *claim) {
  const Rule *rule = rules_find_checks(s->own, o);
  if (!rule)
    rule = rules_find_checks(s->machine, o);
  if (!rule || !o->optional)
    return;
  follow(o, rule, claim);
  claim->action = EXTERNAL_REOPEN;
}

/* @ret_claim stays EXTERNAL_NOBODY where no rule speaks about the object. */
static bool ask_policies(ExternalStage *s, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  bool named = o->kind == EXTERNAL_UNIX && o->sock.peer_name_size > 0;
  const Rule *rule = rules_find(s->own, o);
  bool option = !rule && named && job_options(s->job)->ext_unix_sk;
  if (!rule && !option)
    rule = rules_find(s->machine, o);
  if (!rule && o->kind == EXTERNAL_FILE)
    follow_checks(s, o, ret_claim);
  else if (rule)
    follow(o, rule, ret_claim);
  else if (option)
    follow_default(o, "option ext-unix-sk", ret_claim);
  return true;
}

/* When no rule and no plugin has said anything. */
static void ask_built_in(const ExternalObject *o, ExternalClaim *claim) {
  if (o->kind == EXTERNAL_UNIX && o->sock.peer_name_size && o->sock.type == SOCK_DGRAM)
    follow_default(o, "built in: datagram sockets are connected to their address again", claim);
}

/* --- the stage --- */

static void tell(ExternalStage *s, const ExternalObject *o, const ExternalClaim *claim) {
  if (claim->action == EXTERNAL_NOBODY || claim->action == EXTERNAL_FAIL)
    return;
  const char *action = external_action_name(claim->action);
  g_autofree char *object = g_strdup_printf("pid %d (%s)%s %s", (int)o->pid, o->comm, o->fd < 0 ? "" : " fd", o->what);
  if (o->fd >= 0) {
    g_free(object);
    object = g_strdup_printf("pid %d (%s) fd %d: %s", (int)o->pid, o->comm, o->fd, o->what);
  }
  g_autofree char *what = claim->value ? g_strdup_printf("%s:%s", action, claim->value) : g_strdup(action);
  job_note(s->job, external_kind_name(o->kind), o->pid, o->fd, object, what, claim->rule ? claim->rule : claim->plugin);
  if (claim->action != EXTERNAL_PLUGIN) /* its callback was told already */
    job_object(s->job, claim->plugin, external_kind_name(o->kind), o->file_id, action, claim->rule);
}

static bool goes_to_plugins(ExternalAction action) {
  return action == EXTERNAL_PLUGIN || action == EXTERNAL_DBUS || action == EXTERNAL_EMBED;
}

/* Plugins are asked about what the tree cannot do without, and about whatever a rule sends to them; then ret_claim->plugin may
 * name one. Whoever takes it sets action, plugin and rule. */
static bool ask_plugins(ExternalStage *s, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  bool told = goes_to_plugins(ret_claim->action);
  g_autofree char *rule = g_strdup(ret_claim->rule), *plugin = g_strdup(ret_claim->plugin);
  if (!plugin_stage_ask(s->plugins, &s->help, o, ret_claim, error))
    return false;
  if (told && ret_claim->action == EXTERNAL_NOBODY)
    refuse(ret_claim, "install the plugin, or change the rule", "no plugin %s%stook it (%s)", plugin ? plugin : "",
        plugin ? " " : "", rule);
  if (told && ret_claim->action == EXTERNAL_CLOSE)
    job_log(s->job, 4, "pid %d (%s) fd %d: %s", (int)o->pid, o->comm, o->fd, ret_claim->rule);
  return true;
}

static bool stage_ask(void *data, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  ExternalStage *s = data;
  if (!ask_policies(s, o, ret_claim, error))
    return false;
  bool nobody = ret_claim->action == EXTERNAL_NOBODY && !o->optional;
  if ((nobody || goes_to_plugins(ret_claim->action)) && !ask_plugins(s, o, ret_claim, error))
    return false;
  if (ret_claim->action == EXTERNAL_NOBODY)
    ask_built_in(o, ret_claim);
  tell(s, o, ret_claim);
  return true;
}

static bool read_rules(ExternalStage *s, GError **error) {
  const EngineOptions *options = job_options(s->job);
  for (size_t i = 0; i < options->n_external; i++)
    if (!outside_end_is(options->external[i]) && !rules_add(s->own, options->external[i], "option external", error))
      return false;
  return rules_add_directories(s->machine, rules_directories(), error);
}

ExternalStage *external_stage_new(Job *job, Collector *collector, GError **error) {
  ExternalStage *s = g_new0(ExternalStage, 1);
  s->job = job;
  s->help.collector = collector;
  s->own = rules_new();
  s->machine = rules_new();
  if (!read_rules(s, error)) {
    external_stage_free(s);
    return NULL;
  }
  collector_set_external(
      collector, stage_ask, s, rules_speak_of(s->own, EXTERNAL_FILE) || rules_speak_of(s->machine, EXTERNAL_FILE));
  return s;
}

void external_stage_set_plugins(ExternalStage *s, PluginSet *plugins) {
  s->plugins = plugins;
  plugin_stage_help(plugins, &s->help);
}

void external_stage_free(ExternalStage *s) {
  if (!s)
    return;
  rules_free(s->own);
  rules_free(s->machine);
  g_free(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Policies come first: the job's rules in their order, its option ext-unix-sk, the rules of the machine; then plugins; and
 * last what needs neither: a datagram socket has no connection to lose, so it is connected to its address again. A rule
 * that cannot be followed is a blocker of its own, which names the rule; it never falls through to the next. */

#include "bus-client.h"
#include "external-dump.h"
#include "rules.h"
#include <sys/socket.h>
#include <sys/stat.h>
#include "plugin-stage.h"

/* The tree stands still while buses are asked; all of them together get no more than this. */
#define BUSES_USEC (10 * G_USEC_PER_SEC)

struct ExternalStage {
  Job *job;
  Collector *collector;
  Rules *own;     /* the job's */
  Rules *machine; /* those of the configuration directories */
  gint64 bus_usec; /* spent with buses so far */
  PluginSet *plugins; /* borrowed; NULL: there are none */
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

/* What cannot be learned about a connection cannot be told on another one: then it is closed, and the client does what it
 * does when the bus goes away. */
static void ask_bus(ExternalStage *s, const ExternalObject *o, ExternalClaim *claim) {
  g_autofree char *why = NULL;
  gint64 started = g_get_monotonic_time();
  if (s->bus_usec > BUSES_USEC)
    why = g_strdup("buses have kept the application waiting for too long already");
  else if (o->sock.type == SOCK_STREAM && o->sock.peer_name_size)
    claim->bus = bus_client_inspect(s->collector, o, &why);
  s->bus_usec += g_get_monotonic_time() - started;
  if (claim->bus)
    return;
  g_autofree char *rule = g_steal_pointer(&claim->rule);
  g_clear_pointer(&claim->value, g_free);
  claim->action = EXTERNAL_CLOSE;
  claim->rule = g_strdup_printf("%s; closed, since %s", rule, why ? why : "it is no connection to a bus");
  job_log(s->job, 4, "pid %d (%s) fd %d: %s", (int)o->pid, o->comm, o->fd, claim->rule);
}

static void check_embed(const ExternalObject *o, ExternalClaim *claim) {
  if (!S_ISREG(o->st.st_mode))
    refuse(claim, "take action=reopen or action=remap:PATH", "only regular files can be embedded (%s)", claim->rule);
}

static void follow(ExternalStage *s, const ExternalObject *o, const Rule *rule, ExternalClaim *claim) {
  g_autofree char *text = rule_text(rule);
  claim->action = rule->action;
  claim->value = g_strdup(rule->value);
  claim->rule = g_strdup_printf("%s: %s", rule->source, text);
  if (rule->action == EXTERNAL_FAIL)
    refuse(claim, rule->cure ? rule->cure : o->cure, "%s (%s)", rule->reason ? rule->reason : o->reason, rule->source);
  else if (rule->action == EXTERNAL_RECONNECT)
    check_reconnect(o, rule, claim);
  else if (rule->action == EXTERNAL_DBUS)
    ask_bus(s, o, claim);
  else if (rule->action == EXTERNAL_EMBED)
    check_embed(o, claim);
  claim->has_checks = rule->has_checks;
  claim->checks = rule->checks;
  if (rule->send)
    claim->send = rule_expand_send(rule, o);
  if (rule->action == EXTERNAL_PLUGIN)
    claim->plugin = g_steal_pointer(&claim->value);
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
  follow(s, o, rule, claim);
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
    follow(s, o, rule, ret_claim);
  else if (option)
    follow_default(o, "option ext-unix-sk", ret_claim);
  return true;
}

/* When no rule and no plugin has said anything. */
static void ask_built_in(const ExternalObject *o, ExternalClaim *claim) {
  if (o->kind == EXTERNAL_UNIX && o->sock.peer_name_size && o->sock.type == SOCK_DGRAM)
    follow_default(o, "built in: datagram sockets are connected to their address again", claim);
}

/* The same for plugins. Not called for optional objects, unless a rule says action=plugin; then ret_claim->plugin may
 * name one. Whoever takes it sets action, plugin and rule. */
static bool ask_plugins(ExternalStage *s, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  return plugin_stage_ask(s->plugins, o, ret_claim, error);
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

static bool stage_ask(void *data, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  ExternalStage *s = data;
  if (!ask_policies(s, o, ret_claim, error))
    return false;
  bool wanted = ret_claim->action == EXTERNAL_PLUGIN || (ret_claim->action == EXTERNAL_NOBODY && !o->optional);
  if (wanted) {
    bool told = ret_claim->action == EXTERNAL_PLUGIN;
    g_autofree char *rule = g_strdup(ret_claim->rule), *plugin = g_strdup(ret_claim->plugin);
    ret_claim->action = EXTERNAL_NOBODY;
    if (!ask_plugins(s, o, ret_claim, error))
      return false;
    if (told && ret_claim->action == EXTERNAL_NOBODY)
      refuse(ret_claim, "install the plugin, or change the rule", "no plugin %s%stook it (%s)", plugin ? plugin : "",
          plugin ? " " : "", rule);
  }
  if (ret_claim->action == EXTERNAL_NOBODY)
    ask_built_in(o, ret_claim);
  tell(s, o, ret_claim);
  return true;
}

static bool read_rules(ExternalStage *s, GError **error) {
  const EngineOptions *options = job_options(s->job);
  for (size_t i = 0; i < options->n_external; i++)
    if (!rules_add(s->own, options->external[i], "option external", error))
      return false;
  return rules_add_directories(s->machine, rules_directories(), error);
}

ExternalStage *external_stage_new(Job *job, Collector *collector, GError **error) {
  ExternalStage *s = g_new0(ExternalStage, 1);
  s->job = job;
  s->collector = collector;
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
}

void external_stage_free(ExternalStage *s) {
  if (!s)
    return;
  rules_free(s->own);
  rules_free(s->machine);
  g_free(s);
}

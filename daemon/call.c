/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Authorization, in one place. The order matters:
 *   1. the caller is who the bus says (caller.c); not to know is to refuse;
 *   2. the member has a row in the access table, or nobody gets it;
 *   3. the arguments are read completely, and a target is pinned by its pidfd;
 *   4. polkit is asked about exactly these, which do not change any more;
 *   5. the handler looks at the target again (it may have become somebody else's by an
 *      execve while somebody typed a password), and the engine at the frozen tree. */
#include "call.h"

#include <errno.h>
#include <unistd.h>

#include "daemon-error.h"
#include "sd-auto.h"

static void call_ask(Call *call);

void call_free(Call *call) {
  if (!call)
    return;
  polkit_pending_free(call->question);
  (void)sd_bus_track_unref(call->track);
  (void)sd_bus_message_unref(call->message);
  caller_free(call->caller);
  job_options_clear(&call->options);
  target_free(call->target);
  if (call->fd >= 0)
    (void)close(call->fd);
  g_free(call->name);
  g_free(call);
}

void call_require(Call *call, const char *action) {
  g_assert(call->n_actions < G_N_ELEMENTS(call->pending_actions));
  if (call->caller->uid != 0)
    call->pending_actions[call->n_actions++] = action;
}

/* Ends the call, whose handler has replied or kept the message if @error is NULL. */
static void call_end(Call *call, GError *error) {
  if (error)
    (void)daemon_error_reply(call->message, error);
  g_clear_error(&error);
  if (!g_hash_table_remove(call->manager->calls, call))
    call_free(call);
}

static bool check_open(const Manager *manager, GError **error) {
  if (manager->shutting_down)
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__SHUTTING_DOWN, "The service is being stopped");
  return !manager->shutting_down;
}

void call_refuse_all(Manager *manager) {
  g_autoptr(GList) calls = g_hash_table_get_keys(manager->calls);

  for (GList *i = calls; i; i = i->next)
    call_end(i->data, g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__SHUTTING_DOWN, "The service is being stopped"));
}

static void call_proceed(Call *call) {
  GError *error = NULL;

  if (!call->handler->proceed(call, &error))
    g_assert(error);
  call_end(call, error);
}

static GError *refusal(const Call *call, PolkitAnswer answer, const char *why) {
  const char *action = call->pending_actions[call->next_action];
  bool options = g_str_equal(action, ACTION_PRIVILEGED_OPTIONS);
  int denied = options ? (int)ENGINE_ERROR_CODE__OPTION_NOT_PERMITTED : (int)ENGINE_ERROR_CODE__ACCESS_DENIED;
  g_autofree char *option = options ? g_strdup_printf("Option '%s': ", call->options.dangerous) : g_strdup("");
  bool interactive = sd_bus_message_get_allow_interactive_authorization(call->message) > 0;

  if (answer == POLKIT_UNAVAILABLE)
    return g_error_new(
        DAEMON_ERROR, denied, "%snot authorized for %s: polkit cannot be asked: %s", option, action, why);
  if (answer == POLKIT_CHALLENGE && !interactive)
    return g_error_new(DAEMON_ERROR, DAEMON_ERROR_INTERACTION_REQUIRED,
        "%s%s needs somebody to authenticate, and the call does not allow to ask (interactive authorization)", option,
        action);
  return g_error_new(DAEMON_ERROR, denied, "%suid %u is not authorized for %s", option, call->caller->uid, action);
}

static void on_answer(PolkitAnswer answer, const char *why, void *userdata) {
  Call *call = userdata;

  g_clear_pointer(&call->question, polkit_pending_free);
  if (answer != POLKIT_GRANTED)
    call_end(call, refusal(call, answer, why));
  else if (++call->next_action < call->n_actions)
    call_ask(call);
  else
    call_proceed(call);
}

/* Nobody waits for the answer any more: the question is withdrawn with the call. */
static int on_caller_gone(sd_bus_track *track, void *userdata) {
  call_end(userdata, NULL);
  return 1;
}

/* Documented in org.criu.Checkpoint(5). Never a command line: it would be the
 * attacker's text in an administrator's prompt. */
static void call_ask(Call *call) {
  g_autofree char *pid = g_strdup_printf("%d", call->target ? (int)call->target->pid : 0);
  g_autofree char *uid = g_strdup_printf("%u", call->target ? call->target->uids[0] : call->owner);
  PolkitDetail details[] = {{"method", call->handler->member}, {"uid", uid}, {call->target ? "pid" : "name", NULL},
      {NULL, NULL}, {NULL, NULL}};
  const PolkitQuestion question = {
      .subject = call->caller->name,
      .action = call->pending_actions[call->next_action],
      .details = details,
      .interactive = sd_bus_message_get_allow_interactive_authorization(call->message) > 0,
  };
  int r;

  details[2].value = call->target ? pid : call->name ? call->name : "";
  if (call->target && call->name)
    details[3] = (PolkitDetail){"name", call->name};
  r = polkit_ask(call->manager->bus, &question, on_answer, call, &call->question);
  if (r < 0)
    call_end(call, refusal(call, POLKIT_UNAVAILABLE, g_strerror(-r)));
}

/* Questions cost: an agent's dialog, memory here. They are counted like jobs. */
static bool check_questions(const Call *call, GError **error) {
  const Limits *limits = &call->manager->limits;
  GHashTableIter iter;
  gpointer key;
  unsigned mine = 0;

  g_hash_table_iter_init(&iter, call->manager->calls);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    mine += ((const Call *)key)->caller->uid == call->caller->uid ? 1 : 0;
  if (mine < limits->jobs_per_user && g_hash_table_size(call->manager->calls) < limits->jobs_total)
    return true;
  g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED, "Too many calls wait for their authorization");
  return false;
}

static bool call_prepare(Call *call, GError **error) {
  const char *interface = call->handler->interface;

  call->row = access_find(interface, call->handler->member);
  if (!call->row) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED, "%s.%s is open to nobody", interface,
        call->handler->member);
    return false;
  }
  if (!check_open(call->manager, error))
    return false;
  call->caller = caller_new(call->message, error);
  if (!call->caller)
    return false;
  call->owner = call->caller->uid;
  if (!call->handler->parse(call, error))
    return false;
  if (call->options.dangerous)
    call_require(call, ACTION_PRIVILEGED_OPTIONS);
  if (call->any)
    call_require(call, call->row->any_action);
  else if (call->row->own_action)
    call_require(call, call->row->own_action);
  return call->n_actions == 0 || check_questions(call, error);
}

int call_begin(Manager *manager, sd_bus_message *message, const CallHandler *handler) {
  g_autoptr(Call) call = g_new0(Call, 1);
  g_autoptr(GError) error = NULL;
  Call *waiting;
  int r;

  call->manager = manager;
  call->message = sd_bus_message_ref(message);
  call->handler = handler;
  call->fd = -EBADF;
  if (!call_prepare(call, &error)) {
    g_assert(error);
    return daemon_error_reply(message, error);
  }
  if (call->n_actions == 0) {
    call_proceed(g_steal_pointer(&call));
    return 1;
  }
  r = sd_bus_track_new(manager->bus, &call->track, on_caller_gone, call);
  if (r >= 0)
    r = sd_bus_track_add_name(call->track, call->caller->name);
  if (r < 0)
    return r;
  waiting = g_steal_pointer(&call);
  g_hash_table_add(manager->calls, waiting);
  call_ask(waiting);
  return 1;
}

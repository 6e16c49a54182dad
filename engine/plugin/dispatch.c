/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The order of questions, and what answers mean. */

#include "plugin-private.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_IDS (1ull << 32) /* above those of files, which no old door sees */

/* --- telling --- */

void plugin_log(const Plugin *p, int priority, const char *text) {
  job_log(p->set->job, priority, "plugin %s: %s", p->name ? p->name : p->file, text);
}

guint32 plugins_caller(const PluginSet *set) {
  const EngineCaller *caller = job_caller(set->job);
  return caller && caller->uid && !caller->any_target ? caller->uid : CHECKPOINT_CALLER_TRUSTED;
}

const char *plugin_kind_name(guint32 kind) {
  static const char *const names[] = {"unix-socket", "file", "mapping", "memory", "mount", "link"};
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
    if (kind == 1u << i)
      return names[i];
  return "object";
}

static EngineValue value_text(const char *key, const char *text) {
  EngineValue v = ENGINE_VALUE__INIT;
  v.key = (char *)key;
  v.text = (char *)text;
  return v;
}

static EngineValue value_u64(const char *key, guint64 number) {
  EngineValue v = ENGINE_VALUE__INIT;
  v.key = (char *)key;
  v.has_u64 = true;
  v.u64 = number;
  return v;
}

void plugin_report(
    Plugin *p, const char *kind, guint64 id, const char *action, const PluginCall *call, guint64 done, guint64 total) {
  EngineValue values[8], *pointers[8];
  EngineObject event = ENGINE_OBJECT__INIT;
  size_t n = 0;
  const char *callback = call ? p->door->callback(p, call) : NULL;
  const struct checkpoint_object *o = call ? call->object : NULL;
  if (callback)
    values[n++] = value_text("callback", callback);
  if (o ? o->pid > 0 : call && call->pid > 0)
    values[n++] = value_u64("pid", (guint64)(o ? o->pid : call->pid));
  if (o && o->number >= 0)
    values[n++] = value_u64("fd", (guint64)o->number);
  if (o && o->path)
    values[n++] = value_text("path", o->path);
  if (o && o->end)
    values[n++] = value_u64("start", o->start), values[n++] = value_u64("end", o->end);
  if (total)
    values[n++] = value_u64("done", done), values[n++] = value_u64("total", total);
  for (size_t i = 0; i < n; i++)
    pointers[i] = &values[i];
  event.plugin = p->name;
  event.kind = (char *)kind;
  event.id = id;
  event.action = (char *)action;
  event.n_details = n;
  event.details = pointers;
  job_report_object(p->set->job, &event);
}

/* "fd 5 of pid 12 (nc), unix-socket id 7 (/run/x)" */
static char *object_text(const PluginCall *call) {
  const struct checkpoint_object *o = call->object;
  if (!o)
    return call->pid ? g_strdup_printf("pid %d", (int)call->pid) : g_strdup("the job");
  g_autofree char *number = o->number >= 0 ? g_strdup_printf("fd %d of ", o->number) : g_strdup("");
  g_autofree char *range =
      o->end ? g_strdup_printf(" %" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", o->start, o->end) : g_strdup("");
  return g_strdup_printf("%spid %d (%s), %s%s id %" G_GUINT64_FORMAT "%s%s%s", number, o->pid, o->comm ? o->comm : "?",
      plugin_kind_name(o->kind), range, o->id, o->path ? " (" : "", o->path ? o->path : "", o->path ? ")" : "");
}

/* Sets the error of a bad answer; always false. */
static bool answer_fail(const Plugin *p, const PluginCall *call, int answer, GError **error) {
  const char *callback = p->door->callback(p, call);
  g_autofree char *object = object_text(call);
  const char *reason = answer >= -4095 && answer < 0 ? g_strerror(-answer) : "an answer that means nothing";
  const char *more = p->trouble ? p->trouble : call->said.reason;
  bool changed = call->callback == PLUGIN_CALL_RESTORE && answer == -ESTALE;
  if (changed && more)
    return engine_fail(error, ENGINE_ERROR_CODE__FILE_CHANGED, "%s%s%s%s (plugin %s)", more, call->said.cure ? " (" : "",
        call->said.cure ? call->said.cure : "", call->said.cure ? ")" : "", p->name);
  return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s: %s failed for %s: %s (%d)%s%s", p->name,
      callback ? callback : "the callback", object, reason, answer, more ? ": " : "", more ? more : "");
}

static const char *action_name(const PluginCall *call, int answer) {
  static const char *const done[PLUGIN_N_CALLS] = {
      "begun", "ended", "batch-begun", "batch-ended", "dumped", "restored", "memory-dumped", "memory-restored", "told", "connected"};
  static const char *const answers[] = {NULL, "again", "disconnected", "connect", "reopen", "refused"};
  if (answer == -ENOTSUP)
    return "passed";
  if (answer < 0)
    return "failed";
  bool of_object = call->callback == PLUGIN_CALL_RESTORE || call->callback == PLUGIN_CALL_DUMP ||
                   call->callback == PLUGIN_CALL_CONNECTED;
  if (of_object && answer > 0 && (size_t)answer < G_N_ELEMENTS(answers))
    return answers[answer];
  return done[call->callback];
}

static const char *moment_name(enum checkpoint_moment moment) {
  static const char *const names[] = {"?", "pause", "checkpoint", "dumped", "begin", "forked", "resume"};
  return (size_t)moment < G_N_ELEMENTS(names) ? names[moment] : names[0];
}

static void report_call(Plugin *p, const PluginCall *call, int answer) {
  const struct checkpoint_object *o = call->object;
  if (call->callback == PLUGIN_CALL_MOMENT && (answer >= 0 || answer == -ENOTSUP))
    plugin_report(p, "task", (guint64)call->pid, moment_name(call->moment), call, 0, 0);
  else
    plugin_report(p,
        o           ? plugin_kind_name(o->kind)
        : call->pid ? "task"
                    : "plugin",
        o ? o->id : (guint64)call->pid, action_name(call, answer), call, 0, 0);
  if (call->callback != PLUGIN_CALL_MEMORY_DUMP || answer != -ENOTSUP) /* of which there are thousands: as time passes */
    job_tell_progress(p->set->job);
}

/* --- asking --- */

static bool check_new_descriptor(Plugin *p, const PluginCall *call, GError **error) {
  g_autofree char *object = object_text(call);
  if (fcntl(call->fd, F_GETFD) < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s: %s answered with descriptor %d for %s, which is not open", p->name, p->door->callback(p, call),
        call->fd, object);
  if (p->door->in_process && !descriptors_take(p, call->fd))
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s: %s answered with descriptor %d for %s, which is not its own to give (each object needs a new one)",
        p->name, p->door->callback(p, call), call->fd, object);
  (void)fcntl(call->fd, F_SETFD, FD_CLOEXEC);
  return true;
}

/* While pages are verified by another thread, which a restore's end may be, too, descriptors come and go. Mappings are
 * asked about by the thousand. */
static bool is_watched(const Plugin *p, const PluginCall *call) {
  bool restores = p->set->stage == CHECKPOINT_STAGE_RESTORE;
  bool late = call->callback == PLUGIN_CALL_MOMENT || call->callback == PLUGIN_CALL_FINI ||
              call->callback == PLUGIN_CALL_CONNECTED;
  return p->door->in_process && call->callback != PLUGIN_CALL_MEMORY_DUMP && !(restores && late);
}

/* One call; *ret_answer is -ENOTSUP where the plugin has no such callback. false: the plugin broke a rule, or the job
 * is to end. */
static bool ask(Plugin *p, PluginCall *call, int *ret_answer, GError **error) {
  *ret_answer = -ENOTSUP;
  if (!p->door->callback(p, call))
    return true;
  g_autoptr(GArray) before = is_watched(p, call) ? descriptors_now() : NULL;
  bool restores = call->callback == PLUGIN_CALL_RESTORE;
  if (restores)
    call->fd = -1;
  g_clear_pointer(&p->trouble, g_free);
  if (p->door->in_process)
    watchdog_start(p);
  p->call = call;
  *ret_answer = p->door->call(p, call);
  p->call = NULL;
  if (p->door->in_process)
    watchdog_stop();
  report_call(p, call, *ret_answer);
  if (before && !descriptors_compare(p, before, error))
    return false;
  bool link = call->object && call->object->kind == CHECKPOINT_KIND_LINK;
  if (restores && !link && *ret_answer == 0 && !check_new_descriptor(p, call, error))
    return false;
  return call->callback == PLUGIN_CALL_FINI || job_poll(p->set->job, error);
}

static bool is_answer(const Plugin *p, const PluginCall *call, int answer) {
  return answer >= 0 && services_may_answer(p, call, answer);
}

/* For calls that go to every plugin: -ENOTSUP is as good as 0. */
static bool tell_all(PluginSet *set, const PluginCall *call, GError **error) {
  for (guint i = 0; set && i < set->plugins->len; i++) {
    Plugin *p = set->plugins->pdata[i];
    PluginCall mine = *call;
    int answer = 0;
    if (!p->begun)
      continue;
    if (!ask(p, &mine, &answer, error))
      return false;
    if (answer != -ENOTSUP && !is_answer(p, &mine, answer))
      return answer_fail(p, &mine, answer, error);
  }
  return true;
}

bool plugins_moment(PluginSet *set, enum checkpoint_moment moment, pid_t pid, GError **error) {
  const PluginCall call = {.callback = PLUGIN_CALL_MOMENT, .moment = moment, .pid = pid, .fd = -1};
  return tell_all(set, &call, error);
}

bool plugins_begin(PluginSet *set, guint64 n_objects, GError **error) {
  const PluginCall call = {.callback = PLUGIN_CALL_BEGIN, .count = n_objects, .fd = -1};
  if (set) {
    set->n_objects = n_objects;
    set->begun = true;
  }
  return tell_all(set, &call, error);
}

bool plugins_finish(PluginSet *set, GError **error) {
  const PluginCall call = {.callback = PLUGIN_CALL_END, .fd = -1};
  return tell_all(set, &call, error);
}

/* --- one by its name --- */

static Plugin *find_plugin(const PluginSet *set, const char *name) {
  for (guint i = 0; set && name && i < set->plugins->len; i++) {
    Plugin *p = set->plugins->pdata[i];
    if (!strcmp(p->name, name))
      return p;
  }
  return NULL;
}

static bool plugin_begin(Plugin *p, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_INIT, .fd = -1};
  int answer = 0;
  if (p->set->checkpoint)
    records_load(p, p->set->checkpoint);
  call.records = records_of(p, 0);
  if (p->set->stage == CHECKPOINT_STAGE_EXPLAIN && !(p->flags & CHECKPOINT_PLUGIN_EXPLAINS))
    return true;
  if (!ask(p, &call, &answer, error))
    return false;
  if (answer < 0 && p->door->callback(p, &call))
    return answer_fail(p, &call, answer, error);
  p->begun = true;
  return true;
}

/* What comes of images that the caller may have written is made by a plugin that is fit for it, or not at all. */
static bool is_trusted(const PluginSet *set, const Plugin *p, GError **error) {
  return !set->untrusted || p->flags & CHECKPOINT_PLUGIN_UNTRUSTED ||
         engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, "The images ask for more than you may have: the plugin %s",
             p->name);
}

/* Begins where all others are by now. It has missed the moments before. */
static bool begin_late(PluginSet *set, Plugin *p, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_BEGIN, .count = set->n_objects, .fd = -1};
  int answer = 0;
  if (!plugin_begin(p, error))
    return false;
  if (!p->begun || !set->begun)
    return true;
  if (!ask(p, &call, &answer, error))
    return false;
  return answer == -ENOTSUP || answer >= 0 || answer_fail(p, &call, answer, error);
}

/* *ret is NULL where there is none of that name. */
static bool find_or_load(PluginSet *set, const char *name, Plugin **ret, GError **error) {
  GError *failure = NULL;
  *ret = find_plugin(set, name);
  if (*ret)
    return true;
  Plugin *p = directory_load_named(set, name, &failure);
  if (failure)
    g_propagate_error(error, failure);
  if (!p)
    return !failure;
  if (!is_trusted(set, p, error)) {
    plugin_free(p);
    return false;
  }
  g_ptr_array_add(set->plugins, p);
  *ret = p;
  return begin_late(set, p, error);
}

/* --- dump --- */

/* *ret_answer is -ENOTSUP where it has passed. */
static bool offer(Plugin *p, PluginCall *call, int *ret_answer, GError **error) {
  CkptPluginObject *m = p->current = records_object_new(p, call->object);
  bool ok = ask(p, call, ret_answer, error);
  p->current = NULL;
  if (ok && *ret_answer != -ENOTSUP && !is_answer(p, call, *ret_answer))
    ok = answer_fail(p, call, *ret_answer, error);
  if (p->old_answers && *ret_answer > 0)
    *ret_answer = 0;
  bool forgotten = *ret_answer == CHECKPOINT_DISCONNECTED || *ret_answer == CHECKPOINT_REFUSED;
  if (ok && *ret_answer >= 0 && !forgotten)
    g_ptr_array_add(p->taken, m);
  else
    ckpt_plugin_object__free_unpacked(m, NULL);
  return ok;
}

static bool offer_all(PluginSet *set, PluginCallback callback, const struct checkpoint_object *object, const char *only,
    PluginDumped *ret, GError **error) {
  Plugin *named = NULL;
  if (only && set && !find_or_load(set, only, &named, error))
    return false;
  for (guint i = 0; set && i < set->plugins->len; i++) {
    Plugin *p = set->plugins->pdata[i];
    PluginCall call = {.callback = callback, .object = object, .fd = -1};
    int answer = -ENOTSUP;
    if (!p->begun || !(p->kinds & object->kind) || (only ? p != named : p->on_demand))
      continue;
    bool ok = offer(p, &call, &answer, error);
    if (ok && answer >= 0)
      *ret = (PluginDumped){.plugin = p->name, .answer = answer, .said = call.said};
    else
      plugin_said_clear(&call.said);
    if (!ok || answer >= 0)
      return ok;
  }
  return true;
}

bool plugins_dump(
    PluginSet *set, const struct checkpoint_object *object, const char *only, PluginDumped *ret_dumped, GError **error) {
  *ret_dumped = (PluginDumped){0};
  return offer_all(set, PLUGIN_CALL_DUMP, object, only, ret_dumped, error);
}

guint64 plugins_new_id(PluginSet *set) {
  return MEMORY_IDS + set->memory_ids++;
}

bool plugins_dump_memory(
    PluginSet *set, const struct checkpoint_object *object, const char **ret_plugin, GError **error) {
  struct checkpoint_object numbered = *object;
  *ret_plugin = NULL;
  if (!plugins_want(set, CHECKPOINT_KIND_MEMORY))
    return true;
  numbered.id = plugins_new_id(set);
  PluginDumped dumped = {0};
  bool ok = offer_all(set, PLUGIN_CALL_MEMORY_DUMP, &numbered, NULL, &dumped, error);
  plugin_said_clear(&dumped.said);
  *ret_plugin = dumped.plugin;
  return ok;
}

char *plugins_unasked(const PluginSet *set, guint32 kind, const char *only) {
  g_autoptr(GString) names = g_string_new(NULL);
  for (guint i = 0; set && i < set->plugins->len; i++) {
    const Plugin *p = set->plugins->pdata[i];
    bool meant = only ? !strcmp(p->name, only) : !p->on_demand;
    if (!p->begun && meant && p->kinds & kind)
      g_string_append_printf(names, "%s%s", names->len ? ", " : "", p->name);
  }
  return names->len ? g_string_free(g_steal_pointer(&names), FALSE) : NULL;
}

/* --- restore --- */

static bool nobody_restores(const char *plugin, bool only, bool present, const PluginCall *call, GError **error) {
  g_autofree char *object = object_text(call);
  if (plugin && only)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s, which a rule wants to make %s again, %s", plugin,
        object, present ? "has passed" : "is not here: install it in the plugin directory");
  if (plugin && !present)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s, which took %s at the dump, is not here: install it in the plugin directory", plugin, object);
  return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "No plugin makes %s again%s%s%s", object,
      plugin ? ": " : "", plugin ? plugin : "", plugin ? ", which took it at the dump, has passed" : "");
}

static bool check_untrusted(const Plugin *p, const PluginCall *call, int answer, GError **error) {
  bool makes = answer == 0 && call->callback == PLUGIN_CALL_RESTORE;
  return !p->set->untrusted || !makes ||
         engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
             "The images ask for more than you may have: a descriptor that the plugin %s makes", p->name);
}

/* First who took it, then all others. */
static bool ask_for(PluginSet *set, const char *plugin, bool only, PluginCall *call, int *ret_answer, const Plugin **ret_who,
    GError **error) {
  Plugin *first = NULL;
  if (set && plugin && !find_or_load(set, plugin, &first, error))
    return false;
  for (guint i = 0; set && i <= set->plugins->len; i++) {
    Plugin *p = i ? set->plugins->pdata[i - 1] : first;
    if (!p || (i && (only || p == first || p->on_demand)) || !(p->kinds & call->object->kind) || (plugin && !first))
      continue;
    if (!is_trusted(set, p, error))
      return false;
    call->records = records_of(p, call->object->id);
    plugin_said_clear(&call->said);
    if (!ask(p, call, ret_answer, error))
      return false;
    if (*ret_answer == -ENOTSUP)
      continue;
    *ret_who = p;
    return is_answer(p, call, *ret_answer) ? check_untrusted(p, call, *ret_answer, error)
                                           : answer_fail(p, call, *ret_answer, error);
  }
  return nobody_restores(plugin, only, first != NULL, call, error);
}

bool plugins_restore(PluginSet *set, const char *plugin, bool only, const struct checkpoint_object *object,
    PluginRestored *ret_restored, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_RESTORE, .object = object, .fd = -1, .offset = object->offset};
  const Plugin *who = NULL;
  int answer = 0;
  *ret_restored = (PluginRestored){.fd = -1, .offset = object->offset};
  if (!ask_for(set, plugin, only, &call, &answer, &who, error)) {
    plugin_said_clear(&call.said);
    return false;
  }
  ret_restored->again = answer == CHECKPOINT_AGAIN;
  ret_restored->disconnected = answer == CHECKPOINT_DISCONNECTED;
  ret_restored->connect = answer == CHECKPOINT_CONNECT;
  ret_restored->reopen = answer == CHECKPOINT_REOPEN;
  ret_restored->fd = answer ? -1 : call.fd;
  ret_restored->offset = call.offset;
  ret_restored->plugin = who->name;
  ret_restored->said = call.said;
  return true;
}

bool plugins_restore_link(PluginSet *set, const char *plugin, const struct checkpoint_object *object, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_RESTORE, .object = object, .fd = -1};
  Plugin *p = NULL;
  int answer = 0;
  if (!set || !find_or_load(set, plugin, &p, error))
    return !set;
  if (!p)
    return nobody_restores(plugin, false, false, &call, error);
  call.records = records_of(p, object->id);
  bool ok = ask(p, &call, &answer, error) && (answer == 0 || answer == -ENOTSUP || answer_fail(p, &call, answer, error));
  plugin_said_clear(&call.said);
  return ok;
}

bool plugins_connected(PluginSet *set, const char *plugin, const struct checkpoint_object *object, int fd, bool *ret_ok,
    PluginSaid *ret_said, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_CONNECTED, .object = object, .fd = fd};
  Plugin *p = find_plugin(set, plugin);
  int answer = 0;
  *ret_ok = true;
  if (!p)
    return true;
  call.records = records_of(p, object->id);
  bool ok = ask(p, &call, &answer, error);
  if (ok && answer != -ENOTSUP && !is_answer(p, &call, answer))
    ok = answer_fail(p, &call, answer, error);
  *ret_ok = answer != CHECKPOINT_DISCONNECTED;
  *ret_said = call.said;
  return ok;
}

bool plugins_restore_memory(
    PluginSet *set, const char *plugin, const struct checkpoint_object *object, int fd, GError **error) {
  PluginCall call = {.callback = PLUGIN_CALL_MEMORY_RESTORE, .object = object, .fd = fd};
  const Plugin *who = NULL;
  int answer = 0;
  bool ok = ask_for(set, plugin, false, &call, &answer, &who, error);
  plugin_said_clear(&call.said);
  return ok;
}

/* --- beginning and end --- */

guint plugins_count(const PluginSet *set) {
  return set ? set->plugins->len : 0;
}

bool plugins_want(const PluginSet *set, guint32 kind) {
  for (guint i = 0; set && i < set->plugins->len; i++) {
    const Plugin *p = set->plugins->pdata[i];
    if (p->begun && !p->on_demand && p->kinds & kind)
      return true;
  }
  return false;
}

static int failure_errno(const GError *failure) {
  static const struct {
    EngineErrorCode code;
    int err;
  } map[] = {{ENGINE_ERROR_CODE__CANCELLED, ECANCELED}, {ENGINE_ERROR_CODE__TIMED_OUT, ETIMEDOUT},
      {ENGINE_ERROR_CODE__NO_SPACE, ENOSPC}, {ENGINE_ERROR_CODE__NOT_SUPPORTED, EOPNOTSUPP},
      {ENGINE_ERROR_CODE__NO_SUCH_PROCESS, ESRCH}, {ENGINE_ERROR_CODE__PLUGIN_FAILED, EREMOTEIO}};
  for (size_t i = 0; failure && i < G_N_ELEMENTS(map); i++)
    if (map[i].code == engine_error_code(failure))
      return -map[i].err;
  return failure ? -EIO : 0;
}

static void plugin_end(Plugin *p, int result) {
  PluginCall call = {.callback = PLUGIN_CALL_FINI, .result = result, .fd = -1};
  g_autoptr(GError) error = NULL;
  int answer = 0;
  bool begun = p->begun;
  if (begun && !ask(p, &call, &answer, &error))
    plugin_log(p, 3, error->message);
  if (begun && answer < 0 && answer != -ENOTSUP)
    plugin_log(p, 4, p->trouble ? p->trouble : g_strerror(-answer));
  p->begun = false;
  descriptors_close_leaks(p);
}

void plugins_end(PluginSet *set, const GError *failure) {
  if (!set)
    return;
  for (guint i = set->plugins ? set->plugins->len : 0; i > 0; i--)
    plugin_end(set->plugins->pdata[i - 1], failure_errno(failure));
  abi_criu_set_current(NULL);
  g_clear_pointer(&set->plugins, g_ptr_array_unref);
  if (set->images_fd >= 0)
    (void)close(set->images_fd);
  g_free(set);
}

PluginSet *plugins_load(Job *job, enum checkpoint_stage stage, const Checkpoint *checkpoint, GError **error) {
  PluginSet *set = g_new0(PluginSet, 1);
  GError *failure = NULL;
  set->job = job;
  set->stage = stage;
  set->checkpoint = checkpoint;
  set->images_fd = -1;
  set->untrusted = stage == CHECKPOINT_STAGE_RESTORE && job_options(job)->untrusted_images;
  set->plugins = directory_load(set, false, &failure);
  /* Not a directory of the caller's: what root makes there could lead anywhere. */
  bool files = stage != CHECKPOINT_STAGE_EXPLAIN && !job_options(job)->images_as_caller;
  if (files && set->plugins && set->plugins->len && job_images_fd(job) >= 0)
    set->images_fd = fcntl(job_images_fd(job), F_DUPFD_CLOEXEC, 3);
  for (guint i = 0; !failure && i < set->plugins->len; i++)
    (void)plugin_begin(set->plugins->pdata[i], &failure);
  if (!failure)
    return set;
  plugins_end(set, failure);
  g_propagate_error(error, failure);
  return NULL;
}

/* --- listing --- */

static char *kinds_text(guint32 kinds) {
  g_autoptr(GString) text = g_string_new(NULL);
  for (guint32 bit = 1; bit && bit <= kinds; bit <<= 1)
    if (kinds & bit)
      g_string_append_printf(text, "%s%s", text->len ? "," : "", plugin_kind_name(bit));
  return g_string_free(g_steal_pointer(&text), FALSE);
}

static void list_plugin(Job *job, const Plugin *p) {
  EngineValue values[8], *pointers[8];
  EngineRow row = ENGINE_ROW__INIT;
  g_autofree char *kinds = kinds_text(p->kinds);
  g_autofree char *description = p->description ? g_utf8_make_valid(p->description, -1) : NULL;
  size_t n = 0;
  values[n++] = value_text("name", p->name ? p->name : p->file);
  values[n++] = value_text("file", p->file);
  values[n++] = value_text("door", p->door ? p->door->name : "");
  values[n++] = value_text("version", p->version ? p->version : "");
  values[n++] = value_text("description", description ? description : "");
  values[n++] = value_text("kinds", kinds);
  values[n++] = value_text("loaded", p->on_demand ? "on-demand" : "always");
  values[n++] = value_text("error", p->trouble ? p->trouble : "");
  for (size_t i = 0; i < n; i++)
    pointers[i] = &values[i];
  row.table = (char *)"plugins";
  row.n_values = n;
  row.values = pointers;
  job_row(job, &row);
}

bool plugins_list(Job *job, GError **error) {
  PluginSet set = {.job = job, .stage = CHECKPOINT_STAGE_EXPLAIN, .images_fd = -1};
  g_autoptr(GPtrArray) plugins = directory_load(&set, true, error);
  g_autoptr(GPtrArray) named = plugins ? directory_load_on_demand(&set, error) : NULL;
  for (guint i = 0; named && i < plugins->len; i++)
    list_plugin(job, plugins->pdata[i]);
  for (guint i = 0; named && i < named->len; i++)
    list_plugin(job, named->pdata[i]);
  if (named)
    job_result_u64(job, "plugins", plugins->len + named->len);
  return named != NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plugin-stage.h"
#include "file-state.h"
#include "rule.h"
#include "unix-private.h"
#include "unix.h"
#include <errno.h>
#include <sys/socket.h>

static bool pause_tree(PluginSet *set, pid_t pid, GError **error) {
  g_autoptr(GArray) tids = g_array_new(FALSE, FALSE, sizeof(pid_t)),
                    children = g_array_new(FALSE, FALSE, sizeof(pid_t));
  if (!plugins_moment(set, CHECKPOINT_MOMENT_PAUSE, pid, error))
    return false;
  if (!proc_threads(pid, tids, NULL) || !proc_children(pid, tids, children, NULL))
    return true; /* it is gone */
  for (guint i = 0; i < children->len; i++)
    if (!pause_tree(set, g_array_index(children, pid_t, i), error))
      return false;
  return true;
}

bool plugin_stage_pause(PluginSet *set, pid_t root, GError **error) {
  return !plugins_count(set) || pause_tree(set, root, error);
}

bool plugin_stage_tell(PluginSet *set, const FrozenTree *tree, enum checkpoint_moment moment, GError **error) {
  for (guint i = 0; plugins_count(set) && i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && !plugins_moment(set, moment, task->pid, error))
      return false;
  }
  return true;
}

/* --- what plugins may ask --- */

static int help_has_task(void *data, pid_t pid) {
  const PluginHelp *help = data;
  return collector_has_task(help->collector, pid);
}

static int help_connect_as(void *data, int fd, const char *address, uid_t uid, gid_t gid) {
  const PluginHelp *help = data;
  const ExternalObject *o = help->current;
  g_autoptr(GBytes) given = address ? rule_address_bytes(address) : NULL;
  gsize size = o ? o->sock.peer_name_size : 0;
  const guint8 *name = given ? g_bytes_get_data(given, &size) : o ? o->sock.peer_name : NULL;
  return address && !given ? -EINVAL : unix_reach_as(fd, name, size, uid, gid);
}

static bool help_is_address(const char *address) {
  g_autoptr(GBytes) bytes = rule_address_bytes(address);
  return bytes;
}

static int help_content_hash(int fd, guint64 *ret_hash) {
  return file_state_hash(fd, ret_hash, NULL) ? 0 : -EIO;
}

void plugin_stage_help(PluginSet *set, PluginHelp *help) {
  const PluginServices services = {.data = help,
      .has_task = help_has_task,
      .connect_as = help_connect_as,
      .is_address = help_is_address,
      .content_hash = help_content_hash};
  plugins_set_services(set, &services);
}

/* --- objects --- */

static guint32 kind_of(ExternalKind kind) {
  switch (kind) {
  case EXTERNAL_UNIX:
    return CHECKPOINT_KIND_UNIX_SOCKET;
  case EXTERNAL_MAPPING:
    return CHECKPOINT_KIND_MAPPING;
  case EXTERNAL_FILE:
  case EXTERNAL_DEVICE:
  case EXTERNAL_OTHER:
  default:
    return CHECKPOINT_KIND_FILE;
  }
}

/* Texts are borrowed, but for the two names. */
static struct checkpoint_object object_of(const ExternalObject *o, char **ret_name, char **ret_peer_name) {
  *ret_name = o->sock.name_size ? unix_name_text(o->sock.name, o->sock.name_size) : NULL;
  *ret_peer_name = o->sock.peer_name_size ? unix_name_text(o->sock.peer_name, o->sock.peer_name_size) : NULL;
  return (struct checkpoint_object){
      .size = sizeof(struct checkpoint_object),
      .kind = kind_of(o->kind),
      .id = o->file_id,
      .pid = o->pid,
      .number = o->fd,
      .comm = o->comm,
      .fd = o->local,
      .flags = o->flags,
      .mode = o->st.st_mode,
      .dev = o->st.st_dev,
      .ino = o->st.st_ino,
      .rdev = o->st.st_rdev,
      .path = o->path,
      .socket_type = o->sock.type,
      .socket_state = o->sock.state,
      .socket_name = *ret_name,
      .peer_ino = o->sock.peer_ino,
      .peer_pid = o->sock.peer_pid,
      .peer_uid = o->sock.peer_known ? o->sock.peer_uid : G_MAXUINT32,
      .peer_gid = o->sock.peer_known ? o->sock.peer_gid : G_MAXUINT32,
      .unread = o->sock.unread,
      .peer_comm = o->sock.peer_comm,
      .peer_name = *ret_peer_name,
      .start = o->map.start,
      .end = o->map.end,
      .offset = o->map.offset,
      .protection = o->map.prot,
      .shared = o->map.shared,
  };
}

/* What the plugin's answer makes of the rule that sent the object to it. */
static void follow_answer(const PluginDumped *d, ExternalClaim *claim) {
  bool dbus = claim->action == EXTERNAL_DBUS;
  switch (d->answer) {
  case CHECKPOINT_CONNECT:
    claim->action = dbus ? EXTERNAL_DBUS : EXTERNAL_RECONNECT;
    break;
  case CHECKPOINT_REOPEN:
    claim->action = d->said.content_keep ? EXTERNAL_EMBED : EXTERNAL_REOPEN;
    break;
  case CHECKPOINT_DISCONNECTED:
    claim->action = EXTERNAL_CLOSE;
    break;
  default:
    claim->action = EXTERNAL_PLUGIN;
  }
}

static void take_claim(const PluginDumped *d, ExternalClaim *claim) {
  const char *why = d->said.reason ? d->said.reason : "the plugin says so";
  g_autofree char *rule = claim->rule ? g_steal_pointer(&claim->rule) : g_strdup_printf("plugin %s", d->plugin);
  bool closed = d->answer == CHECKPOINT_DISCONNECTED;
  follow_answer(d, claim);
  if (closed)
    g_clear_pointer(&claim->value, g_free);
  g_free(claim->plugin);
  claim->plugin = closed ? NULL : g_strdup(d->plugin);
  claim->rule = closed ? g_strdup_printf("%s; closed, since %s", rule, why) : g_steal_pointer(&rule);
}

static void refuse_claim(const ExternalObject *o, const PluginDumped *d, ExternalClaim *claim) {
  claim->action = EXTERNAL_FAIL;
  claim->reason = g_strdup_printf("%s (plugin %s%s%s)", d->said.reason ? d->said.reason : o->reason, d->plugin,
      claim->rule ? ", " : "", claim->rule ? claim->rule : "");
  claim->cure = g_strdup(d->said.cure ? d->said.cure : o->cure);
}

static bool ask_about(PluginSet *set, PluginHelp *help, const ExternalObject *o, const ExternalClaim *claim,
    PluginDumped *ret_dumped, guint32 *ret_kind, GError **error) {
  g_autofree char *name = NULL, *peer_name = NULL;
  struct checkpoint_object object = object_of(o, &name, &peer_name);
  object.argument = claim->plugin ? claim->value : NULL;
  if (plugins_count(set) && !object.id)
    object.id = plugins_new_id(set);
  *ret_kind = object.kind;
  help->current = o;
  bool ok = plugins_dump(set, &object, claim->plugin, ret_dumped, error);
  help->current = NULL;
  return ok;
}

/* What nobody has taken, an explanation may have kept from plugins. */
static void tell_unasked(const ExternalObject *o, const char *unasked, ExternalAction action, ExternalClaim *claim) {
  claim->action = EXTERNAL_NOBODY;
  if (unasked && claim->rule) { /* which sends it to plugins: nothing speaks against it yet */
    claim->action = action;
  } else if (unasked) {
    g_autofree char *cure = g_steal_pointer(&claim->cure);
    claim->cure = g_strdup_printf("%s (only a dump asks the plugins %s)", cure ? cure : o->cure, unasked);
  }
}

bool plugin_stage_ask(PluginSet *set, PluginHelp *help, const ExternalObject *o, ExternalClaim *ret_claim, GError **error) {
  PluginDumped dumped;
  guint32 kind = 0;
  if (!ask_about(set, help, o, ret_claim, &dumped, &kind, error))
    return false;
  g_autofree char *unasked = dumped.plugin ? NULL : plugins_unasked(set, kind, ret_claim->plugin);
  if (!dumped.plugin)
    tell_unasked(o, unasked, ret_claim->action, ret_claim);
  else if (dumped.answer == CHECKPOINT_REFUSED)
    refuse_claim(o, &dumped, ret_claim);
  else
    take_claim(&dumped, ret_claim);
  plugin_said_clear(&dumped.said);
  return true;
}

static const char *path_of(const FrozenTask *task, guint64 start) {
  for (guint i = 0; i < task->facts.vmas->len; i++) {
    const ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, i);
    if (v->start == start)
      return *v->path ? v->path : NULL;
  }
  return NULL;
}

static bool ask_mapping(PluginSet *set, FrozenTask *task, const VmaEntry *v, GError **error) {
  const char *plugin = NULL;
  const struct checkpoint_object object = {
      .size = sizeof object,
      .kind = CHECKPOINT_KIND_MEMORY,
      .pid = task->pid,
      .number = -1,
      .comm = task->stat.comm,
      .fd = -1,
      .path = path_of(task, v->start),
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32,
      .start = v->start,
      .end = v->end,
      .offset = v->pgoff,
      .protection = (int)v->prot,
  };
  if (!plugins_dump_memory(set, &object, &plugin, error))
    return false;
  if (!plugin)
    return true;
  if (!task->provided)
    task->provided = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  g_hash_table_add(task->provided, g_memdup2(&v->start, sizeof v->start));
  return true;
}

static bool is_offered(const VmaEntry *v) {
  const guint32 made = VMA_AREA_VVAR | VMA_AREA_VDSO | VMA_AREA_VSYSCALL | VMA_EXT_PLUGIN;
  return v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & made);
}

bool plugin_stage_memory(PluginSet *set, FrozenTree *tree, GError **error) {
  for (guint i = 0; plugins_want(set, CHECKPOINT_KIND_MEMORY) && i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    const MmEntry *mm = task->zombie ? NULL : task->model->mm;
    for (size_t k = 0; mm && k < mm->n_vmas; k++)
      if (is_offered(mm->vmas[k]) && !ask_mapping(set, task, mm->vmas[k], error))
        return false;
  }
  return true;
}

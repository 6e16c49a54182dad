/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The second door: CRIU's plugin descriptor, version 0.2, so that plugins built for it load as they are. They expect
 * two functions of the program that loads them, which carry no context: whose call it is stands in a variable here. */

#include "plugin-private.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_HOOKS 15

enum {
  HOOK_DUMP_UNIX_SK,
  HOOK_RESTORE_UNIX_SK,
  HOOK_DUMP_EXT_FILE,
  HOOK_RESTORE_EXT_FILE,
  HOOK_DUMP_EXT_MOUNT,
  HOOK_RESTORE_EXT_MOUNT,
  HOOK_DUMP_EXT_LINK,
  HOOK_HANDLE_DEVICE_VMA,
  HOOK_UPDATE_VMA_MAP,
  HOOK_RESUME_DEVICES_LATE,
  HOOK_PAUSE_DEVICES,
  HOOK_CHECKPOINT_DEVICES,
  HOOK_POST_FORKING,
  HOOK_RESTORE_INIT,
  HOOK_DUMP_DEVICES_LATE,
};

static const struct {
  const char *name;
  guint32 kind;
} hooks[N_HOOKS] = {
    [HOOK_DUMP_UNIX_SK] = {"DUMP_UNIX_SK", CHECKPOINT_KIND_UNIX_SOCKET},
    [HOOK_RESTORE_UNIX_SK] = {"RESTORE_UNIX_SK", CHECKPOINT_KIND_UNIX_SOCKET},
    [HOOK_DUMP_EXT_FILE] = {"DUMP_EXT_FILE", CHECKPOINT_KIND_FILE},
    [HOOK_RESTORE_EXT_FILE] = {"RESTORE_EXT_FILE", CHECKPOINT_KIND_FILE},
    [HOOK_DUMP_EXT_MOUNT] = {"DUMP_EXT_MOUNT", CHECKPOINT_KIND_MOUNT},
    [HOOK_RESTORE_EXT_MOUNT] = {"RESTORE_EXT_MOUNT", CHECKPOINT_KIND_MOUNT},
    [HOOK_DUMP_EXT_LINK] = {"DUMP_EXT_LINK", CHECKPOINT_KIND_LINK},
    [HOOK_HANDLE_DEVICE_VMA] = {"HANDLE_DEVICE_VMA", CHECKPOINT_KIND_MAPPING},
    [HOOK_UPDATE_VMA_MAP] = {"UPDATE_VMA_MAP", CHECKPOINT_KIND_MAPPING},
    [HOOK_RESUME_DEVICES_LATE] = {"RESUME_DEVICES_LATE", 0},
    [HOOK_PAUSE_DEVICES] = {"PAUSE_DEVICES", 0},
    [HOOK_CHECKPOINT_DEVICES] = {"CHECKPOINT_DEVICES", 0},
    [HOOK_POST_FORKING] = {"POST_FORKING", 0},
    [HOOK_RESTORE_INIT] = {"RESTORE_INIT", 0},
    [HOOK_DUMP_DEVICES_LATE] = {"DUMP_DEVICES_LATE", 0},
};

/* What the symbol CR_PLUGIN_DESC is. */
typedef struct CriuDescriptor {
  const char *name;
  int (*init)(int stage);
  void (*exit)(int stage, int result);
  unsigned version, max_hooks;
  void *hooks[N_HOOKS];
} CriuDescriptor;

static Plugin *current;

void abi_criu_set_current(Plugin *p) {
  current = p;
}

/* --- what plugins of the old doors expect from whoever loads them --- */

__attribute__((visibility("default"))) int criu_get_image_dir(void);
__attribute__((visibility("default"), format(printf, 2, 3))) void print_on_level(
    unsigned level, const char *format, ...);

int criu_get_image_dir(void) {
  return current ? current->set->images_fd : -1;
}

void print_on_level(unsigned level, const char *format, ...) {
  static const int priorities[] = {6, 3, 4, 6, 7};
  va_list ap;
  va_start(ap, format);
  g_autofree char *text = g_strdup_vprintf(format, ap);
  va_end(ap);
  if (current && gettid() == getpid()) /* the way to the log is the main thread's */
    plugin_log(current, level < G_N_ELEMENTS(priorities) ? priorities[level] : 7, g_strchomp(text));
  else
    (void)fputs(text, stderr);
}

/* --- calls --- */

static int hook_of_moment(enum checkpoint_moment moment) {
  switch (moment) {
  case CHECKPOINT_MOMENT_PAUSE:
    return HOOK_PAUSE_DEVICES;
  case CHECKPOINT_MOMENT_CHECKPOINT:
    return HOOK_CHECKPOINT_DEVICES;
  case CHECKPOINT_MOMENT_DUMPED:
    return HOOK_DUMP_DEVICES_LATE;
  case CHECKPOINT_MOMENT_BEGIN:
    return HOOK_RESTORE_INIT;
  case CHECKPOINT_MOMENT_FORKED:
    return HOOK_POST_FORKING;
  case CHECKPOINT_MOMENT_RESUME:
    return HOOK_RESUME_DEVICES_LATE;
  default:
    return -1;
  }
}

/* -1: no hook is meant. Links are not made by plugins of this door: somebody brings them. */
static int hook_of(const PluginCall *call) {
  guint32 kind = call->object ? call->object->kind : 0;
  bool dump = call->callback == PLUGIN_CALL_DUMP;
  if (call->callback == PLUGIN_CALL_MOMENT)
    return hook_of_moment(call->moment);
  if (!dump && call->callback != PLUGIN_CALL_RESTORE)
    return -1;
  switch (kind) {
  case CHECKPOINT_KIND_UNIX_SOCKET:
    return dump ? HOOK_DUMP_UNIX_SK : HOOK_RESTORE_UNIX_SK;
  case CHECKPOINT_KIND_FILE:
    return dump ? HOOK_DUMP_EXT_FILE : HOOK_RESTORE_EXT_FILE;
  case CHECKPOINT_KIND_LINK:
    return dump ? HOOK_DUMP_EXT_LINK : -1;
  case CHECKPOINT_KIND_MAPPING:
    return dump ? HOOK_HANDLE_DEVICE_VMA : HOOK_UPDATE_VMA_MAP;
  case CHECKPOINT_KIND_MOUNT:
    return dump ? HOOK_DUMP_EXT_MOUNT : HOOK_RESTORE_EXT_MOUNT;
  default:
    return -1;
  }
}

static void *function_of(const Plugin *p, int hook) {
  const CriuDescriptor *d = p->self;
  return hook >= 0 && (unsigned)hook < MIN(d->max_hooks, N_HOOKS) ? d->hooks[hook] : NULL;
}

static const char *criu_callback(const Plugin *p, const PluginCall *call) {
  const CriuDescriptor *d = p->self;
  if (call->callback == PLUGIN_CALL_INIT)
    return d->init ? "init" : NULL;
  if (call->callback == PLUGIN_CALL_FINI)
    return d->exit ? "exit" : NULL;
  int hook = hook_of(call);
  return function_of(p, hook) ? hooks[hook].name : NULL;
}

/* Without a descriptor of the plugin the mapping is of the same device, perhaps at another place. */
static int update_map(void *f, PluginCall *call) {
  const struct checkpoint_object *o = call->object;
  guint64 offset = o->offset;
  call->fd = -1;
  int r = ((int (*)(const char *, uint64_t, uint64_t, uint64_t *, int *))f)(
      o->path, o->start, o->offset, &offset, &call->fd);
  if (r < 0)
    return r;
  call->offset = offset;
  if (call->fd < 0 && o->path)
    call->fd = open(o->path, (o->shared && o->protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY);
  return call->fd < 0 ? -errno : 0;
}

static int restore_file(void *f, PluginCall *call) {
  bool again = false;
  int r = ((int (*)(int, bool *))f)((int)call->object->id, &again);
  if (again)
    return CHECKPOINT_AGAIN;
  call->fd = r;
  return MIN(r, 0);
}

static int handle_mapping(void *f, const struct checkpoint_object *o) {
  const struct stat st = {.st_dev = o->dev, .st_ino = o->ino, .st_rdev = o->rdev, .st_mode = o->mode};
  return ((int (*)(int, const struct stat *))f)(o->fd, &st);
}

/* The kind is the plugin's to write to. */
static int dump_link(void *f, const struct checkpoint_object *o) {
  g_autofree char *kind = g_strdup(o->link_kind);
  return ((int (*)(int, int, char *))f)((int)o->link_index, (int)o->link_type, kind);
}

/* Both old doors have the same two. The texts are theirs to write into. */
int plugin_dump_mount(void *f, const PluginCall *call) {
  g_autofree char *mountpoint = g_strdup(call->object->path);
  return ((int (*)(char *, int))f)(mountpoint, (int)call->object->id);
}

/* Whether it is a file is seen at what is mounted then. */
int plugin_restore_mount(void *f, PluginCall *call) {
  const struct checkpoint_object *o = call->object;
  g_autofree char *target = g_strdup(o->target), *outside = g_strdup(o->outside);
  int is_file = 0, r = ((int (*)(int, char *, char *, int *))f)((int)o->id, target, outside, &is_file);
  call->fd = r < 0 ? -1 : open(o->target, O_PATH | O_CLOEXEC);
  return r < 0 ? r : call->fd < 0 ? -errno : 0;
}

static int call_hook(int hook, void *f, PluginCall *call) {
  switch (hook) {
  case HOOK_DUMP_UNIX_SK:
  case HOOK_DUMP_EXT_FILE:
    return ((int (*)(int, int))f)(call->object->fd, (int)call->object->id);
  case HOOK_RESTORE_UNIX_SK:
    call->fd = ((int (*)(int))f)((int)call->object->id);
    return MIN(call->fd, 0);
  case HOOK_RESTORE_EXT_FILE:
    return restore_file(f, call);
  case HOOK_DUMP_EXT_MOUNT:
    return plugin_dump_mount(f, call);
  case HOOK_RESTORE_EXT_MOUNT:
    return plugin_restore_mount(f, call);
  case HOOK_HANDLE_DEVICE_VMA:
    return handle_mapping(f, call->object);
  case HOOK_UPDATE_VMA_MAP:
    return update_map(f, call);
  case HOOK_DUMP_EXT_LINK:
    return dump_link(f, call->object);
  case HOOK_RESUME_DEVICES_LATE:
  case HOOK_PAUSE_DEVICES:
  case HOOK_CHECKPOINT_DEVICES:
  case HOOK_DUMP_DEVICES_LATE:
    return ((int (*)(int))f)(call->pid);
  case HOOK_POST_FORKING:
  case HOOK_RESTORE_INIT:
    return ((int (*)(void))f)();
  default:
    return -ENOTSUP;
  }
}

static int criu_call(Plugin *p, PluginCall *call) {
  const CriuDescriptor *d = p->self;
  abi_criu_set_current(p);
  if (call->callback == PLUGIN_CALL_INIT)
    return d->init ? d->init((int)p->set->stage) : 0;
  if (call->callback == PLUGIN_CALL_FINI) {
    if (d->exit)
      d->exit((int)p->set->stage, call->result);
    return 0;
  }
  int hook = hook_of(call);
  void *f = function_of(p, hook);
  return f ? call_hook(hook, f, call) : -ENOTSUP;
}

static void criu_close(Plugin *p) {
  g_free(p->self);
}

static const PluginDoor criu_door = {
    .name = "criu", .call = criu_call, .callback = criu_callback, .close = criu_close, .in_process = true};

static void describe(Plugin *p) {
  g_autoptr(GString) found = g_string_new(NULL);
  for (int i = 0; i < N_HOOKS; i++)
    if (function_of(p, i)) {
      p->kinds |= hooks[i].kind;
      g_string_append_printf(found, "%s%s", found->len ? ", " : "", hooks[i].name);
    }
  p->description = g_string_free(g_steal_pointer(&found), FALSE);
}

bool abi_criu_open(Plugin *p, GError **error) {
  const CriuDescriptor *d = dlsym(p->library, "CR_PLUGIN_DESC");
  if (!d)
    return false;
  if (d->version >> 16 != 0 || (d->version >> 8 & 0xff) != 2)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s is built for version %u.%u.%u of CRIU's plugin interface; known is 0.2", p->file, d->version >> 16,
        d->version >> 8 & 0xff, d->version & 0xff);
  if (!d->name || !plugin_name_is_valid(d->name))
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s has no valid name", p->file);
  p->door = &criu_door;
  p->old_answers = true;
  p->name = g_strdup(d->name);
  p->version = g_strdup_printf("%u.%u.%u", d->version >> 16, d->version >> 8 & 0xff, d->version & 0xff);
  CriuDescriptor *copy = g_new0(CriuDescriptor, 1);
  *copy = (CriuDescriptor){.name = d->name, .init = d->init, .exit = d->exit, .max_hooks = MIN(d->max_hooks, N_HOOKS)};
  for (unsigned i = 0; i < copy->max_hooks; i++)
    copy->hooks[i] = d->hooks[i];
  p->self = copy;
  describe(p);
  return true;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The first door: callbacks are found by their names, any subset of them. */

#include "plugin-private.h"
#include <dlfcn.h>
#include <errno.h>

typedef enum NamedSymbol {
  NAMED_INIT,
  NAMED_FINI,
  NAMED_DUMP_UNIX_SK,
  NAMED_RESTORE_UNIX_SK,
  NAMED_DUMP_FILE,
  NAMED_RESTORE_FILE,
  NAMED_DUMP_EXT_MOUNT,
  NAMED_RESTORE_EXT_MOUNT,
  NAMED_DUMP_EXT_LINK,
  NAMED_N_SYMBOLS
} NamedSymbol;

static const struct {
  const char *name;
  guint32 kind;
} symbols[NAMED_N_SYMBOLS] = {
    [NAMED_INIT] = {"cr_plugin_init", 0},
    [NAMED_FINI] = {"cr_plugin_fini", 0},
    [NAMED_DUMP_UNIX_SK] = {"cr_plugin_dump_unix_sk", CHECKPOINT_KIND_UNIX_SOCKET},
    [NAMED_RESTORE_UNIX_SK] = {"cr_plugin_restore_unix_sk", CHECKPOINT_KIND_UNIX_SOCKET},
    [NAMED_DUMP_FILE] = {"cr_plugin_dump_file", CHECKPOINT_KIND_FILE},
    [NAMED_RESTORE_FILE] = {"cr_plugin_restore_file", CHECKPOINT_KIND_FILE},
    [NAMED_DUMP_EXT_MOUNT] = {"cr_plugin_dump_ext_mount", CHECKPOINT_KIND_MOUNT},
    [NAMED_RESTORE_EXT_MOUNT] = {"cr_plugin_restore_ext_mount", CHECKPOINT_KIND_MOUNT},
    [NAMED_DUMP_EXT_LINK] = {"cr_plugin_dump_ext_link", CHECKPOINT_KIND_LINK},
};

typedef struct Named {
  void *symbols[NAMED_N_SYMBOLS];
} Named;

/* Which callback a call means; NAMED_N_SYMBOLS: none. Links are not made by plugins of this door: somebody brings them. */
static NamedSymbol symbol_of(const PluginCall *call) {
  guint32 kind = call->object ? call->object->kind : 0;
  switch (call->callback) {
  case PLUGIN_CALL_INIT:
    return NAMED_INIT;
  case PLUGIN_CALL_FINI:
    return NAMED_FINI;
  case PLUGIN_CALL_DUMP:
    return kind == CHECKPOINT_KIND_UNIX_SOCKET ? NAMED_DUMP_UNIX_SK
           : kind == CHECKPOINT_KIND_FILE      ? NAMED_DUMP_FILE
           : kind == CHECKPOINT_KIND_LINK      ? NAMED_DUMP_EXT_LINK
           : kind == CHECKPOINT_KIND_MOUNT     ? NAMED_DUMP_EXT_MOUNT
                                               : NAMED_N_SYMBOLS;
  case PLUGIN_CALL_RESTORE:
    return kind == CHECKPOINT_KIND_UNIX_SOCKET ? NAMED_RESTORE_UNIX_SK
           : kind == CHECKPOINT_KIND_FILE      ? NAMED_RESTORE_FILE
           : kind == CHECKPOINT_KIND_MOUNT     ? NAMED_RESTORE_EXT_MOUNT
                                               : NAMED_N_SYMBOLS;
  case PLUGIN_CALL_BEGIN:
  case PLUGIN_CALL_END:
  case PLUGIN_CALL_MEMORY_DUMP:
  case PLUGIN_CALL_MEMORY_RESTORE:
  case PLUGIN_CALL_MOMENT:
  case PLUGIN_CALL_CONNECTED:
  case PLUGIN_N_CALLS:
  default:
    return NAMED_N_SYMBOLS;
  }
}

static const char *named_callback(const Plugin *p, const PluginCall *call) {
  const Named *named = p->self;
  NamedSymbol s = symbol_of(call);
  return s < NAMED_N_SYMBOLS && named->symbols[s] ? symbols[s].name : NULL;
}

/* The kind is the plugin's to write to. */
static int link_call(void *f, const struct checkpoint_object *o) {
  g_autofree char *kind = g_strdup(o->link_kind);
  return ((int (*)(int, int, char *))f)((int)o->link_index, (int)o->link_type, kind);
}

static int named_call(Plugin *p, PluginCall *call) {
  const Named *named = p->self;
  NamedSymbol s = symbol_of(call);
  void *f = s < NAMED_N_SYMBOLS ? named->symbols[s] : NULL;
  if (!f)
    return -ENOTSUP;
  abi_criu_set_current(p);
  switch (s) {
  case NAMED_INIT: /* later plugins take the stage as an argument; the others do not look at it */
    return ((int (*)(int))f)((int)p->set->stage);
  case NAMED_FINI:
    ((void (*)(int, int))f)((int)p->set->stage, call->result);
    return 0;
  case NAMED_DUMP_UNIX_SK:
  case NAMED_DUMP_FILE:
    return ((int (*)(int, int))f)(call->object->fd, (int)call->object->id);
  case NAMED_RESTORE_UNIX_SK:
  case NAMED_RESTORE_FILE:
    call->fd = ((int (*)(int))f)((int)call->object->id);
    return MIN(call->fd, 0);
  case NAMED_DUMP_EXT_LINK:
    return link_call(f, call->object);
  case NAMED_DUMP_EXT_MOUNT:
    return plugin_dump_mount(f, call);
  case NAMED_RESTORE_EXT_MOUNT:
    return plugin_restore_mount(f, call);
  case NAMED_N_SYMBOLS:
  default:
    return -ENOTSUP;
  }
}

static void named_close(Plugin *p) {
  g_free(p->self);
}

static const PluginDoor named_door = {
    .name = "by-name", .call = named_call, .callback = named_callback, .close = named_close, .in_process = true};

bool abi_named_open(Plugin *p) {
  g_autofree Named *named = g_new0(Named, 1);
  g_autoptr(GString) found = g_string_new(NULL);
  for (int i = 0; i < NAMED_N_SYMBOLS; i++) {
    named->symbols[i] = dlsym(p->library, symbols[i].name);
    if (!named->symbols[i])
      continue;
    p->kinds |= symbols[i].kind;
    g_string_append_printf(found, "%s%s", found->len ? ", " : "", symbols[i].name);
  }
  if (!found->len)
    return false;
  p->door = &named_door;
  p->old_answers = true;
  p->self = g_steal_pointer(&named);
  p->name = g_strndup(p->file, strlen(p->file) - strlen(".so"));
  p->description = g_string_free(g_steal_pointer(&found), FALSE);
  return true;
}

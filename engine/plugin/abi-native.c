/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The third door: checkpoint-plugin.h. */

#include "plugin-private.h"
#include "tracee.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

typedef struct Native {
  struct checkpoint_plugin ops; /* what a shorter one lacks is zero */
  void *context;
} Native;

/* --- what the host offers --- */

static void host_log(const struct checkpoint_host *host, int priority, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *text = g_strdup_vprintf(format, ap);
  va_end(ap);
  plugin_log(host->data, CLAMP(priority, 0, 7), g_strchomp(text));
}

static int host_progress(const struct checkpoint_host *host, uint64_t done, uint64_t total) {
  Plugin *p = host->data;
  if (p->door->in_process)
    watchdog_start(p);
  plugin_report(p, "progress", 0, "progress", NULL, done, total);
  return job_poll(p->set->job, NULL) ? 0 : -ECANCELED;
}

static int host_record_add(const struct checkpoint_host *host, uint64_t id, const void *data, size_t size) {
  return records_add(host->data, id, data, size);
}

static int host_record_get(
    const struct checkpoint_host *host, uint64_t id, uint32_t index, const void **ret_data, size_t *ret_size) {
  const GPtrArray *records = records_of(host->data, id);
  if (!records || index >= records->len)
    return -ENOENT;
  gsize size = 0;
  *ret_data = g_bytes_get_data(records->pdata[index], &size);
  *ret_size = size;
  return 0;
}

static int host_memory_read(const struct checkpoint_host *host, int pid, uint64_t address, void *buffer, size_t size) {
  const Plugin *p = host->data;
  return p->set->stage == CHECKPOINT_STAGE_DUMP ? tracee_read((pid_t)pid, address, buffer, size) : -EROFS;
}

void plugin_host_init(Plugin *p) {
  p->host = (struct checkpoint_host){
      .size = sizeof p->host,
      .abi = CHECKPOINT_PLUGIN_ABI,
      .stage = (uint32_t)p->set->stage,
      .data = p,
      .images_fd = p->set->images_fd,
      .caller = plugins_caller(p->set),
      .log = host_log,
      .progress = host_progress,
      .record_add = host_record_add,
      .record_get = host_record_get,
      .memory_read = host_memory_read,
  };
  services_init(&p->host);
}

/* --- calls --- */

static const char *native_callback(const Plugin *p, const PluginCall *call) {
  const struct checkpoint_plugin *ops = &((const Native *)p->self)->ops;
  switch (call->callback) {
  case PLUGIN_CALL_INIT:
    return ops->init ? "init" : NULL;
  case PLUGIN_CALL_FINI:
    return ops->fini ? "fini" : NULL;
  case PLUGIN_CALL_BEGIN:
    return ops->begin ? "begin" : NULL;
  case PLUGIN_CALL_END:
    return ops->end ? "end" : NULL;
  case PLUGIN_CALL_DUMP:
    return ops->dump ? "dump" : NULL;
  case PLUGIN_CALL_RESTORE:
    return ops->restore ? "restore" : NULL;
  case PLUGIN_CALL_MEMORY_DUMP:
    return ops->memory_dump ? "memory_dump" : NULL;
  case PLUGIN_CALL_MEMORY_RESTORE:
    return ops->memory_restore ? "memory_restore" : NULL;
  case PLUGIN_CALL_MOMENT:
    return ops->moment ? "moment" : NULL;
  case PLUGIN_CALL_CONNECTED:
    return ops->connected ? "connected" : NULL;
  case PLUGIN_N_CALLS:
  default:
    return NULL;
  }
}

static int native_call(Plugin *p, PluginCall *call) {
  Native *native = p->self;
  const struct checkpoint_plugin *ops = &native->ops;
  if (!native_callback(p, call))
    return call->callback == PLUGIN_CALL_INIT ? 0 : -ENOTSUP;
  switch (call->callback) {
  case PLUGIN_CALL_INIT:
    plugin_host_init(p);
    return ops->init(&p->host, &native->context);
  case PLUGIN_CALL_FINI:
    ops->fini(native->context, call->result);
    return 0;
  case PLUGIN_CALL_BEGIN:
    return ops->begin(native->context, call->count);
  case PLUGIN_CALL_END:
    return ops->end(native->context);
  case PLUGIN_CALL_DUMP:
    return ops->dump(native->context, call->object);
  case PLUGIN_CALL_RESTORE:
    return ops->restore(native->context, call->object, &call->fd, &call->offset);
  case PLUGIN_CALL_MEMORY_DUMP:
    return ops->memory_dump(native->context, call->object);
  case PLUGIN_CALL_MEMORY_RESTORE:
    return ops->memory_restore(native->context, call->object, call->fd);
  case PLUGIN_CALL_MOMENT:
    return ops->moment(native->context, (uint32_t)call->moment, (int)call->pid);
  case PLUGIN_CALL_CONNECTED:
    return ops->connected(native->context, call->object, call->fd);
  case PLUGIN_N_CALLS:
  default:
    return -ENOTSUP;
  }
}

static void native_close(Plugin *p) {
  g_free(p->self);
}

static const PluginDoor native_door = {
    .name = "native", .call = native_call, .callback = native_callback, .close = native_close, .in_process = true};

bool abi_native_open(Plugin *p, GError **error) {
  const struct checkpoint_plugin *theirs = dlsym(p->library, CHECKPOINT_PLUGIN_SYMBOL);
  if (!theirs)
    return false;
  if (theirs->abi != CHECKPOINT_PLUGIN_ABI)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s is built for version %u of the plugin interface; known is %u", p->file, theirs->abi,
        CHECKPOINT_PLUGIN_ABI);
  if (theirs->size < offsetof(struct checkpoint_plugin, init) || theirs->size > 65536)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "Plugin %s has a structure of %zu bytes, which cannot be right", p->file, theirs->size);
  if (!theirs->name || !plugin_name_is_valid(theirs->name))
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s has no valid name", p->file);
  Native *native = g_new0(Native, 1);
  memcpy(&native->ops, theirs, MIN(theirs->size, sizeof native->ops));
  p->door = &native_door;
  p->self = native;
  p->old_answers = !CHECKPOINT_HAS(theirs, connected);
  p->name = g_strdup(theirs->name);
  p->version = g_strdup(theirs->version);
  p->description = g_strdup(theirs->description);
  p->kinds = theirs->kinds;
  p->flags = theirs->flags;
  p->priority = theirs->priority;
  p->after = g_strdupv((char **)theirs->after);
  return true;
}

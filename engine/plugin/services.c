/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What plugins may ask of the engine about the object in question, and what the answers mean that came with it (revision 2 of
 * the interface). A plugin in this process asks through its host; a program sends the same beside its answer. */

#include "plugin-private.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define FIRST_MAX 4096
#define WORDS_MAX 2048
#define CONNECT_AGAIN_USEC 10000

void plugin_said_clear(PluginSaid *said) {
  g_clear_pointer(&said->reason, g_free);
  g_clear_pointer(&said->cure, g_free);
  g_clear_pointer(&said->address, g_free);
  g_clear_pointer(&said->first, g_bytes_unref);
  said->content_keep = false;
}

void plugins_set_services(PluginSet *set, const PluginServices *services) {
  if (set)
    set->services = services ? *services : (PluginServices){0};
}

/* What people are told comes from wherever the plugin has it. */
static char *words(const char *text) {
  g_autofree char *valid = text ? g_utf8_make_valid(text, (gssize)strnlen(text, WORDS_MAX)) : NULL;
  for (char *p = valid; p && *p; p++)
    if ((guchar)*p < ' ' || *p == 127)
      *p = ' ';
  return g_steal_pointer(&valid);
}

void services_explain(Plugin *p, const char *reason, const char *cure) {
  if (!p->call)
    return;
  if (p->call->callback != PLUGIN_CALL_DUMP && p->call->callback != PLUGIN_CALL_RESTORE &&
      p->call->callback != PLUGIN_CALL_CONNECTED)
    return;
  PluginSaid *said = &p->call->said;
  g_free(said->reason);
  g_free(said->cure);
  said->reason = words(reason);
  said->cure = words(cure);
}

int services_connect_to(Plugin *p, const char *address, const void *first, size_t size) {
  const PluginServices *s = &p->set->services;
  if (!p->call || p->call->callback != PLUGIN_CALL_RESTORE || p->call->object->kind != CHECKPOINT_KIND_UNIX_SOCKET)
    return -EPERM;
  if (size > FIRST_MAX || (size && !first) || (address && (!s->is_address || !s->is_address(address))))
    return -EINVAL;
  PluginSaid *said = &p->call->said;
  g_free(said->address);
  g_clear_pointer(&said->first, g_bytes_unref);
  said->address = g_strdup(address);
  said->first = size ? g_bytes_new(first, size) : NULL;
  return 0;
}

/* --- the host's functions --- */

static void host_explain(const struct checkpoint_host *host, const char *reason, const char *cure) {
  services_explain(host->data, reason, cure);
}

static int host_has_task(const struct checkpoint_host *host, int pid) {
  const PluginServices *s = &((const Plugin *)host->data)->set->services;
  return s->has_task ? s->has_task(s->data, pid) : -ENOSYS;
}

/* Nobody can look after the job while another process connects: so it never waits, but is asked again. */
static int connect_patiently(const Plugin *p, int fd, const char *address, uint32_t uid, uint32_t gid) {
  const PluginServices *s = &p->set->services;
  int flags = fcntl(fd, F_GETFL), r;
  if (flags < 0)
    return -errno;
  bool waits = !(flags & O_NONBLOCK);
  if (waits && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return -errno;
  while ((r = s->connect_as(s->data, fd, address, uid, gid)) == -EAGAIN && waits) {
    g_usleep(CONNECT_AGAIN_USEC);
    if (!job_poll(p->set->job, NULL)) {
      r = -ECANCELED;
      break;
    }
  }
  if (waits)
    (void)fcntl(fd, F_SETFL, flags);
  return r;
}

static int host_connect_as(const struct checkpoint_host *host, int fd, const char *address, uint32_t uid, uint32_t gid) {
  const Plugin *p = host->data;
  const PluginServices *s = &p->set->services;
  if (!p->call || !p->call->object || p->call->object->kind != CHECKPOINT_KIND_UNIX_SOCKET)
    return -EPERM;
  return s->connect_as ? connect_patiently(p, fd, address, uid, gid) : -ENOSYS;
}

static int host_connect_to(const struct checkpoint_host *host, const char *address, const void *first, size_t size) {
  return services_connect_to(host->data, address, first, size);
}

static int host_content_keep(const struct checkpoint_host *host) {
  const Plugin *p = host->data;
  if (!p->call || p->call->callback != PLUGIN_CALL_DUMP)
    return -EPERM;
  if (!S_ISREG(p->call->object->mode))
    return -EINVAL;
  p->call->said.content_keep = true;
  return 0;
}

static int host_content_get(const struct checkpoint_host *host, int fd, struct checkpoint_content *ret_content) {
  const Plugin *p = host->data;
  const PluginServices *s = &p->set->services;
  struct checkpoint_content all = {.size = sizeof all};
  if (!p->call || p->call->callback != PLUGIN_CALL_RESTORE)
    return -EPERM;
  int r = s->content_get ? s->content_get(s->data, fd, &all) : -ENOSYS;
  if (r < 0)
    return r;
  all.size = MIN(ret_content->size, sizeof all);
  memcpy(ret_content, &all, all.size);
  return 0;
}

static int host_content_hash(const struct checkpoint_host *host, int fd, uint64_t *ret_hash) {
  const PluginServices *s = &((const Plugin *)host->data)->set->services;
  return s->content_hash ? s->content_hash(fd, ret_hash) : -ENOSYS;
}

void services_init(struct checkpoint_host *host) {
  host->revision = CHECKPOINT_PLUGIN_REVISION;
  host->explain = host_explain;
  host->has_task = host_has_task;
  host->connect_as = host_connect_as;
  host->connect_to = host_connect_to;
  host->content_keep = host_content_keep;
  host->content_get = host_content_get;
  host->content_hash = host_content_hash;
}

/* --- answers --- */

static bool fits(const PluginCall *call, int answer) {
  const struct checkpoint_object *o = call->object;
  bool socket = o && o->kind == CHECKPOINT_KIND_UNIX_SOCKET, file = o && o->kind == CHECKPOINT_KIND_FILE;
  bool link = o && o->kind == CHECKPOINT_KIND_LINK;
  switch (answer) {
  case 0:
    return true;
  case CHECKPOINT_AGAIN:
    return call->callback == PLUGIN_CALL_RESTORE && !link;
  case CHECKPOINT_DISCONNECTED: /* of what else it cannot be true, the restore says */
    return socket || (call->callback == PLUGIN_CALL_RESTORE && !link);
  case CHECKPOINT_CONNECT:
    return socket && call->callback != PLUGIN_CALL_CONNECTED;
  case CHECKPOINT_REOPEN:
    return file && call->callback != PLUGIN_CALL_CONNECTED;
  case CHECKPOINT_REFUSED:
    return call->callback == PLUGIN_CALL_DUMP;
  default:
    return false;
  }
}

bool services_may_answer(const Plugin *p, const PluginCall *call, int answer) {
  switch (call->callback) {
  case PLUGIN_CALL_DUMP:
    return fits(call, answer) || (answer >= 0 && p->old_answers);
  case PLUGIN_CALL_RESTORE:
  case PLUGIN_CALL_CONNECTED:
    return fits(call, answer);
  default:
    return answer >= 0;
  }
}

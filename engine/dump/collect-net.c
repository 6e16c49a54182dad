/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Network namespaces of the tree's own. */

#include "collect-net.h"
#include "net-dump.h"
#include "outside-ends.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#define FACTS_NET 3 /* of facts_namespace_name() */

NetPlaces *collect_net_places(const FrozenTree *tree, GError **error) {
  g_autoptr(NetPlaces) places = NULL;
  for (guint i = 0; i < ns_set_size(tree->namespaces); i++) {
    const NsEntry *e = ns_set_get(tree->namespaces, i);
    if (e->kind != CLONE_NEWNET)
      continue;
    if (!places && !(places = net_places_new(ns_set_own_id(CLONE_NEWNET), error)))
      return NULL;
    int fd = fcntl(e->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
      engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot duplicate a network namespace");
      return NULL;
    }
    if (!net_places_add(places, e->id, fd, error))
      return NULL;
  }
  return g_steal_pointer(&places);
}

/* --- links that plugins may have --- */

static bool offer_link(void *data, pid_t pid, int net_fd, const NetLink *l, char **ret_plugin, guint64 *ret_object, char **ret_reason, char **ret_cure,
    GError **error) {
  PluginSet *set = data;
  if (!plugins_count(set))
    return true;
  const struct checkpoint_object object = {
      .size = sizeof object,
      .kind = CHECKPOINT_KIND_LINK,
      .id = plugins_new_id(set),
      .pid = pid,
      .number = -1,
      .fd = net_fd,
      .path = l->name,
      .peer_uid = G_MAXUINT32,
      .peer_gid = G_MAXUINT32,
      .link_index = l->index,
      .link_type = l->type,
      .link_kind = l->kind,
  };
  PluginDumped dumped;
  if (!plugins_dump(set, &object, NULL, &dumped, error))
    return false;
  bool refused = dumped.plugin && dumped.answer == CHECKPOINT_REFUSED;
  g_autofree char *unasked = dumped.plugin ? NULL : plugins_unasked(set, CHECKPOINT_KIND_LINK, NULL);
  *ret_object = object.id;
  *ret_plugin = dumped.plugin && !refused ? g_strdup(dumped.plugin) : NULL;
  *ret_reason = refused && dumped.said.reason ? g_strdup_printf("%s (plugin %s)", dumped.said.reason, dumped.plugin) : NULL;
  *ret_cure = refused && dumped.said.cure ? g_strdup_printf("%s; ", dumped.said.cure)
              : unasked                   ? g_strdup_printf("only a dump asks the plugins %s; ", unasked)
                                          : NULL;
  plugin_said_clear(&dumped.said);
  return true;
}

/* --- content --- */

static const FrozenTask *task_in(const FrozenTree *tree, const NetPlace *place) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && task->facts.ns[FACTS_NET] == place->ino)
      return task;
  }
  return NULL;
}

bool collect_net(Job *job, const FrozenTree *tree, const NetPlaces *places, PluginSet *plugins, Checkpoint *checkpoint, GError **error) {
  NetDump d = {.job = job, .places = places, .offer = offer_link, .data = plugins};
  bool ok = outside_ends_check(job, error);
  for (guint i = 0; ok && i < net_places_count(places); i++) {
    const NetPlace *place = net_places_get(places, i);
    const FrozenTask *task = place->home ? NULL : task_in(tree, place);
    if (!task)
      continue;
    NetNamespace *ns = net_namespace_new(place->id);
    g_ptr_array_add(checkpoint->net_namespaces, ns);
    d.pid = task->pid;
    d.comm = (char *)(uintptr_t)task->stat.comm;
    ok = net_dump(&d, place, ns, error);
  }
  g_clear_pointer(&d.home_links, g_ptr_array_unref);
  return ok;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Network namespaces of the tree's own: they are there before any socket, and tasks enter them before anything else. */

#include "net-restore.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_allowed(const Job *job) {
  const EngineCaller *caller = job_caller(job);
  return !job_options(job)->untrusted_images && (!caller || !caller->uid || caller->any_target);
}

/* Of a link that a plugin took, in its namespace. */
static bool bring_link(void *data, const NetDeviceEntry *e, const CkptNetLink *x, int net_fd, GError **error) {
  const Restore *r = data;
  const GPtrArray *objects = r->checkpoint->plugin_objects;
  for (guint i = 0; i < objects->len; i++) {
    const CkptPluginObject *o = objects->pdata[i];
    if (o->object->kind != CHECKPOINT_KIND_LINK || o->object->id != x->plugin_object || strcmp(o->plugin, x->plugin) != 0)
      continue;
    struct checkpoint_object object = plugin_object_of(o->object);
    object.fd = net_fd;
    return plugins_restore_link(r->plugins, x->plugin, &object, error);
  }
  return true;
}

/* --- whom scripts know the namespace by, before there is a task --- */

static _Noreturn void hold(void) {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)prctl(PR_SET_NAME, "net-holder");
  (void)syscall(SYS_close_range, 0, ~0u, 0);
  for (;;)
    (void)pause();
}

static pid_t holder_new(const NetRestore *nets, guint32 id, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  pid_t engine = getpid();
  if (!net_visit_begin(&visit, net_restore_fd(nets, id), error))
    return -1;
  pid_t pid = fork();
  if (pid == 0) {
    if (getppid() != engine)
      _exit(0);
    hold();
  }
  if (pid < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a process for the scripts of the network");
  return pid;
}

static void holder_end(pid_t pid) {
  (void)kill(pid, SIGKILL);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    continue;
}

/* The root's, if that is one of its own. */
static guint32 first_id(const Checkpoint *c) {
  const Task *root = c->tasks->pdata[0];
  guint32 id = root->ids && root->ids->has_net_ns_id ? root->ids->net_ns_id : 0;
  return checkpoint_find_net(c, id) ? id : ((const NetNamespace *)c->net_namespaces->pdata[0])->id;
}

static bool tell_scripts(Restore *r, GError **error) {
  pid_t holder = holder_new(r->nets, first_id(r->checkpoint), error);
  if (holder < 0)
    return false;
  bool ok = job_stage(r->job, "setup-namespaces", holder, error);
  holder_end(holder);
  return ok;
}

/* --- the stage --- */

bool networks_restore(Restore *r, GError **error) {
  if (!r->checkpoint->net_namespaces->len)
    return true;
  if (!is_allowed(r->job))
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
        "The checkpoint has a network namespace of its own, which only root can make: an administrator has to restore it");
  r->nets = g_new0(NetRestore, 1);
  *r->nets = (NetRestore){.job = r->job, .checkpoint = r->checkpoint, .bring = bring_link, .data = r};
  if (!net_restore_begin(r->nets, error) || !tell_scripts(r, error) || !net_restore_finish(r->nets, error))
    return false;
  restorer_set_places(r->restorer, r->nets->places);
  return true;
}

void networks_free(NetRestore *nets) {
  if (!nets)
    return;
  net_places_free(nets->places);
  g_free(nets);
}

int networks_open(const Restore *r, guint32 id, GError **error) {
  int fd = r->nets && checkpoint_find_net(r->checkpoint, id) ? fcntl(net_restore_fd(r->nets, id), F_DUPFD_CLOEXEC, 3) : -1;
  if (fd < 0)
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "netns-%u.img is missing", id);
  return fd;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin of the third door that has network links: it keeps what it needs in a record, and makes them again in the namespace
 * that it is given. */

#include "checkpoint-plugin.h"
#include "misbehave.h"
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/wait.h>

static const struct checkpoint_host *the_host;

static int link_init(const struct checkpoint_host *host, void **ret_context) {
  test_begin();
  the_host = host;
  *ret_context = NULL;
  return host->revision < 3 ? -EPROTO : 0;
}

static int link_dump(void *context, const struct checkpoint_object *o) {
  char name[IF_NAMESIZE] = "?";
  struct stat here, there;
  (void)if_indextoname(o->link_index, name);
  bool same = stat("/proc/thread-self/ns/net", &here) == 0 && fstat(o->fd, &there) == 0 && here.st_ino == there.st_ino;
  test_note("dump link %u %u %s is %s path %s pid %d %s", o->link_index, o->link_type, o->link_kind, name, o->path, o->pid, same ? "here" : "elsewhere");
  if (strcmp(o->link_kind, "vxlan") != 0)
    return -ENOTSUP;
  if (test_answer("dump", 0) == CHECKPOINT_REFUSED)
    the_host->explain(the_host, "its tunnel is busy", "close the tunnel");
  int r = test_answer("dump", 0);
  return r ? r : the_host->record_add(the_host, o->id, "id 5 dstport 4789 remote 10.0.0.1", 34);
}

/* In a process of its own: the engine's namespaces stay as they are. */
static int make(const struct checkpoint_object *o, const char *how) {
  char command[256];
  int status = 0;
  (void)snprintf(command, sizeof command, "ip link add %s type %s %s", o->path, o->link_kind, how);
  pid_t pid = fork();
  if (pid == 0) {
    if (setns(o->fd, CLONE_NEWNET) == 0)
      (void)execlp("sh", "sh", "-c", command, (char *)NULL);
    _exit(1);
  }
  return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -EIO;
}

static int link_restore(void *context, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  const void *record;
  size_t size;
  test_note("restore link %u %u %s path %s", o->link_index, o->link_type, o->link_kind, o->path);
  int r = test_answer("restore", 0);
  if (!r)
    r = the_host->record_get(the_host, o->id, 0, &record, &size);
  return r ? r : make(o, record);
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("link-test", "1", "Network links"),
    .kinds = CHECKPOINT_KIND_LINK,
    .init = link_init,
    .dump = link_dump,
    .restore = link_restore,
};

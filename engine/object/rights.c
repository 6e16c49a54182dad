/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rights.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Raw system calls: these are of one thread, the functions of the C library of all. The kernel takes the capabilities that
 * override permissions away with the file system user id of root, and gives them back with it (capabilities(7)). */

static uid_t fs_uid(void) {
  return (uid_t)syscall(SYS_setfsuid, -1);
}

static gid_t fs_gid(void) {
  return (gid_t)syscall(SYS_setfsgid, -1);
}

bool caller_is_limited(const Job *job) {
  const EngineCaller *caller = job_caller(job);
  return caller && caller->uid && !caller->any_target;
}

static bool remember(CallerRights *saved) {
  saved->uid = fs_uid();
  saved->gid = fs_gid();
  saved->n_groups = getgroups(0, NULL);
  if (saved->n_groups < 0)
    return false;
  saved->groups = g_new0(gid_t, (gsize)saved->n_groups + 1);
  return getgroups(saved->n_groups, saved->groups) == saved->n_groups;
}

static bool take(const EngineCaller *caller) {
  if (syscall(SYS_setgroups, caller->n_gid, caller->gid) < 0)
    return false;
  (void)syscall(SYS_setfsgid, caller->gid[0]);
  (void)syscall(SYS_setfsuid, caller->uid);
  return fs_uid() == caller->uid && fs_gid() == caller->gid[0];
}

bool caller_rights_begin(const Job *job, CallerRights *saved, GError **error) {
  const EngineCaller *caller = job_caller(job);
  *saved = (CallerRights){0};
  if (!caller_is_limited(job) || geteuid() == caller->uid) /* untrusted images: it has become the caller already */
    return true;
  if (!caller->n_gid)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "The caller's groups are not known");
  if (!remember(saved))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the engine's groups");
  saved->changed = true;
  return take(caller) ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot take the rights of user %u", caller->uid);
}

void caller_rights_end(CallerRights *saved) {
  if (saved->changed) {
    (void)syscall(SYS_setfsuid, saved->uid);
    (void)syscall(SYS_setfsgid, saved->gid);
    if (syscall(SYS_setgroups, saved->n_groups, saved->groups) < 0 || fs_uid() != saved->uid || fs_gid() != saved->gid)
      abort(); /* going on with other rights than meant would be worse */
  }
  g_free(saved->groups);
  *saved = (CallerRights){0};
}

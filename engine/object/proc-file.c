/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proc-file.h"
#include "remap-file-path.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

pid_t proc_file_pid(const char *path) {
  if (strncmp(path, "/proc/", 6) != 0 || !g_ascii_isdigit(path[6]))
    return 0;
  char *end;
  guint64 pid = g_ascii_strtoull(path + 6, &end, 10);
  return (*end == '/' || !*end || *end == ' ') && pid <= G_MAXINT32 ? (pid_t)pid : 0;
}

bool proc_file_is_of_thread(const char *path) {
  pid_t pid = proc_file_pid(path);
  const char *rest = pid ? strchr(path + strlen("/proc/"), '/') : NULL;
  return rest && g_str_has_prefix(rest, "/task/") && g_ascii_isdigit(rest[6]) && atoi(rest + 6) != pid;
}

/* --- collect --- */

/* What follows the number, without what the kernel appends to a name that is gone; newly allocated. */
static char *rest_of(const char *path) {
  const char *rest = path + strlen("/proc/") + strspn(path + strlen("/proc/"), "0123456789");
  size_t length = strlen(rest), suffix = strlen(" (deleted)");
  return g_strndup(rest, g_str_has_suffix(rest, " (deleted)") ? length - suffix : length);
}

/* Whether any process has a file of that name: then one of a helper will do. */
static bool is_of_everybody(const char *rest, pid_t pid) {
  pid_t tid = 0;
  g_autofree char *own = g_str_has_prefix(rest, "/task/") && (tid = (pid_t)atoi(rest + 6)) == pid
                             ? g_strdup_printf("/proc/self/task/%d%s", (int)getpid(), rest + 6 + strspn(rest + 6, "0123456789"))
                             : g_strdup_printf("/proc/self%s", rest);
  static const char *const parts[] = {"/fd/", "/fdinfo/", "/map_files/", NULL};
  for (size_t i = 0; parts[i]; i++)
    if (g_str_has_prefix(rest, parts[i]))
      return false;
  return (!tid || tid == pid) && access(own, F_OK) == 0;
}

ProcOwner proc_file_owner(const Collector *c, const FileProbe *probe, pid_t *ret_pid) {
  struct statfs fs;
  pid_t pid = *ret_pid = proc_file_pid(probe->link);
  if (!pid || fstatfs(probe->local, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
    return PROC_NONE;
  if (probe->path_checked)
    return checkpoint_find_task(collector_checkpoint((Collector *)c), pid) ? PROC_LIVING : PROC_OUTSIDE;
  g_autofree char *rest = rest_of(probe->link);
  return is_of_everybody(rest, pid) ? PROC_DEAD : PROC_PART;
}

void proc_file_collect_dead(Collector *c, guint32 file_id, pid_t pid) {
  RemapFilePathEntry *remap = MESSAGE_NEW(RemapFilePathEntry, remap_file_path_entry__init);
  remap->orig_id = file_id;
  remap->remap_id = (guint32)pid;
  remap->has_remap_type = true;
  remap->remap_type = REMAP_TYPE__PROCFS;
  checkpoint_add_record(collector_checkpoint(c), RECORD_REMAP, &remap->base, NULL);
}

/* --- restore --- */

bool proc_file_is_dead(Restorer *r, guint32 file_id) {
  const GPtrArray *remaps = restorer_checkpoint(r)->records[RECORD_REMAP];
  for (guint i = 0; i < remaps->len; i++) {
    const RemapFilePathEntry *e = (const RemapFilePathEntry *)((const Record *)remaps->pdata[i])->message;
    if (e->orig_id == file_id && e->has_remap_type && e->remap_type == REMAP_TYPE__PROCFS)
      return true;
  }
  return false;
}

/* A process that waits for its end; with the number @pid, or another where that is taken. */
static pid_t start_helper(pid_t pid) {
  struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (guint64)(uintptr_t)&pid, .set_tid_size = 1};
  pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  if (child < 0 && errno == EEXIST) {
    args.set_tid = args.set_tid_size = 0;
    child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  }
  while (child == 0)
    (void)syscall(SYS_pause);
  return child;
}

int proc_file_open_dead(Restorer *r, const RegFileEntry *reg, GError **error) {
  pid_t pid = proc_file_pid(reg->name), child = pid ? start_helper(pid) : -1;
  if (child < 0) {
    engine_fail_errno(error, pid ? ENGINE_ERROR_CODE__FAILED : ENGINE_ERROR_CODE__IMAGE_INVALID, pid ? errno : EINVAL,
        "Cannot make a process whose file is %s", reg->name);
    return -1;
  }
  g_autofree char *rest = rest_of(reg->name);
  g_autofree char *path = g_str_has_prefix(rest, "/task/")
                              ? g_strdup_printf("/proc/%d/task/%d%s", (int)child, (int)child, rest + 6 + strspn(rest + 6, "0123456789"))
                              : g_strdup_printf("/proc/%d%s", (int)child, rest);
  int fd = open(path, reg_open_flags(reg->flags)), reason = errno;
  (void)kill(child, SIGKILL);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, reason, "Cannot open %s of a process", reg->name);
  return fd;
}

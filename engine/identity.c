/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "identity.h"
#include "proc.h"
#include "restore.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CAP_CHECKPOINT_RESTORE
#define CAP_CHECKPOINT_RESTORE 40
#endif
#define CAP_BIT(cap) (1ull << (cap))

static bool refuse(pid_t pid, const char *why, GError **error) {
  return engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
      "Images of yours cannot be restored for the process %d: %s", (int)pid, why);
}

static bool set_caps(guint64 effective, guint64 permitted) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++)
    data[i] = (struct __user_cap_data_struct){(guint32)(effective >> (32 * i)), (guint32)(permitted >> (32 * i)), 0};
  return syscall(SYS_capset, &header, data) == 0;
}

static bool same_link(pid_t pid, const char *name) {
  struct stat ours, theirs;
  char path[64], own[64];
  g_snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  g_snprintf(own, sizeof own, "/proc/self/%s", name);
  if (stat(own, &ours) < 0)
    return true; /* this kernel has no such thing */
  return stat(path, &theirs) == 0 && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

/* What a process made by us would not have, but the caller has: being kept in somewhere. */
static const char *confinement(pid_t pid, const ProcStatus *s) {
  static const char *const namespaces[] = {
      "ns/user", "ns/pid", "ns/mnt", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup", "ns/time"};
  if (s->seccomp)
    return "it has a seccomp filter, which what it restores would not have";
  for (size_t i = 0; i < G_N_ELEMENTS(namespaces); i++)
    if (!same_link(pid, namespaces[i]))
      return "it lives in a namespace of its own, which what it restores would not";
  if (!same_link(pid, "root"))
    return "it has a root directory of its own, which what it restores would not have";
  g_autofree char *theirs = proc_read(pid, "attr/current", NULL, NULL),
                  *ours = proc_read(getpid(), "attr/current", NULL, NULL);
  if (theirs && ours && strcmp(theirs, ours) != 0)
    return "its security label is another than the service's";
  return NULL;
}

static bool is_group_of(const EngineCaller *caller, gid_t gid) {
  for (size_t i = 0; i < caller->n_gid; i++)
    if (caller->gid[i] == gid)
      return true;
  return false;
}

static bool check_caller(const EngineCaller *caller, const ProcStatus *s, GError **error) {
  for (int i = 0; i < 4; i++)
    if (s->uid[i] != caller->uid || s->gid[i] != s->gid[0])
      return refuse((pid_t)caller->pid, "it does not run under your user id and one group id alone", error);
  bool known = is_group_of(caller, s->gid[0]);
  for (guint i = 0; s->groups && i < s->groups->len; i++)
    known = known && is_group_of(caller, g_array_index(s->groups, gid_t, i));
  if (!known)
    return refuse((pid_t)caller->pid, "it has groups that it had not when it connected to the bus", error);
  const char *why = confinement((pid_t)caller->pid, s);
  return why ? refuse((pid_t)caller->pid, why, error) : true;
}

/* --- what every process has from its parent, and these shall have as if from the caller --- */

static void join_cgroups(Job *job, pid_t pid) {
  g_autofree char *theirs = proc_read(pid, "cgroup", NULL, NULL), *ours = proc_read(getpid(), "cgroup", NULL, NULL);
  g_auto(GStrv) lines = g_strsplit(theirs ? theirs : "", "\n", -1);
  for (char **l = lines; *l; l++) {
    g_auto(GStrv) fields = g_strsplit(*l, ":", 3);
    if (g_strv_length(fields) < 3 || (ours && strstr(ours, *l)))
      continue;
    int e = cgroup_enter(getpid(), fields[1], fields[2]);
    if (e < 0)
      job_log(job, 4, "What is restored does not come into your control group %s of the hierarchy \"%s\": %s",
          fields[2], fields[1], g_strerror(-e));
  }
}

static void write_own(const char *name, const char *value) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/self/%s", name);
  int fd = value ? open(path, O_WRONLY | O_CLOEXEC) : -1;
  if (fd < 0)
    return;
  ssize_t n = write(fd, value, strlen(value)); /* not everything can be set everywhere */
  (void)n;
  (void)close(fd);
}

/* The hard ones, in /proc/PID/limits (prlimit(2) would need CAP_SYS_RESOURCE): a line each in the order of their
 * numbers, after a head; columns of 26, 21 and 21. */
#define LIMITS_HARD_COLUMN 47

static bool take_limits(pid_t pid, GError **error) {
  g_autofree char *text = proc_read(pid, "limits", NULL, NULL);
  g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
  if (g_strv_length(lines) < RLIM_NLIMITS + 1)
    return refuse(pid, "its resource limits cannot be read", error);
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    struct rlimit ours;
    const char *hard = strlen(lines[i + 1]) > LIMITS_HARD_COLUMN ? lines[i + 1] + LIMITS_HARD_COLUMN : "";
    char *end = NULL;
    guint64 theirs = g_ascii_strtoull(hard, &end, 10);
    if ((end == hard && !g_str_has_prefix(hard, "unlimited")) || getrlimit((__rlimit_resource_t)i, &ours) < 0)
      return refuse(pid, "its resource limits cannot be read", error);
    if (end == hard || theirs >= ours.rlim_max)
      continue;
    ours.rlim_max = theirs;
    ours.rlim_cur = MIN(ours.rlim_cur, ours.rlim_max);
    if (setrlimit((__rlimit_resource_t)i, &ours) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot take over resource limit %d", i);
  }
  return true;
}

static bool inherit(Job *job, pid_t pid, const ProcStatus *s, GError **error) {
  errno = 0;
  int nice = getpriority(PRIO_PROCESS, (id_t)pid);
  if (errno == 0)
    (void)setpriority(PRIO_PROCESS, 0, nice);
  g_autofree char *oom = proc_read(pid, "oom_score_adj", NULL, NULL), *login = proc_read(pid, "loginuid", NULL, NULL);
  write_own("oom_score_adj", oom);
  write_own("loginuid", login);
  join_cgroups(job, pid);
  if (!take_limits(pid, error))
    return false;
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (!(s->cap_bnd & CAP_BIT(cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot give up capability %d", cap);
  if (s->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set no_new_privs");
  return true;
}

static bool change_ids(const EngineCaller *caller, const ProcStatus *s, GError **error) {
  const gid_t *groups = s->groups ? (const gid_t *)(const void *)s->groups->data : NULL;
  (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(s->groups ? s->groups->len : 0, groups) < 0 ||
      setresgid(s->gid[0], s->gid[0], s->gid[0]) < 0 || setresuid(caller->uid, caller->uid, caller->uid) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot become user %u", caller->uid);
  if (!set_caps(CAP_BIT(CAP_CHECKPOINT_RESTORE), CAP_BIT(CAP_CHECKPOINT_RESTORE)) ||
      prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, errno, "Cannot keep CAP_CHECKPOINT_RESTORE");
  /* Others of the same user still cannot trace us, nor the tasks while they are made: we have a capability more. */
  (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  return true;
}

/* --- the minder --- */

static pid_t minded;

static void on_terminate(int signo) {
  (void)kill(minded, signo);
}

/* Ends as its child does. */
static _Noreturn void mind(pid_t child) {
  const struct sigaction terminate = {.sa_handler = on_terminate};
  int status = 0;
  minded = child;
  (void)sigaction(SIGTERM, &terminate, NULL);
  (void)close_range(3, ~0u, 0); /* who listens to the channel is to see its end */
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  if (WIFSIGNALED(status)) {
    (void)signal(WTERMSIG(status), SIG_DFL);
    (void)kill(getpid(), WTERMSIG(status));
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Signals to a process may come from its user, who can stop it for good; and the service, which has no capability, could
 * not end it. So the process that the service knows stays root's and does nothing but wait; its end is ours. */
static bool fork_under_minder(pid_t *ret_minder, GError **error) {
  *ret_minder = getpid();
  pid_t child = fork();
  if (child > 0)
    mind(child);
  return child == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a process");
}

/* After the change of ids, which would undo it. */
static bool die_with(pid_t minder, GError **error) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && getppid() == minder)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__CANCELLED, "The engine is being ended");
}

bool identity_become_caller(Job *job, int pidfd, GError **error) {
  const EngineCaller *caller = job_caller(job);
  pid_t minder = 0;
  if (!caller || !caller->has_pid || pidfd < 0 || caller->uid == 0)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "Untrusted images, and nobody to be untrusted");
  ProcStatus s;
  pid_t pid = (pid_t)caller->pid;
  if (!proc_status(pid, pid, &s, error))
    return false;
  /* The pidfd answers after the reading: it was this process. */
  bool ok = syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 ||
            engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Process %d, which asked, does not exist any more",
                (int)pid);
  ok = ok && check_caller(caller, &s, error) && fork_under_minder(&minder, error) && inherit(job, pid, &s, error) &&
       change_ids(caller, &s, error) && die_with(minder, error);
  proc_status_clear(&s);
  return ok;
}

/* --- writing --- */

static guint64 own_permitted(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{0}};
  return syscall(SYS_capget, &header, data) == 0 ? data[0].permitted | (guint64)data[1].permitted << 32 : 0;
}

/* A file without a name, or with one for a moment where the file system has none without. */
static bool may_make_files(int dir) {
  int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    g_autofree char *name = g_strdup_printf(".checkpoint-%08x", g_random_int());
    fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0)
      (void)unlinkat(dir, name, 0);
  }
  if (fd >= 0)
    (void)close(fd);
  return fd >= 0;
}

/* The bus tells all groups, the process which of them is its own. */
static gid_t primary_group(const EngineCaller *caller) {
  ProcStatus s;
  if (!caller->has_pid || !proc_status((pid_t)caller->pid, (pid_t)caller->pid, &s, NULL))
    return caller->gid[0];
  gid_t gid = s.gid[1];
  proc_status_clear(&s);
  return is_group_of(caller, gid) ? gid : caller->gid[0];
}

bool identity_write_as_caller(Job *job, GError **error) {
  const EngineCaller *caller = job_caller(job);
  const guint64 none = CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_FOWNER) | CAP_BIT(CAP_FSETID) |
                       CAP_BIT(CAP_MKNOD) | CAP_BIT(CAP_LINUX_IMMUTABLE) | CAP_BIT(CAP_SYS_RESOURCE);
  if (!caller || !caller->n_gid)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "A directory of the caller's, and no caller");
  guint64 keep = own_permitted() & ~none;
  gid_t gid = primary_group(caller);
  if (setgroups(caller->n_gid, caller->gid) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot take the groups of user %u", caller->uid);
  (void)setfsgid(gid);
  (void)setfsuid(caller->uid);
  if (!set_caps(keep, keep) || (uid_t)setfsuid(caller->uid) != caller->uid)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot write as user %u", caller->uid);
  if (may_make_files(job_images_fd(job)))
    return true;
  return engine_fail_errno(error,
      errno == ENOSPC || errno == EDQUOT ? ENGINE_ERROR_CODE__NO_SPACE : ENGINE_ERROR_CODE__INVALID_ARGS, errno,
      "Cannot make files in the directory as user %u", caller->uid);
}

/* --- the directory --- */

/* Calls @visit with the name of each image; false if one call says so. */
static bool visit_images(int dir_fd, bool (*visit)(int dir_fd, const char *name, GError **error), GError **error) {
  int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
  bool ok = dir || engine_fail_errno(error, ENGINE_ERROR_CODE__INVALID_ARGS, errno, "Cannot read the directory");
  for (const struct dirent *e; ok && (e = readdir(dir));)
    if (g_str_has_suffix(e->d_name, ".img"))
      ok = visit(dir_fd, e->d_name, error);
  if (dir)
    (void)closedir(dir);
  else if (fd >= 0)
    (void)close(fd);
  return ok;
}

static bool is_in_the_way(int dir_fd, const char *name, GError **error) {
  return engine_fail(error, ENGINE_ERROR_CODE__CHECKPOINT_EXISTS,
      "The directory holds images already (%s): remove them, or take another one", name);
}

static bool remove_image(int dir_fd, const char *name, GError **error) {
  (void)unlinkat(dir_fd, name, 0); /* without an inventory it is no checkpoint anyway */
  return true;
}

bool identity_directory_is_free(int dir_fd, GError **error) {
  return visit_images(dir_fd, is_in_the_way, error);
}

void identity_directory_clear(int dir_fd) {
  (void)unlinkat(dir_fd, "inventory.img", 0);
  (void)visit_images(dir_fd, remove_image, NULL);
}

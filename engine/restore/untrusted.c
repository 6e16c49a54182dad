/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "untrusted.h"
#include "fown.pb-c.h"
#include "memfd.pb-c.h"
#include "proc.h"
#include "regfile.pb-c.h"
#include "sk-inet.pb-c.h"
#include "sk-opts.pb-c.h"
#include "sk-unix.pb-c.h"
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The system's first 300 process ids are those of the kernel and of early boot: the kernel does not give them again either
 * (kernel/pid.c). In another pid namespace, which began with an init of its own, all are ordinary ones but 1. */
#define FIRST_PID_OF_SYSTEM 301
#define FIRST_PID_OF_NAMESPACE 2
#define INITIAL_PID_NAMESPACE 0xEFFFFFFCu /* its inode: PROC_PID_INIT_INO */
#define TCP_STATE_CLOSE 7
#define TCP_STATE_LISTEN 10
#define IOPRIO_CLASS_RT 1
#define PRIORITY_MAX 6 /* of packets, without CAP_NET_ADMIN: socket(7) */

static bool refuse(GError **error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool refuse(GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *what = g_strdup_vprintf(format, ap);
  va_end(ap);
  return engine_fail(
      error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, "The images ask for more than you may have: %s", what);
}

static gint64 read_number(const char *path, gint64 otherwise) {
  g_autofree char *text = NULL;
  return g_file_get_contents(path, &text, NULL, NULL) ? g_ascii_strtoll(text, NULL, 10) : otherwise;
}

UntrustedRights *untrusted_rights_of_self(void) {
  UntrustedRights *r = g_new0(UntrustedRights, 1);
  ProcStatus s;
  r->uid = geteuid();
  r->gid = getegid();
  int n = getgroups(0, NULL);
  r->groups = g_array_new(FALSE, TRUE, sizeof(gid_t));
  g_array_set_size(r->groups, n > 0 ? (guint)n : 0);
  if (n > 0)
    n = getgroups(n, (gid_t *)(void *)r->groups->data);
  if (proc_status(getpid(), getpid(), &s, NULL)) {
    r->bounding = s.cap_bnd;
    proc_status_clear(&s);
  }
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    struct rlimit limit = {0};
    (void)getrlimit((__rlimit_resource_t)i, &limit);
    r->limits[i] = limit.rlim_max;
  }
  struct stat ns;
  bool initial = stat("/proc/self/ns/pid", &ns) < 0 || ns.st_ino == INITIAL_PID_NAMESPACE;
  r->first_pid = initial ? FIRST_PID_OF_SYSTEM : FIRST_PID_OF_NAMESPACE;
  r->nice = getpriority(PRIO_PROCESS, 0);
  r->oom_score_adj = (int)read_number("/proc/self/oom_score_adj", 0);
  r->first_port = (guint16)read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start", 1024);
  return r;
}

void untrusted_rights_free(UntrustedRights *rights) {
  if (!rights)
    return;
  g_array_unref(rights->groups);
  g_free(rights);
}

/* --- credentials --- */

static guint64 caps_of(size_t n, const uint32_t *words) {
  return (n > 0 ? words[0] : 0) | (n > 1 ? (guint64)words[1] << 32 : 0);
}

static bool has_group(const CredsEntry *c, gid_t gid) {
  for (size_t i = 0; i < c->n_groups; i++)
    if (c->groups[i] == gid)
      return true;
  return c->gid == gid;
}

static bool is_my_group(const UntrustedRights *r, gid_t gid) {
  for (guint i = 0; i < r->groups->len; i++)
    if (g_array_index(r->groups, gid_t, i) == gid)
      return true;
  return r->gid == gid;
}

/* Exactly the same: to lose a group is a privilege, too, where files deny it something. */
static bool check_groups(const char *who, const CredsEntry *c, const UntrustedRights *r, GError **error) {
  if (c->gid != r->gid || c->egid != r->gid || c->sgid != r->gid || c->fsgid != r->gid)
    return refuse(error, "%s has another group id than you (%u)", who, r->gid);
  for (size_t i = 0; i < c->n_groups; i++)
    if (!is_my_group(r, c->groups[i]))
      return refuse(error, "%s is in group %u, and you are not", who, c->groups[i]);
  for (guint i = 0; i < r->groups->len; i++)
    if (!has_group(c, g_array_index(r->groups, gid_t, i)))
      return refuse(error, "%s is not in group %u, and you are", who, g_array_index(r->groups, gid_t, i));
  return true;
}

static bool check_creds(const char *who, const CredsEntry *c, const UntrustedRights *r, GError **error) {
  if (!c)
    return refuse(error, "%s has no credentials at all", who);
  if (c->uid != r->uid || c->euid != r->uid || c->suid != r->uid || c->fsuid != r->uid)
    return refuse(error, "%s has another user id than you (%u)", who, r->uid);
  if (!check_groups(who, c, r, error))
    return false;
  if (caps_of(c->n_cap_prm, c->cap_prm) || caps_of(c->n_cap_eff, c->cap_eff) || caps_of(c->n_cap_inh, c->cap_inh) ||
      caps_of(c->n_cap_amb, c->cap_amb))
    return refuse(error, "%s has capabilities", who);
  if (c->secbits)
    return refuse(error, "%s has secure bits 0x%x set", who, c->secbits);
  /* A set-user-id program that lacks a capability it counts on can be tricked; with no_new_privs there is none. */
  if ((r->bounding & ~caps_of(c->n_cap_bnd, c->cap_bnd)) && !(c->has_no_new_privs && c->no_new_privs))
    return refuse(error, "%s has a smaller capability bounding set than you, and not no_new_privs", who);
  if (c->lsm_profile && *c->lsm_profile && strcmp(c->lsm_profile, "unconfined") != 0)
    return refuse(error, "%s has the security label %s", who, c->lsm_profile);
  if ((c->lsm_sockcreate && *c->lsm_sockcreate) || (c->has_apparmor_data && c->apparmor_data.len))
    return refuse(error, "%s has a security label for what it makes", who);
  return true;
}

/* --- threads and tasks --- */

static bool check_scheduling(
    const char *who, const ThreadCoreEntry *tc, const CkptThread *x, const UntrustedRights *r, GError **error) {
  rlim_t limit = r->limits[RLIMIT_NICE];
  int lowest = MIN(r->nice, 20 - (int)MIN(limit, 40));
  if (tc->has_sched_policy && tc->sched_policy != SCHED_OTHER && tc->sched_policy != SCHED_BATCH &&
      tc->sched_policy != SCHED_IDLE)
    return refuse(error, "%s is scheduled by policy %u, before others", who, tc->sched_policy);
  if (tc->has_sched_nice && tc->sched_nice < lowest)
    return refuse(error, "%s has niceness %d, and yours is not below %d", who, tc->sched_nice, lowest);
  if (x && x->has_ioprio && x->ioprio >> 13 == IOPRIO_CLASS_RT)
    return refuse(error, "%s has an I/O priority before all others", who);
  return true;
}

static bool check_pid(const char *who, guint32 pid, const UntrustedRights *r, GError **error) {
  return pid >= r->first_pid || refuse(error, "%s has a process id below %u", who, r->first_pid);
}

static bool check_thread(const Thread *th, const UntrustedRights *r, GError **error) {
  g_autofree char *who = g_strdup_printf("thread %d", (int)th->tid);
  const ThreadCoreEntry *tc = th->core->thread_core;
  if (!tc)
    return refuse(error, "%s has no state", who);
  if (tc->has_seccomp_mode && tc->seccomp_mode)
    return refuse(error, "%s runs under seccomp", who);
  return check_pid(who, (guint32)th->tid, r, error) && check_creds(who, tc->creds, r, error) &&
         check_scheduling(who, tc, th->extra, r, error);
}

static bool check_limits(const char *who, const TaskRlimitsEntry *limits, const UntrustedRights *r, GError **error) {
  for (size_t i = 0; limits && i < limits->n_rlimits && i < RLIM_NLIMITS; i++)
    if (limits->rlimits[i]->max > r->limits[i])
      return refuse(error, "%s has a resource limit %zu of %" G_GUINT64_FORMAT ", and you may have %" G_GUINT64_FORMAT,
          who, i, limits->rlimits[i]->max, (guint64)r->limits[i]);
  return true;
}

static bool check_timers(const char *who, const TaskTimersEntry *timers, GError **error) {
  for (size_t i = 0; timers && i < timers->n_posix; i++)
    if (timers->posix[i]->clock_id == CLOCK_REALTIME_ALARM || timers->posix[i]->clock_id == CLOCK_BOOTTIME_ALARM)
      return refuse(error, "%s has a timer that wakes the machine", who);
  return true;
}

static bool check_namespaces(
    const char *who, const TaskKobjIdsEntry *ids, const TaskKobjIdsEntry *outside, GError **error) {
  if (!ids || !outside)
    return true;
  const guint32 mine[] = {ids->pid_ns_id, ids->net_ns_id, ids->ipc_ns_id, ids->uts_ns_id, ids->mnt_ns_id,
      ids->user_ns_id, ids->cgroup_ns_id, ids->time_ns_id};
  const guint32 theirs[] = {outside->pid_ns_id, outside->net_ns_id, outside->ipc_ns_id, outside->uts_ns_id,
      outside->mnt_ns_id, outside->user_ns_id, outside->cgroup_ns_id, outside->time_ns_id};
  for (size_t i = 0; i < G_N_ELEMENTS(mine); i++)
    if (mine[i] && theirs[i] && mine[i] != theirs[i])
      return refuse(error, "%s is in a namespace of its own", who);
  return true;
}

static bool is_root(const Checkpoint *c, guint32 id) {
  const FileEntry *root = checkpoint_find_file(c, id);
  return root && root->reg && strcmp(root->reg->name, "/") == 0;
}

static bool check_root(const char *who, const Checkpoint *c, const Task *t, GError **error) {
  bool ok = !t->fs || is_root(c, t->fs->root_id);
  for (guint i = 0; ok && i < t->threads->len; i++) {
    const CkptThread *x = ((const Thread *)t->threads->pdata[i])->extra;
    ok = !x || !x->fs || is_root(c, x->fs->root_id);
  }
  return ok || refuse(error, "%s has a root directory of its own", who);
}

static bool check_task(const Checkpoint *c, const Task *t, const UntrustedRights *r, GError **error) {
  g_autofree char *who = g_strdup_printf("process %d", (int)task_pid(t));
  const TaskCoreEntry *tc = t->core->tc;
  if (!check_pid(who, t->pstree->pid, r, error))
    return false;
  if (task_is_zombie(t))
    return true;
  for (guint i = 0; i < t->threads->len; i++)
    if (!check_thread(t->threads->pdata[i], r, error))
      return false;
  if (!tc)
    return refuse(error, "%s has no state", who);
  if (tc->has_oom_score_adj && tc->oom_score_adj < r->oom_score_adj)
    return refuse(error, "%s is killed later than you when memory runs out (%d, you: %d)", who, tc->oom_score_adj,
        r->oom_score_adj);
  if (tc->has_old_seccomp_mode && tc->old_seccomp_mode)
    return refuse(error, "%s runs under seccomp", who);
  if (t->mm && t->mm->has_dumpable && t->mm->dumpable > 1)
    return refuse(error, "%s is dumpable for root only", who);
  return check_limits(who, tc->rlimits, r, error) && check_timers(who, tc->timers, error) &&
         check_namespaces(who, t->ids, c->inventory ? c->inventory->root_ids : NULL, error) &&
         check_root(who, c, t, error);
}

/* --- files --- */

static bool check_owner(
    const char *name, const Checkpoint *c, const FownEntry *f, const UntrustedRights *r, GError **error) {
  if (!f || (!f->pid && !f->signum && !f->uid && !f->euid))
    return true;
  if (f->pid && (f->uid != r->uid || f->euid != r->uid))
    return refuse(error, "%s sends signals in the name of user %u", name, f->uid);
  for (guint i = 0; f->pid && i < c->tasks->len; i++) {
    const Task *t = c->tasks->pdata[i];
    if (t->pstree->pid == f->pid || t->pstree->pgid == f->pid)
      return true;
    for (guint k = 0; k < t->threads->len; k++)
      if (((Thread *)t->threads->pdata[k])->tid == (pid_t)f->pid)
        return true;
  }
  return !f->pid || refuse(error, "%s sends signals to process %u, which is not one of its own", name, f->pid);
}

static bool is_plain_device(const char *path) {
  static const char *const plain[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", NULL};
  return g_strv_contains(plain, path);
}

static bool check_reg(const RegFileEntry *f, GError **error) {
  mode_t type = f->has_mode ? f->mode & S_IFMT : 0;
  if (strcmp(f->name, "/proc") == 0 || g_str_has_prefix(f->name, "/proc/"))
    return refuse(error, "%s is not a file but a process", f->name);
  if ((type == S_IFCHR || type == S_IFBLK ||
          (!type && g_str_has_prefix(f->name, "/dev/") && !g_str_has_prefix(f->name, "/dev/shm/"))) &&
      !is_plain_device(f->name))
    return refuse(error, "%s is a device", f->name);
  return true;
}

static bool check_sockopts(const char *name, const SkOptsEntry *o, GError **error) {
  if (o && o->has_so_mark && o->so_mark)
    return refuse(error, "%s has a mark (SO_MARK)", name);
  if (o && o->has_so_priority && o->so_priority > PRIORITY_MAX)
    return refuse(error, "%s has priority %u (SO_PRIORITY)", name, o->so_priority);
  if (o && o->so_bound_dev && *o->so_bound_dev)
    return refuse(error, "%s is bound to the device %s", name, o->so_bound_dev);
  return true;
}

static bool check_inet(const char *name, const InetSkEntry *s, const UntrustedRights *r, GError **error) {
  if (s->family != AF_INET && s->family != AF_INET6)
    return refuse(error, "%s is of family %u", name, s->family);
  if (s->type != SOCK_STREAM && s->type != SOCK_DGRAM)
    return refuse(error, "%s is a raw socket", name);
  if (s->type == SOCK_STREAM && s->state != TCP_STATE_CLOSE && s->state != TCP_STATE_LISTEN)
    return refuse(error, "%s is a TCP connection that would have to be repaired", name);
  if (s->src_port && s->src_port < r->first_port)
    return refuse(error, "%s has port %u, and yours begin at %u", name, s->src_port, r->first_port);
  if (s->ip_opts && (s->ip_opts->raw || s->ip_opts->freebind))
    return refuse(error, "%s has options of raw or foreign addresses", name);
  return check_sockopts(name, s->opts, error);
}

/* What is said to others about who made it. Pids of others are not taken from such images (unix-restore.c). */
static bool check_cred(const char *name, const CkptCred *cred, const UntrustedRights *r, GError **error) {
  if (cred && (cred->uid != r->uid || cred->gid != r->gid))
    return refuse(error, "%s says that it came from user %u and group %u", name, cred->uid, cred->gid);
  for (size_t i = 0; cred && i < cred->n_group; i++)
    if (!is_my_group(r, cred->group[i]))
      return refuse(error, "%s says that it came from a member of group %u", name, cred->group[i]);
  return true;
}

static bool check_socket(const char *name, const Checkpoint *c, guint32 id, const UntrustedRights *r, GError **error) {
  const CkptSocket *s = checkpoint_find_socket(c, id);
  for (size_t i = 0; s && i < s->n_packet; i++) {
    const CkptCred *cred = s->packet[i]->cred;
    if (cred && !checkpoint_find_task(c, (pid_t)cred->pid))
      return refuse(error, "%s has a packet in it of process %u, which is not one of its own", name, cred->pid);
    if (!check_cred(name, cred, r, error))
      return false;
  }
  return !s || check_cred(name, s->peer, r, error);
}

static bool check_unix(const char *name, const UnixSkEntry *s, const UntrustedRights *r, GError **error) {
  if (s->file_perms && (s->file_perms->uid != r->uid || !is_my_group(r, s->file_perms->gid)))
    return refuse(error, "%s is bound to a file of user %u and group %u", name, s->file_perms->uid, s->file_perms->gid);
  return check_sockopts(name, s->opts, error);
}

static const FownEntry *owner_of(const FileEntry *e) {
  return e->reg     ? e->reg->fown
         : e->usk   ? e->usk->fown
         : e->isk   ? e->isk->fown
         : e->memfd ? e->memfd->fown
         : e->pipe  ? e->pipe->fown
         : e->fifo  ? NULL
         : e->efd   ? e->efd->fown
         : e->epfd  ? e->epfd->fown
         : e->sgfd  ? e->sgfd->fown
         : e->ify   ? e->ify->fown
         : e->nlsk  ? e->nlsk->fown
         : e->tfd   ? e->tfd->fown
                    : NULL;
}

static bool check_file(const Checkpoint *c, const FileEntry *e, const UntrustedRights *r, GError **error) {
  g_autofree char *name = g_strdup_printf("file %u (%s)", e->id, e->reg ? e->reg->name : "no path");
  switch (e->type) {
  case FD_TYPES__REG:
    if (e->reg && !check_reg(e->reg, error))
      return false;
    break;
  case FD_TYPES__INETSK:
    if (e->isk && !check_inet(name, e->isk, r, error))
      return false;
    break;
  case FD_TYPES__UNIXSK:
    if (e->usk && (!check_unix(name, e->usk, r, error) || !check_socket(name, c, e->id, r, error)))
      return false;
    break;
  case FD_TYPES__TIMERFD:
    if (e->tfd && (e->tfd->clockid == CLOCK_REALTIME_ALARM || e->tfd->clockid == CLOCK_BOOTTIME_ALARM))
      return refuse(error, "%s is a timer that wakes the machine", name);
    break;
  case FD_TYPES__PIPE:
  case FD_TYPES__FIFO:
  case FD_TYPES__EVENTFD:
  case FD_TYPES__EVENTPOLL:
  case FD_TYPES__SIGNALFD:
  case FD_TYPES__INOTIFY: /* found and watched with the caller's rights */
  case FD_TYPES__NETLINKSK:
  case FD_TYPES__MEMFD:
    break;
  default:
    return refuse(error, "%s is of type %d, which is not restored from images of a caller", name, (int)e->type);
  }
  return check_owner(name, c, owner_of(e), r, error);
}

static bool check_memfds(const Checkpoint *c, const UntrustedRights *r, GError **error) {
  const GPtrArray *records = c->records[RECORD_MEMFD];
  for (guint i = 0; i < records->len; i++) {
    const MemfdInodeEntry *m = (const MemfdInodeEntry *)((Record *)records->pdata[i])->message;
    if (m->uid != r->uid || !is_my_group(r, m->gid))
      return refuse(error, "memfd %s belongs to user %u and group %u", m->name, m->uid, m->gid);
  }
  return true;
}

/* What the images say about objects outside: the paths in it are as good as those of files. */
static bool check_external(const CkptExternal *e, GError **error) {
  RegFileEntry file = REG_FILE_ENTRY__INIT;
  if (e->plugin && strcmp(e->action, "plugin") == 0) /* of others, whose objects the engine makes, the dispatch looks who it is */
    return refuse(error, "the plugin %s", e->plugin);
  if (strcmp(e->action, "remap") != 0 || !e->value)
    return true;
  file.name = e->value;
  return check_reg(&file, error);
}

bool untrusted_check(const Checkpoint *c, const UntrustedRights *r, GError **error) {
  for (guint i = 0; i < c->tasks->len; i++)
    if (!check_task(c, c->tasks->pdata[i], r, error))
      return false;
  for (guint i = 0; i < c->files->len; i++)
    if (!check_file(c, c->files->pdata[i], r, error))
      return false;
  for (guint i = 0; i < c->externals->len; i++)
    if (!check_external(c->externals->pdata[i], error))
      return false;
  if (c->net_namespaces->len)
    return refuse(error, "a network namespace of its own");
  if (c->linked_files->len)
    return refuse(error, "a file by its handle, which no directory's permissions protect");
  if (c->records[RECORD_IPC_SHM]->len)
    return refuse(error, "System V shared memory, whose ids and keys are everybody's");
  return check_memfds(c, r, error);
}

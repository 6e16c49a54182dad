/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon-error.h"

#define DEPTH_MAX 4096        /* of a process tree */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h, field 9 of /proc/PID/stat */

void target_unpin(Target *target) {
  if (target && target->pidfd >= 0)
    (void)close(target->pidfd);
  if (target)
    target->pidfd = -EBADF;
}

void target_free(Target *target) {
  target_unpin(target);
  g_free(target);
}

static bool set_error(GError **error, int code, pid_t pid, const char *why) {
  g_set_error(error, DAEMON_ERROR, code, "pid %d: %s", (int)pid, why);
  return false;
}

static char *read_proc(pid_t pid, const char *file) {
  g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, file);
  char *text = NULL;

  return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

/* Returns false when the process is gone or /proc does not say. */
static bool read_status(Target *target, char *ret_state) {
  g_autofree char *status = read_proc(target->pid, "status");
  const char *uid_line = status ? strstr(status, "\nUid:") : NULL;
  const char *state_line = status ? strstr(status, "\nState:\t") : NULL;
  uid_t u[4];

  if (!uid_line || !state_line || sscanf(uid_line, "\nUid: %u %u %u %u", &u[0], &u[1], &u[2], &u[3]) != 4)
    return false;
  memcpy(target->uids, u, sizeof u);
  if (sscanf(status, "Name:\t%63[^\n]", target->comm) != 1)
    target->comm[0] = '\0';
  *ret_state = state_line[strlen("\nState:\t")];
  return true;
}

static bool is_kernel_thread(pid_t pid) {
  g_autofree char *stat = read_proc(pid, "stat");
  const char *rest = stat ? strrchr(stat, ')') : NULL;
  unsigned flags = 0;

  /* after the name: state ppid pgrp session tty tpgid flags */
  return rest && sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && (flags & PF_KTHREAD) != 0;
}

static bool is_alive(const Target *target) {
  struct pollfd p = {.fd = target->pidfd, .events = POLLIN};

  return poll(&p, 1, 0) == 0; /* readable once the process has ended */
}

bool target_refresh(Target *target, GError **error) {
  char state = '?';

  /* Alive after the reading means that what was read was this process. */
  if (!read_status(target, &state) || !is_alive(target))
    return set_error(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, target->pid, "No such process");
  if (state == 'Z' || state == 'X')
    return set_error(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, target->pid, "The process has already ended (zombie)");
  return true;
}

Target *target_new(pid_t pid, GError **error) {
  g_autoptr(Target) target = g_new0(Target, 1);

  target->pid = pid;
  target->pidfd = -EBADF;
  if (pid <= 0)
    return set_error(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, pid, "No such process"), NULL;
  if (pid == 1) {
    set_error(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, pid, "The system's first process cannot be dumped");
    return NULL;
  }
  target->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (target->pidfd < 0 && (errno == EINVAL || errno == ENOENT)) {
    set_error(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, pid, "A thread, not a process; use the pid of its process");
    return NULL;
  }
  if (target->pidfd < 0) {
    g_set_error(error, DAEMON_ERROR, errno == ESRCH ? ENGINE_ERROR_CODE__NO_SUCH_PROCESS : ENGINE_ERROR_CODE__FAILED,
        "pid %d: %s", (int)pid, g_strerror(errno));
    return NULL;
  }
  if (!target_refresh(target, error))
    return NULL;
  if (is_kernel_thread(pid))
    return set_error(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, pid, "A kernel thread cannot be dumped"), NULL;
  return g_steal_pointer(&target);
}

/* pidfd_open(2): "Pid:" is -1 once the process is reaped, 0 for a process of another pid namespace. */
static bool read_pidfd(int pidfd, pid_t *ret_pid) {
  g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", pidfd), *text = NULL;
  const char *line;

  /* Signal 0 asks only whether it is a pidfd (EPERM: it is, and the process somebody else's). */
  if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0 && errno != EPERM && errno != ESRCH)
    return false;
  if (!g_file_get_contents(path, &text, NULL, NULL) || !(line = strstr(text, "\nPid:")))
    return false;
  *ret_pid = (pid_t)g_ascii_strtoll(line + strlen("\nPid:"), NULL, 10);
  return true;
}

Target *target_new_from_pidfd(int pidfd, GError **error) {
  g_autoptr(Target) target = NULL;
  struct pollfd p = {.fd = pidfd, .events = POLLIN};
  pid_t pid = 0;

  if (!read_pidfd(pidfd, &pid)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "The descriptor is no pidfd");
    return NULL;
  }
  if (pid <= 0 || poll(&p, 1, 0) != 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_PROCESS,
        pid == 0 ? "The pidfd is of a process in another pid namespace" : "The process of the pidfd has ended");
    return NULL;
  }
  target = target_new(pid, error);
  if (target && poll(&p, 1, 0) != 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "The process of the pidfd has ended");
    return NULL;
  }
  return g_steal_pointer(&target);
}

bool target_is_of(const Target *target, uid_t uid) {
  for (size_t i = 0; i < G_N_ELEMENTS(target->uids); i++)
    if (target->uids[i] != uid)
      return false;
  return true;
}

static pid_t parent_of(pid_t pid) {
  g_autofree char *stat = read_proc(pid, "stat");
  const char *rest = stat ? strrchr(stat, ')') : NULL;
  int parent = 0;

  return rest && sscanf(rest, ") %*c %d", &parent) == 1 ? parent : 0;
}

bool target_is_within(pid_t pid, pid_t ancestor) {
  for (unsigned i = 0; i < DEPTH_MAX && pid > 0; i++) {
    if (pid == ancestor)
      return true;
    pid = parent_of(pid);
  }
  return false;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "act.h"
#include "restore.h"
#include "scripts.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The pid file is made before anything is restored, so that one which is there already stops the restore, not the
 * restored tree. -1 without an error: none is wanted. */
static int pidfile_create(const CriuRun *run, GError **error) {
  const char *path = run->options->pidfile;
  if (!path)
    return -1;
  int fd = openat(run->work_fd, path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOCTTY, 0600);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot create the pid file %s", path);
  return fd;
}

/* Decimal, no newline. */
static void pidfile_write(CriuRun *run, int fd, pid_t pid) {
  char text[16];
  int size = snprintf(text, sizeof text, "%d", pid);
  if (write(fd, text, (size_t)size) != size)
    criu_log(
        run->log, LOG_ERR, "pidfile", "Cannot write the pid file %s: %s", run->options->pidfile, g_strerror(errno));
}

static bool restore(CriuRun *run, Job *job, pid_t *ret_pid, GError **error) {
  GError *failure = NULL;
  int pidfile = pidfile_create(run, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  bool ok = restore_run(job, ret_pid, error);
  if (ok && pidfile >= 0)
    pidfile_write(run, pidfile, *ret_pid);
  if (!ok && pidfile >= 0)
    (void)unlinkat(run->work_fd, run->options->pidfile, 0);
  if (pidfile >= 0)
    (void)close(pidfile);
  return ok;
}

static void set_foreground(pid_t group) {
  sigset_t ttou, before;
  (void)sigemptyset(&ttou);
  (void)sigaddset(&ttou, SIGTTOU);
  (void)sigprocmask(SIG_BLOCK, &ttou, &before);
  (void)tcsetpgrp(STDIN_FILENO, group);
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
}

/* The shell that waits for us knows nothing of the root's process group: what stops that one (Ctrl-Z) stops us, too, and
 * what continues us continues it. */
static void stop_with(pid_t root) {
  pid_t group = getpgid(root);
  if (group <= 0 || group == getpgrp() || tcgetpgrp(STDIN_FILENO) != group)
    return;
  set_foreground(getpgrp());
  (void)raise(SIGSTOP);
  if (tcgetpgrp(STDIN_FILENO) == getpgrp())
    set_foreground(group);
  (void)kill(-group, SIGCONT);
}

/* Without --restore-detached, criu stays until the root is gone, and says only that. */
static void wait_for_root(CriuRun *run, pid_t pid) {
  int status = 0;
  for (;;) {
    pid_t got = waitpid(pid, &status, run->options->shell_job ? WUNTRACED : 0);
    if (got < 0 && errno != EINTR)
      return;
    if (got == pid && !WIFSTOPPED(status))
      break;
    if (got == pid)
      stop_with(pid);
  }
  if (WIFSIGNALED(status))
    criu_log(run->log, LOG_INFO, "criu", "The restored root %d was killed by signal %d", pid, WTERMSIG(status));
  else
    criu_log(run->log, LOG_INFO, "criu", "The restored root %d exited with status %d", pid, WEXITSTATUS(status));
}

int act_restore(CriuRun *run) {
  const CriuOptions *options = run->options;
  g_autoptr(GError) error = NULL;
  EngineOptions engine = ENGINE_OPTIONS__INIT;
  engine.has_restore_stopped = engine.restore_stopped = options->leave_stopped;
  engine.has_restore_sibling = engine.restore_sibling = options->restore_sibling;
  engine.has_restore_attached = engine.restore_attached = !options->restore_detached;
  engine.plugin_directory = options->plugin_dir;
  engine.has_shell_job = engine.shell_job = options->shell_job;
  engine.has_tcp_established = engine.tcp_established = options->tcp_established;
  engine.has_tcp_close = engine.tcp_close = options->tcp_close;
  engine.has_empty_net = engine.empty_net = options->empty_net;
  engine.network_lock = options->network_lock;
  /* Control groups are restored on request only. */
  engine.has_keep_cgroup = engine.keep_cgroup = !options->manage_cgroups;

  engine.manage_cgroups = options->manage_cgroups;
  engine.n_cgroup_root = options->cgroup_roots->len;
  engine.cgroup_root = (char **)options->cgroup_roots->pdata;
  engine.n_external = options->external->len;
  engine.external = (char **)options->external->pdata;
  engine.root = options->root;
  engine.file_validation = options->file_validation;

  CriuSink sink = {.run = run};
  JobSink job_sink = criu_sink(&sink);
  g_autoptr(Job) job = job_new(&engine, NULL, run->images_fd, &job_sink);
  for (guint i = 0; i < options->inherit_keys->len; i++)
    if (!job_inherit(job, options->inherit_keys->pdata[i], g_array_index(options->inherit_fds, int, i)))
      criu_log(run->log, LOG_WARNING, "criu", "--inherit-fd: there is no descriptor %d",
          g_array_index(options->inherit_fds, int, i));
  if (options->shell_job) /* as criu: what it stands on itself */
    job_set_terminal(job, STDIN_FILENO);
  sink.job = job;
  pid_t pid = 0;
  if (!scripts_run(run, job, "pre-restore", 0, &error) || !restore(run, job, &pid, &error))
    return criu_failed(run, "Restoring", error);
  (void)scripts_run(run, NULL, "post-resume", pid, NULL);
  criu_write_stats(run, job, &sink, criu_stats_write_restore);
  criu_log(run->log, LOG_INFO, "criu", "Restore finished successfully. Tasks resumed.");
  if (!options->restore_detached)
    wait_for_root(run, pid);
  return 0;
}

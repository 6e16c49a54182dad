/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scripts.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 100

/* Nothing of what is set here is handed on: the engine blocks signals and handles some. */
static int start(const char *script, GStrv environment, pid_t *ret_pid) {
  char *argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL};
  posix_spawnattr_t attributes;
  sigset_t none, all;
  (void)sigemptyset(&none);
  (void)sigfillset(&all);
  (void)posix_spawnattr_init(&attributes);
  (void)posix_spawnattr_setsigmask(&attributes, &none);
  (void)posix_spawnattr_setsigdefault(&attributes, &all);
  (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  int r = posix_spawn(ret_pid, "/bin/sh", NULL, &attributes, argv, environment);
  (void)posix_spawnattr_destroy(&attributes);
  return -r;
}

/* Whoever ends the job ends the script. */
static bool wait_for(pid_t pid, Job *job, int *ret_status, GError **error) {
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  bool ok = true;
  while (pidfd >= 0 && ok) {
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    if (poll(&end, 1, LOOK_MS) > 0)
      break;
    ok = !job || job_poll(job, error);
  }
  if (pidfd >= 0)
    (void)close(pidfd);
  if (!ok)
    (void)kill(pid, SIGKILL);
  while (waitpid(pid, ret_status, 0) < 0)
    if (errno != EINTR)
      return ok && engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot wait for an action script");
  return ok;
}

static bool run_one(const char *script, const char *action, GStrv environment, Job *job, GError **error) {
  pid_t pid = 0;
  int status = 0, r = start(script, environment, &pid);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot start the action script %s", script);
  if (!wait_for(pid, job, &status, error))
    return false;
  if (WIFSIGNALED(status))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The action script %s was killed at %s by signal %d (%s)", script,
        action, WTERMSIG(status), strsignal(WTERMSIG(status)));
  return WEXITSTATUS(status) == 0 || engine_fail(error, ENGINE_ERROR_CODE__FAILED,
                                         "The action script %s failed at %s: it ended with status %d", script, action,
                                         WEXITSTATUS(status));
}

static GStrv environment_of(const CriuRun *run, const char *action, pid_t root) {
  g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", run->images_fd);
  g_autofree char *directory = g_file_read_link(link, NULL);
  g_autofree char *number = g_strdup_printf("%d", (int)root);
  GStrv environment = g_get_environ();
  environment = g_environ_setenv(environment, "CRTOOLS_SCRIPT_ACTION", action, TRUE);
  environment = g_environ_setenv(environment, "CRTOOLS_IMAGE_DIR", directory ? directory : ".", TRUE);
  return root > 0 ? g_environ_setenv(environment, "CRTOOLS_INIT_PID", number, TRUE)
                  : g_environ_unsetenv(environment, "CRTOOLS_INIT_PID");
}

static bool may_fail(const char *action) {
  return strcmp(action, "pre-resume") != 0 && strcmp(action, "post-resume") != 0;
}

bool scripts_run(CriuRun *run, Job *job, const char *action, pid_t root, GError **error) {
  const GPtrArray *scripts = run->options->action_scripts;
  if (!scripts->len)
    return true;
  g_auto(GStrv) environment = environment_of(run, action, root);
  for (guint i = 0; i < scripts->len; i++) {
    g_autoptr(GError) failure = NULL;
    criu_log(run->log, LOG_DEBUG, "scripts", "Running the action script %s at %s", (const char *)scripts->pdata[i], action);
    if (run_one(scripts->pdata[i], action, environment, job, &failure))
      continue;
    if (may_fail(action)) {
      g_propagate_error(error, g_steal_pointer(&failure));
      return false;
    }
    criu_log(run->log, LOG_WARNING, "scripts", "%s", failure->message);
  }
  return true;
}

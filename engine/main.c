/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* checkpointd-engine: one job, one process. Whoever starts it gives it a seqpacket socket as descriptor 3 and may keep
 * it waiting there (warm) before it sends the request. The process exits after the last event; what it restored lives
 * on. */

#include "channel.h"
#include "config.h"
#include "describe.h"
#include "dispatch.h"
#include "dump.h"
#include "net-lock.h"
#include "identity.h"
#include "probe.h"
#include "restore.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_FD 3

static volatile sig_atomic_t terminated;

static void on_terminate(int signo) {
  terminated = true;
}

static bool target_is_alive(int pidfd, pid_t pid, GError **error) {
  struct pollfd p = {.fd = pidfd, .events = POLLIN};
  bool gone = pidfd >= 0 ? poll(&p, 1, 0) != 0 : kill(pid, 0) < 0 && errno == ESRCH;
  if (pid <= 0)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "The request names no process");
  if (gone)
    return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "There is no process %d any more", pid);
  return true;
}

/* Each descriptor for an external object comes with its key. */
static bool take_inherited(Job *job, const Channel *channel, const EngineRequest *request, GError **error) {
  size_t n = request->n_inherit_keys;
  if (channel_nth_fd(channel, ENGINE_FD__INHERITED, n) >= 0 ||
      (n && channel_nth_fd(channel, ENGINE_FD__INHERITED, n - 1) < 0))
    return engine_fail(
        error, ENGINE_ERROR_CODE__INVALID_ARGS, "The request has another number of keys than of descriptors to inherit");
  for (size_t i = 0; i < n; i++)
    if (!*request->inherit_keys[i] ||
        !job_inherit(job, request->inherit_keys[i], channel_nth_fd(channel, ENGINE_FD__INHERITED, i)))
      return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "A descriptor to inherit has no key");
  return true;
}

static bool request_check(const Channel *channel, const EngineRequest *request, GError **error) {
  bool restores = request->operation == ENGINE_OPERATION__RESTORE;
  bool dumps = request->operation == ENGINE_OPERATION__DUMP;
  bool describes = request->operation == ENGINE_OPERATION__DESCRIBE;
  if ((restores || dumps || describes) && channel_fd(channel, ENGINE_FD__IMAGES_DIRECTORY) < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "The request came without an images directory");
  if (channel_fd(channel, ENGINE_FD__PARENT_DIRECTORY) >= 0)
    return engine_fail(
        error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "Dumps on top of an earlier checkpoint are not supported yet");
  if (dumps || request->operation == ENGINE_OPERATION__EXPLAIN)
    return target_is_alive(channel_fd(channel, ENGINE_FD__TARGET_PIDFD), (pid_t)request->pid, error);
  return true;
}

static bool run_restore(Job *job, GError **error) {
  pid_t pid = 0;
  if (job_options(job)->plan_only)
    return restore_plan_print(job, stdout, error);
  if (!restore_run(job, &pid, error))
    return false;
  for (size_t i = 0; i < job_n_results(job); i++)
    if (!strcmp(job_results(job)[i]->key, "pid"))
      return true;
  job_result_u64(job, "pid", (guint64)pid);
  return true;
}

/* One value a feature, then "usable": everything that is required is there. */
static void run_check(Job *job) {
  size_t n = 0;
  const Probe *probes = probe_table(&n);
  bool usable = true;
  for (size_t i = 0; i < n; i++) {
    bool has = probes[i].test();
    usable = usable && (has || !probes[i].required);
    g_autofree char *key = g_strconcat("feature-", probes[i].name, NULL);
    job_result_u64(job, key, has);
  }
  job_result_u64(job, "usable", usable);
}

static bool run_unlock(const char *name, GError **error) {
  if (!name || !net_lock_name_is_ours(name))
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "This is no network lock of ours");
  return net_lock_remove(name, error);
}

static bool run(Job *job, const Channel *channel, const EngineRequest *request, GError **error) {
  int pidfd = channel_fd(channel, ENGINE_FD__TARGET_PIDFD);
  switch (request->operation) {
  case ENGINE_OPERATION__DUMP:
    return dump_run(job, (pid_t)request->pid, pidfd, request->name, error);
  case ENGINE_OPERATION__EXPLAIN:
    return dump_explain(job, (pid_t)request->pid, pidfd, error);
  case ENGINE_OPERATION__RESTORE:
    return run_restore(job, error);
  case ENGINE_OPERATION__DESCRIBE:
    return describe_run(job, error);
  case ENGINE_OPERATION__LIST_PLUGINS:
    return plugins_list(job, error);
  case ENGINE_OPERATION__UNLOCK:
    return run_unlock(request->name, error);
  case ENGINE_OPERATION__CHECK:
    run_check(job);
    return true;
  default:
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "Unknown operation %d", (int)request->operation);
  }
}

static bool clears(const EngineRequest *request) {
  return request->operation == ENGINE_OPERATION__DUMP && request->options->clear_on_failure;
}

/* What is done in the caller's name is done with the caller's rights. */
static bool take_identity(Job *job, const Channel *channel, const EngineRequest *request, GError **error) {
  if (request->operation == ENGINE_OPERATION__RESTORE && request->options->untrusted_images)
    return identity_become_caller(job, channel_fd(channel, ENGINE_FD__CALLER_PIDFD), error);
  if (request->operation == ENGINE_OPERATION__DUMP && request->options->images_as_caller &&
      !identity_write_as_caller(job, error))
    return false;
  return !clears(request) || identity_directory_is_free(job_images_fd(job), error);
}

static int serve(void) {
  g_autoptr(Channel) channel = channel_new(REQUEST_FD);
  g_autoptr(GError) error = NULL;
  const EngineRequest *request = channel_receive(channel, &error);
  if (!request && !error)
    return 0;
  if (!request || !request_check(channel, request, &error)) {
    channel_error(channel, NULL, error);
    return 1;
  }
  /* SIGTERM asks like a cancel packet: the tree is cured before the process ends. */
  channel_watch(channel, &terminated);
  JobSink sink = channel_sink(channel);
  g_autoptr(Job) job =
      job_new(request->options, request->caller, channel_fd(channel, ENGINE_FD__IMAGES_DIRECTORY), &sink);
  if (!take_identity(job, channel, request, &error) || !take_inherited(job, channel, request, &error)) {
    channel_error(channel, job, error);
    return 1;
  }
  job_set_terminal(job, channel_fd(channel, ENGINE_FD__TERMINAL));
  channel_ready(channel);
  if (!channel_await_application(channel, job, &error) || !run(job, channel, request, &error)) {
    if (clears(request))
      identity_directory_clear(job_images_fd(job));
    channel_error(channel, job, error);
    return 1;
  }
  channel_result(channel, job);
  return 0;
}

static int print_plan(const char *path) {
  g_autoptr(GError) error = NULL;
  EngineOptions options = ENGINE_OPTIONS__INIT;
  options.has_plan_only = options.plan_only = true;
  int dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (dir < 0) {
    fprintf(stderr, "checkpointd-engine: cannot open %s: %s\n", path, g_strerror(errno));
    return 1;
  }
  g_autoptr(Job) job = job_new(&options, NULL, dir, NULL);
  bool ok = restore_plan_print(job, stdout, &error);
  (void)close(dir);
  if (!ok)
    fprintf(stderr, "checkpointd-engine: %s: %s\n", engine_error_name(engine_error_code(error)), error->message);
  return ok ? 0 : 1;
}

static int usage(FILE *out, int status) {
  fprintf(out,
      "usage: checkpointd-engine            serve one request on descriptor %d\n"
      "       checkpointd-engine --plan DIR print what a restore of DIR would do\n"
      "       checkpointd-engine --version\n",
      REQUEST_FD);
  return status;
}

int main(int argc, char **argv) {
  const struct sigaction ignore = {.sa_handler = SIG_IGN}, terminate = {.sa_handler = on_terminate};
  (void)sigaction(SIGPIPE, &ignore, NULL);
  if (argc == 3 && !strcmp(argv[1], "--plan"))
    return print_plan(argv[2]);
  if (argc == 2 && !strcmp(argv[1], "--version"))
    return printf("checkpointd-engine %s\n", CHECKPOINTD_VERSION) < 0;
  if (argc == 2 && !strcmp(argv[1], "--help"))
    return usage(stdout, 0);
  if (argc != 1 || fcntl(REQUEST_FD, F_GETFD) < 0)
    return usage(stderr, 2);
  (void)sigaction(SIGTERM, &terminate, NULL);
  return serve();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "act.h"
#include "dump.h"
#include "image.h"
#include "net-lock.h"
#include "scripts.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* criu overwrites an older checkpoint in the same directory, scripts rely on it; the engine never overwrites anything.
 * So the older one goes first, inventory before all: but only files that are named as criu's images are. */
#define IMAGE_NAMES                                                                                                    \
  "^(apparmor|bpfmap-data|bpfmap-file|cgroup|checkpoint|cpuinfo|eventfd|eventpoll|eventpoll-tfd|ext-files|fanotify|"   \
  "fanotify-mark|fifo|fifo-data|filelocks|files|inetsk|inotify|inotify-wd|memfd|netlinksk|ns-files|packetsk|pidfd|"    \
  "pipes|pipes-data|pstree|reg-files|remap-fpath|seccomp|signalfd|sk-queues|timerfd|tty|tty-data|tty-info|tunfile|"    \
  "unixsk|(core|creds|fdinfo|fs|ids|itimers|mm|pagemap|pagemap-shmem|pages|pages-shmem|posix-timers|rlimit|sigacts|"   \
  "signal-p|signal-s|timens|tcp-stream|ghost-file|vmas|"   \
  "netns|netdev|ifaddr|route|route6|rule|nftables)-[0-9a-f]+)\\.img$"

static bool remove_image(int dir_fd, const char *name, GError **error) {
  if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
    return true;
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot remove %s of an older checkpoint", name);
}

/* What locks the network for the older one would do so for ever. */
static void unlock_older(int images_fd) {
  g_autoptr(Checkpoint) older = image_load(images_fd, NULL);
  const char *lock = older && older->network ? older->network->lock : NULL;
  if (lock && net_lock_name_is_ours(lock))
    (void)net_lock_remove(lock, NULL);
}

static bool remove_older_checkpoint(int images_fd, GError **error) {
  int fd = openat(images_fd, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (!dir)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot list the images directory");
  if (faccessat(images_fd, "inventory.img", F_OK, 0) == 0)
    unlock_older(images_fd);
  bool ok = remove_image(images_fd, "inventory.img", error);
  for (struct dirent *entry = ok ? readdir(dir) : NULL; ok && entry; entry = readdir(dir))
    if (g_regex_match_simple(IMAGE_NAMES, entry->d_name, G_REGEX_DOLLAR_ENDONLY, 0))
      ok = remove_image(images_fd, entry->d_name, error);
  (void)closedir(dir);
  return ok;
}

static int pin_target(pid_t pid, GError **error) {
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0 && errno == ESRCH)
    engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "There is no process %d", pid);
  else if (pidfd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot take hold of process %d", pid);
  return pidfd;
}

int act_dump(CriuRun *run) {
  const CriuOptions *options = run->options;
  g_autoptr(GError) error = NULL;
  EngineOptions engine = ENGINE_OPTIONS__INIT;
  engine.has_leave_running = engine.leave_running = options->leave_running;
  engine.has_leave_stopped = engine.leave_stopped = options->leave_stopped;
  engine.plugin_directory = options->plugin_dir;
  engine.has_shell_job = engine.shell_job = options->shell_job;
  engine.has_file_locks = engine.file_locks = options->file_locks;
  engine.has_link_remap = engine.link_remap = options->link_remap;
  engine.has_ghost_limit = options->ghost_limit > 0;
  engine.ghost_limit = options->ghost_limit;
  engine.has_ext_unix_sk = engine.ext_unix_sk = options->ext_unix_sk;
  engine.manage_cgroups = options->manage_cgroups;
  engine.n_external = options->external->len;
  engine.external = (char **)options->external->pdata;
  engine.has_tcp_established = engine.tcp_established = options->tcp_established;
  engine.has_tcp_close = engine.tcp_close = options->tcp_close;
  engine.has_skip_in_flight = engine.skip_in_flight = options->skip_in_flight;
  engine.has_empty_net = engine.empty_net = options->empty_net;
  engine.network_lock = options->network_lock;
  engine.has_timeout_usec = options->timeout_sec > 0;
  engine.timeout_usec = options->timeout_sec * G_USEC_PER_SEC;

  CriuSink sink = {.run = run};
  JobSink job_sink = criu_sink(&sink);
  g_autoptr(Job) job = job_new(&engine, NULL, run->images_fd, &job_sink);
  sink.job = job;
  int pidfd = pin_target((pid_t)options->tree, &error);
  bool ok = pidfd >= 0 && scripts_run(run, job, "pre-dump", (pid_t)options->tree, &error) && remove_older_checkpoint(run->images_fd, &error) &&
            dump_run(job, (pid_t)options->tree, pidfd, NULL, &error);
  if (pidfd >= 0)
    (void)close(pidfd);
  if (!ok)
    return criu_failed(run, "Dumping", error);
  criu_write_stats(run, job, &sink, criu_stats_write_dump);
  criu_log(run->log, LOG_INFO, "criu", "Dumping finished successfully");
  return 0;
}

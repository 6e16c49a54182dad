/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* checkpoint-criu: criu's command line on our engine, without the bus. It runs with its caller's privileges and in its
 * caller's namespaces; the target is found, and restored, there. */

#include "act.h"
#include "config-files.h"
#include "config.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* What container engines compare with the least version they want. */
#define CRIU_VERSION "4.2"

static int open_directory(CriuLog *log, const char *what, const char *path) {
  int fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    criu_log(log, LOG_ERR, "criu", "Couldn't open %s dir %s: %s", what, path, g_strerror(errno));
  return fd;
}

/* The log is there from now on, whatever fails next. */
static bool open_log(CriuRun *run) {
  const char *path = run->options->log_file;
  int status = path ? criu_log_open(run->log, run->work_fd, path) : 0;
  if (status < 0) {
    criu_log(run->log, LOG_ERR, "criu", "Can't create log file %s: %s", path, g_strerror(-status));
    return false;
  }
  struct utsname uts;
  criu_log(run->log, LOG_INFO, "criu", "Version: " CRIU_VERSION " (checkpointd " CHECKPOINTD_VERSION ")");
  if (uname(&uts) == 0)
    criu_log(run->log, LOG_INFO, "criu", "Running on %s %s %s %s %s", uts.nodename, uts.sysname, uts.release,
        uts.version, uts.machine);
  return true;
}

static int act(CriuRun *run) {
  g_autoptr(GError) error = NULL;
  if (!criu_options_check(run->options, &error)) {
    criu_log(run->log, LOG_ERR, "criu", "%s", error->message);
    if (run->options->log_file)
      fprintf(stderr, "Error (criu): %s\n", error->message);
    return 1;
  }
  g_autofree char *idle = criu_options_idle(run->options);
  if (idle)
    criu_log(run->log, LOG_WARNING, "criu", "Without a meaning for this command: %s", idle);
  switch (run->options->action) {
  case CRIU_ACTION_DUMP:
    return act_dump(run);
  case CRIU_ACTION_RESTORE:
    return act_restore(run);
  case CRIU_ACTION_CHECK:
    return act_check(run);
  case CRIU_ACTION_NONE:
  case CRIU_ACTION_REFUSED:
  default:
    return 1;
  }
}

static int run_with_directories(const CriuOptions *options) {
  g_autoptr(CriuLog) log = criu_log_new((unsigned)options->verbosity);
  CriuRun run = {.options = options, .log = log, .images_fd = -1, .work_fd = -1};
  run.images_fd = open_directory(log, "image", options->images_dir ? options->images_dir : ".");
  run.work_fd = options->work_dir ? open_directory(log, "work", options->work_dir) : run.images_fd;
  int status = run.work_fd >= 0 && open_log(&run) && run.images_fd >= 0 ? act(&run) : 1;
  if (run.images_fd >= 0)
    (void)close(run.images_fd);
  if (run.work_fd >= 0 && run.work_fd != run.images_fd)
    (void)close(run.work_fd);
  return status;
}

static void print_help(void) {
  g_autofree char *text = criu_options_help();
  fputs(text, stdout);
}

int main(int argc, char **argv) {
  const struct sigaction ignore = {.sa_handler = SIG_IGN};
  (void)sigaction(SIGPIPE, &ignore, NULL);
  g_autoptr(GError) error = NULL;
  g_autoptr(CriuOptions) options = criu_config_read(argc - 1, argv + 1, &error);
  if (!options) {
    fprintf(stderr, "Error (criu): %s\nTry criu --help for more info.\n", error->message);
    return 1;
  }
  if (options->help) {
    print_help();
    return 0;
  }
  if (options->version) {
    printf("Version: " CRIU_VERSION "\nEngine: checkpointd " CHECKPOINTD_VERSION "\n");
    return 0;
  }
  return run_with_directories(options);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
#include "context.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// An administrator may take a while to type a password.
#define CALL_TIMEOUT_USEC (10 * 60 * G_USEC_PER_SEC)
#define AGENT "/usr/bin/pkttyagent"

int context_init(Context *context, const Options *options) {
  context->options = options;
  int r = sd_bus_open_system_with_description(&context->bus, "checkpoint");
  if (r >= 0)
    r = sd_bus_set_allow_interactive_authorization(context->bus, true);
  if (r < 0)
    return report_errno(options->json, "connect to the system bus", r) == STATUS_REFUSED ? STATUS_REFUSED
                                                                                         : STATUS_NO_SERVICE;
  return 0;
}

void context_deinit(Context *context) {
  if (context->agent > 0) {
    (void)kill(context->agent, SIGTERM);
    (void)waitpid(context->agent, NULL, 0);
    context->agent = 0;
  }
  context->bus = sd_bus_flush_close_unref(context->bus);
}

static void exec_agent(int ready) {
  char fd[16];
  sigset_t none;
  sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  (void)fcntl(ready, F_SETFD, 0);
  g_snprintf(fd, sizeof(fd), "%d", ready);
  (void)execl(AGENT, AGENT, "--notify-fd", fd, "--fallback", NULL);
  _exit(127);
}

void context_start_agent(Context *context) {
  int ready[2];
  char byte;
  if (context->options->no_ask_password || geteuid() == 0 || !isatty(STDIN_FILENO) || access(AGENT, X_OK) < 0)
    return;
  if (pipe2(ready, O_CLOEXEC) < 0)
    return;
  context->agent = fork();
  if (context->agent == 0)
    exec_agent(ready[1]);
  (void)close(ready[1]);
  // End of file once the agent is registered, or if it could not be.
  while (context->agent > 0 && read(ready[0], &byte, 1) < 0 && errno == EINTR)
    ;
  (void)close(ready[0]);
}

int context_call_new(Context *context, const char *member, sd_bus_message **ret) {
  int r = sd_bus_message_new_method_call(context->bus, ret, SERVICE, SERVICE_PATH, MANAGER, member);
  if (r < 0)
    return report_errno(context->options->json, "make a bus message", r);
  return 0;
}

int context_call(Context *context, sd_bus_message *call, const char *doing, sd_bus_message **ret) {
  g_auto(sd_bus_error) error = SD_BUS_ERROR_NULL;
  if (sd_bus_call(context->bus, call, CALL_TIMEOUT_USEC, &error, ret) < 0)
    return report_bus_error(context->options->json, doing, &error);
  return 0;
}

static int append_extras(sd_bus_message *call, const GArray *extras) {
  int r = 0;
  for (guint i = 0; r >= 0 && i < extras->len; i++) {
    const ExtraOption *extra = &g_array_index(extras, ExtraOption, i);
    if (extra->type == 'b')
      r = sd_bus_message_append(call, "{sv}", extra->key, "b", (int)extra->number);
    else if (extra->type == 't')
      r = sd_bus_message_append(call, "{sv}", extra->key, "t", extra->number);
    else if (extra->type == 'u')
      r = sd_bus_message_append(call, "{sv}", extra->key, "u", (uint32_t)extra->number);
    else
      r = sd_bus_message_append(call, "{sv}", extra->key, "s", extra->text);
  }
  return r;
}

static int append_flags(sd_bus_message *call, const Options *options, unsigned which) {
  const struct {
    unsigned bit;
    const char *key;
    bool value;
  } flags[] = {
      {ASK_DUMP, "leave-running", options->leave_running},
      {ASK_DUMP, "stop", options->stop},
      {ASK_DUMP, "replace", options->replace},
      {ASK_DUMP, "durable", options->durable},
      {ASK_SHELL_JOB, "shell-job", options->shell_job},
      {ASK_LOCKS, "file-locks", options->file_locks},
      {ASK_SHELL_JOB, "tcp-established", options->tcp_established},
      {ASK_SHELL_JOB, "tcp-close", options->tcp_close},
      {ASK_SHELL_JOB, "skip-in-flight", options->skip_in_flight},
      {ASK_ALL, "all", options->all},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
    int r = flags[i].value && (which & flags[i].bit) ? sd_bus_message_append(call, "{sv}", flags[i].key, "b", 1) : 0;
    if (r < 0)
      return r;
  }
  return 0;
}

static int append_external(sd_bus_message *call, const GPtrArray *rules) {
  int r = sd_bus_message_open_container(call, 'e', "sv");
  if (r >= 0)
    r = sd_bus_message_append(call, "s", "external");
  if (r >= 0)
    r = sd_bus_message_open_container(call, 'v', "as");
  if (r >= 0)
    r = sd_bus_message_open_container(call, 'a', "s");
  for (guint i = 0; r >= 0 && i < rules->len; i++)
    r = sd_bus_message_append(call, "s", (const char *)rules->pdata[i]);
  for (int depth = 0; r >= 0 && depth < 3; depth++)
    r = sd_bus_message_close_container(call);
  return r;
}

int context_append_options(Context *context, sd_bus_message *call, unsigned which) {
  const Options *options = context->options;
  int r = sd_bus_message_open_container(call, 'a', "{sv}");
  if (r >= 0)
    r = append_flags(call, options, which);
  if (r >= 0 && (which & ASK_TIMEOUT) && options->timeout_usec > 0)
    r = sd_bus_message_append(call, "{sv}", "timeout", "t", options->timeout_usec);
  if (r >= 0 && (which & ASK_OWNER) && options->owner >= 0)
    r = sd_bus_message_append(call, "{sv}", "owner", "u", (uint32_t)options->owner);
  if (r >= 0 && context->terminal > 0)
    r = sd_bus_message_append(call, "{sv}", "terminal", "h", context->terminal);
  if (r >= 0 && (which & ASK_CANCEL) && !options->no_wait)
    r = sd_bus_message_append(call, "{sv}", "on-disconnect", "s", "cancel");
  if (r >= 0 && (which & ASK_EXTRA))
    r = append_extras(call, options->extra);
  if (r >= 0 && (which & ASK_EXTRA) && options->external->len)
    r = append_external(call, options->external);
  if (r >= 0)
    r = sd_bus_message_close_container(call);
  return r < 0 ? report_errno(context->options->json, "make a bus message", r) : 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* checkpoint_self(). The request goes over a bus connection of its own, which is closed before anything is frozen. What
 * stays is one end of a socket pair, whose other end the service's engine holds: "go" on it says that the application
 * may be frozen, and its end, which the engine brings about once the tree stands, is how both the original and the
 * restored process find it. The original then asks the job how it went. */
#include "libcheckpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client-bus.h"
#include "incarnation.h"

static int check_options(const checkpoint_options *o, char **ret_message) {
  const unsigned known = CHECKPOINT_END | CHECKPOINT_REPLACE | CHECKPOINT_DURABLE | CHECKPOINT_ANY_TARGET |
                         CHECKPOINT_NO_INTERACTION | CHECKPOINT_SHELL_JOB;

  if (!o || o->size != sizeof *o || o->version != CHECKPOINT_VERSION_CURRENT || o->hooks.size != sizeof o->hooks ||
      o->hooks.version != CHECKPOINT_VERSION_CURRENT)
    return checkpoint_client_say(ret_message, -EINVAL,
        "The options (size %zu, version %u) are not those of libcheckpoint %s (size %zu, version %u): the application "
        "was "
        "built for another version of the library, or did not begin with CHECKPOINT_OPTIONS_INIT",
        o ? o->size : 0, o ? o->version : 0, checkpoint_library_version(), sizeof *o, CHECKPOINT_VERSION_CURRENT);
  if (o->flags & ~known)
    return checkpoint_client_say(ret_message, -EINVAL, "Unknown flags 0x%x", o->flags & ~known);
  if (!o->name == (o->directory_fd < 0))
    return checkpoint_client_say(ret_message, -EINVAL, "Either a name or a directory is needed, and not both");
  return 0;
}

static int append_flag(sd_bus_message *call, const char *name, bool value) {
  return value ? sd_bus_message_append(call, "{sv}", name, "b", 1) : 0;
}

static int append_rules(sd_bus_message *call, const char *const *rules) {
  int r = sd_bus_message_open_container(call, 'e', "sv");

  if (r >= 0)
    r = sd_bus_message_append(call, "s", "external");
  if (r >= 0)
    r = sd_bus_message_open_container(call, 'v', "as");
  if (r >= 0)
    r = sd_bus_message_append_strv(call, (char **)rules);
  if (r >= 0)
    r = sd_bus_message_close_container(call);
  return r < 0 ? r : sd_bus_message_close_container(call);
}

static int append_options(sd_bus_message *call, const checkpoint_options *o, int connection) {
  int r = sd_bus_message_open_container(call, 'a', "{sv}");

  if (r >= 0)
    r = sd_bus_message_append(call, "{sv}", "connection", "h", connection);
  if (r >= 0)
    r = append_flag(call, "leave-running", !(o->flags & CHECKPOINT_END));
  if (r >= 0)
    r = append_flag(call, "replace", o->flags & CHECKPOINT_REPLACE);
  if (r >= 0)
    r = append_flag(call, "durable", o->flags & CHECKPOINT_DURABLE);
  if (r >= 0)
    r = append_flag(call, "any-target", o->flags & CHECKPOINT_ANY_TARGET);
  if (r >= 0)
    r = append_flag(call, "shell-job", o->flags & CHECKPOINT_SHELL_JOB);
  if (r >= 0 && o->external)
    r = append_rules(call, o->external);
  if (r >= 0 && o->timeout_usec)
    r = sd_bus_message_append(call, "{sv}", "timeout", "t", o->timeout_usec);
  return r < 0 ? r : sd_bus_message_close_container(call);
}

static int make_call(sd_bus *bus, const checkpoint_options *o, int connection, sd_bus_message **ret) {
  sd_bus_message *call = NULL;
  int r = sd_bus_message_new_method_call(
      bus, &call, SERVICE, MANAGER_PATH, MANAGER, o->name ? "StartDumpSelf" : "DumpSelfTo");

  if (r >= 0)
    r = o->name ? sd_bus_message_append(call, "s", o->name) : sd_bus_message_append(call, "h", o->directory_fd);
  if (r >= 0)
    r = append_options(call, o, connection);
  if (r >= 0)
    r = sd_bus_message_set_allow_interactive_authorization(call, !(o->flags & CHECKPOINT_NO_INTERACTION));
  if (r >= 0)
    *ret = call;
  else
    (void)sd_bus_message_unref(call);
  return r;
}

/* Asks for the dump; *@ret_job is the job's path. The connection is closed when this returns. */
static int request(const checkpoint_options *o, int connection, char **ret_job, char **ret_message) {
  sd_bus_message *call = NULL, *reply = NULL;
  sd_bus *bus = NULL;
  const char *job = NULL;
  int r = checkpoint_client_open(o->bus, &bus, ret_message);

  if (r < 0)
    return r;
  r = make_call(bus, o, connection, &call);
  if (r < 0)
    (void)checkpoint_client_say(ret_message, r, "Cannot make the call: %s", strerror(-r));
  if (r >= 0)
    r = checkpoint_client_call(bus, call, SEVERAL_MINUTES, &reply, ret_message);
  if (r >= 0)
    r = sd_bus_message_read(reply, "o", &job);
  if (r >= 0 && !(*ret_job = strdup(job)))
    r = -ENOMEM;
  (void)sd_bus_message_unref(call);
  (void)sd_bus_message_unref(reply);
  (void)sd_bus_flush_close_unref(bus);
  return r < 0 ? r : 0;
}

/* Until the end of the connection; nothing else comes. */
static void wait_for_end(int fd) {
  char nothing[64];
  ssize_t n;

  do
    n = recv(fd, nothing, sizeof nothing, 0);
  while (n > 0 || (n < 0 && errno == EINTR));
}

/* How the job went. Its path lives for a minute after its end, and this is called at once. */
static int ask_job(const checkpoint_options *o, const char *job, char **ret_message) {
  sd_bus_message *call = NULL, *reply = NULL;
  char *reason = NULL;
  sd_bus *bus = NULL;
  int r;

  checkpoint_client_lock();
  r = checkpoint_client_open(o->bus, &bus, &reason);

  if (r >= 0)
    r = sd_bus_message_new_method_call(bus, &call, SERVICE, job, JOB, "Wait");
  if (r >= 0)
    r = checkpoint_client_call(bus, call, UINT64_MAX, &reply, &reason);
  (void)sd_bus_message_unref(call);
  (void)sd_bus_message_unref(reply);
  (void)sd_bus_flush_close_unref(bus);
  checkpoint_client_unlock();
  if (r >= 0) {
    free(reason);
    return 0;
  }
  /* A service that was started anew does not know the job: sd-bus answers UnknownObject (EBADR). */
  if (checkpoint_client_is_lost(r) || r == -ENXIO || r == -EBADR)
    r = checkpoint_client_say(ret_message, -EREMOTEIO,
        "The service went away during the checkpoint (%s): look whether it is complete before you rely on it",
        reason ? reason : strerror(-r));
  else
    (void)checkpoint_client_say(ret_message, r, "%s", reason ? reason : strerror(-r));
  free(reason);
  return r;
}

/* Until it is over. */
static int say_go(int fd, Incarnation *ret_before, char **ret_message) {
  int r = checkpoint_incarnation_note(ret_before, fd);

  if (r < 0)
    return checkpoint_client_say(ret_message, r, "Cannot number the connection: %s", strerror(-r));
  /* Nobody may listen any more: the job failed already, and says why. */
  (void)send(fd, "go", strlen("go"), MSG_NOSIGNAL);
  wait_for_end(fd);
  return 0;
}

static int dump(const checkpoint_options *o, char **ret_message) {
  Incarnation before;
  int ends[2], r;
  char *job = NULL;

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return checkpoint_client_say(ret_message, -errno, "Cannot make a pair of sockets: %s", strerror(errno));
  checkpoint_client_lock();
  r = request(o, ends[1], &job, ret_message);
  (void)close(ends[1]);
  if (r >= 0)
    r = say_go(ends[0], &before, ret_message);
  checkpoint_client_unlock();
  if (r == 0)
    r = checkpoint_incarnation_is_same(&before, ends[0]) ? ask_job(o, job, ret_message) : 1;
  (void)close(ends[0]);
  free(job);
  return r;
}

int checkpoint_self(const checkpoint_options *options, char **ret_message) {
  char *message = NULL;
  int r = check_options(options, &message);

  if (r == 0 && options->hooks.pre_dump) {
    r = options->hooks.pre_dump(options->hooks.userdata);
    if (r < 0)
      (void)checkpoint_client_say(&message, r, "The application's own pre-dump hook says: %s", strerror(-r));
  }
  if (r >= 0) {
    r = dump(options, &message);
    if (r == 1 && options->hooks.post_restore)
      options->hooks.post_restore(options->hooks.userdata);
    if (r != 1 && options->hooks.post_dump)
      options->hooks.post_dump(options->hooks.userdata);
  }
  if (ret_message)
    *ret_message = r < 0 ? message : NULL;
  if (!ret_message || r >= 0)
    free(message);
  return r;
}

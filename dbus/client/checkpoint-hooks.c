/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Registrations. The service holds the other end of a socket pair, asks "pre-dump" on it, gets "ready" or "refuse:
 * TEXT", and the end of the connection says that the dump is over; see checkpoint-self.c for how the restored process
 * knows what it is. Then the library registers again. */
#include "libcheckpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client-bus.h"
#include "incarnation.h"

#define RETRY_MSEC 1000

struct checkpoint_registration {
  checkpoint_hooks hooks;
  char *bus;
  int fd; /* ours; the number never changes */
  Incarnation before;
  bool asked;     /* pre-dump was run, and the end of it has not been seen */
  bool connected; /* the service has the other end, as far as we know */
  bool threaded;
  pthread_t thread;
  int stop[2]; /* a pipe: its closed end ends the thread */
};

static int register_end(const char *address, int end, char **ret_message) {
  sd_bus_message *call = NULL, *reply = NULL;
  sd_bus *bus = NULL;
  int r = checkpoint_client_open(address, &bus, ret_message);

  if (r < 0)
    return r;
  r = sd_bus_message_new_method_call(bus, &call, SERVICE, MANAGER_PATH, MANAGER, "RegisterApplication");
  if (r >= 0)
    r = sd_bus_message_append(call, "ha{sv}", end, 0);
  if (r >= 0)
    r = checkpoint_client_call(bus, call, 0, &reply, ret_message);
  (void)sd_bus_message_unref(call);
  (void)sd_bus_message_unref(reply);
  (void)sd_bus_flush_close_unref(bus);
  return r < 0 ? r : 0;
}

/* A new pair, whose one end comes to the number that the application knows. */
static int connect_anew(checkpoint_registration *g, char **ret_message) {
  int ends[2], r;

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return checkpoint_client_say(ret_message, -errno, "Cannot make a pair of sockets: %s", strerror(errno));
  checkpoint_client_lock();
  r = register_end(g->bus, ends[1], ret_message);
  checkpoint_client_unlock();
  (void)close(ends[1]);
  if (r < 0) {
    (void)close(ends[0]);
    return r;
  }
  g->asked = false;
  g->connected = true;
  if (g->fd < 0) {
    g->fd = ends[0];
  } else {
    r = dup3(ends[0], g->fd, O_CLOEXEC) < 0 ? -errno : 0;
    (void)close(ends[0]);
  }
  return r < 0 ? r : checkpoint_incarnation_note(&g->before, g->fd);
}

int checkpoint_register(
    const checkpoint_hooks *hooks, const char *bus, checkpoint_registration **ret, char **ret_message) {
  checkpoint_registration *g;
  char *message = NULL;
  int r;

  if (ret_message)
    *ret_message = NULL;
  if (!ret || !hooks || hooks->size != sizeof *hooks || hooks->version != CHECKPOINT_VERSION_CURRENT)
    return checkpoint_client_say(ret_message, -EINVAL,
        "The hooks (size %zu, version %u) are not those of libcheckpoint %s (size %zu, version %u): the application "
        "was "
        "built for another version of the library, or did not begin with CHECKPOINT_HOOKS_INIT",
        hooks ? hooks->size : 0, hooks ? hooks->version : 0, checkpoint_library_version(), sizeof *hooks,
        CHECKPOINT_VERSION_CURRENT);
  g = calloc(1, sizeof *g);
  if (!g)
    return -ENOMEM;
  g->hooks = *hooks;
  g->fd = g->stop[0] = g->stop[1] = -1;
  g->bus = bus ? strdup(bus) : NULL;
  r = bus && !g->bus ? -ENOMEM : connect_anew(g, &message);
  if (r < 0) {
    checkpoint_registration_free(g);
    if (ret_message)
      *ret_message = message;
    else
      free(message);
    return r;
  }
  *ret = g;
  return 0;
}

int checkpoint_registration_fd(const checkpoint_registration *g) {
  return g->fd;
}

static void answer(checkpoint_registration *g) {
  char text[200];
  int r = g->hooks.pre_dump ? g->hooks.pre_dump(g->hooks.userdata) : 0;

  g->asked = true;
  if (r >= 0)
    (void)snprintf(text, sizeof text, "ready");
  else
    (void)snprintf(text, sizeof text, "refuse: its pre-dump hook says: %s", strerror(-r));
  (void)send(g->fd, text, strlen(text), MSG_NOSIGNAL);
}

/* The end of the connection: of a dump, of a restore, or of the service. */
static void look_around(checkpoint_registration *g) {
  if (!g->connected)
    return;
  g->connected = false;
  if (!checkpoint_incarnation_is_same(&g->before, g->fd)) {
    if (g->hooks.post_restore)
      g->hooks.post_restore(g->hooks.userdata);
  } else if (g->asked && g->hooks.post_dump)
    g->hooks.post_dump(g->hooks.userdata);
  g->asked = false;
}

int checkpoint_registration_dispatch(checkpoint_registration *g) {
  char packet[64];
  ssize_t n;
  int r;

  while ((n = recv(g->fd, packet, sizeof packet, MSG_DONTWAIT)) > 0)
    if (n == (ssize_t)strlen("pre-dump") && memcmp(packet, "pre-dump", (size_t)n) == 0)
      answer(g);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return 0;
  look_around(g);
  r = connect_anew(g, NULL);
  return checkpoint_client_is_lost(r) || r == -ESHUTDOWN ? -EAGAIN : r;
}

static void *run(void *userdata) {
  checkpoint_registration *g = userdata;
  int r = 0;

  for (;;) {
    struct pollfd p[] = {{.fd = g->stop[0], .events = POLLIN}, {.fd = r < 0 ? -1 : g->fd, .events = POLLIN}};
    int n = poll(p, 2, r < 0 ? RETRY_MSEC : -1);

    if (n < 0 && errno != EINTR)
      return NULL;
    if (n > 0 && p[0].revents)
      return NULL;
    if (n == 0 || (n > 0 && p[1].revents))
      r = checkpoint_registration_dispatch(g);
    if (r < 0 && r != -EAGAIN)
      return NULL; /* refused for good */
  }
}

int checkpoint_registration_run_thread(checkpoint_registration *g) {
  sigset_t all, before;
  int r;

  if (g->threaded)
    return -EALREADY;
  if (pipe2(g->stop, O_CLOEXEC) < 0)
    return -errno;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the application's own threads' */
  r = pthread_create(&g->thread, NULL, run, g);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  g->threaded = r == 0;
  return -r;
}

void checkpoint_registration_free(checkpoint_registration *g) {
  if (!g)
    return;
  if (g->stop[1] >= 0)
    (void)close(g->stop[1]);
  if (g->threaded)
    (void)pthread_join(g->thread, NULL);
  if (g->stop[0] >= 0)
    (void)close(g->stop[0]);
  if (g->fd >= 0)
    (void)close(g->fd);
  free(g->bus);
  free(g);
}

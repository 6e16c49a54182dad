/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "spawner-client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "spawner.h"

struct SpawnerClient {
  sd_event *event; /* not ours */
  int fd;
  pid_t pid; /* 0 until it has said so */
  sd_event_source *source;
  const SpawnerHandlers *handlers;
  void *userdata;
  EngineLink *warm;
  unsigned asked;   /* engines on their way */
  unsigned waiting; /* callers of take() that got none yet */
};

void spawner_client_free(SpawnerClient *client) {
  if (!client)
    return;
  (void)sd_event_source_disable_unref(client->source);
  g_clear_pointer(&client->warm, engine_link_free);
  if (client->fd >= 0)
    (void)close(client->fd);
  g_free(client);
}

static int receive(int fd, SpawnerMessage *message, int fds[static 2]) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(2 * sizeof(int))];
  } control = {};
  struct iovec iov = {.iov_base = message, .iov_len = sizeof *message};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  const struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

  if (n < 0)
    return errno == EAGAIN || errno == EINTR ? 0 : -errno;
  if (n != sizeof *message)
    return -ECONNRESET;
  fds[0] = fds[1] = -EBADF;
  if (header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(2 * sizeof(int)))
    memcpy(fds, CMSG_DATA(header), 2 * sizeof(int));
  return message->kind == SPAWNER_ENGINE && fds[1] < 0 ? -EPROTO : 1;
}

/* The engine that waits for work has ended (or talks unasked): drop it. A new one is
 * made for the next job only, so that an engine that cannot run is not run in a loop. */
static void on_warm_event(EngineLink *link, const EngineEvent *event, void *userdata) {
  SpawnerClient *client = userdata;

  g_clear_pointer(&client->warm, engine_link_free);
}

static bool ask(SpawnerClient *client) {
  if (send(client->fd, "e", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    return false;
  client->asked++;
  return true;
}

/* What could not be asked for while the spawner had too much to read. */
static void ask_again(SpawnerClient *client) {
  while (client->asked < client->waiting && ask(client))
    ;
}

static void engine_arrived(SpawnerClient *client, EngineLink *link, int error) {
  if (client->asked > 0)
    client->asked--;
  if (client->waiting > 0) {
    client->waiting--;
    ask_again(client);
    client->handlers->ready(link, error, client->userdata);
    return;
  }
  if (!link)
    return;
  g_clear_pointer(&client->warm, engine_link_free);
  client->warm = link;
  engine_link_set_handler(link, on_warm_event, client);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
  SpawnerClient *client = userdata;
  SpawnerMessage message;
  EngineLink *link = NULL;
  int fds[2], r;

  r = receive(fd, &message, fds);
  if (r < 0) {
    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    client->handlers->lost(client->userdata);
    return 0;
  }
  if (r == 0)
    return 0;
  switch (message.kind) {
  case SPAWNER_READY:
    client->pid = message.pid;
    break;
  case SPAWNER_ENGINE:
    r = engine_link_new(client->event, fds[0], fds[1], message.pid, &link);
    engine_arrived(client, link, r);
    break;
  case SPAWNER_FAILED:
    engine_arrived(client, NULL, -message.value);
    break;
  case SPAWNER_EXITED:
    client->handlers->exited(message.pid, message.value, client->userdata);
    break;
  }
  return 0;
}

int spawner_client_new(sd_event *event, int fd, const SpawnerHandlers *handlers, void *userdata, SpawnerClient **ret) {
  g_autoptr(SpawnerClient) client = g_new0(SpawnerClient, 1);
  int r;

  client->event = event;
  client->fd = fd;
  client->handlers = handlers;
  client->userdata = userdata;
  r = sd_event_add_io(event, &client->source, fd, EPOLLIN, on_io, client);
  if (r < 0)
    return r;
  /* An engine's last words (its socket) are heard before its obituary. */
  (void)sd_event_source_set_priority(client->source, SD_EVENT_PRIORITY_NORMAL + 1);
  *ret = g_steal_pointer(&client);
  return 0;
}

EngineLink *spawner_client_take(SpawnerClient *client) {
  if (client->warm && !engine_link_is_alive(client->warm))
    g_clear_pointer(&client->warm, engine_link_free);
  if (client->warm) {
    engine_link_set_handler(client->warm, NULL, NULL);
    return g_steal_pointer(&client->warm);
  }
  client->waiting++;
  if (client->asked < client->waiting && !ask(client) && !(client->asked && errno == EAGAIN)) /* else: when one arrives */
    fprintf(stderr, "The spawner cannot be asked: %s\n", g_strerror(errno));
  return NULL;
}

void spawner_client_prepare(SpawnerClient *client) {
  if (!client->warm && client->asked == client->waiting)
    (void)ask(client);
}

bool spawner_client_owns(const SpawnerClient *client, pid_t pid) {
  return pid == client->pid || (client->warm && engine_link_pid(client->warm) == pid);
}

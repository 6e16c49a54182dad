/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine-link.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENT_MAX (16U << 20)
#define EVENTS_AT_ONCE 64 /* then others get their turn */
#define RETIREMENT_USEC (10 * G_USEC_PER_SEC)

struct EngineLink {
  int fd;
  int pidfd;
  pid_t pid;
  sd_event_source *source;
  sd_event_source *timer; /* in retirement */
  EngineLinkHandler handler;
  void *userdata;
  bool *freed; /* set while dispatching, so that a handler may free the link */
};

void engine_link_free(EngineLink *link) {
  if (!link)
    return;
  if (link->freed)
    *link->freed = true;
  (void)engine_link_kill(link, SIGKILL);
  (void)sd_event_source_disable_unref(link->source);
  (void)sd_event_source_disable_unref(link->timer);
  if (link->fd >= 0)
    (void)close(link->fd);
  (void)close(link->pidfd);
  g_free(link);
}

pid_t engine_link_pid(const EngineLink *link) {
  return link->pid;
}

bool engine_link_is_alive(const EngineLink *link) {
  struct pollfd p = {.fd = link->pidfd, .events = POLLIN};

  return poll(&p, 1, 0) == 0; /* a pidfd is readable once its process has ended */
}

void engine_link_set_handler(EngineLink *link, EngineLinkHandler handler, void *userdata) {
  link->handler = handler;
  link->userdata = userdata;
}

/* 1: an event (or garbage: @ret_event is NULL), 0: nothing more now, negative: end. */
static int receive(EngineLink *link, EngineEvent **ret_event) {
  g_autofree uint8_t *buffer = NULL;
  ssize_t size = recv(link->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);

  if (size < 0)
    return errno == EAGAIN || errno == EINTR ? 0 : -errno;
  if (size == 0)
    return -ECONNRESET;
  if (size > (ssize_t)EVENT_MAX)
    return -EMSGSIZE;
  buffer = g_malloc((size_t)size);
  size = recv(link->fd, buffer, (size_t)size, MSG_DONTWAIT);
  if (size <= 0)
    return -ECONNRESET;
  *ret_event = engine_event__unpack(NULL, (size_t)size, buffer);
  return 1;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
  EngineLink *link = userdata;
  bool freed = false;
  int r = 1;

  link->freed = &freed;
  for (unsigned i = 0; i < EVENTS_AT_ONCE && r > 0; i++) {
    EngineEvent *event = NULL;

    r = receive(link, &event);
    if (r == 0)
      break;
    if (!event) {
      (void)sd_event_source_set_enabled(link->source, SD_EVENT_OFF);
      r = 0;
    }
    if (link->handler)
      link->handler(link, event, link->userdata);
    if (event)
      engine_event__free_unpacked(event, NULL);
    if (freed)
      return 0;
  }
  link->freed = NULL;
  return 0;
}

int engine_link_new(sd_event *event, int fd, int pidfd, pid_t pid, EngineLink **ret) {
  g_autoptr(EngineLink) link = g_new0(EngineLink, 1);
  int r;

  link->fd = fd;
  link->pidfd = pidfd;
  link->pid = pid;
  r = sd_event_add_io(event, &link->source, fd, EPOLLIN, on_io, link);
  if (r < 0)
    return r;
  *ret = g_steal_pointer(&link);
  return 0;
}

static int send_packet(EngineLink *link, const ProtobufCMessage *message, const int *fds, size_t n_fds) {
  size_t size = protobuf_c_message_get_packed_size(message);
  g_autofree uint8_t *buffer = g_malloc(MAX(size, 1));
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(ENGINE_LINK_FDS_MAX * sizeof(int))];
  } control = {};
  struct iovec iov = {.iov_base = buffer, .iov_len = protobuf_c_message_pack(message, buffer)};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

  if (n_fds > ENGINE_LINK_FDS_MAX)
    return -E2BIG;
  if (n_fds > 0) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
    control.header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
    memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
  }
  return sendmsg(link->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int engine_link_send_request(EngineLink *link, const EngineRequest *request, const int *fds, size_t n_fds) {
  return send_packet(link, &request->base, fds, n_fds);
}

int engine_link_send_released(EngineLink *link) {
  EngineControl control = ENGINE_CONTROL__INIT;

  control.has_released = true;
  control.released = true;
  return send_packet(link, &control.base, NULL, 0);
}

int engine_link_send_cancel(EngineLink *link) {
  EngineControl control = ENGINE_CONTROL__INIT;

  control.has_cancel = true;
  control.cancel = true;
  return send_packet(link, &control.base, NULL, 0);
}

static int on_retirement_over(sd_event_source *source, uint64_t usec, void *userdata) {
  EngineLink *link = userdata;

  g_printerr("Engine %d does not end after its job; it is killed\n", (int)link->pid);
  (void)engine_link_kill(link, SIGKILL);
  return 0;
}

void engine_link_retire(EngineLink *link) {
  sd_event *event = sd_event_source_get_event(link->source);

  link->handler = NULL;
  (void)sd_event_add_time_relative(event, &link->timer, CLOCK_MONOTONIC, RETIREMENT_USEC, 0, on_retirement_over, link);
  if (link->freed)
    *link->freed = true; /* nothing of it is to be read any more */
  link->freed = NULL;
  link->source = sd_event_source_disable_unref(link->source);
  (void)close(link->fd);
  link->fd = -EBADF;
}

int engine_link_kill(EngineLink *link, int signo) {
  return syscall(SYS_pidfd_send_signal, link->pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

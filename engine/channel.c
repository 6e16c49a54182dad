/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "channel.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The kernel's default for a socket's buffer bounds a packet; longer lists of findings are cut, and say so. */
#define PACKET_MAX (192 * 1024)
#define FINDINGS_BYTES_MAX (128 * 1024)
#define MESSAGE_BYTES_MAX (32 * 1024)
#define APPLICATION_GO "go"
#define APPLICATION_PATIENCE_USEC (10 * G_USEC_PER_SEC)

struct Channel {
  int fd;
  bool cancelled;
  bool released; /* of the connections that sink_frozen() closes, ours are the last copies */
  bool cancel_on_hangup;
  const volatile sig_atomic_t *flag;
  EngineRequest *request;
  size_t n_fds;
  int fds[CHANNEL_MAX_FDS];
};

Channel *channel_new(int fd) {
  Channel *channel = g_new0(Channel, 1);
  channel->fd = fd;
  (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
  return channel;
}

void channel_free(Channel *channel) {
  if (!channel)
    return;
  for (size_t i = 0; i < channel->n_fds; i++)
    if (channel->fds[i] >= 0)
      (void)close(channel->fds[i]);
  if (channel->request)
    engine_request__free_unpacked(channel->request, NULL);
  (void)close(channel->fd);
  g_free(channel);
}

/* Keeps the descriptors of one packet; what does not fit was cut by the kernel (MSG_CTRUNC) or is closed here. */
static void channel_keep_fds(Channel *channel, struct msghdr *msg) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      if (channel->n_fds < CHANNEL_MAX_FDS)
        channel->fds[channel->n_fds++] = fd;
      else
        (void)close(fd);
    }
  }
}

static ssize_t channel_read(Channel *channel, void *buffer, size_t size, int flags, bool *ret_truncated) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(CHANNEL_MAX_FDS * sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = buffer, .iov_len = size};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t n;
  do
    n = recvmsg(channel->fd, &msg, flags | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR && !(flags & MSG_DONTWAIT));
  if (n < 0)
    return -errno;
  channel_keep_fds(channel, &msg);
  *ret_truncated = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
  return n;
}

const EngineRequest *channel_receive(Channel *channel, GError **error) {
  g_autofree guint8 *packet = g_malloc(PACKET_MAX);
  bool truncated = false;
  ssize_t n = channel_read(channel, packet, PACKET_MAX, 0, &truncated);
  if (n == 0)
    return NULL;
  if (n < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, (int)n, "Cannot read the request");
    return NULL;
  }
  if (!truncated)
    channel->request = engine_request__unpack(NULL, (size_t)n, packet);
  if (!channel->request || channel->request->n_fds != channel->n_fds) {
    engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
        "The request cannot be understood (%zd bytes with %zu descriptors%s)", n, channel->n_fds,
        truncated ? ", cut" : "");
    return NULL;
  }
  channel->cancel_on_hangup = channel->request->options->cancel_on_hangup;
  return channel->request;
}

int channel_nth_fd(const Channel *channel, EngineFd kind, size_t n) {
  for (size_t i = 0; channel->request && i < channel->n_fds; i++)
    if (channel->request->fds[i] == kind && n-- == 0)
      return channel->fds[i];
  return -1;
}

int channel_fd(const Channel *channel, EngineFd kind) {
  return channel_nth_fd(channel, kind, 0);
}

static bool application_speaks(int fd, GError **error) {
  char packet[64];
  ssize_t n = recv(fd, packet, sizeof packet, MSG_DONTWAIT);
  if (n <= 0)
    return engine_fail(error, ENGINE_ERROR_CODE__CANCELLED, "The application closed its connection before it was checkpointed");
  if (n == strlen(APPLICATION_GO) && memcmp(packet, APPLICATION_GO, (size_t)n) == 0)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
      "The application said something else than \"" APPLICATION_GO "\" on its connection: is its libcheckpoint of another version?");
}

static bool has_connections(const Channel *channel) {
  return channel_fd(channel, ENGINE_FD__SELF_CONNECTION) >= 0 || channel_fd(channel, ENGINE_FD__HOOK_CONNECTION) >= 0;
}

bool channel_await_application(Channel *channel, Job *job, GError **error) {
  int fd = channel_fd(channel, ENGINE_FD__SELF_CONNECTION);
  bool spoken = fd < 0;
  gint64 until = g_get_monotonic_time() + APPLICATION_PATIENCE_USEC;
  while (has_connections(channel) && !(spoken && channel->released)) {
    struct pollfd p[] = {{.fd = spoken ? -1 : fd, .events = POLLIN}, {.fd = channel->fd, .events = POLLIN}};
    if (g_get_monotonic_time() > until)
      return engine_fail(error, ENGINE_ERROR_CODE__TIMED_OUT,
          "%s did not say within %d s that the application may be checkpointed", spoken ? "The service" : "The application",
          (int)(APPLICATION_PATIENCE_USEC / G_USEC_PER_SEC));
    (void)poll(p, 2, 100);
    if (p[0].revents && !(spoken = application_speaks(fd, error)))
      return false;
    if (!job_poll(job, error)) /* takes packets of the service */
      return false;
  }
  return true;
}

static void channel_send(Channel *channel, const EngineEvent *event, int flags) {
  size_t size = engine_event__get_packed_size(event);
  g_autofree guint8 *packet = g_malloc(size);
  (void)engine_event__pack(event, packet);
  ssize_t n;
  do
    n = send(channel->fd, packet, size, flags | MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  /* A peer that is gone or does not listen is no reason to fail a job. */
}

static void sink_phase(void *data, const char *phase) {
  EngineEvent event = ENGINE_EVENT__INIT;
  event.phase = (char *)phase;
  channel_send(data, &event, MSG_DONTWAIT);
}

static void sink_progress(void *data, guint64 bytes_done, guint64 bytes_total) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineProgress progress = ENGINE_PROGRESS__INIT;
  progress.bytes_done = bytes_done;
  progress.bytes_total = bytes_total;
  event.progress = &progress;
  channel_send(data, &event, MSG_DONTWAIT);
}

static void sink_log(void *data, int priority, const char *line) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineLog log = ENGINE_LOG__INIT;
  log.priority = (guint32)priority;
  log.line = (char *)line;
  event.log = &log;
  channel_send(data, &event, MSG_DONTWAIT);
}

static void sink_object(void *data, const EngineObject *object) {
  EngineEvent event = ENGINE_EVENT__INIT;
  event.object = (EngineObject *)object;
  channel_send(data, &event, MSG_DONTWAIT);
}

/* The application's own connections are to be found half closed: their end tells it that the dump is over. */
static void sink_frozen(void *data) {
  Channel *channel = data;
  for (size_t i = 0; i < channel->n_fds; i++) {
    EngineFd kind = channel->request->fds[i];
    if (channel->fds[i] < 0 || (kind != ENGINE_FD__SELF_CONNECTION && kind != ENGINE_FD__HOOK_CONNECTION))
      continue;
    (void)close(channel->fds[i]);
    channel->fds[i] = -1;
  }
}

/* Rows are what was asked for: they wait for the peer. */
static void sink_row(void *data, const EngineRow *row) {
  EngineEvent event = ENGINE_EVENT__INIT;
  event.row = (EngineRow *)row;
  channel_send(data, &event, 0);
}

/* Takes every waiting packet: a cancel request counts, whatever else came is dropped with its descriptors. */
static bool sink_cancelled(void *data) {
  Channel *channel = data;
  guint8 packet[256];
  while (!channel->cancelled) {
    size_t known = channel->n_fds;
    bool truncated = false;
    ssize_t n = channel_read(channel, packet, sizeof packet, MSG_DONTWAIT, &truncated);
    while (channel->n_fds > known)
      (void)close(channel->fds[--channel->n_fds]);
    if (n <= 0) {
      channel->cancelled = channel->cancel_on_hangup && n != -EAGAIN && n != -EINTR;
      break;
    }
    EngineControl *control = engine_control__unpack(NULL, (size_t)n, packet);
    channel->cancelled = control && control->cancel;
    channel->released |= control && control->released;
    if (control)
      engine_control__free_unpacked(control, NULL);
  }
  return channel->cancelled || (channel->flag && *channel->flag);
}

void channel_watch(Channel *channel, const volatile sig_atomic_t *flag) {
  channel->flag = flag;
}

JobSink channel_sink(Channel *channel) {
  return (JobSink){.phase = sink_phase,
      .progress = sink_progress,
      .log = sink_log,
      .object = sink_object,
      .row = sink_row,
      .frozen = sink_frozen,
      .cancelled = sink_cancelled,
      .data = channel};
}

void channel_ready(Channel *channel) {
  EngineEvent event = ENGINE_EVENT__INIT;
  event.has_ready = event.ready = true;
  channel_send(channel, &event, 0);
}

/* How many findings fit into one packet. */
static size_t findings_fitting(const Job *job) {
  size_t n = job ? job_n_findings(job) : 0, bytes = 0;
  for (size_t i = 0; i < n; i++) {
    bytes += engine_finding__get_packed_size(job_findings(job)[i]) + 8;
    if (bytes > FINDINGS_BYTES_MAX)
      return i;
  }
  return n;
}

void channel_result(Channel *channel, const Job *job) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineResult result = ENGINE_RESULT__INIT;
  result.n_values = job_n_results(job);
  result.values = (EngineValue **)job_results(job);
  result.n_findings = findings_fitting(job);
  result.findings = (EngineFinding **)job_findings(job);
  event.result = &result;
  channel_send(channel, &event, 0);
}

void channel_error(Channel *channel, const Job *job, const GError *failure) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineError error = ENGINE_ERROR__INIT;
  const char *text = failure ? failure->message : "An unknown failure";
  g_autofree char *cut = NULL;
  if (strlen(text) > MESSAGE_BYTES_MAX) {
    g_autofree char *head = g_strndup(text, MESSAGE_BYTES_MAX);
    g_autofree char *valid = g_utf8_make_valid(head, -1);
    text = cut = g_strconcat(valid, "…", NULL);
  }
  error.code = engine_error_code(failure);
  error.message = (char *)text;
  error.n_findings = findings_fitting(job);
  error.findings = job ? (EngineFinding **)job_findings(job) : NULL;
  event.error = &error;
  channel_send(channel, &event, 0);
}

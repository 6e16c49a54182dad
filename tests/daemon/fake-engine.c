/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An engine that touches no process: it speaks proto/engine.proto and does what the
 * checkpoint's name (or, for Explain and Check, the option timeout) tells it to. The
 * daemon's tests need it to be quick, slow, wrong or dead at will.
 *
 *   ok…         a dump of 5 pages, answered at once
 *   slow…       progress for about a second, then done; heeds cancel
 *   held…       progress until the file release-NAME is there, beside the configuration, then done; heeds cancel
 *   stubborn…   never ends, ignores cancel, and SIGTERM too
 *   deaf…       never ends, ignores cancel; dies of SIGTERM
 *   crash…      dies of SIGSEGV after the request
 *   exit…       exits with status 3
 *   garbage…    sends what is no EngineEvent
 *   fail…       NotSupported with two findings
 *   denied…     NotPermittedTarget
 *   silent…     says it is done, but writes no inventory
 *   huge…       announces more bytes than any disk has, then waits
 *   big…        announces 1 MiB, then waits for a cancel
 *   linger…     stays alive after its result
 *   echo…       returns what it was told: caller, options, descriptors
 *
 * A description of …damaged fails with ImageInvalid, of …broken ends with SIGSEGV, of …many
 * has 25000 tasks, of …fat 3000 with 4000 bytes of text each; any other is of one task.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.pb-c.h"

#define SOCKET 3

typedef struct Request {
  EngineRequest *message;
  int fds[8];
  size_t n_fds;
} Request;

static void send_event(const EngineEvent *event) {
  size_t size = engine_event__get_packed_size(event);
  uint8_t *buffer = malloc(size + 1);

  if (!buffer)
    abort();
  engine_event__pack(event, buffer);
  if (send(SOCKET, buffer, size, MSG_NOSIGNAL) < 0)
    exit(4);
  free(buffer);
}

static void send_ready(void) {
  EngineEvent event = ENGINE_EVENT__INIT;

  event.has_ready = event.ready = true;
  send_event(&event);
}

static void send_phase(const char *phase) {
  EngineEvent event = ENGINE_EVENT__INIT;

  event.phase = (char *)phase;
  send_event(&event);
}

static void send_progress(uint64_t done, uint64_t total) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineProgress progress = ENGINE_PROGRESS__INIT;

  progress.bytes_done = done;
  progress.bytes_total = total;
  event.progress = &progress;
  send_event(&event);
}

static void send_object_and_log(void) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineObject object = ENGINE_OBJECT__INIT;
  EngineLog log = ENGINE_LOG__INIT;

  object.plugin = (char *)"";
  object.kind = (char *)"pipe";
  object.id = 7;
  object.action = (char *)"dumped";
  event.object = &object;
  send_event(&event);
  event.object = NULL;
  log.priority = 6;
  log.line = (char *)"a line";
  event.log = &log;
  send_event(&event);
}

static void send_error(EngineErrorCode code, const char *text, bool with_findings) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineError error = ENGINE_ERROR__INIT;
  EngineFinding a = ENGINE_FINDING__INIT, b = ENGINE_FINDING__INIT, *findings[] = {&a, &b};

  a.object = (char *)"pid 1 fd 3: tcp socket";
  a.reason = (char *)"it is connected";
  a.cure = (char *)"option tcp-established";
  b = a;
  b.has_fd = true;
  b.fd = 3;
  b.kind = (char *)"fd";
  error.code = code;
  error.message = (char *)text;
  error.findings = findings;
  error.n_findings = with_findings ? 2 : 0;
  event.error = &error;
  send_event(&event);
}

static void send_result(EngineValue **values, size_t n, bool with_findings) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineResult result = ENGINE_RESULT__INIT;
  EngineFinding finding = ENGINE_FINDING__INIT, *findings[] = {&finding};

  finding.object = (char *)"pid 1 fd 3: tcp socket";
  finding.reason = (char *)"it is connected";
  finding.cure = (char *)"option tcp-established";
  finding.has_pid = true;
  finding.pid = 1;
  result.values = values;
  result.n_values = n;
  result.findings = findings;
  result.n_findings = with_findings ? 1 : 0;
  event.result = &result;
  send_event(&event);
}

static EngineValue number(const char *key, uint64_t u64) {
  EngineValue v = ENGINE_VALUE__INIT;

  v.key = (char *)key;
  v.has_u64 = true;
  v.u64 = u64;
  return v;
}

static EngineValue text_value(const char *key, const char *text) {
  EngineValue v = ENGINE_VALUE__INIT;

  v.key = (char *)key;
  v.text = (char *)text;
  return v;
}

static void send_row(const char *table, EngineValue *values, size_t n) {
  EngineEvent event = ENGINE_EVENT__INIT;
  EngineRow row = ENGINE_ROW__INIT;
  EngineValue *list[8];

  for (size_t i = 0; i < n; i++)
    list[i] = &values[i];
  row.table = (char *)table;
  row.values = list;
  row.n_values = n;
  event.row = &row;
  send_event(&event);
}

/* Also what the service must leave out: unknown tables and columns, values of a wrong type. */
static void send_rows(unsigned n_tasks, const char *comm) {
  EngineValue task[] = {number("pid", 0), text_value("comm", comm), number("pages-bytes", UINT64_C(1) << 40)};
  EngineValue file[] = {number("pid", 7), number("fd", UINT64_C(1) << 40), text_value("path", "pipe:3")};
  EngineValue mapping[] = {number("pid", 7), number("start", 0x400000), number("new", 1), number("path", 1)};

  for (unsigned i = 0; i < n_tasks; i++) {
    task[0].u64 = i + 7;
    send_row("tasks", task, 3);
  }
  send_row("files", file, 3);
  send_row("mappings", mapping, 4);
  send_row("surprises", task, 3);
}

static void receive(Request *request) {
  static uint8_t buffer[65536];
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(8 * sizeof(int))];
  } control;
  struct iovec iov = {.iov_base = buffer, .iov_len = sizeof buffer};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(SOCKET, &msg, MSG_CMSG_CLOEXEC);
  const struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

  if (n <= 0)
    exit(0); /* not needed any more */
  if (header && header->cmsg_type == SCM_RIGHTS) {
    request->n_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(request->fds, CMSG_DATA(header), request->n_fds * sizeof(int));
  }
  request->message = engine_request__unpack(NULL, (size_t)n, buffer);
  if (!request->message || request->message->n_fds != request->n_fds)
    exit(5);
}

/* True when a cancel (or the end of the service) came within the time. */
static bool cancelled_within(int milliseconds) {
  struct pollfd p = {.fd = SOCKET, .events = POLLIN};

  return poll(&p, 1, milliseconds) > 0;
}

static void write_file(int directory, const char *name, size_t size) {
  static const char zeros[4096];
  int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

  while (fd >= 0 && size > 0) {
    ssize_t n = write(fd, zeros, size < sizeof zeros ? size : sizeof zeros);

    if (n <= 0)
      break;
    size -= (size_t)n;
  }
  if (fd < 0 || size > 0) {
    send_error(errno == ENOSPC ? ENGINE_ERROR_CODE__NO_SPACE : ENGINE_ERROR_CODE__FAILED, strerror(errno), false);
    exit(0);
  }
  (void)close(fd);
}

static void done(const Request *request) {
  EngineValue pages = ENGINE_VALUE__INIT, usable = ENGINE_VALUE__INIT, pid = ENGINE_VALUE__INIT,
              text = ENGINE_VALUE__INIT, real = ENGINE_VALUE__INIT, *values[] = {&pages, &usable, &pid, &text, &real};

  pages.key = (char *)"pages";
  pages.has_u64 = true;
  pages.u64 = 5;
  usable.key = (char *)"usable";
  usable.has_u64 = getenv("CHECKPOINTD_FAKE_UNUSABLE") != NULL;
  usable.has_flag = usable.flag = !usable.has_u64;
  pid.key = (char *)"pid";
  pid.has_u64 = true;
  pid.u64 = request->message->pid;
  text.key = (char *)"text";
  text.text = (char *)"not \xff utf-8";
  real.key = (char *)"real";
  real.has_real = true;
  real.real = 0.5;
  if (request->message->operation == ENGINE_OPERATION__DUMP) {
    write_file(request->fds[0], "pages-1.img", 5 * 4096);
    write_file(request->fds[0], "inventory.img", 16);
  }
  send_result(values, 5, request->message->operation == ENGINE_OPERATION__EXPLAIN);
}

/* A test makes the file; its directory is the configuration's. */
static bool is_released(const Request *request) {
  const char *config = getenv("CHECKPOINTD_CONFIG"), *slash = config ? strrchr(config, '/') : NULL;
  char path[4096];

  if (!slash)
    exit(6);
  snprintf(path, sizeof path, "%.*s/release-%s", (int)(slash - config), config, request->message->name);
  return access(path, F_OK) == 0;
}

static void progress(const Request *request, bool is_held) {
  send_phase("freeze");
  send_progress(0, 0);
  send_object_and_log();
  send_phase("memory");
  for (uint64_t i = 0; is_held ? !is_released(request) : i < 50; i++) {
    send_progress(is_held ? 1000000 * i / (i + 20) : i * 20000, 1000000); /* never all of it */
    if (cancelled_within(20)) {
      send_error(ENGINE_ERROR_CODE__CANCELLED, "cancelled by request", false);
      return;
    }
  }
  send_progress(1000000, 1000000);
  send_phase("release");
  done(request);
}

static void slow(const Request *request) {
  progress(request, false);
}

static void held(const Request *request) {
  progress(request, true);
}

static void echo(const Request *request) {
  const EngineCaller *caller = request->message->caller;
  const EngineOptions *options = request->message->options;
  char text[4][256];
  static const char *const keys[4] = {"caller", "options", "fds", "self"};
  EngineValue v[4], *values[4];
  struct stat st;
  mode_t mask = umask(0);
  struct sigaction action;
  unsigned ignored = 0;

  for (int i = 1; i < NSIG; i++)
    ignored += sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN ? 1 : 0;

  snprintf(text[0], sizeof text[0], "uid=%u any=%d gids=%zu", caller->uid, caller->any_target, caller->n_gid);
  snprintf(text[1], sizeof text[1], "run=%d stop=%d shell=%d durable=%d hangup=%d timeout=%llu", options->leave_running,
      options->leave_stopped, options->shell_job, options->durable, options->cancel_on_hangup,
      (unsigned long long)options->timeout_usec);
  snprintf(text[2], sizeof text[2], "%zu first=%d dir=%d", request->n_fds,
      request->n_fds > 0 ? (int)request->message->fds[0] : -1,
      request->n_fds > 0 && fstat(request->fds[0], &st) == 0 && S_ISDIR(st.st_mode));
  /* Every descriptor above the socket and those of the request would be a leak. */
  snprintf(text[3], sizeof text[3], "umask=%03o leak=%d ignored=%u session=%d", mask,
      fcntl(SOCKET + 1 + (int)request->n_fds, F_GETFD) >= 0, ignored, getsid(0) == getppid());
  for (unsigned i = 0; i < 4; i++) {
    v[i] = (EngineValue)ENGINE_VALUE__INIT;
    v[i].key = (char *)keys[i];
    v[i].text = text[i];
    values[i] = &v[i];
  }
  if (request->message->operation == ENGINE_OPERATION__DUMP)
    write_file(request->fds[0], "inventory.img", 16);
  send_result(values, 4, false);
}

static void wait_forever(const Request *request) {
  for (;;)
    (void)pause();
}

static void stubborn(const Request *request) {
  (void)signal(SIGTERM, SIG_IGN);
  wait_forever(request);
}

static void crash(const Request *request) {
  (void)signal(SIGSEGV, SIG_DFL);
  (void)raise(SIGSEGV);
}

static void leave(const Request *request) {
  exit(3);
}

static void garbage(const Request *request) {
  (void)send(SOCKET, "\xff\xff\xff\xff", 4, MSG_NOSIGNAL);
  wait_forever(request);
}

static void fail(const Request *request) {
  send_error(
      ENGINE_ERROR_CODE__NOT_SUPPORTED, "pid 1 fd 3: tcp socket: it is connected (option tcp-established)", true);
}

static void deny(const Request *request) {
  send_error(ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET, "pid 4: a setuid child", false);
}

static void silent(const Request *request) {
  send_result(NULL, 0, false);
}

static void announce(uint64_t total) {
  send_progress(0, total);
  if (cancelled_within(60000))
    send_error(ENGINE_ERROR_CODE__CANCELLED, "cancelled by request", false);
  else
    send_error(ENGINE_ERROR_CODE__FAILED, "nobody cancelled", false);
}

static void huge(const Request *request) {
  announce(UINT64_C(1) << 60);
}

static void big(const Request *request) {
  announce(1 << 20);
}

static void linger(const Request *request) {
  done(request);
  wait_forever(request);
}

static void describe(const Request *request, const char *name) {
  static char fat[4001];
  struct stat st;

  if (request->n_fds != 1 || request->message->fds[0] != ENGINE_FD__IMAGES_DIRECTORY ||
      fstatat(request->fds[0], "inventory.img", &st, 0) < 0)
    send_error(ENGINE_ERROR_CODE__FAILED, "no images came along", false);
  else if (strstr(name, "damaged"))
    send_error(ENGINE_ERROR_CODE__IMAGE_INVALID, "core-7.img: broken", false);
  else if (strstr(name, "broken"))
    crash(request);
  else {
    memset(fat, 'x', sizeof fat - 1);
    send_rows(strstr(name, "many") ? 25000 : strstr(name, "fat") ? 3000 : 1, strstr(name, "fat") ? fat : "a\xff");
    send_result(NULL, 0, false);
  }
}

static const struct {
  const char *prefix;
  void (*act)(const Request *request);
} behaviours[] = {
    {"slow", slow},
    {"held", held},
    {"stubborn", stubborn},
    {"deaf", wait_forever},
    {"crash", crash},
    {"exit", leave},
    {"garbage", garbage},
    {"fail", fail},
    {"denied", deny},
    {"silent", silent},
    {"huge", huge},
    {"big", big},
    {"linger", linger},
    {"echo", echo},
};

int main(void) {
  static Request request = {};
  const char *name;

  receive(&request);
  name = request.message->name ? request.message->name : "";
  /* What has no name is told by its time-out: 1 slow, 2 crash. */
  if (request.message->options->timeout_usec == 1)
    name = "slow";
  else if (request.message->options->timeout_usec == 2)
    name = "crash";
  send_ready();
  if (request.message->operation == ENGINE_OPERATION__DESCRIBE) {
    describe(&request, name);
    return 0;
  }
  for (size_t i = 0; i < sizeof behaviours / sizeof behaviours[0]; i++)
    if (strncmp(name, behaviours[i].prefix, strlen(behaviours[i].prefix)) == 0) {
      behaviours[i].act(&request);
      return 0;
    }
  done(&request);
  return 0;
}

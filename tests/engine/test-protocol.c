/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* checkpointd-engine over its socket, as the service drives it: proto/engine.proto. argv[1]: the engine. */

#include "engine.pb-c.h"
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *engine_path;

typedef struct Fixture {
  int fd;
  pid_t engine, target;
  char *directory;
} Fixture;

static pid_t spawn_engine(int theirs) {
  pid_t pid = fork();
  if (pid == 0) {
    if (dup2(theirs, 3) < 0)
      _exit(126);
    (void)fcntl(3, F_SETFD, 0);
    execl(engine_path, engine_path, (char *)NULL);
    _exit(127);
  }
  return pid;
}

static pid_t spawn_target(void) {
  int ends[2];
  char byte;
  g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
  pid_t pid = fork();
  if (pid == 0) {
    (void)setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++)
      (void)dup2(null, fd);
    (void)close_range(3, ~0U, 0); /* which the parent hears */
    for (;;)
      (void)pause();
  }
  (void)close(ends[1]);
  g_assert_cmpint(read(ends[0], &byte, 1), ==, 0);
  (void)close(ends[0]);
  return pid;
}

static void set_up(Fixture *f, gconstpointer data) {
  int pair[2];
  g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
  f->engine = spawn_engine(pair[1]);
  (void)close(pair[1]);
  f->fd = pair[0];
  f->directory = g_dir_make_tmp("engine-protocol-XXXXXX", NULL);
  g_assert_nonnull(f->directory);
}

static void remove_directory(const char *path) {
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  for (const char *name; dir && (name = g_dir_read_name(dir));) {
    g_autofree char *file = g_build_filename(path, name, NULL);
    (void)g_unlink(file);
  }
  (void)g_rmdir(path);
}

static int engine_status(Fixture *f) {
  int status = -1;
  if (f->fd >= 0)
    (void)close(f->fd);
  f->fd = -1;
  g_assert_cmpint(waitpid(f->engine, &status, 0), ==, f->engine);
  g_assert_true(WIFEXITED(status));
  f->engine = 0;
  return WEXITSTATUS(status);
}

static void tear_down(Fixture *f, gconstpointer data) {
  if (f->engine)
    (void)engine_status(f);
  if (f->target) {
    (void)kill(f->target, SIGKILL);
    (void)waitpid(f->target, NULL, 0);
  }
  remove_directory(f->directory);
  g_free(f->directory);
}

/* --- packets --- */

static void send_request(Fixture *f, EngineRequest *request, const int *fds, size_t n) {
  guint8 packet[4096];
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(4 * sizeof(int))];
  } control = {0};
  g_assert_cmpuint(engine_request__get_packed_size(request), <, sizeof packet);
  struct iovec iov = {packet, engine_request__pack(request, packet)};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (n) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
  }
  g_assert_cmpint(sendmsg(f->fd, &msg, MSG_NOSIGNAL), >, 0);
}

static EngineEvent *next_event(Fixture *f) {
  g_autofree guint8 *packet = g_malloc(1 << 18);
  struct pollfd p = {.fd = f->fd, .events = POLLIN};
  g_assert_cmpint(poll(&p, 1, 30000), ==, 1);
  ssize_t n = recv(f->fd, packet, 1 << 18, 0);
  if (n <= 0)
    return NULL;
  EngineEvent *event = engine_event__unpack(NULL, (size_t)n, packet);
  g_assert_nonnull(event);
  return event;
}

/* The last event; *ret_ready: it was preceded by ready; *ret_phases: comma-joined. */
static EngineEvent *last_event(Fixture *f, bool *ret_ready, GString *phases) {
  *ret_ready = false;
  for (;;) {
    EngineEvent *event = next_event(f);
    g_assert_nonnull(event);
    if (event->result || event->error)
      return event;
    *ret_ready |= event->has_ready && event->ready;
    if (event->phase)
      g_string_append_printf(phases, "%s,", event->phase);
    engine_event__free_unpacked(event, NULL);
  }
}

static EngineRequest request_of(EngineOperation operation, EngineOptions *options) {
  EngineRequest request = ENGINE_REQUEST__INIT;
  engine_options__init(options);
  request.operation = operation;
  request.options = options;
  return request;
}

static guint64 value_of(const EngineResult *result, const char *key) {
  for (size_t i = 0; i < result->n_values; i++)
    if (!strcmp(result->values[i]->key, key))
      return result->values[i]->u64;
  g_error("no value %s in the result", key);
}

/* Runs one job; the event is owned by the caller. */
static EngineEvent *run(Fixture *f, EngineRequest *request, bool with_pidfd, GString *phases) {
  EngineFd kinds[] = {ENGINE_FD__IMAGES_DIRECTORY, ENGINE_FD__TARGET_PIDFD};
  int fds[] = {
      open(f->directory, O_DIRECTORY | O_CLOEXEC), with_pidfd ? (int)syscall(SYS_pidfd_open, f->target, 0) : -1};
  size_t n = with_pidfd ? 2 : 1;
  bool ready = false;
  request->fds = kinds;
  request->n_fds = n;
  send_request(f, request, fds, n);
  (void)close(fds[0]);
  if (with_pidfd)
    (void)close(fds[1]);
  EngineEvent *event = last_event(f, &ready, phases);
  g_assert_true(ready);
  return event;
}

static void again(Fixture *f) {
  char *directory = f->directory;
  pid_t target = f->target;
  (void)engine_status(f);
  set_up(f, NULL);
  remove_directory(f->directory);
  g_free(f->directory);
  f->directory = directory;
  f->target = target;
}

static void assert_error(EngineEvent *event, EngineErrorCode code, const char *mentions) {
  g_assert_nonnull(event->error);
  if (event->error->code != code || !strstr(event->error->message, mentions))
    g_error("%d: %s", event->error->code, event->error->message);
  engine_event__free_unpacked(event, NULL);
}

/* --- tests --- */

static void test_dump_and_restore(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  f->target = spawn_target();
  EngineRequest request = request_of(ENGINE_OPERATION__DUMP, &options);
  request.has_pid = true;
  request.pid = (guint32)f->target;
  request.name = (char *)"by test";
  EngineEvent *event = run(f, &request, true, phases);
  if (event->error)
    g_error("%s", event->error->message);
  g_assert_cmpuint(value_of(event->result, "pid"), ==, (guint64)f->target);
  g_assert_cmpuint(value_of(event->result, "pages"), >, 0);
  g_assert_nonnull(strstr(phases->str, "freeze,"));
  engine_event__free_unpacked(event, NULL);
  g_assert_cmpint(waitpid(f->target, NULL, 0), ==, f->target);
  again(f);

  g_string_truncate(phases, 0);
  request = request_of(ENGINE_OPERATION__RESTORE, &options);
  options.has_restore_sibling = options.restore_sibling = true;
  event = run(f, &request, false, phases);
  if (event->error)
    g_error("%s", event->error->message);
  g_assert_cmpuint(value_of(event->result, "pid"), ==, (guint64)f->target);
  engine_event__free_unpacked(event, NULL);
  g_assert_cmpint(engine_status(f), ==, 0);
  /* It lives on without the engine, as our child. */
  g_usleep(50000);
  g_assert_cmpint(waitpid(f->target, NULL, WNOHANG), ==, 0);
}

/* Restores with a descriptor for what was /dev/null; @n_keys of the two keys are sent. */
static EngineEvent *restore_with(Fixture *f, int fd, size_t n_keys) {
  EngineOptions options;
  EngineFd kinds[] = {ENGINE_FD__IMAGES_DIRECTORY, ENGINE_FD__INHERITED};
  char *keys[] = {(char *)"dev/null", (char *)"another"};
  int fds[] = {open(f->directory, O_DIRECTORY | O_CLOEXEC), fd};
  g_autoptr(GString) phases = g_string_new(NULL);
  bool ready;
  EngineRequest request = request_of(ENGINE_OPERATION__RESTORE, &options);
  options.has_restore_sibling = options.restore_sibling = true;
  request.fds = kinds;
  request.n_fds = 2;
  request.inherit_keys = keys;
  request.n_inherit_keys = n_keys;
  send_request(f, &request, fds, 2);
  (void)close(fds[0]);
  return last_event(f, &ready, phases);
}

static void test_inherit(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  f->target = spawn_target();
  EngineRequest request = request_of(ENGINE_OPERATION__DUMP, &options);
  request.has_pid = true;
  request.pid = (guint32)f->target;
  engine_event__free_unpacked(run(f, &request, true, phases), NULL);
  g_assert_cmpint(waitpid(f->target, NULL, 0), ==, f->target);
  again(f);
  int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
  for (size_t wrong = 0; wrong <= 2; wrong += 2) {
    assert_error(restore_with(f, zero, wrong), ENGINE_ERROR_CODE__INVALID_ARGS, "number of keys");
    again(f);
  }
  EngineEvent *event = restore_with(f, zero, 1);
  if (event->error)
    g_error("%s", event->error->message);
  engine_event__free_unpacked(event, NULL);
  (void)close(zero);
  g_autofree char *path = g_strdup_printf("/proc/%d/fd/0", (int)f->target);
  g_autofree char *link = g_file_read_link(path, NULL);
  g_assert_cmpstr(link, ==, "/dev/zero");
}

static void test_check(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  EngineRequest request = request_of(ENGINE_OPERATION__CHECK, &options);
  EngineEvent *event = run(f, &request, false, phases);
  g_assert_nonnull(event->result);
  g_assert_cmpuint(value_of(event->result, "usable"), ==, 1);
  g_assert_cmpuint(value_of(event->result, "feature-clone3_set_tid"), ==, 1);
  engine_event__free_unpacked(event, NULL);
}

static void test_explain(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  f->target = spawn_target();
  EngineRequest request = request_of(ENGINE_OPERATION__EXPLAIN, &options);
  request.has_pid = true;
  request.pid = (guint32)f->target;
  EngineEvent *event = run(f, &request, true, phases);
  g_assert_nonnull(event->result);
  g_assert_cmpuint(event->result->n_findings, ==, 0);
  engine_event__free_unpacked(event, NULL);
  g_assert_cmpint(waitpid(f->target, NULL, WNOHANG), ==, 0);
}

static void test_gone_target(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  f->target = spawn_target();
  int pidfd = (int)syscall(SYS_pidfd_open, f->target, 0);
  (void)kill(f->target, SIGKILL);
  (void)waitpid(f->target, NULL, 0);
  EngineRequest request = request_of(ENGINE_OPERATION__EXPLAIN, &options);
  EngineFd kind = ENGINE_FD__TARGET_PIDFD;
  bool ready = false;
  request.has_pid = true;
  request.pid = (guint32)f->target;
  request.fds = &kind;
  request.n_fds = 1;
  f->target = 0;
  send_request(f, &request, &pidfd, 1);
  (void)close(pidfd);
  EngineEvent *event = last_event(f, &ready, phases);
  g_assert_false(ready);
  assert_error(event, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "no process");
  g_assert_cmpint(engine_status(f), ==, 1);
}

static void test_bad_requests(Fixture *f, gconstpointer data) {
  EngineOptions options;
  g_autoptr(GString) phases = g_string_new(NULL);
  bool ready;
  g_assert_cmpint(send(f->fd, "garbage", 7, MSG_NOSIGNAL), ==, 7);
  assert_error(last_event(f, &ready, phases), ENGINE_ERROR_CODE__INVALID_ARGS, "understood");
  again(f);
  EngineRequest request = request_of(ENGINE_OPERATION__RESTORE, &options);
  send_request(f, &request, NULL, 0);
  assert_error(last_event(f, &ready, phases), ENGINE_ERROR_CODE__INVALID_ARGS, "images directory");
  again(f);
  EngineFd kind = ENGINE_FD__IMAGES_DIRECTORY; /* announced, and not sent */
  request.fds = &kind;
  request.n_fds = 1;
  send_request(f, &request, NULL, 0);
  assert_error(last_event(f, &ready, phases), ENGINE_ERROR_CODE__INVALID_ARGS, "descriptors");
  again(f);
  request = request_of(ENGINE_OPERATION__RESTORE, &options);
  assert_error(run(f, &request, false, phases), ENGINE_ERROR_CODE__IMAGE_INVALID, "inventory");
}

/* Cancelled before it is read: the target runs on, nothing is left of the dump. */
static void test_cancel(Fixture *f, gconstpointer data) {
  EngineOptions options;
  EngineControl control = ENGINE_CONTROL__INIT;
  g_autoptr(GString) phases = g_string_new(NULL);
  guint8 packet[16];
  bool ready;
  f->target = spawn_target();
  EngineRequest request = request_of(ENGINE_OPERATION__DUMP, &options);
  EngineFd kind = ENGINE_FD__IMAGES_DIRECTORY;
  int dir = open(f->directory, O_DIRECTORY | O_CLOEXEC);
  request.has_pid = true;
  request.pid = (guint32)f->target;
  request.fds = &kind;
  request.n_fds = 1;
  (void)kill(f->engine, SIGSTOP);
  send_request(f, &request, &dir, 1);
  control.has_cancel = control.cancel = true;
  size_t size = engine_control__pack(&control, packet);
  g_assert_cmpint(send(f->fd, packet, size, 0), ==, (ssize_t)size);
  (void)kill(f->engine, SIGCONT);
  (void)close(dir);
  assert_error(last_event(f, &ready, phases), ENGINE_ERROR_CODE__CANCELLED, "cancelled");
  g_autofree char *inventory = g_build_filename(f->directory, "inventory.img", NULL);
  g_assert_false(g_file_test(inventory, G_FILE_TEST_EXISTS));
  g_assert_cmpint(waitpid(f->target, NULL, WNOHANG), ==, 0);
}

/* A warm engine that is not needed after all ends by itself. */
static void test_never_needed(Fixture *f, gconstpointer data) {
  g_usleep(20000);
  g_assert_cmpint(engine_status(f), ==, 0);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  if (argc < 2)
    return 2;
  engine_path = argv[1];
  if (geteuid() != 0) {
    g_print("1..0 # SKIP needs root\n");
    return 0;
  }
#define ADD(name, function) g_test_add("/engine/protocol/" name, Fixture, NULL, set_up, function, tear_down)
  ADD("dump-and-restore", test_dump_and_restore);
  ADD("descriptors-for-external-objects", test_inherit);
  ADD("check", test_check);
  ADD("explain", test_explain);
  ADD("a-target-that-is-gone-is-never-ready", test_gone_target);
  ADD("bad-requests", test_bad_requests);
  ADD("cancel", test_cancel);
  ADD("never-needed", test_never_needed);
  return g_test_run();
}

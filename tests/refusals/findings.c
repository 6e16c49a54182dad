/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* findings ENGINE PID DIRECTORY [OPTION[=VALUE]…]: has the engine explain the tree of PID, and then dump it to
 * DIRECTORY, with the same options (of EngineOptions, and caller=UID). Prints what each has against it, a line each,
 * tab-separated: "explain" or "dump", kind, pid, descriptor, object, reason, cure; or "explain" or "dump", "error",
 * code, message. Status 3: the dump was not refused (it leaves the tree running). */

#include "engine.pb-c.h"
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MSEC = 60000, EVENT_BYTES = 1 << 20 };

__attribute__((noreturn)) static void give_up(const char *what) {
  perror(what);
  exit(1);
}

static int start_engine(const char *path, pid_t *ret_pid) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    give_up("socketpair");
  pid_t pid = *ret_pid = fork();
  if (pid < 0)
    give_up("fork");
  if (pid == 0) {
    if (dup3(pair[1], 3, 0) < 0 && fcntl(3, F_SETFD, 0) < 0)
      _exit(126);
    execl(path, path, (char *)NULL);
    _exit(127);
  }
  (void)close(pair[1]);
  return pair[0];
}

static void send_request(int fd, EngineRequest *request, int directory) {
  static uint8_t packet[65536];
  EngineFd kinds[] = {ENGINE_FD__TARGET_PIDFD, ENGINE_FD__IMAGES_DIRECTORY};
  int fds[] = {(int)syscall(SYS_pidfd_open, (pid_t)request->pid, 0), directory};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof fds)];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fds)}};
  request->fds = kinds;
  request->n_fds = 2;
  if (engine_request__get_packed_size(request) > sizeof packet)
    give_up("options");
  struct iovec iov = {packet, engine_request__pack(request, packet)};
  memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
  const struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof fds)};
  if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
    give_up("sendmsg");
  (void)close(fds[0]);
}

/* The result or the error: the last event. */
static EngineEvent *last_event(int fd) {
  static uint8_t packet[EVENT_BYTES];
  for (;;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n = poll(&p, 1, PATIENCE_MSEC) == 1 ? recv(fd, packet, sizeof packet, 0) : -1;
    EngineEvent *event = n > 0 ? engine_event__unpack(NULL, (size_t)n, packet) : NULL;
    if (!event)
      give_up("the engine says nothing");
    if (event->result || event->error)
      return event;
    engine_event__free_unpacked(event, NULL);
  }
}

static void print_text(const char *text) {
  (void)putchar('\t');
  for (; *text; text++)
    (void)putchar(*text == '\t' || *text == '\n' ? ' ' : *text);
}

static void print_findings(const char *operation, EngineFinding *const *findings, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const EngineFinding *f = findings[i];
    if (f->action)
      continue; /* a note */
    (void)printf(
        "%s\t%s\t%d\t%d", operation, f->kind ? f->kind : "", f->has_pid ? (int)f->pid : -1, f->has_fd ? f->fd : -1);
    print_text(f->object);
    print_text(f->reason);
    print_text(f->cure);
    (void)putchar('\n');
  }
}

/* false: nothing was in the way. */
static bool run(const char *engine, const char *name, EngineRequest *request, int directory) {
  pid_t pid;
  int fd = start_engine(engine, &pid);
  send_request(fd, request, directory);
  EngineEvent *event = last_event(fd);
  if (event->result)
    print_findings(name, event->result->findings, event->result->n_findings);
  else if (event->error->n_findings)
    print_findings(name, event->error->findings, event->error->n_findings);
  else {
    (void)printf("%s\terror\t%d", name, (int)event->error->code);
    print_text(event->error->message);
    (void)putchar('\n');
  }
  bool refused = event->error || event->result->n_findings;
  engine_event__free_unpacked(event, NULL);
  (void)close(fd);
  (void)waitpid(pid, NULL, 0);
  return refused;
}

static EngineCaller caller = ENGINE_CALLER__INIT;

/* Explained and dumped in the name of a user who is in one group of that number. */
static void take_caller(uint32_t id) {
  static uint32_t group;
  group = caller.uid = id;
  caller.gid = &group;
  caller.n_gid = 1;
}

static void take_option(EngineOptions *options, char *text) {
  static char *rules[8];
  char *value = strchr(text, '=');
  if (value)
    *value++ = 0;
  const ProtobufCFieldDescriptor *field =
      protobuf_c_message_descriptor_get_field_by_name(&engine_options__descriptor, text);
  if (strcmp(text, "caller") == 0 && value) {
    take_caller((uint32_t)strtoul(value, NULL, 10));
  } else if (strcmp(text, "external") == 0 && value && options->n_external < 8) {
    rules[options->n_external++] = value;
    options->external = rules;
  } else if (field && field->type == PROTOBUF_C_TYPE_BOOL && !value) {
    *(protobuf_c_boolean *)((char *)options + field->quantifier_offset) = true;
    *(protobuf_c_boolean *)((char *)options + field->offset) = true;
  } else if (field && field->type == PROTOBUF_C_TYPE_UINT64 && value) {
    *(protobuf_c_boolean *)((char *)options + field->quantifier_offset) = true;
    *(uint64_t *)((char *)options + field->offset) = strtoull(value, NULL, 10);
  } else {
    (void)fprintf(stderr, "%s: no such option\n", text);
    exit(2);
  }
}

int main(int argc, char **argv) {
  EngineRequest request = ENGINE_REQUEST__INIT;
  EngineOptions options = ENGINE_OPTIONS__INIT;
  if (argc < 4)
    return 2;
  int directory = open(argv[3], O_DIRECTORY | O_CLOEXEC);
  if (directory < 0)
    give_up(argv[3]);
  for (int i = 4; i < argc; i++)
    take_option(&options, argv[i]);
  options.has_leave_running = options.leave_running = true;
  request.options = &options;
  request.caller = caller.n_gid ? &caller : NULL;
  request.has_pid = true;
  request.pid = (uint32_t)atoi(argv[2]);
  request.operation = ENGINE_OPERATION__EXPLAIN;
  (void)run(argv[1], "explain", &request, directory);
  request.operation = ENGINE_OPERATION__DUMP;
  return run(argv[1], "dump", &request, directory) ? 0 : 3;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The privileged half of the service. It keeps the capabilities that engines need,
 * and does nothing but fork and exec one fixed program. It parses no message: a byte
 * on its socket means "one more engine". It has no seccomp filter, since an engine
 * with one could not trace confined targets (PTRACE_O_SUSPEND_SECCOMP), and no
 * no_new_privs, since restored applications would inherit it. */
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENGINE_FD 3
#define SOCKET_BUFFER (1 << 20) /* a list of findings is one packet */

static void engine_exec(const char *path, int socket_fd) {
  char *const argv[] = {(char *)"checkpointd-engine", NULL};
  sigset_t none;
  int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  for (int i = 1; i < NSIG; i++) /* what is ignored stays so over an execve */
    (void)signal(i, SIG_DFL);
  if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
    _exit(126);
  if (socket_fd != ENGINE_FD && dup2(socket_fd, ENGINE_FD) < 0)
    _exit(126);
  if (socket_fd == ENGINE_FD)
    (void)fcntl(ENGINE_FD, F_SETFD, 0);
  (void)close_range(ENGINE_FD + 1, ~0U, 0);
  (void)execv(path, argv);
  fprintf(stderr, "Cannot execute %s: %s\n", path, strerror(errno));
  _exit(127);
}

/* A refused size is fine: the kernel's default holds all but the longest messages. */
static void enlarge(int fd) {
  const int size = SOCKET_BUFFER;

  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static int send_message(int fd, const SpawnerMessage *message, const int *fds, size_t n_fds) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(2 * sizeof(int))];
  } control = {};
  struct iovec iov = {.iov_base = (void *)message, .iov_len = sizeof *message};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

  if (n_fds > 0) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
    control.header =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
    memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
  }
  return sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int engine_start(const char *path, int service_fd) {
  SpawnerMessage message = {.kind = SPAWNER_FAILED};
  int pair[2], fds[2], r;
  pid_t pid;

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
    message.value = errno;
    return send_message(service_fd, &message, NULL, 0);
  }
  enlarge(pair[0]);
  enlarge(pair[1]);
  pid = fork();
  if (pid == 0)
    engine_exec(path, pair[1]);
  message.value = errno;
  fds[0] = pair[0];
  fds[1] = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
  (void)close(pair[1]);
  if (pid > 0 && fds[1] >= 0) {
    message = (SpawnerMessage){.kind = SPAWNER_ENGINE, .pid = pid};
    r = send_message(service_fd, &message, fds, 2);
    (void)close(fds[1]);
  } else
    r = send_message(service_fd, &message, NULL, 0);
  (void)close(pair[0]);
  return r;
}

static int reap(int service_fd) {
  int status, r = 0;
  pid_t pid;

  while (r == 0 && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
    const SpawnerMessage message = {.kind = SPAWNER_EXITED, .pid = pid, .value = status};

    r = send_message(service_fd, &message, NULL, 0);
  }
  return r;
}

static int spawner_loop(const char *path, int fd, int signal_fd) {
  struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
  struct signalfd_siginfo info;
  char byte;
  int r = 0;

  while (r == 0) {
    if (poll(fds, 2, -1) < 0 && errno != EINTR)
      return -errno;
    if (fds[1].revents) {
      (void)!read(signal_fd, &info, sizeof info);
      r = reap(fd);
    }
    if (r == 0 && fds[0].revents) {
      ssize_t n = recv(fd, &byte, 1, 0);

      if (n == 0 || (n < 0 && errno != EINTR))
        return 0; /* the bus process is gone */
      r = engine_start(path, fd);
    }
  }
  return r;
}

int spawner_serve(const char *path, int fd) {
  const SpawnerMessage ready = {.kind = SPAWNER_READY, .pid = getpid()};
  sigset_t mask;
  int signal_fd, r;

  (void)prctl(PR_SET_NAME, "checkpointd-spw");
  (void)setsid(); /* no terminal's signals reach engines */
  (void)umask(077);
  (void)!chdir("/");
  /* The bus process decides about the end, so that its jobs are cancelled in order. */
  (void)signal(SIGINT, SIG_IGN);
  (void)signal(SIGHUP, SIG_IGN);
  (void)sigemptyset(&mask);
  (void)sigaddset(&mask, SIGCHLD);
  (void)sigprocmask(SIG_SETMASK, &mask, NULL);
  signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd < 0)
    return -errno;
  r = send_message(fd, &ready, NULL, 0);
  return r < 0 ? r : spawner_loop(path, fd, signal_fd);
}

int spawner_fork(const char *engine_path, int *ret_fd) {
  int pair[2], r;
  pid_t pid;

  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return -errno;
  pid = fork();
  if (pid < 0) {
    r = -errno;
    (void)close(pair[0]);
    (void)close(pair[1]);
    return r;
  }
  if (pid == 0) {
    (void)close(pair[0]);
    _exit(spawner_serve(engine_path, pair[1]) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
  }
  (void)close(pair[1]);
  *ret_fd = pair[0];
  return 0;
}

int spawner_connect(const char *path, int *ret_fd) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd, r = 0;

  if (strlen(path) >= sizeof address.sun_path)
    return -ENAMETOOLONG;
  memcpy(address.sun_path, path, strlen(path));
  fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
    r = -errno;
  if (r < 0)
    (void)close(fd);
  else
    *ret_fd = fd;
  return r;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-private.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child is told and what it answers, in memory that both see. The child allocates nothing. */
typedef struct PrivateWork {
  bool pair;
  int type;
  PrivateName server, client;
  int fds[2];  /* in: the socket to bind; out: the pair */
  int failure; /* errno */
  const char *step;
} PrivateWork;

uint32_t unix_address(UnixAddress *address, const uint8_t *name, size_t size) {
  if (size > sizeof address->path)
    return 0;
  *address = (UnixAddress){.family = AF_UNIX};
  if (size)
    memcpy(address->path, name, size);
  return (uint32_t)(offsetof(UnixAddress, path) + size);
}

/* Per thread, unlike the functions of the C library. */
static bool become(uid_t uid, gid_t gid) {
  return syscall(SYS_setresgid, -1, gid, -1) == 0 && syscall(SYS_setresuid, -1, uid, -1) == 0;
}

static void become_again(uid_t uid, gid_t gid) {
  if (syscall(SYS_setresuid, -1, uid, -1) < 0 || syscall(SYS_setresgid, -1, gid, -1) < 0)
    abort(); /* going on with other rights than meant would be worse */
}

bool unix_pair_as(int type, uid_t uid, gid_t gid, int ret_ends[2], GError **error) {
  uid_t own_uid = geteuid();
  gid_t own_gid = getegid();
  bool other = uid != own_uid || gid != own_gid;
  if (other && !become(uid, gid))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot act as user %u", uid);
  int r = socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ret_ends), reason = errno;
  if (other)
    become_again(own_uid, own_gid);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot make a pair of sockets");
}

bool unix_connect_as(int fd, const void *address, uint32_t size, uid_t uid, gid_t gid, GError **error) {
  uid_t own_uid = geteuid();
  gid_t own_gid = getegid();
  bool other = uid != own_uid || gid != own_gid;
  if (other && !become(uid, gid))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot act as user %u", uid);
  int r = connect(fd, address, size), reason = errno;
  if (other)
    become_again(own_uid, own_gid);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot connect as user %u", uid);
}

/* --- in the child --- */

static bool step(PrivateWork *w, const char *what, bool ok) {
  if (!ok && !w->step) {
    w->failure = errno;
    w->step = what;
  }
  return ok;
}

static bool own_root(void) {
  return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
         mount("tmpfs", "/proc", "tmpfs", 0, "mode=1777") == 0 && chroot("/proc") == 0 && chdir("/") == 0;
}

/* Makes every directory of @path; with @whole also the last part. */
static bool make_directories(const char *path, bool whole) {
  char part[4200];
  size_t n = strlen(path);
  if (n >= sizeof part)
    return false;
  for (size_t i = 1; i <= n; i++) {
    if (path[i] != '/' && !(path[i] == '\0' && whole))
      continue;
    memcpy(part, path, i);
    part[i] = '\0';
    if (mkdir(part, 01777) < 0 && errno != EEXIST)
      return false;
  }
  return true;
}

static bool prepare(const PrivateName *n) {
  if (!n->name || n->name[0] == '\0')
    return true;
  char name[128] = "";
  memcpy(name, n->name, MIN(n->size, sizeof name - 1));
  const char *directory = n->directory ? n->directory : "/";
  return make_directories(directory, true) && chdir(directory) == 0 && make_directories(name, false);
}

static bool bind_as(PrivateWork *w, int fd, const PrivateName *n) {
  UnixAddress address;
  uint32_t size = unix_address(&address, n->name, n->size);
  return step(w, "make the directory of a socket", prepare(n)) &&
         step(w, "bind a socket", size && bind(fd, (const struct sockaddr *)&address, size) == 0);
}

static bool connect_to(PrivateWork *w, int fd, const PrivateName *n) {
  UnixAddress address;
  uint32_t size = unix_address(&address, n->name, n->size);
  return step(w, "find the directory of a socket", prepare(n)) &&
         step(w, "connect a socket", connect(fd, (const struct sockaddr *)&address, size) == 0);
}

/* Somebody else may connect to an abstract name before we do. */
static int accept_own(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    if (fd < 0 || (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == getpid()))
      return fd;
    (void)close(fd);
  }
}

static void make_pair(PrivateWork *w) {
  uid_t uid = geteuid();
  gid_t gid = getegid();
  int listener = socket(AF_UNIX, w->type | SOCK_CLOEXEC, 0), client = socket(AF_UNIX, w->type | SOCK_CLOEXEC, 0);
  bool ok = step(w, "make a socket", listener >= 0 && client >= 0) && bind_as(w, listener, &w->server) &&
            (!w->client.name || bind_as(w, client, &w->client));
  if (ok && step(w, "act as the server's user", become(w->server.uid, w->server.gid))) {
    ok = step(w, "listen", listen(listener, 8) == 0);
    become_again(uid, gid);
  }
  if (ok && step(w, "act as the client's user", become(w->client.uid, w->client.gid))) {
    ok = connect_to(w, client, &w->server);
    become_again(uid, gid);
  }
  ok = ok && !w->step;
  int server = ok ? accept_own(listener) : -1;
  ok = ok && step(w, "accept a connection", server >= 0);
  if (listener >= 0)
    (void)close(listener);
  if (!ok && client >= 0)
    (void)close(client);
  w->fds[0] = ok ? server : -1;
  w->fds[1] = ok ? client : -1;
}

static void bind_one(PrivateWork *w) {
  char name[128] = "";
  memcpy(name, w->server.name, MIN(w->server.size, sizeof name - 1));
  if (bind_as(w, w->fds[0], &w->server))
    (void)unlink(name);
}

__attribute__((noreturn)) static void child_main(PrivateWork *w) {
  (void)umask(0);
  bool path = (w->server.name && w->server.name[0]) || (w->client.name && w->client.name[0]);
  if (step(w, "make a private root", !path || own_root())) {
    if (w->pair)
      make_pair(w);
    else
      bind_one(w);
  }
  _exit(0);
}

/* --- in the engine --- */

static bool run_child(PrivateWork *w, GError **error) {
  w->step = NULL;
  w->failure = 0;
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid == 0)
    child_main(w);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "A child that makes sockets failed (status 0x%x)", status);
  if (w->step)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, w->failure, "Cannot %s", w->step);
  return true;
}

static PrivateWork *work_new(GError **error) {
  PrivateWork *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (w != MAP_FAILED)
    return w;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot map memory");
  return NULL;
}

bool unix_private_pair(
    int type, const PrivateName *server, const PrivateName *client, int *ret_server, int *ret_client, GError **error) {
  PrivateWork *w = work_new(error);
  if (!w)
    return false;
  *w = (PrivateWork){.pair = true, .type = type, .server = *server, .client = *client, .fds = {-1, -1}};
  bool ok = run_child(w, error);
  if (ok) {
    *ret_server = w->fds[0];
    *ret_client = w->fds[1];
  }
  (void)munmap(w, sizeof *w);
  return ok;
}

bool unix_private_bind(int fd, const PrivateName *name, GError **error) {
  PrivateWork *w = work_new(error);
  if (!w)
    return false;
  *w = (PrivateWork){.server = *name, .fds = {fd, -1}};
  bool ok = run_child(w, error);
  (void)munmap(w, sizeof *w);
  return ok;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "unix-private.h"
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child is told and what it answers, in memory that both see. The child allocates nothing. */
typedef struct PrivateWork {
  PrivateName name;
  int fd;
  const char *root; /* a real directory that is to be the root; NULL: a new, empty file system */
  int directory; /* out: of the file */
  int failure;   /* errno */
  const char *step;
} PrivateWork;

uint32_t unix_address(UnixAddress *address, const uint8_t *name, size_t size) {
  if (size == sizeof address->path + 1 && name[0] && !name[size - 1])
    size--; /* a path that fills sun_path; the kernel adds the zero byte itself */
  if (size > sizeof address->path)
    return 0;
  *address = (UnixAddress){.family = AF_UNIX};
  if (size)
    memcpy(address->path, name, size);
  return (uint32_t)(offsetof(UnixAddress, path) + size);
}

static const char *last_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

uint32_t unix_address_at(UnixAddress *address, int directory, const uint8_t *name, size_t size) {
  g_autofree char *path = g_strndup((const char *)name, size);
  g_autofree char *at = g_strdup_printf("/proc/self/fd/%d/%s", directory, last_name(path));
  return unix_address(address, (const uint8_t *)at, strlen(at) + 1);
}

/* --- as somebody else --- */

typedef struct Call {
  int type, fd, backlog;
  int *ends;
  const void *address;
  uint32_t size;
} Call;

static int do_pair(void *data) {
  const Call *c = data;
  return socketpair(AF_UNIX, c->type | SOCK_CLOEXEC, 0, c->ends) == 0 ? 0 : -errno;
}

static int do_listen(void *data) {
  const Call *c = data;
  return listen(c->fd, c->backlog) == 0 ? 0 : -errno;
}

static int do_connect(void *data) {
  const Call *c = data;
  return connect(c->fd, c->address, c->size) == 0 ? 0 : -errno;
}

bool unix_pair_as(int type, const AsWho *who, int ret_ends[2], GError **error) {
  Call call = {.type = type, .ends = ret_ends};
  int r = as_process(who, do_pair, &call, NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot make a pair of sockets as user %u", who->uid);
}

bool unix_listen_as(int fd, int backlog, const AsWho *who, GError **error) {
  Call call = {.fd = fd, .backlog = backlog};
  int r = as_process(who, do_listen, &call, NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot listen at a unix socket as user %u", who->uid);
}

bool unix_connect_as(int fd, const void *address, uint32_t size, const AsWho *who, GError **error) {
  Call call = {.fd = fd, .address = address, .size = size};
  int r = as_process(who, do_connect, &call, NULL);
  return r == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot connect a unix socket as user %u", who->uid);
}

int unix_reach_as(int fd, const uint8_t *name, size_t size, uid_t uid, gid_t gid) {
  UnixAddress address;
  const AsWho who = {.uid = uid, .gid = gid};
  Call call = {.fd = fd, .address = &address, .size = size ? unix_address(&address, name, size) : 0};
  return call.size ? as_process(&who, do_connect, &call, NULL) : -EINVAL;
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

/* The directory that the path leads into, open; the working directory is where a relative one begins. */
static int prepare(const PrivateName *n) {
  char name[128] = "";
  memcpy(name, n->name, MIN(n->size, sizeof name - 1));
  const char *directory = n->directory ? n->directory : "/";
  if (!make_directories(directory, true) || chdir(directory) < 0 || !make_directories(name, false))
    return -1;
  char *slash = strrchr(name, '/');
  if (slash)
    slash[slash == name] = '\0';
  return open(slash ? name : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void bind_one(PrivateWork *w) {
  UnixAddress address;
  uint32_t size = unix_address(&address, w->name.name, w->name.size);
  int directory = prepare(&w->name);
  if (step(w, "make the directory of a socket", directory >= 0))
    (void)step(w, "bind a socket", size && bind(w->fd, (const struct sockaddr *)&address, size) == 0);
  w->directory = directory;
}

__attribute__((noreturn)) static void child_main(PrivateWork *w) {
  (void)umask(0);
  if (step(w, "make a private root", w->root ? chroot(w->root) == 0 && chdir("/") == 0 : own_root()))
    bind_one(w);
  _exit(0);
}

/* --- in the engine --- */

static bool run_child(PrivateWork *w, GError **error) {
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

static bool bind_in_child(int fd, const PrivateName *name, const char *root, int *ret_directory, GError **error) {
  PrivateWork *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (w == MAP_FAILED)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot map memory");
  *w = (PrivateWork){.name = *name, .fd = fd, .root = root, .directory = -1};
  bool ok = run_child(w, error);
  if (w->directory >= 0 && (!ok || !ret_directory))
    (void)close(w->directory);
  else if (ret_directory)
    *ret_directory = w->directory;
  (void)munmap(w, sizeof *w);
  return ok;
}

bool unix_private_bind(int fd, const PrivateName *name, int *ret_directory, GError **error) {
  return bind_in_child(fd, name, NULL, ret_directory, error);
}

/* A directory and those in it on the way down to @name, which are empty. */
static void remove_directories(const char *root, const char *name) {
  g_autofree char *path = g_build_filename(root, name, NULL);
  size_t length = strlen(root);
  for (char *slash = strrchr(path, '/'); slash && (size_t)(slash - path) > length; slash = strrchr(path, '/')) {
    *slash = '\0';
    (void)rmdir(path);
  }
  (void)rmdir(root);
}

/* The file gets the name of its address first, below a directory of its own beside the place where it is to be: not in a file
 * system that nobody else sees, or the kernel could not tell its path again. */
bool unix_private_bind_at(int fd, const PrivateName *name, const char *path, GError **error) {
  PrivateName here = *name;
  here.directory = NULL;
  g_autofree char *text = g_strndup((const char *)name->name, name->size);
  g_auto(GStrv) parts = g_strsplit(text, "/", -1);
  if (g_strv_contains((const char *const *)parts, ".."))
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "A socket whose address is %s and whose file is at %s cannot be bound again", text, path);
  g_autofree char *directory = g_path_get_dirname(path);
  g_autofree char *beside = g_strdup_printf("%s/.checkpointd-XXXXXX", directory);
  if (!g_mkdtemp_full(beside, 0700))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a directory in %s", directory);
  g_autofree char *from = g_build_filename(beside, text, NULL);
  bool ok = bind_in_child(fd, &here, beside, NULL, error);
  if (ok && rename(from, path) < 0)
    ok = engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot put a socket at %s", path);
  if (!ok)
    (void)unlink(from);
  remove_directories(beside, text);
  return ok;
}

/* Where a socket can be reached that has just got its name. */
static uint32_t bind_end(int fd, const PrivateName *n, int *ret_directory, UnixAddress *address, GError **error) {
  uint32_t size = unix_address(address, n->name, n->size);
  if (size && n->name[0])
    return unix_private_bind(fd, n, ret_directory, error) ? unix_address_at(address, *ret_directory, n->name, n->size) : 0;
  if (size && bind_patiently(fd, address, size) == 0)
    return size;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, size ? errno : ENAMETOOLONG, "Cannot bind a unix socket");
  return 0;
}

/* Somebody else may connect to an abstract name before we do. */
static int accept_own(int listener, int client) {
  char mark[16], got[sizeof mark];
  if (getrandom(mark, sizeof mark, 0) != sizeof mark || send(client, mark, sizeof mark, MSG_NOSIGNAL) != sizeof mark)
    return -1;
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 || (recv(fd, got, sizeof got, MSG_DONTWAIT) == sizeof got && memcmp(got, mark, sizeof got) == 0))
      return fd;
    (void)close(fd);
  }
}

static bool connect_ends(int listener, int client, const PrivateName *server, const PrivateName *peer, GError **error) {
  UnixAddress address, own;
  _cleanup_fd_ int at = -1;
  _cleanup_fd_ int client_at = -1;
  uint32_t size = bind_end(listener, server, &at, &address, error);
  if (!size || (peer->name && !bind_end(client, peer, &client_at, &own, error)))
    return false;
  return unix_listen_as(listener, 8, &server->who, error) && unix_connect_as(client, &address, size, &peer->who, error);
}

bool unix_private_pair(
    int type, const PrivateName *server, const PrivateName *client, int *ret_server, int *ret_client, GError **error) {
  _cleanup_fd_ int listener = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  _cleanup_fd_ int connected = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (listener < 0 || connected < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a unix socket");
  if (!connect_ends(listener, connected, server, client, error))
    return false;
  int accepted = accept_own(listener, connected);
  if (accepted < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot accept a connection");
  *ret_server = accepted;
  *ret_client = connected;
  connected = -1;
  return true;
}

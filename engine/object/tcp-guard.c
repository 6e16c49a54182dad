/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tcp-guard.h"
#include "net-lock.h"
#include "tcp-repair.h"
#include "warden.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct TcpGuard {
  pid_t pid;
  int pipe_fd;
  const GPtrArray *alive;
  guint32 *owners; /* what the alive words were */
};

/* What the guard needs; made before the fork. */
typedef struct Charge {
  GuardedSocket *sockets; /* ascending by descriptor */
  size_t n;
  int pipe_fd;
  const int *netlink_fds;
  size_t n_netlink_fds;
  void *removal; /* a message, NULL: no lock */
  size_t removal_size;
  struct robust_list_head
      *robust;               /* of this thread: all alive words are in it, and it is at the same place in the guard */
  struct robust_list *first; /* fork(2) empties it there */
} Charge;

void tcp_guard_release(const GuardedSocket *s, int mode) {
  (void)tcp_repair_set(s->fd, mode);
  (void)setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &s->reuse, sizeof s->reuse);
}

static void close_between(int above, int below) {
  if (above + 1 < below)
    (void)syscall(SYS_close_range, above + 1, below - 1, 0);
}

/* Closes all but @keep, which ascend. */
static void close_others(const int *keep, size_t n) {
  int last = -1;
  for (size_t i = 0; i < n; i++) {
    close_between(last, keep[i]);
    last = keep[i];
  }
  (void)syscall(SYS_close_range, last + 1, ~0u, 0);
}

/* Only system calls from here on. When this process ends, the kernel goes through the list and marks the words that
 * have its id in them. */
static _Noreturn void guard(const Charge *c, const int *keep, size_t n_keep) {
  char byte;
  ssize_t n;
  if (c->robust) {
    c->robust->list.next = c->first;
    (void)syscall(SYS_set_robust_list, c->robust, sizeof *c->robust);
  }
  close_others(keep, n_keep);
  (void)prctl(PR_SET_NAME, "tcp-guard");
  do
    n = read(c->pipe_fd, &byte, 1);
  while (n < 0 && errno == EINTR);
  if (n == 1) { /* told that all is well, and the words are back with their owner */
    (void)syscall(SYS_set_robust_list, NULL, sizeof *c->robust);
    _exit(0);
  }
  for (size_t i = 0; i < c->n; i++)
    tcp_guard_release(&c->sockets[i], TCP_REPAIR_OFF);
  for (size_t i = 0; c->removal && i < c->n_netlink_fds; i++)
    (void)send(c->netlink_fds[i], c->removal, c->removal_size, 0);
  _exit(0);
}

static int compare_ints(const void *a, const void *b) {
  return *(const int *)a - *(const int *)b;
}

static pid_t fork_guard(const Charge *c) {
  g_autofree int *keep = g_new(int, c->n + c->n_netlink_fds + 2);
  size_t n = 0;
  for (size_t i = 0; i < c->n; i++)
    keep[n++] = c->sockets[i].fd;
  keep[n++] = c->pipe_fd;
  for (size_t i = 0; i < c->n_netlink_fds; i++)
    keep[n++] = c->netlink_fds[i];
  if (warden_lifeline() >= 0)
    keep[n++] = warden_lifeline();
  qsort(keep, n, sizeof *keep, compare_ints);
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    guard(c, keep, n);
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  return pid;
}

static void find_robust_list(Charge *c) {
  size_t size = 0;
  if (syscall(SYS_get_robust_list, 0, &c->robust, &size) < 0 || size != sizeof *c->robust)
    c->robust = NULL;
  else if (c->robust)
    c->first = c->robust->list.next;
}

static void take_alive(TcpGuard *g, const GPtrArray *alive) {
  g->alive = alive;
  g->owners = g_new0(guint32, alive->len + 1);
  for (guint i = 0; i < alive->len; i++)
    g->owners[i] = atomic_exchange((_Atomic guint32 *)alive->pdata[i], (guint32)g->pid | FUTEX_WAITERS);
}

static void give_alive_back(const TcpGuard *g) {
  for (guint i = 0; g->alive && i < g->alive->len; i++)
    atomic_store((_Atomic guint32 *)g->alive->pdata[i], g->owners[i]);
}

TcpGuard *tcp_guard_new(
    const GuardedSocket *sockets, size_t n, const char *lock, const GArray *lock_fds, const GPtrArray *alive, GError **error) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pipe");
    return NULL;
  }
  Charge c = {.sockets = g_memdup2(sockets, n * sizeof *sockets), .n = n, .pipe_fd = fds[0], .netlink_fds = (const int *)(const void *)lock_fds->data, .n_netlink_fds = lock_fds->len};
  if (lock)
    c.removal = net_lock_removal(lock, &c.removal_size);
  find_robust_list(&c);
  TcpGuard *g = g_new0(TcpGuard, 1);
  g->pid = fork_guard(&c);
  g->pipe_fd = fds[1];
  (void)close(fds[0]);
  g_free(c.removal);
  g_free(c.sockets);
  if (g->pid > 0 && alive && c.robust)
    take_alive(g, alive);
  if (g->pid > 0)
    return g;
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot start the guard of the TCP connections");
  (void)close(g->pipe_fd);
  g_free(g);
  return NULL;
}

void tcp_guard_free(TcpGuard *g) {
  if (!g)
    return;
  give_alive_back(g);
  while (write(g->pipe_fd, "q", 1) < 0 && errno == EINTR)
    ;
  (void)close(g->pipe_fd);
  while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  g_free(g->owners);
  g_free(g);
}

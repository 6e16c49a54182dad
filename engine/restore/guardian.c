/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guardian.h"
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Shared {
  atomic_int armed;
  size_t n;
  pid_t pids[];
} Shared;

struct Guardian {
  pid_t pid;
  int pipe_fd;
  Shared *shared;
  size_t size;
};

/* Async-signal-safe: nothing but system calls. */
static _Noreturn void guard(const Shared *shared, int fd) {
  char byte;
  if (fd != 3)
    (void)dup3(fd, 3, O_CLOEXEC);
  (void)syscall(SYS_close_range, 0, 2, 0);
  (void)syscall(SYS_close_range, 4, ~0u, 0);
  while (read(3, &byte, 1) < 0 && errno == EINTR)
    ;
  if (atomic_load(&shared->armed))
    for (size_t i = 0; i < shared->n; i++)
      (void)kill(shared->pids[i], SIGKILL);
  _exit(0);
}

Guardian *guardian_new(const pid_t *pids, size_t n) {
  int fds[2];
  Guardian *g = g_new0(Guardian, 1);
  g->size = sizeof(Shared) + n * sizeof *pids;
  g->shared = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (g->shared == MAP_FAILED || pipe2(fds, O_CLOEXEC) < 0) {
    g_free(g);
    return NULL;
  }
  g->shared->n = n;
  memcpy(g->shared->pids, pids, n * sizeof *pids);
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  g->pid = fork();
  if (g->pid == 0)
    guard(g->shared, fds[0]);
  sigprocmask(SIG_SETMASK, &before, NULL);
  (void)close(fds[0]);
  g->pipe_fd = fds[1];
  return g;
}

void guardian_arm(Guardian *g) {
  if (g)
    atomic_store(&g->shared->armed, 1);
}

void guardian_disarm(Guardian *g) {
  if (!g)
    return;
  atomic_store(&g->shared->armed, 0);
  (void)close(g->pipe_fd);
  while (g->pid > 0 && waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  munmap(g->shared, g->size);
  g_free(g);
}

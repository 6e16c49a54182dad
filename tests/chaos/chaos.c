/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chaos.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* usage: chaos DIRECTORY SEED STEPS
 * After so many steps everything is verified, DIRECTORY/paused is made, and when somebody removed it, it goes on.
 * DIRECTORY/failure says what went wrong. */

Shared *shared;
int self;

enum { STEP, VERIFY };

_Noreturn void fail(const char *file, int line, const char *format, ...) {
  char text[300], path[300];
  va_list ap;
  va_start(ap, format);
  (void)vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  (void)snprintf(path, sizeof path, "%s/failure", shared->directory);
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600); /* the first one tells most */
  if (fd >= 0)
    (void)dprintf(fd, "%s:%d: actor %d (pid %d), step %lu: %s\n", file, line, self, (int)getpid(),
        (unsigned long)shared->steps, text);
  _exit(1);
}

uint64_t draw(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) >> 8;
}

uint8_t byte_at(uint32_t id, uint64_t position) {
  return (uint8_t)(position * 31 + position / 251 + id * 17);
}

static void futex_wait(uint32_t *word, uint32_t value) {
  (void)syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word) {
  (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* --- what an actor does --- */

static void serve(void);

static void fork_actor(uint64_t *r) {
  int new = -1;
  for (int a = 1; a < N_ACTORS && new < 0; a++)
    if (!shared->actors[a].alive && !shared->actors[a].zombie)
      new = a;
  if (new < 0)
    return;
  Actor *actor = &shared->actors[new];
  *actor = (Actor){.parent = self, .alive = true};
  memcpy(actor->fds, shared->actors[self].fds, sizeof actor->fds);
  bool leads = draw(r) % 4 == 0, groups = draw(r) % 4 == 0;
  pid_t pid = fork();
  must(pid >= 0, "fork: %s", strerror(errno));
  if (pid == 0) {
    self = new;
    workers_forget();
    timers_forget();
    if (leads)
      (void)setsid();
    else if (groups)
      (void)setpgid(0, 0);
    serve();
  }
  actor->pid = pid;
}

/* The first process is a subreaper: it adopts children whose parent dies. */
static void pass_children_on(int dead) {
  for (int a = 0; a < N_ACTORS; a++)
    if ((shared->actors[a].alive || shared->actors[a].zombie) && shared->actors[a].parent == dead)
      shared->actors[a].parent = 0;
}

static void forget(int dead) {
  Actor *a = &shared->actors[dead];
  a->alive = false;
  a->zombie = true;
  for (int k = 0; k < N_OBJECTS; k++)
    a->fds[k][0] = a->fds[k][1] = -1;
  pass_children_on(dead);
}

static void kill_child(uint64_t *r) {
  int a = (int)(draw(r) % N_ACTORS);
  siginfo_t info;
  if (!shared->actors[a].alive || shared->actors[a].parent != self || draw(r) % 2)
    return;
  must(kill(shared->actors[a].pid, SIGKILL) == 0, "kill: %s", strerror(errno));
  must(waitid(P_PID, (id_t)shared->actors[a].pid, &info, WEXITED | WNOWAIT) == 0, "waitid: %s", strerror(errno));
  forget(a);
}

static void reap_child(uint64_t *r) {
  int a = (int)(draw(r) % N_ACTORS), status = 0;
  if (!shared->actors[a].zombie || shared->actors[a].parent != self)
    return;
  must(waitpid(shared->actors[a].pid, &status, 0) == shared->actors[a].pid, "waitpid: %s", strerror(errno));
  must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a child died by %x", status);
  shared->actors[a].zombie = false;
}

static void change_self(uint64_t *r) {
  char name[16];
  struct rlimit limit = {.rlim_cur = 1000 + draw(r) % 24, .rlim_max = 4096};
  switch (draw(r) % 5) {
  case 0:
    (void)snprintf(name, sizeof name, "chaos-%u", (unsigned)(draw(r) % 1000));
    must(prctl(PR_SET_NAME, name) == 0, "PR_SET_NAME");
    break;
  case 1:
    (void)umask((mode_t)(draw(r) % 512));
    break;
  case 2:
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit: %s", strerror(errno));
    break;
  case 3:
    (void)setpriority(PRIO_PROCESS, 0, (int)(draw(r) % 3));
    break;
  default:
    must(chdir(draw(r) % 2 ? shared->directory : "/") == 0, "chdir: %s", strerror(errno));
  }
}

static const struct {
  void (*act)(uint64_t *r);
  unsigned weight;
} acts[] = {{object_create, 14}, {object_change, 40}, {object_close, 6}, {object_duplicate, 4}, {memory_create, 5},
    {memory_change, 12}, {worker_start, 4}, {worker_wake, 3}, {signal_queue, 3}, {signal_take, 2}, {timer_change, 3},
    {fork_actor, 3}, {kill_child, 6}, {reap_child, 5}, {change_self, 3}};

static void act(uint64_t step) {
  unsigned total = 0;
  for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
    total += acts[i].weight;
  uint64_t r = step;
  unsigned at = (unsigned)(draw(&r) % total);
  size_t i = 0;
  for (; at >= acts[i].weight; i++)
    at -= acts[i].weight;
  acts[i].act(&r);
}

static void verify(void) {
  objects_verify();
  memory_verify();
  workers_verify();
}

static _Noreturn void serve(void) {
  Actor *a = &shared->actors[self];
  for (uint32_t seen = 0;; seen++) {
    while (__atomic_load_n(&a->post, __ATOMIC_ACQUIRE) == seen)
      futex_wait(&a->post, seen);
    if (a->what == VERIFY)
      verify();
    else
      act(a->step);
    __atomic_store_n(&a->done, seen + 1, __ATOMIC_RELEASE);
    futex_wake(&a->done);
  }
}

/* --- the first process --- */

static void deal(int actor, uint32_t what, uint64_t step) {
  Actor *a = &shared->actors[actor];
  uint32_t seen = a->done;
  a->what = what;
  a->step = step;
  if (actor == 0) {
    what == VERIFY ? verify() : act(step);
    return;
  }
  __atomic_store_n(&a->post, seen + 1, __ATOMIC_RELEASE);
  futex_wake(&a->post);
  while (__atomic_load_n(&a->done, __ATOMIC_ACQUIRE) == seen) {
    siginfo_t info = {0};
    struct timespec moment = {.tv_nsec = 200000000};
    (void)syscall(SYS_futex, &a->done, FUTEX_WAIT, seen, &moment, NULL, 0);
    if (a->parent == 0 && waitid(P_PID, (id_t)a->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
      fail(__FILE__, __LINE__, "actor %d died", actor);
    must(access("failure", F_OK) < 0, "another one failed");
  }
}

static void verify_all(void) {
  for (int a = 0; a < N_ACTORS; a++)
    if (shared->actors[a].alive)
      deal(a, VERIFY, 0);
}

static void pause_here(void) {
  char path[300], new[300], text[32];
  (void)snprintf(path, sizeof path, "%s/paused", shared->directory);
  (void)snprintf(new, sizeof new, "%s/new", shared->directory);
  int fd = open(new, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  int n = snprintf(text, sizeof text, "%lu\n", (unsigned long)shared->steps);
  must(fd >= 0 && write(fd, text, (size_t)n) == n, "%s: %s", path, strerror(errno));
  (void)close(fd);
  must(rename(new, path) == 0, "rename: %s", strerror(errno));
  while (access(path, F_OK) == 0)
    (void)poll(NULL, 0, 2);
}

int main(int argc, char **argv) {
  if (argc != 4)
    return 2;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED)
    return 2;
  (void)snprintf(shared->directory, sizeof shared->directory, "%s", argv[1]);
  uint64_t seed = strtoull(argv[2], NULL, 10), pause_after = strtoull(argv[3], NULL, 10);
  shared->actors[0] = (Actor){.pid = getpid(), .parent = -1, .alive = true};
  for (int k = 0; k < N_OBJECTS; k++)
    shared->actors[0].fds[k][0] = shared->actors[0].fds[k][1] = -1;
  must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && signal(SIGPIPE, SIG_IGN) != SIG_ERR, "prctl");
  signals_begin();
  for (;; shared->steps++) {
    if (shared->steps % pause_after == 0) {
      verify_all();
      pause_here();
      verify_all();
    }
    int a = (int)(draw(&seed) % N_ACTORS);
    if (shared->actors[a].alive)
      deal(a, STEP, draw(&seed));
    objects_settle();
  }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Tasks that share descriptors (f), directory and umask (d), signal actions (s), memory (v) and
 * what semop(2) is to undo (u) by clone(2): argv[2] says how they
 * come to be, argv[3] what is shared ("all": each combination that the kernel allows, one after the other). Who shares what is
 * noted as the tree is made; then each task changes each thing of its own, and exactly those that share it see the change.
 *   child      of the first task
 *   sibling    made by its sister (CLONE_PARENT), shares nothing with their parent
 *   brothers   share with each other what their parent has left (unshare(2))
 *   grand      of the first task, whose child in between has left it
 *   orphan     two, whose dead parent had it for them; and the first task has it as well in "heirs"
 *   chain      four generations, of which one shares nothing
 *   cross      descriptors with one sister, directory with another
 *   sessions   brothers that lead sessions
 *   stopped    by job control
 *   random     whatever comes, argv[3] is the seed and argv[4] how many steps
 *   between    one that has called execve(2) stands between those that share memory: refused
 *   locks      POSIX locks of two that share descriptors
 *   places     threads with directories apart from their process, alone, together, with another root
 *   tables     threads with descriptor tables of their own
 *   thread     the same with an epoll in it: refused
 * argv[4] is "threads" (the first task has some), "user" (not root) or "seccomp" (a filter that allows everything).
 *   vfork, exec: without execve(2) after vfork(2), and after it */

#include "subject.h"
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef SYS_semop /* for 32 bits: with a time-out */
#define SYS_semop SYS_semtimedop_time64
#endif

#define MAX_TASKS 64
#define FD 200

enum { FILES, FS, SIGHAND, MEMORY, UNDO, N_KINDS };
static const int flag_of[N_KINDS] = {CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_VM, CLONE_SYSVSEM};
static const char *const combinations[] = {"f", "d", "fd", "v", "fv", "dv", "fdv", "sv", "fsv", "dsv", "fdsv", "u", "fu", "fdsvu"};

/* The last one has no value: it is the list of what semop(2) is to undo, and kcmp(2) compares it. */
#define N_VALUES UNDO

typedef enum Order { STAY, SPAWN, UNSHARE, CHANGE, LOOK, SETSID, EXEC, END, REAP, USE_UNDO } Order;

typedef struct Slot {
  atomic_int order, done; /* counts */
  Order what;
  int kind, token, result;
  int flags, slot; /* of the one to be made */
  pid_t pid;
  bool alive, sleeps;
  int group[N_KINDS];
} Slot;

typedef struct Board {
  Slot slots[MAX_TASKS];
  int n, n_groups, last_token;
  int value[N_KINDS][4 * MAX_TASKS]; /* of each group */
} Board;

static Board *board;
static volatile int cell = 1;
static atomic_int settled;

static void change(int kind, int token) {
  if (kind == FILES) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    check_call(fd >= 0 && lseek(fd, token, SEEK_SET) == token && dup3(fd, FD, O_CLOEXEC) == FD && close(fd) == 0);
  } else if (kind == FS) {
    check_call(chdir(token & 1 ? "/usr" : "/var") == 0);
    (void)umask((mode_t)token & 0777);
  } else if (kind == SIGHAND) {
    struct sigaction a = {.sa_handler = (void (*)(int))(intptr_t)(token + 4096)};
    check_call(sigaction(SIGUSR2, &a, NULL) == 0);
  } else {
    cell = token;
  }
}

static int look(int kind) {
  char cwd[256];
  struct sigaction a;
  mode_t mask;
  switch (kind) {
  case FILES:
    return (int)lseek(FD, 0, SEEK_CUR);
  case FS:
    mask = umask(0);
    (void)umask(mask);
    check_call(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
    return strcmp(cwd, mask & 1 ? "/usr" : "/var") == 0 ? (int)mask : -1;
  case SIGHAND:
    check_call(sigaction(SIGUSR2, NULL, &a) == 0);
    return (int)(intptr_t)a.sa_handler - 4096;
  default:
    return cell;
  }
}

static int serve(void *arg);

static void spawn(Slot *me) {
  size_t size = 64 << 10;
  char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  Slot *child = &board->slots[me->slot];
  check_call(stack != MAP_FAILED);
  child->pid = clone(serve, stack + size, me->flags | SIGCHLD, child);
  check_call(child->pid > 0);
}

static void report(Slot *me) {
  atomic_fetch_add(&me->done, 1);
  (void)syscall(SYS_futex, &me->done, FUTEX_WAKE, 1);
}

static void obey(Slot *me) {
  switch (me->what) {
  case SPAWN:
    spawn(me);
    break;
  case UNSHARE:
    check_call(unshare(me->flags) == 0);
    break;
  case CHANGE:
    change(me->kind, me->token);
    break;
  case LOOK:
    me->result = look(me->kind);
    break;
  case SETSID:
    check_call(setsid() > 0);
    break;
  case USE_UNDO:
    for (short by = 1; by >= -1; by -= 2)
      check_call(syscall(SYS_semop, me->token, &(struct sembuf){0, by, SEM_UNDO}, 1, NULL) == 0);
    break;
  case REAP:
    check_call(syscall(SYS_wait4, me->slot, NULL, 0, NULL) == me->slot);
    break;
  case EXEC:
    report(me);
    (void)execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    _exit(96);
  case END:
    report(me);
    syscall(SYS_exit, 0);
  default:
    break;
  }
}

static int serve(void *arg) {
  Slot *me = arg;
  for (;;) {
    for (int done = atomic_load(&me->done); atomic_load(&me->order) == done;)
      (void)syscall(SYS_futex, &me->order, FUTEX_WAIT, done, NULL);
    obey(me);
    report(me);
  }
  return 0;
}

static void tell(Slot *slot, Order what) {
  slot->what = what;
  if (slot == board->slots) { /* the first task itself */
    obey(slot);
    return;
  }
  int done = atomic_load(&slot->done);
  atomic_fetch_add(&slot->order, 1);
  (void)syscall(SYS_futex, &slot->order, FUTEX_WAKE, 1);
  for (int patience = 0; atomic_load(&slot->done) == done; patience++) {
    const struct timespec pause = {.tv_nsec = 100000000};
    check(patience < 600, "task %d does not answer", (int)(slot - board->slots));
    (void)syscall(SYS_futex, &slot->done, FUTEX_WAIT, done, &pause);
  }
}

static int new_group(int kind, int like) {
  check(board->n_groups < 4 * MAX_TASKS, "too many groups");
  board->value[kind][board->n_groups] = board->value[kind][like];
  return board->n_groups++;
}

static Slot *make(Slot *maker, int flags) {
  check(board->n < MAX_TASKS, "too many tasks");
  Slot *child = &board->slots[board->n];
  maker->slot = board->n++;
  maker->flags = flags;
  for (int kind = 0; kind < N_KINDS; kind++)
    child->group[kind] = flags & flag_of[kind] ? maker->group[kind] : new_group(kind, maker->group[kind]);
  child->alive = true;
  tell(maker, SPAWN);
  return child;
}

static void leave(Slot *slot, int flags) {
  slot->flags = flags &= CLONE_FILES | CLONE_FS | CLONE_SYSVSEM;
  if (!flags)
    return;
  for (int kind = 0; kind < N_KINDS; kind++)
    if (flags & flag_of[kind])
      slot->group[kind] = new_group(kind, slot->group[kind]);
  tell(slot, UNSHARE);
}

static void end(Slot *slot, Slot *parent) {
  slot->alive = false;
  tell(slot, END);
  if (!parent)
    return;
  parent->slot = slot->pid;
  tell(parent, REAP);
}

static void set(Slot *slot, int kind) {
  slot->kind = kind;
  slot->token = ++board->last_token;
  check(slot->token < 510, "too many tokens");
  board->value[kind][slot->group[kind]] = slot->token;
  tell(slot, CHANGE);
}

/* @only: of one kind; negative: of all. */
static void compare(const char *when, int only) {
  for (int i = 0; i < board->n; i++)
    for (int kind = only < 0 ? 0 : only; kind < (only < 0 ? N_VALUES : only + 1); kind++) {
      Slot *s = &board->slots[i];
      if (!s->alive || s->sleeps)
        continue;
      s->kind = kind;
      tell(s, LOOK);
      check(s->result == board->value[kind][s->group[kind]], "%s: task %d has %d of kind %d instead of %d", when, i, s->result, kind,
          board->value[kind][s->group[kind]]);
    }
}

/* --- how they come to be --- */

static bool runs(pid_t pid, const char *name) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
  char *comm = subject_read(path, NULL);
  bool same = strncmp(comm, name, strlen(name)) == 0;
  free(comm);
  return same;
}

static int flags_from(const char *letters) {
  int flags = 0;
  for (; letters && *letters; letters++)
    flags |= *letters == 'f' ? CLONE_FILES : *letters == 'd' ? CLONE_FS : *letters == 's' ? CLONE_SIGHAND : *letters == 'v' ? CLONE_VM : *letters == 'u' ? CLONE_SYSVSEM : 0;
  return flags;
}

static void build(const char *what, int flags) {
  Slot *root = board->slots;
  if (!strcmp(what, "child")) {
    make(root, flags);
  } else if (!strcmp(what, "chain")) {
    make(make(make(make(root, flags), flags), 0), flags);
  } else if (!strcmp(what, "sibling")) {
    make(make(root, 0), flags | CLONE_PARENT);
  } else if (!strcmp(what, "brothers") || !strcmp(what, "sessions")) {
    Slot *a = make(root, flags), *b = make(root, flags);
    leave(root, flags);
    tell(a, !strcmp(what, "sessions") ? SETSID : STAY);
    tell(b, !strcmp(what, "sessions") ? SETSID : STAY);
  } else if (!strcmp(what, "grand")) {
    Slot *between = make(root, flags);
    make(between, flags);
    leave(between, flags);
    make(between, flags);
  } else if (!strcmp(what, "orphan") || !strcmp(what, "heirs")) {
    Slot *parent = make(root, *what == 'h' ? flags : 0);
    make(parent, flags);
    make(make(parent, flags), flags);
    end(parent, root);
  } else if (!strcmp(what, "stopped")) {
    Slot *s = make(root, flags);
    make(root, flags);
    s->sleeps = true;
    check_call(kill(s->pid, SIGSTOP) == 0 && waitpid(s->pid, NULL, WUNTRACED) == s->pid);
  } else if (!strcmp(what, "cross")) {
    Slot *a = make(root, 0);
    make(a, CLONE_FILES | CLONE_PARENT);
    make(make(a, CLONE_FS | CLONE_PARENT), CLONE_FILES | CLONE_PARENT);
  } else if (!strcmp(what, "between")) {
    Slot *between = make(root, flags);
    make(between, flags);
    between->alive = false;
    tell(between, EXEC);
    check(subject_await(runs(between->pid, "sleep")), "it does not run sleep");
  } else {
    check(0, "%s is not known", what);
  }
}

static unsigned next_random(unsigned *seed, unsigned below) {
  *seed = *seed * 1103515245u + 12345u;
  return (*seed >> 16) % below;
}

static Slot *any_alive(unsigned *seed, bool root) {
  for (;;) {
    unsigned i = next_random(seed, (unsigned)board->n);
    if (board->slots[i].alive && (root || i))
      return &board->slots[i];
  }
}

static void build_random(unsigned seed, int steps) {
  for (int i = 0; i < steps; i++) {
    unsigned what = next_random(&seed, 10), letters = next_random(&seed, 16);
    int flags = (letters & 1 ? CLONE_FILES : 0) | (letters & 2 ? CLONE_FS : 0) | (letters & 8 ? CLONE_SYSVSEM : 0);
    if (next_random(&seed, 4) == 0)
      flags |= CLONE_VM | (letters & 4 ? CLONE_SIGHAND : 0);
    if (what < 6 || i < 3) {
      Slot *maker = any_alive(&seed, true);
      make(maker, flags | (next_random(&seed, 5) == 0 && maker != board->slots ? CLONE_PARENT : 0));
    } else if (what < 8) {
      leave(any_alive(&seed, true), flags);
    } else if (what < 9) {
      end(any_alive(&seed, false), NULL);
      make(board->slots, 0);
    }
  }
}

static void *wait_here(void *arg) {
  while (!subject_failed())
    subject_tick();
  return NULL;
}

/* --- the others --- */

/* Descriptors apart: which numbers, and what is behind them. */
typedef struct Table {
  bool all; /* it keeps its process's, and opens more */
  int fds[4], positions[4];
  bool cloexec[4];
  pthread_t thread;
} Table;

static pthread_barrier_t steps;
static int common = -1, pipe_ends[2];
static Table tables[] = {{.fds = {0, 3, 7, 900}, .positions = {1, 2, 3, 4}, .cloexec = {true, false, true, false}},
    {.fds = {5, 6, 8, 2}, .positions = {11, 12, 13, 14}, .all = true}, {.fds = {1, 0, 2, 3}, .positions = {21, 22, 23, 24}}};
#define N_TABLES (sizeof tables / sizeof *tables)

static void open_table(const Table *t) {
  int spare = open("/proc/self/exe", O_RDONLY), kept = t->all ? common : -1;
  check_call(unshare(CLONE_FILES) == 0 && spare >= 0 && dup3(spare, 1000, O_CLOEXEC) == 1000);
  if (!t->all)
    check_call(syscall(SYS_close_range, 0, 999, 0) == 0);
  for (int i = 0; i < 4; i++) {
    int fd = open("/proc/self/exe", O_RDONLY);
    check_call(fd >= 0 && lseek(fd, t->positions[i], SEEK_SET) == t->positions[i]);
    if (fd != t->fds[i]) {
      check(fd != kept && (t->all || i == 3 || fd < 1000), "numbers");
      check_call(dup3(fd, 1001 + i, 0) == 1001 + i && close(fd) == 0);
    } else {
      check_call(dup3(fd, 1001 + i, 0) == 1001 + i && close(fd) == 0);
    }
  }
  for (int i = 0; i < 4; i++)
    check_call(dup3(1001 + i, t->fds[i], t->cloexec[i] ? O_CLOEXEC : 0) == t->fds[i] && close(1001 + i) == 0);
  check_call(close(1000) == 0);
}

static void check_table(const Table *t) {
  for (int i = 0; i < 4; i++) {
    check(lseek(t->fds[i], 0, SEEK_CUR) == t->positions[i], "fd %d of a thread stands at %ld", t->fds[i], (long)lseek(t->fds[i], 0, SEEK_CUR));
    check(!(fcntl(t->fds[i], F_GETFD) & FD_CLOEXEC) == !t->cloexec[i], "fd %d and FD_CLOEXEC", t->fds[i]);
  }
  check((fcntl(common, F_GETFD) >= 0) == t->all, "a thread %s its process's descriptor", t->all ? "has lost" : "has");
  check(!t->all || (write(pipe_ends[1], "x", 1) == 1), "a thread cannot write to its process's pipe");
}

static void *live_with_table(void *arg) {
  Table *t = arg;
  open_table(t);
  for (int i = 0; i < 2; i++) {
    pthread_barrier_wait(&steps);
    pthread_barrier_wait(&steps);
    check_table(t);
  }
  (void)close(t->fds[0]);
  pthread_barrier_wait(&steps);
  return NULL;
}

static int run_tables(void) {
  char c;
  common = open("/dev/null", O_RDWR | O_CLOEXEC);
  check_call(common >= 0 && dup3(common, 50, O_CLOEXEC) == 50 && pipe2(pipe_ends, O_CLOEXEC) == 0 && pthread_barrier_init(&steps, NULL, N_TABLES + 1) == 0);
  (void)close(common);
  common = 50;
  for (int i = 0; i < 2; i++) /* out of the way of what a thread opens */
    check_call(dup3(pipe_ends[i], 60 + i, O_CLOEXEC) == 60 + i && close(pipe_ends[i]) == 0 && (pipe_ends[i] = 60 + i));
  for (size_t i = 0; i < N_TABLES; i++)
    check_call(pthread_create(&tables[i].thread, NULL, live_with_table, &tables[i]) == 0);
  pthread_barrier_wait(&steps);
  pthread_barrier_wait(&steps);
  check(read(60, &c, 1) == 1 && c == 'x', "the pipe");
  pthread_barrier_wait(&steps);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  pthread_barrier_wait(&steps);
  check(read(60, &c, 1) == 1 && c == 'x', "the pipe, restored");
  pthread_barrier_wait(&steps);
  check(fcntl(common, F_GETFD) == FD_CLOEXEC && fcntl(900, F_GETFD) < 0 && fcntl(0, F_GETFD) == 0, "its own descriptors");
  return subject_pass();
}

/* One that no thread can have back. */
static void *hold_alone(void *arg) {
  check_call(unshare(CLONE_FILES) == 0 && epoll_create1(EPOLL_CLOEXEC) >= 0);
  atomic_store(&settled, 1);
  return wait_here(NULL);
}

/* What a thread has apart from its process; the one that it makes has the same. */
typedef struct Place {
  const char *cwd;
  mode_t mask;
  bool in_usr; /* as its root */
  struct Place *with; /* made by that one, and shares it */
  pthread_t thread;
} Place;

static Place places[] = {
    {.cwd = "/usr/lib", .mask = 027}, {.cwd = "/var", .mask = 07}, {.cwd = "/var", .mask = 07, .with = &places[1]}, {.cwd = "/lib", .mask = 01, .in_usr = true}};
#define N_PLACES (sizeof places / sizeof *places)

static void check_place(const char *cwd, mode_t mask, bool in_usr) {
  char now[256];
  check_call(syscall(SYS_getcwd, now, sizeof now) > 0);
  mode_t was = umask(0);
  (void)umask(was);
  check(strcmp(now, cwd) == 0 && was == mask, "a thread is in %s with %o instead of %s with %o", now, was, cwd, mask);
  check((access("/share", F_OK) == 0) == in_usr, "the root of a thread is another");
}

static void *live_apart(void *arg) {
  Place *p = arg;
  if (!p->with) {
    check_call(unshare(CLONE_FS) == 0 && (!p->in_usr || chroot("/usr") == 0) && chdir(p->cwd) == 0);
    (void)umask(p->mask);
  }
  for (size_t i = 0; i < N_PLACES; i++)
    if (places[i].with == p)
      check_call(pthread_create(&places[i].thread, NULL, live_apart, &places[i]) == 0);
  pthread_barrier_wait(&steps); /* all are there */
  pthread_barrier_wait(&steps); /* restored */
  check_place(p->cwd, p->mask, p->in_usr);
  pthread_barrier_wait(&steps);
  if (p == &places[1])
    check_call(chdir("/etc") == 0 && umask(070) == 07);
  pthread_barrier_wait(&steps);
  bool changed = p == &places[1] || p->with;
  check_place(changed ? "/etc" : p->cwd, changed ? 070 : p->mask, p->in_usr);
  pthread_barrier_wait(&steps);
  return NULL;
}

static int run_places(void) {
  check_call(chdir("/usr/bin") == 0 && pthread_barrier_init(&steps, NULL, N_PLACES + 1) == 0);
  (void)umask(022);
  for (size_t i = 0; i < N_PLACES; i++)
    if (!places[i].with)
      check_call(pthread_create(&places[i].thread, NULL, live_apart, &places[i]) == 0);
  pthread_barrier_wait(&steps);
  check_place("/usr/bin", 022, false);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_place("/usr/bin", 022, false);
  for (int i = 0; i < 4; i++)
    pthread_barrier_wait(&steps);
  check_place("/usr/bin", 022, false);
  return subject_pass();
}

/* --- POSIX locks belong to the table, and show who took them --- */

static int lock_fd = -1;
static const struct flock ranges[2] = {{.l_type = F_WRLCK, .l_start = 10, .l_len = 5}, {.l_type = F_WRLCK, .l_start = 20, .l_len = 5}};

static int take_second(void *arg) {
  check_call(fcntl(lock_fd, F_SETLK, &ranges[1]) == 0);
  atomic_store((atomic_int *)arg, 1);
  for (;;)
    (void)syscall(SYS_pause);
  return 0;
}

static void check_locks(pid_t first, pid_t second) {
  const pid_t holders[2] = {first, second};
  pid_t pid = fork(); /* has none of them */
  for (int i = 0; pid == 0 && i < 2; i++) {
    struct flock l = ranges[i];
    check_call(fcntl(lock_fd, F_GETLK, &l) == 0);
    check(l.l_type == F_WRLCK && l.l_pid == holders[i] && l.l_len == 5, "lock %d: type %d of pid %d", i, l.l_type, (int)l.l_pid);
  }
  if (pid == 0)
    _exit(0);
  check_call(pid > 0 && waitpid(pid, NULL, 0) == pid);
}

static int run_locks(void) {
  size_t size = 64 << 10;
  atomic_int *ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0), path[4096];
  subject_path(path, sizeof path, "locked");
  lock_fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  check_call(lock_fd >= 0 && ready != MAP_FAILED && stack != MAP_FAILED && fcntl(lock_fd, F_SETLK, &ranges[0]) == 0);
  pid_t child = clone(take_second, stack + size, CLONE_FILES | SIGCHLD, ready);
  while (child > 0 && !atomic_load(ready))
    subject_tick();
  check_locks(getpid(), child);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_locks(getpid(), child);
  (void)kill(child, SIGKILL);
  return subject_pass();
}

static void *vfork_forever(void *arg) {
  volatile pid_t *child = arg;
  pid_t pid = vfork();
  if (pid == 0) {
    *child = (pid_t)syscall(SYS_getpid);
    for (;;)
      (void)syscall(SYS_pause);
  }
  return NULL;
}

static pid_t start_vfork(bool execs) {
  static pid_t child;
  pthread_t thread;
  if (!execs) {
    check_call(pthread_create(&thread, NULL, vfork_forever, &child) == 0);
    while (!*(volatile pid_t *)&child)
      subject_tick();
    return child;
  }
  pid_t pid = vfork();
  if (pid == 0) {
    execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    _exit(1);
  }
  return pid;
}

static int run_others(const char *what) {
  pthread_t thread;
  pid_t child = 0;
  if (!strcmp(what, "thread")) {
    check_call(pthread_create(&thread, NULL, hold_alone, NULL) == 0);
    while (!settled)
      subject_tick();
  } else {
    child = start_vfork(!strcmp(what, "exec"));
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  if (child)
    check_call(kill(child, 0) == 0 && kill(child, SIGKILL) == 0);
  return subject_pass();
}

static void restrain(const char *how) {
  pthread_t thread;
  struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog program = {1, allow};
  for (int i = 0; i < (!strcmp(how, "threads") ? 3 : 0); i++)
    check_call(pthread_create(&thread, NULL, wait_here, NULL) == 0);
  if (!strcmp(how, "user"))
    check_call(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
  if (!strcmp(how, "seccomp"))
    check_call(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void prepare(void) {
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(board != MAP_FAILED && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  Slot *root = board->slots;
  board->n = board->n_groups = 1; /* group 0 of each kind is the first task's */
  root->alive = true;
  root->pid = getpid();
  for (int kind = 0; kind < N_VALUES; kind++)
    set(root, kind);
}

/* Each gets a list if it has none; then they are compared. */
static void compare_undo(void) {
  int set_id = semget(IPC_PRIVATE, 1, 0600);
  check_call(set_id >= 0);
  for (int i = 0; i < board->n; i++)
    if (board->slots[i].alive) {
      board->slots[i].token = set_id;
      tell(&board->slots[i], USE_UNDO);
    }
  check_call(semctl(set_id, 0, IPC_RMID) == 0);
  for (int i = 0; i < board->n; i++)
    for (int k = 0; k < i; k++) {
      const Slot *a = &board->slots[i], *b = &board->slots[k];
      if (a->alive && b->alive)
        check((a->group[UNDO] == b->group[UNDO]) == (syscall(SYS_kcmp, a->pid, b->pid, KCMP_SYSVSEM, 0, 0) == 0),
            "lists of semaphores of tasks %d and %d", i, k);
    }
}

static void verify(void) {
  for (int i = 0; i < board->n; i++)
    if (board->slots[i].sleeps) {
      check_call(kill(board->slots[i].pid, SIGCONT) == 0);
      board->slots[i].sleeps = false;
    }
  compare("as it was", -1);
  for (int i = 0; i < board->n; i++)
    for (int kind = 0; board->slots[i].alive && kind < N_VALUES; kind++) {
      set(&board->slots[i], kind);
      compare("after a change", kind);
    }
  compare_undo();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "child", *letters = argc > 3 ? argv[3] : "all";
  if ((!strcmp(what, "tables") || !strcmp(what, "thread")) && !subject_has_thread_pidfds())
    subject_skip("this kernel has no pidfds of threads, and such tables are refused");
  if (!strcmp(what, "locks"))
    return run_locks();
  if (!strcmp(what, "tables"))
    return run_tables();
  if (!strcmp(what, "places"))
    return run_places();
  if (!strcmp(what, "thread") || !strcmp(what, "vfork") || !strcmp(what, "exec"))
    return run_others(what);
  prepare();
  if (argc > 4 && strcmp(what, "random") != 0)
    restrain(argv[4]);
  if (!strcmp(what, "random"))
    build_random((unsigned)atoi(letters), argc > 4 ? atoi(argv[4]) : 10);
  else if (!strcmp(letters, "all"))
    for (size_t i = 0; i < sizeof combinations / sizeof *combinations; i++)
      build(what, flags_from(combinations[i]));
  else
    build(what, flags_from(letters));
  for (int i = 0; i < board->n; i++)
    for (int kind = 0; board->slots[i].alive && !board->slots[i].sleeps && kind < N_VALUES; kind++)
      set(&board->slots[i], kind);
  compare("before", -1);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify();
  for (int i = 1; i < board->n; i++)
    (void)kill(board->slots[i].pid, SIGKILL);
  return subject_pass();
}

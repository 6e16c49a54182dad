/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "warden.h"
#include "alive.h"
#include "trace-call.h"
#include "tracee.h"
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA_SIZE (64u << 10)
#define PAGE 4096ull
#define NR_FUTEX_WAITV 449
#define PATIENCE 10000
#define PAUSE_USEC 200

/* One call at a time, in memory that both share. */
typedef struct Desk {
  TraceCall call;
  int64_t result;
  unsigned char data[DATA_SIZE];
} Desk;

typedef struct TraceOwn {
  uint64_t address, size, offset;
} TraceOwn;

/* A task as the warden knows it. */
typedef struct Ward {
  bool running, has_home;
  TraceHome home;
} Ward;

static struct {
  pid_t pid; /* of the warden; 0: there is none */
  int socket;
  Desk *desk;
} warden = {.socket = -1};

/* --- the warden's side --- */

static Ward *ward_of(GHashTable *wards, pid_t tid) {
  Ward *w = g_hash_table_lookup(wards, GINT_TO_POINTER(tid));
  if (!w) {
    w = g_new0(Ward, 1);
    g_hash_table_insert(wards, GINT_TO_POINTER(tid), w);
  }
  return w;
}

static int own_word(pid_t pid, const TraceOwn *o) {
  char path[96];
  g_snprintf(path, sizeof path, "/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", (int)pid, o->address,
      o->address + o->size);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  uint64_t page = o->offset & ~(PAGE - 1);
  unsigned char *p = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)page);
  int err = errno;
  if (fd >= 0)
    (void)close(fd);
  if (p == MAP_FAILED)
    return -err;
  alive_take(p + (o->offset - page));
  return 0;
}

/* What a step has made of the task. */
static void note_step(GHashTable *wards, const TraceCall *c, int64_t result) {
  if (result < 0)
    return;
  switch (c->op) {
  case TRACE_SEIZE:
  case TRACE_RESUME:
    ward_of(wards, c->tid)->running = true;
    break;
  case TRACE_RUN:
    ward_of(wards, c->tid)->running = c->b != 0;
    break;
  case TRACE_STOP:
  case TRACE_WAIT:
  case TRACE_WAIT_INTERRUPTED:
    ward_of(wards, c->tid)->running = false;
    break;
  case TRACE_DETACH:
  case TRACE_WAIT_END:
    g_hash_table_remove(wards, GINT_TO_POINTER(c->tid));
    break;
  default:
    break;
  }
}

static int64_t serve(GHashTable *wards, Desk *desk) {
  TraceCall c = desk->call;
  c.data = desk->data;
  if (c.op == TRACE_HOME) {
    Ward *w = ward_of(wards, c.tid);
    w->has_home = true;
    memcpy(&w->home, desk->data, sizeof w->home);
    return 0;
  }
  if (c.op == TRACE_OWN) {
    TraceOwn own;
    memcpy(&own, desk->data, sizeof own);
    return own_word(c.tid, &own);
  }
  int64_t r = trace_perform(&c);
  note_step(wards, &c, r);
  return r;
}

static int64_t perform(TraceOp op, pid_t tid, uint64_t a, void *data, size_t size) {
  const TraceCall call = {op, tid, a, 0, data, size};
  return trace_perform(&call);
}

/* A system call of the thread's own process, at its own code; the thread is stopped before and after. */
static void make_call(const TraceHome *h) {
  struct user_regs_struct r = h->call;
  (void)perform(TRACE_RUN, h->tid, 2, &r, sizeof r);
}

/* Stops an agent when it waits for its coordinator, not in the middle of a program: that may have taken something that it
 * is going to put back. */
static bool stop_idle(pid_t tid) {
  struct user_regs_struct r;
  for (int patience = 0;; patience++) {
    if (perform(TRACE_STOP, tid, 0, NULL, 0) < 0 || perform(TRACE_GET_REGS, tid, 0, &r, sizeof r) < 0)
      return false; /* dead */
    bool interrupted = (int64_t)r.rax <= -512; /* -ERESTART…: nothing has woken it */
    if ((r.orig_rax == NR_FUTEX_WAITV && interrupted) || patience == PATIENCE)
      return true;
    (void)perform(TRACE_RESUME, tid, PTRACE_CONT, NULL, 0);
    g_usleep(PAUSE_USEC);
  }
}

static void bring_home(Ward *w) {
  TraceHome *h = &w->home;
  if (w->running && !stop_idle(h->tid))
    return;
  w->running = false;
  if (h->calls)
    make_call(h);
  (void)perform(TRACE_SET_SIGMASK, h->tid, 0, &h->sigmask, sizeof h->sigmask);
  (void)perform(TRACE_SET_REGS, h->tid, 0, &h->regs, sizeof h->regs);
}

/* The engine is dead. Leaders last: they take the memory away in which the others stand. The kernel lets all of them go
 * when this process ends. */
static void bring_all_home(GHashTable *wards) {
  for (int pass = 0; pass < 2; pass++) {
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, wards);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
      Ward *w = value;
      if (w->has_home && w->home.calls == (pass == 1))
        bring_home(w);
    }
  }
}

static _Noreturn void warden_main(Desk *desk, int socket) {
  char byte;
  (void)setsid();
  (void)prctl(PR_SET_NAME, WARDEN_COMM);
  if (socket != 3)
    (void)dup3(socket, 3, O_CLOEXEC);
  (void)syscall(SYS_close_range, 0, 2, 0);
  (void)syscall(SYS_close_range, 4, ~0u, 0);
  GHashTable *wards = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  for (;;) {
    ssize_t n = read(3, &byte, 1);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      break;
    desk->result = serve(wards, desk);
    (void)send(3, &byte, 1, MSG_NOSIGNAL);
  }
  bring_all_home(wards);
  _exit(0);
}

/* --- the engine's side --- */

bool warden_is_active(void) {
  return warden.pid > 0;
}

int warden_lifeline(void) {
  return warden.socket;
}

bool warden_start(GError **error) {
  int pair[2];
  warden.desk = mmap(NULL, sizeof *warden.desk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (warden.desk == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make the warden's desk");
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    warden_main(warden.desk, pair[1]);
  int err = errno;
  sigprocmask(SIG_SETMASK, &before, NULL);
  (void)close(pair[1]);
  if (pid < 0) {
    (void)close(pair[0]);
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot start the warden");
  }
  warden.pid = pid;
  warden.socket = pair[0];
  return true;
}

static bool ring(void) {
  char byte = 0;
  ssize_t n;
  if (send(warden.socket, &byte, 1, MSG_NOSIGNAL) != 1)
    return false;
  while ((n = read(warden.socket, &byte, 1)) < 0 && errno == EINTR)
    ;
  return n == 1;
}

int64_t warden_perform(const TraceCall *call) {
  Desk *d = warden.desk;
  if (call->size > DATA_SIZE)
    return -E2BIG;
  d->call = *call;
  if (call->size)
    memcpy(d->data, call->data, call->size);
  if (!ring())
    return -EIO; /* it was killed */
  /* What was only an input comes back unchanged, and its owner may have made it read only. */
  bool input = call->op == TRACE_SET_REGS || call->op == TRACE_SET_XSTATE || call->op == TRACE_SET_SIGMASK ||
               call->op == TRACE_HOME || call->op == TRACE_OWN;
  if (call->size && !input)
    memcpy(call->data, d->data, call->size);
  return d->result;
}

int warden_own(pid_t pid, uint64_t address, uint64_t size, uint64_t offset) {
  TraceOwn own = {address, size, offset};
  const TraceCall call = {TRACE_OWN, pid, 0, 0, &own, sizeof own};
  return (int)warden_perform(&call);
}

void warden_stop(void) {
  if (!warden.pid)
    return;
  (void)close(warden.socket);
  while (waitpid(warden.pid, NULL, 0) < 0 && errno == EINTR)
    ;
  munmap(warden.desk, sizeof *warden.desk);
  warden.pid = 0;
  warden.socket = -1;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sleep.h"
#include "frame.h"
#include "ia32.h"
#include "run-clock.h"
#include "sleep-note.h"
#include "tracee.h"
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NSEC 1000000000ll

/* A call that was interrupted before goes on as restart_syscall(2). Which one it was, the kernel's stack tells while
 * the thread sleeps (only these restart so), or the code in front of it (`mov $nr, %eax` … `syscall`). 0: not known. */
static guint64 restarted_by_stack(pid_t pid, pid_t tid, const guint64 args[static 6]) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/stack", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  if (!text || !*text)
    return 0;
  if (strstr(text, "futex"))
    return SYS_futex;
  if (strstr(text, "poll"))
    return SYS_poll;
  return args[0] < 16 ? SYS_clock_nanosleep : SYS_nanosleep;
}

/* The code in front of the system call: 32-bit programs call the vdso for that, which pops three words and returns. */
static bool read_code(pid_t pid, guint64 ip, guint64 sp, bool ia32, unsigned char *code, size_t size) {
  unsigned char call[FRAME_CALL_SIZE] = {0};
  guint32 back = 0;
  if (ia32 && tracee_read(pid, ip - 2, call, 6) == 0 && call[2 + frame_count_pops(call)] == 0xc3 &&
      tracee_read(pid, sp + 4ull * frame_count_pops(call), &back, sizeof back) == 0)
    ip = back;
  return tracee_read(pid, ip - size, code, size) == 0;
}

static guint64 restarted_by_code(pid_t pid, guint64 ip, guint64 sp, bool ia32) {
  static const guint64 natives[] = {SYS_clock_nanosleep, SYS_nanosleep, SYS_poll, SYS_futex, SYS_futex, SYS_futex};
  static const guint64 compats[] = {IA32_CLOCK_NANOSLEEP_TIME64, IA32_CLOCK_NANOSLEEP, IA32_NANOSLEEP, IA32_POLL, IA32_FUTEX, IA32_FUTEX_TIME64};
  const guint64 *candidates = ia32 ? compats : natives;
  unsigned char code[48];
  if (!read_code(pid, ip, sp, ia32, code, sizeof code))
    return 0;
  for (size_t at = sizeof code - 7 + 1; at-- > 0;)
    for (size_t i = 0; i < G_N_ELEMENTS(natives); i++) {
      guint32 nr;
      memcpy(&nr, code + at + 1, sizeof nr);
      if (code[at] == 0xb8 && nr == candidates[i])
        return nr;
    }
  return 0;
}

/* A call and what it is in 64-bit numbers (G_MAXUINT64: nothing of interest). */
typedef struct SleepCall {
  guint64 nr, native;
  bool time32;
  guint64 args[6];
} SleepCall;

static void call_name(SleepCall *c, guint64 nr, bool ia32) {
  c->nr = c->native = nr;
  c->time32 = false;
  if (ia32)
    c->native = ia32_native_call(nr, c->args[0], &c->time32);
}

/* Does this call keep its end in a restart block? Then the address (0: none) of its relative timespec, or the
 * milliseconds themselves. */
static bool sleep_of_call(const SleepCall *c, guint64 *ret_timespec, gint64 *ret_nsec) {
  const guint64 *args = c->args;
  *ret_timespec = 0;
  *ret_nsec = 0;
  switch (c->native) {
  case SYS_nanosleep:
    *ret_timespec = args[0];
    return true;
  case SYS_clock_nanosleep:
    *ret_timespec = args[2];
    return !(args[1] & TIMER_ABSTIME);
  case SYS_poll:
    *ret_nsec = (gint64)(int)args[2] * 1000000;
    return (int)args[2] > 0;
  case SYS_epoll_wait:
  case SYS_epoll_pwait:
    *ret_nsec = (gint64)(int)args[3] * 1000000;
    return (int)args[3] > 0;
  case SYS_epoll_pwait2:
    *ret_timespec = args[3];
    return args[3] != 0;
  case SYS_futex:
    *ret_timespec = args[3];
    return (args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT && args[3];
  default:
    return false;
  }
}

static bool read_timespec(pid_t pid, guint64 address, bool time32, struct timespec *ret) {
  struct ia32_timespec t;
  if (!time32)
    return tracee_read(pid, address, ret, sizeof *ret) == 0;
  if (tracee_read(pid, address, &t, sizeof t) < 0)
    return false;
  *ret = (struct timespec){t.tv_sec, t.tv_nsec};
  return true;
}

static bool read_duration(pid_t pid, const SleepCall *c, gint64 *ret) {
  guint64 address;
  struct timespec ts;
  if (!sleep_of_call(c, &address, ret))
    return false;
  if (!address)
    return true;
  if (!read_timespec(pid, address, c->time32, &ts) || ts.tv_sec < 0 || ts.tv_sec > G_MAXINT64 / NSEC / 2)
    return false;
  *ret = ts.tv_sec * NSEC + ts.tv_nsec;
  return true;
}

/* Where a nanosleep tells what is left when it is interrupted, if it was asked to; else 0. */
static guint64 remaining_address(const SleepCall *c) {
  return c->native == SYS_nanosleep ? c->args[1] : c->native == SYS_clock_nanosleep ? c->args[3] : 0;
}

/* With few processors it is cheaper to take the one whose clock makes the sleep longest than to ask where each thread
 * ran. */
#define FEW_CPUS 8
#define CLOCKS_APART 2000000 /* nanoseconds; a virtual machine's, from which time is stolen, may be seconds apart */
/* A busy processor lets nobody stand there for a while, and the tree stands still meanwhile: while it is being stopped, others can be;
 * later, that is all that is waited for. */
#define HURRY_USEC 2000
#define PATIENCE_USEC 500000

/* -EAGAIN: one of them is not known yet; -ENOENT: they are many, or too far apart. */
static int any_clock_offset(gint64 patience_usec, gint64 *ret) {
  static long n;
  if (!n)
    n = sysconf(_SC_NPROCESSORS_CONF);
  gint64 offset, most = G_MININT64, least = G_MAXINT64;
  for (int cpu = 0; cpu < n && n <= FEW_CPUS; cpu++) {
    int e = run_clock_offset(cpu, patience_usec, &offset);
    if (e == -EAGAIN)
      return e;
    if (e == 0)
      most = MAX(most, offset), least = MIN(least, offset);
  }
  *ret = most;
  return most != G_MININT64 && most - least < CLOCKS_APART ? 0 : -ENOENT;
}

static int last_cpu(pid_t pid, pid_t tid) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/stat", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  const char *p = text ? strrchr(text, ')') : NULL;
  for (int field = 2; p && field < 39; field++)
    p = strchr(p + 1, ' ');
  return p ? atoi(p) : -1;
}

/* What is left of a sleep that began at a moment of its processor's clock. Where nobody knows that, the whole time is slept again,
 * never too short. */
static gint64 remaining_of(const FrozenThread *t, gint64 offset) {
  return MAX(t->sleep_duration_nsec - MAX(t->sleep_seen_nsec - offset - t->sleep_began_nsec, 0), 0);
}

/* How long it sleeps already, or what is needed to know that later. */
static void look_at_clock(pid_t pid, FrozenThread *t, gint64 duration) {
  gint64 offset;
  t->sleep_duration_nsec = t->sleep_remaining_nsec = duration;
  if (!run_clock_last(pid, t->state.tid, &t->sleep_began_nsec))
    return;
  int e = any_clock_offset(HURRY_USEC, &offset), cpu = e ? last_cpu(pid, t->state.tid) : -1;
  if (e == -ENOENT && cpu >= 0)
    e = run_clock_offset(cpu, HURRY_USEC, &offset);
  t->sleep_cpu = cpu;
  t->sleep_later = e == -EAGAIN;
  if (e == 0)
    t->sleep_remaining_nsec = remaining_of(t, offset);
}

static void settle(FrozenThread *t) {
  gint64 offset;
  if (!t->sleep_later)
    return;
  t->sleep_later = false;
  if (any_clock_offset(PATIENCE_USEC, &offset) == 0 || (t->sleep_cpu >= 0 && run_clock_offset(t->sleep_cpu, PATIENCE_USEC, &offset) == 0))
    t->sleep_remaining_nsec = remaining_of(t, offset);
}

/* These keep their end in a restart block, too, though their arguments tell it as well: poll(2) without one, and a
 * futex until some moment of a clock, as every timed wait for a condition or a semaphore in glibc is. */
static bool is_told_by_arguments(const SleepCall *c) {
  return (c->native == SYS_poll && (int)c->args[2] < 0) || (c->native == SYS_futex && (c->args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET);
}

/* Made again with the same arguments, unless a signal is handled first: then it fails with EINTR, as it would have. */
static void begin_again(struct user_regs_struct *regs, guint64 nr) {
  regs->rax = (guint64)-KERNEL_ERESTARTNOHAND;
  regs->orig_rax = nr;
}

static gint64 monotonic_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * NSEC + now.tv_nsec;
}

/* An engine let it go on in a sleep; it is in the same one if it has run once since, and may have lost its processor then. A later
 * one shows as restarted only if it was stopped in it: that takes four runs. */
static bool still_sleeps(const SleepNote *n, pid_t pid) {
  guint64 runs = sleep_runs(pid, (pid_t)n->tid);
  return n->runs && runs > n->runs && runs - n->runs < 4 && n->end_nsec > monotonic_now();
}

/* By any of its threads' tracers. */
static void find_notes(FrozenTask *task) {
  static GMutex mutex;
  g_mutex_lock(&mutex);
  if (!task->sleep_asked)
    task->sleep_notes = sleep_notes_find(task->pid, task->stat.start_time);
  task->sleep_asked = true;
  g_mutex_unlock(&mutex);
}

static const SleepNote *find_note(FrozenTask *task, pid_t tid) {
  find_notes(task);
  for (guint i = 0; task->sleep_notes && i < task->sleep_notes->len; i++) {
    const SleepNote *n = &g_array_index(task->sleep_notes, SleepNote, i);
    if (n->tid == (guint32)tid)
      return still_sleeps(n, task->pid) ? n : NULL;
  }
  return NULL;
}

/* A system call that somebody is in. */
typedef struct Seen {
  guint64 nr, args[6], sp, ip;
} Seen;

static bool read_seen(pid_t pid, pid_t tid, Seen *ret) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/syscall", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  if (!text || !g_ascii_isdigit(*text))
    return false;
  char *p = text;
  ret->nr = strtoull(p, &p, 10);
  for (int i = 0; i < 6; i++)
    ret->args[i] = strtoull(p, &p, 16);
  ret->sp = strtoull(p, &p, 16), ret->ip = strtoull(p, &p, 16);
  return ret->ip != 0; /* else it executes no program */
}

/* As /proc tells it, which knows better about 32-bit programs. */
static bool take_seen(const ThreadGlimpse *g, Seen *ret) {
  if (g->runs || (gint64)g->regs.orig_rax < 0)
    return false;
  *ret = (Seen){.nr = g->regs.orig_rax, .sp = g->regs.rsp, .ip = g->regs.rip};
  ia32_arguments(&g->regs, false, ret->args);
  return true;
}

static bool is_ia32_place(const Seen *s) {
  return s->ip < IA32_ADDRESSES && s->sp < IA32_ADDRESSES;
}

bool sleep_observe(FrozenTask *task, FrozenThread *thread, const ThreadGlimpse *glimpse) {
  pid_t pid = task->pid;
  Seen seen;
  bool told = glimpse && !(glimpse->regs.rip < IA32_ADDRESSES && glimpse->regs.rsp < IA32_ADDRESSES);
  if (!(told ? take_seen(glimpse, &seen) : read_seen(pid, thread->state.tid, &seen)))
    return false;
  SleepCall c;
  memcpy(c.args, seen.args, sizeof c.args);
  guint64 nr = seen.nr;
  bool ia32 = is_ia32_place(&seen), again = nr == (ia32 ? IA32_RESTART_SYSCALL : SYS_restart_syscall);
  const SleepNote *note = again ? find_note(task, thread->state.tid) : NULL;
  if (again)
    nr = note   ? note->syscall_nr
         : ia32 ? restarted_by_code(thread->state.tid, seen.ip, seen.sp, true) /* the stack does not tell the size of times */
                : restarted_by_stack(pid, thread->state.tid, c.args);
  gint64 duration;
  call_name(&c, nr, ia32);
  if (!read_duration(thread->state.tid, &c, &duration)) {
    thread->sleep_nr = is_told_by_arguments(&c) ? nr : 0;
    return true;
  }
  thread->sleep_nr = nr;
  if (remaining_address(&c))
    return true; /* the kernel will say itself */
  thread->sleep_seen_nsec = monotonic_now();
  if (note)
    thread->sleep_remaining_nsec = MAX(note->end_nsec - thread->sleep_seen_nsec, 0);
  else
    look_at_clock(pid, thread, duration);
  return true;
}

void sleep_measure(FrozenThread *thread) {
  settle(thread);
  struct user_regs_struct *r = &thread->state.regs;
  guint64 seen = thread->sleep_nr, nr = r->orig_rax;
  if ((gint64)nr >= 0 && (gint64)r->rax == -EINTR && nr == seen)
    return; /* epoll_wait: its time-out is an argument, see collect-regs.c */
  thread->sleep_nr = 0;
  if ((gint64)nr < 0 || (gint64)r->rax != -KERNEL_ERESTART_RESTARTBLOCK)
    return;
  bool ia32 = frame_is_ia32(r);
  if (nr == (ia32 ? IA32_RESTART_SYSCALL : SYS_restart_syscall))
    nr = seen ? seen : restarted_by_code(thread->state.tid, r->rip, r->rsp, ia32);
  SleepCall c;
  ia32_arguments(r, ia32, c.args);
  call_name(&c, nr, ia32);
  guint64 left = remaining_address(&c);
  struct timespec ts;
  gint64 duration = 0;
  if (is_told_by_arguments(&c)) {
    begin_again(r, nr);
    return;
  }
  thread->sleep_nr = nr;
  if (left && read_timespec(thread->state.tid, left, c.time32, &ts))
    thread->sleep_remaining_nsec = ts.tv_sec * NSEC + ts.tv_nsec;
  else if (seen != nr && read_duration(thread->state.tid, &c, &duration))
    thread->sleep_remaining_nsec = duration; /* it began after we looked */
  if (left)
    thread->sleep_seen_nsec = 0;
  else if (seen != nr)
    thread->sleep_seen_nsec = monotonic_now();
}

void sleep_keep_notes(const FrozenTask *task) {
  g_autoptr(GArray) notes = g_array_new(FALSE, FALSE, sizeof(SleepNote));
  for (guint k = 0; k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    if (!t->sleep_seen_nsec || !t->model || !t->model->extra || !t->model->extra->sleep)
      continue;
    SleepNote n = {.tid = (guint32)t->state.tid, .syscall_nr = (guint32)t->sleep_nr, .end_nsec = t->sleep_seen_nsec + t->sleep_remaining_nsec,
        .runs = sleep_runs(task->pid, t->state.tid)};
    g_array_append_val(notes, n);
  }
  sleep_notes_keep(task->pid, task->stat.start_time, notes);
}

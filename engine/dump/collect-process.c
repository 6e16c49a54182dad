/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process knows about itself only: signal actions, timers, limits, flags of its descriptors. */
#include "collect.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define N_SIGNALS 64
#define N_RLIMITS 16
#define MEMBARRIER_CMD_GET_REGISTRATIONS_ (1 << 9)
#define ARCH_GET_XCOMP_PERM_ 0x1022
#define XFEATURE_TILE_DATA 18

typedef struct PosixTimerInfo {
  int id, signo, notify, clock;
  guint64 sival;
  pid_t notify_tid;
  size_t spec, op_overrun;
} PosixTimerInfo;

struct kernel_sigaction {
  guint64 handler, flags, restorer, mask;
};

static const char *field(const char *text, const char *key) {
  const char *p = g_strstr_len(text, -1, key);
  return p ? p + strlen(key) : "";
}

/* /proc/PID/timers, one block of four lines a timer. */
static void read_timers(const FrozenTask *task, GArray *timers) {
  g_autofree char *text = g_strdup(task->facts.timers);
  for (char *block = strstr(text, "ID: "); block;) {
    char *next = strstr(block + 1, "\nID: ");
    if (next)
      *next++ = '\0';
    PosixTimerInfo t = {.id = atoi(block + 4)};
    const char *signal = field(block, "signal: ");
    char *slash;
    t.signo = (int)strtol(signal, &slash, 10);
    t.sival = *slash == '/' ? strtoull(slash + 1, NULL, 16) : 0;
    const char *notify = field(block, "notify: ");
    t.notify = g_str_has_prefix(notify, "signal") ? SIGEV_SIGNAL : g_str_has_prefix(notify, "thread") ? SIGEV_THREAD : SIGEV_NONE;
    const char *tid = strstr(notify, "/tid.");
    if (tid) {
      t.notify |= SIGEV_THREAD_ID;
      t.notify_tid = atoi(tid + 5);
    }
    t.clock = atoi(field(block, "ClockID: "));
    g_array_append_val(timers, t);
    block = next;
  }
}

static void add_timers(ProcessProgram *pp) {
  Program *p = pp->program;
  pp->itimers = program_data(p, NULL, 3 * sizeof(struct itimerval));
  for (int which = 0; which < 3; which++)
    PROGRAM_CALL(p, "getitimer", SYS_getitimer, ARG(which), ARG_DATA(pp->itimers + (size_t)which * sizeof(struct itimerval)));
  for (guint i = 0; i < pp->timer_infos->len; i++) {
    PosixTimerInfo *t = &g_array_index(pp->timer_infos, PosixTimerInfo, i);
    t->spec = program_data(p, NULL, sizeof(struct itimerspec));
    PROGRAM_CALL(p, "timer_gettime", SYS_timer_gettime, ARG(t->id), ARG_DATA(t->spec));
    t->op_overrun = PROGRAM_CALL(p, "timer_getoverrun", SYS_timer_getoverrun, ARG(t->id));
  }
}

/* Which kinds of membarrier(2) a process has registered for: asked since 6.3. Before that a private one that works says it; the
 * global one works for everybody: whoever has a private one gets it, too, since that does no harm, and to lack it might. */
static bool kernel_tells_membarriers(void) {
  static int known = -1;
  if (known < 0)
    known = syscall(SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS_, 0, 0) >= 0 && !g_getenv("CHECKPOINTD_NO_MEMBARRIER_QUERY");
  return known;
}

static const struct {
  int use, registration;
} private_membarriers[] = {
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ},
};

static void add_membarrier(ProcessProgram *pp) {
  Program *p = pp->program;
  pp->membarrier = program_n_ops(p);
  for (size_t i = 0; i < (kernel_tells_membarriers() ? 1 : G_N_ELEMENTS(private_membarriers)); i++) {
    int command = kernel_tells_membarriers() ? MEMBARRIER_CMD_GET_REGISTRATIONS_ : private_membarriers[i].use;
    PROGRAM_CALL(p, "membarrier", SYS_membarrier, ARG(command), ARG(0), ARG(0));
    program_expect(p, EXPECT_ANY, 0);
  }
}

/* What tiles hold is a thread's (collect-regs.c); the permission to use them is the process's. */
static void add_tiles(ProcessProgram *pp) {
  pp->tiles = program_data(pp->program, NULL, sizeof(guint64));
  PROGRAM_CALL(pp->program, "arch_prctl GET_XCOMP_PERM", SYS_arch_prctl, ARG(ARCH_GET_XCOMP_PERM_), ARG_DATA(pp->tiles));
  program_expect(pp->program, EXPECT_ANY, 0);
}

static bool decode_tiles(const ProcessProgram *p, const LoadedProgram *l) {
  guint64 permitted;
  memcpy(&permitted, l->data + p->tiles, sizeof permitted);
  return permitted & (1ull << XFEATURE_TILE_DATA);
}

static void decode_membarrier(const ProcessProgram *p, const LoadedProgram *l, CkptTask *x) {
  const int64_t *results = &l->results[p->membarrier];
  guint32 registered = kernel_tells_membarriers() && results[0] > 0 ? (guint32)results[0] : 0;
  for (size_t i = 0; !kernel_tells_membarriers() && i < G_N_ELEMENTS(private_membarriers); i++)
    registered |= results[i] == 0 ? (guint32)private_membarriers[i].registration | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED : 0;
  x->has_membarrier = registered != 0;
  x->membarrier = registered;
}

static bool are_in_a_row(const GArray *numbers) {
  guint i = 0;
  while (i < numbers->len && g_array_index(numbers, int, i) == (int)i)
    i++;
  return i == numbers->len;
}

/* Of each descriptor its flags (O_PATH ones have them, too), or that there is none. The numbers of a well filled table are all there are. */
static void add_fds(ProcessProgram *pp) {
  Program *p = pp->program;
  guint n = pp->fd_numbers->len;
  pp->fds_in_a_row = n > 1 && are_in_a_row(pp->fd_numbers);
  pp->fds = pp->fds_in_a_row ? program_data(p, NULL, n) : program_n_ops(p);
  if (pp->fds_in_a_row) {
    PROGRAM_CALL(p, "fcntl F_GETFD", SYS_fcntl, ARG(0), ARG(F_GETFD), ARG(0), ARG(0), ARG(0), ARG_DATA(pp->fds));
    program_repeat(p, n);
  }
  for (guint i = 0; !pp->fds_in_a_row && i < n; i++) {
    PROGRAM_CALL(p, "fcntl F_GETFD", SYS_fcntl, ARG(g_array_index(pp->fd_numbers, int, i)), ARG(F_GETFD));
    program_expect(p, EXPECT_ANY, 0);
  }
}

ProcessProgram *process_program_new(const FrozenTask *task) {
  ProcessProgram *pp = g_new0(ProcessProgram, 1);
  Program *p = pp->program = program_new();
  pp->timer_infos = g_array_new(FALSE, TRUE, sizeof(PosixTimerInfo));
  pp->fd_numbers = g_array_ref(task->facts.fd_numbers);
  read_timers(task, pp->timer_infos);
  pp->sigactions = program_data(p, NULL, N_SIGNALS * sizeof(struct kernel_sigaction));
  for (int s = 1; s <= N_SIGNALS; s++)
    PROGRAM_CALL(p, "rt_sigaction", SYS_rt_sigaction, ARG(s), ARG(0),
        ARG_DATA(pp->sigactions + (size_t)(s - 1) * sizeof(struct kernel_sigaction)), ARG(8));
  add_timers(pp);
  pp->rlimits = program_data(p, NULL, N_RLIMITS * sizeof(struct rlimit));
  for (int r = 0; r < N_RLIMITS; r++)
    PROGRAM_CALL(p, "getrlimit", SYS_prlimit64, ARG(0), ARG(r), ARG(0), ARG_DATA(pp->rlimits + (size_t)r * sizeof(struct rlimit)));
  pp->subreaper = program_data(p, NULL, 8);
  PROGRAM_CALL(p, "prctl GET_CHILD_SUBREAPER", SYS_prctl, ARG(PR_GET_CHILD_SUBREAPER), ARG_DATA(pp->subreaper));
  pp->dumpable = PROGRAM_CALL(p, "prctl GET_DUMPABLE", SYS_prctl, ARG(PR_GET_DUMPABLE));
  pp->thp = PROGRAM_CALL(p, "prctl GET_THP_DISABLE", SYS_prctl, ARG(PR_GET_THP_DISABLE));
  program_expect(p, EXPECT_ANY, 0);
  pp->keepcaps = PROGRAM_CALL(p, "prctl GET_KEEPCAPS", SYS_prctl, ARG(PR_GET_KEEPCAPS));
  pp->brk = PROGRAM_CALL(p, "brk", SYS_brk, ARG(0));
  add_membarrier(pp);
  add_tiles(pp);
  memory_ops_add(&pp->memory, task, p);
  add_fds(pp);
  return pp;
}

void process_program_free(ProcessProgram *p) {
  if (!p)
    return;
  program_free(p->program);
  g_array_unref(p->timer_infos);
  g_array_unref(p->fd_numbers);
  g_free(p);
}

static void decode_sigactions(const ProcessProgram *p, const unsigned char *data, bool ia32, TaskCoreEntry *tc) {
  tc->sigactions = calloc(N_SIGNALS, sizeof *tc->sigactions);
  for (int s = 1; s <= N_SIGNALS; s++) {
    if (s == SIGKILL || s == SIGSTOP)
      continue;
    struct kernel_sigaction a;
    memcpy(&a, data + p->sigactions + (size_t)(s - 1) * sizeof a, sizeof a);
    SaEntry *e = malloc(sizeof *e);
    sa_entry__init(e);
    e->sigaction = a.handler, e->flags = a.flags, e->restorer = a.restorer, e->mask = a.mask;
    e->has_compat_sigaction = e->compat_sigaction = ia32;
    tc->sigactions[tc->n_sigactions++] = e;
  }
}

static ItimerEntry *decode_itimer(const unsigned char *data) {
  struct itimerval v;
  memcpy(&v, data, sizeof v);
  ItimerEntry *e = malloc(sizeof *e);
  itimer_entry__init(e);
  e->isec = (guint64)v.it_interval.tv_sec, e->iusec = (guint64)v.it_interval.tv_usec;
  e->vsec = (guint64)v.it_value.tv_sec, e->vusec = (guint64)v.it_value.tv_usec;
  return e;
}

static PosixTimerEntry *decode_posix_timer(const PosixTimerInfo *t, const LoadedProgram *l) {
  struct itimerspec v;
  memcpy(&v, l->data + t->spec, sizeof v);
  PosixTimerEntry *e = malloc(sizeof *e);
  posix_timer_entry__init(e);
  e->it_id = (guint32)t->id, e->clock_id = (guint32)t->clock, e->si_signo = (guint32)t->signo;
  e->it_sigev_notify = (guint32)t->notify, e->sival_ptr = t->sival, e->overrun = (guint32)l->results[t->op_overrun];
  e->isec = (guint64)v.it_interval.tv_sec, e->insec = (guint64)v.it_interval.tv_nsec;
  e->vsec = (guint64)v.it_value.tv_sec, e->vnsec = (guint64)v.it_value.tv_nsec;
  e->has_notify_thread_id = t->notify_tid != 0;
  e->notify_thread_id = t->notify_tid;
  return e;
}

static TaskTimersEntry *decode_timers(const ProcessProgram *p, const LoadedProgram *l) {
  TaskTimersEntry *t = malloc(sizeof *t);
  task_timers_entry__init(t);
  t->real = decode_itimer(l->data + p->itimers);
  t->virt = decode_itimer(l->data + p->itimers + sizeof(struct itimerval));
  t->prof = decode_itimer(l->data + p->itimers + 2 * sizeof(struct itimerval));
  t->posix = calloc(p->timer_infos->len + 1, sizeof *t->posix);
  for (guint i = 0; i < p->timer_infos->len; i++)
    t->posix[t->n_posix++] = decode_posix_timer(&g_array_index(p->timer_infos, PosixTimerInfo, i), l);
  return t;
}

static TaskRlimitsEntry *decode_rlimits(const unsigned char *data) {
  TaskRlimitsEntry *t = malloc(sizeof *t);
  task_rlimits_entry__init(t);
  t->rlimits = calloc(N_RLIMITS, sizeof *t->rlimits);
  for (int i = 0; i < N_RLIMITS; i++) {
    struct rlimit r;
    memcpy(&r, data + (size_t)i * sizeof r, sizeof r);
    RlimitEntry *e = t->rlimits[t->n_rlimits++] = malloc(sizeof *e);
    rlimit_entry__init(e);
    e->cur = r.rlim_cur, e->max = r.rlim_max;
  }
  return t;
}

static int compare_fds(gconstpointer a, gconstpointer b) {
  return ((const CollectedFd *)a)->fd - ((const CollectedFd *)b)->fd;
}

static GArray *decode_fds(const ProcessProgram *p, const LoadedProgram *l) {
  GArray *fds = g_array_new(FALSE, FALSE, sizeof(CollectedFd));
  for (guint i = 0; i < p->fd_numbers->len; i++) {
    gint64 flags = p->fds_in_a_row ? (gint8)l->data[p->fds + i] : l->results[p->fds + i];
    CollectedFd fd = {g_array_index(p->fd_numbers, int, i), flags & 1 /* FD_CLOEXEC */};
    if (flags >= 0)
      g_array_append_val(fds, fd);
  }
  if (!p->fds_in_a_row)
    g_array_sort(fds, compare_fds);
  return fds;
}

bool process_program_decode(const ProcessProgram *p, FrozenTask *task, GError **error) {
  const LoadedProgram *l = &task->leader_loaded;
  g_autofree char *who = g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
  if (!region_check(g_array_index(task->threads, FrozenThread, 0).lane, l, who, error))
    return false;
  TaskCoreEntry *tc = task->model->core->tc;
  MmEntry *mm = task->model->mm;
  task->fds = decode_fds(p, l);
  decode_sigactions(p, l->data, task->ia32, tc);
  tc->timers = decode_timers(p, l);
  tc->rlimits = decode_rlimits(l->data + p->rlimits);
  int subreaper;
  memcpy(&subreaper, l->data + p->subreaper, sizeof subreaper);
  tc->has_child_subreaper = true;
  tc->child_subreaper = subreaper != 0;
  mm->has_dumpable = true;
  mm->dumpable = (int)l->results[p->dumpable];
  mm->has_thp_disabled = true;
  mm->thp_disabled = l->results[p->thp] > 0;
  if (l->results[p->thp] > 1) { /* since 6.18: what it is disabled for */
    task_memory(task)->has_thp_flags = true;
    task_memory(task)->thp_flags = (guint32)l->results[p->thp] & ~1u;
  }
  mm->mm_brk = (guint64)l->results[p->brk];
  task->model->extra->has_keepcaps = l->results[p->keepcaps] != 0;
  task->model->extra->keepcaps = l->results[p->keepcaps] != 0;
  decode_membarrier(p, l, task->model->extra);
  task->model->extra->has_tiles = task->model->extra->tiles = decode_tiles(p, l);
  return memory_ops_decode(&p->memory, task, error);
}

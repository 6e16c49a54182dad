/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "traits.h"
#include "tracee.h"
#include <asm/prctl.h>
#include <errno.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE 62
#endif
#ifndef PR_GET_IO_FLUSHER
#define PR_GET_IO_FLUSHER 58
#endif
#define ARCH_GET_CPUID_ 0x1011
#define N_SPECULATION 3
#define N_KEYS 16 /* of a ring; more are more than one, the user's, that could be ignored */

enum { THREAD_RING, PROCESS_RING, USER_RING, SESSION_RING, USER_SESSION_RING };
static const int keyrings[] = {KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING, KEY_SPEC_USER_KEYRING, KEY_SPEC_SESSION_KEYRING,
    KEY_SPEC_USER_SESSION_KEYRING};

static void add_ring(TraitOps *t, Program *p, size_t ring) {
  t->op_ring_ids[ring] = PROGRAM_CALL(p, "keyctl GET_KEYRING_ID", SYS_keyctl, ARG(KEYCTL_GET_KEYRING_ID), ARG((gint64)keyrings[ring]), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  if (ring != THREAD_RING && ring != PROCESS_RING && ring != SESSION_RING)
    return;
  t->ring_data[ring] = program_data(p, NULL, (size_t)N_KEYS * 4);
  t->op_ring_reads[ring] =
      PROGRAM_CALL(p, "keyctl READ", SYS_keyctl, ARG(KEYCTL_READ), ARG((gint64)keyrings[ring]), ARG_DATA(t->ring_data[ring]), ARG(N_KEYS * 4));
  program_expect(p, EXPECT_ANY, 0);
}

/* Asking for a session's keyring gives a thread one that has none: only where there is something to be found. */
static void add_key_ops(TraitOps *t, Program *p, bool session) {
  t->session = session;
  for (size_t ring = 0; ring < (session ? G_N_ELEMENTS(keyrings) : SESSION_RING); ring++)
    add_ring(t, p, ring);
}

/* The user's own keyring is linked from every login session, and is no loss. */
static bool ring_has_keys(const TraitOps *o, const LoadedProgram *l, size_t ring) {
  gint64 id = l->results[o->op_ring_ids[ring]], size = l->results[o->op_ring_reads[ring]];
  if (id <= 0 || (ring == SESSION_RING && id == l->results[o->op_ring_ids[USER_SESSION_RING]]))
    return false;
  if (size < 0 || size / 4 > N_KEYS)
    return true; /* nobody may look; or more than there was room for */
  for (gint64 i = 0; i < size / 4; i++) {
    gint32 key;
    memcpy(&key, l->data + o->ring_data[ring] + (size_t)i * 4, sizeof key);
    if (key != l->results[o->op_ring_ids[USER_RING]])
      return true;
  }
  return false;
}

void trait_ops_add(TraitOps *t, Program *p, bool session_keys) {
  t->op_mce = PROGRAM_CALL(p, "prctl MCE_KILL_GET", SYS_prctl, ARG(PR_MCE_KILL_GET), ARG(0), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  t->tsc = program_data(p, NULL, 8);
  PROGRAM_CALL(p, "prctl GET_TSC", SYS_prctl, ARG(PR_GET_TSC), ARG_DATA(t->tsc));
  program_expect(p, EXPECT_ANY, 0);
  t->op_cpuid = PROGRAM_CALL(p, "arch_prctl GET_CPUID", SYS_arch_prctl, ARG(ARCH_GET_CPUID_), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  t->op_flusher = PROGRAM_CALL(p, "prctl GET_IO_FLUSHER", SYS_prctl, ARG(PR_GET_IO_FLUSHER), ARG(0), ARG(0), ARG(0), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  t->op_speculation = program_n_ops(p);
  for (int i = 0; i < N_SPECULATION; i++) {
    PROGRAM_CALL(p, "prctl GET_SPECULATION_CTRL", SYS_prctl, ARG(PR_GET_SPECULATION_CTRL), ARG(i), ARG(0), ARG(0), ARG(0));
    program_expect(p, EXPECT_ANY, 0);
  }
  t->cookie = program_data(p, NULL, 8);
  t->op_cookie = PROGRAM_CALL(p, "prctl SCHED_CORE_GET", SYS_prctl, ARG(PR_SCHED_CORE), ARG(0), ARG(0), ARG(0), ARG_DATA(t->cookie));
  program_expect(p, EXPECT_ANY, 0);
  add_key_ops(t, p, session_keys);
}

/* What prctl(2) rules and somebody has ruled. */
static void decode_speculation(const TraitOps *o, const FrozenThread *t, CkptThread *x) {
  bool any = false;
  guint32 values[N_SPECULATION];
  for (size_t i = 0; i < N_SPECULATION; i++) {
    gint64 r = t->loaded.results[o->op_speculation + i];
    values[i] = r > 0 && (r & PR_SPEC_PRCTL) ? (guint32)r : 0;
    any |= (values[i] & ~(guint32)PR_SPEC_PRCTL) != 0;
  }
  if (!any)
    return;
  x->n_speculation = N_SPECULATION;
  x->speculation = malloc(sizeof values);
  memcpy(x->speculation, values, sizeof values);
}

void trait_ops_decode(const TraitOps *o, FrozenThread *t) {
  CkptThread *x = t->model->extra;
  const gint64 *results = t->loaded.results;
  gint32 tsc;
  memcpy(&tsc, t->loaded.data + o->tsc, sizeof tsc);
  x->has_no_tsc = x->no_tsc = tsc == PR_TSC_SIGSEGV;
  x->has_mce_kill = results[o->op_mce] >= 0 && results[o->op_mce] != PR_MCE_KILL_DEFAULT;
  x->mce_kill = (guint32)results[o->op_mce];
  x->has_no_cpuid = x->no_cpuid = results[o->op_cpuid] == 0;
  x->has_io_flusher = x->io_flusher = results[o->op_flusher] == 1;
  decode_speculation(o, t, x);
  memcpy(&t->core_cookie, t->loaded.data + o->cookie, sizeof t->core_cookie);
  if (results[o->op_cookie] < 0)
    t->core_cookie = 0;
  for (size_t ring = 0; ring <= SESSION_RING; ring++)
    if (ring != USER_RING && (ring != SESSION_RING || o->session) && ring_has_keys(o, &t->loaded, ring))
      t->own_keys |= (guint8)(1u << ring);
}

void traits_look(FrozenThread *t) {
  int dispatches = t->sight.tid && !t->sight.ruled ? 0 : tracee_dispatches_syscalls(t->state.tid);
  t->own_dispatch = dispatches > 0;
  t->dispatch_hidden = dispatches < 0;
  t->shadow_stack = tracee_has_shadow_stack(t->state.tid);
}

bool traits_forbid_agent(const FrozenThread *t) {
  return t->own_dispatch || t->shadow_stack;
}

void traits_collect(FrozenTask *task) {
  CkptTask *x = task->model->extra;
  if (task->stat.sid == task->pid && !task->zombie) {
    g_autofree char *text = proc_read(task->pid, "autogroup", NULL, NULL); /* "/autogroup-12 nice 5" */
    const char *nice = text ? strstr(text, " nice ") : NULL;
    x->autogroup_nice = nice ? atoi(nice + 6) : 0;
    x->has_autogroup_nice = x->autogroup_nice != 0;
  }
}

/* --- what cannot be kept --- */

static void block(Job *job, const FrozenTask *task, const FrozenThread *t, const char *reason, const char *cure) {
  g_autofree char *object = g_strdup_printf("pid %d (%s) thread %d", (int)task->pid, task->stat.comm, (int)t->state.tid);
  job_block(job, "task", task->pid, -1, object, reason, cure);
}

/* /proc tells how many keys a user has, two of which everybody may have. Root has some on every machine. */
static bool has_session_keys(uid_t uid) {
  g_autofree char *text = NULL;
  g_autofree char *key = g_strdup_printf("\n%5u:", uid);
  if (uid == 0 || !g_file_get_contents("/proc/key-users", &text, NULL, NULL))
    return false;
  g_autofree char *lines = g_strconcat("\n", text, NULL);
  const char *line = strstr(lines, key);
  unsigned usage = 0, n = 0;
  return line && sscanf(line + strlen(key), "%u %u", &usage, &n) == 2 && n > 2;
}

static void check_keys(Job *job, const FrozenTask *task, const FrozenThread *t) {
  static const char *const names[] = {"thread", "process"};
  for (size_t ring = 0; ring < G_N_ELEMENTS(names); ring++) {
    if (!(t->own_keys & 1u << ring))
      continue;
    g_autofree char *reason = g_strdup_printf("it has keys in a %s keyring of its own (keyrings(7)), which cannot be taken along", names[ring]);
    block(job, task, t, reason, "have it clear that keyring (keyctl clear), and ask for its keys again after the restore");
  }
  if (t->own_keys & 1u << SESSION_RING) /* every service and every login has one with something in it */
    job_log(job, 4, "pid %d (%s) thread %d: the keys in its session keyring are not taken along", (int)task->pid, task->stat.comm,
        (int)t->state.tid);
}

static void check_thread(Job *job, const FrozenTask *task, const FrozenThread *t) {
  if (t->own_dispatch)
    block(job, task, t, "it dispatches its own system calls (PR_SET_SYSCALL_USER_DISPATCH), which nothing can stop if the engine dies",
        "dump it before it turns that on (it is what Wine does for Windows programs)");
  if (t->dispatch_hidden)
    job_log(job, 4, "pid %d (%s) thread %d: it catches SIGSYS, and this kernel (before 6.4) does not tell whether it dispatches its own "
        "system calls (PR_SET_SYSCALL_USER_DISPATCH)", (int)task->pid, task->stat.comm, (int)t->state.tid);
  if (t->shadow_stack)
    block(job, task, t, "it has a shadow stack", "start the program without: GLIBC_TUNABLES=glibc.cpu.x86_shstk=off");
  if (t->core_cookie)
    block(job, task, t, "it shares processor cores only with chosen tasks (PR_SCHED_CORE), and the cookie for that cannot be given again",
        "start it without core scheduling (coresched(1))");
  if (t->own_keys)
    check_keys(job, task, t);
}

bool traits_have_session_keys(const FrozenTree *tree) {
  uid_t asked = (uid_t)-1; /* the kernel's list can be long */
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    uid_t uid = task->zombie ? asked : task->facts.status.uid[3];
    if (uid != asked && has_session_keys(uid))
      return true;
    asked = uid;
  }
  return false;
}

void traits_check(Job *job, const FrozenTree *tree) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; !task->zombie && k < task->threads->len; k++)
      check_thread(job, task, &g_array_index(task->threads, FrozenThread, k));
  }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a thread knows about itself only: asked by a program that its agent runs, one round trip for all of it. */
#include "collect.h"
#include "ia32.h"
#include "traits.h"
#include "regs.h"
#include <asm/ldt.h>
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif
#define MAX_GROUPS 64 /* more are read from /proc, which is slower */
#define AFFINITY_BYTES 128
#define IOPRIO_WHO_PROCESS 1
#define UTIL_ALL 1024
#define LAST_CAP 40 /* CAP_CHECKPOINT_RESTORE */

struct sched_attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max; /* since 5.3 */
};

struct ThreadProgram {
  Program *program;
  Program *ambient; /* for the few that can have any */
  size_t program_size; /* of its data */
  TraitOps traits;
  size_t policy, sas, tid_address, pdeath, name, uids, gids, groups, capability, sched, affinity, robust, tls; /* data; tls 0: there is none */
  size_t op_fsuid, op_fsgid, op_groups, op_bounding, op_nnp, op_securebits, op_slack, op_ioprio, op_affinity,
      op_robust, op_sched, op_nice, op_stranger;
};

static void add_identity(ThreadProgram *t, Program *p) {
  t->uids = program_data(p, NULL, 12);
  PROGRAM_CALL(p, "getresuid", SYS_getresuid, ARG_DATA(t->uids), ARG_DATA(t->uids + 4), ARG_DATA(t->uids + 8));
  t->gids = program_data(p, NULL, 12);
  PROGRAM_CALL(p, "getresgid", SYS_getresgid, ARG_DATA(t->gids), ARG_DATA(t->gids + 4), ARG_DATA(t->gids + 8));
  t->op_fsuid = PROGRAM_CALL(p, "setfsuid -1", SYS_setfsuid, ARG(-1));
  t->op_fsgid = PROGRAM_CALL(p, "setfsgid -1", SYS_setfsgid, ARG(-1));
  t->groups = program_data(p, NULL, MAX_GROUPS * 4);
  t->op_groups = PROGRAM_CALL(p, "getgroups", SYS_getgroups, ARG(MAX_GROUPS), ARG_DATA(t->groups));
  program_expect(p, EXPECT_ANY, 0);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  size_t h = program_data(p, &header, sizeof header);
  t->capability = program_data(p, NULL, 2 * sizeof(struct __user_cap_data_struct));
  PROGRAM_CALL(p, "capget", SYS_capget, ARG_DATA(h), ARG_DATA(t->capability));
  t->op_bounding = program_n_ops(p);
  for (int cap = 0; cap <= LAST_CAP; cap++)
    PROGRAM_CALL(p, "prctl CAPBSET_READ", SYS_prctl, ARG(PR_CAPBSET_READ), ARG(cap));
  t->op_nnp = PROGRAM_CALL(p, "prctl GET_NO_NEW_PRIVS", SYS_prctl, ARG(PR_GET_NO_NEW_PRIVS));
  t->op_securebits = PROGRAM_CALL(p, "prctl GET_SECUREBITS", SYS_prctl, ARG(PR_GET_SECUREBITS));
}

static void add_scheduling(ThreadProgram *t, Program *p) {
  t->sched = program_data(p, NULL, sizeof(struct sched_attributes));
  t->op_sched = PROGRAM_CALL(p, "sched_getattr", SYS_sched_getattr, ARG(0), ARG_DATA(t->sched), ARG(sizeof(struct sched_attributes)), ARG(0));
  /* sched_getattr(2) hides it from real-time and idle policies, where it waits for a change of policy. */
  t->op_nice = PROGRAM_CALL(p, "getpriority", SYS_getpriority, ARG(PRIO_PROCESS), ARG(0));
  t->affinity = program_data(p, NULL, AFFINITY_BYTES);
  t->op_affinity = PROGRAM_CALL(p, "sched_getaffinity", SYS_sched_getaffinity, ARG(0), ARG(AFFINITY_BYTES), ARG_DATA(t->affinity));
  program_expect(p, EXPECT_ANY, 0);
  t->op_ioprio = PROGRAM_CALL(p, "ioprio_get", SYS_ioprio_get, ARG(IOPRIO_WHO_PROCESS), ARG(0));
  program_expect(p, EXPECT_ANY, 0);
  t->policy = program_data(p, NULL, mempolicy_size());
  if (mempolicy_max_nodes())
    PROGRAM_CALL(p, "get_mempolicy", SYS_get_mempolicy, ARG_DATA(t->policy), ARG_DATA(t->policy + 8), ARG(mempolicy_max_nodes()), ARG(0), ARG(0));
  t->op_slack = PROGRAM_CALL(p, "prctl GET_TIMERSLACK", SYS_prctl, ARG(PR_GET_TIMERSLACK));
}

/* 32-bit programs have entries of their own in the GDT, and a list of robust futexes of its own kind. */
static void add_ia32(ThreadProgram *t, Program *p) {
  t->op_robust = PROGRAM_CALL(p, "get_robust_list", IA32_GET_ROBUST_LIST, ARG(0), ARG_DATA(t->robust), ARG_DATA(t->robust + 8));
  program_ia32(p);
  program_expect(p, EXPECT_ANY, 0);
  struct user_desc tls[IA32_N_TLS] = {{.entry_number = IA32_FIRST_TLS}, {.entry_number = IA32_FIRST_TLS + 1}, {.entry_number = IA32_FIRST_TLS + 2}};
  t->tls = program_data(p, tls, sizeof tls);
  for (unsigned i = 0; i < IA32_N_TLS; i++) {
    PROGRAM_CALL(p, "get_thread_area", IA32_GET_THREAD_AREA, ARG_DATA(t->tls + i * sizeof *tls));
    program_ia32(p);
  }
}

ThreadProgram *thread_program_new(pid_t stranger, bool session_keys, bool ia32) {
  ThreadProgram *t = g_new0(ThreadProgram, 1);
  Program *p = t->program = program_new();
  t->sas = program_data(p, NULL, 24);
  PROGRAM_CALL(p, "sigaltstack", SYS_sigaltstack, ARG(0), ARG_DATA(t->sas));
  t->tid_address = program_data(p, NULL, 8);
  PROGRAM_CALL(p, "prctl GET_TID_ADDRESS", SYS_prctl, ARG(PR_GET_TID_ADDRESS), ARG_DATA(t->tid_address));
  t->pdeath = program_data(p, NULL, 8);
  PROGRAM_CALL(p, "prctl GET_PDEATHSIG", SYS_prctl, ARG(PR_GET_PDEATHSIG), ARG_DATA(t->pdeath));
  t->name = program_data(p, NULL, 16);
  PROGRAM_CALL(p, "prctl GET_NAME", SYS_prctl, ARG(PR_GET_NAME), ARG_DATA(t->name));
  t->robust = program_data(p, NULL, 16);
  if (!ia32) {
    t->op_robust = PROGRAM_CALL(p, "get_robust_list", SYS_get_robust_list, ARG(0), ARG_DATA(t->robust), ARG_DATA(t->robust + 8));
    program_expect(p, EXPECT_ANY, 0);
  } else {
    add_ia32(t, p);
  }
  add_identity(t, p);
  add_scheduling(t, p);
  trait_ops_add(&t->traits, p, session_keys);
  if (stranger) {
    size_t ignored = program_data(p, NULL, 16);
    t->op_stranger = PROGRAM_CALL(p, "get_robust_list", SYS_get_robust_list, ARG(stranger), ARG_DATA(ignored), ARG_DATA(ignored + 8));
    program_expect(p, EXPECT_ANY, 0);
  }
  t->program_size = program_data(p, NULL, 0);
  t->ambient = program_new();
  for (int cap = 0; cap <= LAST_CAP; cap++)
    PROGRAM_CALL(t->ambient, "prctl CAP_AMBIENT", SYS_prctl, ARG(PR_CAP_AMBIENT), ARG(PR_CAP_AMBIENT_IS_SET), ARG(cap));
  return t;
}

void thread_program_free(ThreadProgram *p) {
  if (!p)
    return;
  program_free(p->program);
  program_free(p->ambient);
  g_free(p);
}

const Program *thread_program_get(const ThreadProgram *p) {
  return p->program;
}

static guint64 read_u64(const FrozenThread *t, size_t offset) {
  guint64 v;
  memcpy(&v, t->loaded.data + offset, sizeof v);
  return v;
}

static guint32 read_u32(const FrozenThread *t, size_t offset) {
  guint32 v;
  memcpy(&v, t->loaded.data + offset, sizeof v);
  return v;
}

static void set_caps(size_t *n, uint32_t **words, guint64 caps) {
  *n = 2;
  *words = malloc(2 * sizeof **words);
  (*words)[0] = (uint32_t)caps;
  (*words)[1] = (uint32_t)(caps >> 32);
}

static guint64 caps_of_ops(const int64_t *results) {
  guint64 caps = 0;
  for (int cap = 0; cap <= LAST_CAP; cap++)
    if (results[cap] == 1)
      caps |= 1ull << cap;
  return caps;
}

static guint64 caps_of_data(const FrozenThread *t, size_t offset) {
  return read_u32(t, offset) | (guint64)read_u32(t, offset + sizeof(struct __user_cap_data_struct)) << 32;
}

static CredsEntry *decode_creds(const ThreadProgram *p, const FrozenThread *t) {
  CredsEntry *c = malloc(sizeof *c);
  creds_entry__init(c);
  c->uid = read_u32(t, p->uids), c->euid = read_u32(t, p->uids + 4), c->suid = read_u32(t, p->uids + 8);
  c->gid = read_u32(t, p->gids), c->egid = read_u32(t, p->gids + 4), c->sgid = read_u32(t, p->gids + 8);
  c->fsuid = (uint32_t)t->loaded.results[p->op_fsuid];
  c->fsgid = (uint32_t)t->loaded.results[p->op_fsgid];
  c->secbits = (uint32_t)t->loaded.results[p->op_securebits];
  c->has_no_new_privs = t->loaded.results[p->op_nnp] != 0;
  c->no_new_privs = c->has_no_new_privs;
  size_t eff = p->capability, prm = eff + 4, inh = eff + 8;
  set_caps(&c->n_cap_eff, &c->cap_eff, caps_of_data(t, eff));
  set_caps(&c->n_cap_prm, &c->cap_prm, caps_of_data(t, prm));
  set_caps(&c->n_cap_inh, &c->cap_inh, caps_of_data(t, inh));
  set_caps(&c->n_cap_bnd, &c->cap_bnd, caps_of_ops(t->loaded.results + p->op_bounding));
  return c;
}

/* capabilities(7): never any that is not both permitted and inheritable. */
const Program *thread_program_ambient(const ThreadProgram *p, const FrozenThread *t) {
  return caps_of_data(t, p->capability + 4) & caps_of_data(t, p->capability + 8) ? p->ambient : NULL;
}

void thread_program_decode_ambient(FrozenThread *t, const LoadedProgram *loaded) {
  CredsEntry *c = t->model->core->thread_core->creds;
  guint64 ambient = caps_of_ops(loaded->results);
  if (ambient)
    set_caps(&c->n_cap_amb, &c->cap_amb, ambient);
}

static void set_groups(CredsEntry *c, const void *groups, size_t n) {
  if (!n)
    return;
  c->n_groups = n;
  c->groups = malloc(n * sizeof *c->groups);
  memcpy(c->groups, groups, n * sizeof *c->groups);
}

static bool decode_groups(const ThreadProgram *p, const FrozenThread *t, CredsEntry *c, GError **error) {
  gint64 n = t->loaded.results[p->op_groups];
  if (n >= 0) {
    set_groups(c, t->loaded.data + p->groups, (size_t)n);
    return true;
  }
  ProcStatus status; /* more than there was room for */
  if (!proc_status(t->state.tid, t->state.tid, &status, error))
    return false;
  set_groups(c, status.groups->data, status.groups->len);
  proc_status_clear(&status);
  return true;
}

static void decode_scheduling(const ThreadProgram *p, const FrozenThread *t, ThreadCoreEntry *core) {
  struct sched_attributes a;
  memcpy(&a, t->loaded.data + p->sched, sizeof a);
  core->has_sched_nice = core->has_sched_policy = true;
  core->sched_nice = 20 - (int32_t)t->loaded.results[p->op_nice]; /* the kernel gives 40 to 1 */
  core->sched_policy = a.policy;
  core->has_sched_prio = a.priority != 0;
  core->sched_prio = a.priority;
  CkptThread *x = t->model->extra;
  x->has_sched_flags = a.flags != 0;
  x->sched_flags = a.flags;
  if (a.policy == 6 /* SCHED_DEADLINE */) {
    x->has_sched_runtime = x->has_sched_deadline = x->has_sched_period = true;
    x->sched_runtime = a.runtime, x->sched_deadline = a.deadline, x->sched_period = a.period;
  }
  if (a.util_min || (a.util_max && a.util_max != UTIL_ALL)) { /* zeroes: a kernel without them */
    x->has_util_min = x->has_util_max = true;
    x->util_min = a.util_min, x->util_max = a.util_max;
  }
  gint64 n = t->loaded.results[p->op_affinity];
  if (n > 0 && n <= AFFINITY_BYTES) {
    x->has_affinity = true;
    x->affinity.len = (size_t)n;
    x->affinity.data = malloc((size_t)n);
    memcpy(x->affinity.data, t->loaded.data + p->affinity, (size_t)n);
  }
  x->has_ioprio = t->loaded.results[p->op_ioprio] >= 0;
  x->ioprio = (uint32_t)t->loaded.results[p->op_ioprio];
  x->mempolicy = mempolicy_decode(t->loaded.data + p->policy);
  x->has_timer_slack_nsec = true;
  x->timer_slack_nsec = (guint64)t->loaded.results[p->op_slack];
}

static void decode_tls(const ThreadProgram *p, const FrozenThread *t, ThreadInfoX86 *info) {
  info->tls = calloc(IA32_N_TLS, sizeof *info->tls);
  for (unsigned i = 0; i < IA32_N_TLS; i++) {
    struct user_desc d;
    memcpy(&d, t->loaded.data + p->tls + i * sizeof d, sizeof d);
    UserDescT *e = info->tls[info->n_tls++] = malloc(sizeof *e);
    user_desc_t__init(e);
    e->entry_number = d.entry_number, e->base_addr = d.base_addr, e->limit = d.limit;
    e->seg_32bit = d.seg_32bit, e->contents_h = d.contents >> 1, e->contents_l = d.contents & 1;
    e->read_exec_only = d.read_exec_only, e->limit_in_pages = d.limit_in_pages, e->seg_not_present = d.seg_not_present;
    e->usable = d.useable;
  }
}

static bool decode(const ThreadProgram *p, FrozenThread *t, GError **error) {
  CoreEntry *core = t->model->core;
  ThreadCoreEntry *tc = core->thread_core;
  core->thread_info->clear_tid_addr = read_u64(t, p->tid_address);
  ThreadSasEntry *sas = tc->sas = malloc(sizeof *sas);
  thread_sas_entry__init(sas);
  sas->ss_sp = read_u64(t, p->sas);
  sas->ss_flags = read_u32(t, p->sas + 8);
  sas->ss_size = read_u64(t, p->sas + 16);
  guint32 pdeath = read_u32(t, p->pdeath);
  tc->has_pdeath_sig = pdeath != 0;
  tc->pdeath_sig = pdeath;
  tc->comm = strndup((const char *)t->loaded.data + p->name, 16);
  if (t->loaded.results[p->op_robust] == 0) {
    tc->futex_rla = read_u64(t, p->robust);
    tc->futex_rla_len = (uint32_t)read_u64(t, p->robust + 8);
  }
  if (p->tls)
    decode_tls(p, t, core->thread_info);
  tc->creds = decode_creds(p, t);
  if (!decode_groups(p, t, tc->creds, error))
    return false;
  decode_scheduling(p, t, tc);
  trait_ops_decode(&p->traits, t);
  return true;
}

bool thread_program_decode(const ThreadProgram *p, FrozenThread *t, bool leader, GError **error) {
  g_autofree char *who = g_strdup_printf("tid %d", (int)t->state.tid);
  if (!region_check(t->lane, &t->loaded, who, error) || !decode(p, t, error))
    return false;
  t->suspect = p->op_stranger && t->loaded.results[p->op_stranger] < 0;
  CoreEntry *core = t->model->core;
  if (leader)
    core->tc->comm = strdup(core->thread_core->comm);
  return true;
}

static void copy_ambient(CredsEntry *to, const CredsEntry *from) {
  if (from->n_cap_amb == 2)
    set_caps(&to->n_cap_amb, &to->cap_amb, from->cap_amb[0] | (guint64)from->cap_amb[1] << 32);
}

/* What it would have answered: as the first one, but for what is in sight. */
bool thread_program_decode_alike(const ThreadProgram *p, const FrozenThread *first, FrozenThread *t, GError **error) {
  const ThreadSight *s = &t->sight;
  g_autofree unsigned char *data = g_memdup2(first->loaded.data, p->program_size);
  const guint32 flags = s->sas_flags | (s->sas_size ? 0 : SS_DISABLE);
  memcpy(data + p->sas, &s->sas_sp, 8);
  memcpy(data + p->sas + 8, &flags, 4);
  memcpy(data + p->sas + 16, &s->sas_size, 8);
  memcpy(data + p->tid_address, &s->tid_address, 8);
  memcpy(data + p->pdeath, &s->pdeath, 4);
  memcpy(data + p->name, s->name, sizeof s->name);
  memcpy(data + p->robust, &s->robust, 8);
  t->loaded = first->loaded;
  t->loaded.data = data;
  bool ok = decode(p, t, error);
  t->loaded = (LoadedProgram){0};
  if (ok)
    copy_ambient(t->model->core->thread_core->creds, first->model->core->thread_core->creds);
  return ok;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Credentials of a thread (credentials(7), capabilities(7)). Ids are changed with SECBIT_NO_SETUID_FIXUP, so that the
 * kernel leaves the capabilities alone until the last step sets them. */
#include "proc.h"
#include "stages.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_CAP 40

static guint64 caps_of(size_t n, const uint32_t *words) {
  return (n > 0 ? words[0] : 0) | (n > 1 ? (guint64)words[1] << 32 : 0);
}

/* Our own, which every task has when it is made. */
typedef struct OwnCreds {
  bool known;
  ProcStatus status;
  int securebits;
} OwnCreds;

static const OwnCreds *own_creds(void) {
  static OwnCreds own;
  if (!own.known && proc_status(getpid(), getpid(), &own.status, NULL)) {
    own.securebits = prctl(PR_GET_SECUREBITS);
    own.known = true;
  }
  return &own;
}

static bool same_groups(const CredsEntry *c, const GArray *groups) {
  if (!groups || c->n_groups != groups->len)
    return false;
  return c->n_groups == 0 || memcmp(c->groups, groups->data, c->n_groups * sizeof(gid_t)) == 0;
}

static bool same_as_ours(const CredsEntry *c, const OwnCreds *own) {
  const ProcStatus *s = &own->status;
  uid_t uids[4] = {c->uid, c->euid, c->suid, c->fsuid};
  gid_t gids[4] = {c->gid, c->egid, c->sgid, c->fsgid};
  return own->known && memcmp(uids, s->uid, sizeof uids) == 0 && memcmp(gids, s->gid, sizeof gids) == 0 &&
         same_groups(c, s->groups) && caps_of(c->n_cap_inh, c->cap_inh) == s->cap_inh &&
         caps_of(c->n_cap_prm, c->cap_prm) == s->cap_prm && caps_of(c->n_cap_eff, c->cap_eff) == s->cap_eff &&
         caps_of(c->n_cap_bnd, c->cap_bnd) == s->cap_bnd && caps_of(c->n_cap_amb, c->cap_amb) == s->cap_amb &&
         (int)c->secbits == own->securebits;
}

static void build_bounding(const CredsEntry *c, guint64 ours, Program *p) {
  guint64 wanted = caps_of(c->n_cap_bnd, c->cap_bnd);
  for (int cap = 0; cap <= LAST_CAP; cap++)
    if ((ours & (1ull << cap)) && !(wanted & (1ull << cap)))
      PROGRAM_CALL(p, "prctl CAPBSET_DROP", SYS_prctl, ARG(PR_CAPBSET_DROP), ARG(cap), ARG(0), ARG(0), ARG(0));
}

static void build_ids(const CredsEntry *c, Program *p) {
  size_t groups = program_data(p, c->groups, c->n_groups * sizeof(gid_t));
  PROGRAM_CALL(p, "setgroups", SYS_setgroups, ARG(c->n_groups), ARG_DATA(groups));
  PROGRAM_CALL(p, "setresgid", SYS_setresgid, ARG(c->gid), ARG(c->egid), ARG(c->sgid));
  PROGRAM_CALL(p, "setfsgid", SYS_setfsgid, ARG(c->fsgid));
  PROGRAM_CALL(p, "setresuid", SYS_setresuid, ARG(c->uid), ARG(c->euid), ARG(c->suid));
  PROGRAM_CALL(p, "setfsuid", SYS_setfsuid, ARG(c->fsuid));
}

static void build_caps(const CredsEntry *c, Program *p) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  guint64 eff = caps_of(c->n_cap_eff, c->cap_eff), prm = caps_of(c->n_cap_prm, c->cap_prm), inh = caps_of(c->n_cap_inh, c->cap_inh);
  for (int i = 0; i < 2; i++)
    data[i] = (struct __user_cap_data_struct){(uint32_t)(eff >> (32 * i)), (uint32_t)(prm >> (32 * i)), (uint32_t)(inh >> (32 * i))};
  size_t h = program_data(p, &header, sizeof header), d = program_data(p, data, sizeof data);
  PROGRAM_CALL(p, "capset", SYS_capset, ARG_DATA(h), ARG_DATA(d));
  guint64 ambient = caps_of(c->n_cap_amb, c->cap_amb);
  for (int cap = 0; cap <= LAST_CAP; cap++)
    if (ambient & (1ull << cap))
      PROGRAM_CALL(p, "prctl CAP_AMBIENT_RAISE", SYS_prctl, ARG(PR_CAP_AMBIENT), ARG(PR_CAP_AMBIENT_RAISE), ARG(cap), ARG(0), ARG(0));
}

/* An engine that became its caller (EngineOptions.untrusted_images) has the right ids already, as was checked; all that
 * is left is the capability it was allowed to keep. */
static void build_last_cap(Program *p) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  size_t h = program_data(p, &header, sizeof header), d = program_data(p, none, sizeof none);
  PROGRAM_CALL(p, "capset", SYS_capset, ARG_DATA(h), ARG_DATA(d));
}

void creds_build(Restore *r, const CredsEntry *c, Program *p) {
  const OwnCreds *own = own_creds();
  if (job_options(r->job)->untrusted_images) {
    build_last_cap(p);
  } else if (!same_as_ours(c, own)) {
    PROGRAM_CALL(p, "prctl SET_SECUREBITS", SYS_prctl, ARG(PR_SET_SECUREBITS), ARG(SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS), ARG(0), ARG(0), ARG(0));
    build_bounding(c, own->status.cap_bnd, p);
    build_ids(c, p);
    /* raising ambient capabilities can be forbidden by the final bits, setting those needs CAP_SETPCAP: bits first,
     * unless they forbid it */
    PROGRAM_CALL(p, "prctl SET_SECUREBITS", SYS_prctl, ARG(PR_SET_SECUREBITS), ARG(c->secbits), ARG(0), ARG(0), ARG(0));
    build_caps(c, p);
  }
  if (c->has_no_new_privs && c->no_new_privs)
    PROGRAM_CALL(p, "prctl SET_NO_NEW_PRIVS", SYS_prctl, ARG(PR_SET_NO_NEW_PRIVS), ARG(1), ARG(0), ARG(0), ARG(0));
}

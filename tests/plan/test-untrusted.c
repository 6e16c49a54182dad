/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What images of a caller may ask for, on models made by hand: the plain one passes, each that asks for one thing more
 * is refused, with a message that says what it is. (Forged image files: tests/client.) */
#include "memfd.pb-c.h"
#include "sk-opts.pb-c.h"
#include "sk-unix.pb-c.h"
#include "untrusted.h"
#include <glib.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define UID 1000
#define GID 1000

static void *message(const ProtobufCMessageDescriptor *d) {
  ProtobufCMessage *m = malloc(d->sizeof_message);
  protobuf_c_message_init(d, m);
  return m;
}

static uint32_t *words(size_t n, const uint32_t *from) {
  return memcpy(malloc(n * sizeof *from), from, n * sizeof *from);
}

static CredsEntry *creds_new(void) {
  CredsEntry *c = message(&creds_entry__descriptor);
  c->uid = c->euid = c->suid = c->fsuid = UID;
  c->gid = c->egid = c->sgid = c->fsgid = GID;
  c->n_groups = 2;
  c->groups = words(2, (const uint32_t[]){4, 24});
  c->n_cap_bnd = 2;
  c->cap_bnd = words(2, (const uint32_t[]){0xffffffff, 0x1ff});
  return c;
}

static Task *task_make(void) {
  Task *t = task_new();
  t->pstree = message(&pstree_entry__descriptor);
  t->pstree->pid = t->pstree->pgid = 4000;
  CoreEntry *core = message(&core_entry__descriptor);
  core->tc = message(&task_core_entry__descriptor);
  core->tc->task_state = TASK_ALIVE;
  core->tc->comm = strdup("x");
  core->thread_core = message(&thread_core_entry__descriptor);
  core->thread_core->creds = creds_new();
  t->core = core;
  Thread *th = thread_new(4000, core);
  th->extra = message(&ckpt_thread__descriptor);
  g_ptr_array_add(t->threads, th);
  t->mm = message(&mm_entry__descriptor);
  t->fs = message(&fs_entry__descriptor);
  t->fs->root_id = 1;
  return t;
}

static FileEntry *file_make(guint32 id, FdTypes type) {
  FileEntry *f = message(&file_entry__descriptor);
  f->id = id;
  f->type = type;
  return f;
}

static Checkpoint *plain(void) {
  Checkpoint *c = checkpoint_new();
  checkpoint_add_task(c, task_make());
  FileEntry *root = file_make(1, FD_TYPES__REG);
  root->reg = message(&reg_file_entry__descriptor);
  root->reg->fown = message(&fown_entry__descriptor);
  root->reg->name = strdup("/");
  checkpoint_add_file(c, root);
  return c;
}

static Task *first(Checkpoint *c) {
  return c->tasks->pdata[0];
}

static CredsEntry *creds_of(Checkpoint *c) {
  return first(c)->core->thread_core->creds;
}

static CkptThread *extra_of(Checkpoint *c) {
  return ((Thread *)first(c)->threads->pdata[0])->extra;
}

static void add_groups(CredsEntry *c, size_t n, const uint32_t *groups) {
  free(c->groups);
  c->groups = words(n, groups);
  c->n_groups = n;
}

static void ambient(Checkpoint *c) {
  creds_of(c)->cap_amb = words(2, (const uint32_t[]){0, 1});
  creds_of(c)->n_cap_amb = 2;
}

static void other_user(Checkpoint *c) {
  creds_of(c)->suid = 0;
}

static void more_groups(Checkpoint *c) {
  add_groups(creds_of(c), 3, (const uint32_t[]){4, 24, 0});
}

static void fewer_groups(Checkpoint *c) {
  add_groups(creds_of(c), 1, (const uint32_t[]){4});
}

static void smaller_bounding(Checkpoint *c) {
  creds_of(c)->cap_bnd[0] = 1;
}

static void smaller_bounding_nnp(Checkpoint *c) {
  smaller_bounding(c);
  creds_of(c)->has_no_new_privs = creds_of(c)->no_new_privs = 1;
}

static void own_groups_in_other_order(Checkpoint *c) {
  add_groups(creds_of(c), 3, (const uint32_t[]){24, GID, 4});
}

static void io_priority(Checkpoint *c) {
  extra_of(c)->has_ioprio = true;
  extra_of(c)->ioprio = 1 << 13 | 4;
}

static void lower_io_priority(Checkpoint *c) {
  extra_of(c)->has_ioprio = true;
  extra_of(c)->ioprio = 3 << 13;
}

static void second_thread(Checkpoint *c) {
  CoreEntry *core = message(&core_entry__descriptor);
  core->thread_core = message(&thread_core_entry__descriptor);
  core->thread_core->creds = creds_new();
  core->thread_core->creds->euid = 0;
  g_ptr_array_add(first(c)->threads, thread_new(4001, core));
}

static void no_creds(Checkpoint *c) {
  creds_entry__free_unpacked(creds_of(c), NULL);
  first(c)->core->thread_core->creds = NULL;
}

static void round_robin(Checkpoint *c) {
  first(c)->core->thread_core->has_sched_policy = true;
  first(c)->core->thread_core->sched_policy = SCHED_RR;
}

static void nicer(Checkpoint *c) {
  first(c)->core->thread_core->has_sched_nice = true;
  first(c)->core->thread_core->sched_nice = 10;
}

static void less_nice(Checkpoint *c) {
  nicer(c);
  first(c)->core->thread_core->sched_nice = -1;
}

static void low_pid(Checkpoint *c) {
  first(c)->pstree->pid = 300;
}

static void packet(Checkpoint *c) {
  checkpoint_add_file(c, file_make(2, FD_TYPES__PACKETSK));
}

/* A unix socket behind which somebody is seen. */
static CkptSocket *seen(Checkpoint *c, guint32 pid, guint32 uid, guint32 gid) {
  FileEntry *f = file_make(2, FD_TYPES__UNIXSK);
  f->usk = message(&unix_sk_entry__descriptor);
  f->usk->fown = message(&fown_entry__descriptor);
  f->usk->opts = message(&sk_opts_entry__descriptor);
  checkpoint_add_file(c, f);
  CkptSocket *s = message(&ckpt_socket__descriptor);
  s->file_id = 2;
  s->peer = message(&ckpt_cred__descriptor);
  s->peer->pid = pid;
  s->peer->uid = uid;
  s->peer->gid = gid;
  checkpoint_add_socket(c, s);
  return s;
}

static void seen_self(Checkpoint *c) {
  (void)seen(c, 4000, UID, GID);
}

static void seen_root(Checkpoint *c) {
  (void)seen(c, 4000, 0, GID);
}

static void seen_group(Checkpoint *c) {
  CkptSocket *s = seen(c, 4000, UID, GID);
  s->peer->n_group = 1;
  s->peer->group = words(1, (const uint32_t[]){0});
}

static void sent_by(Checkpoint *c, guint32 pid, guint32 uid) {
  CkptSocket *s = seen(c, 4000, UID, GID);
  s->n_packet = 1;
  s->packet = malloc(sizeof *s->packet);
  s->packet[0] = message(&ckpt_packet__descriptor);
  s->packet[0]->cred = message(&ckpt_cred__descriptor);
  s->packet[0]->cred->pid = pid;
  s->packet[0]->cred->uid = uid;
  s->packet[0]->cred->gid = GID;
}

static void sent_by_self(Checkpoint *c) {
  sent_by(c, 4000, UID);
}

static void sent_by_root(Checkpoint *c) {
  sent_by(c, 4000, 0);
}

static void sent_by_other(Checkpoint *c) {
  sent_by(c, 812, UID);
}

static void terminal(Checkpoint *c) {
  checkpoint_add_file(c, file_make(2, FD_TYPES__TTY));
}

static void memfd_of_root(Checkpoint *c) {
  MemfdInodeEntry *m = message(&memfd_inode_entry__descriptor);
  m->name = strdup("x");
  checkpoint_add_record(c, RECORD_MEMFD, &m->base, NULL);
}

static void own_network(Checkpoint *c) {
  NetNamespace *ns = net_namespace_new(99);
  ns->entry = message(&netns_entry__descriptor);
  g_ptr_array_add(c->net_namespaces, ns);
}

static const struct {
  void (*change)(Checkpoint *c);
  const char *says; /* NULL: allowed */
} cases[] = {
    {own_network, "a network namespace of its own"},
    {ambient, "has capabilities"},
    {other_user, "another user id"},
    {more_groups, "in group 0, and you are not"},
    {fewer_groups, "not in group 24, and you are"},
    {own_groups_in_other_order, NULL},
    {smaller_bounding, "smaller capability bounding set"},
    {smaller_bounding_nnp, NULL},
    {io_priority, "I/O priority"},
    {lower_io_priority, NULL},
    {second_thread, "thread 4001 has another user id"},
    {no_creds, "no credentials"},
    {round_robin, "policy 2"},
    {nicer, NULL},
    {less_nice, "niceness -1"},
    {low_pid, "process id below 301"},
    {packet, "of type"},
    {seen_self, NULL},
    {seen_root, "came from user 0"},
    {seen_group, "member of group 0"},
    {sent_by_self, NULL},
    {sent_by_root, "came from user 0"},
    {sent_by_other, "process 812, which is not one of its own"},
    {terminal, "of type"},
    {memfd_of_root, "belongs to user 0"},
};

static UntrustedRights *rights(void) {
  UntrustedRights *r = g_new0(UntrustedRights, 1);
  const gid_t groups[] = {4, 24};
  r->uid = UID;
  r->gid = GID;
  r->groups = g_array_new(FALSE, FALSE, sizeof(gid_t));
  g_array_append_vals(r->groups, groups, 2);
  r->bounding = 0x1ffffffffffull;
  r->first_pid = 301;
  r->first_port = 1024;
  return r;
}

int main(void) {
  g_autoptr(UntrustedRights) r = rights();
  for (size_t i = 0; i <= G_N_ELEMENTS(cases); i++) {
    g_autoptr(Checkpoint) c = plain();
    g_autoptr(GError) error = NULL;
    const char *says = i < G_N_ELEMENTS(cases) ? cases[i].says : NULL;
    if (i < G_N_ELEMENTS(cases))
      cases[i].change(c);
    bool ok = untrusted_check(c, r, &error);
    if (ok != !says || (says && !strstr(error->message, says)))
      g_error("case %zu: expected %s, got: %s", i, says ? says : "nothing", error ? error->message : "nothing");
    if (says)
      g_assert_cmpint(engine_error_code(error), ==, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET);
  }
  return 0;
}

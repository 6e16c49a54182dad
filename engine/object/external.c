/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "external.h"
#include "file-state.h"
#include "internal.h"

void external_claim_clear(ExternalClaim *claim) {
  g_clear_pointer(&claim->value, g_free);
  g_clear_pointer(&claim->send, g_bytes_unref);
  g_clear_pointer(&claim->plugin, g_free);
  g_clear_pointer(&claim->rule, g_free);
  g_clear_pointer(&claim->reason, g_free);
  g_clear_pointer(&claim->cure, g_free);
  claim->action = EXTERNAL_NOBODY;
}

void external_answer_clear(ExternalAnswer *answer) {
  fd_cleanup(&answer->fd);
  g_clear_pointer(&answer->value, g_free);
  g_clear_pointer(&answer->send, g_bytes_unref);
  g_clear_pointer(&answer->address, g_bytes_unref);
  g_clear_pointer(&answer->plugin, g_free);
  *answer = (ExternalAnswer){.fd = -1};
}

/* --- dump --- */

typedef struct Asker {
  ExternalAsk ask;
  void *data;
  bool ordinary;
} Asker;

static gpointer asker_new(void) {
  return g_new0(Asker, 1);
}

static Asker *asker_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, asker_new, g_free);
}

void collector_set_external(Collector *c, ExternalAsk ask, void *data, bool ordinary) {
  *asker_of(c) = (Asker){ask, data, ordinary};
}

bool collector_asks_about_ordinary(Collector *c) {
  const Asker *a = asker_of(c);
  return a->ask && a->ordinary;
}

ExternalObject external_of_probe(ExternalKind kind, const FileProbe *probe, guint32 file_id) {
  return (ExternalObject){
      .kind = kind,
      .file_id = file_id,
      .pid = probe->carrier ? probe->carrier : probe->pid,
      .comm = probe->comm,
      .fd = probe->carrier ? probe->carrier_fd : probe->fd,
      .local = probe->local,
      .pidfd = probe->pidfd,
      .flags = probe->flags,
      .st = probe->st,
      .path = probe->link,
  };
}

static CkptPeer *peer_record(const ExternalObject *o) {
  CkptPeer *p = MESSAGE_NEW(CkptPeer, ckpt_peer__init);
  p->socket_type = (guint32)o->sock.type;
  p->has_name = o->sock.peer_name_size > 0;
  p->name.len = o->sock.peer_name_size;
  p->name.data = g_memdup2(o->sock.peer_name, o->sock.peer_name_size);
  p->has_pid = o->sock.peer_pid > 0;
  p->pid = (guint32)o->sock.peer_pid;
  p->has_uid = p->has_gid = o->sock.peer_known;
  p->uid = o->sock.peer_uid;
  p->gid = o->sock.peer_gid;
  p->comm = g_strdup(o->sock.peer_comm);
  p->has_ino = true;
  p->ino = o->sock.peer_ino;
  return p;
}

/* What the restore compares. An embedded file is compared with the one it may find in its place. */
static bool note_state(const ExternalObject *o, const ExternalClaim *claim, CkptExternal *e, GError **error) {
  bool embed = claim->action == EXTERNAL_EMBED;
  if (!embed && !claim->has_checks)
    return true;
  unsigned checks = embed ? EXTERNAL_CHECK_SIZE | EXTERNAL_CHECK_CONTENT : claim->checks;
  e->file = file_state_new(o->local, &o->st, checks, error);
  if (!e->file)
    return false;
  e->file->checks = external_checks_text(checks);
  return true;
}

static bool note_claim(Collector *c, const ExternalObject *o, ExternalClaim *claim, GError **error) {
  CkptExternal *e = MESSAGE_NEW(CkptExternal, ckpt_external__init);
  e->kind = g_strdup(external_kind_name(o->kind));
  e->file_id = o->file_id;
  e->action = g_strdup(external_action_name(claim->action));
  e->value = g_strdup(claim->value);
  e->plugin = g_strdup(claim->plugin);
  e->rule = g_strdup(claim->rule);
  e->has_pid = true;
  e->pid = (guint32)o->pid;
  e->has_fd = o->fd >= 0;
  e->fd = o->fd;
  e->comm = g_strdup(o->comm);
  e->path = g_strdup(o->path);
  e->has_ino = true;
  e->ino = o->st.st_ino;
  gsize size = 0;
  gconstpointer send = claim->send ? g_bytes_get_data(claim->send, &size) : NULL;
  e->has_send = size > 0;
  e->send.len = size;
  e->send.data = g_memdup2(send, size);
  if (o->kind == EXTERNAL_MAPPING) {
    e->has_vaddr = e->has_size = e->has_pgoff = true;
    e->vaddr = o->map.start;
    e->size = o->map.end - o->map.start;
    e->pgoff = o->map.offset;
  }
  if (S_ISCHR(o->st.st_mode) || S_ISBLK(o->st.st_mode)) {
    e->has_rdev = true;
    e->rdev = (guint32)o->st.st_rdev;
  }
  if (o->kind == EXTERNAL_UNIX || o->kind == EXTERNAL_PIPE)
    e->peer = peer_record(o);
  checkpoint_add_external(collector_checkpoint(c), e);
  return note_state(o, claim, e, error);
}

static void block_object(Collector *c, const ExternalObject *o, const ExternalClaim *claim) {
  const char *reason = claim->reason ? claim->reason : o->reason, *cure = claim->cure ? claim->cure : o->cure;
  if (o->kind != EXTERNAL_MAPPING) {
    FileProbe probe = {.pid = o->pid, .comm = o->comm, .fd = o->fd};
    collector_block(c, &probe, o->what, reason, cure);
    return;
  }
  g_autofree char *name = g_strdup_printf("pid %d (%s) %s", (int)o->pid, o->comm, o->what);
  job_block(collector_job(c), "vma", o->pid, -1, name, reason, cure);
}

bool collector_external(Collector *c, const ExternalObject *object, ExternalClaim *ret_claim, GError **error) {
  const Asker *a = asker_of(c);
  *ret_claim = (ExternalClaim){0};
  if (a->ask && !a->ask(a->data, object, ret_claim, error))
    return false;
  if (ret_claim->action == EXTERNAL_FAIL || (ret_claim->action == EXTERNAL_NOBODY && !object->optional)) {
    block_object(c, object, ret_claim);
    ret_claim->action = EXTERNAL_NOBODY;
  } else if (ret_claim->action != EXTERNAL_NOBODY) {
    return note_claim(c, object, ret_claim, error);
  }
  return true;
}

bool collector_block_external(Collector *c, ExternalKind kind, const FileProbe *probe, FileEntry *entry,
    const char *what, const char *reason, const char *cure, GError **error) {
  if (!entry) {
    collector_block(c, probe, what, reason, cure);
    return true;
  }
  ExternalObject o = external_of_probe(kind, probe, entry->id);
  o.what = what;
  o.reason = reason;
  o.cure = cure;
  g_auto(ExternalClaim) claim = {0};
  if (!collector_external(c, &o, &claim, error))
    return false;
  if (claim.action == EXTERNAL_NOBODY)
    return true;
  if (claim.action == EXTERNAL_REOPEN || claim.action == EXTERNAL_REMAP) {
    reg_collect_path(probe, entry);
    return true;
  }
  entry->type = FD_TYPES__EXT;
  entry->ext = MESSAGE_NEW(ExtFileEntry, ext_file_entry__init);
  entry->ext->id = entry->id;
  entry->ext->fown = collector_fown(probe);
  return true;
}

/* --- restore --- */

typedef struct Resolver {
  ExternalResolve resolve;
  void *data;
  bool ordinary;
} Resolver;

static gpointer resolver_new(void) {
  return g_new0(Resolver, 1);
}

static Resolver *resolver_of(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, resolver_new, g_free);
}

void restorer_set_external(Restorer *r, ExternalResolve resolve, void *data, bool ordinary) {
  *resolver_of(r) = (Resolver){resolve, data, ordinary};
}

static void fill_from_record(ExternalObject *o, const CkptExternal *e) {
  o->pid = (pid_t)e->pid;
  o->comm = e->comm;
  o->fd = e->has_fd ? e->fd : -1;
  o->st.st_ino = e->ino;
  o->st.st_rdev = e->rdev;
  if (!o->path)
    o->path = e->path;
  const CkptPeer *p = e->peer;
  if (!p)
    return;
  o->sock.peer_name = p->name.data;
  o->sock.peer_name_size = p->name.len;
  o->sock.peer_pid = (pid_t)p->pid;
  o->sock.peer_uid = p->uid;
  o->sock.peer_gid = p->gid;
  o->sock.peer_known = p->has_uid && p->has_gid;
  o->sock.peer_comm = p->comm;
  o->sock.peer_ino = p->ino;
}

static void fill_from_holder(Restorer *r, ExternalObject *o) {
  const Task *task = restorer_holder_of(r, o->file_id);
  for (guint i = 0; task && i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->id != o->file_id)
      continue;
    o->pid = task_pid(task);
    o->fd = (int)e->fd;
    o->comm = task->core && task->core->tc ? task->core->tc->comm : NULL;
    return;
  }
}

bool restorer_external(Restorer *r, ExternalObject *object, ExternalAnswer *ret_answer, GError **error) {
  const Resolver *a = resolver_of(r);
  const CkptExternal *record = checkpoint_find_external(restorer_checkpoint(r), object->file_id);
  *ret_answer = (ExternalAnswer){.fd = -1};
  if (!a->resolve || (object->optional && !record && !a->ordinary))
    return true;
  object->local = object->pidfd = object->fd = -1;
  if (record)
    fill_from_record(object, record);
  else
    fill_from_holder(r, object);
  return a->resolve(a->data, object, record, ret_answer, error);
}

/* --- the kind of entries that are nothing but external --- */

static bool ext_claims(const FileProbe *probe) {
  return false;
}

static bool ext_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  return true;
}

static int ext_open(Restorer *r, const FileEntry *entry, GError **error) {
  ExternalObject o = {.kind = EXTERNAL_OTHER, .file_id = entry->id};
  const CkptExternal *record = checkpoint_find_external(restorer_checkpoint(r), entry->id);
  ExternalKind kind = record ? external_kind_of(record->kind) : 0;
  if (kind)
    o.kind = kind;
  g_auto(ExternalAnswer) answer = {.fd = -1};
  if (!restorer_external(r, &o, &answer, error))
    return -1;
  if (answer.fd >= 0)
    return fd_take(&answer.fd);
  const char *path = record && record->path ? record->path : "an object outside the checkpoint";
  engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "Nobody can make %s%s%s%s again", path,
      record && record->plugin ? ": the plugin " : "", record && record->plugin ? record->plugin : "",
      record && record->plugin ? " that took it is not here" : "");
  return -1;
}

static const FownEntry *ext_fown(const FileEntry *entry) {
  return entry->ext ? entry->ext->fown : NULL;
}

const ObjectOps ext_ops = {
    .name = "external file",
    .type = FD_TYPES__EXT,
    .claims = ext_claims,
    .collect = ext_collect,
    .open = ext_open,
    .fown = ext_fown,
};

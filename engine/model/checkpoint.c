/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "checkpoint.h"
#include <sched.h>
#include <stdlib.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static void message_free(void *p) {
  if (p)
    protobuf_c_message_free_unpacked(p, NULL);
}

static void record_free(void *p) {
  Record *r = p;
  message_free(r->message);
  g_clear_pointer(&r->extra, g_bytes_unref);
  g_free(r);
}

NetNamespace *net_namespace_new(guint32 id) {
  NetNamespace *ns = g_new0(NetNamespace, 1);
  ns->id = id;
  ns->devices = g_ptr_array_new_with_free_func(message_free);
  return ns;
}

void net_namespace_free(NetNamespace *ns) {
  if (!ns)
    return;
  message_free(ns->entry);
  message_free(ns->extra);
  g_ptr_array_unref(ns->devices);
  for (int i = 0; i < NET_RAW_N_KINDS; i++)
    g_clear_pointer(&ns->raw[i], g_bytes_unref);
  g_free(ns);
}

PageSet *page_set_new(guint32 pages_id) {
  PageSet *set = g_new0(PageSet, 1);
  set->pages_id = pages_id;
  set->entries = g_ptr_array_new_with_free_func(message_free);
  return set;
}

void page_set_free(PageSet *set) {
  if (!set)
    return;
  g_ptr_array_unref(set->entries);
  g_free(set);
}

guint64 pagemap_entry_n_pages(const PagemapEntry *entry) {
  return entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages;
}

guint32 pagemap_entry_flags(const PagemapEntry *entry) {
  if (entry->has_flags)
    return entry->flags;
  return entry->has_in_parent && entry->in_parent ? PE_PARENT : PE_PRESENT;
}

void page_set_add(PageSet *set, guint64 vaddr, guint64 n_pages, guint32 flags) {
  if (set->entries->len) {
    PagemapEntry *last = set->entries->pdata[set->entries->len - 1];
    if (last->flags == flags && last->vaddr + last->nr_pages * 4096 == vaddr) {
      last->nr_pages += n_pages;
      last->compat_nr_pages = (guint32)last->nr_pages;
      return;
    }
  }
  PagemapEntry *e = malloc(sizeof *e);
  pagemap_entry__init(e);
  e->vaddr = vaddr;
  e->compat_nr_pages = (guint32)n_pages;
  e->has_nr_pages = true;
  e->nr_pages = n_pages;
  e->has_flags = true;
  e->flags = flags;
  g_ptr_array_add(set->entries, e);
}

guint64 page_set_n_present(const PageSet *set) {
  guint64 n = 0;
  for (guint i = 0; set && i < set->entries->len; i++) {
    const PagemapEntry *e = set->entries->pdata[i];
    if (pagemap_entry_flags(e) & PE_PRESENT)
      n += pagemap_entry_n_pages(e);
  }
  return n;
}

Thread *thread_new(pid_t tid, CoreEntry *core) {
  Thread *t = g_new0(Thread, 1);
  t->tid = tid;
  t->core = core;
  return t;
}

void thread_free(Thread *thread) {
  if (!thread)
    return;
  message_free(thread->core);
  message_free(thread->extra);
  g_free(thread);
}

Task *task_new(void) {
  Task *t = g_new0(Task, 1);
  t->fds = g_ptr_array_new_with_free_func(message_free);
  t->threads = g_ptr_array_new_with_free_func((GDestroyNotify)thread_free);
  return t;
}

void task_free(Task *task) {
  if (!task)
    return;
  if (!task->threads->len || ((Thread *)task->threads->pdata[0])->core != task->core)
    message_free(task->core);
  g_ptr_array_unref(task->threads);
  g_ptr_array_unref(task->fds);
  message_free(task->pstree);
  message_free(task->ids);
  message_free(task->mm);
  message_free(task->fs);
  if (task->extra) { /* its threads belong to Thread.extra */
    task->extra->n_threads = 0;
    g_clear_pointer(&task->extra->threads, free);
  }
  message_free(task->extra);
  page_set_free(task->pages);
  g_free(task);
}

bool task_is_zombie(const Task *t) {
  return t->core && t->core->tc && (t->core->tc->task_state == TASK_ZOMBIE || t->core->tc->task_state == TASK_DEAD);
}

bool task_is_ia32(const Task *t) {
  const ThreadInfoX86 *info = t->core->thread_info;
  return info && info->gpregs->has_mode && info->gpregs->mode == USER_X86_REGS_MODE__COMPAT;
}

static void ns_image_free(void *p) {
  NsImage *ns = p;
  g_ptr_array_unref(ns->mounts);
  message_free(ns->uts);
  g_free(ns);
}

Checkpoint *checkpoint_new(void) {
  Checkpoint *c = g_new0(Checkpoint, 1);
  c->tasks = g_ptr_array_new_with_free_func((GDestroyNotify)task_free);
  c->tasks_by_pid = g_hash_table_new(NULL, NULL);
  c->files = g_ptr_array_new_with_free_func(message_free);
  c->files_by_id = g_hash_table_new(NULL, NULL);
  for (int i = 0; i < RECORD_N_KINDS; i++)
    c->records[i] = g_ptr_array_new_with_free_func(record_free);
  c->tcp_streams = g_hash_table_new_full(NULL, NULL, NULL, record_free);
  c->externals = g_ptr_array_new_with_free_func(message_free);
  c->externals_by_id = g_hash_table_new(NULL, NULL);
  c->netlinks = g_ptr_array_new_with_free_func(message_free);
  c->mapped_locks = g_ptr_array_new_with_free_func(message_free);
  c->linked_files = g_ptr_array_new_with_free_func(message_free);
  c->sockets = g_ptr_array_new_with_free_func(message_free);
  c->sockets_by_id = g_hash_table_new(NULL, NULL);
  c->plugins = g_ptr_array_new_with_free_func(message_free);
  c->plugin_objects = g_ptr_array_new_with_free_func(message_free);
  c->ttys = g_ptr_array_new_with_free_func(message_free);
  c->net_namespaces = g_ptr_array_new_with_free_func((GDestroyNotify)net_namespace_free);
  c->urings = g_ptr_array_new_with_free_func(message_free);
  c->mqueues = g_ptr_array_new_with_free_func(message_free);
  c->epolls = g_ptr_array_new_with_free_func(message_free);
  c->pidfds = g_ptr_array_new_with_free_func(message_free);
  c->fs_marks = g_ptr_array_new_with_free_func(message_free);
  c->watches = g_ptr_array_new_with_free_func(message_free);
  c->namespaces = g_ptr_array_new_with_free_func(ns_image_free);
  c->mounts = g_ptr_array_new_with_free_func(message_free);
  c->shmem = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, (GDestroyNotify)page_set_free);
  return c;
}

void checkpoint_free(Checkpoint *c) {
  if (!c)
    return;
  message_free(c->inventory);
  message_free(c->creator);
  g_ptr_array_unref(c->tasks);
  g_hash_table_unref(c->tasks_by_pid);
  g_ptr_array_unref(c->namespaces);
  g_ptr_array_unref(c->mounts);
  g_ptr_array_unref(c->files);
  g_hash_table_unref(c->files_by_id);
  for (int i = 0; i < RECORD_N_KINDS; i++)
    g_ptr_array_unref(c->records[i]);
  g_hash_table_unref(c->tcp_streams);
  message_free(c->network);
  g_ptr_array_unref(c->externals);
  g_hash_table_unref(c->externals_by_id);
  g_ptr_array_unref(c->netlinks);
  g_ptr_array_unref(c->mapped_locks);
  g_ptr_array_unref(c->linked_files);
  g_ptr_array_unref(c->sockets);
  g_hash_table_unref(c->sockets_by_id);
  g_ptr_array_unref(c->plugins);
  g_ptr_array_unref(c->plugin_objects);
  g_ptr_array_unref(c->ttys);
  g_ptr_array_unref(c->net_namespaces);
  g_ptr_array_unref(c->urings);
  g_ptr_array_unref(c->mqueues);
  g_ptr_array_unref(c->epolls);
  g_ptr_array_unref(c->pidfds);
  g_ptr_array_unref(c->fs_marks);
  g_ptr_array_unref(c->watches);
  g_hash_table_unref(c->shmem);
  g_free(c);
}

void checkpoint_add_task(Checkpoint *c, Task *task) {
  g_ptr_array_add(c->tasks, task);
  g_hash_table_insert(c->tasks_by_pid, GINT_TO_POINTER(task_pid(task)), task);
}

void checkpoint_add_file(Checkpoint *c, FileEntry *entry) {
  g_ptr_array_add(c->files, entry);
  g_hash_table_insert(c->files_by_id, GUINT_TO_POINTER(entry->id), entry);
}

void checkpoint_add_record(Checkpoint *c, RecordKind kind, ProtobufCMessage *message, GBytes *extra) {
  Record *r = g_new0(Record, 1);
  r->message = message;
  r->extra = extra;
  g_ptr_array_add(c->records[kind], r);
}

void checkpoint_add_shmem(Checkpoint *c, guint64 shmid, PageSet *pages) {
  g_hash_table_replace(c->shmem, g_memdup2(&shmid, sizeof shmid), pages);
}

void checkpoint_add_tcp_stream(Checkpoint *c, guint32 ino, ProtobufCMessage *message, GBytes *extra) {
  Record *r = g_new0(Record, 1);
  r->message = message;
  r->extra = extra;
  g_hash_table_replace(c->tcp_streams, GUINT_TO_POINTER(ino), r);
}

const Record *checkpoint_find_tcp_stream(const Checkpoint *c, guint32 ino) {
  return g_hash_table_lookup(c->tcp_streams, GUINT_TO_POINTER(ino));
}

Task *checkpoint_find_task(const Checkpoint *c, pid_t pid) {
  return g_hash_table_lookup(c->tasks_by_pid, GINT_TO_POINTER(pid));
}

bool checkpoint_repeats_fds(const Checkpoint *c, const Task *task) {
  for (guint i = 0; i < c->tasks->len && c->tasks->pdata[i] != task; i++)
    if (((Task *)c->tasks->pdata[i])->fds == task->fds)
      return true;
  return false;
}

FileEntry *checkpoint_find_file(const Checkpoint *c, guint32 id) {
  return g_hash_table_lookup(c->files_by_id, GUINT_TO_POINTER(id));
}

PageSet *checkpoint_find_shmem(const Checkpoint *c, guint64 shmid) {
  return g_hash_table_lookup(c->shmem, &shmid);
}

void checkpoint_add_external(Checkpoint *c, CkptExternal *external) {
  g_ptr_array_add(c->externals, external);
  if (external->file_id)
    g_hash_table_insert(c->externals_by_id, GUINT_TO_POINTER(external->file_id), external);
}

void checkpoint_add_socket(Checkpoint *c, CkptSocket *socket) {
  g_ptr_array_add(c->sockets, socket);
  g_hash_table_insert(c->sockets_by_id, GUINT_TO_POINTER(socket->file_id), socket);
}

CkptSocket *checkpoint_find_socket(const Checkpoint *c, guint32 file_id) {
  return g_hash_table_lookup(c->sockets_by_id, GUINT_TO_POINTER(file_id));
}

CkptExternal *checkpoint_find_external(const Checkpoint *c, guint32 file_id) {
  return file_id ? g_hash_table_lookup(c->externals_by_id, GUINT_TO_POINTER(file_id)) : NULL;
}

CkptTty *checkpoint_find_tty(const Checkpoint *c, guint32 index) {
  for (guint i = 0; i < c->ttys->len; i++) {
    CkptTty *t = c->ttys->pdata[i];
    if (t->index == index)
      return t;
  }
  return NULL;
}

TtyInfoEntry *checkpoint_find_tty_info(const Checkpoint *c, guint32 id) {
  const GPtrArray *records = c->records[RECORD_TTY_INFO];
  for (guint i = 0; i < records->len; i++) {
    TtyInfoEntry *info = (TtyInfoEntry *)((Record *)records->pdata[i])->message;
    if (info->id == id)
      return info;
  }
  return NULL;
}

NetNamespace *checkpoint_find_net(const Checkpoint *c, guint32 id) {
  for (guint i = 0; i < c->net_namespaces->len; i++) {
    NetNamespace *ns = c->net_namespaces->pdata[i];
    if (ns->id == id)
      return ns;
  }
  return NULL;
}

guint32 file_entry_net_id(const FileEntry *e) {
  return e->isk && e->isk->has_ns_id     ? e->isk->ns_id
         : e->usk && e->usk->has_ns_id   ? e->usk->ns_id
         : e->psk && e->psk->has_ns_id   ? e->psk->ns_id
         : e->nlsk && e->nlsk->has_ns_id ? e->nlsk->ns_id
                                         : 0;
}

CkptUring *checkpoint_find_uring(const Checkpoint *c, guint32 file_id) {
  for (guint i = 0; i < c->urings->len; i++) {
    CkptUring *u = c->urings->pdata[i];
    if (u->file_id == file_id)
      return u;
  }
  return NULL;
}

CkptMqueue *checkpoint_find_mqueue(const Checkpoint *c, guint32 file_id) {
  for (guint i = 0; i < c->mqueues->len; i++) {
    CkptMqueue *q = c->mqueues->pdata[i];
    if (q->file_id == file_id)
      return q;
  }
  return NULL;
}

guint32 ns_id_of(const TaskKobjIdsEntry *ids, guint32 kind) {
  switch (kind) {
  case CLONE_NEWNS:
    return ids->mnt_ns_id;
  case CLONE_NEWUTS:
    return ids->uts_ns_id;
  case CLONE_NEWNET:
    return ids->net_ns_id;
  case CLONE_NEWIPC:
    return ids->ipc_ns_id;
  case CLONE_NEWPID:
    return ids->pid_ns_id;
  case CLONE_NEWUSER:
    return ids->user_ns_id;
  case CLONE_NEWCGROUP:
    return ids->cgroup_ns_id;
  case CLONE_NEWTIME:
    return ids->time_ns_id;
  default:
    return 0;
  }
}

NsImage *checkpoint_add_namespace(Checkpoint *c, guint32 kind, guint32 id) {
  NsImage *ns = g_new0(NsImage, 1);
  ns->kind = kind;
  ns->id = id;
  ns->mounts = g_ptr_array_new_with_free_func(message_free);
  g_ptr_array_add(c->namespaces, ns);
  return ns;
}

NsImage *checkpoint_find_namespace(const Checkpoint *c, guint32 kind, guint32 id) {
  for (guint i = 0; i < c->namespaces->len; i++) {
    NsImage *ns = c->namespaces->pdata[i];
    if (ns->kind == kind && ns->id == id)
      return ns;
  }
  return NULL;
}

static const MntEntry *find_mount_entry(const NsImage *ns, guint32 mnt_id) {
  for (guint i = 0; i < ns->mounts->len; i++) {
    const MntEntry *m = ns->mounts->pdata[i];
    if (m->mnt_id == mnt_id)
      return m;
  }
  return NULL;
}

const NsImage *checkpoint_namespace_of_mount(const Checkpoint *c, gint32 mnt_id) {
  for (guint i = 0; mnt_id > 0 && i < c->namespaces->len; i++)
    if (find_mount_entry(c->namespaces->pdata[i], (guint32)mnt_id))
      return c->namespaces->pdata[i];
  return NULL;
}

const MntEntry *checkpoint_find_mount_entry(const Checkpoint *c, guint32 mnt_id) {
  for (guint i = 0; i < c->namespaces->len; i++) {
    const MntEntry *m = find_mount_entry(c->namespaces->pdata[i], mnt_id);
    if (m)
      return m;
  }
  return NULL;
}

const CkptMount *checkpoint_find_mount(const Checkpoint *c, guint32 mnt_id) {
  for (guint i = 0; i < c->mounts->len; i++) {
    const CkptMount *m = c->mounts->pdata[i];
    if (m->mnt_id == mnt_id)
      return m;
  }
  return NULL;
}

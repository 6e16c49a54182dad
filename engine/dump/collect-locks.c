/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File locks and leases. /proc/locks (proc(5)) says whether there are any that could belong to the tree; fdinfo of the
 * descriptors says which they are: exactly those that were taken through that open file. A waiting fcntl(2) or flock(2) is
 * no lock: it was interrupted by the freeze, and is made again. */
#include "collect.h"
#include "file-lock.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* As the images name them: FL_* of the kernel's linux/filelock.h. */
#define CURE "option file-locks takes it along: it is taken again at the restore, if nobody else has it then"

#define FEW_FDS 32 /* five microseconds each */

enum { LOCK_POSIX = 1, LOCK_FLOCK = 2, LOCK_LEASE = 32, LOCK_OFD = 1024 };

typedef struct Lock {
  guint32 flag;
  int type;  /* F_RDLCK, F_WRLCK */
  bool breaking;
  pid_t pid; /* who took it; -1 for locks of an open file description; 0: in another pid namespace */
  unsigned major, minor;
  guint64 inode, start, end; /* end: G_MAXUINT64 for EOF */
  bool found; /* a line of /proc/locks whose descriptor is known */
} Lock;

typedef struct LockScan {
  Job *job;
  const FrozenTree *tree;
  Collector *collector;
  GArray *lines;      /* Lock: of /proc/locks, taken by processes of the tree */
  GHashTable *takers; /* their pids */
  GHashTable *orphans; /* inode numbers of locks of descriptions, and of takers that are gone */
  GHashTable *done;    /* guint64 of file id and kind: descriptions whose lock is known */
  bool unlisted;       /* every descriptor is looked at */
  bool anonymous;      /* some orphan is in a file system without a device */
} LockScan;

/* Reading /proc/locks waits until all processors have passed through the scheduler (rcu_sync of the locks' semaphore), many
 * milliseconds on some machines: a thread does it while the agents are asked. */
struct LocksReader {
  pthread_t thread;
  bool started;
  char *text; /* NULL: none, or a kernel without file locking */
};

static guint32 flag_of(const char *kind) {
  return strcmp(kind, "POSIX") == 0 ? LOCK_POSIX : strcmp(kind, "FLOCK") == 0 ? LOCK_FLOCK : strcmp(kind, "OFDLCK") == 0 ? LOCK_OFD : LOCK_LEASE;
}

/* "1: POSIX  ADVISORY  WRITE 812 08:01:4711 0 EOF"; waiters ("1: -> …") are none. */
static bool parse_line(const char *line, Lock *ret) {
  char kind[16], mode[16], type[16], end[32];
  unsigned long start;
  int pid;
  unsigned long inode;
  unsigned maj, min;
  const char *p = strchr(line, ':');
  if (!p || sscanf(p + 1, " %15s %15s %15s %d %x:%x:%lu %lu %31s", kind, mode, type, &pid, &maj, &min, &inode, &start, end) != 9)
    return false;
  *ret = (Lock){.flag = flag_of(kind), .type = strcmp(type, "READ") == 0 ? F_RDLCK : F_WRLCK, .pid = pid, .major = maj,
      .minor = min, .inode = inode,
      .start = start, .end = strcmp(end, "EOF") == 0 ? G_MAXUINT64 : g_ascii_strtoull(end, NULL, 10)};
  ret->breaking = strcmp(mode, "BREAKING") == 0 || strcmp(type, "UNLCK") == 0;
  return true;
}

static const char *kind_name(guint32 flag) {
  return flag == LOCK_POSIX ? "fcntl" : flag == LOCK_FLOCK ? "flock" : flag == LOCK_OFD ? "open file description" : "lease";
}

static void block_lock(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock, const char *why, const char *cure) {
  g_autofree char *object = fd < 0 ? g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm)
                                   : g_strdup_printf("pid %d (%s) fd %d", (int)task->pid, task->stat.comm, fd);
  g_autofree char *reason = g_strdup_printf("it holds a file lock (%s, inode %" G_GUINT64_FORMAT ")%s%s", kind_name(lock->flag),
      lock->inode, why ? ": " : "", why ? why : "");
  job_block(s->job, "fd", task->pid, fd, object, reason, cure);
}

/* Locks of a description are seen by all its holders, and kept for the first of them. */
static bool is_known(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  if (lock->flag == LOCK_POSIX || lock->flag == LOCK_OFD) /* many ranges: compared one by one */
    return false;
  guint64 key = (guint64)collector_file_id_of(s->collector, task->pid, fd) << 16 | lock->flag;
  return !g_hash_table_add(s->done, g_memdup2(&key, sizeof key));
}

static bool is_first_holder(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  const FileHolder *h = collector_holder_of(s->collector, collector_file_id_of(s->collector, task->pid, fd));
  return lock->flag == LOCK_POSIX || !h || (h->pid == task->view && h->fd == fd);
}

/* Locks of a process belong to its descriptor table: one of those that share it has taken it. */
static pid_t taker_of(const LockScan *s, const FrozenTask *task, const Lock *lock) {
  const FrozenTask *other = lock->flag == LOCK_POSIX && lock->pid > 0 && s->tree->shares ? frozen_tree_find(s->tree, lock->pid) : NULL;
  return other && !other->zombie && other->owner[SHARE_FILES] == task ? other->pid : task->pid;
}

static bool same_posix(const FileLockEntry *e, pid_t taker, const Lock *lock) {
  return e->flag == LOCK_POSIX && lock->flag == LOCK_POSIX && e->pid == taker && (guint64)e->start == lock->start &&
         (guint64)e->len == (lock->end == G_MAXUINT64 ? 0 : lock->end - lock->start + 1);
}

/* Descriptors that were duplicated show the same lock of their process. */
static bool is_posix_known(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  const Checkpoint *c = collector_checkpoint(s->collector);
  guint32 id = collector_file_id_of(s->collector, task->pid, fd);
  for (guint i = 0; i < c->records[RECORD_FILE_LOCKS]->len; i++) {
    const FileLockEntry *e = (const FileLockEntry *)((Record *)c->records[RECORD_FILE_LOCKS]->pdata[i])->message;
    if (same_posix(e, taker_of(s, task, lock), lock) && collector_file_id_of(s->collector, task->pid, e->fd) == id)
      return true;
  }
  return false;
}

static void add_lock(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  if (!job_options(s->job)->file_locks) {
    block_lock(s, task, fd, lock, NULL, CURE);
    return;
  }
  if (lock->breaking) {
    block_lock(s, task, fd, lock, "somebody waits for it to be given back", "let the program release it before the dump");
    return;
  }
  FileLockEntry *e = malloc(sizeof *e);
  file_lock_entry__init(e);
  e->flag = lock->flag;
  e->type = (guint32)lock->type;
  e->pid = taker_of(s, task, lock);
  e->fd = fd;
  e->start = (gint64)lock->start;
  e->len = lock->end == G_MAXUINT64 ? 0 : (gint64)(lock->end - lock->start + 1);
  checkpoint_add_record(collector_checkpoint(s->collector), RECORD_FILE_LOCKS, &e->base, NULL);
}

static void note_found(const LockScan *s, const Lock *lock) {
  for (guint i = 0; i < s->lines->len; i++) {
    Lock *line = &g_array_index(s->lines, Lock, i);
    if (!line->found && line->pid == lock->pid && line->flag == lock->flag && line->inode == lock->inode && line->start == lock->start &&
        line->end == lock->end) {
      line->found = true;
      return;
    }
  }
}

static bool scan_fd(const LockScan *s, const FrozenTask *task, int fd, GError **error) {
  char name[64];
  g_snprintf(name, sizeof name, "fdinfo/%d", fd);
  g_autofree char *text = proc_read(task->view, name, NULL, error);
  if (!text)
    return false;
  for (char *line = strstr(text, "lock:\t"); line; line = strstr(line + 1, "\nlock:\t")) {
    Lock lock;
    const char *rest = strchr(line, '\t');
    if (!rest || !parse_line(rest, &lock) || !is_first_holder(s, task, fd, &lock) || is_posix_known(s, task, fd, &lock) ||
        is_known(s, task, fd, &lock))
      continue;
    note_found(s, &lock);
    add_lock(s, task, fd, &lock);
  }
  return true;
}

/* Which descriptors could have one: those of a process that took some, and of files whose locks belong to nobody alive. File
 * systems without a device (overlayfs, btrfs) show other inode numbers, so all their files are looked at if any lock is in one. */
static bool may_have_lock(const LockScan *s, const FrozenTask *task, int fd) {
  if (s->unlisted || g_hash_table_contains(s->takers, GINT_TO_POINTER(task->pid)))
    return true;
  if (!g_hash_table_size(s->orphans))
    return false;
  const FileHolder *h = collector_holder_of(s->collector, collector_file_id_of(s->collector, task->view, fd));
  return !h || !h->ino || (major(h->dev) == 0 && s->anonymous && (S_ISREG(h->mode) || S_ISDIR(h->mode))) ||
         g_hash_table_contains(s->orphans, GUINT_TO_POINTER((guint)h->ino));
}

static void sort_line(LockScan *s, const Lock *lock) {
  const FrozenTask *task = lock->pid > 0 ? frozen_tree_find(s->tree, lock->pid) : NULL;
  if (task) {
    g_hash_table_add(s->takers, GINT_TO_POINTER(task->owner[SHARE_FILES]->pid));
    g_array_append_val(s->lines, *lock);
  }
  /* whoever took it: it stays with the description, or with those that share a table with somebody who is dead */
  if (lock->flag != LOCK_POSIX || (s->tree->shares && (!task || task->zombie))) {
    g_hash_table_add(s->orphans, GUINT_TO_POINTER((guint)lock->inode));
    s->anonymous |= lock->major == 0;
  }
}

static bool scan_task(const LockScan *s, const FrozenTask *task, GError **error) {
  for (guint k = 0; task->fds && k < task->fds->len; k++) {
    int fd = g_array_index(task->fds, CollectedFd, k).fd;
    if (may_have_lock(s, task, fd) && !scan_fd(s, task, fd, error))
      return false;
  }
  return true;
}

static const VmaEntry *entry_at(const FrozenTask *task, guint64 start) {
  const MmEntry *mm = task->model->mm;
  for (size_t i = 0; i < mm->n_vmas; i++)
    if (mm->vmas[i]->start == start)
      return mm->vmas[i];
  return NULL;
}

/* An flock stays with the open file, which a mapping may hold when no descriptor does any more (the JVM's performance data). */
static const VmaEntry *find_mapping(const LockScan *s, const Lock *lock) {
  for (guint i = 0; i < s->tree->tasks->len; i++) {
    const FrozenTask *task = s->tree->tasks->pdata[i];
    for (guint k = 0; !task->zombie && k < task->facts.vmas->len; k++) {
      const ProcVma *v = &g_array_index(task->facts.vmas, ProcVma, k);
      const VmaEntry *e = v->inode == lock->inode && v->dev_major == lock->major && v->dev_minor == lock->minor ? entry_at(task, v->start) : NULL;
      if (e && e->status & (VMA_FILE_SHARED | VMA_FILE_PRIVATE))
        return e;
    }
  }
  return NULL;
}

static void add_mapped(const LockScan *s, const VmaEntry *mapping, const Lock *lock) {
  CkptMappedLock *m = malloc(sizeof *m);
  ckpt_mapped_lock__init(m);
  m->file_id = (guint32)mapping->shmid;
  m->type = (guint32)lock->type;
  m->flags = mapping->has_fdflags ? mapping->fdflags & O_ACCMODE : O_RDONLY;
  g_ptr_array_add(collector_checkpoint(s->collector)->mapped_locks, m);
}

/* Locks that no descriptor shows: those of mapped files; or a process could not be asked for its descriptors (seccomp). */
static void settle_lines(const LockScan *s) {
  for (guint i = 0; i < s->lines->len; i++) {
    const Lock *lock = &g_array_index(s->lines, Lock, i);
    const FrozenTask *task = frozen_tree_find(s->tree, lock->pid);
    const VmaEntry *mapping = lock->found || lock->flag != LOCK_FLOCK ? NULL : find_mapping(s, lock);
    if (lock->found || (task && task->no_agent)) /* blocked already */
      continue;
    if (mapping && job_options(s->job)->file_locks)
      add_mapped(s, mapping, lock);
    else if (mapping)
      block_lock(s, task, -1, lock, "on a file that it has mapped", CURE);
    else
      block_lock(s, task, -1, lock, "none of its descriptors shows it", "release it before the dump; cat /proc/locks shows it");
  }
}

static bool is_same_file(const ProcVma *a, const ProcVma *b) {
  return a->inode == b->inode && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

/* A library or a program: mapped for its code by whoever loads those, who locks nothing. */
static bool is_of_code(const GArray *vmas, guint i) {
  const ProcVma *v = &g_array_index(vmas, ProcVma, i);
  while (i > 0 && is_same_file(v, v - 1))
    v--, i--;
  for (const ProcVma *at = v; i < vmas->len && is_same_file(v, at); i++, at++)
    if (at->flags & VMF_EXEC)
      return true;
  return false;
}

/* Would a lock that only the list shows be possible? And is the list cheaper than a look at every descriptor? */
static bool needs_list(const FrozenTree *tree) {
  guint fds = 0;
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    const GArray *vmas = task->facts.vmas;
    if (task->zombie || !vmas || !task->facts.fd_numbers)
      continue; /* the last: why is told elsewhere */
    fds += task->facts.fd_numbers->len;
    for (guint k = 0; k < vmas->len; k++) {
      const ProcVma *v = &g_array_index(vmas, ProcVma, k);
      if (v->inode && (v->flags & VMF_SHARED || !is_of_code(vmas, k)))
        return true;
    }
    if (fds > FEW_FDS)
      return true;
  }
  return false;
}

static void *read_locks(void *data) {
  LocksReader *r = data;
  if (!g_file_get_contents("/proc/locks", &r->text, NULL, NULL))
    r->text = NULL;
  return NULL;
}

LocksReader *locks_start(const FrozenTree *tree) {
  if (!needs_list(tree))
    return NULL;
  LocksReader *r = g_new0(LocksReader, 1);
  r->started = pthread_create(&r->thread, NULL, read_locks, r) == 0;
  if (!r->started)
    (void)read_locks(r);
  return r;
}

static void wait_for_list(LocksReader *r) {
  if (r->started)
    (void)pthread_join(r->thread, NULL);
  r->started = false;
}

void locks_free(LocksReader *r) {
  if (!r)
    return;
  wait_for_list(r);
  g_free(r->text);
  g_free(r);
}

bool collect_locks(Job *job, const FrozenTree *tree, Collector *collector, LocksReader *reader, GError **error) {
  if (reader)
    wait_for_list(reader);
  if (reader && (!reader->text || !*reader->text))
    return true;
  g_autoptr(GHashTable) takers = g_hash_table_new(NULL, NULL), orphans = g_hash_table_new(NULL, NULL);
  g_autoptr(GHashTable) done = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  g_autoptr(GArray) taken = g_array_new(FALSE, FALSE, sizeof(Lock));
  LockScan s = {job, tree, collector, taken, takers, orphans, done, !reader};
  g_auto(GStrv) lines = g_strsplit(reader ? reader->text : "", "\n", -1);
  for (char **l = lines; *l; l++) {
    Lock lock;
    if (parse_line(*l, &lock))
      sort_line(&s, &lock);
  }
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && task->owner[SHARE_FILES] == task && !scan_task(&s, task, error))
      return false;
  }
  settle_lines(&s);
  return job_poll(job, error);
}

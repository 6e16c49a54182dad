/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File locks and leases. /proc/locks (proc(5)) says whether there are any that could belong to the tree; fdinfo of the
 * descriptors says which they are: exactly those that were taken through that open file. A waiting fcntl(2) or flock(2) is
 * no lock: it was interrupted by the freeze, and is made again. */
#include "collect.h"
#include "file-lock.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* As the images name them: FL_* of the kernel's linux/filelock.h. */
enum { LOCK_POSIX = 1, LOCK_FLOCK = 2, LOCK_LEASE = 32, LOCK_OFD = 1024 };

typedef struct Lock {
  guint32 flag;
  int type;  /* F_RDLCK, F_WRLCK */
  bool breaking;
  pid_t pid; /* who took it; -1 for locks of an open file description; 0: in another pid namespace */
  guint64 inode, start, end; /* end: G_MAXUINT64 for EOF */
} Lock;

typedef struct LockScan {
  Job *job;
  const FrozenTree *tree;
  Collector *collector;
  GHashTable *takers; /* pid of the tree -> number of its lines not found yet */
  GHashTable *orphans; /* inode numbers of locks of descriptions, and of takers that are gone */
  GHashTable *done;    /* guint64 of file id and kind: descriptions whose lock is known */
} LockScan;

static guint32 flag_of(const char *kind) {
  return strcmp(kind, "POSIX") == 0 ? LOCK_POSIX : strcmp(kind, "FLOCK") == 0 ? LOCK_FLOCK : strcmp(kind, "OFDLCK") == 0 ? LOCK_OFD : LOCK_LEASE;
}

/* "1: POSIX  ADVISORY  WRITE 812 08:01:4711 0 EOF"; waiters ("1: -> …") are none. */
static bool parse_line(const char *line, Lock *ret) {
  char kind[16], mode[16], type[16], end[32];
  unsigned long start;
  int pid;
  unsigned long inode;
  const char *p = strchr(line, ':');
  if (!p || sscanf(p + 1, " %15s %15s %15s %d %*x:%*x:%lu %lu %31s", kind, mode, type, &pid, &inode, &start, end) != 7)
    return false;
  *ret = (Lock){.flag = flag_of(kind), .type = strcmp(type, "READ") == 0 ? F_RDLCK : F_WRLCK, .pid = pid, .inode = inode,
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
  return lock->flag == LOCK_POSIX || !h || (h->pid == task->pid && h->fd == fd);
}

static bool same_posix(const FileLockEntry *e, const FrozenTask *task, const Lock *lock) {
  return e->flag == LOCK_POSIX && lock->flag == LOCK_POSIX && e->pid == task->pid && (guint64)e->start == lock->start &&
         (guint64)e->len == (lock->end == G_MAXUINT64 ? 0 : lock->end - lock->start + 1);
}

/* Descriptors that were duplicated show the same lock of their process. */
static bool is_posix_known(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  const Checkpoint *c = collector_checkpoint(s->collector);
  guint32 id = collector_file_id_of(s->collector, task->pid, fd);
  for (guint i = 0; i < c->records[RECORD_FILE_LOCKS]->len; i++) {
    const FileLockEntry *e = (const FileLockEntry *)((Record *)c->records[RECORD_FILE_LOCKS]->pdata[i])->message;
    if (same_posix(e, task, lock) && collector_file_id_of(s->collector, task->pid, e->fd) == id)
      return true;
  }
  return false;
}

static void add_lock(const LockScan *s, const FrozenTask *task, int fd, const Lock *lock) {
  if (!job_options(s->job)->file_locks) {
    block_lock(s, task, fd, lock, NULL, "option file-locks takes it along: it is taken again at the restore, if nobody else has it then");
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
  e->pid = task->pid;
  e->fd = fd;
  e->start = (gint64)lock->start;
  e->len = lock->end == G_MAXUINT64 ? 0 : (gint64)(lock->end - lock->start + 1);
  checkpoint_add_record(collector_checkpoint(s->collector), RECORD_FILE_LOCKS, &e->base, NULL);
}

static void note_taken(const LockScan *s, const Lock *lock) {
  gpointer key = GINT_TO_POINTER(lock->pid);
  guint left = GPOINTER_TO_UINT(g_hash_table_lookup(s->takers, key));
  if (left)
    g_hash_table_insert(s->takers, key, GUINT_TO_POINTER(left - 1));
}

static bool scan_fd(const LockScan *s, const FrozenTask *task, int fd, GError **error) {
  char name[64];
  g_snprintf(name, sizeof name, "fdinfo/%d", fd);
  g_autofree char *text = proc_read(task->pid, name, NULL, error);
  if (!text)
    return false;
  for (char *line = strstr(text, "lock:\t"); line; line = strstr(line + 1, "\nlock:\t")) {
    Lock lock;
    const char *rest = strchr(line, '\t');
    if (!rest || !parse_line(rest, &lock) || !is_first_holder(s, task, fd, &lock) || is_posix_known(s, task, fd, &lock) ||
        is_known(s, task, fd, &lock))
      continue;
    note_taken(s, &lock);
    add_lock(s, task, fd, &lock);
  }
  return true;
}

/* Which descriptors could have one: those of a process that took some, and of files whose locks belong to nobody alive. File
 * systems without a device (overlayfs, btrfs) show other inode numbers, so all their files are looked at. */
static bool may_have_lock(const LockScan *s, const FrozenTask *task, int fd) {
  if (g_hash_table_contains(s->takers, GINT_TO_POINTER(task->pid)))
    return true;
  char path[64];
  struct stat st;
  g_snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)task->pid, fd);
  return g_hash_table_size(s->orphans) && stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) &&
         (major(st.st_dev) == 0 || g_hash_table_contains(s->orphans, GUINT_TO_POINTER((guint)st.st_ino)));
}

static void sort_line(const LockScan *s, const Lock *lock) {
  if (lock->pid > 0 && frozen_tree_find(s->tree, lock->pid)) {
    gpointer key = GINT_TO_POINTER(lock->pid);
    g_hash_table_insert(s->takers, key, GUINT_TO_POINTER(GPOINTER_TO_UINT(g_hash_table_lookup(s->takers, key)) + 1));
  }
  if (lock->flag != LOCK_POSIX) /* whoever took it: it stays with the description */
    g_hash_table_add(s->orphans, GUINT_TO_POINTER((guint)lock->inode));
}

static bool scan_task(const LockScan *s, const FrozenTask *task, GError **error) {
  for (guint k = 0; task->fds && k < task->fds->len; k++) {
    int fd = g_array_index(task->fds, CollectedFd, k).fd;
    if (may_have_lock(s, task, fd) && !scan_fd(s, task, fd, error))
      return false;
  }
  return true;
}

/* A process that could not be asked for its descriptors (seccomp), or a file that does not show its locks. */
static void block_unknown(const LockScan *s) {
  GHashTableIter iter;
  gpointer pid, left;
  g_hash_table_iter_init(&iter, s->takers);
  while (g_hash_table_iter_next(&iter, &pid, &left)) {
    const FrozenTask *task = frozen_tree_find(s->tree, GPOINTER_TO_INT(pid));
    if (!left || (task && task->seccomp)) /* blocked already */
      continue;
    g_autofree char *object = g_strdup_printf("pid %d (%s)", (int)task->pid, task->stat.comm);
    job_block(s->job, "fd", task->pid, -1, object, "it took a file lock that none of its descriptors shows",
        "release it before the dump; cat /proc/locks shows it");
  }
}

bool collect_locks(Job *job, const FrozenTree *tree, Collector *collector, GError **error) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/locks", &text, NULL, NULL) || !*text)
    return true; /* none, or a kernel without file locking */
  g_autoptr(GHashTable) takers = g_hash_table_new(NULL, NULL), orphans = g_hash_table_new(NULL, NULL);
  g_autoptr(GHashTable) done = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  LockScan s = {job, tree, collector, takers, orphans, done};
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **l = lines; *l; l++) {
    Lock lock;
    if (parse_line(*l, &lock))
      sort_line(&s, &lock);
  }
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (!task->zombie && !scan_task(&s, task, error))
      return false;
  }
  block_unknown(&s);
  return job_poll(job, error);
}

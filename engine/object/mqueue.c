/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* POSIX message queues (mq_overview(7)). CRIU's format has none: they are entries of type EXT, described in checkpoint.img.
 *
 * Messages can only be received, which takes them out; so they are sent again, in the same order, by a process that does not
 * die with the engine, when nothing speaks against the dump any more.
 *
 * A queue with a name lives on without the tree. One that is still there at the restore is taken as it is, with whatever is
 * in it then: its content is everybody's. Otherwise it is made and filled. */

#include "as-process.h"
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define MQUEUE_MAGIC_ 0x19800202
#define DELETED " (deleted)"
#define TEXT_SIZE 80 /* of the file that tells a queue's state */
#define PUT_BACK_MSEC 2000
#define SPARE (64 << 10)

/* --- collect --- */

typedef struct Queue {
  CkptMqueue *q; /* borrowed: of the first description */
  int fd; /* ours, for all rights */
} Queue;

static void queue_clear(void *p) {
  fd_cleanup(&((Queue *)p)->fd);
}

static gpointer queues_new(void) {
  GArray *queues = g_array_new(FALSE, FALSE, sizeof(Queue));
  g_array_set_clear_func(queues, queue_clear);
  return queues;
}

static GArray *queues_of(Collector *c) {
  return collector_state(c, &mqueue_ops, queues_new, (GDestroyNotify)g_array_unref);
}

static bool mqueue_claims(const FileProbe *probe) {
  struct statfs fs;
  return S_ISREG(probe->st.st_mode) && probe->st.st_size == TEXT_SIZE && !(probe->flags & O_PATH) && probe->fd >= 0 &&
         fstatfs(probe->local, &fs) == 0 && fs.f_type == MQUEUE_MAGIC_;
}

/* The descriptor of a queue can be read like a file: "QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260". */
static long read_state(int fd, const char *key) {
  char text[TEXT_SIZE + 1];
  ssize_t n = pread(fd, text, TEXT_SIZE, 0);
  text[MAX(n, 0)] = '\0';
  const char *p = strstr(text, key);
  return p ? strtol(p + strlen(key), NULL, 10) : 0;
}

static char *name_of(const FileProbe *probe, bool *ret_deleted) {
  const char *base = strrchr(probe->link, '/');
  char *name = g_strdup(base ? base + 1 : probe->link);
  *ret_deleted = g_str_has_suffix(name, DELETED) && probe->st.st_nlink == 0;
  if (*ret_deleted)
    name[strlen(name) - strlen(DELETED)] = '\0';
  return name;
}

static bool collect_queue(Collector *c, const FileProbe *probe, CkptMqueue *q, GError **error) {
  GArray *queues = queues_of(c);
  for (guint i = 0; i < queues->len; i++)
    if (g_array_index(queues, Queue, i).q->ino == q->ino)
      return true;
  FdPath path = fd_path(probe->local);
  Queue one = {.q = q, .fd = open(path.text, O_RDWR | O_CLOEXEC | O_NONBLOCK)};
  if (one.fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the message queue %s", probe->link);
  if (read_state(one.fd, "NOTIFY_PID:") > 0)
    collector_block(c, probe, "message queue", "somebody waits for a notification (mq_notify), and the kernel does not tell with which value",
        "let the program take it back before the dump (mq_notify with NULL), or use poll instead");
  g_array_append_val(queues, one);
  return true;
}

/* Only now is it known who belongs to the tree. */
static bool mqueue_collect_finish(Collector *c, GError **error) {
  const GArray *queues = queues_of(c);
  for (guint i = 0; i < queues->len; i++) {
    FileProbe probe;
    if (!collector_probe_of(c, g_array_index(queues, Queue, i).q->file_id, &probe))
      continue;
    g_autofree char *stranger = find_outside_holder(c, probe.link, 0);
    if (!stranger)
      continue;
    g_autofree char *reason = g_strdup_printf("%s outside the tree has it open, too", stranger);
    collector_block(c, &probe, "message queue", reason, "checkpoint them together, under a common parent");
  }
  return true;
}

static bool mqueue_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  struct mq_attr attr;
  if (mq_getattr(probe->local, &attr) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot look at the message queue %s", probe->link);
  CkptMqueue *q = MESSAGE_NEW(CkptMqueue, ckpt_mqueue__init);
  bool deleted = false;
  q->file_id = entry->id;
  q->ino = probe->st.st_ino;
  q->flags = (guint32)probe->flags;
  q->name = name_of(probe, &deleted);
  q->has_deleted = q->deleted = deleted;
  q->max_messages = (guint32)attr.mq_maxmsg;
  q->message_size = (guint32)attr.mq_msgsize;
  q->mode = probe->st.st_mode & 07777;
  q->uid = probe->st.st_uid, q->gid = probe->st.st_gid;
  g_ptr_array_add(collector_checkpoint(c)->mqueues, q);
  entry->type = FD_TYPES__EXT;
  entry->ext = MESSAGE_NEW(ExtFileEntry, ext_file_entry__init);
  entry->ext->id = entry->id;
  entry->ext->fown = collector_fown(probe);
  return collect_queue(c, probe, q, error);
}

/* --- messages --- */

typedef struct Letter {
  guint32 priority, size;
} Letter;

/* Shared with the process that looks. */
typedef struct Bag {
  int error;
  guint32 n;
  size_t used, room; /* of what follows: a Letter, its bytes, … */
  unsigned char bytes[];
} Bag;

/* In a process of its own. */
static void look(int fd, size_t message_size, Bag *bag) {
  const struct timespec until = {.tv_sec = 0};
  while (bag->room - bag->used >= message_size + sizeof(Letter)) {
    Letter letter;
    unsigned priority;
    ssize_t n = mq_timedreceive(fd, (char *)bag->bytes + bag->used + sizeof letter, message_size, &priority, &until);
    if (n < 0)
      break;
    letter = (Letter){priority, (guint32)n};
    memcpy(bag->bytes + bag->used, &letter, sizeof letter);
    bag->used += sizeof letter + (size_t)n;
    bag->n++;
  }
  size_t at = 0;
  for (guint32 i = 0; i < bag->n; i++) {
    Letter letter;
    memcpy(&letter, bag->bytes + at, sizeof letter);
    const char *data = (const char *)bag->bytes + at + sizeof letter;
    for (int patience = 0; mq_timedsend(fd, data, letter.size, letter.priority, &until) < 0; patience++) {
      bag->error = errno;
      if (patience == PUT_BACK_MSEC)
        break; /* somebody else has filled it meanwhile */
      (void)usleep(1000);
    }
    at += sizeof letter + letter.size;
  }
}

static int look_apart(int fd, size_t message_size, Bag *bag) {
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) {
    (void)setsid();
    look(fd, message_size, bag);
    _exit(0);
  }
  int e = pid < 0 ? -errno : 0, status = 0;
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  while (pid > 0 && waitpid(pid, &status, __WALL) < 0)
    if (errno != EINTR)
      return -errno;
  return e ? e : status ? -ECHILD : 0;
}

static void take_letters(CkptMqueue *q, const Bag *bag) {
  size_t at = 0;
  q->message = g_new0(CkptMqueueMessage *, bag->n + 1);
  for (guint32 i = 0; i < bag->n; i++) {
    Letter letter;
    memcpy(&letter, bag->bytes + at, sizeof letter);
    CkptMqueueMessage *m = q->message[q->n_message++] = MESSAGE_NEW(CkptMqueueMessage, ckpt_mqueue_message__init);
    m->priority = letter.priority;
    m->data.len = letter.size;
    m->data.data = g_memdup2(bag->bytes + at + sizeof letter, letter.size);
    at += sizeof letter + letter.size;
  }
}

static bool seal_queue(const Queue *queue, GError **error) {
  struct mq_attr attr;
  if (mq_getattr(queue->fd, &attr) < 0 || attr.mq_curmsgs <= 0)
    return true;
  size_t room = (size_t)read_state(queue->fd, "QSIZE:") + (size_t)attr.mq_curmsgs * sizeof(Letter) + (size_t)attr.mq_msgsize + SPARE;
  Bag *bag = mmap(NULL, sizeof *bag + room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (bag == MAP_FAILED)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "No memory for the messages of %s", queue->q->name);
  bag->room = room;
  int e = look_apart(queue->fd, (size_t)attr.mq_msgsize, bag);
  if (e == 0)
    take_letters(queue->q, bag);
  (void)munmap(bag, sizeof *bag + room);
  return e == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -e, "Cannot look at the messages of %s", queue->q->name);
}

static bool mqueue_seal(Collector *c, bool kill, GError **error) {
  const GArray *queues = queues_of(c);
  for (guint i = 0; i < queues->len; i++)
    if (!seal_queue(&g_array_index(queues, Queue, i), error))
      return false;
  return true;
}

/* --- restore --- */

/* Names that this restore has made go again when the engine ends, in whatever way, without having said that they stay: for
 * each there is a process that waits for that at the end of a pipe. */
static void close_keeper(void *p) {
  fd_cleanup(p);
}

static gpointer keepers_new(void) {
  GArray *keepers = g_array_new(FALSE, FALSE, sizeof(int));
  g_array_set_clear_func(keepers, close_keeper);
  return keepers;
}

static GArray *keepers_of(Restorer *r) {
  static const char key;
  return restorer_state(r, &key, keepers_new, (GDestroyNotify)g_array_unref);
}

void mqueue_keep(Restorer *r) {
  const GArray *keepers = keepers_of(r);
  for (guint i = 0; i < keepers->len; i++)
    (void)!write(g_array_index(keepers, int, i), "k", 1);
}

static _Noreturn void wait_for_end(const char *path, int end) {
  char byte;
  ssize_t n;
  (void)setsid();
  if (end != 3)
    (void)dup3(end, 3, 0);
  (void)syscall(SYS_close_range, 0, 2, 0);
  (void)syscall(SYS_close_range, 4, ~0u, 0);
  while ((n = read(3, &byte, 1)) < 0 && errno == EINTR)
    ;
  if (n == 0)
    (void)mq_unlink(path);
  _exit(0);
}

/* Before the name exists, so that it never is without one. */
static bool watch_name(Restorer *r, const char *path, GError **error) {
  int ends[2];
  sigset_t all, before;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pipe");
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0)
    wait_for_end(path, ends[0]);
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  (void)close(ends[0]);
  g_array_append_val(keepers_of(r), ends[1]);
  return pid > 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot fork");
}

/* All descriptors of a queue, opened by its name: only so they have the flags that mq_open(3) gives. */
typedef struct Making {
  const CkptMqueue *q;
  const char *path;
  bool create, remove;
  int base; /* with every right */
  guint n;
  const CkptMqueue **all;
  int *fds;
} Making;

/* In a process that shares the engine's memory and descriptors, and does not die with it. */
static int make_queue(void *data) {
  Making *m = data;
  const char *name = m->path + 1;
  struct mq_attr attr = {.mq_maxmsg = m->q->max_messages, .mq_msgsize = m->q->message_size};
  int flags = O_RDWR | O_CLOEXEC | O_NONBLOCK, e = 0;
  if (m->create)
    m->base = (int)syscall(SYS_mq_open, name, flags | O_CREAT | O_EXCL, 0600, &attr);
  if (m->base < 0)
    return -errno;
  for (guint i = 0; e == 0 && i < m->n; i++) {
    m->fds[i] = (int)syscall(SYS_mq_open, name, (m->all[i]->flags & (guint32)(O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC, 0, NULL);
    e = m->fds[i] < 0 ? -errno : 0;
  }
  if (m->remove)
    (void)syscall(SYS_mq_unlink, name);
  return e;
}

static int make_as(Making *m, const char *path) {
  const AsWho who = {.uid = geteuid(), .gid = getegid()};
  m->path = path;
  return as_process(&who, make_queue, m, NULL);
}

static bool fill_queue(int fd, const CkptMqueue *q, GError **error) {
  if (fchown(fd, q->uid, q->gid) < 0 || fchmod(fd, q->mode & 0777) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the owner of the message queue %s", q->name);
  for (size_t i = 0; i < q->n_message; i++)
    if (mq_send(fd, (const char *)q->message[i]->data.data, q->message[i]->data.len, q->message[i]->priority) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot fill the message queue %s", q->name);
  return true;
}

/* One that is there already; -1 without error: there is none. */
static int take_up(const CkptMqueue *q, const char *path, GError **error) {
  struct mq_attr attr;
  _cleanup_fd_ int fd = mq_open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno != ENOENT)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the message queue %s", path);
  if (fd < 0)
    return -1;
  if (mq_getattr(fd, &attr) == 0 && attr.mq_maxmsg == (long)q->max_messages && attr.mq_msgsize == (long)q->message_size)
    return fd_take(&fd);
  engine_fail(error, ENGINE_ERROR_CODE__FAILED, "There is another message queue %s now, of other sizes; remove it first (mq_unlink)", path);
  return -1;
}

static bool fail_make(const CkptMqueue *q, int e, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "Cannot make the message queue %s%s", q->name,
      e == EINVAL   ? " (are fs.mqueue.msg_max or fs.mqueue.msgsize_max too small?)"
      : e == EMFILE ? " (is the limit of bytes in queues, ulimit -q, too small?)"
                    : "");
}

/* The queue itself, and all its descriptors. */
static bool open_queue(Restorer *r, Making *m, GError **error) {
  const CkptMqueue *q = m->q;
  char path[NAME_MAX + 32];
  GError *failure = NULL;
  m->remove = q->has_deleted && q->deleted;
  (void)snprintf(path, sizeof path, "/%s", q->name);
  m->base = m->remove ? -1 : take_up(q, path, &failure);
  m->create = m->base < 0;
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  if (m->create && !m->remove && !watch_name(r, path, error))
    return false;
  int e = make_as(m, path);
  if (e == -EEXIST && m->remove) { /* its name is another queue's now */
    (void)snprintf(path, sizeof path, "/checkpointd-%d-%u", (int)getpid(), q->file_id);
    e = make_as(m, path);
  }
  return e < 0 ? fail_make(q, -e, error) : !m->create || fill_queue(m->base, q, error);
}

/* A place among those of external files that none of them has. */
static guint64 key_of(guint32 file_id) {
  return (guint64)1 << 48 | file_id;
}

static bool open_all(Restorer *r, const CkptMqueue *first, GError **error) {
  const GPtrArray *all = restorer_checkpoint(r)->mqueues;
  Making m = {.q = first, .base = -1};
  g_autofree const CkptMqueue **descriptions = m.all = g_new0(const CkptMqueue *, all->len);
  g_autofree int *fds = m.fds = g_new(int, all->len);
  for (guint i = 0; i < all->len; i++) {
    fds[i] = -1;
    if (((const CkptMqueue *)all->pdata[i])->ino == first->ino)
      descriptions[m.n++] = all->pdata[i];
  }
  bool ok = open_queue(r, &m, error);
  fd_cleanup(&m.base);
  for (guint i = 0; i < m.n; i++)
    if (fds[i] >= 0)
      restorer_shared_put(r, FD_TYPES__EXT, key_of(descriptions[i]->file_id), fds[i]);
  return ok;
}

static const CkptMqueue *first_of(const Checkpoint *c, guint64 ino) {
  for (guint i = 0; i < c->mqueues->len; i++)
    if (((const CkptMqueue *)c->mqueues->pdata[i])->ino == ino)
      return c->mqueues->pdata[i];
  return NULL;
}

static int mqueue_open(Restorer *r, const FileEntry *entry, GError **error) {
  const CkptMqueue *q = checkpoint_find_mqueue(restorer_checkpoint(r), entry->id);
  int fd = restorer_shared_take(r, FD_TYPES__EXT, key_of(entry->id));
  if (fd < 0 && open_all(r, first_of(restorer_checkpoint(r), q->ino), error))
    fd = restorer_shared_take(r, FD_TYPES__EXT, key_of(entry->id));
  return fd;
}

static const FownEntry *mqueue_fown(const FileEntry *entry) {
  return entry->ext ? entry->ext->fown : NULL;
}

const ObjectOps mqueue_ops = {
    .name = "message queue",
    .type = FD_TYPES__UND, /* found by its record: object_of_entry() */
    .claims = mqueue_claims,
    .collect = mqueue_collect,
    .collect_finish = mqueue_collect_finish,
    .seal = mqueue_seal,
    .open = mqueue_open,
    .fown = mqueue_fown,
};

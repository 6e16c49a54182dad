/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* epoll_create(2). The kernel lists what is registered by the number its file had when it was added; that number may be
 * closed or mean another file now. KCMP_EPOLL_TFD tells which file it is. The images name a number too: ours is one
 * that the first holder which has it does mean. Registrations are made again by one of the holders, since a signalfd
 * that is waited for belongs to who added it. */

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* Made by its task itself, when everything else is there. */
static bool is_made_last(const Checkpoint *checkpoint, guint32 file_id) {
  return uring_is_late(checkpoint, file_id) || pidfd_is_last(checkpoint, file_id);
}

static gpointer ids_new(void) {
  return g_array_new(FALSE, FALSE, sizeof(guint32));
}

static bool epoll_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "eventpoll");
}

static bool read_tfd(const char *line, EventpollTfdEntry *tfd) {
  unsigned int number, events, dev;
  unsigned long long data, ino;
  long long pos;
  if (sscanf(line, "tfd: %u events: %x data: %llx pos:%lli ino:%llx sdev:%x", &number, &events, &data, &pos, &ino,
          &dev) != 6)
    return false;
  tfd->tfd = number;
  tfd->events = events;
  tfd->data = data;
  tfd->has_dev = tfd->has_inode = tfd->has_pos = true;
  tfd->dev = dev;
  tfd->inode = ino;
  tfd->pos = (guint64)pos;
  return true;
}

static void add_tfd(EventpollFileEntry *epfd, EventpollTfdEntry *tfd) {
  epfd->tfd = g_renew(EventpollTfdEntry *, epfd->tfd, epfd->n_tfd + 1);
  epfd->tfd[epfd->n_tfd++] = tfd;
}

/* Since 6.9. */
typedef struct BusyPoll {
  guint32 usecs;
  guint16 budget;
  guint8 prefer, pad;
} BusyPoll;

#define GET_PARAMS _IOR(0x8A, 0x02, BusyPoll)
#define SET_PARAMS _IOW(0x8A, 0x01, BusyPoll)

static void collect_busy_poll(Collector *c, int local, guint32 id) {
  BusyPoll params = {0};
  if (ioctl(local, GET_PARAMS, &params) < 0 || (!params.usecs && !params.budget && !params.prefer))
    return;
  CkptEpoll *e = MESSAGE_NEW(CkptEpoll, ckpt_epoll__init);
  e->file_id = id;
  e->busy_poll_usecs = params.usecs, e->busy_poll_budget = params.budget, e->prefer_busy_poll = params.prefer;
  g_ptr_array_add(collector_checkpoint(c)->epolls, e);
}

static bool restore_busy_poll(Restorer *r, int fd, guint32 id, GError **error) {
  const GPtrArray *all = restorer_checkpoint(r)->epolls;
  for (guint i = 0; i < all->len; i++) {
    const CkptEpoll *e = all->pdata[i];
    const BusyPoll params = {.usecs = e->busy_poll_usecs, .budget = (guint16)e->busy_poll_budget, .prefer = (guint8)e->prefer_busy_poll};
    bool busy = params.usecs || params.budget || params.prefer;
    if (e->file_id == id && busy && ioctl(fd, SET_PARAMS, &params) < 0)
      return engine_fail_errno(error, errno == ENOTTY ? ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE : ENGINE_ERROR_CODE__FAILED, errno,
          "Cannot make an epoll poll busily (since Linux 6.9)");
  }
  return true;
}

static bool epoll_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  if (!text)
    return false;
  EventpollFileEntry *epfd = MESSAGE_NEW(EventpollFileEntry, eventpoll_file_entry__init);
  entry->epfd = epfd;
  epfd->id = entry->id;
  epfd->flags = (guint32)probe->flags;
  epfd->fown = collector_fown(probe);
  for (const char *line = strstr(text, "tfd:"); line; line = strstr(line + 1, "tfd:")) {
    EventpollTfdEntry *tfd = MESSAGE_NEW(EventpollTfdEntry, eventpoll_tfd_entry__init);
    add_tfd(epfd, tfd);
    if (!read_tfd(line, tfd))
      return engine_fail(
          error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show what an epoll waits for");
  }
  collect_busy_poll(c, probe->local, entry->id);
  GArray *ids = collector_state(c, &epoll_ops, ids_new, (GDestroyNotify)g_array_unref);
  g_array_append_val(ids, entry->id);
  return true;
}

/* --- which files are they? --- */

/* A registration under work: the @toff-th with this number in the epoll that @holder has. */
typedef struct Registration {
  const FileHolder *holder;
  guint32 epoll_id;
  guint32 tfd, toff;
} Registration;

static bool is_registered_file(const Registration *reg, pid_t pid, int fd) {
  struct kcmp_epoll_slot slot = {.efd = (guint32)reg->holder->fd, .tfd = reg->tfd, .toff = reg->toff};
  return syscall(SYS_kcmp, pid, reg->holder->pid, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

/* What a number means to a restore: the descriptor of the first task that has both the epoll and that number. Epolls
 * with thousands of files are common, so this is looked up in tables that are made once. */
typedef struct Numbers {
  GHashTable *tables;  /* Task -> GHashTable: fd -> FdinfoEntry */
  GHashTable *holders; /* epoll file id -> GPtrArray of Task */
} Numbers;

static gpointer numbers_new(void) {
  Numbers *n = g_new0(Numbers, 1);
  n->tables = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_hash_table_unref);
  n->holders = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
  return n;
}

static void numbers_free(gpointer data) {
  Numbers *n = data;
  g_hash_table_unref(n->tables);
  g_hash_table_unref(n->holders);
  g_free(n);
}

static void numbers_add(Numbers *n, const Task *task) {
  GHashTable *table = g_hash_table_new(NULL, NULL);
  g_hash_table_insert(n->tables, (gpointer)task, table);
  for (guint i = 0; i < task->fds->len; i++) {
    FdinfoEntry *e = task->fds->pdata[i];
    g_hash_table_insert(table, GUINT_TO_POINTER(e->fd), e);
    if (e->type != FD_TYPES__EVENTPOLL)
      continue;
    GPtrArray *tasks = g_hash_table_lookup(n->holders, GUINT_TO_POINTER(e->id));
    if (!tasks) {
      tasks = g_ptr_array_new();
      g_hash_table_insert(n->holders, GUINT_TO_POINTER(e->id), tasks);
    }
    if (!tasks->len || tasks->pdata[tasks->len - 1] != task)
      g_ptr_array_add(tasks, (gpointer)task);
  }
}

static void numbers_fill(Numbers *n, const Checkpoint *checkpoint) {
  for (guint t = g_hash_table_size(n->tables) ? checkpoint->tasks->len : 0; t < checkpoint->tasks->len; t++)
    numbers_add(n, checkpoint->tasks->pdata[t]);
}

/* Tasks that have an epoll; never NULL. */
static const GPtrArray *holders_of(Numbers *n, guint32 epoll_id) {
  GPtrArray *tasks = g_hash_table_lookup(n->holders, GUINT_TO_POINTER(epoll_id));
  if (!tasks) {
    tasks = g_ptr_array_new();
    g_hash_table_insert(n->holders, GUINT_TO_POINTER(epoll_id), tasks);
  }
  return tasks;
}

static const FdinfoEntry *meaning_of(Numbers *n, guint32 epoll_id, guint32 number, const Task **ret_task) {
  const GPtrArray *tasks = holders_of(n, epoll_id);
  for (guint t = 0; t < tasks->len; t++) {
    const FdinfoEntry *e =
        g_hash_table_lookup(g_hash_table_lookup(n->tables, tasks->pdata[t]), GUINT_TO_POINTER(number));
    if (!e)
      continue;
    if (ret_task)
      *ret_task = tasks->pdata[t];
    return e;
  }
  return NULL;
}

static bool is_taken(const EventpollFileEntry *epfd, const EventpollTfdEntry *self, guint32 number) {
  for (size_t i = 0; i < epfd->n_tfd; i++)
    if (epfd->tfd[i] != self && epfd->tfd[i]->tfd == number)
      return true;
  return false;
}

/* Another number that means the registered file and is not registered itself; -1 if there is none. */
static int other_number(
    Numbers *n, const EventpollFileEntry *epfd, const EventpollTfdEntry *self, const Registration *reg) {
  const GPtrArray *tasks = holders_of(n, reg->epoll_id);
  g_autoptr(GHashTable) compared = g_hash_table_new(NULL, NULL); /* file id -> 1: other, 2: it is the one */
  for (guint t = 0; t < tasks->len; t++) {
    const Task *task = tasks->pdata[t];
    for (guint i = 0; i < task->fds->len; i++) {
      const FdinfoEntry *e = task->fds->pdata[i];
      guint known = GPOINTER_TO_UINT(g_hash_table_lookup(compared, GUINT_TO_POINTER(e->id)));
      if (!known) {
        known = is_registered_file(reg, task_pid(task), (int)e->fd) ? 2 : 1;
        g_hash_table_insert(compared, GUINT_TO_POINTER(e->id), GUINT_TO_POINTER(known));
      }
      const FdinfoEntry *means = known == 2 ? meaning_of(n, reg->epoll_id, e->fd, NULL) : NULL;
      if (means && means->id == e->id && !is_taken(epfd, self, e->fd))
        return (int)e->fd;
    }
  }
  return -1;
}

/* A socket's inode is its description's alone. That saves a comparison, whose cost in the kernel grows with the number
 * of files in the epoll: there may be ten thousand connections in one. */
static bool is_same_socket(const Checkpoint *checkpoint, const FdinfoEntry *e, const EventpollTfdEntry *tfd) {
  if (e->type != FD_TYPES__UNIXSK && e->type != FD_TYPES__INETSK)
    return false;
  const FileEntry *file = checkpoint_find_file(checkpoint, e->id);
  if (!file || makedev(tfd->dev >> 20, tfd->dev & 0xfffff) != kernel_devs()->sockets)
    return false;
  return (file->usk && file->usk->ino == tfd->inode) || (file->isk && file->isk->ino == tfd->inode);
}

/* A file that no holder of the epoll has: another task of the tree may. What belongs to who registers it is none of these. */
static guint32 file_elsewhere(const Checkpoint *checkpoint, const Registration *reg) {
  g_autoptr(GHashTable) compared = g_hash_table_new(NULL, NULL);
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    for (guint i = 0; i < task->fds->len; i++) {
      const FdinfoEntry *e = task->fds->pdata[i];
      if (e->type == FD_TYPES__SIGNALFD || e->type == FD_TYPES__PIDFD || is_made_last(checkpoint, e->id) ||
          !g_hash_table_add(compared, GUINT_TO_POINTER(e->id)))
        continue;
      if (is_registered_file(reg, task_pid(task), (int)e->fd))
        return e->id;
    }
  }
  return 0;
}

static CkptEpoll *extra_of(Checkpoint *checkpoint, guint32 id) {
  for (guint i = 0; i < checkpoint->epolls->len; i++)
    if (((CkptEpoll *)checkpoint->epolls->pdata[i])->file_id == id)
      return checkpoint->epolls->pdata[i];
  CkptEpoll *e = MESSAGE_NEW(CkptEpoll, ckpt_epoll__init);
  e->file_id = id;
  g_ptr_array_add(checkpoint->epolls, e);
  return e;
}

static guint32 index_of(const EventpollFileEntry *epfd, const EventpollTfdEntry *tfd) {
  guint32 i = 0;
  while (epfd->tfd[i] != tfd)
    i++;
  return i;
}

static bool resolve_elsewhere(Collector *c, const EventpollFileEntry *epfd, const EventpollTfdEntry *tfd, const Registration *reg) {
  guint32 id = file_elsewhere(collector_checkpoint(c), reg);
  if (!id)
    return false;
  CkptEpoll *x = extra_of(collector_checkpoint(c), reg->epoll_id);
  CkptEpollFile *f = MESSAGE_NEW(CkptEpollFile, ckpt_epoll_file__init);
  f->index = index_of(epfd, tfd);
  f->file_id = id;
  x->away = realloc(x->away, (x->n_away + 1) * sizeof *x->away);
  x->away[x->n_away++] = f;
  return true;
}

static void resolve(
    Collector *c, Numbers *n, const EventpollFileEntry *epfd, EventpollTfdEntry *tfd, const Registration *reg) {
  const Task *task = NULL;
  const FdinfoEntry *e = meaning_of(n, reg->epoll_id, tfd->tfd, &task);
  if (e && is_made_last(collector_checkpoint(c), e->id) && task_pid(task) != reg->holder->pid)
    e = NULL;
  if (e && (is_same_socket(collector_checkpoint(c), e, tfd) || is_registered_file(reg, task_pid(task), (int)e->fd)))
    return;
  int number = other_number(n, epfd, tfd, reg);
  if (number >= 0) {
    tfd->tfd = (guint32)number;
    return;
  }
  if (resolve_elsewhere(c, epfd, tfd, reg))
    return;
  FileProbe probe;
  if (!collector_probe_of(c, reg->epoll_id, &probe))
    return;
  g_autofree char *reason = g_strdup_printf(
      "it waits for a file that was added as descriptor %u, which is closed or another file now", tfd->tfd);
  collector_block(c, &probe, "epoll", reason, "let the program remove files from its epoll before it closes them");
}

/* Numbers are looked up as the kernel has them, before any of them is changed. */
static void resolve_all(Collector *c, Numbers *n, EventpollFileEntry *epfd) {
  g_autofree Registration *regs = g_new0(Registration, epfd->n_tfd + 1);
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL); /* number -> how often */
  for (size_t i = 0; i < epfd->n_tfd; i++) {
    gpointer number = GUINT_TO_POINTER(epfd->tfd[i]->tfd);
    guint before = GPOINTER_TO_UINT(g_hash_table_lookup(seen, number));
    regs[i] = (Registration){
        .holder = collector_holder_of(c, epfd->id), .epoll_id = epfd->id, .tfd = epfd->tfd[i]->tfd, .toff = before};
    g_hash_table_insert(seen, number, GUINT_TO_POINTER(before + 1));
  }
  for (size_t i = 0; i < epfd->n_tfd; i++)
    resolve(c, n, epfd, epfd->tfd[i], &regs[i]);
}

static const char numbers_key;

static bool epoll_collect_finish(Collector *c, GError **error) {
  const GArray *ids = collector_state(c, &epoll_ops, ids_new, (GDestroyNotify)g_array_unref);
  Numbers *n = collector_state(c, &numbers_key, numbers_new, numbers_free);
  if (ids->len)
    numbers_fill(n, collector_checkpoint(c));
  for (guint i = 0; i < ids->len; i++) {
    FileEntry *entry = checkpoint_find_file(collector_checkpoint(c), g_array_index(ids, guint32, i));
    if (entry)
      resolve_all(c, n, entry->epfd);
    if (!job_poll(collector_job(c), error))
      return false;
  }
  return true;
}

/* --- restore --- */

static int epoll_open(Restorer *r, const FileEntry *entry, GError **error) {
  if (!entry->epfd) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no eventpoll_file_entry");
    return -1;
  }
  _cleanup_fd_ int fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make an epoll");
    return -1;
  }
  return restore_busy_poll(r, fd, entry->id, error) && restorer_set_flags(fd, entry->epfd->flags, error) ? fd_take(&fd) : -1;
}

#define PRIVATE_EVENTS (EPOLLONESHOT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE)
#define ANY_EVENT (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLRDNORM | EPOLLWRNORM)

/* EPOLLONESHOT, and the one event was delivered. */
static bool is_disarmed(const EventpollTfdEntry *tfd) {
  return tfd->events & EPOLLONESHOT && !(tfd->events & ~(guint32)PRIVATE_EVENTS);
}

/* Whoever adds it cannot leave out errors and hang-ups. So an event is delivered, to us, if there is any; nothing else is in the
 * epoll that would lose one. Otherwise it waits for errors and hang-ups. */
static bool disarm(int epoll, int number, const EventpollTfdEntry *tfd) {
  struct epoll_event event = {.events = tfd->events | ANY_EVENT, .data.u64 = tfd->data}, got;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, number, &event) < 0)
    return false;
  event.events = tfd->events;
  return epoll_wait(epoll, &got, 1, 0) == 1 || epoll_ctl(epoll, EPOLL_CTL_MOD, number, &event) == 0;
}

/* For a file that the first holder does not have: the engine adds it, under the number that the images name. */
static bool add_here(Restorer *r, const FileEntry *entry, const EventpollTfdEntry *tfd, guint32 id, GError **error) {
  int target = restorer_fd_of(r, id, error), epoll = restorer_fd_of(r, entry->id, error);
  if (target < 0 || epoll < 0)
    return false;
  int number = (int)tfd->tfd;
  _cleanup_fd_ int aside = fcntl(number, F_DUPFD_CLOEXEC, number + 1);
  int epoll_now = epoll == number ? aside : epoll;
  int saved = aside >= 0 ? fcntl(number, F_GETFD) : -1;
  if (target != number && dup3(target, number, O_CLOEXEC) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot use descriptor %d", number);
  struct epoll_event event = {.events = tfd->events, .data.u64 = tfd->data};
  bool done = is_disarmed(tfd) ? disarm(epoll_now, number, tfd) : epoll_ctl(epoll_now, EPOLL_CTL_ADD, number, &event) == 0;
  int reason = errno;
  if (aside >= 0)
    (void)dup3(aside, number, saved & FD_CLOEXEC ? O_CLOEXEC : 0);
  else
    (void)close(number);
  return done ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot add descriptor %d to an epoll", number);
}

/* What belongs to who added it, or is not there yet. */
static bool is_bound(Restorer *r, const FdinfoEntry *e) {
  return e->type == FD_TYPES__SIGNALFD || e->type == FD_TYPES__PIDFD || is_made_last(restorer_checkpoint(r), e->id);
}

/* The file of a registration that the images name by its id; 0: by a number of a holder. */
static guint32 id_elsewhere(Restorer *r, const FileEntry *entry, const EventpollTfdEntry *tfd) {
  const GPtrArray *all = restorer_checkpoint(r)->epolls;
  for (guint i = 0; i < all->len; i++) {
    const CkptEpoll *e = all->pdata[i];
    for (size_t k = 0; e->file_id == entry->id && k < e->n_away; k++)
      if (entry->epfd->tfd[e->away[k]->index] == tfd)
        return e->away[k]->file_id;
  }
  return 0;
}

/* Before all others. */
static bool add_disarmed(Restorer *r, const FileEntry *entry, GError **error) {
  Numbers *n = restorer_state(r, &numbers_key, numbers_new, numbers_free);
  numbers_fill(n, restorer_checkpoint(r));
  for (size_t i = 0; i < entry->epfd->n_tfd; i++) {
    const EventpollTfdEntry *tfd = entry->epfd->tfd[i];
    guint32 id = is_disarmed(tfd) ? id_elsewhere(r, entry, tfd) : 0;
    if (id && !add_here(r, entry, tfd, id, error))
      return false;
    const FdinfoEntry *e = is_disarmed(tfd) && !id ? meaning_of(n, entry->id, tfd->tfd, NULL) : NULL;
    if (e && !is_bound(r, e) && !add_here(r, entry, tfd, e->id, error))
      return false;
  }
  return true;
}

static bool add_one(Restorer *r, const FileEntry *entry, const EventpollTfdEntry *tfd, const Task *holder, int fd,
    bool late, Program *p, GError **error) {
  const Task *task = NULL;
  guint32 id = id_elsewhere(r, entry, tfd);
  if (id) /* once; those that are disarmed are done */
    return late || is_disarmed(tfd) || add_here(r, entry, tfd, id, error);
  Numbers *n = restorer_state(r, &numbers_key, numbers_new, numbers_free);
  numbers_fill(n, restorer_checkpoint(r));
  const FdinfoEntry *e = meaning_of(n, entry->id, tfd->tfd, &task);
  if (!e)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
        "The epoll with file id %u waits for descriptor %u, which none of its holders has", entry->id, tfd->tfd);
  if (late != is_made_last(restorer_checkpoint(r), e->id))
    return true; /* its time is another one */
  if (!late && is_disarmed(tfd) && !is_bound(r, e))
    return true; /* done already: add_disarmed() */
  if (task != holder && !late)
    return add_here(r, entry, tfd, e->id, error);
  struct epoll_event event = {.events = tfd->events, .data.u64 = tfd->data};
  size_t at = program_data(p, &event, sizeof event);
  PROGRAM_CALL(p, "epoll_ctl add", SYS_epoll_ctl, ARG(fd), ARG(EPOLL_CTL_ADD), ARG(tfd->tfd), ARG_DATA(at));
  program_expect(p, EXPECT_OK, 0);
  return true;
}

static bool add_all(Restorer *r, const FileEntry *entry, const Task *holder, int fd, bool late, Program *p, GError **error) {
  for (size_t i = 0; i < entry->epfd->n_tfd; i++)
    if (!add_one(r, entry, entry->epfd->tfd[i], holder, fd, late, p, error))
      return false;
  /* Old images keep the registrations in a file of their own. */
  const GPtrArray *records = restorer_checkpoint(r)->records[RECORD_EVENTPOLL_TFD];
  for (guint i = 0; i < records->len; i++) {
    const EventpollTfdEntry *tfd = (const EventpollTfdEntry *)((const Record *)records->pdata[i])->message;
    if (tfd->id == entry->id && !add_one(r, entry, tfd, holder, fd, late, p, error))
      return false;
  }
  return true;
}

static bool epoll_program(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error) {
  return add_disarmed(r, entry, error) && add_all(r, entry, holder, fd, false, p, error);
}

bool restorer_epoll_rings(Restorer *r, const Task *task, Program *p, GError **error) {
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    const FileEntry *entry = e->type == FD_TYPES__EVENTPOLL && restorer_holder_of(r, e->id) == task
                                 ? checkpoint_find_file(restorer_checkpoint(r), e->id) : NULL;
    bool first = true; /* of several numbers */
    for (guint k = 0; k < i; k++)
      first = first && ((FdinfoEntry *)task->fds->pdata[k])->id != e->id;
    if (entry && entry->epfd && first && !add_all(r, entry, task, (int)e->fd, true, p, error))
      return false;
  }
  return true;
}

static const FownEntry *epoll_fown(const FileEntry *entry) {
  return entry->epfd ? entry->epfd->fown : NULL;
}

const ObjectOps epoll_ops = {
    .name = "epoll",
    .type = FD_TYPES__EVENTPOLL,
    .claims = epoll_claims,
    .collect = epoll_collect,
    .collect_finish = epoll_collect_finish,
    .open = epoll_open,
    .program = epoll_program,
    .fown = epoll_fown,
};

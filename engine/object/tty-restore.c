/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Terminals at the restore.
 *
 * A pseudo terminal gets its number back: /dev/ptmx gives the lowest that is free, so it is opened until all numbers that
 * the checkpoint needs have come up, and what came up besides is closed again. Slaves are opened through their master
 * (TIOCGPTPEER), never by a path from the images. When everything is open, each gets its settings and content; then
 * masters of hung-up slaves are closed. Sessions take their terminals by program of their leaders (engine/restore).
 *
 * A description that was opened as /dev/tty is one of a slave under another name. Only somebody whose controlling
 * terminal it is can open it so; that is a short-lived process with our descriptor table. */

#include "proc.h"
#include "tty.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PATIENCE_USEC (5 * G_USEC_PER_SEC)
#define PAUSE_USEC 20000

typedef struct BackPty {
  guint32 index;
  const TtyInfoEntry *slave, *master; /* NULL: there is no such entry */
  const CkptTty *extra;               /* may be NULL */
  guint32 master_file;                /* file id; 0: it is not in the tree */
  const char *path;                   /* of the master */
  bool has_slaves;
  int fd;   /* of the master */
  int peer; /* of the slave, for sessions */
  bool given;
} BackPty;

typedef struct BackTtys {
  GPtrArray *ptys;
  bool acquired;
  const BackPty *job; /* the one whose place the job's terminal takes */
  bool own_session;   /* the root leads a session on it, otherwise the tree is in ours */
} BackTtys;

static void back_pty_free(void *p) {
  BackPty *pty = p;
  if (pty->fd >= 0 && !pty->given)
    (void)close(pty->fd);
  if (pty->peer >= 0)
    (void)close(pty->peer);
  g_free(pty);
}

static gpointer back_ttys_new(void) {
  BackTtys *t = g_new0(BackTtys, 1);
  t->ptys = g_ptr_array_new_with_free_func(back_pty_free);
  return t;
}

static void back_ttys_free(void *p) {
  BackTtys *t = p;
  g_ptr_array_unref(t->ptys);
  g_free(t);
}

/* --- what the images say --- */

static BackPty *find_pty(const BackTtys *t, guint32 index) {
  for (guint i = 0; i < t->ptys->len; i++) {
    BackPty *pty = t->ptys->pdata[i];
    if (pty->index == index)
      return pty;
  }
  return NULL;
}

static BackPty *get_pty(const Restorer *r, BackTtys *t, guint32 index) {
  BackPty *pty = find_pty(t, index);
  if (pty)
    return pty;
  pty = g_new0(BackPty, 1);
  pty->index = index;
  pty->fd = pty->peer = -1;
  pty->path = "/dev/ptmx";
  pty->extra = checkpoint_find_tty(restorer_checkpoint(r), index);
  g_ptr_array_add(t->ptys, pty);
  return pty;
}

static const TtyInfoEntry *info_at(const Checkpoint *c, guint i) {
  return (TtyInfoEntry *)((Record *)c->records[RECORD_TTY_INFO]->pdata[i])->message;
}

/* criu notes only the session of what was opened as /dev/tty. */
static bool index_of(const Checkpoint *c, const TtyInfoEntry *info, guint32 *ret) {
  if (info->pty) {
    *ret = info->pty->index;
    return true;
  }
  for (guint i = 0; i < c->records[RECORD_TTY_INFO]->len; i++) {
    const TtyInfoEntry *other = info_at(c, i);
    if (tty_info_which(other) == TTY_INFO_SLAVE && other->pty && info->sid && other->sid == info->sid) {
      *ret = other->pty->index;
      return true;
    }
  }
  return false;
}

static void note_file(const Restorer *r, BackTtys *t, const FileEntry *e) {
  const Checkpoint *c = restorer_checkpoint(r);
  const TtyInfoEntry *info = e->tty ? checkpoint_find_tty_info(c, e->tty->tty_info_id) : NULL;
  guint32 index;
  int which = info ? tty_info_which(info) : -1;
  if (which < 0 || !index_of(c, info, &index))
    return;
  BackPty *pty = get_pty(r, t, index);
  const FileEntry *file = e->tty->has_regf_id ? checkpoint_find_file(c, e->tty->regf_id) : NULL;
  if (which != TTY_INFO_MASTER) {
    pty->has_slaves = true;
    return;
  }
  pty->master_file = e->id;
  if (file && file->reg && strcmp(file->reg->name, "/dev/pts/ptmx") == 0)
    pty->path = "/dev/pts/ptmx";
}

static void note_info(const BackTtys *t, const TtyInfoEntry *info) {
  BackPty *pty = info->pty ? find_pty(t, info->pty->index) : NULL;
  if (pty && tty_info_which(info) == TTY_INFO_MASTER)
    pty->master = info;
  else if (pty && (tty_info_which(info) == TTY_INFO_SLAVE || !pty->slave))
    pty->slave = info;
}

static bool is_outside(const BackPty *pty) {
  return !pty->master_file && !(pty->extra && pty->extra->hung_up);
}

static BackTtys *ttys_of(Restorer *r) {
  BackTtys *t = restorer_state(r, &tty_ops, back_ttys_new, back_ttys_free);
  const Checkpoint *c = restorer_checkpoint(r);
  if (t->ptys->len)
    return t;
  for (guint i = 0; i < c->files->len; i++)
    if (((FileEntry *)c->files->pdata[i])->type == FD_TYPES__TTY)
      note_file(r, t, c->files->pdata[i]);
  for (guint i = 0; i < c->records[RECORD_TTY_INFO]->len; i++)
    note_info(t, info_at(c, i));
  return t;
}

/* --- numbers --- */

static char *find_user(dev_t dev) {
  DIR *proc = opendir("/proc");
  char *found = NULL;
  for (const struct dirent *e; proc && !found && (e = readdir(proc));) {
    ProcStat s;
    pid_t pid = (pid_t)atoi(e->d_name);
    if (pid > 0 && proc_stat(pid, &s, NULL) && (dev_t)s.tty_nr == dev)
      found = g_strdup_printf(" by pid %d (%s)", (int)pid, s.comm);
  }
  if (proc)
    (void)closedir(proc);
  return found;
}

static bool fail_number(guint32 index, GError **error) {
  g_autofree char *who = find_user(makedev(TTY_SLAVE_MAJOR, index));
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
      "Terminal /dev/pts/%u is in use%s, and the checkpoint needs that number: close that terminal, or wait until it is "
      "closed, and restore again",
      index, who ? who : "");
}

static bool open_master(const char *path, int *ret_fd, unsigned int *ret_index, GError **error) {
  _cleanup_fd_ int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, TIOCGPTN, ret_index) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pseudo terminal with %s", path);
  *ret_fd = fd_take(&fd);
  return true;
}

/* Takes @fd. Another path to the same device gives the same number again, which was just let go. */
static bool keep_master(BackPty *pty, int fd, GError **error) {
  int unlock = 0;
  if (strcmp(pty->path, "/dev/ptmx") != 0) {
    unsigned int index = 0;
    (void)close(fd);
    if (!open_master(pty->path, &fd, &index, error))
      return false;
    if (index != pty->index) {
      (void)close(fd);
      return fail_number(pty->index, error);
    }
  }
  pty->fd = fd;
  if (ioctl(fd, TIOCSPTLCK, &unlock) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot unlock a pseudo terminal");
  return true;
}

static void close_fds(GArray *fds) {
  for (guint i = 0; i < fds->len; i++)
    (void)close(g_array_index(fds, int, i));
  g_array_unref(fds);
}

static BackPty *find_missing(const BackTtys *t) {
  for (guint i = 0; i < t->ptys->len; i++) {
    BackPty *pty = t->ptys->pdata[i];
    if (!is_outside(pty) && pty->fd < 0)
      return pty;
  }
  return NULL;
}

/* One pass over the free numbers, which come up from the lowest on. *ret_missing: one that did not. */
static bool acquire_pass(BackTtys *t, BackPty **ret_missing, GError **error) {
  GArray *aside = g_array_new(FALSE, FALSE, sizeof(int));
  unsigned int last = 0, index = 0;
  bool ok = true;
  for (guint i = 0; i < t->ptys->len; i++)
    if (!is_outside(t->ptys->pdata[i]))
      last = MAX(last, ((BackPty *)t->ptys->pdata[i])->index);
  while (ok && find_missing(t)) {
    int fd = -1;
    ok = open_master("/dev/ptmx", &fd, &index, error);
    BackPty *pty = ok ? find_pty(t, index) : NULL;
    if (pty && !is_outside(pty) && pty->fd < 0)
      ok = keep_master(pty, fd, error);
    else if (ok)
      g_array_append_val(aside, fd);
    if (index >= last)
      break;
  }
  *ret_missing = find_missing(t);
  close_fds(aside);
  return ok;
}

/* Those of the tree that was dumped may go away a moment after it. */
static bool acquire_all(BackTtys *t, GError **error) {
  gint64 until = g_get_monotonic_time() + PATIENCE_USEC;
  for (t->acquired = true;;) {
    BackPty *missing;
    if (!acquire_pass(t, &missing, error))
      return false;
    if (!missing)
      return true;
    if (g_get_monotonic_time() > until)
      return fail_number(missing->index, error);
    g_usleep(PAUSE_USEC);
  }
}

/* --- descriptions --- */

#define OPEN_FLAGS (O_ACCMODE | O_NONBLOCK | O_APPEND | O_SYNC | O_LARGEFILE_)
#define O_LARGEFILE_ 0100000 /* of the kernel; C libraries for 64 bits have none */

static int fail_open(GError **error, int e, const char *what) {
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "Cannot open %s", what);
  return -1;
}

static int open_peer(const BackPty *pty, guint32 flags) {
  return tty_open_peer(pty->fd, (int)flags & OPEN_FLAGS);
}

/* Of the short-lived process: the descriptor @into becomes one of /dev/tty. Its own end must not hang anything up, so it
 * gives the terminal back before. */
static _Noreturn void open_current(int peer, int flags, int into) {
  uint64_t all = ~0ull;
  (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
  bool ok = syscall(SYS_setsid) >= 0 && syscall(SYS_ioctl, peer, TIOCSCTTY, 0) == 0;
  long fd = ok ? syscall(SYS_openat, AT_FDCWD, "/dev/tty", flags, 0) : -1;
  ok = fd >= 0 && syscall(SYS_dup3, fd, into, O_CLOEXEC) >= 0;
  if (fd >= 0)
    (void)syscall(SYS_close, fd);
  (void)syscall(SYS_ioctl, peer, TIOCNOTTY, 0);
  for (;;)
    syscall(SYS_exit_group, ok ? 0 : 1);
}

static int open_as_current(const BackPty *pty, guint32 flags, GError **error) {
  _cleanup_fd_ int peer = open_peer(pty, O_RDWR);
  _cleanup_fd_ int into = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (peer < 0 || into < 0)
    return fail_open(error, errno, "the slave of a pseudo terminal");
  long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid == 0)
    open_current(peer, ((int)flags & OPEN_FLAGS) | O_CLOEXEC, into);
  int status = 1;
  while (pid > 0 && waitpid((pid_t)pid, &status, __WALL) < 0 && errno == EINTR)
    ;
  if (pid < 0 || status != 0)
    return fail_open(error, EIO, "/dev/tty for a session of the checkpoint");
  return fd_take(&into);
}

static bool is_own_terminal(int fd) {
  unsigned int own = 0, given = 0;
  _cleanup_fd_ int current = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
  return current >= 0 && ioctl(current, TIOCGDEV, &own) == 0 && ioctl(fd, TIOCGDEV, &given) == 0 && own == given;
}

bool restorer_needs_session(const Job *job) {
  int fd = job_terminal(job);
  return job_options(job)->shell_job && fd >= 0 && isatty(fd) && !is_own_terminal(fd);
}

/* A terminal controls one session only. */
static bool check_free(int fd, GError **error) {
  unsigned int dev = 0;
  g_autofree char *who = ioctl(fd, TIOCGDEV, &dev) == 0 ? find_user(dev) : NULL;
  if (!who)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__BUSY,
      "The terminal of the restore is in use%s as that of another session: restore from within that session, or on a new "
      "terminal (script -qc 'criu restore --shell-job …')", who);
}

/* The job's own terminal instead of one that stayed outside. */
static int open_outside(Restorer *r, BackTtys *t, const BackPty *pty, const TtyFileEntry *tty, int which, GError **error) {
  Job *job = restorer_job(r);
  int fd = job_terminal(job);
  if (!job_options(job)->shell_job || fd < 0 || !isatty(fd)) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "It was on terminal /dev/pts/%u, which stayed outside: it needs another one, and %s", pty->index,
        job_options(job)->shell_job ? "the restore has none (criu restore --shell-job: its standard input; service: the option terminal)"
                                    : "only a restore with shell-job takes one");
    return -1;
  }
  if (t->job && t->job != pty) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "tty-info.img: two terminals are outside");
    return -1;
  }
  t->own_session = restorer_needs_session(job);
  if (!t->job && t->own_session && !check_free(fd, error))
    return -1;
  t->job = pty;
  int flags = ((int)tty->flags & OPEN_FLAGS) | O_NOCTTY | O_CLOEXEC;
  FdPath path = fd_path(fd);
  int opened = open(which == TTY_INFO_CURRENT && !t->own_session ? "/dev/tty" : path.text, flags);
  return opened >= 0 ? opened : fail_open(error, errno, "the terminal of the restore");
}

static int open_master_entry(BackPty *pty, const FileEntry *entry, GError **error) {
  if (pty->given || pty->master_file != entry->id) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "Terminal %u has two masters", pty->index);
    return -1;
  }
  if (!restorer_set_flags(pty->fd, entry->tty->flags, error))
    return -1;
  pty->given = true;
  return pty->fd;
}

int tty_open(Restorer *r, const FileEntry *entry, GError **error) {
  BackTtys *t = ttys_of(r);
  const TtyFileEntry *tty = entry->tty;
  const TtyInfoEntry *info = tty ? checkpoint_find_tty_info(restorer_checkpoint(r), tty->tty_info_id) : NULL;
  guint32 index;
  if (!info) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no terminal");
    return -1;
  }
  int which = tty_info_which(info);
  if (which < 0 || !index_of(restorer_checkpoint(r), info, &index)) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "It is a console, a serial line, or a terminal that criu took for external: these cannot be made again");
    return -1;
  }
  BackPty *pty = find_pty(t, index);
  if (!pty)
    return fail_open(error, ENOENT, "a terminal without a description");
  if (!t->acquired && !acquire_all(t, error))
    return -1;
  if (is_outside(pty))
    return open_outside(r, t, pty, tty, which, error);
  if (which == TTY_INFO_MASTER)
    return open_master_entry(pty, entry, error);
  int fd = which == TTY_INFO_CURRENT ? open_as_current(pty, tty->flags, error) : open_peer(pty, tty->flags);
  if (fd < 0)
    return which == TTY_INFO_CURRENT ? -1 : fail_open(error, errno, "the slave of a pseudo terminal");
  if (restorer_set_flags(fd, tty->flags, error))
    return fd;
  (void)close(fd);
  return -1;
}

/* --- settings and content --- */

static struct termios2 termios_of(const TermiosEntry *e) {
  struct termios2 t = {0};
  t.c_iflag = e->c_iflag;
  t.c_oflag = e->c_oflag;
  t.c_cflag = e->c_cflag;
  t.c_lflag = e->c_lflag;
  t.c_line = (cc_t)e->c_line;
  t.c_ispeed = e->c_ispeed;
  t.c_ospeed = e->c_ospeed;
  for (size_t i = 0; i < NCCS && i / 4 < e->n_c_cc; i++)
    t.c_cc[i] = (cc_t)(e->c_cc[i / 4] >> i % 4 * 8);
  return t;
}

static const TtyDataEntry *data_of(const Checkpoint *c, const TtyInfoEntry *info) {
  const GPtrArray *records = c->records[RECORD_TTY_DATA];
  for (guint i = 0; info && i < records->len; i++) {
    const TtyDataEntry *d = (TtyDataEntry *)((Record *)records->pdata[i])->message;
    if (d->tty_id == info->id)
      return d;
  }
  return NULL;
}

static guint32 copy_data(const TtyDataEntry *d, guint8 *bytes) {
  guint32 n = d ? (guint32)MIN(d->data.len, TTY_BYTES_MAX) : 0;
  if (n)
    memcpy(bytes, d->data.data, n);
  return n;
}

/* Checked by engine/image/verify-tty.c. */
static TtyContent *content_of(const Checkpoint *c, const BackPty *pty) {
  TtyContent *content = g_new0(TtyContent, 1);
  const CkptTty *x = pty->extra;
  content->n_out = copy_data(data_of(c, pty->master), content->out);
  content->n_in = copy_data(data_of(c, pty->slave), content->in);
  content->complete = content->n_in; /* of others: all there is */
  if (!x)
    return content;
  content->stopped = x->stopped;
  content->status = x->packet_status;
  content->complete = MIN(x->complete, content->n_in);
  content->n_eof = (guint32)MIN(x->n_eof, TTY_EOF_MAX);
  if (content->n_eof)
    memcpy(content->eof, x->eof, content->n_eof * sizeof *content->eof);
  return content;
}

static void apply_owner(const BackPty *pty, int peer) {
  const CkptTty *x = pty->extra;
  uid_t uid = x && x->has_uid ? x->uid : pty->slave && pty->slave->has_uid ? pty->slave->uid : (uid_t)-1;
  gid_t gid = x && x->has_gid ? x->gid : pty->slave && pty->slave->has_gid ? pty->slave->gid : (gid_t)-1;
  char path[32];
  (void)snprintf(path, sizeof path, "/dev/pts/%u", pty->index);
  if (peer >= 0 ? fchown(peer, uid, gid) : chown(path, uid, gid))
    return; /* on a devpts that knows no owners */
  if (x && x->has_mode)
    (void)(peer >= 0 ? fchmod(peer, x->mode & 07777) : chmod(path, x->mode & 07777));
}

static bool fail_settle(const BackPty *pty, int e, GError **error) {
  return engine_fail_errno(
      error, ENGINE_ERROR_CODE__FAILED, e, "Cannot bring back the state of terminal /dev/pts/%u", pty->index);
}

static void apply_window(int fd, const WinsizeEntry *w) {
  struct winsize size = {0};
  if (!w)
    return;
  size.ws_row = (unsigned short)w->ws_row;
  size.ws_col = (unsigned short)w->ws_col;
  size.ws_xpixel = (unsigned short)w->ws_xpixel;
  size.ws_ypixel = (unsigned short)w->ws_ypixel;
  (void)ioctl(fd, TIOCSWINSZ, &size);
}

static bool settle_content(const Checkpoint *c, const BackPty *pty, const struct termios2 *final, GError **error) {
  int packet = pty->master && pty->master->packet_mode;
  if (pty->peer >= 0) {
    g_autofree TtyContent *content = content_of(c, pty);
    int e = tty_content_put(pty->fd, pty->peer, final, packet, content);
    return e ? fail_settle(pty, e, error) : true;
  }
  if (ioctl(pty->fd, TCSETS2, final) < 0 || (packet && ioctl(pty->fd, TIOCPKT, &packet) < 0))
    return fail_settle(pty, errno, error);
  return true;
}

/* The locks come last: they keep others from doing what was done here. */
static bool settle_locks(const BackPty *pty, GError **error) {
  const TtyInfoEntry *info = pty->slave ? pty->slave : pty->master;
  int locked = pty->master && pty->master->locked;
  if (info->termios_locked) {
    struct termios2 t = termios_of(info->termios_locked);
    if (tty_has_locks(&t) && ioctl(pty->fd, TIOCSLCKTRMIOS, &t) < 0)
      return fail_settle(pty, errno, error);
  }
  if ((pty->master && pty->master->exclusive && ioctl(pty->fd, TIOCEXCL) < 0) ||
      (pty->slave && pty->slave->exclusive && pty->peer >= 0 && ioctl(pty->peer, TIOCEXCL) < 0) ||
      ioctl(pty->fd, TIOCSPTLCK, &locked) < 0)
    return fail_settle(pty, errno, error);
  return true;
}

static bool settle_pty(Restorer *r, BackPty *pty, GError **error) {
  const Checkpoint *c = restorer_checkpoint(r);
  const TtyInfoEntry *info = pty->slave ? pty->slave : pty->master;
  bool was_open = pty->has_slaves || (pty->extra && pty->extra->slave_closed);
  if (!info)
    return true;
  if (was_open && (pty->peer = tty_open_peer(pty->fd, O_RDWR | O_NONBLOCK)) < 0)
    return fail_settle(pty, errno, error);
  apply_owner(pty, pty->peer);
  apply_window(pty->fd, info->winsize ? info->winsize : pty->master ? pty->master->winsize : NULL);
  const TermiosEntry *e = info->termios ? info->termios : pty->master ? pty->master->termios : NULL;
  if (e) {
    struct termios2 final = termios_of(e);
    if (!settle_content(c, pty, &final, error))
      return false;
  }
  if (!settle_locks(pty, error))
    return false;
  if (!pty->has_slaves && pty->peer >= 0) {
    (void)close(pty->peer); /* the master sees it */
    pty->peer = -1;
  }
  return true;
}

bool tty_settle(Restorer *r, GError **error) {
  BackTtys *t = ttys_of(r);
  for (guint i = 0; i < t->ptys->len; i++) {
    BackPty *pty = t->ptys->pdata[i];
    if (pty->fd < 0)
      continue;
    if (pty->master_file ? !settle_pty(r, pty, error) : false)
      return false;
    if (!pty->master_file) {
      (void)close(pty->fd); /* hangs its slaves up */
      pty->fd = -1;
    }
  }
  return true;
}

/* --- sessions --- */

static bool has_group(const Checkpoint *c, guint32 pgid) {
  for (guint i = 0; i < c->tasks->len; i++)
    if (((Task *)c->tasks->pdata[i])->pstree->pgid == pgid)
      return true;
  return false;
}

/* Where the root has to lead the session itself. */
static int terminal_of_root(Restorer *r, const BackTtys *t, pid_t *ret_foreground) {
  const TtyInfoEntry *info = t->job->slave;
  if (ret_foreground)
    *ret_foreground = info && info->pgrp && has_group(restorer_checkpoint(r), info->pgrp) ? (pid_t)info->pgrp : 0;
  return job_terminal(restorer_job(r));
}

int restorer_terminal_of(Restorer *r, pid_t sid, pid_t *ret_foreground) {
  const BackTtys *t = ttys_of(r);
  if (t->job && t->own_session && sid == task_pid(restorer_checkpoint(r)->tasks->pdata[0]))
    return terminal_of_root(r, t, ret_foreground);
  for (guint i = 0; sid && i < t->ptys->len; i++) {
    const BackPty *pty = t->ptys->pdata[i];
    if (pty->peer < 0 || !pty->slave || (pid_t)pty->slave->sid != sid)
      continue;
    if (ret_foreground)
      *ret_foreground = (pid_t)pty->slave->pgrp;
    return pty->peer;
  }
  return -1;
}

/* From here on the group in the foreground is the tree's own, where it was so at the dump; what reads from the terminal
 * in the background would be stopped. */
void restorer_take_terminal(Restorer *r) {
  const BackTtys *t = ttys_of(r);
  const TtyInfoEntry *info = t->job ? t->job->slave : NULL;
  int fd = job_terminal(restorer_job(r));
  sigset_t ttou, before;
  if (!info || fd < 0)
    return;
  (void)sigemptyset(&ttou);
  (void)sigaddset(&ttou, SIGTTOU);
  (void)sigprocmask(SIG_BLOCK, &ttou, &before);
  if (info->termios) {
    struct termios2 final = termios_of(info->termios);
    if (ioctl(fd, TCSETS2, &final) < 0)
      job_log(restorer_job(r), 4, "The terminal does not take the settings of the checkpoint: %s", g_strerror(errno));
  }
  pid_t group = (pid_t)info->pgrp;
  if (group && !t->own_session && has_group(restorer_checkpoint(r), info->pgrp) && ioctl(fd, TIOCSPGRP, &group) < 0)
    job_log(restorer_job(r), 4,
        "Process group %d cannot have the foreground of the terminal (%s): it goes on in the background", (int)group,
        g_strerror(errno));
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
}

void restorer_tell_terminal(Restorer *r) {
  const BackTtys *t = ttys_of(r);
  const GPtrArray *tasks = restorer_checkpoint(r)->tasks;
  for (guint i = 0; t->job && i < tasks->len; i++) {
    ProcStat s;
    pid_t pid = task_pid(tasks->pdata[i]);
    if (proc_stat(pid, &s, NULL) && s.tty_nr && s.tpgid == s.pgid)
      (void)kill(pid, SIGWINCH);
  }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Terminals at the dump.
 *
 * A pseudo terminal whose master is in the tree belongs to it as a whole: settings, window size, locks, unread content
 * (tty-queue.c), session and foreground group. One whose master is outside is the caller's terminal: only with shell-job
 * may the tree be taken from it, and only one such terminal; the restore puts another one in its place. Slaves whose
 * master was closed are hung up for good: of them only the number is left. Everything else (virtual consoles, serial
 * lines) is hardware, and outside.
 *
 * Three kinds of descriptions exist: masters (/dev/ptmx), slaves (/dev/pts/N), and slaves that were opened as /dev/tty. */

#include "external.h"
#include "proc.h"
#include "tty.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define DEV_PTS "/dev/pts"
#define DELETED " (deleted)"

typedef struct Pty {
  guint32 index;
  guint32 master, slave, current; /* file ids of the first of each, 0: none */
  bool hung_up;
  bool elsewhere; /* outside, and not what shell-job stands for */
  dev_t slave_dev;
  bool has_owner;
  mode_t mode;
  uid_t uid;
  gid_t gid;
  TtyContent *content; /* NULL: not looked at */
} Pty;

typedef struct TtyDesc {
  guint32 file_id;
  guint32 index;
  bool master;
} TtyDesc;

typedef struct Ttys {
  GPtrArray *ptys;   /* Pty */
  GArray *descs;     /* TtyDesc */
  TtyContent *contents;
  gsize contents_size;
} Ttys;

int tty_info_which(const TtyInfoEntry *info) {
  if (info->type == TTY_TYPE__CTTY)
    return TTY_INFO_CURRENT;
  if (info->type != TTY_TYPE__PTY)
    return -1;
  return info->rdev == TTY_MASTER_RDEV ? TTY_INFO_MASTER : TTY_INFO_SLAVE;
}

static gpointer ttys_new(void) {
  Ttys *t = g_new0(Ttys, 1);
  t->ptys = g_ptr_array_new_with_free_func(g_free);
  t->descs = g_array_new(FALSE, TRUE, sizeof(TtyDesc));
  return t;
}

static void ttys_free(void *p) {
  Ttys *t = p;
  g_ptr_array_unref(t->ptys);
  g_array_unref(t->descs);
  if (t->contents)
    (void)munmap(t->contents, t->contents_size);
  g_free(t);
}

static Ttys *ttys_of(Collector *c) {
  return collector_state(c, &tty_ops, ttys_new, ttys_free);
}

static Pty *find_pty(const Ttys *t, guint32 index) {
  for (guint i = 0; i < t->ptys->len; i++) {
    Pty *pty = t->ptys->pdata[i];
    if (pty->index == index)
      return pty;
  }
  return NULL;
}

static Pty *get_pty(Ttys *t, guint32 index) {
  Pty *pty = find_pty(t, index);
  if (pty)
    return pty;
  pty = g_new0(Pty, 1);
  pty->index = index;
  g_ptr_array_add(t->ptys, pty);
  return pty;
}

/* --- one description --- */

static bool tty_claims(const FileProbe *probe) {
  unsigned int maj = major(probe->st.st_rdev);
  return S_ISCHR(probe->st.st_mode) && !(probe->flags & O_PATH) && (maj == 4 || maj == 5 || maj == TTY_SLAVE_MAJOR);
}

/* The instance of devpts that a path leads into: a master's is "pts" beside it, or where it is itself. */
static bool is_own_devpts(const FileProbe *probe, bool master) {
  struct stat own, theirs = probe->st;
  if (stat(DEV_PTS, &own) < 0)
    return false;
  if (!master || theirs.st_dev == own.st_dev)
    return theirs.st_dev == own.st_dev;
  g_autofree char *dir = g_path_get_dirname(probe->link);
  g_autofree char *pts = g_build_filename(dir, "pts", NULL);
  return stat(pts, &theirs) == 0 && theirs.st_dev == own.st_dev;
}

static FileEntry *path_entry_new(Collector *c, const FileProbe *probe) {
  FileEntry *file = MESSAGE_NEW(FileEntry, file_entry__init);
  RegFileEntry *reg = MESSAGE_NEW(RegFileEntry, reg_file_entry__init);
  gsize length = strlen(probe->link);
  file->type = FD_TYPES__REG;
  file->id = reg->id = collector_new_file_id(c);
  file->reg = reg;
  reg->flags = (guint32)probe->flags;
  reg->fown = fown_none();
  reg->has_mode = true;
  reg->mode = probe->st.st_mode;
  if (g_str_has_suffix(probe->link, DELETED))
    length -= strlen(DELETED);
  reg->name = g_strndup(probe->link, length);
  return file;
}

static void fill_entry(Collector *c, const FileProbe *probe, FileEntry *entry, guint32 index, int which) {
  FileEntry *file = path_entry_new(c, probe);
  TtyFileEntry *tty = entry->tty = MESSAGE_NEW(TtyFileEntry, tty_file_entry__init);
  tty->id = entry->id;
  tty->tty_info_id = tty_info_id(index, which);
  tty->flags = (guint32)probe->flags;
  tty->fown = collector_fown(probe);
  tty->has_regf_id = true;
  tty->regf_id = file->id;
  checkpoint_add_file(collector_checkpoint(c), file);
  TtyDesc desc = {entry->id, index, which == TTY_INFO_MASTER};
  g_array_append_val(ttys_of(c)->descs, desc);
}

/* Only the terminal itself is asked, never the session of the engine. */
static bool collect_pty(Collector *c, const FileProbe *probe, FileEntry *entry, guint32 index, int which) {
  Pty *pty = get_pty(ttys_of(c), index);
  guint32 *first = which == TTY_INFO_MASTER ? &pty->master : which == TTY_INFO_SLAVE ? &pty->slave : &pty->current;
  if (!*first)
    *first = entry->id;
  if (which == TTY_INFO_SLAVE) {
    pty->has_owner = true;
    pty->slave_dev = probe->st.st_dev;
    pty->mode = probe->st.st_mode & 07777;
    pty->uid = probe->st.st_uid;
    pty->gid = probe->st.st_gid;
  }
  fill_entry(c, probe, entry, index, which);
  return true;
}

static bool collect_slave(Collector *c, const FileProbe *probe, FileEntry *entry, const char *what) {
  unsigned int dev = 0;
  bool current = probe->st.st_rdev == TTY_CURRENT_RDEV;
  int e = ioctl(probe->local, TIOCGDEV, &dev) < 0 ? errno : 0;
  if (e == EIO && !current) { /* all that a hung-up terminal answers */
    get_pty(ttys_of(c), minor(probe->st.st_rdev))->hung_up = true;
    return collect_pty(c, probe, entry, minor(probe->st.st_rdev), TTY_INFO_SLAVE);
  }
  if (e || (current && major(dev) != TTY_SLAVE_MAJOR)) {
    collector_block(c, probe, what, e ? "it is hung up, and does not say which terminal it was"
                                      : "it is no pseudo terminal, but hardware outside of the process",
        "close it before the dump");
    return true;
  }
  return collect_pty(c, probe, entry, minor(dev), current ? TTY_INFO_CURRENT : TTY_INFO_SLAVE);
}

static bool tty_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  bool master = probe->st.st_rdev == TTY_MASTER_RDEV, current = probe->st.st_rdev == TTY_CURRENT_RDEV;
  unsigned int index = 0;
  int discipline = N_TTY;
  g_autofree char *what = g_strdup_printf("terminal %s", probe->link);
  if (!master && !current && major(probe->st.st_rdev) != TTY_SLAVE_MAJOR)
    return collector_block_external(c, EXTERNAL_DEVICE, probe, entry, what,
        "consoles and serial lines are hardware, outside of the process",
        "declare it external, or start the program with its input and output in files (setsid PROGRAM <in >out 2>&1)",
        error);
  if (!current && !is_own_devpts(probe, master)) {
    collector_block(c, probe, what, "it belongs to another instance of devpts than the one at " DEV_PTS,
        "run the engine in the container that the terminal belongs to");
    return true;
  }
  if (ioctl(probe->local, TIOCGETD, &discipline) == 0 && discipline != N_TTY) {
    g_autofree char *reason = g_strdup_printf("it has line discipline %d, which is in use by a driver", discipline);
    collector_block(c, probe, what, reason, "end the connection over it (slip, ppp, …) before the dump");
    return true;
  }
  if (!master)
    return collect_slave(c, probe, entry, what);
  if (ioctl(probe->local, TIOCGPTN, &index) < 0)
    return engine_fail_errno(
        error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot ask fd %d of pid %d for its number", probe->fd, probe->pid);
  return collect_pty(c, probe, entry, index, TTY_INFO_MASTER);
}

/* --- what a terminal says about itself --- */

static TermiosEntry *termios_entry(const struct termios2 *t) {
  TermiosEntry *e = MESSAGE_NEW(TermiosEntry, termios_entry__init);
  e->c_iflag = t->c_iflag;
  e->c_oflag = t->c_oflag;
  e->c_cflag = t->c_cflag;
  e->c_lflag = t->c_lflag;
  e->c_line = t->c_line;
  e->c_ispeed = t->c_ispeed;
  e->c_ospeed = t->c_ospeed;
  e->n_c_cc = NCCS;
  e->c_cc = g_new0(guint32, NCCS); /* four characters in a word, as criu does it; the words after them mean nothing */
  for (int i = 0; i < NCCS; i++)
    e->c_cc[i / 4] |= (guint32)t->c_cc[i] << i % 4 * 8;
  return e;
}

static int ask(int fd, unsigned long request) {
  int value = 0;
  return ioctl(fd, request, &value) < 0 ? 0 : value;
}

static void fill_settings(TtyInfoEntry *info, int fd) {
  struct termios2 t;
  struct winsize w;
  info->exclusive = ask(fd, TIOCGEXCL) != 0;
  if (ioctl(fd, TCGETS2, &t) == 0)
    info->termios = termios_entry(&t);
  if (ioctl(fd, TIOCGLCKTRMIOS, &t) == 0)
    info->termios_locked = termios_entry(&t);
  if (ioctl(fd, TIOCGWINSZ, &w) < 0)
    return;
  WinsizeEntry *e = info->winsize = MESSAGE_NEW(WinsizeEntry, winsize_entry__init);
  e->ws_row = w.ws_row;
  e->ws_col = w.ws_col;
  e->ws_xpixel = w.ws_xpixel;
  e->ws_ypixel = w.ws_ypixel;
}

static TtyInfoEntry *info_new(Collector *c, const Pty *pty, int which) {
  TtyInfoEntry *info = MESSAGE_NEW(TtyInfoEntry, tty_info_entry__init);
  info->id = tty_info_id(pty->index, which);
  info->type = which == TTY_INFO_CURRENT ? TTY_TYPE__CTTY : TTY_TYPE__PTY;
  info->rdev = (guint32)(which == TTY_INFO_CURRENT  ? TTY_CURRENT_RDEV
                         : which == TTY_INFO_MASTER ? TTY_MASTER_RDEV
                                                    : makedev(TTY_SLAVE_MAJOR, pty->index));
  info->pty = MESSAGE_NEW(TtyPtyEntry, tty_pty_entry__init);
  info->pty->index = pty->index;
  int fd = collector_local_of(c, which == TTY_INFO_MASTER ? pty->master : which == TTY_INFO_SLAVE ? pty->slave : pty->current);
  if (!pty->hung_up && fd >= 0)
    fill_settings(info, fd);
  if (which == TTY_INFO_MASTER) {
    info->locked = ask(fd, TIOCGPTLCK) != 0;
    info->packet_mode = ask(fd, TIOCGPKT) != 0;
  }
  if (which == TTY_INFO_SLAVE) {
    info->has_dev = info->has_uid = info->has_gid = true;
    info->dev = (guint32)pty->slave_dev;
    info->uid = pty->uid;
    info->gid = pty->gid;
  }
  checkpoint_add_record(collector_checkpoint(c), RECORD_TTY_INFO, &info->base, NULL);
  return info;
}

/* A master may be asked for the session of its slave by anybody; what is outside is known by the tasks it controls. */
static void find_session(Collector *c, const Pty *pty, pid_t *ret_sid, pid_t *ret_group) {
  *ret_sid = *ret_group = 0;
  if (pty->master) {
    int fd = collector_local_of(c, pty->master);
    *ret_sid = ask(fd, TIOCGSID);
    *ret_group = *ret_sid ? ask(fd, TIOCGPGRP) : 0;
    return;
  }
  const GPtrArray *tasks = collector_checkpoint(c)->tasks;
  for (guint i = 0; i < tasks->len && !pty->hung_up; i++) {
    ProcStat s;
    if (!proc_stat(task_pid(tasks->pdata[i]), &s, NULL) || (dev_t)s.tty_nr != makedev(TTY_SLAVE_MAJOR, pty->index))
      continue;
    *ret_sid = s.sid;
    *ret_group = MAX(s.tpgid, 0);
    return;
  }
}

static void add_data(Checkpoint *checkpoint, guint32 id, const guint8 *bytes, guint32 n) {
  if (!n)
    return;
  TtyDataEntry *d = MESSAGE_NEW(TtyDataEntry, tty_data_entry__init);
  d->tty_id = id;
  d->data.len = n;
  d->data.data = g_memdup2(bytes, n);
  checkpoint_add_record(checkpoint, RECORD_TTY_DATA, &d->base, NULL);
}

static void add_content(Checkpoint *checkpoint, CkptTty *extra, const TtyContent *content) {
  add_data(checkpoint, tty_info_id(extra->index, TTY_INFO_MASTER), content->out, content->n_out);
  add_data(checkpoint, tty_info_id(extra->index, TTY_INFO_SLAVE), content->in, content->n_in);
  extra->has_stopped = content->stopped != TTY_RUNNING;
  extra->stopped = content->stopped;
  extra->has_packet_status = content->status != 0;
  extra->packet_status = content->status;
  extra->has_complete = content->complete || content->n_eof;
  extra->complete = content->complete;
  extra->n_eof = content->n_eof;
  extra->eof = g_memdup2(content->eof, content->n_eof * sizeof *extra->eof);
}

static bool is_closed(Collector *c, const Pty *pty) {
  struct pollfd p = {.fd = collector_local_of(c, pty->master)};
  return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

/* With a master there is always an entry of the slave, too, which has its settings and its input. */
static void add_pty(Collector *c, Pty *pty) {
  Checkpoint *checkpoint = collector_checkpoint(c);
  pid_t sid, group;
  find_session(c, pty, &sid, &group);
  for (int which = 0; which <= TTY_INFO_CURRENT; which++) {
    guint32 file = which == TTY_INFO_MASTER ? pty->master : which == TTY_INFO_SLAVE ? pty->slave : pty->current;
    if (!file && !(which == TTY_INFO_SLAVE && (pty->master || pty->current)))
      continue;
    TtyInfoEntry *info = info_new(c, pty, which);
    info->sid = (guint32)sid;
    info->pgrp = (guint32)group;
    if (!file && !info->termios) /* the slave as its master, or a description of another name, sees it */
      fill_settings(info, collector_local_of(c, pty->master ? pty->master : pty->current));
    if (!file)
      info->exclusive = false;
  }
  CkptTty *extra = MESSAGE_NEW(CkptTty, ckpt_tty__init);
  extra->index = pty->index;
  extra->has_hung_up = extra->hung_up = pty->hung_up;
  if (pty->master && !pty->slave && !pty->current)
    extra->has_slave_closed = extra->slave_closed = is_closed(c, pty);
  extra->has_mode = extra->has_uid = extra->has_gid = pty->has_owner;
  extra->mode = pty->mode;
  extra->uid = pty->uid;
  extra->gid = pty->gid;
  if (pty->content)
    add_content(checkpoint, extra, pty->content);
  g_ptr_array_add(checkpoint->ttys, extra);
  collector_drop_local(c, pty->master);
  collector_drop_local(c, pty->slave);
  collector_drop_local(c, pty->current);
}

/* --- what is outside --- */

static const char shell_job_cure[] = "dump and restore it with shell-job: the terminal of the restore takes its place; or "
                                     "start the program with its input and output in files (setsid PROGRAM <in >out 2>&1)";

static char *find_controlled(const Collector *c, pid_t sid) {
  ProcStat s;
  if (!sid || collector_has_task(c, sid) || !proc_stat(sid, &s, NULL))
    return NULL;
  return g_strdup_printf("pid %d (%s)", (int)sid, s.comm);
}

/* The other end of a master in the tree. @masters: those of the root's ancestors. */
static void check_slave(Collector *c, Pty *pty, GHashTable *masters) {
  FileProbe probe;
  char path[32];
  struct stat st;
  (void)snprintf(path, sizeof path, DEV_PTS "/%u", pty->index);
  if (!pty->has_owner && stat(path, &st) == 0) {
    pty->has_owner = true;
    pty->slave_dev = st.st_dev;
    pty->mode = st.st_mode & 07777;
    pty->uid = st.st_uid;
    pty->gid = st.st_gid;
  }
  pid_t sid, group;
  find_session(c, pty, &sid, &group);
  g_autofree char *who = find_controlled(c, sid);
  if (!who && !pty->slave && !pty->current && !is_closed(c, pty))
    who = find_outside_holder(c, path, 0);
  const char *sharer = who ? NULL : g_hash_table_lookup(masters, GUINT_TO_POINTER(pty->index));
  if (!(who || sharer) || !collector_probe_of(c, pty->master, &probe))
    return;
  g_autofree char *what = g_strdup_printf("terminal %s (master of %s)", probe.link, path);
  g_autofree char *reason = who ? g_strdup_printf("its other end is held by %s, outside the tree", who)
                                : g_strdup_printf("the same end is also held by %s, outside the tree", sharer);
  collector_block(c, &probe, what, reason,
      who ? "end the other process first, or dump from their common parent on"
          : "let the other process open its terminals with O_CLOEXEC (it leaks them into its children), or dump from it on");
}

/* A description of the terminal outside, without shell-job: only somebody else's now. */
static bool offer_slave(Collector *c, const TtyDesc *desc, const char *reason, const char *cure, GError **error) {
  FileProbe probe;
  Checkpoint *checkpoint = collector_checkpoint(c);
  FileEntry *entry = checkpoint_find_file(checkpoint, desc->file_id);
  if (!entry || !collector_probe_of(c, desc->file_id, &probe))
    return true;
  g_autofree char *what = g_strdup_printf("terminal %s", probe.link);
  if (!collector_block_external(c, EXTERNAL_DEVICE, &probe, entry, what, reason, cure, error))
    return false;
  if (entry->type != FD_TYPES__EXT)
    return true;
  tty_file_entry__free_unpacked(entry->tty, NULL);
  entry->tty = NULL;
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const GPtrArray *fds = ((Task *)checkpoint->tasks->pdata[t])->fds;
    for (guint i = 0; i < fds->len; i++)
      if (((FdinfoEntry *)fds->pdata[i])->id == entry->id)
        ((FdinfoEntry *)fds->pdata[i])->type = FD_TYPES__EXT;
  }
  return true;
}

static bool is_outside(const Pty *pty) {
  return !pty->master && !pty->hung_up;
}

/* The one terminal that shell-job may leave behind: the controlling one, or the first. */
static const Pty *find_job_terminal(Collector *c, const Ttys *t) {
  const GPtrArray *tasks = collector_checkpoint(c)->tasks;
  if (!job_options(collector_job(c))->shell_job)
    return NULL;
  for (guint i = 0; i < tasks->len; i++) {
    const CkptTask *x = ((Task *)tasks->pdata[i])->extra;
    const Pty *pty = x && major(x->tty_nr) == TTY_SLAVE_MAJOR ? find_pty(t, minor(x->tty_nr)) : NULL;
    if (pty && is_outside(pty))
      return pty;
  }
  for (guint i = 0; i < t->ptys->len; i++)
    if (is_outside(t->ptys->pdata[i]))
      return t->ptys->pdata[i];
  return NULL;
}

static bool check_outside(Collector *c, Ttys *t, GError **error) {
  g_autoptr(GHashTable) masters = NULL;
  const Pty *job = find_job_terminal(c, t);
  for (guint i = 0; i < t->descs->len; i++) {
    const TtyDesc *desc = &g_array_index(t->descs, TtyDesc, i);
    Pty *pty = find_pty(t, desc->index);
    if (!is_outside(pty) || pty == job)
      continue;
    pty->elsewhere = true;
    masters = masters ? masters : tty_masters_of_everybody(c);
    const char *holder = g_hash_table_lookup(masters, GUINT_TO_POINTER(pty->index));
    g_autofree char *reason = g_strdup_printf("its other end, held by %s, is outside the tree%s",
        holder ? holder : "another process", job ? ", and so is that of another terminal: only one can be replaced" : "");
    if (!offer_slave(c, desc, reason, job ? "close it before the dump" : shell_job_cure, error))
      return false;
  }
  return true;
}

static void block_session(Collector *c, const Task *task, const char *reason, const char *cure) {
  ProcStat s = {.comm = "?"};
  (void)proc_stat(task_pid(task), &s, NULL);
  g_autofree char *name = g_strdup_printf("pid %d (%s)", (int)task_pid(task), s.comm);
  job_block(collector_job(c), "task", task_pid(task), -1, name, reason, cure);
}

static void check_session_of(Collector *c, const Ttys *t, const Task *task) {
  guint32 dev = task->extra ? task->extra->tty_nr : 0;
  const Pty *pty = major(dev) == TTY_SLAVE_MAJOR ? find_pty(t, minor(dev)) : NULL;
  bool leader_inside = checkpoint_find_task(collector_checkpoint(c), (pid_t)task->pstree->sid) != NULL;
  if (!dev || (pty && pty->master && leader_inside))
    return;
  g_autofree char *name = major(dev) == TTY_SLAVE_MAJOR ? g_strdup_printf(DEV_PTS "/%u", minor(dev))
                                                        : g_strdup_printf("%u:%u", major(dev), minor(dev));
  g_autofree char *reason = g_strdup_printf("its session has a controlling terminal (%s) outside the tree", name);
  if (!job_options(collector_job(c))->shell_job)
    block_session(c, task, reason, shell_job_cure);
  else if (leader_inside && (pid_t)task->pstree->sid == task_pid(task))
    block_session(c, task, reason, "it leads this session: dump from the process on that holds the terminal's other end, or "
                                   "run the program as a job of that shell and dump only the job with shell-job");
}

/* --- the whole --- */

static bool fail_look(const Pty *pty, int e, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e, "Cannot read the queues of terminal " DEV_PTS "/%u", pty->index);
}

static bool look_at_contents(Ttys *t, Collector *c, GError **error) {
  g_autoptr(GPtrArray) chosen = g_ptr_array_new();
  g_autoptr(GArray) masters = g_array_new(FALSE, FALSE, sizeof(int));
  for (guint i = 0; i < t->ptys->len; i++) {
    Pty *pty = t->ptys->pdata[i];
    if (!pty->master || !(pty->slave || pty->current || is_closed(c, pty)))
      continue;
    int fd = collector_local_of(c, pty->master);
    g_ptr_array_add(chosen, pty);
    g_array_append_val(masters, fd);
  }
  if (!chosen->len)
    return true;
  t->contents_size = chosen->len * sizeof(TtyContent);
  void *contents = mmap(NULL, t->contents_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (contents == MAP_FAILED)
    return fail_look(chosen->pdata[0], errno, error);
  t->contents = contents;
  int e = tty_contents_look((const int *)(const void *)masters->data, chosen->len, t->contents);
  if (e < 0)
    return fail_look(chosen->pdata[0], e, error);
  for (guint i = 0; i < chosen->len; i++) {
    Pty *pty = chosen->pdata[i];
    pty->content = &t->contents[i];
    if (pty->content->error)
      return fail_look(pty, pty->content->error, error);
  }
  return true;
}

static bool tty_collect_finish(Collector *c, GError **error) {
  Ttys *t = ttys_of(c);
  const GPtrArray *tasks = collector_checkpoint(c)->tasks;
  g_autoptr(GHashTable) masters = NULL;
  for (guint i = 0; i < t->ptys->len; i++) {
    if (!((Pty *)t->ptys->pdata[i])->master)
      continue;
    masters = masters ? masters : tty_masters_of_ancestors(c);
    check_slave(c, t->ptys->pdata[i], masters);
  }
  if (!check_outside(c, t, error))
    return false;
  for (guint i = 0; i < tasks->len; i++)
    check_session_of(c, t, tasks->pdata[i]);
  /* What is going to fail, or only to be explained, is left alone. */
  bool dumps = collector_images_fd(c) >= 0 && !job_n_findings(collector_job(c));
  if (dumps && !look_at_contents(t, c, error))
    return false;
  for (guint i = 0; dumps && i < t->ptys->len; i++)
    if (!((Pty *)t->ptys->pdata[i])->elsewhere)
      add_pty(c, t->ptys->pdata[i]);
  return true;
}

static const FownEntry *tty_fown(const FileEntry *entry) {
  return entry->tty ? entry->tty->fown : NULL;
}

const ObjectOps tty_ops = {
    .name = "terminal",
    .type = FD_TYPES__TTY,
    .claims = tty_claims,
    .collect = tty_collect,
    .collect_finish = tty_collect_finish,
    .open = tty_open,
    .fown = tty_fown,
};

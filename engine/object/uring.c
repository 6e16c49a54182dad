/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* io_uring(7). A ring is memory that a program and the kernel share, and two counters that the kernel keeps for itself: of
 * requests it has taken and of completions it has made. A new ring begins at zero, so at the restore as many requests are
 * made to do nothing until both are what they were, and the memory is filled then. What waits is made again (uring-flight.c).
 *
 * How a ring was set up is asked by calls that must fail in one way or another. What makes no difference that anybody can
 * see (IORING_SETUP_COOP_TASKRUN) is left out; what only adds something (SUBMIT_ALL, TASKRUN_FLAG) is always set. */

#include "internal.h"
#include "proc.h"
#include "uring-look.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>

#define N_INDEXES 16
#define N_GROUPS 64 /* of provided buffers that are asked for */
#define RESTRICTED (-EACCES)
#define END_PATIENCE_USEC (300 * 1000)

typedef struct Ring {
  guint64 ino;
  CkptUring *u; /* borrowed */
  UringMap map; /* kept if requests in flight may take something until the end */
  int *files;   /* those that its requests wait for, of ours, -1: none; NULL before the seal */
  size_t n_files;
} Ring;

/* All rings of a collection. */
typedef struct Rings {
  GArray *rings; /* Ring */
  UringReader *reader;
  bool opened; /* the reader, or it was tried */
} Rings;

static gpointer rings_new(void) {
  Rings *all = g_new0(Rings, 1);
  all->rings = g_array_new(FALSE, TRUE, sizeof(Ring));
  return all;
}

static void ring_clear(Ring *ring) {
  uring_unmap(&ring->map);
  for (size_t k = 0; ring->files && k < ring->n_files; k++)
    if (ring->files[k] >= 0)
      (void)close(ring->files[k]);
  g_clear_pointer(&ring->files, g_free);
}

static void rings_free(gpointer data) {
  Rings *all = data;
  for (guint i = 0; i < all->rings->len; i++)
    ring_clear(&g_array_index(all->rings, Ring, i));
  g_array_unref(all->rings);
  uring_reader_free(all->reader);
  g_free(all);
}

static Rings *state_of(Collector *c) {
  return collector_state(c, &uring_ops, rings_new, rings_free);
}

static GArray *rings_of(Collector *c) {
  return state_of(c)->rings;
}

/* Only dumps of trees with rings pay for it. */
static UringReader *reader_of(Collector *c) {
  Rings *all = state_of(c);
  if (!all->opened)
    all->reader = uring_reader_new();
  all->opened = true;
  return all->reader;
}

guint32 collector_uring_of(Collector *c, guint64 ino) {
  const GArray *rings = rings_of(c);
  for (guint i = 0; i < rings->len; i++)
    if (g_array_index(rings, Ring, i).ino == ino)
      return g_array_index(rings, Ring, i).u->file_id;
  return 0;
}

static bool uring_claims(const FileProbe *probe) {
  return probe_is_anon(probe, "io_uring");
}

static bool uring_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  entry->type = FD_TYPES__EXT;
  entry->ext = MESSAGE_NEW(ExtFileEntry, ext_file_entry__init);
  entry->ext->id = entry->id;
  entry->ext->fown = collector_fown(probe);
  CkptUring *u = MESSAGE_NEW(CkptUring, ckpt_uring__init);
  u->file_id = entry->id;
  g_ptr_array_add(collector_checkpoint(c)->urings, u);
  Ring ring = {.ino = probe->st.st_ino, .u = u};
  g_array_append_val(rings_of(c), ring);
  return true;
}

/* --- what the kernel shows --- */

/* How many lines with @prefix follow the line that @from, which begins with a line's end, is the start of. */
static guint count_lines(const char *text, const char *from, const char *prefix) {
  guint n = 0;
  const char *p = strstr(text, from);
  for (p = p ? strchr(p + 1, '\n') : NULL; p && g_str_has_prefix(p + 1, prefix); p = strchr(p + 1, '\n'))
    n++;
  return n;
}

static bool read_facts(const char *text, UringFacts *ret) {
  UringFacts f = {.sq_thread = -1};
  const char *thread = fdinfo_value(text, "SqThread"), *poll = strstr(text, "\nPollList:\n  op=");
  if (!fdinfo_number(text, "SqMask", 16, &f.sq_mask) || !fdinfo_number(text, "SqHead", 10, &f.sq_head) ||
      !fdinfo_number(text, "CachedSqHead", 10, &f.cached_sq_head) || !fdinfo_number(text, "SqTail", 10, &f.sq_tail) ||
      !fdinfo_number(text, "CqMask", 16, &f.cq_mask) || !fdinfo_number(text, "CqHead", 10, &f.cq_head) ||
      !fdinfo_number(text, "CachedCqTail", 10, &f.cached_cq_tail))
    return false;
  if (thread)
    f.sq_thread = g_ascii_strtoll(thread, NULL, 10);
  f.n_polls = count_lines(text, "\nPollList:", "  op=");
  f.n_overflow = count_lines(text, "\nCqOverflowList:", "  user_data=");
  f.poll_op = poll ? (guint)atoi(poll + strlen("\nPollList:\n  op=")) : 0;
  f.personalities = strstr(text, "\nPersonalities:") != NULL;
  *ret = f;
  return true;
}

static bool look(const FileProbe *probe, UringFacts *ret, char **ret_text, GError **error) {
  g_autofree char *text = file_probe_fdinfo(probe, error);
  if (!text)
    return false;
  if (!read_facts(text, ret))
    return engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "The kernel does not show the state of an io_uring");
  if (ret_text)
    *ret_text = g_steal_pointer(&text);
  return true;
}

/* --- asking --- */

static gint64 ask_call(const Look *l, pid_t pid, pid_t tid, long nr, const gint64 args[static 6], void *data, size_t size) {
  g_autoptr(Program) p = program_new();
  size_t at = program_data(p, data, size ? size : 8);
  Arg a[6];
  gint64 result = -ESRCH;
  for (int i = 0; i < 6; i++)
    a[i] = args[i] == G_MAXINT64 ? ARG_DATA(at) : ARG(args[i]);
  (void)program_add(p, "io_uring", nr, a, 6);
  program_expect(p, EXPECT_ANY, 0);
  if (!collector_ask(l->c, pid, tid, p, &result, data, size, NULL))
    return -ESRCH;
  return result;
}

#define HERE G_MAXINT64 /* the address of the data */

static gint64 ask_register(const Look *l, pid_t tid, guint opcode, void *data, size_t size, guint n) {
  return ask_call(l, l->pid, tid, SYS_io_uring_register,
      (gint64[6]){l->probe.fd, opcode, data ? HERE : 0, n}, data, size);
}

static gint64 ask_enter(const Look *l, guint wait, gint64 signals, gint64 signals_size) {
  return ask_call(l, l->pid, l->tid, SYS_io_uring_enter,
      (gint64[6]){l->probe.fd, 0, wait, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, signals, signals_size}, NULL, 0);
}

static void block(const Look *l, const char *reason, const char *cure) {
  collector_block(l->c, &l->probe, "io_uring", reason, cure);
}

void uring_look_block(const Look *l, const char *reason, const char *cure) {
  block(l, reason, cure);
}

gint64 uring_look_enter(const Look *l) {
  return ask_enter(l, 0, 0, 0);
}

bool uring_look_again(Look *l, GError **error) {
  g_clear_pointer(&l->text, g_free);
  uring_inside_clear(&l->in);
  l->has_inside = l->reader && uring_inside_read(l->reader, l->probe.local, &l->in);
  return look(&l->probe, &l->facts, &l->text, error);
}

/* Of rings that belong to one thread only that one may ask. */
static bool find_owner(Look *l) {
  l->tid = l->pid;
  int e = uring_register(l->probe.local, IORING_REGISTER_RESTRICTIONS, NULL, 0);
  if (e == -EEXIST)
    l->u->flags |= URING_SINGLE_ISSUER;
  for (guint k = 0; e == -EEXIST && k < l->task->threads->len; k++) {
    l->tid = ((Thread *)l->task->threads->pdata[k])->tid;
    e = (int)ask_register(l, l->tid, IORING_REGISTER_RESTRICTIONS, NULL, 0, 0);
  }
  l->u->owner = (guint32)l->tid;
  if (e == -EBADFD)
    return true;
  block(l,
      e == RESTRICTED || e == -EBUSY ? "its requests are restricted, and the kernel does not tell to which"
      : e == -EINVAL                 ? "it is not enabled yet, and cannot be looked into"
      : e == -EEXIST                 ? "the thread that it belongs to has ended, or is in another process"
                                     : "it does not answer",
      "let the program close it before the dump");
  return false;
}

static void find_cpu(const Look *l) {
  CkptUring *u = l->u;
  cpu_set_t cpus;
  u->flags |= IORING_SETUP_SQPOLL;
  if (!l->sq_tid || sched_getaffinity(l->sq_tid, sizeof cpus, &cpus) < 0 || CPU_COUNT(&cpus) != 1)
    return;
  for (guint32 i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &cpus))
      u->cpu = i;
  u->flags |= IORING_SETUP_SQ_AFF;
  u->has_cpu = true;
}

static void find_flags(Look *l) {
  CkptUring *u = l->u;
  if (uring_enter(l->probe.local, 0, 0, IORING_ENTER_GETEVENTS) == -EEXIST)
    u->flags |= URING_DEFER_TASKRUN;
  /* A signal set of a wrong size is an error, but not to those that poll devices instead of waiting. */
  bool full = (guint32)(l->facts.cached_cq_tail - l->facts.cq_head) > l->facts.cq_mask;
  if (!full && ask_enter(l, u->cq_entries, HERE, 1) == 0)
    u->flags |= IORING_SETUP_IOPOLL;
  if (l->facts.sq_thread < 0)
    return;
  find_cpu(l);
}

static bool any_bytes(const unsigned char *p, size_t from, size_t end) {
  for (size_t i = from; i < end; i++)
    if (p[i])
      return true;
  return false;
}

/* Larger entries need more pages, or were written where smaller ones are not. */
static void find_sizes(Look *l) {
  UringMap *m = &l->map;
  if (l->has_inside) {
    l->u->flags |= l->in.setup_flags & (guint32)(IORING_SETUP_SQE128 | IORING_SETUP_CQE32);
    return;
  }
  size_t sqes = (size_t)l->u->sq_entries * 64, array_end = m->p.sq_off.array + (size_t)l->u->sq_entries * 4;
  if (m->sqes_size - sqes >= 4096 || any_bytes(m->sqes, sqes, m->sqes_size))
    l->u->flags |= IORING_SETUP_SQE128;
  size_t small = (array_end + 4095) & ~(size_t)4095;
  if (m->rings_size > small || (array_end < m->rings_size && any_bytes(m->rings, array_end, m->rings_size)))
    l->u->flags |= IORING_SETUP_CQE32;
}

/* Once its entries are known: where things are in such a ring. */
static void find_offsets(Look *l) {
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE | (l->u->flags & (guint32)(IORING_SETUP_SQE128 | IORING_SETUP_CQE32)),
      .cq_entries = l->u->cq_entries};
  int like = uring_setup(l->u->sq_entries, &p);
  if (like < 0)
    return;
  (void)close(like);
  l->map.p = p;
}

/* --- registrations --- */

static bool check_counters(const Look *l) {
  if ((guint32)l->facts.cached_sq_head <= URING_REQUESTS_MAX && (guint32)l->facts.cached_cq_tail <= URING_REQUESTS_MAX)
    return true;
  g_autofree char *reason = g_strdup_printf("it has taken %u requests and made %u completions; more than %u cannot be made again in a bearable time",
      (guint32)l->facts.cached_sq_head, (guint32)l->facts.cached_cq_tail, URING_REQUESTS_MAX);
  block(l, reason, "let the program close it and make a new one");
  return false;
}

static bool check_restricted(const Look *l) {
  if (l->facts.personalities || (l->has_inside && l->in.personalities)) {
    block(l, "it has credentials registered (IORING_REGISTER_PERSONALITY)", "let the program unregister them before the dump");
    return false;
  }
  if (!l->has_inside || !(l->in.setup_flags & ~(guint32)(URING_KNOWN_FLAGS | URING_HINT_FLAGS)))
    return true;
  g_autofree char *reason = g_strdup_printf("it was made with flags that this version does not know (0x%x)", l->in.setup_flags);
  block(l, reason, "let the program do without them");
  return false;
}

/* The files of eventfds that two descriptions are of are different ones, what is behind them is the same. */
static bool save_eventfd(const Look *l) {
  if (l->in.eventfd && l->facts.sq_thread >= 0) {
    block(l, "it has an eventfd registered, and a submitting thread (IORING_SETUP_SQPOLL)", "let the program unregister it before the dump");
    return false;
  }
  for (guint i = 0; l->in.eventfd && i < l->task->fds->len; i++) {
    const FdinfoEntry *e = l->task->fds->pdata[i];
    if (e->type != FD_TYPES__EVENTFD ||
        uring_reader_private(l->reader, uring_reader_file(l->reader, collector_local_of(l->c, e->id))) != l->in.eventfd)
      continue;
    l->u->has_eventfd = true, l->u->eventfd = e->fd;
    l->u->has_eventfd_async = true, l->u->eventfd_async = l->in.eventfd_async;
    return true;
  }
  if (l->in.eventfd)
    block(l, "it has an eventfd registered that its process has not open", "let the program unregister it before the dump");
  return !l->in.eventfd;
}

/* Where the kernel cannot be read, it can be asked whether there is one. */
static bool check_groups(const Look *l) {
  struct {
    guint64 address;
    guint32 entries;
    guint16 group, flags;
    guint64 reserved[3];
  } buffers = {.address = 4096, .entries = 2};
  for (guint16 group = 0; group < N_GROUPS; group++) {
    buffers.group = group;
    if (ask_register(l, l->tid, 22 /* PBUF_RING */, &buffers, sizeof buffers, 1) != -EEXIST)
      continue;
    block(l, "it has buffers to choose from (IORING_REGISTER_PBUF_RING), and the kernel does not tell where",
        "let the program unregister them before the dump");
    return false;
  }
  return true;
}

static bool check_hidden(const Look *l) {
  if (ask_register(l, l->tid, IORING_REGISTER_EVENTFD, NULL, 0, 1) != -EBUSY)
    return check_groups(l);
  block(l, "it has an eventfd registered, and the kernel does not tell which", "let the program unregister it before the dump");
  return false;
}

static bool check_registrations(const Look *l) {
  if (!check_restricted(l))
    return false;
  if (!l->has_inside)
    return check_hidden(l);
  return save_eventfd(l) && (l->in.groups || check_groups(l)) && uring_save_groups(l);
}

static bool read_workers(Look *l) {
  guint32 limits[2] = {0, 0};
  if (ask_register(l, l->tid, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, sizeof limits, 2) < 0)
    return false;
  l->u->has_bounded = l->u->has_unbounded = true;
  l->u->bounded = limits[0], l->u->unbounded = limits[1];
  return true;
}

static void add_index(CkptUring *u, pid_t tid, guint32 index) {
  CkptUringIndex *x = MESSAGE_NEW(CkptUringIndex, ckpt_uring_index__init);
  x->tid = (guint32)tid, x->index = index;
  u->registered = g_renew(CkptUringIndex *, u->registered, u->n_registered + 1);
  u->registered[u->n_registered++] = x;
}

static guint rings_in(Collector *c, const Task *task) {
  g_autoptr(GHashTable) ids = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->type == FD_TYPES__EXT && checkpoint_find_uring(collector_checkpoint(c), e->id))
      g_hash_table_add(ids, GUINT_TO_POINTER(e->id));
  }
  return g_hash_table_size(ids);
}

/* Threads may have given rings numbers of their own. */
static bool find_indexes(const Look *l) {
  for (guint k = 0; k < l->task->threads->len; k++) {
    pid_t tid = ((Thread *)l->task->threads->pdata[k])->tid;
    for (guint32 i = 0; i < N_INDEXES; i++) {
      gint64 e = ask_call(l, l->pid, tid, SYS_io_uring_enter, (gint64[6]){i, 0, 0, URING_REGISTERED_RING}, NULL, 0);
      if (e == -EINVAL)
        break; /* has used no ring */
      if (e == 0)
        add_index(l->u, tid, i);
    }
  }
  if (!l->u->n_registered || rings_in(l->c, l->task) == 1)
    return true;
  block(l, "its process has several rings and has registered their descriptors (IORING_REGISTER_RING_FDS): the kernel does not tell which is which",
      "let the program unregister them before the dump");
  return false;
}

/* A descriptor of the task whose file has this name; -1: none, -2: several files. */
static int find_named(const Task *task, pid_t pid, const char *name) {
  guint32 id = 0;
  int fd = -1;
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    char path[64], link[PATH_MAX];
    (void)snprintf(path, sizeof path, "/proc/%d/fd/%u", (int)pid, e->fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 0 || (id && e->id == id))
      continue;
    link[n] = '\0';
    const char *base = strrchr(link, '/'); /* older kernels show nothing more */
    if (strcmp(link, name) != 0 && !(base && strcmp(base + 1, name) == 0))
      continue;
    if (id)
      return -2;
    id = e->id;
    fd = (int)e->fd;
  }
  return fd;
}

static bool add_file(const Look *l, guint32 index, const char *name) {
  int fd = l->in.files ? index < l->in.n_files ? uring_find_fd(l, l->task, l->in.files[index]) : -1 : find_named(l->task, l->pid, name);
  if (fd < 0) {
    g_autofree char *reason = g_strdup_printf("its registered file %u (%s) is %s", index, name,
        fd == -1 ? "open there only" : "one of several open files of that name, and the kernel does not tell which");
    block(l, reason, "let the program unregister its files before the dump");
    return false;
  }
  CkptUringFile *f = MESSAGE_NEW(CkptUringFile, ckpt_uring_file__init);
  f->index = index, f->fd = (guint32)fd;
  l->u->file = g_renew(CkptUringFile *, l->u->file, l->u->n_file + 1);
  l->u->file[l->u->n_file++] = f;
  return true;
}

static void add_buffer(CkptUring *u, guint32 index, guint64 address, guint64 size) {
  CkptUringBuffer *b = MESSAGE_NEW(CkptUringBuffer, ckpt_uring_buffer__init);
  b->index = index, b->address = address, b->size = size;
  u->buffer = g_renew(CkptUringBuffer *, u->buffer, u->n_buffer + 1);
  u->buffer[u->n_buffer++] = b;
}

static bool read_registered(const Look *l) {
  guint64 n_files = 0, n_buffers = 0, index;
  (void)fdinfo_number(l->text, "UserFiles", 10, &n_files);
  (void)fdinfo_number(l->text, "UserBufs", 10, &n_buffers);
  l->u->has_n_files = n_files > 0, l->u->n_files = (guint32)n_files;
  l->u->has_n_buffers = n_buffers > 0, l->u->n_buffers = (guint32)n_buffers;
  const char *line = strstr(l->text, "\nUserFiles:");
  for (line = line ? strchr(line + 1, '\n') : NULL; line && line[1] == ' '; line = strchr(line + 1, '\n')) {
    char name[PATH_MAX]; /* some kernels leave the empty ones out */
    if (sscanf(line, " %" G_GUINT64_FORMAT ": %4095[^\n]", &index, name) == 2 && index < n_files && strcmp(name, "<none>") != 0 &&
        !add_file(l, (guint32)index, name))
      return false;
  }
  line = strstr(l->text, "\nUserBufs:");
  for (line = line ? strchr(line + 1, '\n') : NULL; line && line[1] == ' '; line = strchr(line + 1, '\n')) {
    guint64 address, size;
    if (sscanf(line, " %" G_GUINT64_FORMAT ": 0x%" G_GINT64_MODIFIER "x/%" G_GUINT64_FORMAT, &index, &address, &size) == 3 &&
        index < n_buffers && address)
      add_buffer(l->u, (guint32)index, address, size);
  }
  return true;
}

/* --- a ring --- */

static bool map_ring(Look *l) {
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = l->u->cq_entries};
  int like = uring_setup(l->u->sq_entries, &p); /* tells where things are */
  if (like >= 0)
    (void)close(like);
  int e = like < 0 ? like : uring_map(l->probe.local, &p, &l->map);
  if (e == 0)
    return true;
  bool own = e == -EINVAL || e == -ENOMEM; /* the latter from newer kernels: nowhere is a place for it */
  block(l, own ? "its memory is the program's own (IORING_SETUP_NO_MMAP), and the kernel does not tell where" : "it cannot be mapped",
      "let the program close it before the dump");
  return false;
}

static bool save_counters(const Look *l) {
  CkptUring *u = l->u;
  u->sq_head = (guint32)l->facts.cached_sq_head;
  u->sq_tail = (guint32)l->facts.sq_tail;
  u->cq_head = (guint32)l->facts.cq_head;
  u->cq_tail = (guint32)l->facts.cached_cq_tail;
  return check_counters(l);
}

static void save(const Look *l) {
  CkptUring *u = l->u;
  u->array_at = (guint32)MIN(l->map.p.sq_off.array, l->map.rings_size);
  u->has_cqes_at = l->map.p.cq_off.cqes != URING_CQES_AT, u->cqes_at = l->map.p.cq_off.cqes;
  u->rings.len = l->map.rings_size;
  u->rings.data = g_memdup2(l->map.rings, l->map.rings_size);
  u->sqes.len = l->map.sqes_size;
  u->sqes.data = g_memdup2(l->map.sqes, l->map.sqes_size);
}

/* A submitting thread belongs to one process, and serves one ring as far as we can make it. */
static bool check_thread(const Look *l) {
  const Checkpoint *checkpoint = collector_checkpoint(l->c);
  guint n = 0, threads = 0;
  if (l->facts.sq_thread < 0)
    return true;
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    guint before = n;
    for (guint i = 0; n == before && !checkpoint_repeats_fds(checkpoint, task) && i < task->fds->len; i++)
      n += ((FdinfoEntry *)task->fds->pdata[i])->id == l->u->file_id;
  }
  for (size_t i = 0; i < l->u->n_registered; i++)
    n += l->u->registered[i]->tid != l->u->owner;
  const GArray *rings = rings_of(l->c);
  for (guint i = 0; i < rings->len; i++) {
    FileProbe probe;
    UringFacts facts;
    if (collector_probe_of(l->c, g_array_index(rings, Ring, i).u->file_id, &probe) && look(&probe, &facts, NULL, NULL))
      threads += facts.sq_thread == l->facts.sq_thread;
  }
  if (n == 1 && threads == 1 && l->tid == l->pid && l->sq_tid)
    return true;
  block(l, "its submitting thread (IORING_SETUP_SQPOLL) serves several processes, threads or rings", "let the program close it before the dump");
  return false;
}

static int compare_tids(const void *a, const void *b) {
  return *(const pid_t *)a - *(const pid_t *)b;
}

static bool is_submitter(pid_t pid, pid_t tid) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/comm", (int)tid);
  g_autofree char *comm = proc_is_kernel_worker(pid, tid) ? proc_read(pid, name, NULL, NULL) : NULL;
  return comm && g_str_has_prefix(comm, "iou-sqp-");
}

/* How many rings of its process there are with such threads, and how many of their numbers are below its own. */
static guint count_submitters(const Look *l, guint *ret_below) {
  const GArray *rings = rings_of(l->c);
  guint n = 0;
  *ret_below = 0;
  for (guint i = 0; i < rings->len; i++) {
    FileProbe probe;
    UringFacts facts;
    if (!collector_probe_of(l->c, g_array_index(rings, Ring, i).u->file_id, &probe) || probe.pid != l->probe.pid ||
        !look(&probe, &facts, NULL, NULL) || facts.sq_thread < 0)
      continue;
    n++;
    *ret_below += facts.sq_thread < l->facts.sq_thread;
  }
  return n;
}

/* Where we are in a pid namespace, its number is another one there; the order is the same. */
static pid_t find_submitter(const Look *l) {
  g_autoptr(GArray) tids = g_array_new(FALSE, FALSE, sizeof(pid_t));
  guint below, n;
  if (l->facts.sq_thread < 0 || is_submitter(l->pid, (pid_t)l->facts.sq_thread) || !proc_threads(l->pid, tids, NULL))
    return MAX((pid_t)l->facts.sq_thread, 0);
  for (guint k = tids->len; k-- > 0;)
    if (!is_submitter(l->pid, g_array_index(tids, pid_t, k)))
      g_array_remove_index(tids, k);
  g_array_sort(tids, compare_tids);
  n = count_submitters(l, &below);
  return n == tids->len && below < n ? g_array_index(tids, pid_t, below) : 0;
}

static bool look_into(Look *l, GError **error) {
  if (!look(&l->probe, &l->facts, NULL, error))
    return false;
  l->sq_tid = find_submitter(l);
  l->u->sq_entries = (guint32)l->facts.sq_mask + 1;
  l->u->cq_entries = (guint32)l->facts.cq_mask + 1;
  if (!map_ring(l) || !find_owner(l))
    return true;
  if (!uring_settle(l, error))
    return false;
  if (!uring_is_settled(l)) {
    uring_block_in_flight(l);
    return true;
  }
  find_flags(l);
  find_sizes(l);
  find_offsets(l);
  if (save_counters(l) && uring_save_requests(l) && check_registrations(l) && read_workers(l) && find_indexes(l) && check_thread(l) && read_registered(l))
    save(l);
  return true;
}

static bool uring_collect_finish(Collector *c, GError **error) {
  const GArray *rings = rings_of(c);
  for (guint i = 0; i < rings->len; i++) {
    Ring *ring = &g_array_index(rings, Ring, i);
    Look l = {.c = c, .u = ring->u, .reader = reader_of(c)};
    if (!collector_probe_of(c, l.u->file_id, &l.probe))
      continue;
    l.pid = l.probe.pid;
    l.task = checkpoint_find_task(collector_checkpoint(c), l.pid);
    bool ok = look_into(&l, error);
    uring_inside_clear(&l.in);
    ring->map = l.map;
    if (!ring->u->n_request)
      uring_unmap(&ring->map);
    g_free(l.text);
    if (!ok || !job_poll(collector_job(c), error))
      return false;
  }
  return true;
}

static void hold_files(Collector *c, Ring *ring) {
  ring->n_files = ring->u->n_request;
  ring->files = g_new(int, ring->n_files);
  for (size_t k = 0; k < ring->u->n_request; k++) {
    int local = uring_request_local(c, ring->u->request[k]);
    ring->files[k] = local < 0 ? -1 : fcntl(local, F_DUPFD_CLOEXEC, 0);
  }
}

/* Everything else is saved by now. What has arrived meanwhile from outside, and was taken by a request, would be lost. */
static bool uring_seal(Collector *c, bool kill, GError **error) {
  const GArray *rings = rings_of(c);
  for (guint i = 0; i < rings->len; i++) {
    Ring *ring = &g_array_index(rings, Ring, i);
    FileProbe probe;
    UringFacts facts;
    if (!ring->map.rings || !collector_probe_of(c, ring->u->file_id, &probe))
      continue;
    if (!look(&probe, &facts, NULL, error))
      return false;
    if (facts.n_overflow || uring_has_moved(ring->u, &ring->map, (guint32)facts.cached_cq_tail))
      return engine_fail(error, ENGINE_ERROR_CODE__BUSY, "pid %d fd %d: a request of its io_uring was served during the dump; try again",
          (int)probe.pid, probe.fd);
    if (kill && !ring->files)
      hold_files(c, ring);
  }
  return true;
}

/* Requests of a ring end a moment after its last descriptor is closed, at work of the kernel's own, and let go of their files then.
 * Whoever restores at once wants the addresses of sockets free. */
static void uring_end(Collector *c, bool killed) {
  const GArray *rings = rings_of(c);
  gint64 until = g_get_monotonic_time() + END_PATIENCE_USEC;
  for (guint i = 0; killed && i < rings->len; i++) {
    Ring *ring = &g_array_index(rings, Ring, i);
    const size_t n = ring->files ? ring->n_files : 0;
    g_autofree gint64 *before = g_new0(gint64, n + 1);
    for (size_t k = 0; k < n; k++)
      before[k] = uring_reader_is_ours(reader_of(c), ring->files[k]) ? 0 : uring_reader_refs(reader_of(c), ring->files[k]);
    uring_unmap(&ring->map);
    if (n)
      collector_drop_local(c, ring->u->file_id);
    for (size_t k = 0; k < n; k++)
      while (before[k] > 0 && g_get_monotonic_time() < until && uring_reader_refs(reader_of(c), ring->files[k]) >= before[k])
        g_usleep(500);
    ring_clear(ring);
  }
}

static const FownEntry *uring_fown(const FileEntry *entry) {
  return entry->ext ? entry->ext->fown : NULL;
}

const ObjectOps uring_ops = {
    .name = "io_uring",
    .type = FD_TYPES__UND, /* found by its record: object_of_entry() */
    .claims = uring_claims,
    .collect = uring_collect,
    .collect_finish = uring_collect_finish,
    .seal = uring_seal,
    .end = uring_end,
    .open = uring_open,
    .fown = uring_fown,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The collector: every descriptor of every task, each open file description once.
 *
 * The kernel does not say which descriptors share a description; kcmp(2) compares two, and orders them. So descriptions
 * that look alike (same inode, flags and position) form a group, kept in kcmp's order: a search in it costs log n
 * comparisons. Before it, one F_DUPFD_QUERY against the member matched last catches what dup() and fork() leave behind.
 * Sockets need none of it: an inode of sockfs has one description only.
 *
 * A duplicate in the engine is closed right after its description was collected, unless a kind asks for it: the engine
 * may not have as many descriptors as the tree. That also keeps the numbers low and their /proc entries in the dentry
 * cache, which makes readlink three times as fast. */

#include "external.h"
#include "scout.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY (1024 + 3)
#endif

/* What descriptors of one description have in common. */
#define OWN_SHMIDS (1ull << 31) /* below: ids of System V segments */

typedef struct DescKey {
  guint64 dev, ino, pos;
  guint32 flags;
} DescKey;

typedef struct Desc {
  FileHolder holder; /* the first one */
  const char *comm;
  int pidfd;
  guint n_holders;
  guint32 net_id; /* of a socket, where the tree has namespaces of its own; else 0 */
  int kept; /* a duplicate that stays open, or -1 */
  char *kept_link;
  FdTypes type;
  const ObjectOps *ops;
  pid_t carrier; /* in flight: the holder is this process, and it stays open */
  int carrier_fd;
} Desc;

typedef struct DescGroup {
  DescKey key;
  Desc *last;     /* matched last */
  int last_local; /* an open duplicate of it, or -1 */
  Desc **members; /* in the order of kcmp; most groups have one */
  guint n, room;
  Desc *only;
} DescGroup;

typedef struct InodeKey {
  guint64 dev, ino;
} InodeKey;

typedef struct VisitedTask {
  char *comm;
  Task *task;
} VisitedTask;

typedef struct KindState {
  gpointer state;
  GDestroyNotify destroy;
} KindState;

struct Collector {
  Job *job;
  Checkpoint *checkpoint;
  int images_fd;
  Looker *looker;
  const NsSet *namespaces; /* may be NULL */
  guint32 last_ghost_id;
  guint64 last_shmid;
  GPtrArray *descs;      /* [file id - 1]: Desc, or NULL for a file nobody has open */
  GHashTable *groups;    /* DescKey -> DescGroup */
  GHashTable *paths;     /* PathKey -> char*, checked paths of inodes that have one name only */
  GHashTable *named;     /* "dev:ino:flags:path" -> file id, of collector_add_path() */
  GHashTable *tasks;     /* pid -> VisitedTask */
  GHashTable *aliases;   /* pid -> the one it was visited by */
  GHashTable *states;    /* key -> KindState */
  GHashTable *shmem_ids; /* "dev:ino" as guint64[2] -> index + 1 in shmems */
  GArray *shmems;        /* CollectedShmem */
  const NetPlaces *places; /* collector_set_places(); may be NULL */
  GPtrArray *alive;      /* collector_set_alive(); may be NULL */
  DescGroup *warm;       /* the group whose last_local is open */
  bool no_dupfd_query;
};

static guint desc_key_hash(gconstpointer p) {
  const DescKey *k = p;
  guint64 h = (k->ino * 0x9e3779b97f4a7c15ULL) ^ (k->dev << 32) ^ (k->pos * 0xff51afd7ed558ccdULL) ^ k->flags;
  return (guint)(h ^ (h >> 32));
}

static gboolean desc_key_equal(gconstpointer a, gconstpointer b) {
  const DescKey *x = a, *y = b;
  return x->ino == y->ino && x->dev == y->dev && x->pos == y->pos && x->flags == y->flags;
}

static guint inode_key_hash(gconstpointer p) {
  const InodeKey *k = p;
  guint64 h = (k->ino * 0x9e3779b97f4a7c15ULL) ^ (k->dev << 32);
  return (guint)(h ^ (h >> 32));
}

static gboolean inode_key_equal(gconstpointer a, gconstpointer b) {
  return memcmp(a, b, sizeof(InodeKey)) == 0;
}

static void desc_free(void *p) {
  Desc *d = p;
  if (!d)
    return;
  if (d->kept >= 0)
    (void)close(d->kept);
  g_free(d->kept_link);
  g_free(d);
}

static void group_free(void *p) {
  DescGroup *g = p;
  if (g->last_local >= 0)
    (void)close(g->last_local);
  if (g->members != &g->only)
    g_free(g->members);
  g_free(g);
}

static void visited_free(void *p) {
  VisitedTask *v = p;
  g_free(v->comm);
  g_free(v);
}

static void kind_state_free(void *p) {
  KindState *s = p;
  if (s->destroy)
    s->destroy(s->state);
  g_free(s);
}

static void shmem_clear(void *p) {
  CollectedShmem *s = p;
  if (s->fd >= 0)
    (void)close(s->fd);
}

Collector *collector_new(Job *job, Checkpoint *checkpoint, int images_fd) {
  Collector *c = g_new0(Collector, 1);
  c->job = job;
  c->checkpoint = checkpoint;
  c->images_fd = images_fd;
  c->no_dupfd_query = g_getenv("CHECKPOINTD_NO_DUPFD_QUERY") != NULL; /* else found out; since 6.10 */
  c->looker = looker_new();
  c->descs = g_ptr_array_new_with_free_func(desc_free);
  c->groups = g_hash_table_new_full(desc_key_hash, desc_key_equal, NULL, group_free);
  c->named = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  c->tasks = g_hash_table_new_full(NULL, NULL, NULL, visited_free);
  c->aliases = g_hash_table_new(NULL, NULL);
  c->states = g_hash_table_new_full(NULL, NULL, NULL, kind_state_free);
  c->shmem_ids = g_hash_table_new_full(inode_key_hash, inode_key_equal, g_free, NULL);
  c->shmems = g_array_new(FALSE, TRUE, sizeof(CollectedShmem));
  g_array_set_clear_func(c->shmems, shmem_clear);
  raise_fd_limit();
  return c;
}

void collector_free(Collector *c) {
  if (!c)
    return;
  g_hash_table_unref(c->states);
  g_hash_table_unref(c->groups);
  g_ptr_array_unref(c->descs);
  g_hash_table_unref(c->named);
  g_hash_table_unref(c->tasks);
  g_hash_table_unref(c->aliases);
  g_hash_table_unref(c->shmem_ids);
  g_array_unref(c->shmems);
  looker_free(c->looker);
  g_clear_pointer(&c->alive, g_ptr_array_unref);
  g_free(c);
}

void collector_set_namespaces(Collector *c, const NsSet *set) {
  c->namespaces = set;
  looker_set_namespaces(c->looker, set);
}

const NsSet *collector_namespaces(const Collector *c) {
  return c->namespaces;
}

Job *collector_job(const Collector *c) {
  return c->job;
}

Checkpoint *collector_checkpoint(const Collector *c) {
  return c->checkpoint;
}

int collector_images_fd(const Collector *c) {
  return c->images_fd;
}

guint32 collector_new_file_id(Collector *c) {
  g_ptr_array_add(c->descs, NULL);
  return c->descs->len;
}

guint32 collector_new_ghost_id(Collector *c) {
  return ++c->last_ghost_id;
}

guint64 collector_new_shmid(Collector *c) {
  return OWN_SHMIDS + ++c->last_shmid;
}

gpointer collector_state(Collector *c, const void *key, gpointer (*make)(void), GDestroyNotify destroy) {
  KindState *s = g_hash_table_lookup(c->states, key);
  if (!s) {
    s = g_new0(KindState, 1);
    s->state = make();
    s->destroy = destroy;
    g_hash_table_insert(c->states, (gpointer)key, s);
  }
  return s->state;
}

static Desc *desc_of(const Collector *c, guint32 file_id) {
  return file_id && file_id <= c->descs->len ? c->descs->pdata[file_id - 1] : NULL;
}

const FileHolder *collector_holder_of(const Collector *c, guint32 file_id) {
  const Desc *d = desc_of(c, file_id);
  return d ? &d->holder : NULL;
}

guint collector_n_holders(const Collector *c, guint32 file_id) {
  const Desc *d = desc_of(c, file_id);
  return d ? d->n_holders : 0;
}

static VisitedTask *visited_task(const Collector *c, pid_t pid) {
  gpointer through = g_hash_table_lookup(c->aliases, GINT_TO_POINTER(pid));
  return g_hash_table_lookup(c->tasks, through ? through : GINT_TO_POINTER(pid));
}

bool collector_has_task(const Collector *c, pid_t pid) {
  return visited_task(c, pid) != NULL;
}

void collector_alias_task(Collector *c, pid_t pid, pid_t visited) {
  g_hash_table_insert(c->aliases, GINT_TO_POINTER(pid), GINT_TO_POINTER(visited));
}

guint32 collector_file_id_of(const Collector *c, pid_t pid, int fd) {
  const VisitedTask *v = visited_task(c, pid);
  guint low = 0, high = v && fd >= 0 ? v->task->fds->len : 0;
  while (low < high) {
    guint mid = (low + high) / 2;
    const FdinfoEntry *e = v->task->fds->pdata[mid];
    if (e->fd == (guint32)fd)
      return e->id;
    if (e->fd < (guint32)fd)
      low = mid + 1;
    else
      high = mid;
  }
  return 0;
}

void collector_set_places(Collector *c, const NetPlaces *places) {
  c->places = places;
}

const NetPlaces *collector_places(const Collector *c) {
  return c->places;
}

bool collector_visit_net(const Collector *c, guint32 id, NetVisit *visit, GError **error) {
  const NetPlace *place = net_places_find(c->places, id);
  return net_visit_begin(visit, place && !place->home ? place->fd : -1, error);
}

guint32 collector_net_ns_of(const Collector *c, guint32 file_id) {
  const Desc *d = desc_of(c, file_id);
  if (d && d->net_id)
    return d->net_id;
  pid_t pid = d && d->carrier ? d->carrier : d ? d->holder.pid : 0;
  const VisitedTask *v = g_hash_table_lookup(c->tasks, GINT_TO_POINTER(pid));
  const TaskKobjIdsEntry *ids = v ? v->task->ids : NULL;
  return ids && ids->has_net_ns_id ? ids->net_ns_id : 0;
}

int collector_local_of(const Collector *c, guint32 file_id) {
  Desc *d = desc_of(c, file_id);
  if (!d)
    return -1;
  if (d->kept < 0)
    d->kept = (int)syscall(SYS_pidfd_getfd, d->pidfd, d->holder.fd, 0);
  return d->kept;
}

void collector_drop_local(const Collector *c, guint32 file_id) {
  Desc *d = desc_of(c, file_id);
  if (!d || d->kept < 0 || d->carrier)
    return;
  (void)close(d->kept);
  d->kept = -1;
}

bool collector_probe_of(Collector *c, guint32 file_id, FileProbe *ret_probe) {
  Desc *d = desc_of(c, file_id);
  FileProbe probe = {.local = collector_local_of(c, file_id)};
  if (probe.local < 0)
    return false;
  probe.pid = d->holder.pid;
  probe.comm = d->comm;
  probe.fd = d->holder.fd;
  probe.pidfd = d->pidfd;
  probe.carrier = d->carrier;
  probe.carrier_fd = d->carrier_fd;
  g_free(d->kept_link);
  d->kept_link = NULL;
  if (!looker_look(c->looker, &probe, false, &d->kept_link, NULL))
    return false;
  *ret_probe = probe;
  return true;
}

/* --- which description is it? --- */

/* 0 equal, 1 less, 2 greater, as kcmp says; -1 with error. */
static int compare_descs(const FileProbe *probe, const Desc *d, GError **error) {
  long order = syscall(SYS_kcmp, probe->pid, d->holder.pid, KCMP_FILE, probe->fd, d->holder.fd);
  if (order >= 0 && order <= 2)
    return (int)order;
  if (order >= 0 || errno == ENOSYS || errno == EOPNOTSUPP) {
    engine_fail(error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE, "This kernel has no kcmp (CONFIG_KCMP)");
    return -1;
  }
  engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot compare fd %d of pid %d with fd %d of pid %d",
      probe->fd, probe->pid, d->holder.fd, d->holder.pid);
  return -1;
}

/* Keeps the probe's descriptor as that of the group's last match, at the group that is warm (only one is, so that they
 * do not pile up). */
static void group_warm(Collector *c, DescGroup *g, Desc *d, const FileProbe *probe) {
  bool same = g->last == d && g->last_local >= 0;
  g->last = d;
  if (c->no_dupfd_query || same)
    return;
  if (c->warm && c->warm->last_local >= 0) {
    (void)close(c->warm->last_local);
    c->warm->last_local = -1;
  }
  c->warm = g;
  g->last_local = fcntl(probe->local, F_DUPFD_CLOEXEC, 64);
}

static bool same_as_last(Collector *c, const DescGroup *g, const FileProbe *probe) {
  if (c->no_dupfd_query || g->last_local < 0)
    return false;
  int same = fcntl(probe->local, F_DUPFD_QUERY, g->last_local);
  if (same < 0)
    c->no_dupfd_query = true;
  return same == 1;
}

static void group_insert(DescGroup *g, guint at, Desc *d) {
  if (g->n == g->room) {
    bool first = g->members == &g->only;
    g->room *= 4;
    g->members = g_renew(Desc *, first ? NULL : g->members, g->room);
    if (first)
      g->members[0] = g->only;
  }
  memmove(&g->members[at + 1], &g->members[at], (g->n - at) * sizeof *g->members);
  g->members[at] = d;
  g->n++;
}

static Desc *desc_new(Collector *c, const FileProbe *probe) {
  Desc *d = g_new0(Desc, 1);
  d->kept = -1;
  d->holder = (FileHolder){.pid = probe->pid, .fd = probe->fd, .file_id = collector_new_file_id(c), .dev = probe->st.st_dev, .ino = probe->st.st_ino,
      .mode = probe->st.st_mode};
  d->comm = probe->comm;
  d->pidfd = probe->pidfd;
  d->carrier = probe->carrier;
  d->carrier_fd = probe->carrier_fd;
  c->descs->pdata[d->holder.file_id - 1] = d;
  return d;
}

/* Finds the description in its group, or makes it: then *ret_new. */
static Desc *group_find(Collector *c, DescGroup *g, const FileProbe *probe, bool *ret_new, GError **error) {
  *ret_new = false;
  if (g->last && (probe->st.st_dev == kernel_devs()->sockets || same_as_last(c, g, probe)))
    return g->last;
  guint low = 0, high = g->n;
  while (low < high) {
    guint mid = (low + high) / 2;
    int order = compare_descs(probe, g->members[mid], error);
    if (order < 0)
      return NULL;
    if (order == 0) {
      group_warm(c, g, g->members[mid], probe);
      return g->members[mid];
    }
    if (order == 2)
      low = mid + 1;
    else
      high = mid;
  }
  Desc *d = desc_new(c, probe);
  group_insert(g, low, d);
  if (g->n > 1)
    group_warm(c, g, d, probe);
  g->last = d;
  *ret_new = true;
  return d;
}

static DescGroup *group_of(Collector *c, const FileProbe *probe) {
  DescKey key = {
      .dev = probe->st.st_dev,
      .ino = probe->st.st_ino,
      .flags = (guint32)probe->flags,
      .pos = (guint64)probe->pos,
  };
  DescGroup *g = g_hash_table_lookup(c->groups, &key);
  if (g)
    return g;
  g = g_new0(DescGroup, 1);
  g->key = key;
  g->members = &g->only;
  g->room = 1;
  g->last_local = -1;
  g_hash_table_insert(c->groups, &g->key, g);
  return g;
}

/* --- visiting --- */

static FdTypes entry_collect(
    Collector *c, const ObjectOps *ops, const FileProbe *probe, guint32 id, bool *ret_blocked, GError **error) {
  FileEntry *entry = MESSAGE_NEW(FileEntry, file_entry__init);
  entry->id = id;
  entry->type = ops->type;
  size_t findings = job_n_findings(c->job);
  if (!ops->collect(c, probe, entry, error)) {
    file_entry__free_unpacked(entry, NULL);
    return FD_TYPES__UND;
  }
  FdTypes type = entry->type;
  *ret_blocked = job_n_findings(c->job) > findings;
  if (*ret_blocked)
    file_entry__free_unpacked(entry, NULL);
  else
    checkpoint_add_file(c->checkpoint, entry);
  return type;
}

/* Sockets are asked in their own network namespace. A unix socket of another one tells by being in no list. */
static bool find_namespace(Collector *c, Desc *d, const FileProbe *probe, NetVisit *visit, GError **error) {
  if (probe->st.st_dev != kernel_devs()->sockets || !S_ISSOCK(probe->st.st_mode) || probe->flags & O_PATH)
    return true;
  const NetPlace *place = net_places_of_socket(c->places, probe->local);
  bool inet = d->ops == &inet_ops || d->ops == &netlink_ops || d->ops == &packet_ops;
  guint64 cookie = !c->places && inet ? net_cookie_of(probe->local) : 0;
  d->net_id = place ? place->id : 0;
  if (place && !place->home)
    return net_visit_begin(visit, place->fd, error);
  if (inet && (c->places ? !place : cookie && cookie != net_cookie_of_home()))
    collector_block(c, probe, d->ops->name, "it belongs to another network namespace, in which no process of the tree is",
        "dump from the process on that made the namespace, or close it before the dump");
  return true;
}

static bool desc_collect(Collector *c, Desc *d, const FileProbe *probe, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  d->ops = object_claim(probe);
  bool blocked = false;
  GError *failure = NULL;
  if (!find_namespace(c, d, probe, &visit, error))
    return false;
  FdTypes type = entry_collect(c, d->ops, probe, d->holder.file_id, &blocked, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  d->type = type;
  return true;
}

static void task_add_fd(Task *task, Desc *d, CollectedFd fd) {
  FdinfoEntry *e = MESSAGE_NEW(FdinfoEntry, fdinfo_entry__init);
  e->id = d->holder.file_id;
  e->type = d->type;
  e->fd = (guint32)fd.fd;
  e->flags = fd.cloexec ? FD_CLOEXEC : 0;
  g_ptr_array_add(task->fds, e);
  d->n_holders++;
}

static bool visit_fd(Collector *c, Sight *sight, CollectedFd fd, Task *task, GError **error) {
  FileProbe *probe = &sight->probe;
  if (sight->error) {
    g_propagate_error(error, g_steal_pointer(&sight->error));
    return false;
  }
  bool is_new = false;
  DescGroup *g = group_of(c, probe);
  if ((!sight->plain || g->n || collector_asks_about_ordinary(c)) && !sight_open(sight, error))
    return false;
  Desc *d = group_find(c, g, probe, &is_new, error);
  if (!d || (is_new && !desc_collect(c, d, probe, error)))
    return false;
  task_add_fd(task, d, fd);
  return true;
}

static int fd_of_name(const char *name) {
  char *end = NULL;
  long fd = strtol(name, &end, 10);
  return end != name && !*end && fd >= 0 && fd <= INT_MAX ? (int)fd : -1;
}

static bool read_cloexec(int dir_fd, const char *name, bool *ret_cloexec) {
  _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
  char text[512];
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  guint64 flags = 0;
  if (n < 0)
    return false;
  text[n] = '\0';
  if (!fdinfo_number(text, "flags", 8, &flags))
    return false;
  *ret_cloexec = flags & O_CLOEXEC;
  return true;
}

struct linux_dirent64 {
  guint64 d_ino;
  gint64 d_off;
  unsigned short d_reclen;
  unsigned char d_type;
  char d_name[];
};

/* The descriptors of a task, from /proc/PID/fdinfo. */
static GArray *list_fds(pid_t pid, GError **error) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/%d/fdinfo", pid);
  _cleanup_fd_ int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(CollectedFd));
  g_autofree char *buffer = g_malloc(32 * 1024);
  long n = dir_fd < 0 ? -1 : 0;
  while (dir_fd >= 0 && (n = syscall(SYS_getdents64, dir_fd, buffer, 32 * 1024)) > 0)
    for (long at = 0; at < n;) {
      const struct linux_dirent64 *e = (const struct linux_dirent64 *)(buffer + at);
      CollectedFd one = {.fd = fd_of_name(e->d_name)};
      if (one.fd >= 0 && read_cloexec(dir_fd, e->d_name, &one.cloexec))
        g_array_append_val(fds, one);
      at += e->d_reclen;
    }
  if (n < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot list %s", path);
    return NULL;
  }
  return g_steal_pointer(&fds);
}

/* Most descriptors of a child are its parent's of the same number: one question says so. */
static Desc *inherited(const Collector *c, pid_t pid, pid_t parent, int fd) {
  Desc *d = parent ? desc_of(c, collector_file_id_of(c, parent, fd)) : NULL;
  return d && syscall(SYS_kcmp, pid, parent, KCMP_FILE, fd, fd) == 0 ? d : NULL;
}

bool collector_visit_task(Collector *c, pid_t pid, pid_t parent, const char *comm, int pidfd, const CollectedFd *fds, size_t n_fds,
    Task *task, GError **error) {
  g_autoptr(GArray) listed = NULL;
  if (!fds) {
    listed = list_fds(pid, error);
    if (!listed)
      return false;
    fds = (const CollectedFd *)listed->data;
    n_fds = listed->len;
  }
  VisitedTask *v = g_new0(VisitedTask, 1);
  v->comm = g_strdup(comm);
  v->task = task;
  g_hash_table_replace(c->tasks, GINT_TO_POINTER(pid), v);
  FileProbe like = {.pid = pid, .comm = v->comm, .pidfd = pidfd};
  g_autofree Desc **known = g_new(Desc *, n_fds);
  g_autofree CollectedFd *unknown = g_new(CollectedFd, n_fds);
  size_t n_unknown = 0;
  for (size_t i = 0; i < n_fds; i++) {
    known[i] = inherited(c, pid, parent, fds[i].fd);
    if (!known[i])
      unknown[n_unknown++] = fds[i];
  }
  g_autoptr(Scout) scout = scout_new(&like, unknown, n_unknown, c->looker);
  for (size_t i = 0; i < n_fds; i++) {
    if (known[i])
      task_add_fd(task, known[i], fds[i]);
    else if (!visit_fd(c, scout_next(scout), fds[i], task, error))
      return false;
    if (i % 256 == 255 && !job_poll(c->job, error))
      return false;
  }
  return true;
}

/* What only its holders' tasks could make again. */
static void block_unsendable(Collector *c, const Desc *d, const FileProbe *probe) {
  if (d->ops == &epoll_ops)
    collector_block(c, probe, "epoll", "it is in no descriptor table, and its numbers are those of one",
        "try again when it has been received");
  else if (d->ops == &pidfd_ops)
    collector_block(c, probe, "pidfd", "it is in no descriptor table", "try again when it has been received");
  else if (probe->owner.known && probe->owner.pid)
    collector_block(c, probe, d->ops->name, "it sends signals (F_SETOWN) and is in no descriptor table",
        "try again when it has been received");
}

guint32 collector_add_flight(Collector *c, const FileProbe *carrier, int fd, GError **error) {
  FileProbe probe = {.pid = getpid(), .comm = carrier->comm, .fd = fd, .local = fd, .pidfd = carrier->pidfd};
  probe.carrier = carrier->carrier ? carrier->carrier : carrier->pid;
  probe.carrier_fd = carrier->carrier ? carrier->carrier_fd : carrier->fd;
  g_autofree char *link = NULL;
  bool is_new = false;
  Desc *d = NULL;
  if (looker_look(c->looker, &probe, false, &link, error)) {
    probe_owner(&probe);
    d = group_find(c, group_of(c, &probe), &probe, &is_new, error);
  }
  if (is_new)
    d->kept = fd;
  else
    (void)close(fd);
  if (!d || (is_new && !desc_collect(c, d, &probe, error)))
    return 0;
  if (is_new)
    block_unsendable(c, d, &probe);
  return d->holder.file_id;
}

bool collector_finish(Collector *c, GError **error) {
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->collect_flight && !(*ops)->collect_flight(c, error))
      return false;
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->collect_finish && !(*ops)->collect_finish(c, error))
      return false;
  return ghosts_write(c, error) && sysv_collect_finish(c, error);
}

void collector_set_alive(Collector *c, GPtrArray *words) {
  g_clear_pointer(&c->alive, g_ptr_array_unref);
  c->alive = words;
}

const GPtrArray *collector_alive(const Collector *c) {
  return c->alive;
}

bool collector_seal(Collector *c, bool kill, GError **error) {
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->seal && !(*ops)->seal(c, kill, error))
      return false;
  return true;
}

void collector_end(Collector *c, bool killed) {
  for (const ObjectOps *const *ops = object_registry(); *ops; ops++)
    if ((*ops)->end)
      (*ops)->end(c, killed);
}

/* --- files without a descriptor, and shared memory --- */

guint32 collector_add_path(Collector *c, const FileProbe *given, bool *blocked, GError **error) {
  FileProbe full = *given;
  const FileProbe *probe = &full;
  *blocked = false;
  full.fd = -1;
  g_autofree char *link = NULL;
  if (!looker_look(c->looker, &full, true, &link, error))
    return 0;
  g_autofree char *key =
      g_strdup_printf("%lu:%lu:%x:%u:%s", probe->st.st_dev, probe->st.st_ino, (guint)probe->flags, probe->mount, probe->link);
  guint32 id = GPOINTER_TO_UINT(g_hash_table_lookup(c->named, key));
  if (id)
    return id;
  id = collector_new_file_id(c);
  GError *failure = NULL;
  (void)entry_collect(c, object_claim(probe), probe, id, blocked, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return 0;
  }
  if (*blocked)
    return 0;
  g_hash_table_insert(c->named, g_steal_pointer(&key), GUINT_TO_POINTER(id));
  return id;
}

void collector_shmem_with_id(Collector *c, guint64 shmid, dev_t dev, ino_t ino, guint64 size, int fd) {
  InodeKey key = {dev, ino};
  FdPath path = fd_path(fd);
  CollectedShmem one = {.shmid = shmid, .dev = dev, .ino = ino, .size = size};
  one.fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (one.fd < 0)
    one.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  g_array_append_val(c->shmems, one);
  g_hash_table_insert(c->shmem_ids, g_memdup2(&key, sizeof key), GUINT_TO_POINTER(c->shmems->len));
}

guint64 collector_shmem_of(Collector *c, dev_t dev, ino_t ino, guint64 size, int fd) {
  InodeKey key = {dev, ino};
  guint index = GPOINTER_TO_UINT(g_hash_table_lookup(c->shmem_ids, &key));
  if (index)
    return g_array_index(c->shmems, CollectedShmem, index - 1).shmid;
  guint64 shmid = collector_new_shmid(c);
  collector_shmem_with_id(c, shmid, dev, ino, size, fd);
  return shmid;
}

const CollectedShmem *collector_shmems(const Collector *c, size_t *ret_n) {
  *ret_n = c->shmems->len;
  return (const CollectedShmem *)c->shmems->data;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proc-file.h"
#include "scout.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>

/* Where an inode that has one name only was found. */
typedef struct Found {
  guint64 mnt_id, dev, ino;
  char *link;
  bool checked;
} Found;

#define N_FOUND 8 /* what the processes of a tree have in common: programs, directories, devices */

struct Looker {
  int self_fd;     /* /proc/self/fd */
  char *directory; /* the last one, with its final slash, open: files that are open together often lie together */
  int directory_fd;
  const NsSet *namespaces;
  const NsEntry *directory_in; /* the mount namespace it is in; NULL: ours */
  Found found[N_FOUND];
  guint next_found; /* which is forgotten next */
  guint64 seen_ino;
  char buffer[PATH_MAX + 16];
};

Looker *looker_new(void) {
  Looker *l = g_new0(Looker, 1);
  l->self_fd = open("/proc/thread-self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC); /* a thread may have a table of its own */
  l->directory_fd = -1;
  return l;
}

void looker_free(Looker *l) {
  if (!l)
    return;
  fd_cleanup(&l->self_fd);
  fd_cleanup(&l->directory_fd);
  g_free(l->directory);
  for (guint i = 0; i < N_FOUND; i++)
    g_free(l->found[i].link);
  g_free(l);
}

void looker_set_namespaces(Looker *l, const NsSet *set) {
  l->namespaces = set;
}

static int open_directory(const NsEntry *in, const char *path) {
  struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
  return in ? (int)syscall(SYS_openat2, in->root, path, &how, sizeof how) : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* fstatat(2) of an absolute path, with the directory kept open. */
static bool stat_path(Looker *l, const NsEntry *in, const char *path, struct stat *st, int flags) {
  const char *slash = strrchr(path, '/');
  size_t length = (size_t)(slash - path) + 1;
  if (!l->directory || l->directory_in != in || strncmp(l->directory, path, length) != 0 || l->directory[length]) {
    g_free(l->directory);
    l->directory = g_strndup(path, length);
    l->directory_in = in;
    fd_cleanup(&l->directory_fd);
    l->directory_fd = open_directory(in, l->directory);
  }
  return fstatat(l->directory_fd, slash[1] ? slash + 1 : ".", st, flags) == 0;
}

static bool leads_there(Looker *l, const FileProbe *probe, const char *link) {
  struct stat st;
  int flags = S_ISLNK(probe->st.st_mode) ? AT_SYMLINK_NOFOLLOW : 0;
  const NsEntry *in = ns_set_of_mount(l->namespaces, probe->mnt_id);
  return link[0] == '/' && probe->st.st_dev != kernel_devs()->shmem && stat_path(l, in, link, &st, flags) &&
         st.st_dev == probe->st.st_dev && st.st_ino == probe->st.st_ino;
}

/* An inode that has one name only is looked up once. */
static bool has_one_name(const FileProbe *probe) {
  return probe->mnt_id &&
         (S_ISCHR(probe->st.st_mode) || S_ISDIR(probe->st.st_mode) ||
             (S_ISREG(probe->st.st_mode) && probe->st.st_nlink == 1 && probe->st.st_dev != kernel_devs()->shmem));
}

static const Found *find_found(const Looker *l, const FileProbe *probe) {
  for (guint i = 0; i < N_FOUND; i++) {
    const Found *f = &l->found[i];
    if (f->link && f->ino == probe->st.st_ino && f->dev == probe->st.st_dev && f->mnt_id == probe->mnt_id)
      return f;
  }
  return NULL;
}

static void keep_found(Looker *l, const FileProbe *probe, const char *link) {
  Found *f = &l->found[l->next_found++ % N_FOUND];
  g_free(f->link);
  *f = (Found){.mnt_id = probe->mnt_id, .dev = probe->st.st_dev, .ino = probe->st.st_ino, .link = g_strdup(link), .checked = probe->path_checked};
}

static char *find_link(Looker *l, FileProbe *probe, GError **error) {
  const KernelDevs *devs = kernel_devs();
  if (S_ISSOCK(probe->st.st_mode) && probe->st.st_dev == devs->sockets)
    return g_strdup_printf("socket:[%lu]", probe->st.st_ino);
  if (S_ISFIFO(probe->st.st_mode) && probe->st.st_dev == devs->pipes)
    return g_strdup_printf("pipe:[%lu]", probe->st.st_ino);
  bool one_name = has_one_name(probe);
  const Found *found = one_name ? find_found(l, probe) : NULL;
  if (found) {
    probe->path_checked = found->checked;
    return g_strdup(found->link);
  }
  if (!probe_readlink_at(l->self_fd, probe->local, l->buffer, sizeof l->buffer, error)) {
    if (errno != ENAMETOOLONG)
      return NULL;
    g_clear_error(error);
    return g_strdup(LONG_PATH);
  }
  probe->path_checked = leads_there(l, probe, l->buffer);
  if (one_name)
    keep_found(l, probe, l->buffer);
  return g_strdup(l->buffer);
}

bool looker_look(Looker *l, FileProbe *probe, bool keep_flags, char **ret_link, GError **error) {
  int flags = probe->flags;
  if (!probe_stat(probe, error))
    return false;
  if (keep_flags)
    probe->flags = flags;
  const MntEntry *mount = ns_set_mount(l->namespaces, probe->mnt_id);
  probe->mount = mount ? mount->mnt_id : 0;
  l->seen_ino = probe->st.st_ino;
  *ret_link = find_link(l, probe, error);
  probe->link = *ret_link;
  return *ret_link != NULL;
}

#define MANY 1024 /* descriptors, for which a second looker is worth its start */
#define CHUNK 64

enum { CHUNK_FREE, CHUNK_FIRST, CHUNK_SECOND, CHUNK_SEEN };

/* A thread that looks as well, in a table of descriptors of its own: in one table every lookup of both would count references. */
typedef struct Second {
  GThread *thread;
  gint *states; /* of chunks: who looks, or has looked */
  size_t n_chunks;
  Sight *sights; /* its own */
  GMutex lock;
  GCond seen;
} Second;

struct Scout {
  FileProbe like;
  const CollectedFd *fds;
  size_t n_fds, at; /* of the next sight */
  Sight sight;
  Looker *looker;
  Second *second; /* NULL: there are few */
};

bool sight_open(Sight *sight, GError **error) {
  FileProbe *probe = &sight->probe;
  if (probe->local < 0)
    probe->local = (int)syscall(SYS_pidfd_getfd, probe->pidfd, probe->fd, 0);
  if (probe->local >= 0)
    return true;
  int reason = errno;
  g_autofree char *name = file_probe_name(probe);
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot duplicate %s", name);
}

static void look_at(const Scout *s, Looker *l, size_t i, Sight *sight) {
  FileProbe *probe = &sight->probe;
  *probe = s->like;
  probe->fd = s->fds[i].fd;
  probe->local = -1;
  guint64 before = l->seen_ino;
  /* Runs of duplicates are common, and only the first of them is asked for its owner. */
  if (sight_open(sight, &sight->error) && looker_look(l, probe, false, &sight->link, &sight->error) && l->seen_ino != before)
    probe_owner(probe);
}

static void sight_clear(Sight *sight) {
  fd_cleanup(&sight->probe.local);
  sight->probe.local = -1;
  g_clear_pointer(&sight->link, g_free);
  g_clear_error(&sight->error);
}

/* --- the second looker --- */

/* A file that is opened again by its path, of which nothing else is to be known. */
static bool is_plain(const FileProbe *probe) {
  return S_ISREG(probe->st.st_mode) && probe->path_checked && !proc_file_pid(probe->link) && !(probe->flags & O_PATH) && probe->owner.known &&
         !probe->owner.pid && object_claim(probe) == &reg_ops;
}

static void look_at_chunk(const Scout *s, Looker *l, size_t chunk) {
  size_t end = MIN(s->n_fds, (chunk + 1) * CHUNK);
  for (size_t i = chunk * CHUNK; i < end; i++) {
    Sight *sight = &s->second->sights[i];
    look_at(s, l, i, sight);
    if (!sight->error && !sight->probe.owner.known)
      probe_owner(&sight->probe);
    sight->plain = !sight->error && is_plain(&sight->probe);
    fd_cleanup(&sight->probe.local); /* a number of this thread's table */
    sight->probe.local = -1;
  }
}

/* From the end, as far as nobody else has looked. */
static gpointer second_run(gpointer data) {
  const Scout *s = data;
  Second *second = s->second;
  if (unshare(CLONE_FILES) < 0)
    return NULL;
  Looker *l = looker_new();
  looker_set_namespaces(l, s->looker->namespaces);
  for (size_t chunk = second->n_chunks; chunk-- > 0;) {
    if (!g_atomic_int_compare_and_exchange(&second->states[chunk], CHUNK_FREE, CHUNK_SECOND))
      break;
    look_at_chunk(s, l, chunk);
    g_mutex_lock(&second->lock);
    g_atomic_int_set(&second->states[chunk], CHUNK_SEEN);
    g_cond_signal(&second->seen);
    g_mutex_unlock(&second->lock);
  }
  looker_free(l);
  return NULL;
}

static Second *second_new(Scout *s) {
  Second *second = s->second = g_new0(Second, 1);
  second->n_chunks = (s->n_fds + CHUNK - 1) / CHUNK;
  second->states = g_new0(gint, second->n_chunks);
  second->sights = g_new0(Sight, s->n_fds);
  g_mutex_init(&second->lock);
  g_cond_init(&second->seen);
  second->thread = g_thread_try_new("scout", second_run, s, NULL);
  return second;
}

static void second_free(Scout *s) {
  Second *second = s->second;
  for (size_t i = 0; i < second->n_chunks; i++) /* it ends at the first that it does not get */
    (void)g_atomic_int_compare_and_exchange(&second->states[i], CHUNK_FREE, CHUNK_FIRST);
  if (second->thread)
    (void)g_thread_join(second->thread);
  for (size_t i = 0; i < s->n_fds; i++)
    if (g_atomic_int_get(&second->states[i / CHUNK]) == CHUNK_SEEN && i >= s->at)
      sight_clear(&second->sights[i]);
  g_mutex_clear(&second->lock);
  g_cond_clear(&second->seen);
  g_free(second->sights);
  g_free(second->states);
  g_clear_pointer(&s->second, g_free);
}

/* What the second one has seen or is looking at; NULL: it is left to the first. */
static Sight *second_sight(Second *second, size_t i) {
  gint *state = &second->states[i / CHUNK];
  if (g_atomic_int_get(state) == CHUNK_FIRST || g_atomic_int_compare_and_exchange(state, CHUNK_FREE, CHUNK_FIRST))
    return NULL;
  if (g_atomic_int_get(state) != CHUNK_SEEN) {
    g_mutex_lock(&second->lock);
    while (g_atomic_int_get(state) != CHUNK_SEEN)
      g_cond_wait(&second->seen, &second->lock);
    g_mutex_unlock(&second->lock);
  }
  return &second->sights[i];
}

/* --- */

Scout *scout_new(const FileProbe *like, const CollectedFd *fds, size_t n_fds, Looker *looker) {
  Scout *s = g_new0(Scout, 1);
  s->like = *like;
  s->fds = fds;
  s->n_fds = n_fds;
  s->looker = looker;
  s->sight.probe.local = -1;
  if (n_fds >= MANY && g_get_num_processors() > 1)
    s->second = second_new(s);
  return s;
}

Sight *scout_next(Scout *s) {
  sight_clear(&s->sight);
  if (s->at == s->n_fds)
    return NULL;
  Sight *seen = s->second ? second_sight(s->second, s->at) : NULL;
  if (seen) {
    s->sight = *seen;
    s->sight.probe.link = s->sight.link;
  } else {
    look_at(s, s->looker, s->at, &s->sight);
  }
  s->at++;
  return &s->sight;
}

void scout_free(Scout *s) {
  if (!s)
    return;
  sight_clear(&s->sight);
  if (s->second)
    second_free(s);
  g_free(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scout.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>

/* Descriptors a thread takes at once, and how many of these may be ahead of the collector: that many duplicates are
 * open at the same time. */
#define BATCH 64
#define AHEAD 8
#define MAX_THREADS 4
/* Below this a thread costs more than it saves. */
#define MIN_PARALLEL 512

struct Looker {
  int self_fd;     /* /proc/self/fd */
  char *directory; /* the last one, with its final slash, open: files that are open together often lie together */
  int directory_fd;
  guint64 mnt_id, dev, ino; /* of the last path */
  char *last_link;
  bool last_checked;
  guint64 seen_ino;
  char buffer[PATH_MAX + 16];
};

Looker *looker_new(void) {
  Looker *l = g_new0(Looker, 1);
  l->self_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  l->directory_fd = -1;
  return l;
}

void looker_free(Looker *l) {
  if (!l)
    return;
  fd_cleanup(&l->self_fd);
  fd_cleanup(&l->directory_fd);
  g_free(l->directory);
  g_free(l->last_link);
  g_free(l);
}

/* fstatat(2) of an absolute path, with the directory kept open. */
static bool stat_path(Looker *l, const char *path, struct stat *st, int flags) {
  const char *slash = strrchr(path, '/');
  size_t length = (size_t)(slash - path) + 1;
  if (!l->directory || strncmp(l->directory, path, length) != 0 || l->directory[length]) {
    g_free(l->directory);
    l->directory = g_strndup(path, length);
    fd_cleanup(&l->directory_fd);
    l->directory_fd = open(l->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  }
  return fstatat(l->directory_fd, slash[1] ? slash + 1 : ".", st, flags) == 0;
}

static bool leads_there(Looker *l, const FileProbe *probe, const char *link) {
  struct stat st;
  int flags = S_ISLNK(probe->st.st_mode) ? AT_SYMLINK_NOFOLLOW : 0;
  return link[0] == '/' && probe->st.st_dev != kernel_devs()->shmem && stat_path(l, link, &st, flags) &&
         st.st_dev == probe->st.st_dev && st.st_ino == probe->st.st_ino;
}

/* An inode that has one name only is looked up once. */
static bool has_one_name(const FileProbe *probe) {
  return probe->mnt_id &&
         (S_ISCHR(probe->st.st_mode) || S_ISDIR(probe->st.st_mode) ||
             (S_ISREG(probe->st.st_mode) && probe->st.st_nlink == 1 && probe->st.st_dev != kernel_devs()->shmem));
}

static char *find_link(Looker *l, FileProbe *probe, GError **error) {
  const KernelDevs *devs = kernel_devs();
  if (S_ISSOCK(probe->st.st_mode) && probe->st.st_dev == devs->sockets)
    return g_strdup_printf("socket:[%lu]", probe->st.st_ino);
  if (S_ISFIFO(probe->st.st_mode) && probe->st.st_dev == devs->pipes)
    return g_strdup_printf("pipe:[%lu]", probe->st.st_ino);
  bool one_name = has_one_name(probe);
  if (one_name && l->last_link && l->mnt_id == probe->mnt_id && l->dev == probe->st.st_dev &&
      l->ino == probe->st.st_ino) {
    probe->path_checked = l->last_checked;
    return g_strdup(l->last_link);
  }
  if (!probe_readlink_at(l->self_fd, probe->local, l->buffer, sizeof l->buffer, error))
    return NULL;
  probe->path_checked = leads_there(l, probe, l->buffer);
  if (one_name) {
    l->mnt_id = probe->mnt_id;
    l->dev = probe->st.st_dev;
    l->ino = probe->st.st_ino;
    g_free(l->last_link);
    l->last_link = g_strdup(l->buffer);
    l->last_checked = probe->path_checked;
  }
  return g_strdup(l->buffer);
}

bool looker_look(Looker *l, FileProbe *probe, bool keep_flags, char **ret_link, GError **error) {
  int flags = probe->flags;
  if (!probe_stat(probe, error))
    return false;
  if (keep_flags)
    probe->flags = flags;
  l->seen_ino = probe->st.st_ino;
  *ret_link = find_link(l, probe, error);
  probe->link = *ret_link;
  return *ret_link != NULL;
}

/* --- ahead, in threads --- */

struct Scout {
  FileProbe like;
  const CollectedFd *fds;
  size_t n_fds, n_batches;
  Sight *sights;
  size_t at; /* of the next sight that the collector gets */
  Looker *looker;
  GThread *threads[MAX_THREADS];
  GMutex lock; /* of all below */
  GCond changed;
  size_t next_batch;     /* that nobody has taken */
  size_t consumed_batch; /* the one that the collector is in */
  bool *done;            /* per batch */
  bool stop;
};

static void look_at(Looker *l, const Scout *s, size_t i) {
  Sight *sight = &s->sights[i];
  FileProbe *probe = &sight->probe;
  *probe = s->like;
  probe->fd = s->fds[i].fd;
  probe->local = (int)syscall(SYS_pidfd_getfd, probe->pidfd, probe->fd, 0);
  if (probe->local >= 0) {
    guint64 before = l->seen_ino;
    /* Runs of duplicates are common, and only the first of them is asked for its owner. */
    if (looker_look(l, probe, false, &sight->link, &sight->error) && l->seen_ino != before)
      probe_owner(probe);
    return;
  }
  int reason = errno;
  g_autofree char *name = file_probe_name(probe);
  engine_fail_errno(&sight->error, ENGINE_ERROR_CODE__FAILED, reason, "Cannot duplicate %s", name);
}

static void look_at_batch(Looker *l, Scout *s, size_t batch) {
  size_t end = MIN((batch + 1) * BATCH, s->n_fds);
  for (size_t i = batch * BATCH; i < end; i++)
    look_at(l, s, i);
  g_mutex_lock(&s->lock);
  s->done[batch] = true;
  g_cond_broadcast(&s->changed);
  g_mutex_unlock(&s->lock);
}

/* A batch to do, or n_batches when there is none left. */
static size_t take_batch(Scout *s) {
  g_mutex_lock(&s->lock);
  while (!s->stop && s->next_batch < s->n_batches && s->next_batch >= s->consumed_batch + AHEAD)
    g_cond_wait(&s->changed, &s->lock);
  size_t batch = s->stop ? s->n_batches : s->next_batch;
  if (batch < s->n_batches)
    s->next_batch++;
  g_mutex_unlock(&s->lock);
  return batch;
}

static gpointer thread_main(gpointer data) {
  Scout *s = data;
  Looker *l = looker_new();
  size_t batch;
  while ((batch = take_batch(s)) < s->n_batches)
    look_at_batch(l, s, batch);
  looker_free(l);
  return NULL;
}

Scout *scout_new(const FileProbe *like, const CollectedFd *fds, size_t n_fds, Looker *looker) {
  Scout *s = g_new0(Scout, 1);
  s->like = *like;
  s->fds = fds;
  s->n_fds = n_fds;
  s->n_batches = (n_fds + BATCH - 1) / BATCH;
  s->sights = g_new0(Sight, n_fds + 1);
  for (size_t i = 0; i < n_fds; i++)
    s->sights[i].probe.local = -1;
  s->done = g_new0(bool, s->n_batches + 1);
  s->looker = looker;
  g_mutex_init(&s->lock);
  g_cond_init(&s->changed);
  guint n_threads = n_fds < MIN_PARALLEL ? 0 : MIN(g_get_num_processors(), MAX_THREADS);
  for (guint i = 0; i < n_threads; i++)
    s->threads[i] = g_thread_try_new("scout", thread_main, s, NULL); /* without them it is slower, no more */
  return s;
}

static void sight_clear(Sight *sight) {
  fd_cleanup(&sight->probe.local);
  sight->probe.local = -1;
  g_clear_pointer(&sight->link, g_free);
  g_clear_error(&sight->error);
}

/* The collector enters a batch: waits for it, or does it itself if nobody has begun. */
static void enter_batch(Scout *s, size_t batch) {
  g_mutex_lock(&s->lock);
  s->consumed_batch = batch;
  g_cond_broadcast(&s->changed);
  bool own = s->next_batch == batch;
  if (own)
    s->next_batch++;
  while (!own && !s->done[batch])
    g_cond_wait(&s->changed, &s->lock);
  g_mutex_unlock(&s->lock);
  if (own)
    look_at_batch(s->looker, s, batch);
}

Sight *scout_next(Scout *s) {
  if (s->at > 0)
    sight_clear(&s->sights[s->at - 1]);
  if (s->at == s->n_fds)
    return NULL;
  if (s->at % BATCH == 0)
    enter_batch(s, s->at / BATCH);
  return &s->sights[s->at++];
}

void scout_free(Scout *s) {
  if (!s)
    return;
  g_mutex_lock(&s->lock);
  s->stop = true;
  g_cond_broadcast(&s->changed);
  g_mutex_unlock(&s->lock);
  for (guint i = 0; i < MAX_THREADS; i++)
    if (s->threads[i])
      (void)g_thread_join(s->threads[i]);
  for (size_t i = 0; i < s->n_fds; i++)
    sight_clear(&s->sights[i]);
  g_mutex_clear(&s->lock);
  g_cond_clear(&s->changed);
  g_free(s->sights);
  g_free(s->done);
  g_free(s);
}

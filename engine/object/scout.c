/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scout.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>

struct Looker {
  int self_fd;     /* /proc/self/fd */
  char *directory; /* the last one, with its final slash, open: files that are open together often lie together */
  int directory_fd;
  const NsSet *namespaces;
  const NsEntry *directory_in; /* the mount namespace it is in; NULL: ours */
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
  if (!probe_readlink_at(l->self_fd, probe->local, l->buffer, sizeof l->buffer, error)) {
    if (errno != ENAMETOOLONG)
      return NULL;
    g_clear_error(error);
    return g_strdup(LONG_PATH);
  }
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

struct Scout {
  FileProbe like;
  const CollectedFd *fds;
  size_t n_fds, at; /* of the next sight */
  Sight sight;
  Looker *looker;
};

static void look_at(Scout *s, size_t i) {
  Looker *l = s->looker;
  Sight *sight = &s->sight;
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

Scout *scout_new(const FileProbe *like, const CollectedFd *fds, size_t n_fds, Looker *looker) {
  Scout *s = g_new0(Scout, 1);
  s->like = *like;
  s->fds = fds;
  s->n_fds = n_fds;
  s->looker = looker;
  s->sight.probe.local = -1;
  return s;
}

static void sight_clear(Sight *sight) {
  fd_cleanup(&sight->probe.local);
  sight->probe.local = -1;
  g_clear_pointer(&sight->link, g_free);
  g_clear_error(&sight->error);
}

Sight *scout_next(Scout *s) {
  sight_clear(&s->sight);
  if (s->at == s->n_fds)
    return NULL;
  look_at(s, s->at++);
  return &s->sight;
}

void scout_free(Scout *s) {
  if (!s)
    return;
  sight_clear(&s->sight);
  g_free(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mount namespace, made again: a copy of the engine's own, without ties to it (MS_PRIVATE), becomes a workbench: a tmpfs as root
 * with what the engine usually sees in /old, and the tree's mounts growing in /new. What lies in /old has links of its name in the
 * root, so that whoever works here (a plugin) finds everything where it was. When all is mounted, /new becomes the root, and
 * everything else goes. Mounts with the same parent are made from the deepest on: one may hide another. */
#include "mounts.h"
#include "ns-visit.h"
#include "outside-ends.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#define MOUNT_ATTR_ALL                                                                                                           \
  (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW)
#define NEW "/new"
#define OLD "/old"

typedef struct Making {
  const MountHelp *help;
  const Checkpoint *checkpoint;
  const NsImage *image;
  int net;       /* network namespace for file systems that belong to one; -1: the engine's */
  int old;       /* what the engine has as root (O_PATH) */
  int *fds;      /* of the image's mounts, once made; -1 */
  int *hidden;   /* clones of sources that other mounts hide; -1 */
} Making;

static const MntEntry *mount_at(const Making *m, guint i) {
  return m->image->mounts->pdata[i];
}

static guint index_of(const Making *m, guint32 mnt_id) {
  guint i = 0;
  while (i < m->image->mounts->len && mount_at(m, i)->mnt_id != mnt_id)
    i++;
  return i;
}

static int fail_mount(const MntEntry *e, int reason, const char *what, GError **error) {
  engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, reason, "Cannot mount %s: %s", e->mountpoint, what);
  return -1;
}

static int open_below(int root, const char *path, guint64 resolve) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC | (resolve & RESOLVE_NO_XDEV ? O_NOFOLLOW : 0), .resolve = resolve};
  return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

/* --- the workbench --- */

static int make_tmpfs(void) {
  int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), fd = -1;
  if (fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "mode", "755", 0) == 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
    fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
  if (fs >= 0)
    (void)close(fs);
  return fd;
}

/* Names of the old root that do not exist in the new one lead there. */
static void link_names(int old) {
  int fd = openat(old, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  for (struct dirent *d; dir && (d = readdir(dir));) {
    g_autofree char *to = g_strconcat("old/", d->d_name, NULL);
    if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 && symlinkat(to, AT_FDCWD, d->d_name) < 0)
      continue; /* "old" and "new" are ours */
  }
  if (dir)
    (void)closedir(dir);
}

static bool make_bench(Making *m, GError **error) {
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make the mounts of a new namespace private");
  int bench = make_tmpfs();
  bool ok = bench >= 0 && move_mount(bench, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0 && fchdir(bench) == 0 &&
            mkdir("old", 0755) == 0 && mkdir("new", 0755) == 0 && syscall(SYS_pivot_root, ".", "old") == 0 && chdir("/") == 0;
  int reason = errno;
  if (bench >= 0)
    (void)close(bench);
  m->old = ok ? open(OLD, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
  if (m->old < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, ok ? errno : reason, "Cannot prepare a mount namespace");
  link_names(m->old);
  return true;
}

/* --- file systems --- */

static bool set_options(int fs, const char *options) {
  g_auto(GStrv) all = g_strsplit(options, ",", -1);
  for (char **o = all; *o; o++) {
    char *value = strchr(*o, '=');
    if (!**o || strcmp(*o, "seclabel") == 0)
      continue;
    if (value)
      *value++ = '\0';
    if (fsconfig(fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, *o, value, 0) < 0)
      return false;
  }
  return true;
}

/* A new instance; read-only only when it has its content. */
static int make_filesystem(const Making *m, const MntEntry *e, GError **error) {
  static const struct {
    guint32 type;
    const char *name;
  } names[] = {{FSTYPE__PROC, "proc"}, {FSTYPE__SYSFS, "sysfs"}, {FSTYPE__TMPFS, "tmpfs"}, {FSTYPE__DEVPTS, "devpts"}, {FSTYPE__MQUEUE, "mqueue"}};
  const char *name = NULL;
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
    if (names[i].type == e->fstype)
      name = names[i].name;
  if (!name) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "Nobody says what is mounted at %s (the option external: mnt[%s]:PATH)", e->mountpoint, e->ext_key ? e->ext_key : e->mountpoint);
    return -1;
  }
  NsVisit visit;
  int r = m->net >= 0 ? ns_visit_begin(&visit, CLONE_NEWNET, m->net) : 0;
  if (r < 0)
    return fail_mount(e, -r, "its network namespace", error);
  int fs = fsopen(name, FSOPEN_CLOEXEC), fd = -1;
  if (fs >= 0 && (!*e->source || fsconfig(fs, FSCONFIG_SET_STRING, "source", e->source, 0) == 0) && set_options(fs, e->options) &&
      fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
    fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
  r = errno;
  if (fs >= 0)
    (void)close(fs);
  if (m->net >= 0)
    ns_visit_end(&visit);
  return fd >= 0 ? fd : fail_mount(e, r, name, error);
}

static bool make_readonly(const MntEntry *e, int fd, GError **error) {
  if (!(e->sb_flags & MS_RDONLY))
    return true;
  int fs = fspick(fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
  bool ok = fs >= 0 && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) == 0 && fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == 0;
  int reason = errno;
  if (fs >= 0)
    (void)close(fs);
  return ok || fail_mount(e, reason, "read-only", error) == 0;
}

/* The content is extracted where tar(1) is found: at home. */
static bool fill(const Making *m, const MntEntry *e, int fd, GError **error) {
  NsVisit visit;
  int r = ns_visit_begin(&visit, CLONE_NEWNS, -1);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot come home from a mount namespace");
  bool ok = tmpfs_unpack(m->help->images_fd, e->root_dev, fd, error);
  ns_visit_end(&visit);
  return ok;
}

/* --- sources --- */

static int clone_of(int fd) {
  return open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

/* Of something outside, by its path there. */
static int clone_outside(const Making *m, const MntEntry *e, const char *path, GError **error) {
  int fd = open_below(m->old, path, RESOLVE_IN_ROOT), tree = fd < 0 ? -1 : clone_of(fd), reason = errno;
  if (fd >= 0)
    (void)close(fd);
  if (tree >= 0)
    return tree;
  g_autofree char *what = g_strdup_printf("what it shows is not at %s (put it back, or say what to take instead: the option external, "
                                          "mnt[%s]:PATH)", path, e->ext_key ? e->ext_key : e->mountpoint);
  return fail_mount(e, reason, what, error);
}

/* A part of a mount that was made before. */
static int clone_here(const Making *m, const MntEntry *e, guint32 of, GError **error) {
  guint i = index_of(m, of);
  int root = i < m->image->mounts->len ? m->fds[i] : -1;
  const char *rest = root < 0 ? "" : e->root + (strcmp(mount_at(m, i)->root, "/") == 0 ? 0 : MIN(strlen(mount_at(m, i)->root), strlen(e->root)));
  while (*rest == '/')
    rest++;
  int fd = *rest ? open_below(root, rest, RESOLVE_NO_XDEV | RESOLVE_BENEATH) : root, tree = fd < 0 ? -1 : clone_of(fd), reason = errno;
  if (fd >= 0 && fd != root)
    (void)close(fd);
  return tree >= 0 ? tree : fail_mount(e, reason, "the mount that it shows a part of has not got that", error);
}

static char *text_of(const ProtobufCBinaryData *d) {
  return g_strndup((const char *)d->data, d->len);
}

/* What is to be mounted, as a mount of its own that is nowhere yet; -1 with error. */
static int make_tree(const Making *m, guint i, GError **error) {
  const MntEntry *e = mount_at(m, i);
  const CkptMount *x = checkpoint_find_mount(m->checkpoint, e->mnt_id);
  g_autofree char *named = outside_end_find(m->help->job, "mnt", e->ext_key ? e->ext_key : e->mountpoint);
  const char *given = named ? named : i == 0 ? job_options(m->help->job)->root : NULL;
  if (given)
    return clone_outside(m, e, given, error);
  g_autofree char *source = x && x->has_source ? text_of(&x->source) : NULL;
  if (m->hidden[i] >= 0)
    return fcntl(m->hidden[i], F_DUPFD_CLOEXEC, 0);
  if (source)
    return clone_outside(m, e, source, error);
  if (x && x->has_bind_of)
    return clone_here(m, e, x->bind_of, error);
  int fd = make_filesystem(m, e, error);
  if (fd >= 0 && ((x && x->content && !fill(m, e, fd, error)) || !make_readonly(e, fd, error))) {
    (void)close(fd);
    fd = -1;
  }
  return fd;
}

/* In a copy of the namespace more, which is for nothing else: what lies over a source is unmounted there. */
static int clone_hidden(const char *path, guint32 depth) {
  NsVisit visit;
  int ns = -1, tree = -1, fd = ns_visit_new(&visit, CLONE_NEWNS, &ns) < 0 ? -1 : open("/", O_PATH | O_CLOEXEC);
  if (ns < 0)
    return -1;
  bool ok = fd >= 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
  for (guint32 i = 0; ok && i < depth; i++)
    ok = umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
  int top = ok ? open_below(fd, path, RESOLVE_IN_ROOT) : -1;
  if (top >= 0) {
    tree = clone_of(top);
    (void)close(top);
  }
  if (fd >= 0)
    (void)close(fd);
  ns_visit_end(&visit);
  (void)close(ns);
  return tree;
}

/* Before the workbench is there. */
static bool find_hidden(Making *m, GError **error) {
  for (guint i = 0; i < m->image->mounts->len; i++) {
    const CkptMount *x = checkpoint_find_mount(m->checkpoint, mount_at(m, i)->mnt_id);
    if (!x || !x->has_source || !x->depth)
      continue;
    g_autofree char *path = text_of(&x->source);
    m->hidden[i] = clone_hidden(path, x->depth);
    if (m->hidden[i] < 0)
      return fail_mount(mount_at(m, i), errno, "what it shows is not there, hidden by another mount, any more", error) == 0;
  }
  return true;
}

/* --- mounting --- */

static bool set_attributes(const MntEntry *e, int fd, GError **error) {
  static const struct {
    guint64 flag, attribute;
  } map[] = {{MS_RDONLY, MOUNT_ATTR_RDONLY}, {MS_NOSUID, MOUNT_ATTR_NOSUID}, {MS_NODEV, MOUNT_ATTR_NODEV}, {MS_NOEXEC, MOUNT_ATTR_NOEXEC},
      {MS_NODIRATIME, MOUNT_ATTR_NODIRATIME}, {256 /* MS_NOSYMFOLLOW */, MOUNT_ATTR_NOSYMFOLLOW}};
  struct mount_attr a = {.attr_clr = MOUNT_ATTR_ALL | MOUNT_ATTR__ATIME, .propagation = MS_PRIVATE};
  for (size_t i = 0; i < G_N_ELEMENTS(map); i++)
    a.attr_set |= e->flags & map[i].flag ? map[i].attribute : 0;
  a.attr_set |= e->flags & MS_NOATIME ? MOUNT_ATTR_NOATIME : e->flags & MS_RELATIME ? MOUNT_ATTR_RELATIME : MOUNT_ATTR_STRICTATIME;
  return mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof a) == 0 || fail_mount(e, errno, "its flags", error) == 0;
}

static char *target_of(const MntEntry *e) {
  return g_strdup_printf(NEW "%s", strcmp(e->mountpoint, "/") == 0 ? "" : e->mountpoint);
}

/* Where it goes: a place in its parent's mount, which nothing covers yet. *ret_fd may be the parent's own descriptor. */
static int open_place(const Making *m, guint i, GError **error) {
  const MntEntry *e = mount_at(m, i);
  guint p = i ? index_of(m, e->parent_mnt_id) : 0;
  if (i == 0)
    return open(NEW, O_PATH | O_DIRECTORY | O_CLOEXEC);
  const char *above = mount_at(m, p)->mountpoint, *rest = e->mountpoint + (strcmp(above, "/") == 0 ? 0 : strlen(above));
  while (*rest == '/')
    rest++;
  int fd = *rest ? open_below(m->fds[p], rest, RESOLVE_NO_XDEV | RESOLVE_BENEATH) : fcntl(m->fds[p], F_DUPFD_CLOEXEC, 0);
  return fd >= 0 ? fd : fail_mount(e, errno, "there is no place for it (a directory or file of that name) in the mount that it lies on", error);
}

static guint64 mount_id(int fd) {
  struct statx sx;
  return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) == 0 ? sx.stx_mnt_id : 0;
}

/* A detached mount, what can be mounted here, or at home; or what the plugin has mounted there by itself, whose descriptor stays. */
static int tree_of_answer(const Making *m, const MntEntry *e, int given, bool *ret_there, GError **error) {
  g_autofree char *target = target_of(e);
  int there = open(target, O_PATH | O_CLOEXEC);
  guint64 id = there >= 0 ? mount_id(there) : 0;
  *ret_there = id && id == mount_id(given) && id != mount_id(m->fds[index_of(m, e->parent_mnt_id)]);
  if (there >= 0)
    (void)close(there);
  if (*ret_there)
    return fcntl(given, F_DUPFD_CLOEXEC, 0);
  int tree = clone_of(given), reason = errno;
  NsVisit visit;
  if (tree < 0 && ns_visit_begin(&visit, CLONE_NEWNS, -1) == 0) {
    tree = clone_of(given);
    reason = errno;
    ns_visit_end(&visit);
  }
  return tree >= 0 ? tree : fail_mount(e, reason, "the plugin's answer is nothing that can be mounted", error);
}

static int ask_plugin(const Making *m, const MntEntry *e, bool *ret_there, GError **error) {
  g_autofree char *target = target_of(e);
  const MountQuestion q = {.id = e->mnt_id, .mountpoint = e->mountpoint, .fstype = e->fsname, .source = e->source, .root = e->root,
      .fd = -1, .target = target, .outside = OLD};
  int given = m->help->ask(m->help->data, &q, error);
  if (given < 0)
    return -1;
  int tree = tree_of_answer(m, e, given, ret_there, error);
  (void)close(given);
  return tree;
}

static bool mount_one(Making *m, guint i, GError **error) {
  const MntEntry *e = mount_at(m, i);
  bool there = false;
  if (i && m->fds[index_of(m, e->parent_mnt_id)] < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "mountpoints-%u.img: mount %u comes before its parent", m->image->id, e->mnt_id);
  m->fds[i] = i && e->has_with_plugin && e->with_plugin ? ask_plugin(m, e, &there, error) : make_tree(m, i, error);
  if (m->fds[i] < 0 || !set_attributes(e, m->fds[i], error))
    return false;
  if (there)
    return true;
  int place = open_place(m, i, error);
  if (place < 0)
    return false;
  bool ok = move_mount(m->fds[i], "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0 ||
            fail_mount(e, errno, "there", error) == 0;
  (void)close(place);
  return ok;
}

typedef struct Order {
  guint index, depth; /* of its parents */
  size_t length;
} Order;

static int compare_order(const void *a, const void *b) {
  const Order *x = a, *y = b;
  if (x->depth != y->depth)
    return x->depth < y->depth ? -1 : 1;
  if (x->length != y->length)
    return x->length > y->length ? -1 : 1;
  return x->index < y->index ? -1 : 1;
}

/* What shows a part of another comes after that one, and waits. */
static bool is_waiting(const Making *m, guint i) {
  const CkptMount *x = checkpoint_find_mount(m->checkpoint, mount_at(m, i)->mnt_id);
  guint of = x && x->has_bind_of ? index_of(m, x->bind_of) : 0;
  return x && x->has_bind_of && (of >= m->image->mounts->len || m->fds[of] < 0);
}

static bool mount_all(Making *m, GError **error) {
  guint n = m->image->mounts->len, left = n, before = n + 1;
  g_autofree Order *order = g_new0(Order, n + 1);
  for (guint i = 0; i < n; i++) {
    guint p = i ? index_of(m, mount_at(m, i)->parent_mnt_id) : 0;
    order[i].index = i, order[i].length = strlen(mount_at(m, i)->mountpoint);
    for (guint k = 0; i && k < i; k++)
      order[i].depth = order[k].index == p ? order[k].depth + 1 : order[i].depth;
  }
  qsort(order, n, sizeof *order, compare_order);
  while (left && left < before) {
    before = left;
    for (guint k = 0; k < n; k++) {
      guint i = order[k].index;
      guint p = i ? index_of(m, mount_at(m, i)->parent_mnt_id) : 0;
      if (m->fds[i] >= 0 || (i && m->fds[p] < 0) || is_waiting(m, i))
        continue;
      if (!mount_one(m, i, error) || !job_poll(m->help->job, error))
        return false;
      left--;
    }
  }
  return !left || engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "mountpoints-%u.img: mounts wait for each other", m->image->id);
}

/* --- propagation --- */

/* Of a mount that is outside: by its path there, before /old is gone. */
static bool join_outside(const Making *m, int fd, const MntEntry *e, const ProtobufCBinaryData *path, GError **error) {
  g_autofree char *text = text_of(path);
  NsVisit visit;
  int r = ns_visit_begin(&visit, CLONE_NEWNS, -1);
  if (r < 0)
    return fail_mount(e, -r, "its peers", error) == 0;
  int peer = open(text, O_PATH | O_CLOEXEC);
  r = peer < 0 || move_mount(peer, "", fd, "", MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? errno : 0;
  if (peer >= 0)
    (void)close(peer);
  ns_visit_end(&visit);
  if (r) /* of a private one nobody can be a peer */
    job_log(m->help->job, 4, "mount %s is no peer of %s outside any more: %s", e->mountpoint, text, g_strerror(r));
  return true;
}

/* The first mount of the namespace with that peer group that has joined it; -1. */
static int find_peer(const Making *m, guint32 group, guint before) {
  for (guint i = 0; i < before; i++)
    if (mount_at(m, i)->has_shared_id && mount_at(m, i)->shared_id == group)
      return m->fds[i];
  return -1;
}

static bool set_propagation(const MntEntry *e, int fd, guint64 how, GError **error) {
  struct mount_attr a = {.propagation = how};
  return mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof a) == 0 || fail_mount(e, errno, "its propagation", error) == 0;
}

static bool join(const Making *m, int from, guint i, GError **error) {
  return move_mount(from, "", m->fds[i], "", MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0 ||
         fail_mount(mount_at(m, i), errno, "its peers", error) == 0;
}

static bool follow_master(const Making *m, guint i, const CkptMount *x, GError **error) {
  const MntEntry *e = mount_at(m, i);
  int master = find_peer(m, e->master_id, m->image->mounts->len);
  if (x && x->has_slave_of) {
    if (!join_outside(m, m->fds[i], e, &x->slave_of, error))
      return false;
  } else if (master >= 0 && !join(m, master, i, error)) {
    return false;
  }
  return set_propagation(e, m->fds[i], MS_SLAVE, error);
}

static bool share(const Making *m, guint i, bool slaves, GError **error) {
  const MntEntry *e = mount_at(m, i);
  const CkptMount *x = checkpoint_find_mount(m->checkpoint, e->mnt_id);
  bool slave = e->has_master_id && e->master_id, shared = e->has_shared_id && e->shared_id;
  if (x && x->unbindable)
    return set_propagation(e, m->fds[i], MS_UNBINDABLE, error);
  if (slave != slaves || (!slave && !shared))
    return true;
  int peer = shared ? find_peer(m, e->shared_id, i) : -1;
  if (peer >= 0)
    return join(m, peer, i, error); /* and what it follows, too */
  if (slave && !follow_master(m, i, x, error))
    return false;
  if (shared && !slave && x && x->has_shared_with && !join_outside(m, m->fds[i], e, &x->shared_with, error))
    return false;
  return !shared || set_propagation(e, m->fds[i], MS_SHARED, error);
}

/* Groups first, then those that follow them. */
static bool share_all(const Making *m, GError **error) {
  for (int slaves = 0; slaves < 2; slaves++)
    for (guint i = 0; i < m->image->mounts->len; i++)
      if (!share(m, i, slaves != 0, error))
        return false;
  return true;
}

/* --- all of it --- */

static bool leave_bench(GError **error) {
  return (chdir(NEW) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0) ||
         engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot finish a mount namespace");
}

static void close_both(int a, int b) {
  if (a >= 0)
    (void)close(a);
  if (b >= 0)
    (void)close(b);
}

bool mounts_make(const MountHelp *help, const Checkpoint *checkpoint, const NsImage *image, NsEntry *entry, int net, GError **error) {
  Making m = {.help = help, .checkpoint = checkpoint, .image = image, .net = net, .old = -1};
  NsVisit visit;
  int r = ns_visit_new(&visit, CLONE_NEWNS, &entry->fd);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot make a mount namespace");
  m.fds = g_new(int, image->mounts->len);
  m.hidden = g_new(int, image->mounts->len);
  for (guint i = 0; i < image->mounts->len; i++)
    m.fds[i] = m.hidden[i] = -1;
  bool ok = find_hidden(&m, error) && make_bench(&m, error) && mount_all(&m, error) && leave_bench(error) && share_all(&m, error);
  entry->root = ok ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
  for (guint i = 0; i < image->mounts->len; i++)
    close_both(m.fds[i], m.hidden[i]);
  g_free(m.fds);
  g_free(m.hidden);
  if (m.old >= 0)
    (void)close(m.old);
  ns_visit_end(&visit);
  return ok;
}

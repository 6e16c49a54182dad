/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mountinfo.h"
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
#include <sys/sysmacros.h>
#include <unistd.h>

typedef struct Looking {
  const MountHelp *help;
  Checkpoint *checkpoint;
  NsEntry *entry;
  GArray *home, *mounts; /* MountInfo */
  int *roots;            /* of @mounts: O_PATH; -1: hidden under another mount */
  int *contents;         /* of those that have content of their own: the mount alone; -1 */
} Looking;

static const struct {
  const char *name;
  Fstype type;
  bool made; /* by nothing but mount(2) */
} types[] = {
    {"proc", FSTYPE__PROC, true}, {"sysfs", FSTYPE__SYSFS, true}, {"devtmpfs", FSTYPE__DEVTMPFS, false},
    {"binfmt_misc", FSTYPE__BINFMT_MISC, false}, {"tmpfs", FSTYPE__TMPFS, false}, {"devpts", FSTYPE__DEVPTS, true},
    {"simfs", FSTYPE__SIMFS, false}, {"pstore", FSTYPE__PSTORE, false}, {"securityfs", FSTYPE__SECURITYFS, false},
    {"fusectl", FSTYPE__FUSECTL, false}, {"debugfs", FSTYPE__DEBUGFS, false}, {"cgroup", FSTYPE__CGROUP, false},
    {"cgroup2", FSTYPE__CGROUP2, false}, {"aufs", FSTYPE__AUFS, false}, {"mqueue", FSTYPE__MQUEUE, true},
    {"fuse", FSTYPE__FUSE, false}, {"overlay", FSTYPE__OVERLAYFS, false}, {"autofs", FSTYPE__AUTOFS, false},
    {"tracefs", FSTYPE__TRACEFS, false}};

static Fstype type_of(const char *name, bool *ret_made) {
  for (size_t i = 0; i < G_N_ELEMENTS(types); i++)
    if (strcmp(types[i].name, name) == 0) {
      *ret_made = types[i].made;
      return types[i].type;
    }
  *ret_made = false;
  return FSTYPE__UNSUPPORTED;
}

static MountInfo *mount_at(const GArray *mounts, guint i) {
  return &g_array_index(mounts, MountInfo, i);
}

/* --- what can be seen --- */

static int open_in(int root, const char *path) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW, .resolve = RESOLVE_IN_ROOT};
  return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

static bool is_in_mount(int fd, int mnt_id) {
  struct statx sx;
  return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) == 0 && sx.stx_mask & STATX_MNT_ID && sx.stx_mnt_id == (guint64)mnt_id;
}

/* What a path shows, if it is in that mount. */
static int open_seen(int root, const char *path, int mnt_id) {
  int fd = open_in(root, path);
  if (fd >= 0 && !is_in_mount(fd, mnt_id)) {
    (void)close(fd);
    fd = -1;
  }
  return fd;
}

/* Parents before their children, the root first: as the kernel lists them, but for what was moved. */
static void sort_mounts(GArray *mounts) {
  g_autofree MountInfo *sorted = g_new(MountInfo, mounts->len + 1);
  g_autoptr(GHashTable) all = g_hash_table_new(NULL, NULL), done = g_hash_table_new(NULL, NULL);
  guint n = 0, before = 1;
  for (guint i = 0; i < mounts->len; i++)
    g_hash_table_add(all, GINT_TO_POINTER(mount_at(mounts, i)->id));
  while (n != before && n < mounts->len) {
    before = n;
    for (guint i = 0; i < mounts->len; i++) {
      const MountInfo *m = mount_at(mounts, i);
      bool root = m->parent == m->id || !g_hash_table_contains(all, GINT_TO_POINTER(m->parent));
      if (g_hash_table_contains(done, GINT_TO_POINTER(m->id)) || (!root && !g_hash_table_contains(done, GINT_TO_POINTER(m->parent))))
        continue;
      g_hash_table_add(done, GINT_TO_POINTER(m->id));
      sorted[n++] = *m;
    }
  }
  if (n == mounts->len)
    memcpy(mounts->data, sorted, n * sizeof *sorted);
}

static bool look(Looking *l, GError **error) {
  int fd = ns_visit_open_proc("self/mountinfo", O_RDONLY);
  l->home = mountinfo_read(fd, error);
  if (fd >= 0)
    (void)close(fd);
  NsVisit visit;
  int r = l->home ? ns_visit_begin(&visit, CLONE_NEWNS, l->entry->fd) : 0;
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot look into the mount namespace of pid %d", (int)l->entry->pid);
  if (!l->home)
    return false;
  l->entry->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  fd = ns_visit_open_proc("self/mountinfo", O_RDONLY);
  l->mounts = mountinfo_read(fd, error);
  if (fd >= 0)
    (void)close(fd);
  ns_visit_end(&visit);
  if (!l->mounts)
    return false;
  sort_mounts(l->mounts);
  l->roots = g_new(int, l->mounts->len + 1);
  l->contents = g_new(int, l->mounts->len + 1);
  for (guint i = 0; i < l->mounts->len; i++) {
    l->roots[i] = open_seen(l->entry->root, mount_at(l->mounts, i)->mountpoint, mount_at(l->mounts, i)->id);
    l->contents[i] = -1;
  }
  return l->mounts->len > 0 || engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The mount namespace of pid %d has no mounts", (int)l->entry->pid);
}

/* --- where it comes from --- */

/* What is left of @root below @top; NULL: it does not lie there. */
static const char *below(const char *root, const char *top) {
  size_t n = strcmp(top, "/") == 0 ? 0 : strlen(top);
  const char *rest = strncmp(root, top, n) == 0 && (!root[n] || root[n] == '/') ? root + n : NULL;
  return rest && strcmp(rest, "/") == 0 ? "" : rest;
}

static bool same_inode(int a, int b) {
  struct stat x, y;
  return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static char *path_in(const MountInfo *h, const char *rest) {
  const char *top = strcmp(h->mountpoint, "/") == 0 && *rest ? "" : h->mountpoint;
  return g_strconcat(top, rest, NULL);
}

/* The path outside at which the same can be seen, newly allocated; NULL: none. *ret_same: it is mounted there just so. */
static char *find_outside(const Looking *l, guint i, bool *ret_same) {
  const MountInfo *m = mount_at(l->mounts, i);
  char *found = NULL;
  int home = open("/", O_PATH | O_CLOEXEC);
  *ret_same = false;
  for (guint k = 0; k < l->home->len && !*ret_same && !m->deleted; k++) {
    const MountInfo *h = mount_at(l->home, k);
    const char *rest = h->dev == m->dev ? below(m->root, h->root) : NULL;
    bool same = rest && !*rest && strcmp(h->mountpoint, m->mountpoint) == 0;
    if (!rest || (found && !same))
      continue;
    g_autofree char *path = path_in(h, rest);
    int fd = open_seen(home, path, h->id);
    if (fd >= 0 && (l->roots[i] < 0 || same_inode(fd, l->roots[i]))) {
      g_free(found);
      found = g_steal_pointer(&path);
      *ret_same = same;
    }
    if (fd >= 0)
      (void)close(fd);
  }
  (void)close(home);
  return found;
}

/* The one that lies over @m at its very place; NULL: none. */
static const MountInfo *find_cover(const GArray *mounts, const MountInfo *m) {
  for (guint k = 0; k < mounts->len; k++) {
    const MountInfo *other = mount_at(mounts, k);
    if (other != m && other->parent == m->id && strcmp(other->mountpoint, m->mountpoint) == 0)
      return other;
  }
  return NULL;
}

/* What nobody can see here is where it is outside, hidden just so; *ret_depth: under how many. NULL: no. */
static char *find_hidden(const Looking *l, guint i, guint32 *ret_depth) {
  const MountInfo *m = mount_at(l->mounts, i), *twin = NULL;
  for (guint k = 0; k < l->home->len && !twin && l->roots[i] < 0; k++) {
    const MountInfo *h = mount_at(l->home, k);
    if (h->dev == m->dev && strcmp(h->root, m->root) == 0 && strcmp(h->mountpoint, m->mountpoint) == 0)
      twin = h;
  }
  const MountInfo *top = twin;
  for (const MountInfo *cover = twin; cover; cover = find_cover(l->home, cover)) {
    *ret_depth += cover != twin;
    top = cover;
  }
  int home = twin ? open("/", O_PATH | O_CLOEXEC) : -1, fd = twin ? open_seen(home, top->mountpoint, top->id) : -1;
  if (home >= 0)
    (void)close(home);
  if (fd >= 0)
    (void)close(fd);
  return fd >= 0 && *ret_depth ? g_strdup(m->mountpoint) : NULL;
}

/* A mount before it that shows the same file system, or more of it. */
static const MountInfo *find_here(const Looking *l, guint i) {
  const MountInfo *m = mount_at(l->mounts, i);
  for (guint k = 0; k < i; k++) {
    const MountInfo *other = mount_at(l->mounts, k);
    if (other->dev == m->dev && !m->deleted && below(m->root, other->root))
      return other;
  }
  return NULL;
}

static const char *outside_of_group(const Looking *l, int group) {
  for (guint k = 0; group && k < l->home->len; k++)
    if (mount_at(l->home, k)->shared == group)
      return mount_at(l->home, k)->mountpoint;
  return NULL;
}

/* --- entries --- */

static void set_bytes(ProtobufCBinaryData *d, protobuf_c_boolean *has, const char *text) {
  *has = text != NULL;
  d->len = text ? strlen(text) : 0;
  d->data = text ? (uint8_t *)strdup(text) : NULL;
}

static guint32 number_of(dev_t dev) {
  return (guint32)(major(dev) << 20 | minor(dev));
}

static MntEntry *entry_new(const Looking *l, guint i, guint32 id) {
  const MountInfo *m = mount_at(l->mounts, i);
  MntEntry *e = malloc(sizeof *e);
  bool made;
  mnt_entry__init(e);
  e->fstype = type_of(m->fstype, &made);
  e->fsname = e->fstype == FSTYPE__UNSUPPORTED ? strdup(m->fstype) : NULL;
  e->mnt_id = id;
  e->root_dev = number_of(m->dev);
  const MntEntry *parent = g_hash_table_lookup(l->entry->mounts, GINT_TO_POINTER(m->parent));
  e->parent_mnt_id = parent ? parent->mnt_id : (guint32)m->parent;
  e->flags = (guint32)m->flags;
  e->has_sb_flags = true;
  e->sb_flags = (guint32)m->sb_flags;
  e->root = strdup(m->root);
  e->mountpoint = strdup(m->mountpoint);
  e->source = strdup(m->source);
  e->options = strdup(m->options);
  e->has_shared_id = m->shared != 0;
  e->shared_id = (guint32)m->shared;
  e->has_master_id = m->master != 0;
  e->master_id = (guint32)m->master;
  return e;
}

static CkptMount *details_new(const Looking *l, guint i, guint32 id) {
  const MountInfo *m = mount_at(l->mounts, i);
  CkptMount *x = malloc(sizeof *x);
  ckpt_mount__init(x);
  x->mnt_id = id;
  set_bytes(&x->shared_with, &x->has_shared_with, outside_of_group(l, m->shared));
  set_bytes(&x->slave_of, &x->has_slave_of, outside_of_group(l, m->master));
  x->has_unbindable = x->unbindable = m->unbindable;
  return x;
}

/* --- each mount --- */

static void block(const Looking *l, const MountInfo *m, const char *reason, const char *cure) {
  g_autofree char *object = g_strdup_printf("pid %d: mount %s (%s)", (int)l->entry->pid, m->mountpoint, m->fstype);
  job_block(l->help->job, "mount", l->entry->pid, -1, object, reason, cure);
}

/* What Explain shows of a mount from outside. */
static void note(const Looking *l, const MountInfo *m, const char *action, const char *rule) {
  g_autofree char *object = g_strdup_printf("pid %d: mount %s (%s)", (int)l->entry->pid, m->mountpoint, m->fstype);
  job_note(l->help->job, "mount", l->entry->pid, -1, object, action, rule);
}

#define CURE                                                                                                                     \
  "a plugin for mounts, or the option external (mnt[MOUNTPOINT]:NAME, and at the restore mnt[NAME]:PATH); or unmount it before the dump"

/* Whether somebody is asked, and has it. *ret_unasked: plugins that only a dump asks; newly allocated. */
static bool offer(Looking *l, guint i, MntEntry *e, bool *ret_done, char **ret_unasked, GError **error) {
  const MountInfo *m = mount_at(l->mounts, i);
  const MountQuestion q = {.id = e->mnt_id, .pid = l->entry->pid, .mountpoint = m->mountpoint, .fstype = m->fstype, .source = m->source,
      .root = m->root, .dev = m->dev, .fd = l->roots[i]};
  g_autofree char *reason = NULL, *cure = NULL;
  bool taken = false;
  if (!l->help->offer(l->help->data, &q, &taken, &reason, &cure, ret_unasked, error))
    return false;
  if (reason)
    block(l, m, reason, cure ? cure : CURE);
  e->has_with_plugin = e->with_plugin = taken;
  *ret_done = taken || reason;
  return true;
}

/* Of one that must not be bound anywhere (MS_UNBINDABLE): in a copy of the namespace, where that is forgotten. */
static int clone_unbindable(const char *mountpoint) {
  struct mount_attr a = {.propagation = MS_PRIVATE};
  NsVisit visit;
  int ns = -1, tree = -1, fd = ns_visit_new(&visit, CLONE_NEWNS, &ns) < 0 ? -1 : open(mountpoint, O_PATH | O_CLOEXEC);
  if (ns < 0)
    return -1;
  if (fd >= 0 && mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof a) == 0)
    tree = open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (fd >= 0)
    (void)close(fd);
  ns_visit_end(&visit);
  (void)close(ns);
  return tree;
}

/* The mount without those on it, for its content; made in the namespace itself. */
static bool open_content(Looking *l, guint i, GError **error) {
  NsVisit visit;
  if (l->help->images_fd < 0)
    return true;
  int r = ns_visit_begin(&visit, CLONE_NEWNS, l->entry->fd);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot look into the mount namespace of pid %d", (int)l->entry->pid);
  const MountInfo *m = mount_at(l->mounts, i);
  l->contents[i] = m->unbindable ? clone_unbindable(m->mountpoint)
                                 : open_tree(l->roots[i], "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  r = errno;
  ns_visit_end(&visit);
  return l->contents[i] >= 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot look into the mount %s", m->mountpoint);
}

static bool keep_content(Looking *l, guint i, const MntEntry *e, CkptMount *x, GError **error) {
  const MountInfo *m = mount_at(l->mounts, i);
  if (l->roots[i] < 0) {
    block(l, m, "it is hidden under another mount, and what is in it cannot be read", "unmount what covers it, or it");
    return true;
  }
  if (m->deleted || strcmp(m->root, "/") != 0) {
    block(l, m, "it shows a part of a file system that is mounted nowhere as a whole", CURE);
    return true;
  }
  x->has_content = x->content = true;
  if (!open_content(l, i, error))
    return false;
  return l->help->images_fd < 0 || tmpfs_pack(l->help->images_fd, e->root_dev, l->contents[i], error);
}

/* Terminals that somebody has, or may have, open. */
static bool has_terminals(int root) {
  int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  bool any = false;
  for (struct dirent *d; dir && (d = readdir(dir));)
    any |= g_ascii_isdigit(d->d_name[0]);
  if (dir)
    (void)closedir(dir);
  return any;
}

/* A file system that is mounted nowhere else. */
static bool collect_own(Looking *l, guint i, const MntEntry *e, CkptMount *x, const char *unasked, GError **error) {
  const MountInfo *m = mount_at(l->mounts, i);
  bool made;
  Fstype type = type_of(m->fstype, &made);
  g_autofree char *cure = unasked ? g_strdup_printf(CURE " (only a dump asks the plugins %s)", unasked) : g_strdup(CURE);
  if (type == FSTYPE__TMPFS)
    return keep_content(l, i, e, x, error);
  if (!made || strcmp(m->root, "/") != 0)
    block(l, m, "what is mounted there is mounted nowhere outside, and is not of a kind that can be made again", cure);
  else if (type == FSTYPE__DEVPTS && l->roots[i] >= 0 && has_terminals(l->roots[i]))
    block(l, m, "it is an instance of its own with terminals in it, which cannot be brought back yet",
        "have the program use the terminals of the machine (mount --bind /dev/pts), or close them");
  return true;
}

static bool collect_mount(Looking *l, guint i, MntEntry *e, CkptMount *x, GError **error) {
  const MountInfo *m = mount_at(l->mounts, i);
  g_autofree char *key = outside_end_find(l->help->job, "mnt", m->mountpoint);
  g_autofree char *unasked = NULL;
  bool same = false, done = false;
  if (key) {
    g_autofree char *rule = g_strdup_printf("option external: mnt[%s]%s%s", m->mountpoint, *key ? ":" : "", key);
    note(l, m, "given at the restore", rule);
    e->has_ext_mount = e->ext_mount = true;
    e->ext_key = strdup(key);
    return true;
  }
  guint32 depth = 0;
  g_autofree char *source = find_outside(l, i, &same);
  if (!source && (source = find_hidden(l, i, &depth)))
    same = true;
  const MountInfo *here = source ? NULL : find_here(l, i);
  bool made, plain = same || here || (!source && (type_of(m->fstype, &made) == FSTYPE__TMPFS || made));
  if (!plain && !offer(l, i, e, &done, &unasked, error))
    return false;
  if (done)
    return true;
  if (source && !same)
    note(l, m, "mounted from outside again", "built in: it shows what is there");
  if (source) {
    set_bytes(&x->source, &x->has_source, source);
    x->has_depth = depth > 0;
    x->depth = depth;
    e->has_ext_mount = e->ext_mount = true; /* so that criu asks where it is, too */
    e->ext_key = strdup(m->mountpoint);
    return true;
  }
  if (!here)
    return collect_own(l, i, e, x, unasked, error);
  x->has_bind_of = true;
  x->bind_of = ((const MntEntry *)g_hash_table_lookup(l->entry->mounts, GINT_TO_POINTER(here->id)))->mnt_id;
  return true;
}

/* No order of mount(2) makes that again. */
static void check_place(const Looking *l, guint i) {
  const MountInfo *m = mount_at(l->mounts, i);
  for (guint k = 0; k < i; k++) {
    const MountInfo *other = mount_at(l->mounts, k);
    if (i && k && other->parent == m->parent && strcmp(other->mountpoint, m->mountpoint) == 0)
      block(l, m, "there are two mounts at the same place of the same mount", "unmount one of them");
  }
}

static bool collect_all(Looking *l, NsImage *image, GError **error) {
  l->entry->mounts = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < l->mounts->len; i++) {
    guint32 id = l->help->new_id(l->help->data);
    MntEntry *e = entry_new(l, i, id);
    CkptMount *x = details_new(l, i, id);
    g_hash_table_insert(l->entry->mounts, GINT_TO_POINTER(mount_at(l->mounts, i)->id), e);
    g_ptr_array_add(image->mounts, e);
    g_ptr_array_add(l->checkpoint->mounts, x);
    check_place(l, i);
    if (!collect_mount(l, i, e, x, error) || !job_poll(l->help->job, error))
      return false;
  }
  return true;
}

bool mounts_collect(const MountHelp *help, Checkpoint *checkpoint, NsEntry *entry, NsImage *image, GError **error) {
  Looking l = {.help = help, .checkpoint = checkpoint, .entry = entry};
  bool ok = look(&l, error) && collect_all(&l, image, error);
  for (guint i = 0; l.roots && i < l.mounts->len; i++) {
    if (l.roots[i] >= 0)
      (void)close(l.roots[i]);
    if (l.contents[i] >= 0)
      (void)close(l.contents[i]);
  }
  g_free(l.roots);
  g_free(l.contents);
  g_clear_pointer(&l.home, g_array_unref);
  g_clear_pointer(&l.mounts, g_array_unref);
  return ok;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control groups (cgroups(7)): which ones tasks and threads are in, and what these groups and those above them are set to. */
#include "cgroup-fs.h"
#include "cgroup.pb-c.h"
#include "collect.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_PROPERTY 65536

typedef struct Groups {
  CgroupEntry *entry;
  GHashTable *sets;   /* text of /proc/PID/cgroup -> id */
  GHashTable *dirs;   /* "controllers\npath" */
  GHashTable *mounts; /* controllers -> path, "" for nowhere */
  const char *mountinfo;
} Groups;

static const char *mount_of(Groups *g, const char *controllers) {
  char *known = g_hash_table_lookup(g->mounts, controllers);
  if (!known) {
    char *mount = cgroup_fs_mount(g->mountinfo, controllers);
    known = mount ? mount : g_strdup("");
    g_hash_table_insert(g->mounts, g_strdup(controllers), known);
  }
  return known;
}

static CgroupPerms *perms_of(const struct stat *st) {
  CgroupPerms *p = malloc(sizeof *p);
  cgroup_perms__init(p);
  p->mode = st->st_mode & 07777, p->uid = st->st_uid, p->gid = st->st_gid;
  return p;
}

static void add_property(CgroupDirEntry *d, const char *directory, const char *name) {
  g_autofree char *path = g_build_filename(directory, name, NULL);
  g_autofree char *value = NULL;
  gsize size = 0;
  struct stat st;
  if (stat(path, &st) < 0 || !(st.st_mode & 0222 || strcmp(name, CGROUP_DEVICES) == 0) || !g_file_get_contents(path, &value, &size, NULL) ||
      size > MAX_PROPERTY)
    return; /* this kernel, or this group, has no such thing */
  CgroupPropEntry *p = malloc(sizeof *p);
  cgroup_prop_entry__init(p);
  p->name = strdup(name);
  p->value = strdup(g_strchomp(value));
  p->perms = perms_of(&st);
  d->properties = realloc(d->properties, (d->n_properties + 1) * sizeof *d->properties);
  d->properties[d->n_properties++] = p;
}

static CgControllerEntry *controller_of(Groups *g, const char *controllers) {
  for (size_t i = 0; i < g->entry->n_controllers; i++)
    if (strcmp(g->entry->controllers[i]->cnames[0], controllers) == 0)
      return g->entry->controllers[i];
  CgControllerEntry *c = malloc(sizeof *c);
  cg_controller_entry__init(c);
  c->cnames = malloc(sizeof *c->cnames);
  c->cnames[c->n_cnames++] = strdup(controllers);
  g->entry->controllers = realloc(g->entry->controllers, (g->entry->n_controllers + 1) * sizeof *g->entry->controllers);
  g->entry->controllers[g->entry->n_controllers++] = c;
  return c;
}

static void add_dir(Groups *g, const char *controllers, const char *path) {
  g_autofree char *key = g_strconcat(controllers, "\n", path, NULL);
  const char *mount = mount_of(g, controllers);
  g_autofree char *directory = g_strconcat(mount, path, NULL);
  struct stat st;
  if (!*mount || stat(directory, &st) < 0 || !g_hash_table_add(g->dirs, g_strdup(key)))
    return;
  CgroupDirEntry *d = malloc(sizeof *d);
  cgroup_dir_entry__init(d);
  d->dir_name = strdup(path);
  d->dir_perms = perms_of(&st);
  for (const char *const *name = cgroup_fs_properties(!*controllers); *name; name++)
    if (cgroup_fs_may_have(controllers, *name))
      add_property(d, directory, *name);
  CgControllerEntry *c = controller_of(g, controllers);
  c->dirs = realloc(c->dirs, (c->n_dirs + 1) * sizeof *c->dirs);
  c->dirs[c->n_dirs++] = d;
}

/* A group and all above it, but for the root, which is the machine's; those above first. */
static void add_dirs(Groups *g, const char *controllers, const char *path) {
  for (const char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
    g_autofree char *above = g_strndup(path, (gsize)(at - path));
    add_dir(g, controllers, above);
  }
  if (path[1])
    add_dir(g, controllers, path);
}

/* The set of groups that a line of /proc/PID/cgroup each names. */
static guint32 intern_set(Groups *g, const char *text, bool properties) {
  guint32 known = GPOINTER_TO_UINT(g_hash_table_lookup(g->sets, text));
  if (known)
    return known;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  CgSetEntry *s = malloc(sizeof *s);
  cg_set_entry__init(s);
  s->id = (guint32)g->entry->n_sets + 1;
  s->ctls = calloc(g_strv_length(lines) + 1, sizeof *s->ctls);
  for (char **l = lines; *l; l++) {
    g_auto(GStrv) f = g_strsplit(*l, ":", 3);
    if (g_strv_length(f) != 3)
      continue;
    CgMemberEntry *m = s->ctls[s->n_ctls++] = malloc(sizeof *m);
    cg_member_entry__init(m);
    m->name = strdup(f[1]);
    m->path = strdup(f[2]);
    if (properties && cgroup_fs_is_path(f[2]))
      add_dirs(g, f[1], f[2]);
  }
  g->entry->sets = realloc(g->entry->sets, (g->entry->n_sets + 1) * sizeof *g->entry->sets);
  g->entry->sets[g->entry->n_sets++] = s;
  g_hash_table_insert(g->sets, g_strdup(text), GUINT_TO_POINTER(s->id));
  return s->id;
}

/* Are all threads in the list that a group keeps of its own? */
static bool group_has_threads(const char *group, const char *list, const FrozenTask *task) {
  g_autofree char *file = g_strconcat(group, "/", list, NULL);
  g_autofree char *text = NULL;
  if (!g_file_get_contents(file, &text, NULL, NULL))
    return false;
  g_autoptr(GHashTable) tids = g_hash_table_new(NULL, NULL);
  for (char *p = text, *end; *p; p = end) {
    long tid = strtol(p, &end, 10);
    if (end == p)
      break;
    g_hash_table_add(tids, GINT_TO_POINTER((int)tid));
  }
  for (guint k = 0; k < task->threads->len; k++)
    if (!g_hash_table_contains(tids, GINT_TO_POINTER(g_array_index(task->threads, FrozenThread, k).state.tid)))
      return false;
  return true;
}

/* Threads of a process may be in different groups where a hierarchy of version 1 has any, or a group is threaded. */
static bool threads_may_differ(Groups *g, const FrozenTask *task) {
  g_auto(GStrv) lines = g_strsplit(task->facts.cgroup, "\n", -1);
  for (char **l = lines; *l; l++) {
    g_auto(GStrv) f = g_strsplit(*l, ":", 3);
    struct stat st;
    const char *mount = g_strv_length(f) == 3 ? mount_of(g, f[1]) : "";
    if (!*mount)
      continue;
    g_autofree char *group = g_strconcat(mount, f[2], NULL);
    if (*f[1] && stat(mount, &st) == 0 && st.st_nlink > 2 && !group_has_threads(group, CGROUP_TASKS, task))
      return true;
    g_autofree char *file = g_strconcat(group, "/" CGROUP_TYPE, NULL);
    g_autofree char *type = NULL;
    if (!*f[1] && g_file_get_contents(file, &type, NULL, NULL) && strstr(type, "threaded") && !group_has_threads(group, CGROUP_THREADS, task))
      return true;
  }
  return false;
}

static void collect_threads(Groups *g, const FrozenTask *task, bool properties) {
  const char *text = task->facts.cgroup;
  if (task->threads->len < 2 || !threads_may_differ(g, task))
    return;
  for (guint k = 0; k < task->threads->len; k++) {
    const FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
    char name[64];
    g_snprintf(name, sizeof name, "task/%d/cgroup", (int)t->state.tid);
    g_autofree char *own = proc_read(task->view, name, NULL, NULL);
    ThreadCoreEntry *tc = t->model->core->thread_core;
    if (!own || strcmp(own, text) == 0 || !tc)
      continue;
    tc->has_cg_set = true;
    tc->cg_set = intern_set(g, own, properties);
  }
}

void collect_cgroups(Job *job, FrozenTree *tree, Checkpoint *checkpoint) {
  const char *mode = job_options(job)->manage_cgroups;
  bool properties = !mode || !(strcmp(mode, "ignore") == 0 || strcmp(mode, "none") == 0);
  CgroupEntry *entry = malloc(sizeof *entry);
  cgroup_entry__init(entry);
  g_autoptr(GHashTable) sets = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr(GHashTable) dirs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr(GHashTable) mounts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  g_autofree char *mountinfo = cgroup_fs_mounts();
  Groups g = {entry, sets, dirs, mounts, mountinfo};
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    if (task->zombie || !task->facts.cgroup || (mode && strcmp(mode, "ignore") == 0))
      continue;
    TaskCoreEntry *tc = task->model->core->tc;
    tc->has_cg_set = true;
    tc->cg_set = intern_set(&g, task->facts.cgroup, properties);
    collect_threads(&g, task, properties);
  }
  checkpoint_add_record(checkpoint, RECORD_CGROUP, &entry->base, NULL);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Back into the control groups that tasks and threads came from (cgroups(7)). What happens to a group that is gone, or is
 * there, the option manage-cgroups says:
 *   none    groups must be there, and stay as they are       props   they must be there, and get their properties back
 *   soft    what is gone is made again, with its properties   full    the same, and what is there gets its properties back
 *   strict  none of those that tasks are in may be there      ignore  tasks stay in the engine's
 * Without the option it is "soft", and what fails is logged: nobody is left in the group of the engine if that can be
 * helped. */
#include "cgroup-fs.h"
#include "cgroup.pb-c.h"
#include "proc.h"
#include "restore.h"
#include "stages.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum Mode { MODE_SOFT, MODE_NONE, MODE_PROPS, MODE_FULL, MODE_STRICT, MODE_IGNORE } Mode;

static const char *const mode_names[] = {"soft", "none", "props", "full", "strict", "ignore"};

static Mode mode_of(const EngineOptions *o) {
  for (size_t i = 0; o->manage_cgroups && i < G_N_ELEMENTS(mode_names); i++)
    if (strcmp(o->manage_cgroups, mode_names[i]) == 0)
      return (Mode)i;
  return MODE_SOFT;
}

static bool check_mode(const EngineOptions *o, GError **error) {
  if (!o->manage_cgroups || !*o->manage_cgroups || strcmp(o->manage_cgroups, mode_names[mode_of(o)]) == 0)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS, "manage-cgroups: there is no mode %s", o->manage_cgroups);
}

/* Writes @text in one go; 0 or a negative errno. */
static int write_file(const char *directory, const char *name, const char *text) {
  g_autofree char *path = g_build_filename(directory, name, NULL);
  int fd = open(path, O_WRONLY | O_CLOEXEC), e = 0;
  if (fd < 0)
    return -errno;
  if (write(fd, text, strlen(text)) < 0)
    e = -errno;
  (void)close(fd);
  return e;
}

static int move_to(const char *directory, const char *file, pid_t id) {
  char text[16];
  g_snprintf(text, sizeof text, "%d", (int)id);
  return write_file(directory, file, text);
}

/* --- properties --- */

static const CgroupEntry *groups_of(const Checkpoint *c) {
  const GPtrArray *records = c->records[RECORD_CGROUP];
  return records->len ? (const CgroupEntry *)((const Record *)records->pdata[0])->message : NULL;
}

static const CgroupDirEntry *find_dir(const CgroupEntry *e, const char *controllers, const char *path) {
  for (size_t i = 0; e && i < e->n_controllers; i++) {
    const CgControllerEntry *c = e->controllers[i];
    if (!c->n_cnames || strcmp(c->cnames[0], controllers) != 0)
      continue;
    for (size_t k = 0; k < c->n_dirs; k++)
      if (strcmp(c->dirs[k]->dir_name, path) == 0)
        return c->dirs[k];
  }
  return NULL;
}

/* "cpu io" is written as "+cpu +io". */
static int set_subtree(const char *directory, const char *value) {
  g_auto(GStrv) words = g_strsplit(value, " ", -1);
  for (char **w = words; *w; w++) {
    g_autofree char *word = g_strconcat("+", *w, NULL);
    int e = **w ? write_file(directory, CGROUP_SUBTREE_CONTROL, word) : 0;
    if (e < 0)
      return e;
  }
  return 0;
}

/* All or nothing, then what was allowed line by line. */
static int set_devices(const char *directory, const char *value) {
  int e = write_file(directory, "devices.deny", "a");
  g_auto(GStrv) lines = g_strsplit(value, "\n", -1);
  for (char **l = lines; e == 0 && *l; l++)
    if (**l)
      e = write_file(directory, "devices.allow", *l);
  return e;
}

static int set_lines(const char *directory, const char *name, const char *value) {
  g_auto(GStrv) lines = g_strsplit(value, "\n", -1);
  int e = 0;
  for (char **l = lines; e == 0 && *l; l++)
    if (**l)
      e = write_file(directory, name, *l);
  return e;
}

static int set_property(const char *directory, const CgroupPropEntry *p) {
  g_autofree char *path = g_build_filename(directory, p->name, NULL);
  g_autofree char *now = NULL;
  if (!g_file_get_contents(path, &now, NULL, NULL))
    return access(path, F_OK) < 0 ? -errno : -EACCES;
  if (strcmp(g_strchomp(now), p->value) == 0)
    return 0;
  if (strcmp(p->name, CGROUP_SUBTREE_CONTROL) == 0)
    return set_subtree(directory, p->value);
  if (strcmp(p->name, CGROUP_TYPE) == 0)
    return strcmp(p->value, "threaded") == 0 ? write_file(directory, p->name, "threaded") : 0; /* the rest follows */
  if (strcmp(p->name, CGROUP_DEVICES) == 0)
    return set_devices(directory, p->value);
  if (strcmp(p->name, "memory.oom_control") == 0)
    return write_file(directory, p->name, g_str_has_prefix(p->value, "oom_kill_disable 1") ? "1" : "0");
  return set_lines(directory, p->name, p->value);
}

typedef struct Groups {
  Restore *r;
  Mode mode;
  bool strict; /* what fails is an error */
  const CgroupEntry *entry;
  GHashTable *done;   /* directories that are set up */
  GHashTable *mounts; /* controllers -> directory, "" for nowhere */
  char *mountinfo;    /* once somebody has asked */
} Groups;

static bool fail(const Groups *g, GError **error, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* An error if somebody has asked for groups, else a message in the log. */
static bool fail(const Groups *g, GError **error, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_autofree char *text = g_strdup_vprintf(format, ap);
  va_end(ap);
  if (g->strict)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "%s (manage-cgroups=%s)", text, mode_names[g->mode]);
  job_log(g->r->job, 4, "%s", text);
  return true;
}

static bool set_properties(const Groups *g, const char *directory, const CgroupDirEntry *d, bool fresh, GError **error) {
  const char *const *known = NULL;
  if (d->dir_perms && fresh && (d->dir_perms->uid || d->dir_perms->gid) && chown(directory, d->dir_perms->uid, d->dir_perms->gid) < 0 &&
      !fail(g, error, "Control group %s: cannot be given to user %u: %s", directory, d->dir_perms->uid, g_strerror(errno)))
    return false;
  for (size_t i = 0; i < d->n_properties; i++) {
    const CgroupPropEntry *p = d->properties[i];
    known = cgroup_fs_properties(true);
    bool ours = g_strv_contains(known, p->name) || g_strv_contains(cgroup_fs_properties(false), p->name);
    int e = ours ? set_property(directory, p) : 0;
    if (e < 0 && !fail(g, error, "Control group %s: cannot set %s to \"%.200s\": %s", directory, p->name, p->value, g_strerror(-e)))
      return false;
  }
  return true;
}

/* A new group of a cpuset takes nobody before it has processors and memory. */
static void inherit_cpuset(const char *directory) {
  static const char *const names[] = {"cpuset.cpus", "cpuset.mems"};
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *above = g_strconcat(directory, "/../", names[i], NULL), *own = g_build_filename(directory, names[i], NULL);
    g_autofree char *value = NULL, *now = NULL;
    if (g_file_get_contents(own, &now, NULL, NULL) && !*g_strstrip(now) && g_file_get_contents(above, &value, NULL, NULL))
      (void)write_file(directory, names[i], g_strchomp(value));
  }
}

/* --- groups --- */

/* One group, whose parent is there. @own: tasks are in it. @original: its path at the dump. */
static bool set_up(Groups *g, const char *controllers, const char *directory, const char *original, bool own, GError **error) {
  if (!g_hash_table_add(g->done, g_strdup(directory)))
    return true;
  bool there = access(directory, F_OK) == 0;
  if (!there && (g->mode == MODE_NONE || g->mode == MODE_PROPS))
    return fail(g, error, "The control group %s is not there", directory);
  if (there && own && g->mode == MODE_STRICT)
    return fail(g, error, "The control group %s is there already", directory);
  if (!there && mkdir(directory, 0755) < 0)
    return fail(g, error, "Cannot make the control group %s: %s", directory, g_strerror(errno));
  if (!there)
    g_ptr_array_add(g->r->made_groups, g_strdup(directory));
  const CgroupDirEntry *d = find_dir(g->entry, controllers, original);
  bool wanted = !there || (own && (g->mode == MODE_PROPS || g->mode == MODE_FULL));
  if (wanted && d && !set_properties(g, directory, d, !there, error))
    return false;
  if (!there && *controllers)
    inherit_cpuset(directory);
  return true;
}

/* The option cgroup_root: the tree's groups lie below another one now. NULL with error. */
static char *new_path(const Groups *g, const char *controllers, const char *path, GError **error) {
  const EngineOptions *o = job_options(g->r->job);
  const CkptTask *root = ((PlanTask *)g->r->plan->tasks->pdata[0])->task->extra;
  for (size_t i = 0; i < o->n_cgroup_root; i++) {
    const char *colon = strchr(o->cgroup_root[i], ':'), *below = colon ? colon + 1 : o->cgroup_root[i];
    g_autofree char *for_controllers = colon ? g_strndup(o->cgroup_root[i], (gsize)(colon - o->cgroup_root[i])) : NULL;
    if (for_controllers && strcmp(for_controllers, controllers) != 0)
      continue;
    const char *top = "/";
    for (size_t k = 0; root && k < root->n_cgroups; k++)
      if (strcmp(root->cgroups[k]->controllers, controllers) == 0)
        top = root->cgroups[k]->path;
    size_t length = strcmp(top, "/") == 0 ? 0 : strlen(top);
    if (strncmp(path, top, length) != 0 || (path[length] && path[length] != '/') || !cgroup_fs_is_path(below)) {
      engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "The control group %s (%s) is not below that of the root task, %s: it cannot be moved to %s",
          path, controllers, top, below);
      return NULL;
    }
    return g_strconcat(strcmp(below, "/") == 0 ? "" : below, path[length] ? path + length : "", NULL);
  }
  return g_strdup(path);
}

static const char *mount_of(Groups *g, const char *controllers) {
  char *known = g_hash_table_lookup(g->mounts, controllers);
  if (!known) {
    if (!g->mountinfo)
      g->mountinfo = cgroup_fs_mounts();
    char *mount = cgroup_fs_mount(g->mountinfo, controllers);
    known = mount ? mount : g_strdup("");
    g_hash_table_insert(g->mounts, g_strdup(controllers), known);
  }
  return known;
}

/* A group and those above it, as they are now. NULL with error, or where it cannot be had (logged). */
static char *group_directory(Groups *g, const char *controllers, const char *path, GError **error) {
  const char *mount = mount_of(g, controllers);
  if (!*mount || !cgroup_fs_is_path(path)) {
    (void)fail(g, error, "The control group hierarchy \"%s\" is not mounted here, or has no group %s", controllers, path);
    return NULL;
  }
  g_autofree char *now = new_path(g, controllers, path, error);
  if (!now)
    return NULL;
  g_auto(GStrv) parts = g_strsplit(now, "/", -1);
  g_autoptr(GString) directory = g_string_new(mount);
  for (guint i = 0, n = g_strv_length(parts); i < n; i++) {
    if (!*parts[i])
      continue;
    g_string_append_printf(directory, "/%s", parts[i]);
    /* what it was called: where the root was changed only the group itself can tell */
    bool own = i + 1 == n;
    const char *original = own ? path : directory->str + strlen(mount);
    if (!set_up(g, controllers, directory->str, original, own, error))
      return NULL;
  }
  return g_strdup(directory->str);
}

static bool is_there(const char *current, const CkptCgroup *c) {
  g_autofree char *line = g_strdup_printf(":%s:%s\n", c->controllers, c->path);
  return current && strstr(current, line);
}

static bool move_task(Groups *g, const PlanTask *t, const CkptCgroup *c, const char *current, GError **error) {
  GError *failure = NULL;
  bool stays = is_there(current, c) && g->mode != MODE_PROPS && g->mode != MODE_FULL && !job_options(g->r->job)->n_cgroup_root;
  if (stays && !(g->mode == MODE_STRICT && c->path[1]))
    return true;
  g_autofree char *directory = group_directory(g, c->controllers, c->path, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  int e = directory ? move_to(directory, "cgroup.procs", t->pid) : 0;
  return e == 0 || fail(g, error, "pid %d cannot go back to the control group %s: %s", (int)t->pid, directory, g_strerror(-e));
}

static bool groups_init(Groups *g, Restore *r) {
  const EngineOptions *o = job_options(r->job);
  *g = (Groups){.r = r, .mode = mode_of(o), .strict = o->manage_cgroups && *o->manage_cgroups, .entry = groups_of(r->checkpoint)};
  g->done = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g->mounts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  if (!r->made_groups)
    r->made_groups = g_ptr_array_new_with_free_func(g_free);
  return !o->keep_cgroup && !o->untrusted_images && g->mode != MODE_IGNORE;
}

static void groups_clear(Groups *g) {
  g_hash_table_unref(g->done);
  g_hash_table_unref(g->mounts);
  g_free(g->mountinfo);
}

bool cgroup_move_tasks(Restore *r, GError **error) {
  Groups g;
  bool wanted = groups_init(&g, r), ok = check_mode(job_options(r->job), error);
  for (guint i = 0; wanted && ok && i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    const CkptTask *x = t->task ? t->task->extra : NULL;
    if (!x || t->zombie)
      continue;
    g_autofree char *current = proc_read(t->pid, "cgroup", NULL, NULL);
    for (size_t k = 0; ok && k < x->n_cgroups; k++)
      ok = move_task(&g, t, x->cgroups[k], current, error);
  }
  groups_clear(&g);
  return ok;
}

static const CgSetEntry *find_set(const CgroupEntry *e, guint32 id) {
  for (size_t i = 0; e && i < e->n_sets; i++)
    if (e->sets[i]->id == id)
      return e->sets[i];
  return NULL;
}

static const char *path_of_task(const CkptTask *x, const char *controllers) {
  for (size_t i = 0; x && i < x->n_cgroups; i++)
    if (strcmp(x->cgroups[i]->controllers, controllers) == 0)
      return x->cgroups[i]->path;
  return NULL;
}

static bool move_thread(Groups *g, const PlanTask *t, const Thread *th, const CgMemberEntry *m, GError **error) {
  GError *failure = NULL;
  const char *of_task = path_of_task(t->task->extra, m->name);
  if (!of_task || strcmp(of_task, m->path) == 0)
    return true;
  g_autofree char *directory = group_directory(g, m->name, m->path, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  int e = directory ? move_to(directory, CGROUP_THREADS, th->tid) : 0;
  if (e == -ENOENT)
    e = move_to(directory, CGROUP_TASKS, th->tid); /* version 1 */
  return e == 0 || fail(g, error, "tid %d cannot go back to the control group %s: %s", (int)th->tid, directory, g_strerror(-e));
}

bool cgroup_move_threads(Restore *r, GError **error) {
  Groups g;
  bool ok = true, wanted = groups_init(&g, r);
  if (g.mode == MODE_STRICT)
    g.mode = MODE_FULL; /* the tasks' own are there by now, and ours */
  for (guint i = 0; wanted && ok && i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    for (guint k = 0; ok && k < t->threads->len; k++) {
      const Thread *th = g_array_index(t->threads, PlanThread, k).thread;
      const ThreadCoreEntry *tc = th->core->thread_core;
      const CgSetEntry *set = tc && tc->has_cg_set ? find_set(g.entry, tc->cg_set) : NULL;
      for (size_t n = 0; ok && set && n < set->n_ctls; n++)
        ok = move_thread(&g, t, th, set->ctls[n], error);
    }
  }
  groups_clear(&g);
  return ok;
}

void cgroup_remove_made(Restore *r) {
  for (guint i = r->made_groups ? r->made_groups->len : 0; i-- > 0;)
    (void)rmdir(r->made_groups->pdata[i]); /* somebody may live there by now */
}

int cgroup_enter(pid_t pid, const char *controllers, const char *path) {
  g_autofree char *mounts = cgroup_fs_mounts(), *mount = cgroup_fs_mount(mounts, controllers);
  if (!mount || !cgroup_fs_is_path(path))
    return -ENOENT;
  g_autofree char *directory = g_strconcat(mount, path, NULL);
  if (g_mkdir_with_parents(directory, 0755) < 0)
    return -errno;
  return move_to(directory, "cgroup.procs", pid);
}

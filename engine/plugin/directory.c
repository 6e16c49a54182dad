/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where plugins come from: one directory, which root alone may change. Shared objects (*.so) and manifests of programs
 * (*.plugin) in it are loaded, everything else is left alone. Whoever can put a file there runs code as root, so owner
 * and mode are checked of the directory and of each file, by descriptor. */

#include "config.h"
#include "plugin-private.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of those that are loaded on demand. */
#define ON_DEMAND "on-demand"

bool plugin_name_is_valid(const char *name) {
  size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
  return n > 0 && n <= 64 && !name[n] && name[0] != '.';
}

static void kept_free(void *p) {
  g_ptr_array_unref(p);
}

static void object_free(void *p) {
  ckpt_plugin_object__free_unpacked(p, NULL);
}

static Plugin *plugin_new(PluginSet *set, const char *file) {
  Plugin *p = g_new0(Plugin, 1);
  p->set = set;
  p->on_demand = set->naming;
  p->file = g_strdup(file);
  p->taken = g_ptr_array_new_with_free_func(object_free);
  p->records = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
  p->kept = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, kept_free);
  p->descriptors = g_array_new(FALSE, FALSE, sizeof(Descriptor));
  return p;
}

void plugin_free(Plugin *p) {
  if (!p)
    return;
  if (p->door && p->door->close)
    p->door->close(p);
  if (p->library)
    (void)dlclose(p->library);
  g_ptr_array_unref(p->taken);
  g_ptr_array_unref(p->records);
  g_hash_table_unref(p->kept);
  g_array_unref(p->descriptors);
  g_strfreev(p->after);
  g_free(p->name);
  g_free(p->version);
  g_free(p->description);
  g_free(p->file);
  g_free(p->trouble);
  g_free(p);
}

/* An engine that works for somebody may have become that user: then his files are not safe. */
static bool is_safe(const PluginSet *set, int fd, const char *what, mode_t type, GError **error) {
  struct stat st;
  if (fstat(fd, &st) < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Cannot stat %s: %s", what, g_strerror(errno));
  if ((st.st_mode & S_IFMT) != type)
    return engine_fail(
        error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "%s is no %s", what, type == S_IFDIR ? "directory" : "regular file");
  if (st.st_uid != 0 && (job_caller(set->job) || st.st_uid != geteuid()))
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "%s belongs to uid %u: plugins are only loaded from what belongs to root (chown root it, or remove it)", what,
        st.st_uid);
  if (st.st_mode & (S_IWGRP | S_IWOTH))
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
        "%s can be written by others than its owner (mode %04o): chmod go-w it, or remove it", what,
        st.st_mode & 07777);
  return true;
}

int directory_open_file(const PluginSet *set, int dir_fd, const char *name, GError **error) {
  int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Cannot open plugin file %s: %s%s", name, g_strerror(errno),
        errno == ELOOP ? " (links are not followed)" : "");
    return -1;
  }
  g_autofree char *what = g_strdup_printf("Plugin file %s", name);
  if (is_safe(set, fd, what, S_IFREG, error))
    return fd;
  (void)close(fd);
  return -1;
}

static bool is_safe_directory(const PluginSet *set, const char *path, const char *program, GError **error) {
  g_autofree char *what = g_strdup_printf("Directory %s of the plugin program %s", path, program);
  int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  bool safe = fd < 0 ? engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "%s cannot be opened: %s", what, g_strerror(errno))
                     : is_safe(set, fd, what, S_IFDIR, error);
  if (fd >= 0)
    (void)close(fd);
  return safe;
}

/* Whoever can write to one of the directories above can put another file in its place, after it was checked. */
char *directory_find_program(const PluginSet *set, const char *program, GError **error) {
  g_autofree char *above = g_path_get_dirname(program), *name = g_path_get_basename(program);
  char *real = realpath(above, NULL);
  g_auto(GStrv) parts = g_strsplit(real ? real : above, "/", -1);
  g_autoptr(GString) path = g_string_new("/");
  free(real);
  if (!is_safe_directory(set, path->str, program, error))
    return NULL;
  for (char **part = parts; *part; part++) {
    if (!**part)
      continue;
    g_string_append_printf(path, "%s%s", path->len > 1 ? "/" : "", *part);
    if (!is_safe_directory(set, path->str, program, error))
      return NULL;
  }
  return g_build_filename(path->str, name, NULL);
}

/* Its name is unique: the loader must not take it for another one that it knows already. What it opens is what was
 * checked, since nobody but root can exchange it. */
static bool open_library(Plugin *p, int dir_fd, GError **error) {
  const char *below = p->on_demand ? "../" ON_DEMAND "/" : ""; /* where dir_fd is a number that was another's */
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d/%s%s", dir_fd, below, p->file);
  p->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!p->library)
    return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s cannot be loaded: %s", p->file, dlerror());
  GError *failure = NULL;
  if (abi_native_open(p, &failure) || (!failure && abi_criu_open(p, &failure)))
    return true;
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  return abi_named_open(p) || engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
                                  "%s is no plugin: it defines none of their symbols", p->file);
}

static bool open_plugin(Plugin *p, int dir_fd, GError **error) {
  int fd = directory_open_file(p->set, dir_fd, p->file, error);
  if (fd < 0)
    return false;
  bool ok = g_str_has_suffix(p->file, ".so") ? open_library(p, dir_fd, error) : process_open(p, dir_fd, fd, error);
  (void)close(fd);
  if (ok && !plugin_name_is_valid(p->name))
    ok = engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Plugin %s has no valid name", p->file);
  return ok;
}

static bool is_plugin_file(const char *name) {
  return name[0] != '.' && (g_str_has_suffix(name, ".so") || g_str_has_suffix(name, ".plugin"));
}

static gint compare_names(gconstpointer a, gconstpointer b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In the order of their names, so that nothing depends on the file system. */
static GPtrArray *list_files(int dir_fd, GError **error) {
  g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
  int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  const struct dirent *e;
  if (!dir) {
    engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Cannot list the plugin directory: %s", g_strerror(errno));
    return NULL;
  }
  while ((e = readdir(dir)))
    if (is_plugin_file(e->d_name))
      g_ptr_array_add(names, g_strdup(e->d_name));
  (void)closedir(dir);
  g_ptr_array_sort(names, compare_names);
  return g_steal_pointer(&names);
}

/* The places in their order: the job's, and the installed one, or what the environment has instead of that. */
#define N_PLACES 2

static const char *place(const PluginSet *set, guint i, bool *ret_given) {
  const char *given = i == 0 ? job_options(set->job)->plugin_directory : secure_getenv("CHECKPOINTD_PLUGINS");
  *ret_given = given && *given;
  return *ret_given ? given : i == 0 ? NULL : CHECKPOINTD_PLUGINDIR;
}

static const char *directory_path(const PluginSet *set, bool *ret_given) {
  const char *own = place(set, 0, ret_given);
  return own ? own : place(set, 1, ret_given);
}

/* -1 without an error: there is none. */
static int open_directory(const PluginSet *set, GError **error) {
  bool given = false;
  const char *path = directory_path(set, &given);
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT && !given)
    return -1;
  if (fd < 0) {
    engine_fail(
        error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Cannot open the plugin directory %s: %s", path, g_strerror(errno));
    return -1;
  }
  g_autofree char *what = g_strdup_printf("Plugin directory %s", path);
  if (is_safe(set, fd, what, S_IFDIR, error))
    return fd;
  (void)close(fd);
  return -1;
}

/* --- order --- */

static gint compare_plugins(gconstpointer a, gconstpointer b) {
  const Plugin *x = *(Plugin *const *)a, *y = *(Plugin *const *)b;
  return x->priority != y->priority ? (x->priority > y->priority) - (x->priority < y->priority)
                                    : g_strcmp0(x->name, y->name);
}

static bool is_named(const GPtrArray *plugins, const char *name) {
  for (guint i = 0; i < plugins->len; i++)
    if (!g_strcmp0(((Plugin *)plugins->pdata[i])->name, name))
      return true;
  return false;
}

/* Those it is after are among @waiting still. */
static bool has_to_wait(const Plugin *p, const GPtrArray *waiting) {
  for (char **name = p->after; name && *name; name++)
    if (strcmp(*name, p->name) != 0 && is_named(waiting, *name))
      return true;
  return false;
}

static bool put_in_order(GPtrArray *plugins, GError **error) {
  g_autoptr(GPtrArray) waiting = g_ptr_array_new();
  g_ptr_array_sort(plugins, compare_plugins);
  for (guint i = 0; i < plugins->len; i++)
    g_ptr_array_add(waiting, plugins->pdata[i]);
  for (guint at = 0; waiting->len; at++) {
    guint i = 0;
    while (i < waiting->len && has_to_wait(waiting->pdata[i], waiting))
      i++;
    if (i == waiting->len)
      return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "Plugin %s and others want to be asked after each other", ((Plugin *)waiting->pdata[0])->name);
    plugins->pdata[at] = g_ptr_array_steal_index(waiting, i);
  }
  return true;
}

static bool check_names(const GPtrArray *plugins, GError **error) {
  g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
  for (guint i = 0; i < plugins->len; i++) {
    const Plugin *p = plugins->pdata[i], *other = p->name ? g_hash_table_lookup(names, p->name) : NULL;
    if (other)
      return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "The plugins %s and %s have the same name, %s: remove one of them", other->file, p->file, p->name);
    if (p->name)
      g_hash_table_insert(names, p->name, (gpointer)p);
  }
  return true;
}

static void plugin_destroy(void *p) {
  plugin_free(p);
}

/* false: ends the loading. */
static bool add_plugin(PluginSet *set, int dir_fd, const char *file, bool broken, GPtrArray *plugins, GError **error) {
  Plugin *p = plugin_new(set, file);
  g_autoptr(GError) failure = NULL;
  g_ptr_array_add(plugins, p);
  if (open_plugin(p, dir_fd, &failure))
    return true;
  if (!broken) {
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
  }
  if (p->door && p->door->close)
    p->door->close(p);
  p->door = NULL;
  p->self = NULL;
  p->trouble = g_strdup(failure->message);
  return true;
}

/* --- those that are loaded on demand --- */

/* -1 without an error: there is none. */
static int open_on_demand(const PluginSet *set, const char *parent, GError **error) {
  g_autofree char *path = g_build_filename(parent, ON_DEMAND, NULL);
  int above = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int fd = above < 0 ? -1 : openat(above, ON_DEMAND, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  int reason = errno;
  g_autofree char *what = g_strdup_printf("Plugin directory %s", path);
  bool safe = fd >= 0 && is_safe(set, above, parent, S_IFDIR, error) && is_safe(set, fd, what, S_IFDIR, error);
  if (above >= 0)
    (void)close(above);
  if (fd < 0 && reason != ENOENT)
    engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED, "Cannot open the plugin directory %s: %s", path, g_strerror(reason));
  if (fd < 0 || safe)
    return fd;
  (void)close(fd);
  return -1;
}

static Plugin *open_named(PluginSet *set, int dir_fd, const char *name, GError **error) {
  static const char *const endings[] = {".so", ".plugin"};
  for (size_t i = 0; i < G_N_ELEMENTS(endings); i++) {
    g_autofree char *file = g_strdup_printf("%s%s", name, endings[i]);
    if (faccessat(dir_fd, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
      continue;
    Plugin *p = plugin_new(set, file);
    bool ok = open_plugin(p, dir_fd, error);
    if (ok && strcmp(p->name, name) != 0)
      ok = engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "The plugin in %s/%s calls itself %s: what is loaded on demand is found by its file, which has to be called the same",
          ON_DEMAND, file, p->name);
    if (ok)
      return p;
    plugin_free(p);
    return NULL;
  }
  return NULL;
}

Plugin *directory_load_named(PluginSet *set, const char *name, GError **error) {
  GError *failure = NULL;
  Plugin *p = NULL;
  set->naming = true;
  for (guint i = 0; i < N_PLACES && !p && !failure && plugin_name_is_valid(name); i++) {
    bool given = false;
    const char *parent = place(set, i, &given);
    int dir_fd = parent ? open_on_demand(set, parent, &failure) : -1;
    if (dir_fd < 0)
      continue;
    p = open_named(set, dir_fd, name, &failure);
    (void)close(dir_fd);
  }
  set->naming = false;
  if (failure)
    g_propagate_error(error, failure);
  return p;
}

static bool has_file(const GPtrArray *plugins, const char *file) {
  for (guint i = 0; i < plugins->len; i++)
    if (!strcmp(((const Plugin *)plugins->pdata[i])->file, file))
      return true;
  return false;
}

GPtrArray *directory_load_on_demand(PluginSet *set, GError **error) {
  g_autoptr(GPtrArray) plugins = g_ptr_array_new_with_free_func(plugin_destroy);
  GError *failure = NULL;
  set->naming = true;
  for (guint i = 0; i < N_PLACES && !failure; i++) {
    bool given = false;
    const char *parent = place(set, i, &given);
    int dir_fd = parent ? open_on_demand(set, parent, &failure) : -1;
    g_autoptr(GPtrArray) names = dir_fd >= 0 ? list_files(dir_fd, &failure) : NULL;
    for (guint k = 0; names && k < names->len; k++)
      if (!has_file(plugins, names->pdata[k]))
        (void)add_plugin(set, dir_fd, names->pdata[k], true, plugins, NULL);
    if (dir_fd >= 0)
      (void)close(dir_fd);
  }
  set->naming = false;
  if (!failure)
    return g_steal_pointer(&plugins);
  g_propagate_error(error, failure);
  return NULL;
}

GPtrArray *directory_load(PluginSet *set, bool broken, GError **error) {
  g_autoptr(GPtrArray) plugins = g_ptr_array_new_with_free_func(plugin_destroy), names = NULL;
  GError *failure = NULL;
  int dir_fd = open_directory(set, &failure);
  if (dir_fd >= 0)
    names = list_files(dir_fd, &failure);
  for (guint i = 0; names && !failure && i < names->len; i++)
    (void)add_plugin(set, dir_fd, names->pdata[i], broken, plugins, &failure);
  if (dir_fd >= 0)
    (void)close(dir_fd);
  if (!failure && !broken)
    (void)(check_names(plugins, &failure) && put_in_order(plugins, &failure));
  if (!failure)
    return g_steal_pointer(&plugins);
  g_propagate_error(error, failure);
  return NULL;
}

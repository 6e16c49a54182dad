/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-settings.h"
#include "net-place.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/proc/sys/net"

/* One line, without its end; NULL: it cannot be read (some have no value yet). */
static char *read_value(int dir, const char *name) {
  char text[4096];
  int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
  if (fd >= 0)
    (void)close(fd);
  if (n < 0 || (size_t)n == sizeof text)
    return NULL;
  while (n > 0 && text[n - 1] == '\n')
    n--;
  return g_strndup(text, (gsize)n);
}

/* Those of links are asked for by the link. */
static bool is_of_link(const char *path, const char *name) {
  return (g_str_has_suffix(path, "/conf/") || g_str_has_suffix(path, "/neigh/")) && strcmp(name, "all") != 0 && strcmp(name, "default") != 0;
}

static void read_tree(int dir, const char *path, GHashTable *values);

static void read_one(int dir, const char *path, const char *name, GHashTable *values) {
  struct stat st;
  if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return;
  if (S_ISDIR(st.st_mode) && !is_of_link(path, name)) {
    g_autofree char *below = g_strdup_printf("%s%s/", path, name);
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
      read_tree(fd, below, values);
  } else if (S_ISREG(st.st_mode) && (st.st_mode & 0600) == 0600) {
    char *value = read_value(dir, name);
    if (value)
      g_hash_table_insert(values, g_strconcat(path, name, NULL), value);
  }
}

/* Takes @dir over. */
static void read_tree(int dir, const char *path, GHashTable *values) {
  DIR *d = fdopendir(dir);
  if (!d) {
    (void)close(dir);
    return;
  }
  for (const struct dirent *e; (e = readdir(d));)
    if (e->d_name[0] != '.')
      read_one(dirfd(d), path, e->d_name, values);
  (void)closedir(d);
}

static GHashTable *read_all(void) {
  GHashTable *values = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  int fd = open(ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0)
    read_tree(fd, "", values);
  return values;
}

static void add_setting(CkptNetSetting ***list, size_t *n, const char *name, const char *value) {
  CkptNetSetting *s = malloc(sizeof *s);
  ckpt_net_setting__init(s);
  s->name = strdup(name);
  s->value = strdup(value);
  *list = realloc(*list, (*n + 1) * sizeof **list);
  (*list)[(*n)++] = s;
}

/* Seeds of hash functions and keys are the namespace's own; the kernel makes new ones. */
static bool is_private(const char *name) {
  return g_str_has_suffix(name, "_seed") || g_str_has_suffix(name, "tcp_fastopen_key");
}

bool net_settings_collect(CkptNetns *ns, GError **error) {
  g_auto(NetVisit) visit = NET_VISIT_INIT;
  g_autoptr(GHashTable) values = read_all();
  int fresh_fd = net_visit_new(&visit, error);
  if (fresh_fd < 0)
    return false;
  (void)close(fresh_fd);
  g_autoptr(GHashTable) fresh = read_all();
  g_autoptr(GList) names = g_list_sort(g_hash_table_get_keys(values), (GCompareFunc)strcmp);
  for (const GList *i = names; i; i = i->next) {
    const char *value = g_hash_table_lookup(values, i->data);
    if (g_strcmp0(value, g_hash_table_lookup(fresh, i->data)) != 0 && !is_private(i->data))
      add_setting(&ns->setting, &ns->n_setting, i->data, value);
  }
  return true;
}

static const char *const link_folders[] = {"ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"};

/* "ipv6/conf/accept_dad" of eth0 is "ipv6/conf/eth0/accept_dad". */
void net_settings_collect_link(CkptNetLink *link, const char *name) {
  for (size_t i = 0; i < G_N_ELEMENTS(link_folders); i++) {
    g_autofree char *path = g_strdup_printf(ROOT "/%s/%s", link_folders[i], name);
    g_autofree char *prefix = g_strdup_printf("%s/", link_folders[i]);
    g_autoptr(GHashTable) values = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
      read_tree(fd, prefix, values);
    g_autoptr(GList) names = g_list_sort(g_hash_table_get_keys(values), (GCompareFunc)strcmp);
    for (const GList *k = names; k; k = k->next)
      add_setting(&link->setting, &link->n_setting, k->data, g_hash_table_lookup(values, k->data));
  }
}

/* --- restore --- */

static bool write_value(const char *path, const char *value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
  bool ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
  int reason = errno;
  if (fd >= 0)
    (void)close(fd);
  errno = reason;
  return ok;
}

static void set_value(Job *job, const char *path, const char *value) {
  g_autofree char *now = read_value(AT_FDCWD, path);
  if (g_strcmp0(now, value) != 0 && !write_value(path, value))
    job_log(job, 4, "%s cannot be set to \"%s\": %s", path, value, g_strerror(errno));
}

/* What changes others by itself comes first. */
static int rank_of(const char *name) {
  return strcmp(name, "ipv4/ip_forward") == 0 ? 0 : strstr(name, "/all/") ? 1 : strstr(name, "/default/") ? 2 : 3;
}

void net_settings_restore(Job *job, const CkptNetns *ns) {
  for (int rank = 0; rank < 4; rank++)
    for (size_t i = 0; i < ns->n_setting; i++) {
      g_autofree char *path = g_strconcat(ROOT "/", ns->setting[i]->name, NULL);
      if (rank_of(ns->setting[i]->name) == rank)
        set_value(job, path, ns->setting[i]->value);
    }
}

static char *path_of(const char *setting, const char *name) {
  const char *last = strrchr(setting, '/');
  return last ? g_strdup_printf(ROOT "/%.*s/%s%s", (int)(last - setting), setting, name, last) : NULL;
}

#define DAD "ipv6/conf/accept_dad"

void net_settings_restore_link(Job *job, const CkptNetLink *link, const char *name) {
  for (size_t i = 0; link && i < link->n_setting; i++) {
    g_autofree char *path = path_of(link->setting[i]->name, name);
    if (path && strcmp(link->setting[i]->name, DAD) != 0)
      set_value(job, path, link->setting[i]->value);
  }
}

char *net_settings_hold_dad(const char *name) {
  g_autofree char *path = path_of(DAD, name);
  char *before = read_value(AT_FDCWD, path);
  if (before)
    (void)write_value(path, "0");
  return before;
}

void net_settings_release_dad(Job *job, const CkptNetLink *link, const char *name, const char *before) {
  g_autofree char *path = path_of(DAD, name);
  for (size_t i = 0; link && i < link->n_setting; i++)
    if (strcmp(link->setting[i]->name, DAD) == 0)
      before = link->setting[i]->value;
  if (before)
    set_value(job, path, before);
}

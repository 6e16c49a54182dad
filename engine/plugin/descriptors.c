/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Plugins in this process share its descriptors. What a call leaves behind is noted as the plugin's own; at its end
 * what is still open is named and closed. What a call takes away from the engine ends the job: the next descriptor of
 * that number would be another's. */

#include "plugin-private.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int compare(gconstpointer a, gconstpointer b) {
  const Descriptor *x = a, *y = b;
  return (x->fd > y->fd) - (x->fd < y->fd);
}

/* Threads of the engine's read the list of locks and the clocks of processors while objects are collected: what they open for
 * that comes and goes by itself. */
static bool is_of_thread(int fd, const struct stat *st) {
  static struct stat locks;
  char path[32], link[64];
  if ((!locks.st_ino && stat("/proc/locks", &locks) < 0) || st->st_dev != locks.st_dev)
    return false;
  if (st->st_ino == locks.st_ino)
    return true;
  (void)g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, link, sizeof link - 1);
  link[MAX(n, 0)] = '\0';
  return g_str_has_suffix(link, "/sched");
}

GArray *descriptors_now(void) {
  GArray *all = g_array_new(FALSE, FALSE, sizeof(Descriptor));
  DIR *dir = opendir("/proc/self/fd");
  const struct dirent *e;
  while (dir && (e = readdir(dir))) {
    struct stat st;
    Descriptor d = {.fd = atoi(e->d_name)};
    if (e->d_name[0] == '.' || d.fd == dirfd(dir) || fstat(d.fd, &st) < 0 || is_of_thread(d.fd, &st))
      continue;
    d.dev = st.st_dev;
    d.ino = st.st_ino;
    g_array_append_val(all, d);
  }
  if (dir)
    (void)closedir(dir);
  g_array_sort(all, compare);
  return all;
}

static const Descriptor *find(const GArray *all, int fd) {
  const Descriptor key = {.fd = fd};
  return bsearch(&key, all->data, all->len, sizeof key, compare);
}

static bool is_same(const Descriptor *a, const Descriptor *b) {
  return a && b && a->fd == b->fd && a->dev == b->dev && a->ino == b->ino;
}

static const Descriptor *owned(const Plugin *p, const Descriptor *d) {
  for (guint i = 0; i < p->descriptors->len; i++) {
    const Descriptor *own = &g_array_index(p->descriptors, Descriptor, i);
    if (is_same(own, d))
      return own;
  }
  return NULL;
}

bool descriptors_compare(Plugin *p, const GArray *before, GError **error) {
  g_autoptr(GArray) now = descriptors_now(), own = g_array_new(FALSE, FALSE, sizeof(Descriptor));
  for (guint i = 0; i < before->len; i++) {
    const Descriptor *d = &g_array_index(before, Descriptor, i);
    if (!is_same(d, find(now, d->fd)) && !owned(p, d))
      return engine_fail(error, ENGINE_ERROR_CODE__PLUGIN_FAILED,
          "Plugin %s has closed descriptor %d, which is not its own (what it is lent it must not close)", p->name,
          d->fd);
  }
  for (guint i = 0; i < now->len; i++) {
    const Descriptor *d = &g_array_index(now, Descriptor, i);
    if (owned(p, d) || !is_same(d, find(before, d->fd)))
      g_array_append_val(own, *d);
  }
  g_array_set_size(p->descriptors, 0);
  g_array_append_vals(p->descriptors, own->data, own->len);
  return true;
}

bool descriptors_take(Plugin *p, int fd) {
  for (guint i = 0; i < p->descriptors->len; i++)
    if (g_array_index(p->descriptors, Descriptor, i).fd == fd) {
      g_array_remove_index_fast(p->descriptors, i);
      return true;
    }
  return false;
}

void descriptors_close_leaks(Plugin *p) {
  g_autoptr(GArray) now = descriptors_now();
  g_autoptr(GString) text = g_string_new(NULL);
  for (guint i = 0; i < p->descriptors->len; i++) {
    const Descriptor *d = &g_array_index(p->descriptors, Descriptor, i);
    char path[32], link[256];
    if (!is_same(d, find(now, d->fd)))
      continue;
    (void)g_snprintf(path, sizeof path, "/proc/self/fd/%d", d->fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[MAX(n, 0)] = '\0';
    g_string_append_printf(text, "%s%d (%s)", text->len ? ", " : "", d->fd, link);
    (void)close(d->fd);
  }
  g_array_set_size(p->descriptors, 0);
  if (!text->len)
    return;
  g_string_prepend(text, "it has left descriptors open, they are closed now: ");
  plugin_log(p, 4, text->str);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ghost-name.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#define TRIES 4     /* the second for ghosts that had the same name one after the other, the others with another name */
#define OWN_TRIES 2

static void exact_clear(void *p) {
  fd_cleanup(&((ExactOpen *)p)->fd);
}

static void name_free(void *p) {
  GhostName *n = p;
  fd_cleanup(&n->fd);
  g_free(n->path);
  g_free(n->directory);
  g_free(n->base);
  g_array_unref(n->exact);
  g_free(n);
}

Ghost *ghost_new(guint32 id) {
  Ghost *g = g_new0(Ghost, 1);
  g->id = id;
  g->mode = S_IFREG;
  g->source = g->fd = -1;
  g->names = g_ptr_array_new_with_free_func(name_free);
  return g;
}

void ghost_free(void *p) {
  Ghost *g = p;
  g_ptr_array_unref(g->names);
  fd_cleanup(&g->fd);
  fd_cleanup(&g->source);
  g_free(g->target);
  g_clear_error(&g->failure);
  g_free(g);
}

GhostName *ghost_add_name(Ghost *g, const char *path) {
  for (guint i = 0; i < g->names->len; i++)
    if (strcmp(((GhostName *)g->names->pdata[i])->path, path) == 0)
      return g->names->pdata[i];
  GhostName *n = g_new0(GhostName, 1);
  n->ghost = g;
  n->path = g_strdup(path);
  n->directory = g_path_get_dirname(path);
  n->base = g_path_get_basename(path);
  n->fd = -1;
  n->error = EEXIST;
  n->exact = g_array_new(false, false, sizeof(ExactOpen));
  g_array_set_clear_func(n->exact, exact_clear);
  g_ptr_array_add(g->names, n);
  return n;
}

/* --- in the helper: system calls only, its memory is the engine's --- */

/* A directory that is made for the moment: it is missing, or a ghost itself (then @name is it). */
typedef struct Directory {
  char *path;
  GhostName *name;
  bool made;
} Directory;

typedef struct Batch {
  GArray *directories; /* Directory, parents first */
  GPtrArray *ghosts;   /* Ghost, without directories */
} Batch;

static void make_directory(Directory *d) {
  d->made = mkdir(d->path, 0700) == 0;
  if (!d->name)
    return;
  d->name->error = d->made ? 0 : errno;
  if (d->made && (d->name->fd = open(d->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
    d->name->error = errno;
}

static bool create(Ghost *g, int dir, const char *base) {
  if (g->source >= 0) {
    FdPath source = fd_path(g->source);
    return linkat(AT_FDCWD, source.text, dir, base, AT_SYMLINK_FOLLOW) == 0;
  }
  if (S_ISLNK(g->mode))
    return symlinkat(g->target, dir, base) == 0;
  if (!S_ISREG(g->mode))
    return mknodat(dir, base, (g->mode & S_IFMT) | 0600, g->rdev) == 0;
  g->fd = openat(dir, base, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  return g->fd >= 0;
}

static void open_named(GhostName *n, int dir) {
  bool held = n->ghost->fd >= 0 && n == n->ghost->names->pdata[0]; /* by the descriptor that made it */
  if (!held && (n->fd = openat(dir, n->base, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0)
    n->error = errno;
  for (guint i = 0; i < n->exact->len; i++) {
    ExactOpen *e = &g_array_index(n->exact, ExactOpen, i);
    e->fd = openat(dir, n->base, e->flags);
  }
}

static void name_one(Ghost *g) {
  int dirs[16];
  guint n = MIN(g->names->len, G_N_ELEMENTS(dirs));
  GhostName *first = g->names->pdata[0];
  for (guint i = 0; i < n; i++) {
    GhostName *name = g->names->pdata[i];
    dirs[i] = open(name->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool ok = dirs[i] >= 0 && (i == 0 ? create(g, dirs[0], name->base)
                                      : first->error == 0 && linkat(dirs[0], first->base, dirs[i], name->base, 0) == 0);
    name->error = ok ? 0 : errno;
    if (ok)
      open_named(name, dirs[i]);
    else if (i == 0)
      n = 1;
  }
  for (guint i = 0; i < n; i++) {
    GhostName *name = g->names->pdata[i];
    if (name->error == 0)
      (void)unlinkat(dirs[i], name->base, 0);
    if (dirs[i] >= 0)
      (void)close(dirs[i]);
  }
}

static int run_batch(void *argument) {
  const Batch *b = argument;
  (void)setsid(); /* what kills the engine's group or comes from its terminal is not meant for us */
  for (guint i = 0; i < b->directories->len; i++)
    make_directory(&g_array_index(b->directories, Directory, i));
  for (guint i = 0; i < b->ghosts->len; i++)
    name_one(b->ghosts->pdata[i]);
  for (guint i = b->directories->len; i > 0; i--)
    if (g_array_index(b->directories, Directory, i - 1).made)
      (void)rmdir(g_array_index(b->directories, Directory, i - 1).path);
  return 0;
}

/* --- in the engine --- */

static void directory_clear(void *p) {
  g_free(((Directory *)p)->path);
}

static int compare_directories(gconstpointer a, gconstpointer b) {
  return strcmp(((const Directory *)a)->path, ((const Directory *)b)->path);
}

/* @name NULL: one that is missing on the way to another. */
static void add_directory(Batch *b, GHashTable *known, const char *path, GhostName *name) {
  gpointer at;
  if (!g_hash_table_lookup_extended(known, path, NULL, &at)) {
    Directory d = {.path = g_strdup(path), .name = name};
    g_hash_table_insert(known, g_strdup(path), GUINT_TO_POINTER(b->directories->len));
    g_array_append_val(b->directories, d);
    return;
  }
  Directory *d = &g_array_index(b->directories, Directory, GPOINTER_TO_UINT(at));
  if (name && !d->name)
    d->name = name;
}

static void add_missing(Batch *b, GHashTable *known, const char *directory) {
  g_autofree char *at = g_strdup(directory);
  while (!g_file_test(at, G_FILE_TEST_IS_DIR) && strcmp(at, "/") != 0 && strcmp(at, ".") != 0) {
    add_directory(b, known, at, NULL);
    char *up = g_path_get_dirname(at);
    g_free(at);
    at = up;
  }
}

/* Runs the batch in a process that shares memory and descriptors with the engine. */
static void run_helper(Batch *b) {
  enum { STACK = 65536 };
  g_autofree char *stack = g_malloc(STACK);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  char *top = (char *)((uintptr_t)(stack + STACK) & ~(uintptr_t)63);
  pid_t pid = clone(run_batch, top, CLONE_VM | CLONE_FILES | CLONE_VFORK, b);
  while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
    ;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void rename_for_try(Ghost *g, int try) {
  for (guint i = 0; i < g->names->len; i++) {
    GhostName *n = g->names->pdata[i];
    g_autofree char *own = g_path_get_basename(n->path);
    n->error = EINTR; /* if the helper is killed */
    if (try < OWN_TRIES)
      continue;
    g_free(n->base);
    n->base = g_strdup_printf("%.200s.%08x", own, g_random_int());
  }
}

static void prepare(const GPtrArray *ghosts, int try, Batch *b) {
  g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  for (guint i = 0; i < ghosts->len; i++) {
    Ghost *g = ghosts->pdata[i];
    if (g->done || ((GhostName *)g->names->pdata[0])->error != EEXIST)
      continue;
    rename_for_try(g, try);
    for (guint k = 0; k < g->names->len; k++)
      add_missing(b, known, ((GhostName *)g->names->pdata[k])->directory);
    if (S_ISDIR(g->mode)) {
      GhostName *n = g->names->pdata[0];
      g_autofree char *path = g_build_filename(n->directory, n->base, NULL);
      n->error = EEXIST; /* another of the same name may have its turn first */
      add_directory(b, known, path, n);
    } else {
      g_ptr_array_add(b->ghosts, g);
    }
  }
  g_array_sort(b->directories, compare_directories);
}

void ghosts_name(const GPtrArray *ghosts) {
  for (int try = 0; try < TRIES; try++) {
    g_autoptr(GPtrArray) batch_ghosts = g_ptr_array_new();
    g_autoptr(GArray) directories = g_array_new(false, false, sizeof(Directory));
    g_array_set_clear_func(directories, directory_clear);
    Batch b = {directories, batch_ghosts};
    prepare(ghosts, try, &b);
    if (directories->len || batch_ghosts->len)
      run_helper(&b);
  }
}

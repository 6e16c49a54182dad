/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files by the thousand: each takes its three or four system calls and depends on nothing else, so several threads open
 * them. What is special (deleted files, kinds in groups) is left to restorer_open_all()'s ordinary way. */

#include "internal.h"
#include <stdatomic.h>

#define MIN_PARALLEL 512
#define MAX_THREADS 4

typedef struct Preopen {
  GPtrArray *entries; /* FileEntry, each once */
  int *fds;
  GError **errors;
  atomic_uint next;
  atomic_bool failed;
} Preopen;

static gpointer preopen_main(gpointer data) {
  Preopen *p = data;
  guint i;
  while (!atomic_load(&p->failed) && (i = atomic_fetch_add(&p->next, 1)) < p->entries->len) {
    const FileEntry *entry = p->entries->pdata[i];
    p->fds[i] = reg_open_plain(entry->reg, &p->errors[i]);
    if (p->fds[i] < 0)
      atomic_store(&p->failed, true);
  }
  return NULL;
}

static bool collect_entries(Restorer *r, Preopen *p, GError **error) {
  const Checkpoint *checkpoint = restorer_checkpoint(r);
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint t = 0; t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    for (guint i = 0; i < task->fds->len; i++) {
      const FdinfoEntry *e = task->fds->pdata[i];
      const FileEntry *entry = e->type == FD_TYPES__REG ? checkpoint_find_file(checkpoint, e->id) : NULL;
      guint32 ghost = 0;
      if (!entry || !entry->reg || restorer_is_open(r, e->id) || !g_hash_table_add(seen, GUINT_TO_POINTER(e->id)))
        continue;
      if (!ghost_find(r, e->id, &ghost, error))
        return false;
      if (!ghost)
        g_ptr_array_add(p->entries, (gpointer)entry);
    }
  }
  return true;
}

static void run_threads(Preopen *p) {
  GThread *threads[MAX_THREADS] = {0};
  guint n = MIN(g_get_num_processors(), MAX_THREADS);
  for (guint i = 1; i < n; i++)
    threads[i] = g_thread_try_new("preopen", preopen_main, p, NULL);
  (void)preopen_main(p);
  for (guint i = 1; i < n; i++)
    if (threads[i])
      (void)g_thread_join(threads[i]);
}

/* Hands what was opened over to the restorer; the first failure in the order of the files is the one that is told. */
static bool take_over(Restorer *r, Preopen *p, GError **error) {
  bool ok = true;
  for (guint i = 0; i < p->entries->len; i++) {
    const FileEntry *entry = p->entries->pdata[i];
    if (p->fds[i] >= 0)
      restorer_put_fd(r, entry->id, p->fds[i]);
    if (!p->errors[i])
      continue;
    g_autofree char *name = file_entry_name(entry);
    g_prefix_error(&p->errors[i], "Cannot restore %s: ", name);
    if (ok)
      g_propagate_error(error, p->errors[i]);
    else
      g_error_free(p->errors[i]);
    ok = false;
  }
  return ok;
}

bool preopen_files(Restorer *r, GError **error) {
  Preopen p = {.entries = g_ptr_array_new()};
  bool ok = collect_entries(r, &p, error);
  if (ok && p.entries->len >= MIN_PARALLEL) {
    p.fds = g_new(int, p.entries->len);
    p.errors = g_new0(GError *, p.entries->len);
    for (guint i = 0; i < p.entries->len; i++)
      p.fds[i] = -1;
    run_threads(&p);
    ok = take_over(r, &p, error);
  }
  g_free(p.fds);
  g_free(p.errors);
  g_ptr_array_unref(p.entries);
  return ok;
}

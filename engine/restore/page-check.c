/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "page-check.h"
#include "image.h"
#include <pthread.h>

#define THREAD_WORTH_PAGES 256

struct Verifier {
  const Checkpoint *checkpoint;
  int dir_fd;
  bool threaded, ok;
  pthread_t thread;
  GError *error;
};

static bool verify_all(Verifier *v) {
  const Checkpoint *c = v->checkpoint;
  g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < c->tasks->len; i++) {
    const PageSet *pages = ((Task *)c->tasks->pdata[i])->pages;
    if (pages && g_hash_table_add(done, GUINT_TO_POINTER(pages->pages_id)) && !image_check_pages(v->dir_fd, pages, &v->error))
      return false;
  }
  GHashTableIter iter;
  gpointer pages;
  g_hash_table_iter_init(&iter, c->shmem);
  while (g_hash_table_iter_next(&iter, NULL, &pages))
    if (!image_check_pages(v->dir_fd, pages, &v->error))
      return false;
  return true;
}

static void *verifier_main(void *data) {
  Verifier *v = data;
  v->ok = verify_all(v);
  return NULL;
}

static guint64 count_pages(const Checkpoint *c) {
  guint64 n = 0;
  for (guint i = 0; i < c->tasks->len; i++)
    n += page_set_n_present(((Task *)c->tasks->pdata[i])->pages);
  return n;
}

Verifier *verifier_start(const Checkpoint *checkpoint, int dir_fd) {
  Verifier *v = g_new0(Verifier, 1);
  v->checkpoint = checkpoint;
  v->dir_fd = dir_fd;
  v->threaded = count_pages(checkpoint) >= THREAD_WORTH_PAGES && pthread_create(&v->thread, NULL, verifier_main, v) == 0;
  if (!v->threaded)
    (void)verifier_main(v);
  return v;
}

bool verifier_join(Verifier *v, GError **error) {
  if (!v)
    return true;
  if (v->threaded)
    pthread_join(v->thread, NULL);
  bool ok = v->ok;
  if (!ok)
    g_propagate_error(error, v->error);
  g_free(v);
  return ok;
}

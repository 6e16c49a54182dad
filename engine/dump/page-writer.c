/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "page-writer.h"
#include "digest.h"
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define BUFFER_SIZE (1 << 20) /* larger ones leave the second-level cache, smaller ones cost the file system more per byte */
#define N_BUFFERS 4
#define THREAD_WORTH (8ull << 20) /* below that a thread costs more than it brings */

typedef struct OutFile {
  int fd;
  char *name;
  int users; /* buffers on their way, plus one while it is the current file */
} OutFile;

typedef struct Buffer {
  unsigned char *bytes;
  size_t used;
  OutFile *file;
} Buffer;

struct PageWriter {
  Buffer buffers[N_BUFFERS];
  unsigned head, tail; /* filled ones are [tail, head) */
  OutFile *file;
  PageSet *set;
  Digest digest; /* of the current file, counted on the producer's side: the other one has the copying into the file */
  bool threaded, stop;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int error; /* errno of the first failed write */
  char *error_name;
};

static void file_unref(OutFile *f) {
  if (--f->users)
    return;
  (void)close(f->fd);
  g_free(f->name);
  g_free(f);
}

static int write_all(int fd, const unsigned char *bytes, size_t size) {
  while (size) {
    ssize_t n = write(fd, bytes, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? errno : EIO;
    bytes += n;
    size -= (size_t)n;
  }
  return 0;
}

static void note_error(PageWriter *w, int err, const char *name) {
  if (!err || w->error)
    return;
  w->error = err;
  w->error_name = g_strdup(name);
}

/* Called with the lock held by the thread; without any when there is none. */
static void write_tail(PageWriter *w) {
  Buffer *b = &w->buffers[w->tail % N_BUFFERS];
  int err = 0;
  if (!w->error) {
    if (w->threaded)
      pthread_mutex_unlock(&w->lock);
    err = write_all(b->file->fd, b->bytes, b->used);
    if (w->threaded)
      pthread_mutex_lock(&w->lock);
  }
  note_error(w, err, b->file->name);
  file_unref(b->file);
  b->used = 0;
  w->tail++;
}

static void *writer_main(void *data) {
  PageWriter *w = data;
  pthread_mutex_lock(&w->lock);
  for (;;) {
    while (w->tail == w->head && !w->stop)
      pthread_cond_wait(&w->changed, &w->lock);
    if (w->tail == w->head)
      break;
    write_tail(w);
    pthread_cond_signal(&w->changed);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

PageWriter *page_writer_new(guint64 expected) {
  PageWriter *w = g_new0(PageWriter, 1);
  unsigned char *area = mmap(NULL, N_BUFFERS * BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED)
    g_error("out of memory"); /* as g_malloc() would */
  for (unsigned i = 0; i < N_BUFFERS; i++)
    w->buffers[i].bytes = area + (size_t)i * BUFFER_SIZE;
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
  w->threaded = expected >= THREAD_WORTH && pthread_create(&w->thread, NULL, writer_main, w) == 0;
  return w;
}

static void lock(PageWriter *w) {
  if (w->threaded)
    pthread_mutex_lock(&w->lock);
}

static void unlock(PageWriter *w) {
  if (w->threaded)
    pthread_mutex_unlock(&w->lock);
}

/* Hands the buffer being filled to the writer; there is none while all of them are with it. */
static void flush_head(PageWriter *w) {
  Buffer *b = &w->buffers[w->head % N_BUFFERS];
  lock(w);
  if (w->head - w->tail == N_BUFFERS || !b->used) {
    unlock(w);
    return;
  }
  unlock(w);
  digest_update(&w->digest, b->bytes, b->used);
  lock(w);
  b->file = w->file;
  w->file->users++;
  w->head++;
  if (w->threaded)
    pthread_cond_signal(&w->changed);
  else
    write_tail(w);
  unlock(w);
}

void page_writer_begin(PageWriter *w, int fd, const char *name, PageSet *set) {
  page_writer_finish(w);
  w->set = set;
  digest_init(&w->digest);
  w->file = g_new0(OutFile, 1);
  *w->file = (OutFile){fd, g_strdup(name), 1};
}

unsigned char *page_writer_reserve(PageWriter *w, size_t *ret_room, GError **error) {
  lock(w);
  bool full = w->head - w->tail < N_BUFFERS && w->buffers[w->head % N_BUFFERS].used == BUFFER_SIZE;
  unlock(w);
  if (full)
    flush_head(w);
  lock(w);
  while (w->head - w->tail == N_BUFFERS)
    pthread_cond_wait(&w->changed, &w->lock);
  int err = w->error;
  Buffer *b = &w->buffers[w->head % N_BUFFERS];
  unlock(w);
  if (err) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot write %s", w->error_name);
    return NULL;
  }
  *ret_room = BUFFER_SIZE - b->used;
  return b->bytes + b->used;
}

void page_writer_commit(PageWriter *w, size_t used) {
  w->buffers[w->head % N_BUFFERS].used += used;
}

void page_writer_finish(PageWriter *w) {
  if (!w->file)
    return;
  flush_head(w);
  w->set->has_xxh64 = true;
  w->set->xxh64 = digest_value(&w->digest);
  lock(w);
  file_unref(w->file);
  w->file = NULL;
  unlock(w);
}

bool page_writer_free(PageWriter *w, GError **error) {
  page_writer_finish(w);
  if (w->threaded) {
    lock(w);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    unlock(w);
    pthread_join(w->thread, NULL);
  }
  bool ok = w->error == 0;
  if (!ok)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, w->error, "Cannot write %s", w->error_name);
  munmap(w->buffers[0].bytes, N_BUFFERS * BUFFER_SIZE);
  pthread_mutex_destroy(&w->lock);
  pthread_cond_destroy(&w->changed);
  g_free(w->error_name);
  g_free(w);
  return ok;
}

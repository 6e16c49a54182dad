/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "page-writer.h"
#include "digest.h"
#include "image.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ull
#define CHUNK_SIZE (512u << 10)   /* of a thread's buffer, which is to stay in its second-level cache */
#define CHUNK_PIECES 64u          /* ranges of one chunk */
#define MAX_THREADS 4             /* more would wait for the file's lock */
#define THREAD_WORTH (8ull << 20) /* below that a thread costs more than it brings */

typedef struct OutFile {
  PageSource source;
  PageSet *set;
  int fd;          /* -1 before its first chunk is placed, and after the last one was written */
  guint64 placed;  /* bytes that have their place */
  guint chunks;    /* not yet written */
  guint n_chunks, next; /* all of them, and the one to be placed next */
} OutFile;

typedef struct Piece {
  uint64_t start, end;
  PageRangeFlags flags;
} Piece;

typedef struct Chunk {
  OutFile *file;
  guint number; /* in its file */
  guint piece, n_pieces;
  size_t size; /* bytes of its pieces */
} Chunk;

struct PageWriter {
  Job *job;
  GPtrArray *files; /* OutFile */
  GArray *pieces;   /* Piece */
  GArray *chunks;   /* Chunk */
  guint64 total;
  MemoryStats *stats;
  pthread_mutex_t lock; /* of everything below, and of OutFile */
  pthread_cond_t placed;
  guint next; /* chunk nobody has taken */
  bool failed;
  GError *error;
};

/* What a thread has in hand. */
typedef struct Hand {
  PageWriter *w;
  unsigned char *buffer;
  const Chunk *chunk;
  GArray *runs; /* Run: what is kept of it */
  size_t kept;
  guint64 zeroes;
} Hand;

typedef struct Run {
  uint64_t vaddr;
  guint64 pages;
} Run;

static void out_file_free(void *p) {
  OutFile *f = p;
  if (f->fd >= 0)
    (void)close(f->fd);
  g_free(f);
}

PageWriter *page_writer_new(Job *job) {
  PageWriter *w = g_new0(PageWriter, 1);
  w->job = job;
  w->files = g_ptr_array_new_with_free_func(out_file_free);
  w->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
  w->chunks = g_array_new(FALSE, FALSE, sizeof(Chunk));
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->placed, NULL);
  return w;
}

void page_writer_free(PageWriter *w) {
  if (!w)
    return;
  g_ptr_array_unref(w->files);
  g_array_unref(w->pieces);
  g_array_unref(w->chunks);
  g_clear_error(&w->error);
  pthread_mutex_destroy(&w->lock);
  pthread_cond_destroy(&w->placed);
  g_free(w);
}

guint64 page_writer_total(const PageWriter *w) {
  return w->total;
}

static Chunk *add_chunk(PageWriter *w, OutFile *file) {
  Chunk c = {.file = file, .number = file->n_chunks++, .piece = w->pieces->len};
  g_array_append_val(w->chunks, c);
  file->chunks++;
  return &g_array_index(w->chunks, Chunk, w->chunks->len - 1);
}

void page_writer_file(PageWriter *w, const PageSource *source, PageSet *set) {
  OutFile *f = g_new0(OutFile, 1);
  *f = (OutFile){.source = *source, .set = set, .fd = -1};
  g_ptr_array_add(w->files, f);
  (void)add_chunk(w, f); /* a file without pages is made, too */
}

void page_writer_range(PageWriter *w, uint64_t start, uint64_t end, PageRangeFlags flags) {
  Chunk *c = &g_array_index(w->chunks, Chunk, w->chunks->len - 1);
  w->total += end - start;
  while (start < end) {
    if (c->size == CHUNK_SIZE || c->n_pieces == CHUNK_PIECES)
      c = add_chunk(w, c->file);
    Piece piece = {start, MIN(end, start + (CHUNK_SIZE - c->size)), flags};
    g_array_append_val(w->pieces, piece);
    c->n_pieces++;
    c->size += piece.end - piece.start;
    start = piece.end;
  }
}

static const Piece *piece_of(const Hand *h, guint i) {
  return &g_array_index(h->w->pieces, Piece, h->chunk->piece + i);
}

/* Not readable for the task itself (PROT_NONE, exec-only), which process_vm_readv(2) respects. */
static int read_by_mem(pid_t pid, uint64_t address, unsigned char *to, size_t size) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  ssize_t n = pread(fd, to, size, (off_t)address);
  int err = n < 0 ? errno : EFAULT;
  (void)close(fd);
  return n == (ssize_t)size ? 0 : -err;
}

static int read_piece(const PageSource *source, const Piece *p, unsigned char *to) {
  size_t size = p->end - p->start;
  if (!(p->flags & PAGE_RANGE_UNREADABLE)) {
    struct iovec local = {to, size}, remote = {(void *)(uintptr_t)p->start, size};
    if (process_vm_readv(source->pid, &local, 1, &remote, 1, 0) == (ssize_t)size)
      return 0;
  }
  return read_by_mem(source->pid, p->start, to, size);
}

static bool read_task(Hand *h, GError **error) {
  const PageSource *source = &h->chunk->file->source;
  struct iovec local = {h->buffer, h->chunk->size}, remote[CHUNK_PIECES];
  bool readable = true;
  for (guint i = 0; i < h->chunk->n_pieces; i++) {
    const Piece *p = piece_of(h, i);
    remote[i] = (struct iovec){(void *)(uintptr_t)p->start, p->end - p->start};
    readable &= !(p->flags & PAGE_RANGE_UNREADABLE);
  }
  if (readable && process_vm_readv(source->pid, &local, 1, remote, h->chunk->n_pieces, 0) == (ssize_t)h->chunk->size)
    return true;
  unsigned char *to = h->buffer;
  for (guint i = 0; i < h->chunk->n_pieces; i++) { /* one by one: which is it? */
    const Piece *p = piece_of(h, i);
    int e = read_piece(source, p, to);
    if (e < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e,
          "pid %d (%s): cannot read its memory at 0x%" G_GINT64_MODIFIER "x", (int)source->pid, source->comm, p->start);
    to += p->end - p->start;
  }
  return true;
}

static bool read_shmem(Hand *h, GError **error) {
  const PageSource *source = &h->chunk->file->source;
  unsigned char *to = h->buffer;
  for (guint i = 0; i < h->chunk->n_pieces; i++) {
    const Piece *p = piece_of(h, i);
    size_t size = p->end - p->start, have = 0;
    for (ssize_t n = 1; n > 0 && have < size; have += (size_t)n)
      if ((n = pread(source->fd, to + have, size - have, (off_t)(p->start + have))) < 0)
        return engine_fail_errno(
            error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read shared memory %" G_GUINT64_FORMAT, source->shmid);
    memset(to + have, 0, size - have); /* behind its end */
    to += size;
  }
  return true;
}

static bool is_zero(const unsigned char *page) {
  const uint64_t *w = (const uint64_t *)(const void *)page;
  if (w[0] | w[511])
    return false;
  for (size_t i = 0; i < PAGE / 8; i += 8)
    if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7])
      return false;
  return true;
}

static void keep_run(Hand *h, uint64_t vaddr, const unsigned char *bytes, size_t size) {
  if (!size)
    return;
  if (h->buffer + h->kept != bytes)
    memmove(h->buffer + h->kept, bytes, size);
  h->kept += size;
  Run r = {vaddr, size / PAGE};
  g_array_append_val(h->runs, r);
}

/* Leaves out the pages of zeroes: moves the others together. */
static void keep_pages(Hand *h) {
  const unsigned char *bytes = h->buffer;
  for (guint i = 0; i < h->chunk->n_pieces; i++) {
    const Piece *p = piece_of(h, i);
    size_t size = p->end - p->start, run = p->flags & PAGE_RANGE_SKIP_ZERO ? 0 : size;
    for (size_t at = run; at < size; at += PAGE) {
      if (!is_zero(bytes + at)) {
        run += PAGE;
        continue;
      }
      h->zeroes++;
      keep_run(h, p->start + at - run, bytes + at - run, run);
      run = 0;
    }
    keep_run(h, p->end - run, bytes + size - run, run);
    bytes += size;
  }
}

/* Called with the lock held, in the order of the file's chunks. */
static guint64 place_chunk(Hand *h) {
  OutFile *f = h->chunk->file;
  for (guint i = 0; i < h->runs->len; i++) {
    const Run *r = &g_array_index(h->runs, Run, i);
    page_set_add(f->set, r->vaddr, r->pages, PE_PRESENT);
  }
  guint64 at = f->placed;
  f->placed += h->kept;
  MemoryStats *s = h->w->stats;
  s->pages_scanned += h->chunk->size / PAGE;
  s->pages_zero += h->zeroes;
  s->pages_written += h->kept / PAGE;
  s->bytes_written += h->kept;
  return at;
}

static bool write_chunk(const Hand *h, guint64 at, GError **error) {
  for (size_t done = 0; done < h->kept;) {
    ssize_t n = pwrite(h->chunk->file->fd, h->buffer + done, h->kept - done, (off_t)(at + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, n < 0 ? errno : EIO, "Cannot write pages-%u.img",
          h->chunk->file->set->pages_id);
    done += (size_t)n;
  }
  return true;
}

/* The next chunk; false when there is none, or no use in it. */
static bool take_chunk(Hand *h) {
  PageWriter *w = h->w;
  pthread_mutex_lock(&w->lock);
  bool any = !w->failed && w->next < w->chunks->len;
  if (any)
    h->chunk = &g_array_index(w->chunks, Chunk, w->next++);
  pthread_mutex_unlock(&w->lock);
  h->kept = h->zeroes = 0;
  g_array_set_size(h->runs, 0);
  return any;
}

/* Gives the chunk its place when those before it in its file have theirs; false if somebody failed before. */
static bool take_place(Hand *h, guint64 *ret_at) {
  PageWriter *w = h->w;
  OutFile *f = h->chunk->file;
  pthread_mutex_lock(&w->lock);
  while (f->next != h->chunk->number && !w->failed)
    pthread_cond_wait(&w->placed, &w->lock);
  bool ok = !w->failed;
  if (ok) {
    *ret_at = place_chunk(h);
    f->next++;
    if (f->next < f->n_chunks)
      pthread_cond_broadcast(&w->placed);
  }
  pthread_mutex_unlock(&w->lock);
  return ok;
}

/* By whoever has the first chunk: all others of the file wait for its place. */
static bool create_file(const PageWriter *w, OutFile *f, GError **error) {
  f->fd = image_create_pages(job_images_fd(w->job), f->set->pages_id, error);
  return f->fd >= 0;
}

static bool do_chunk(Hand *h, GError **error) {
  PageWriter *w = h->w;
  OutFile *f = h->chunk->file;
  guint64 at = 0;
  if ((!h->chunk->number && !create_file(w, f, error)) || !(f->source.pid ? read_task(h, error) : read_shmem(h, error)))
    return false;
  keep_pages(h);
  if (!take_place(h, &at) || !write_chunk(h, at, error))
    return false;
  guint64 digest = digest_of_pages(h->buffer, h->kept / PAGE, at / PAGE);
  job_add_bytes(w->job, h->chunk->size);
  pthread_mutex_lock(&w->lock);
  f->set->has_digest = true;
  f->set->digest += digest;
  int fd = --f->chunks ? -1 : f->fd;
  if (fd >= 0)
    f->fd = -1;
  pthread_mutex_unlock(&w->lock);
  if (fd >= 0)
    (void)close(fd);
  return true;
}

/* @error NULL: somebody else has told why. */
static void give_up(PageWriter *w, GError *error) {
  pthread_mutex_lock(&w->lock);
  w->failed = true;
  if (!w->error)
    w->error = error;
  else
    g_clear_error(&error);
  pthread_cond_broadcast(&w->placed);
  pthread_mutex_unlock(&w->lock);
}

/* The job is polled by its own thread only. */
static void work(PageWriter *w, bool poll) {
  Hand h = {.w = w, .runs = g_array_new(FALSE, FALSE, sizeof(Run))};
  h.buffer = mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (h.buffer == MAP_FAILED)
    g_error("out of memory"); /* as g_malloc() would */
  GError *error = NULL;
  while (take_chunk(&h))
    if (!do_chunk(&h, &error) || (poll && !job_poll(w->job, &error))) {
      give_up(w, error);
      break;
    }
  munmap(h.buffer, CHUNK_SIZE);
  g_array_unref(h.runs);
}

static void *worker_main(void *data) {
  work(data, false);
  return NULL;
}

static guint n_processors(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? (guint)CPU_COUNT(&set) : 1;
}

bool page_writer_run(PageWriter *w, MemoryStats *stats, GError **error) {
  pthread_t threads[MAX_THREADS];
  guint n = 0, wanted = w->total >= THREAD_WORTH ? MIN(n_processors(), MAX_THREADS) : 1;
  w->stats = stats;
  while (n + 1 < wanted && pthread_create(&threads[n], NULL, worker_main, w) == 0)
    n++;
  work(w, true);
  while (n)
    pthread_join(threads[--n], NULL);
  if (w->failed)
    g_propagate_error(error, g_steal_pointer(&w->error));
  return !w->failed;
}

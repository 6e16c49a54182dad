/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Pipes: the two ends are descriptions of their own with one inode between them, whose number is the pipe_id of the
 * images. What is in a pipe is copied out by tee(2), which does not consume it. An end that nobody in the tree has is
 * either closed (then it stays so) or held by a stranger: then the pipe leads outside, and a rule must say what to do. */

#include "external.h"
#include "internal.h"
#include "pipe-data.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define PIPE_DEFAULT_SIZE 65536

typedef struct PipeSeen {
  guint64 ino;
  guint32 reader, writer; /* file ids, 0 if there is none */
  bool packets;           /* O_DIRECT at one end */
} PipeSeen;

typedef struct Pipes {
  GPtrArray *list;    /* PipeSeen, in the order they were seen */
  GHashTable *by_ino; /* the same */
} Pipes;

static gpointer pipes_new(void) {
  Pipes *p = g_new0(Pipes, 1);
  p->list = g_ptr_array_new_with_free_func(g_free);
  p->by_ino = g_hash_table_new(g_int64_hash, g_int64_equal);
  return p;
}

static void pipes_free(gpointer data) {
  Pipes *p = data;
  g_hash_table_unref(p->by_ino);
  g_ptr_array_unref(p->list);
  g_free(p);
}

static Pipes *pipes_of(Collector *c) {
  return collector_state(c, &pipe_ops, pipes_new, pipes_free);
}

static bool pipe_claims(const FileProbe *probe) {
  return S_ISFIFO(probe->st.st_mode) && probe->st.st_dev == kernel_devs()->pipes && !(probe->flags & O_PATH);
}

static bool pipe_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  PipeEntry *pipe = MESSAGE_NEW(PipeEntry, pipe_entry__init);
  pipe->id = entry->id;
  pipe->pipe_id = (guint32)probe->st.st_ino;
  pipe->flags = (guint32)probe->flags;
  pipe->fown = collector_fown(probe);
  entry->pipe = pipe;
  Pipes *pipes = pipes_of(c);
  guint64 ino = probe->st.st_ino;
  PipeSeen *seen = g_hash_table_lookup(pipes->by_ino, &ino);
  if (!seen) {
    seen = g_new0(PipeSeen, 1);
    seen->ino = ino;
    g_hash_table_insert(pipes->by_ino, &seen->ino, seen);
    g_ptr_array_add(pipes->list, seen);
  }
  seen->packets = seen->packets || probe->flags & O_DIRECT;
  int mode = probe->flags & O_ACCMODE;
  if (mode != O_WRONLY)
    seen->reader = entry->id;
  if (mode != O_RDONLY)
    seen->writer = entry->id;
  return true;
}

/* --- the content --- */

static void add_data(Collector *c, RecordKind kind, guint32 pipe_id, guint32 size, GBytes *bytes) {
  PipeDataEntry *data = MESSAGE_NEW(PipeDataEntry, pipe_data_entry__init);
  data->pipe_id = pipe_id;
  data->bytes = bytes ? (guint32)g_bytes_get_size(bytes) : 0;
  data->has_size = true;
  data->size = size;
  checkpoint_add_record(collector_checkpoint(c), kind, &data->base, bytes);
}

/* Reads the scratch pipe empty. In packet mode each read gives one packet, which becomes a record of its own. */
static bool add_scratch(
    Collector *c, RecordKind kind, guint32 pipe_id, guint32 size, int scratch, bool packets, GError **error) {
  g_autoptr(GByteArray) all = g_byte_array_new();
  g_autofree guint8 *buffer = g_malloc(PIPE_DEFAULT_SIZE);
  ssize_t n;
  while ((n = read(scratch, buffer, PIPE_DEFAULT_SIZE)) > 0) {
    if (packets)
      add_data(c, kind, pipe_id, size, g_bytes_new(buffer, (gsize)n));
    else
      g_byte_array_append(all, buffer, (guint)n);
  }
  if (n < 0 && errno != EAGAIN)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the content of pipe %u", pipe_id);
  if (all->len)
    add_data(c, kind, pipe_id, size, g_byte_array_free_to_bytes(g_steal_pointer(&all)));
  return true;
}

/* A pipe of our own to copy into, kept for the next; a copy needs as many buffers as the original may have. */
typedef struct Scratch {
  int reader, writer, size;
} Scratch;

static gpointer scratch_new(void) {
  Scratch *s = g_new0(Scratch, 1);
  s->reader = s->writer = -1;
  return s;
}

static void scratch_free(gpointer data) {
  Scratch *s = data;
  fd_cleanup(&s->reader);
  fd_cleanup(&s->writer);
  g_free(s);
}

static bool scratch_prepare(Scratch *s, int size, GError **error) {
  int ends[2];
  if (s->reader < 0) {
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pipe");
    s->reader = ends[0];
    s->writer = ends[1];
    s->size = fcntl(s->writer, F_GETPIPE_SZ);
  }
  if (size <= s->size)
    return true;
  if (fcntl(s->writer, F_SETPIPE_SZ, size) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pipe of %d bytes", size);
  s->size = size;
  return true;
}

bool pipe_collect_data(Collector *c, RecordKind kind, guint32 pipe_id, int reader, bool packets, GError **error) {
  static const char key;
  Scratch *scratch = collector_state(c, &key, scratch_new, scratch_free);
  int size = fcntl(reader, F_GETPIPE_SZ), queued = 0;
  if (size < 0 || ioctl(reader, FIONREAD, &queued) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read the size of pipe %u", pipe_id);
  if (!queued) {
    if (size != PIPE_DEFAULT_SIZE)
      add_data(c, kind, pipe_id, (guint32)size, NULL);
    return true;
  }
  if (!scratch_prepare(scratch, size, error))
    return false;
  ssize_t copied = tee(reader, scratch->writer, INT_MAX, SPLICE_F_NONBLOCK);
  if (copied < queued)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, copied < 0 ? errno : ENODATA,
        "Cannot copy the %d bytes that are in pipe %u", queued, pipe_id);
  return add_scratch(c, kind, pipe_id, (guint32)size, scratch->reader, packets, error);
}

/* --- ends that are not in the tree --- */

/* Somebody must have an answer. *ret_closed: the pipe comes back as if its other end were closed. */
static bool ask_about_end(Collector *c, guint32 file_id, bool other_reads, bool *ret_closed, GError **error) {
  FileProbe probe;
  *ret_closed = false;
  if (!collector_probe_of(c, file_id, &probe))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The pipe of file id %u is gone", file_id);
  g_autofree char *comm = NULL;
  pid_t holder = outside_holder(c, probe.link, other_reads ? S_IRUSR : S_IWUSR, &comm);
  g_autofree char *who = holder ? g_strdup_printf("pid %d (%s)", (int)holder, comm) : g_strdup("another process");
  g_autofree char *reason =
      g_strdup_printf("its %s end is held by %s, outside the tree", other_reads ? "read" : "write", who);
  g_autofree char *cure = g_strdup_printf("dump from the process on that keeps both ends, start the program with its %s in a "
                                          "file, or say what to do with it by a rule (external: pipe:action=close or inherit)",
      other_reads ? "output" : "input");
  g_autofree char *what = g_strdup_printf("pipe %s", probe.link);
  ExternalObject o = external_of_probe(EXTERNAL_PIPE, &probe, file_id);
  o.sock.ino = (guint32)probe.st.st_ino;
  o.sock.peer_pid = holder;
  o.sock.peer_comm = comm;
  o.what = what;
  o.reason = reason;
  o.cure = cure;
  g_auto(ExternalClaim) claim = {0};
  if (!collector_external(c, &o, &claim, error))
    return false;
  *ret_closed = claim.action == EXTERNAL_CLOSE;
  return true;
}

/* poll(2) says POLLHUP at a read end without writers, POLLERR at a write end without readers. */
static bool other_end_is_closed(int fd, short event) {
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) == 1 && p.revents & event;
}

static bool pipe_finish_one(Collector *c, const PipeSeen *seen, GError **error) {
  int reader = seen->reader ? collector_local_of(c, seen->reader) : -1;
  int writer = seen->writer && reader < 0 ? collector_local_of(c, seen->writer) : -1;
  if (reader < 0 && writer < 0)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The pipe %" G_GUINT64_FORMAT " is gone", seen->ino);
  bool closed = true;
  if (!seen->writer && !other_end_is_closed(reader, POLLHUP) &&
      !ask_about_end(c, seen->reader, false, &closed, error))
    return false;
  if (!closed)
    return true;
  if (seen->reader)
    return pipe_collect_data(c, RECORD_PIPES_DATA, (guint32)seen->ino, reader, seen->packets, error);
  /* What is in it was for the one who reads there. */
  return other_end_is_closed(writer, POLLERR) || ask_about_end(c, seen->writer, true, &closed, error);
}

static bool pipe_collect_finish(Collector *c, GError **error) {
  const Pipes *pipes = pipes_of(c);
  for (guint i = 0; i < pipes->list->len; i++) {
    const PipeSeen *seen = pipes->list->pdata[i];
    if (!pipe_finish_one(c, seen, error))
      return false;
    collector_drop_local(c, seen->reader);
    collector_drop_local(c, seen->writer);
    if (i % 64 == 63 && !job_poll(collector_job(c), error))
      return false;
  }
  return true;
}

/* --- restore --- */

/* What has become of the two ends of a pipe: ids of the descriptions that got the first reader and the first writer. */
typedef struct PipeMade {
  guint32 reader, writer;
} PipeMade;

static gpointer packets_new(void) {
  return g_hash_table_new(NULL, NULL);
}

static gpointer made_new(void) {
  return g_hash_table_new_full(NULL, NULL, NULL, g_free);
}

/* pipe_id -> GPtrArray of Record; built once, so that thousands of pipes do not search thousands of records each. */
static gpointer data_index_new(void) {
  return g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_ptr_array_unref);
}

static const GPtrArray *data_of(Restorer *r, RecordKind kind, guint32 pipe_id) {
  static const char keys[RECORD_N_KINDS];
  GHashTable *index = restorer_state(r, &keys[kind], data_index_new, (GDestroyNotify)g_hash_table_unref);
  const GPtrArray *records = restorer_checkpoint(r)->records[kind];
  for (guint i = g_hash_table_size(index) ? records->len : 0; i < records->len; i++) {
    Record *record = records->pdata[i];
    gpointer key = GUINT_TO_POINTER(((PipeDataEntry *)record->message)->pipe_id);
    GPtrArray *list = g_hash_table_lookup(index, key);
    if (!list) {
      list = g_ptr_array_new();
      g_hash_table_insert(index, key, list);
    }
    g_ptr_array_add(list, record);
  }
  return g_hash_table_lookup(index, GUINT_TO_POINTER(pipe_id));
}

static bool fill(int writer, GBytes *bytes, GError **error) {
  gsize size;
  const guint8 *data = g_bytes_get_data(bytes, &size);
  while (size > 0) {
    ssize_t n = write(writer, data, size);
    if (n <= 0)
      return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, n < 0 ? errno : EIO,
          "The content of the pipe does not fit into it (%zu bytes left over)", size);
    data += n;
    size -= (gsize)n;
  }
  return true;
}

/* @writer is non-blocking. */
bool pipe_restore_data(Restorer *r, RecordKind kind, guint32 pipe_id, int writer, GError **error) {
  const GPtrArray *records = data_of(r, kind, pipe_id);
  for (guint i = 0; records && i < records->len; i++) {
    const Record *record = records->pdata[i];
    const PipeDataEntry *data = (const PipeDataEntry *)record->message;
    if (i == 0 && data->has_size && data->size != PIPE_DEFAULT_SIZE && fcntl(writer, F_SETPIPE_SZ, (int)data->size) < 0)
      return engine_fail_errno(
          error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set the size of a pipe to %u", data->size);
    if (record->extra && !fill(writer, record->extra, error))
      return false;
  }
  return true;
}

/* The pipes with a writer in packet mode; what is in them is written that way too. */
static bool has_packets(Restorer *r, guint32 pipe_id) {
  static const char key;
  GHashTable *packets = restorer_state(r, &key, packets_new, (GDestroyNotify)g_hash_table_unref);
  if (!g_hash_table_size(packets)) {
    const GPtrArray *files = restorer_checkpoint(r)->files;
    for (guint i = 0; i < files->len; i++) {
      const PipeEntry *pipe = ((const FileEntry *)files->pdata[i])->pipe;
      if (pipe && pipe->flags & O_DIRECT)
        g_hash_table_add(packets, GUINT_TO_POINTER(pipe->pipe_id));
    }
    g_hash_table_add(packets, GUINT_TO_POINTER(0)); /* looked at */
  }
  return g_hash_table_contains(packets, GUINT_TO_POINTER(pipe_id));
}

static PipeMade *pipe_make(Restorer *r, const PipeEntry *pipe, GError **error) {
  GHashTable *made = restorer_state(r, &pipe_ops, made_new, (GDestroyNotify)g_hash_table_unref);
  PipeMade *m = g_hash_table_lookup(made, GUINT_TO_POINTER(pipe->pipe_id));
  if (m)
    return m;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK | (has_packets(r, pipe->pipe_id) ? O_DIRECT : 0)) < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot make a pipe");
    return NULL;
  }
  restorer_shared_put(r, FD_TYPES__PIPE, (guint64)pipe->pipe_id << 1, ends[0]);
  restorer_shared_put(r, FD_TYPES__PIPE, (guint64)pipe->pipe_id << 1 | 1, ends[1]);
  if (!pipe_restore_data(r, RECORD_PIPES_DATA, pipe->pipe_id, ends[1], error))
    return NULL;
  m = g_new0(PipeMade, 1);
  g_hash_table_insert(made, GUINT_TO_POINTER(pipe->pipe_id), m);
  return m;
}

/* The pipe was opened again through /proc: a description of its own on the same inode. */
static int pipe_reopen(Restorer *r, const PipeEntry *pipe, const PipeMade *m, GError **error) {
  guint32 id = m->reader ? m->reader : m->writer;
  int any = restorer_shared_get(r, FD_TYPES__PIPE, (guint64)pipe->pipe_id << 1);
  if (any < 0)
    any = restorer_shared_get(r, FD_TYPES__PIPE, (guint64)pipe->pipe_id << 1 | 1);
  if (any < 0)
    any = restorer_fd_of(r, id, error);
  if (any < 0)
    return -1;
  FdPath path = fd_path(any);
  int fd = open(path.text, ((int)pipe->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open a pipe once more");
  return fd;
}

static int open_end(Restorer *r, const FileEntry *entry, GError **error) {
  const PipeEntry *pipe = entry->pipe;
  PipeMade *m = pipe_make(r, pipe, error);
  if (!m)
    return -1;
  int mode = (int)pipe->flags & O_ACCMODE;
  guint32 *taken = mode == O_RDONLY ? &m->reader : &m->writer;
  bool first = mode != O_RDWR && !*taken;
  _cleanup_fd_ int fd = first
                            ? restorer_shared_take(r, FD_TYPES__PIPE, (guint64)pipe->pipe_id << 1 | (mode == O_WRONLY))
                            : pipe_reopen(r, pipe, m, error);
  if (fd < 0 && first)
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The pipe %u has no such end any more", pipe->pipe_id);
  if (fd < 0 || !restorer_set_flags(fd, pipe->flags, error))
    return -1;
  if (first)
    *taken = entry->id;
  return fd_take(&fd);
}

/* What the restore's caller gives in place of a pipe must be open for the same. */
static bool check_given(const PipeEntry *pipe, int fd, GError **error) {
  int have = fcntl(fd, F_GETFL), want = (int)pipe->flags & O_ACCMODE;
  return (have >= 0 && ((have & O_ACCMODE) == O_RDWR || (have & O_ACCMODE) == want)) ||
         engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
             "The descriptor given for pipe:[%u] cannot be %s", pipe->pipe_id, want == O_RDONLY ? "read" : "written to");
}

static int pipe_open(Restorer *r, const FileEntry *entry, GError **error) {
  const PipeEntry *pipe = entry->pipe;
  if (!pipe) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no pipe_entry");
    return -1;
  }
  ExternalObject o = {.kind = EXTERNAL_PIPE, .file_id = entry->id};
  o.optional = !checkpoint_find_external(restorer_checkpoint(r), entry->id);
  o.sock.ino = pipe->pipe_id;
  g_auto(ExternalAnswer) answer = {.fd = -1};
  if (!restorer_external(r, &o, &answer, error))
    return -1;
  if (answer.fd >= 0)
    return check_given(pipe, answer.fd, error) ? fd_take(&answer.fd) : -1;
  return open_end(r, entry, error);
}

static const FownEntry *pipe_fown(const FileEntry *entry) {
  return entry->pipe ? entry->pipe->fown : NULL;
}

const ObjectOps pipe_ops = {
    .name = "pipe",
    .type = FD_TYPES__PIPE,
    .claims = pipe_claims,
    .collect = pipe_collect,
    .collect_finish = pipe_collect_finish,
    .open = pipe_open,
    .fown = pipe_fown,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Named pipes. The images say them in two entries: a fifo_entry for the pipe, and a reg_file_entry (with an id of its
 * own) for path, flags and owner. Otherwise they are like pipes (pipe.c). One whose other end is outside is opened again by its
 * path, if a rule for pipes allows it: whoever has it open then, or opens it, is at the other end. */

#include "external.h"
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

typedef struct FifoSeen {
  dev_t dev;
  ino_t ino;
  guint32 pipe_id;
  guint32 reader, writer; /* file ids */
} FifoSeen;

static gpointer fifos_new(void) {
  return g_ptr_array_new_with_free_func(g_free);
}

static bool fifo_claims(const FileProbe *probe) {
  return S_ISFIFO(probe->st.st_mode) && probe->link[0] == '/' && !(probe->flags & O_PATH);
}

static bool is_taken(const GPtrArray *fifos, guint32 pipe_id) {
  for (guint i = 0; i < fifos->len; i++)
    if (((FifoSeen *)fifos->pdata[i])->pipe_id == pipe_id)
      return true;
  return false;
}

/* The id in the images is the inode number, as CRIU has it; FIFOs of several file systems may share one. */
static FifoSeen *seen_of(GPtrArray *fifos, const struct stat *st) {
  for (guint i = 0; i < fifos->len; i++) {
    FifoSeen *seen = fifos->pdata[i];
    if (seen->dev == st->st_dev && seen->ino == st->st_ino)
      return seen;
  }
  FifoSeen *seen = g_new0(FifoSeen, 1);
  seen->dev = st->st_dev;
  seen->ino = st->st_ino;
  seen->pipe_id = (guint32)st->st_ino;
  while (is_taken(fifos, seen->pipe_id))
    seen->pipe_id += 0x10000001;
  g_ptr_array_add(fifos, seen);
  return seen;
}

static bool fifo_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  FileEntry *file = MESSAGE_NEW(FileEntry, file_entry__init);
  file->type = FD_TYPES__REG;
  file->id = collector_new_file_id(c);
  GError *failure = NULL;
  file->reg = reg_collect_entry(c, probe, file->id, &failure);
  if (!file->reg) {
    file_entry__free_unpacked(file, NULL);
    if (failure)
      g_propagate_error(error, failure);
    return !failure;
  }
  checkpoint_add_file(collector_checkpoint(c), file);
  entry->fifo = MESSAGE_NEW(FifoEntry, fifo_entry__init);
  entry->fifo->id = entry->id;
  GPtrArray *fifos = collector_state(c, &fifo_ops, fifos_new, (GDestroyNotify)g_ptr_array_unref);
  FifoSeen *seen = seen_of(fifos, &probe->st);
  entry->fifo->pipe_id = seen->pipe_id;
  entry->fifo->has_regf_id = true;
  entry->fifo->regf_id = file->id;
  if ((probe->flags & O_ACCMODE) != O_WRONLY)
    seen->reader = entry->id;
  if ((probe->flags & O_ACCMODE) != O_RDONLY)
    seen->writer = entry->id;
  return true;
}

static bool has_stranger(int fd, short closed) {
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) < 1 || !(p.revents & closed);
}

/* Somebody outside has the other end: a rule must say that it may come back without it. *ret_alone: one does. */
static bool ask_about_stranger(Collector *c, guint32 file_id, bool reads, bool *ret_alone, GError **error) {
  FileProbe probe;
  *ret_alone = false;
  if (!collector_probe_of(c, file_id, &probe))
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The FIFO of file id %u is gone", file_id);
  g_autofree char *comm = NULL;
  pid_t holder = outside_holder(c, probe.link, reads ? S_IRUSR : S_IWUSR, &comm);
  g_autofree char *who = holder ? g_strdup_printf("pid %d (%s)", (int)holder, comm) : g_strdup("another process");
  g_autofree char *what = g_strdup_printf("FIFO %s", probe.link);
  g_autofree char *reason = g_strdup_printf("its %s end is held by %s, outside the tree", reads ? "read" : "write", who);
  ExternalObject o = external_of_probe(EXTERNAL_PIPE, &probe, file_id);
  o.sock.ino = (guint32)probe.st.st_ino;
  o.sock.peer_pid = holder;
  o.sock.peer_comm = comm;
  o.what = what;
  o.reason = reason;
  o.cure = "end the other process first, dump from their common parent on, or let it be opened again by a rule "
           "(external: pipe:action=close)";
  g_auto(ExternalClaim) claim = {0};
  if (!collector_external(c, &o, &claim, error))
    return false;
  *ret_alone = claim.action == EXTERNAL_CLOSE;
  return true;
}

/* A reader that has never had a writer sees no hang-up either: it opened with O_NONBLOCK and waits for the first. */
static bool has_writer_outside(Collector *c, guint32 reader) {
  FileProbe probe;
  g_autofree char *who = collector_probe_of(c, reader, &probe) ? find_outside_holder(c, probe.link, S_IWUSR) : NULL;
  return who != NULL;
}

static bool fifo_finish_one(Collector *c, const FifoSeen *seen, GError **error) {
  int reader = seen->reader ? collector_local_of(c, seen->reader) : -1;
  int writer = seen->writer ? collector_local_of(c, seen->writer) : -1;
  bool alone = true;
  if (!seen->writer && has_stranger(reader, POLLHUP) && has_writer_outside(c, seen->reader) &&
      !ask_about_stranger(c, seen->reader, false, &alone, error))
    return false;
  if (!alone)
    return true;
  if (seen->reader)
    return pipe_collect_data(c, RECORD_FIFO_DATA, seen->pipe_id, reader, false, error);
  return !has_stranger(writer, POLLERR) || ask_about_stranger(c, seen->writer, true, &alone, error);
}

static bool fifo_collect_finish(Collector *c, GError **error) {
  const GPtrArray *fifos = collector_state(c, &fifo_ops, fifos_new, (GDestroyNotify)g_ptr_array_unref);
  for (guint i = 0; i < fifos->len; i++)
    if (!fifo_finish_one(c, fifos->pdata[i], error))
      return false;
  return true;
}

/* --- restore --- */

static const RegFileEntry *reg_of(const Restorer *r, const FileEntry *entry) {
  const FileEntry *file = entry->fifo && entry->fifo->has_regf_id
                              ? checkpoint_find_file(restorer_checkpoint(r), entry->fifo->regf_id)
                              : NULL;
  return file ? file->reg : NULL;
}

/* A description that is open for both ends keeps every open from waiting, and the content in place, until all are open;
 * the restorer closes it then. */
static bool fifo_hold(Restorer *r, const FifoEntry *fifo, const RegFileEntry *reg, GError **error) {
  if (restorer_shared_get(r, FD_TYPES__FIFO, fifo->pipe_id) >= 0)
    return true;
  int fd = restorer_open_reg(r, reg, O_RDWR | O_NONBLOCK, error);
  if (fd < 0)
    return false;
  restorer_shared_put(r, FD_TYPES__FIFO, fifo->pipe_id, fd);
  struct stat st;
  if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "%s is no FIFO now", reg->name);
  /* Whoever is outside may have kept it open, with all that is in it. */
  int kept = 0;
  if (checkpoint_find_external(restorer_checkpoint(r), fifo->id) && ioctl(fd, FIONREAD, &kept) == 0 && kept > 0)
    return true;
  return pipe_restore_data(r, RECORD_FIFO_DATA, fifo->pipe_id, fd, error);
}

static int fifo_open(Restorer *r, const FileEntry *entry, GError **error) {
  const RegFileEntry *reg = reg_of(r, entry);
  if (!reg) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no fifo_entry with a file");
    return -1;
  }
  ExternalObject o = {.kind = EXTERNAL_PIPE, .file_id = entry->id, .path = reg->name};
  o.optional = !checkpoint_find_external(restorer_checkpoint(r), entry->id);
  o.sock.ino = entry->fifo->pipe_id;
  g_auto(ExternalAnswer) answer = {.fd = -1};
  if (!restorer_external(r, &o, &answer, error))
    return -1;
  if (answer.fd >= 0)
    return fd_take(&answer.fd);
  if (!fifo_hold(r, entry->fifo, reg, error))
    return -1;
  _cleanup_fd_ int fd = restorer_open_reg(r, reg, (int)reg->flags, error);
  if (fd < 0 || !restorer_set_flags(fd, reg->flags, error))
    return -1;
  return fd_take(&fd);
}

/* Whom its path's entry names as owner. */
static bool fifo_program(Restorer *r, const FileEntry *entry, const Task *holder, int fd, Program *p, GError **error) {
  const RegFileEntry *reg = reg_of(r, entry);
  fown_program(reg ? reg->fown : NULL, fd, p);
  return true;
}

const ObjectOps fifo_ops = {
    .name = "FIFO",
    .type = FD_TYPES__FIFO,
    .claims = fifo_claims,
    .collect = fifo_collect,
    .collect_finish = fifo_collect_finish,
    .open = fifo_open,
    .program = fifo_program,
};

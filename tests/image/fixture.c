/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fixture.h"
#include "cgroup.pb-c.h"
#include "eventpoll.pb-c.h"
#include "file-lock.pb-c.h"
#include "ghost-file.pb-c.h"
#include "image.h"
#include "load.h"
#include "pipe-data.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-inet.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "tty.pb-c.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sizes of the page files that are not kept with the others. */
static const struct {
  const char *name;
  gsize size;
} pages[] = {
    {"pages-1.img", 4096},
    {"pages-2.img", 4096},
    {"pages-3.img", 86016},
    {"pages-4.img", 61440},
    {"pages-5.img", 61440},
};

static GHashTable *files_new(void) {
  return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_bytes_unref);
}

GHashTable *fixture_slurp(const char *path) {
  GHashTable *files = files_new();
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  g_assert_nonnull(dir);
  for (const char *name; (name = g_dir_read_name(dir));) {
    if (!g_str_has_suffix(name, ".img"))
      continue;
    g_autofree char *file = g_build_filename(path, name, NULL);
    char *data;
    gsize size;
    g_assert_true(g_file_get_contents(file, &data, &size, NULL));
    g_hash_table_insert(files, g_strdup(name), g_bytes_new_take(data, size));
  }
  return files;
}

GHashTable *fixture_golden(void) {
  GHashTable *files = fixture_slurp(IMAGE_TEST_DATA "/objects");
  for (gsize i = 0; i < G_N_ELEMENTS(pages); i++)
    g_hash_table_insert(files, g_strdup(pages[i].name), g_bytes_new_take(g_malloc0(pages[i].size), pages[i].size));
  return files;
}

Checkpoint *fixture_load(GHashTable *files, GError **error) {
  const ImageSource source = {.dir_fd = -1, .memory = files};
  return load_checkpoint(&source, error);
}

/* An empty message as protobuf-c allocates it. */
static void *message_new(const ProtobufCMessageDescriptor *d) {
  ProtobufCMessage *m = malloc(d->sizeof_message);
  protobuf_c_message_init(d, m);
  return m;
}

static void *pointers_new(gsize n) {
  return calloc(n, sizeof(void *));
}

static void add_zombie(Checkpoint *c) {
  Task *t = task_new();
  t->pstree = message_new(&pstree_entry__descriptor);
  t->pstree->pid = 30000;
  t->pstree->ppid = (guint32)task_pid(c->tasks->pdata[0]);
  t->pstree->pgid = t->pstree->sid = t->pstree->ppid;
  t->core = message_new(&core_entry__descriptor);
  t->core->mtype = CORE_ENTRY__MARCH__X86_64;
  t->core->tc = message_new(&task_core_entry__descriptor);
  t->core->tc->task_state = TASK_ZOMBIE;
  t->core->tc->exit_code = 7 << 8;
  t->core->tc->comm = strdup("gone");
  g_ptr_array_add(t->threads, thread_new(30000, t->core));
  checkpoint_add_task(c, t);
}

static void add_data_records(Checkpoint *c) {
  PipeDataEntry *fifo = message_new(&pipe_data_entry__descriptor);
  fifo->pipe_id = 77;
  fifo->bytes = 5;
  checkpoint_add_record(c, RECORD_FIFO_DATA, &fifo->base, g_bytes_new_static("hello", 5));

  TtyInfoEntry *info = message_new(&tty_info_entry__descriptor);
  info->id = 1;
  info->type = TTY_TYPE__PTY;
  info->rdev = 136 << 8 | 3;
  info->pty = message_new(&tty_pty_entry__descriptor);
  info->pty->index = 3;
  checkpoint_add_record(c, RECORD_TTY_INFO, &info->base, NULL);

  TtyDataEntry *data = message_new(&tty_data_entry__descriptor);
  data->tty_id = 1;
  data->data.data = (uint8_t *)strdup("typed");
  data->data.len = 5;
  checkpoint_add_record(c, RECORD_TTY_DATA, &data->base, NULL);

  CkptTty *extra = message_new(&ckpt_tty__descriptor);
  extra->index = 3;
  extra->has_complete = true;
  extra->complete = 4;
  extra->n_eof = 2;
  extra->eof = calloc(2, sizeof *extra->eof);
  extra->eof[0] = extra->eof[1] = 4;
  g_ptr_array_add(c->ttys, extra);

  FileEntry *file = message_new(&file_entry__descriptor);
  file->type = FD_TYPES__TTY;
  file->id = 4711;
  file->tty = message_new(&tty_file_entry__descriptor);
  file->tty->id = 4711;
  file->tty->tty_info_id = 1;
  file->tty->fown = message_new(&fown_entry__descriptor);
  checkpoint_add_file(c, file);
}

/* Five bytes received, three sent of which one has left. */
static void add_connection(Checkpoint *c) {
  FileEntry *file = message_new(&file_entry__descriptor);
  file->type = FD_TYPES__INETSK;
  file->id = 4712;
  InetSkEntry *i = file->isk = message_new(&inet_sk_entry__descriptor);
  i->id = 4712;
  i->ino = 0xabc;
  i->family = 2;
  i->type = 1;
  i->proto = 6;
  i->state = 1;
  i->src_port = 80;
  i->dst_port = 4000;
  i->fown = message_new(&fown_entry__descriptor);
  i->opts = message_new(&sk_opts_entry__descriptor);
  checkpoint_add_file(c, file);

  TcpStreamEntry *s = message_new(&tcp_stream_entry__descriptor);
  s->inq_len = 5;
  s->outq_len = 3;
  s->has_unsq_len = true;
  s->unsq_len = 2;
  s->mss_clamp = 1460;
  s->snd_wscale = 7;
  checkpoint_add_tcp_stream(c, 0xabc, &s->base, g_bytes_new_static("helloabc", 8));

  c->network = message_new(&ckpt_network__descriptor);
  c->network->lock = strdup("checkpointd-0123456789abcdef");
  c->network->n_tcp = 1;
  c->network->tcp = pointers_new(1);
  c->network->tcp[0] = message_new(&ckpt_tcp__descriptor);
  c->network->tcp[0]->id = 4712;
  c->network->tcp[0]->congestion = strdup("reno");
}

static void add_records(Checkpoint *c) {
  add_data_records(c);
  add_connection(c);
  FileLockEntry *lock = message_new(&file_lock_entry__descriptor);
  lock->flag = 1;
  lock->len = -1;
  checkpoint_add_record(c, RECORD_FILE_LOCKS, &lock->base, NULL);

  EventpollTfdEntry *tfd = message_new(&eventpoll_tfd_entry__descriptor);
  tfd->id = 1;
  checkpoint_add_record(c, RECORD_EVENTPOLL_TFD, &tfd->base, NULL);

  CgroupEntry *cgroup = message_new(&cgroup_entry__descriptor);
  cgroup->n_sets = 1;
  cgroup->sets = pointers_new(1);
  cgroup->sets[0] = message_new(&cg_set_entry__descriptor);
  cgroup->sets[0]->id = 1;
  checkpoint_add_record(c, RECORD_CGROUP, &cgroup->base, NULL);

  SeccompEntry *seccomp = message_new(&seccomp_entry__descriptor);
  seccomp->n_seccomp_filters = 2;
  seccomp->seccomp_filters = pointers_new(2);
  for (guint i = 0; i < 2; i++) {
    SeccompFilter *f = seccomp->seccomp_filters[i] = message_new(&seccomp_filter__descriptor);
    f->filter.data = calloc(2, 8);
    f->filter.len = 16;
    f->has_prev = i > 0;
  }
  checkpoint_add_record(c, RECORD_SECCOMP, &seccomp->base, NULL);
}

static void add_extras(Checkpoint *c) {
  c->creator = message_new(&ckpt_creator__descriptor);
  c->creator->program = strdup("checkpointd");
  c->creator->version = strdup("0");
  c->creator->name = strdup("fixture");
  Task *root = c->tasks->pdata[0];
  root->extra = message_new(&ckpt_task__descriptor);
  root->extra->pid = (guint32)task_pid(root);
  root->extra->has_coredump_filter = true;
  root->extra->coredump_filter = 0x33;
  for (guint i = 1; i < root->threads->len; i += 2) { /* not all of them have some */
    Thread *t = root->threads->pdata[i];
    t->extra = message_new(&ckpt_thread__descriptor);
    t->extra->tid = (guint32)t->tid;
    t->extra->has_ioprio = true;
    t->extra->ioprio = i;
  }
}

Checkpoint *fixture_rich(void) {
  g_autoptr(GHashTable) files = fixture_golden();
  g_autoptr(GError) error = NULL;
  Checkpoint *c = fixture_load(files, &error);
  g_assert_no_error(error);
  add_zombie(c);
  add_records(c);
  add_extras(c);
  return c;
}

int fixture_directory(char **ret_path) {
  char *path = g_strdup(g_access("/dev/shm", W_OK) == 0 ? "/dev/shm/image-test-XXXXXX" : "/tmp/image-test-XXXXXX");
  g_assert_nonnull(g_mkdtemp(path));
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  g_assert_cmpint(fd, >=, 0);
  *ret_path = path;
  return fd;
}

void fixture_remove(char *path, int dir_fd) {
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  for (const char *name; dir && (name = g_dir_read_name(dir));)
    if (unlinkat(dir_fd, name, 0) < 0)
      (void)unlinkat(dir_fd, name, AT_REMOVEDIR);
  (void)g_rmdir(path);
  (void)close(dir_fd);
  g_free(path);
}

static void create_pages(const PageSet *set, int dir_fd) {
  g_autoptr(GError) error = NULL;
  int fd = image_create_pages(dir_fd, set->pages_id, &error);
  g_assert_no_error(error);
  g_assert_cmpint(ftruncate(fd, (off_t)(page_set_n_present(set) * 4096)), ==, 0);
  (void)close(fd);
}

void fixture_content(const Checkpoint *c, int dir_fd) {
  for (guint i = 0; i < c->tasks->len; i++)
    if (((Task *)c->tasks->pdata[i])->pages)
      create_pages(((Task *)c->tasks->pdata[i])->pages, dir_fd);
  GHashTableIter iter;
  gpointer set;
  g_hash_table_iter_init(&iter, c->shmem);
  while (g_hash_table_iter_next(&iter, NULL, &set))
    create_pages(set, dir_fd);
  if (!c->records[RECORD_REMAP]->len)
    return;
  GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
  ghost.mode = S_IFREG | 0600;
  g_autoptr(GError) error = NULL;
  g_autofree char *path = g_build_filename(IMAGE_TEST_DATA, "README.md", NULL);
  int content = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  g_assert_cmpint(fstat(content, &st), ==, 0);
  g_assert_true(image_create_ghost(dir_fd, 1, &ghost.base, content, (guint64)st.st_size, NULL, &error));
  (void)close(content);
}

GHashTable *fixture_stored(void) {
  g_autoptr(Checkpoint) c = fixture_rich();
  g_autoptr(GError) error = NULL;
  char *path;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  g_assert_true(image_store(c, dir, false, NULL, &error));
  g_assert_no_error(error);
  GHashTable *files = fixture_slurp(path);
  fixture_remove(path, dir);
  return files;
}

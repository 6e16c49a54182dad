/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* For each case of a file: a child sets it up and stops; the collector looks at it from outside; what it collected goes
 * through the wire format and back; the child dies; the restorer opens everything; a second child puts the descriptors
 * at their numbers, runs the programs and verifies. No process is dumped or restored. */

#include "external.h"
#include "image.h"
#include "object-case.h"
#include "object.h"
#include "run-program.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Above the numbers that cases use. */
#define STATUS_FD 9000
#define ASIDE_FD 10000

typedef struct Trip {
  const ObjectCase *one;
  char dir[64];
  int images_fd;
  pid_t pid;
  EngineOptions options;
  Job *job;
  Checkpoint *collected, *loaded;
} Trip;

static void say_to(int fd, const char *text) {
  if (write(fd, text, strlen(text)) < 0)
    _exit(3);
}

/* The child's life: only descriptors 0 to 2 and what the case makes. */
__attribute__((noreturn)) static void run_setup(const Trip *trip, int status) {
  (void)setsid();
  if (dup2(status, STATUS_FD) < 0 || close_range(3, STATUS_FD - 1, 0) < 0 || close_range(STATUS_FD + 1, ~0U, 0) < 0)
    _exit(2);
  int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; fd++)
    (void)dup2(null, fd);
  if (null > 2)
    (void)close(null);
  const char *failure = trip->one->setup(trip->dir);
  say_to(STATUS_FD, failure ? failure : "\n");
  (void)close(STATUS_FD);
  for (;;)
    (void)pause();
}

static bool start_child(Trip *trip, char *failure, size_t size) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return false;
  trip->pid = fork();
  if (trip->pid == 0)
    run_setup(trip, ends[1]);
  (void)close(ends[1]);
  ssize_t n = read(ends[0], failure, size - 1);
  failure[MAX(n, 0)] = '\0';
  (void)g_strchomp(failure);
  (void)close(ends[0]);
  if (n <= 0 || failure[0] || kill(trip->pid, SIGSTOP) < 0 || waitpid(trip->pid, NULL, WUNTRACED) < 0)
    return false;
  return true;
}

static void end_child(Trip *trip) {
  if (trip->pid > 0) {
    (void)kill(-trip->pid, SIGKILL);
    (void)waitpid(trip->pid, NULL, 0);
  }
  trip->pid = 0;
}

static Task *task_make(pid_t pid) {
  Task *task = task_new();
  task->pstree = malloc(sizeof *task->pstree);
  pstree_entry__init(task->pstree);
  task->pstree->pid = (guint32)pid;
  return task;
}

static bool write_shmem(Trip *trip, const CollectedShmem *shmem, GError **error) {
  guint32 pages_id = (guint32)shmem->shmid;
  int fd = image_create_pages(trip->images_fd, pages_id, error);
  if (fd < 0)
    return false;
  PageSet *set = page_set_new(pages_id);
  static char page[4096], zeroes[4096];
  for (guint64 at = 0; at < shmem->size; at += sizeof page) {
    memset(page, 0, sizeof page);
    if (pread(shmem->fd, page, sizeof page, (off_t)at) < 0 || memcmp(page, zeroes, sizeof page) == 0)
      continue;
    page_set_add(set, at, 1, PE_PRESENT);
    if (write(fd, page, sizeof page) != sizeof page)
      g_error("cannot write pages");
  }
  checkpoint_add_shmem(trip->collected, shmem->shmid, set);
  return close(fd) == 0;
}

/* The least of policies: datagram sockets are connected again. */
static bool ask(void *data, const ExternalObject *object, ExternalClaim *ret_claim, GError **error) {
  bool datagrams = object->kind == EXTERNAL_UNIX && object->sock.type == SOCK_DGRAM && object->sock.peer_name_size;
  ret_claim->action = datagrams ? EXTERNAL_RECONNECT : EXTERNAL_NOBODY;
  return true;
}

static bool resolve(void *data, const ExternalObject *object, const CkptExternal *record, ExternalAnswer *ret_answer,
    GError **error) {
  ret_answer->action = record ? external_action_of(record->action) : EXTERNAL_NOBODY;
  return true;
}

static bool collect(Trip *trip, GError **error) {
  Task *task = task_make(trip->pid);
  checkpoint_add_task(trip->collected, task);
  int pidfd = (int)syscall(SYS_pidfd_open, trip->pid, 0);
  g_autoptr(Collector) c = collector_new(trip->job, trip->collected, trip->images_fd);
  collector_set_external(c, ask, NULL, false);
  bool ok = collector_visit_task(c, trip->pid, 0, "case", pidfd, NULL, 0, task, error) && collector_finish(c, error);
  size_t n = 0;
  const CollectedShmem *shmems = collector_shmems(c, &n);
  for (size_t i = 0; ok && i < n; i++)
    ok = write_shmem(trip, &shmems[i], error);
  (void)close(pidfd);
  return ok;
}

static void *recode(const ProtobufCMessage *message) {
  size_t size = protobuf_c_message_get_packed_size(message);
  g_autofree uint8_t *bytes = g_malloc(size + 1);
  protobuf_c_message_pack(message, bytes);
  void *copy = protobuf_c_message_unpack(message->descriptor, NULL, size, bytes);
  if (!copy)
    g_error("%s does not decode", message->descriptor->name);
  return copy;
}

/* What an image file would hold, and nothing else. */
static void pass_through_wire(Trip *trip) {
  const Checkpoint *from = trip->collected;
  for (guint i = 0; i < from->files->len; i++)
    checkpoint_add_file(trip->loaded, recode(from->files->pdata[i]));
  for (int kind = 0; kind < RECORD_N_KINDS; kind++)
    for (guint i = 0; i < from->records[kind]->len; i++) {
      const Record *r = from->records[kind]->pdata[i];
      checkpoint_add_record(
          trip->loaded, (RecordKind)kind, recode(r->message), r->extra ? g_bytes_ref(r->extra) : NULL);
    }
  for (guint i = 0; i < from->externals->len; i++)
    checkpoint_add_external(trip->loaded, recode(from->externals->pdata[i]));
  for (guint i = 0; i < from->watches->len; i++)
    g_ptr_array_add(trip->loaded->watches, recode(from->watches->pdata[i]));
  for (guint i = 0; i < from->netlinks->len; i++)
    g_ptr_array_add(trip->loaded->netlinks, recode(from->netlinks->pdata[i]));
  for (guint i = 0; i < from->linked_files->len; i++)
    g_ptr_array_add(trip->loaded->linked_files, recode(from->linked_files->pdata[i]));
  for (guint i = 0; i < from->sockets->len; i++)
    checkpoint_add_socket(trip->loaded, recode(from->sockets->pdata[i]));
  GHashTableIter iter;
  gpointer key, value;
  g_hash_table_iter_init(&iter, from->shmem);
  while (g_hash_table_iter_next(&iter, &key, &value)) {
    const PageSet *set = value;
    PageSet *copy = page_set_new(set->pages_id);
    for (guint i = 0; i < set->entries->len; i++)
      g_ptr_array_add(copy->entries, recode(set->entries->pdata[i]));
    checkpoint_add_shmem(trip->loaded, *(guint64 *)key, copy);
  }
  const Task *task = from->tasks->pdata[0];
  Task *copy = task_make(task_pid(task));
  for (guint i = 0; i < task->fds->len; i++)
    g_ptr_array_add(copy->fds, recode(task->fds->pdata[i]));
  checkpoint_add_task(trip->loaded, copy);
}

static const char *place_fds(Restorer *r, const Task *task) {
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (dup3(restorer_fd_of(r, e->id, NULL), ASIDE_FD + (int)i, O_CLOEXEC) < 0)
      return "cannot move a descriptor up";
  }
  (void)close_range(0, 1, 0);
  (void)close_range(3, ASIDE_FD - 1, 0);
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    if (e->fd != 2 && dup3(ASIDE_FD + (int)i, (int)e->fd, e->flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
      return "cannot place a descriptor";
  }
  (void)close_range(ASIDE_FD, ~0U, 0);
  return NULL;
}

static const char *run_programs(Restorer *r, const Checkpoint *checkpoint, const Task *task) {
  g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
  g_autoptr(Program) p = program_new();
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    const FileEntry *entry = checkpoint_find_file(checkpoint, e->id);
    const ObjectOps *ops = object_of_type(entry->type);
    if (!g_hash_table_add(done, GUINT_TO_POINTER(e->id)))
      continue;
    restorer_fown_program(entry, (int)e->fd, p);
    g_autoptr(GError) error = NULL;
    if (ops->program && !ops->program(r, entry, task, (int)e->fd, p, &error))
      return g_strdup(error->message);
  }
  g_autoptr(GError) late = NULL;
  if (!restorer_late_program(r, task, p, &late))
    return g_strdup(late->message);
  const char *what = NULL;
  long result = 0;
  return program_run_here(p, &what, &result) ? NULL : g_strdup_printf("%s gave %ld", what, result);
}

static const char *verify(const Trip *trip, Restorer *r) {
  const Task *task = trip->loaded->tasks->pdata[0];
  const char *failure = place_fds(r, task);
  if (!failure)
    failure = run_programs(r, trip->loaded, task);
  for (int round = 0; !failure && round < 3; round++)
    failure = trip->one->verify(trip->dir);
  return failure;
}

static bool restore(Trip *trip, GError **error) {
  g_autoptr(Restorer) r = restorer_new(trip->job, trip->loaded, trip->images_fd);
  restorer_set_external(r, resolve, NULL, false);
  if (!restorer_open_all(r, error) || !restorer_finish(r, error))
    return false;
  pid_t pid = fork();
  if (pid == 0) {
    const char *failure = verify(trip, r);
    if (failure)
      (void)dprintf(2, "  verify: %s\n", failure);
    _exit(failure ? 1 : 0);
  }
  int status = 0;
  return waitpid(pid, &status, 0) == pid && status == 0
             ? true
             : engine_fail(error, ENGINE_ERROR_CODE__FAILED, "the verifier ended with status 0x%x", status);
}

/* NULL: as it should be. */
static char *judge(const char *wanted, bool ok, const GError *error) {
  if (!wanted)
    return ok ? NULL : g_strdup(error->message);
  if (ok)
    return g_strdup_printf("succeeded, should have failed with \"%s\"", wanted);
  return strstr(error->message, wanted) ? NULL : g_strdup_printf("should say \"%s\": %s", wanted, error->message);
}

static char *trip_run(Trip *trip) {
  char failure[1024];
  g_autoptr(GError) error = NULL;
  if (!start_child(trip, failure, sizeof failure))
    return g_strdup_printf("set-up: %s", failure);
  if (!collect(trip, &error))
    return g_strdup_printf("collect: %s", error->message);
  bool ok = job_check_findings(trip->job, &error);
  if (!ok || trip->one->blocked)
    return judge(trip->one->blocked, ok, error);
  pass_through_wire(trip);
  end_child(trip);
  const char *changed = trip->one->between ? trip->one->between(trip->dir) : NULL;
  if (changed)
    return g_strdup(changed);
  ok = restore(trip, &error);
  return judge(trip->one->unrestorable, ok, error);
}

static void remove_tree(const char *dir) {
  g_autofree char *command = g_strdup_printf("rm -rf -- %s", dir);
  if (system(command) != 0)
    (void)fprintf(stderr, "cannot remove %s\n", dir);
}

static bool run_case(const ObjectCase *one) {
  Trip trip = {.one = one, .dir = "/tmp/object-case-XXXXXX"};
  char images[] = "/tmp/object-images-XXXXXX";
  if (!mkdtemp(trip.dir) || !mkdtemp(images))
    return false;
  trip.images_fd = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  engine_options__init(&trip.options);
  trip.job = job_new(&trip.options, NULL, trip.images_fd, NULL);
  trip.collected = checkpoint_new();
  trip.loaded = checkpoint_new();
  g_autofree char *failure = trip_run(&trip);
  end_child(&trip);
  checkpoint_free(trip.loaded);
  checkpoint_free(trip.collected);
  job_free(trip.job);
  (void)close(trip.images_fd);
  remove_tree(trip.dir);
  remove_tree(images);
  (void)printf("%s %s%s%s\n", failure ? "FAIL" : "ok  ", one->name, failure ? ": " : "", failure ? failure : "");
  (void)fflush(stdout);
  return !failure;
}

int main(int argc, char **argv) {
  bool ok = true;
  (void)umask(022);
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
  for (const ObjectCase *one = object_cases; one->name; one++)
    if (argc < 2 || strcmp(argv[1], one->name) == 0)
      ok = run_case(one) && ok;
  return ok ? 0 : 1;
}

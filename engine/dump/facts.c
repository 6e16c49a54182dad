/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "facts.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_THREADS 3  /* besides the tracer */
#define THREAD_WORTH 4 /* tasks */
#define MANY_FDS 256

struct FactsReader {
  TaskFacts *const *facts;
  guint n;
  ProcessLook *look;
  const TaskFacts *_Atomic example; /* that of all those alike */
  _Atomic guint next;
  pthread_t threads[MAX_THREADS];
  guint n_threads;
};

const char *facts_namespace_name(size_t i) {
  static const char *const names[FACTS_NAMESPACES] = {
      "mnt", "pid", "pid_for_children", "net", "ipc", "uts", "user", "cgroup", "time"};
  return names[i];
}

/* Listing makes an inode of /proc for each descriptor, two microseconds. The task itself says ten times faster which numbers
 * of a well filled table are in use; st_size of the folder is how many there are (since 6.2). */
static bool is_well_filled(const char *path, unsigned fd_size) {
  struct stat st;
  return fd_size <= 1u << 16 && stat(path, &st) == 0 && st.st_size >= MANY_FDS && (guint64)st.st_size * 4 >= fd_size;
}

static bool read_fd_numbers(TaskFacts *f) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/fd", (int)f->pid);
  if (is_well_filled(path, f->status.fd_size)) {
    f->fd_numbers = g_array_new(FALSE, FALSE, sizeof(int));
    for (int fd = 0; fd < (int)f->status.fd_size; fd++)
      g_array_append_val(f->fd_numbers, fd);
    return true;
  }
  DIR *dir = opendir(path);
  if (!dir)
    return engine_fail_errno(&f->error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot list %s", path);
  f->fd_numbers = g_array_new(FALSE, FALSE, sizeof(int));
  for (struct dirent *e; (e = readdir(dir));) {
    if (!g_ascii_isdigit(e->d_name[0]))
      continue;
    int fd = atoi(e->d_name);
    g_array_append_val(f->fd_numbers, fd);
  }
  (void)closedir(dir);
  return true;
}

/* "mnt:[4026531841]": a link is read quicker than followed. */
static void read_namespaces(TaskFacts *f, int folder) {
  int ns = openat(folder, "ns", O_PATH | O_DIRECTORY | O_CLOEXEC);
  for (size_t i = 0; i < FACTS_NAMESPACES; i++) {
    char link[64];
    ssize_t n = ns < 0 ? -1 : readlinkat(ns, facts_namespace_name(i), link, sizeof link - 1);
    link[MAX(n, 0)] = '\0';
    const char *inode = strchr(link, '[');
    f->ns[i] = inode ? strtoul(inode + 1, NULL, 10) : 0;
  }
  if (ns >= 0)
    (void)close(ns);
}

static bool read_timers(TaskFacts *f, int folder) {
  g_autoptr(GError) why = NULL;
  f->timers = proc_read_at(folder, f->pid, "timers", NULL, &why);
  return f->timers || engine_fail(&f->error, ENGINE_ERROR_CODE__KERNEL_MISSING_FEATURE,
                          "%s (the kernel needs CONFIG_CHECKPOINT_RESTORE)", why->message);
}

/* What one look at the kernel's own tells to be the same for most of a tree. */
static void read_common(TaskFacts *f, int folder) {
  f->cgroup = proc_read_at(folder, f->pid, "cgroup", NULL, NULL);
  f->personality = proc_read_at(folder, f->pid, "personality", NULL, NULL);
  f->loginuid = proc_read_at(folder, f->pid, "loginuid", NULL, NULL);
  f->oom_score_adj = proc_read_at(folder, f->pid, "oom_score_adj", NULL, NULL);
  f->coredump_filter = proc_read_at(folder, f->pid, "coredump_filter", NULL, NULL);
  read_namespaces(f, folder);
}

static void take_common(TaskFacts *f, const TaskFacts *example) {
  f->cgroup = g_strdup(example->cgroup);
  f->personality = g_strdup(example->personality);
  f->loginuid = g_strdup(example->loginuid);
  f->oom_score_adj = g_strdup(example->oom_score_adj);
  f->coredump_filter = g_strdup(example->coredump_filter);
  memcpy(f->ns, example->ns, sizeof f->ns);
}

static bool read_mappings(FactsReader *r, TaskFacts *f) {
  f->vmas = r->look ? process_look_vmas(r->look, f->pid, &f->sight, &f->seen, &f->error) : proc_vmas(f->pid, &f->error);
  return f->vmas != NULL;
}

static void read_files(FactsReader *r, TaskFacts *f, int folder) {
  if (!proc_status(f->pid, f->pid, &f->status, &f->error) || !(f->auxv = proc_read_at(folder, f->pid, "auxv", &f->auxv_size, &f->error)) ||
      !read_mappings(r, f) || !read_fd_numbers(f) || !read_timers(f, folder))
    return;
  const TaskFacts *example = atomic_load(&r->example), *none = NULL;
  if (f->seen && example && memcmp(f->sight.common, example->sight.common, sizeof f->sight.common) == 0) {
    take_common(f, example);
    return;
  }
  read_common(f, folder);
  if (f->seen)
    (void)atomic_compare_exchange_strong(&r->example, &none, f);
}

static void read_facts(FactsReader *r, TaskFacts *f) {
  char path[64];
  if (f->dead)
    return;
  g_snprintf(path, sizeof path, "/proc/%d", (int)f->pid);
  int folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) {
    engine_fail(&f->error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Process %d does not exist (any more)", (int)f->pid);
    return;
  }
  read_files(r, f, folder);
  (void)close(folder);
}

static void *read_all(void *data) {
  FactsReader *r = data;
  for (guint i; (i = atomic_fetch_add(&r->next, 1)) < r->n;)
    read_facts(r, r->facts[i]);
  return NULL;
}

static guint n_helpers(void) {
  cpu_set_t set;
  guint n = sched_getaffinity(0, sizeof set, &set) == 0 ? (guint)CPU_COUNT(&set) : 1;
  return MIN(n - 1, MAX_THREADS);
}

FactsReader *facts_start(TaskFacts *const *facts, guint n, bool large, ProcessLook *look) {
  FactsReader *r = g_new0(FactsReader, 1);
  r->facts = facts;
  r->n = n;
  r->look = look;
  guint wanted = n >= THREAD_WORTH || large ? n_helpers() : 0;
  while (r->n_threads < wanted && pthread_create(&r->threads[r->n_threads], NULL, read_all, r) == 0)
    r->n_threads++;
  return r;
}

void facts_finish(FactsReader *r) {
  if (!r)
    return;
  (void)read_all(r);
  while (r->n_threads)
    pthread_join(r->threads[--r->n_threads], NULL);
  g_free(r);
}

void facts_clear(TaskFacts *f) {
  if (f->status.groups)
    proc_status_clear(&f->status);
  g_free(f->auxv);
  g_free(f->cgroup);
  g_free(f->personality);
  g_free(f->loginuid);
  g_free(f->oom_score_adj);
  g_free(f->coredump_filter);
  g_free(f->timers);
  g_clear_pointer(&f->vmas, g_array_unref);
  g_clear_pointer(&f->fd_numbers, g_array_unref);
  g_clear_error(&f->error);
}

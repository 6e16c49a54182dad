/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "user-dispatch.h"
#include "kernel-types.h"
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From a descriptor of ours for a thread's folder in /proc to the thread. */
enum { FILES, TABLE, ARRAY, INODE, PROC_INODE, PROC_PID, PID_TASKS, TASK_LINKS, WORK, N_PLACES };

static const struct {
  const char *structure, *member;
} names[N_PLACES] = {
    [FILES] = {"task_struct", "files"},
    [TABLE] = {"files_struct", "fdt"},
    [ARRAY] = {"fdtable", "fd"},
    [INODE] = {"file", "f_inode"},
    [PROC_INODE] = {"proc_inode", "vfs_inode"},
    [PROC_PID] = {"proc_inode", "pid"},
    [PID_TASKS] = {"pid", "tasks"},
    [TASK_LINKS] = {"task_struct", "pid_links"},
    [WORK] = {"task_struct", "thread_info.syscall_work"},
};

typedef struct DispatchReader {
  KernelReader *kernel;
  gint64 places[N_PLACES];
  gint64 bit;
} DispatchReader;

static bool follow(const DispatchReader *r, guint64 *at, gint64 offset) {
  return kernel_read(r->kernel, *at + (guint64)offset, at, sizeof *at) && *at;
}

/* The address of a thread's task_struct, 0: not found. */
static guint64 find_thread(const DispatchReader *r, pid_t pid, pid_t tid) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/task/%d", (int)pid, (int)tid);
  int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  const gint64 *p = r->places;
  guint64 at = kernel_reader_self(r->kernel);
  /* the first list of a pid is of threads */
  bool found = fd >= 0 && at && follow(r, &at, p[FILES]) && follow(r, &at, p[TABLE]) && follow(r, &at, p[ARRAY]) &&
               follow(r, &at, (gint64)fd * 8) && follow(r, &at, p[INODE]) &&
               follow(r, &at, p[PROC_PID] - p[PROC_INODE]) && follow(r, &at, p[PID_TASKS]);
  if (fd >= 0)
    (void)close(fd);
  return found ? at - (guint64)p[TASK_LINKS] : 0;
}

/* Whoever finds itself finds the others, too. */
static bool reader_open(DispatchReader *r) {
  g_autoptr(KernelTypes) types = kernel_types_open();
  bool known = types != NULL;
  for (int i = 0; known && i < N_PLACES; i++)
    known = (r->places[i] = kernel_types_offset(types, names[i].structure, names[i].member)) >= 0;
  r->bit = known ? kernel_types_constant(types, "SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH", -1) : -1;
  r->kernel = r->bit >= 0 && r->bit < 64 ? kernel_reader_new() : NULL;
  return r->kernel && find_thread(r, getpid(), (pid_t)syscall(SYS_gettid)) == kernel_reader_self(r->kernel);
}

static void look(const DispatchReader *r, const FrozenTask *task, FrozenThread *t) {
  guint64 work = find_thread(r, task->pid, t->state.tid);
  if (!work || !kernel_read(r->kernel, work + (guint64)r->places[WORK], &work, sizeof work))
    return;
  t->own_dispatch = work >> r->bit & 1;
  t->dispatch_hidden = false;
}

void user_dispatch_look(FrozenTree *tree) {
  DispatchReader r = {0};
  bool readable = false, asked = false;
  for (guint i = 0; i < tree->tasks->len; i++) {
    FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      t->dispatch_hidden &= task->stat.catches_sigsys;
      if (!t->dispatch_hidden)
        continue;
      readable = asked ? readable : reader_open(&r);
      asked = true;
      if (readable)
        look(&r, task, t);
    }
  }
  kernel_reader_free(r.kernel);
}

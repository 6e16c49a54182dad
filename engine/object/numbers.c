/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files at the numbers that they are to have. A task inherits this process's descriptors and moves each to its number (restore/files.c); of
 * thousands that is most of its work, and none for those that lie there already. open(2) takes the lowest number that is free: so files are
 * opened in the order of their numbers, and place holders fill what lies between. Whatever comes out differently is moved as ever. */

#include "internal.h"
#include "reg-check.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>

#define MANY 256u /* where it is worth a look at our own descriptors */

typedef struct Numbers {
  bool *taken; /* [number]: by this process, for itself */
  int n;
  int next;    /* the lowest that is free, or so we think */
  int model;   /* of the place holders */
  GArray *holders;
  guint room; /* for more of them */
} Numbers;

static bool find_taken(Numbers *x) {
  DIR *dir = opendir("/proc/self/fd");
  for (const struct dirent *e; dir && (e = readdir(dir));) {
    int fd = e->d_name[0] == '.' ? -1 : atoi(e->d_name);
    if (fd >= 0 && fd < x->n && fd != dirfd(dir))
      x->taken[fd] = true;
  }
  return dir && closedir(dir) == 0;
}

static const Task *largest_table(const Checkpoint *c) {
  const Task *largest = NULL;
  for (guint i = 0; i < c->tasks->len; i++) {
    const Task *task = c->tasks->pdata[i];
    if (task->fds->len >= MANY && (!largest || task->fds->len > largest->fds->len))
      largest = task;
  }
  return largest;
}

/* Until @number is the lowest that is free. */
static bool fill_up_to(Numbers *x, int number) {
  for (; x->next < number; x->next++) {
    if (x->taken[x->next])
      continue;
    int fd = x->room ? fcntl(x->model, F_DUPFD_CLOEXEC, x->next) : -1;
    if (fd < 0)
      return false;
    x->room--;
    g_array_append_val(x->holders, fd);
    x->next = MAX(x->next, fd); /* others were taken meanwhile */
  }
  return true;
}

/* Kinds whose files come in groups take numbers that nobody can foresee: they come last. */
static bool comes_alone(Restorer *r, guint32 file_id) {
  const FileEntry *entry = restorer_has(r, file_id) ? NULL : checkpoint_find_file(restorer_checkpoint(r), file_id);
  return entry && entry->type == FD_TYPES__REG;
}

/* The kernel makes a table larger by doubling it, and where threads share it waits each time until none of them looks at the old one. */
static void make_room(const Numbers *x) {
  int last = fcntl(x->model, F_DUPFD_CLOEXEC, x->n - 1);
  if (last >= 0)
    (void)close(last);
}

static bool open_in_order(Restorer *r, const Task *task, Numbers *x, GError **error) {
  for (guint i = 0; i < task->fds->len; i++) {
    const FdinfoEntry *e = task->fds->pdata[i];
    int number = (int)e->fd;
    if (number < x->next || number >= x->n || x->taken[number] || !comes_alone(r, e->id))
      continue;
    if (!fill_up_to(x, number))
      return true;
    int fd = x->next == number ? restorer_fd_of(r, e->id, error) : number;
    if (fd < 0 || (i % MANY == 0 && !job_poll(restorer_job(r), error)))
      return false;
    x->next = MAX(x->next, fd + 1);
  }
  return true;
}

bool numbers_open(Restorer *r, GError **error) {
  const Task *task = largest_table(restorer_checkpoint(r));
  Numbers x = {.n = 1};
  for (guint i = 0; task && i < task->fds->len; i++)
    x.n = MAX(x.n, (int)MIN(((const FdinfoEntry *)task->fds->pdata[i])->fd, (guint32)INT16_MAX * 64) + 1);
  if (!task || (guint)x.n > 4 * task->fds->len)
    return true;
  g_autofree bool *taken = g_new0(bool, x.n);
  x.taken = taken;
  g_autoptr(GArray) holders = x.holders = g_array_new(FALSE, FALSE, sizeof(int));
  x.room = task->fds->len / 4 + MANY;
  bool found = find_taken(&x);
  x.model = found ? open("/", O_PATH | O_CLOEXEC) : -1;
  if (x.model < 0)
    return true;
  if (x.model < x.n)
    x.taken[x.model] = true;
  make_room(&x);
  /* Where files are looked for in other mount namespaces no thread may share our directory (setns(2)). */
  RegChecker *checker = ns_set_size(restorer_namespaces(r)) ? NULL : reg_checker_start(r, task->fds->len);
  restorer_set_checker(r, checker);
  bool ok = open_in_order(r, task, &x, error);
  restorer_set_checker(r, NULL);
  ok = reg_checker_end(checker, ok ? error : NULL) && ok;
  for (guint i = 0; i < holders->len; i++)
    (void)close(g_array_index(holders, int, i));
  (void)close(x.model);
  return ok;
}

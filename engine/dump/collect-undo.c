/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* System V semaphores belong to their namespace, and a process holds nothing of them, with one exception: what is to be undone
 * at its end (SEM_UNDO of semop(2)). The kernel shows that list to nobody; that a process has one kcmp(2) tells, and threads
 * have one in any case. A semaphore is taken back by the kernel when its holder is killed after the dump, while the restored
 * one believes that it has it. */
#include "collect.h"
#include "sweeper.h"
#include <linux/kcmp.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SEM_STAT_ANY_ 20
#define MAX_SEMAPHORES 4096 /* of one set that are looked at */

union semun_argument {
  int val;
  struct semid_ds *buf;
  struct seminfo *info;
};

/* The sweeper never called semop(2), and was forked. */
static bool has_undo(pid_t nobody, const FrozenTask *task) {
  return !task->zombie && (nobody <= 0 || syscall(SYS_kcmp, nobody, task->view, KCMP_SYSVSEM, 0, 0) != 0);
}

static const FrozenTask *find_holder(const FrozenTree *tree, pid_t nobody, int set, int number) {
  pid_t last = semctl(set, number, GETPID);
  const FrozenTask *task = last > 0 && semctl(set, number, GETVAL) == 0 ? frozen_tree_find(tree, last) : NULL;
  return task && has_undo(nobody, task) ? task : NULL;
}

static void look_at_set(Job *job, const FrozenTree *tree, pid_t nobody, int set, unsigned long n) {
  for (int i = 0; i < (int)MIN(n, MAX_SEMAPHORES); i++) {
    const FrozenTask *task = find_holder(tree, nobody, set, i);
    if (!task)
      continue;
    g_autofree char *object = g_strdup_printf("pid %d (%s): System V semaphore %d of set %d", (int)task->pid, task->stat.comm, i, set);
    job_block(job, "task", task->pid, -1, object,
        "it may hold it with SEM_UNDO, which the kernel does not show: it would be given back when the process is killed",
        "wait until it has given it back, then try again");
  }
}

void collect_undo(Job *job, const FrozenTree *tree) {
  struct seminfo info = {0};
  struct semid_ds ds;
  int last = semctl(0, 0, SEM_INFO, (union semun_argument){.info = &info});
  pid_t nobody = sweeper_pid(tree->helpers.sweeper);
  for (int i = 0; info.semusz && i <= last; i++) {
    int set = semctl(i, 0, SEM_STAT_ANY_, (union semun_argument){.buf = &ds});
    if (set >= 0)
      look_at_set(job, tree, nobody, set, ds.sem_nsems);
  }
}

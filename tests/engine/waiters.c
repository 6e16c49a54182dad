/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* For --file-locks: who waits for a lock at the dump waits for it again, in the order of nobody's promise, and gets it when it is
 * given back, not before. A process of its own waits for each kind of lock, a thread for one more. */

#include "subject.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { FLOCK, POSIX, OFD, THREAD, RANGE, N };

static volatile int *got; /* [kind]: 1 when the waiter has its lock, 2: it may go */
static char path[N][4200];
static int held[N];

static struct flock range(int type, off_t start, off_t length) {
  return (struct flock){.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

static void lock(int kind, int fd, bool wait) {
  struct flock all = range(F_WRLCK, 0, 0), part = range(F_WRLCK, 100, 10);
  int r = kind == FLOCK || kind == THREAD ? flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB))
          : kind == OFD                   ? fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &all)
                                          : fcntl(fd, wait ? F_SETLKW : F_SETLK, kind == RANGE ? &part : &all);
  check(r == 0, "lock %d: %s", kind, strerror(errno));
}

static void *wait_in_thread(void *data) {
  int fd = open(path[THREAD], O_RDWR);
  lock(THREAD, fd, true);
  got[THREAD] = 1;
  return data;
}

static void wait_in_process(int kind) {
  int fd = open(path[kind], O_RDWR);
  check_call(fd >= 0);
  lock(kind, fd, true);
  got[kind] = 1;
  while (got[kind] != 2)
    subject_tick();
  _exit(0);
}

static void give_back(int kind) {
  struct flock all = range(F_UNLCK, 0, 0);
  int r = kind == FLOCK || kind == THREAD ? flock(held[kind], LOCK_UN)
                                          : fcntl(held[kind], kind == OFD ? F_OFD_SETLK : F_SETLK, &all);
  check_call(r == 0);
}

static void expect_waiting(const char *when) {
  for (int i = 0; i < 20; i++)
    subject_tick();
  for (int kind = 0; kind < N; kind++)
    check(!got[kind], "%s, lock %d is taken twice", when, kind);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  got = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int kind = 0; kind < N; kind++) {
    (void)snprintf(path[kind], sizeof path[kind], "%s.%d", subject_base, kind);
    check_call((held[kind] = open(path[kind], O_CREAT | O_RDWR, 0600)) >= 0);
    lock(kind, held[kind], false);
  }
  pid_t children[N];
  for (int kind = 0; kind < N; kind++)
    if (kind != THREAD && (children[kind] = fork()) == 0) {
      for (int i = 0; i < N; i++)
        (void)close(held[i]); /* not its POSIX locks: those are the parent's */
      wait_in_process(kind);
    }
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, wait_in_thread, NULL) == 0);
  expect_waiting("before");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  expect_waiting("afterwards");
  for (int kind = 0; kind < N; kind++) {
    give_back(kind);
    check(subject_await(got[kind]) && got[kind] == 1, "lock %d does not come", kind);
    int status;
    got[kind] = 2;
    check(kind == THREAD || (waitpid(children[kind], &status, 0) == children[kind] && status == 0), "the waiter of lock %d", kind);
  }
  pthread_join(thread, NULL);
  return subject_pass();
}

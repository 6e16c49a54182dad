/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* File locks of every kind, for --file-locks: flock shared and exclusive, one that a child shares with its parent, one
 * taken by a process that is gone; POSIX ranges for reading and writing, of parent and child in one file; OFD ranges; a
 * read lease; one of a file that is only mapped; a child that waits for a lock, and gets it when it is given back. */

#include "subject.h"
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>

static const char *const names[] = {"shared", "exclusive", "inherited", "posix", "ofd", "leased", "waited", "mapped"};
enum { SHARED, EXCLUSIVE, INHERITED, POSIX, OFD, LEASED, WAITED, MAPPED, N_FILES };
static int fds[N_FILES];
static volatile int *got;

static void open_file(int which) {
  char suffix[64], path[4200];
  (void)snprintf(suffix, sizeof suffix, "lock-%s", names[which]);
  subject_path(path, sizeof path, suffix);
  int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  check_call(fd >= 0);
  if (which == LEASED) {
    (void)close(fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
  }
  check_call(fd >= 0);
  fds[which] = fd;
}

static int again(int which) {
  char suffix[64], path[4200];
  (void)snprintf(suffix, sizeof suffix, "lock-%s", names[which]);
  subject_path(path, sizeof path, suffix);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  check_call(fd >= 0);
  return fd;
}

static struct flock range(short type, off_t start, off_t length) {
  return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

/* As a process of its own sees it: the first lock in the way. */
static struct flock seen(int which, short type, off_t start, off_t length) {
  int ends[2];
  struct flock lock = range(type, start, length);
  check_call(pipe(ends) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    int fd = again(which);
    if (fcntl(fd, F_GETLK, &lock) < 0 || write(ends[1], &lock, sizeof lock) != sizeof lock)
      _exit(1);
    _exit(0);
  }
  check(read(ends[0], &lock, sizeof lock) == sizeof lock && waitpid(pid, NULL, 0) == pid, "asking for %s", names[which]);
  (void)close(ends[0]);
  (void)close(ends[1]);
  return lock;
}

static void expect(int which, short type, off_t start, off_t length, pid_t holder, short wanted) {
  struct flock lock = seen(which, type, start, length);
  check(lock.l_type == wanted && (wanted == F_UNLCK || holder == 0 || lock.l_pid == holder),
      "%s %ld+%ld: type %d of pid %d instead of %d of pid %d", names[which], (long)start, (long)length, lock.l_type, (int)lock.l_pid,
      wanted, (int)holder);
}

static bool flock_works(int which, int operation) {
  int fd = again(which);
  bool works = flock(fd, operation | LOCK_NB) == 0;
  (void)close(fd);
  return works;
}

static void verify(pid_t child) {
  check(flock_works(SHARED, LOCK_SH) && !flock_works(SHARED, LOCK_EX), "the shared flock is another one");
  check(!flock_works(EXCLUSIVE, LOCK_SH), "the exclusive flock is gone");
  check(!flock_works(INHERITED, LOCK_SH), "the flock of the dead is gone");
  expect(POSIX, F_WRLCK, 0, 10, getpid(), F_WRLCK);
  expect(POSIX, F_RDLCK, 20, 10, 0, F_UNLCK);
  expect(POSIX, F_WRLCK, 20, 10, getpid(), F_RDLCK);
  expect(POSIX, F_WRLCK, 100, 0, child, F_WRLCK);
  expect(POSIX, F_WRLCK, 40, 60, 0, F_UNLCK);
  expect(OFD, F_RDLCK, 5, 1, 0, F_WRLCK);
  expect(OFD, F_RDLCK, 6, 1, 0, F_UNLCK);
  check(fcntl(fds[LEASED], F_GETLEASE) == F_RDLCK, "the lease is gone");
  check(!flock_works(MAPPED, LOCK_SH), "the flock of the mapped file is gone");
}

static void child_main(void) {
  struct flock lock = range(F_WRLCK, 100, 0);
  if (fcntl(fds[POSIX], F_SETLK, &lock) < 0)
    _exit(1);
  *got = 1;
  int fd = again(WAITED);
  if (flock(fd, LOCK_EX) < 0) /* waits */
    _exit(2);
  *got = 2;
  for (;;)
    subject_tick();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  for (int i = 0; i < N_FILES; i++)
    open_file(i);
  got = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(got != MAP_FAILED);
  check_call(flock(fds[SHARED], LOCK_SH) == 0 && flock(fds[EXCLUSIVE], LOCK_EX) == 0 && flock(fds[WAITED], LOCK_EX) == 0);
  pid_t dead = fork();
  if (dead == 0)
    _exit(flock(fds[INHERITED], LOCK_EX) != 0);
  check_call(waitpid(dead, NULL, 0) == dead);
  struct flock first = range(F_WRLCK, 0, 10), second = range(F_RDLCK, 20, 10), own = range(F_WRLCK, 5, 1);
  check_call(fcntl(fds[POSIX], F_SETLK, &first) == 0 && fcntl(fds[POSIX], F_SETLK, &second) == 0);
  check_call(fcntl(fds[OFD], F_OFD_SETLK, &own) == 0);
  check_call(fcntl(fds[LEASED], F_SETLEASE, F_RDLCK) == 0);
  check_call(ftruncate(fds[MAPPED], 4096) == 0 && flock(fds[MAPPED], LOCK_EX) == 0);
  void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[MAPPED], 0);
  check_call(mapped != MAP_FAILED && close(fds[MAPPED]) == 0);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0)
    child_main();
  while (!*got)
    subject_tick();
  subject_tick();
  verify(child);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify(child);
  check(*got == 1, "the child has a lock that its parent has");
  check_call(flock(fds[WAITED], LOCK_UN) == 0);
  check(subject_await(*got == 2), "the child waits for a lock that is free");
  check_call(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  expect(POSIX, F_WRLCK, 100, 0, 0, F_UNLCK);
  check(munmap(mapped, 4096) == 0 && flock_works(MAPPED, LOCK_EX), "the flock outlives the mapping");
  return subject_pass();
}

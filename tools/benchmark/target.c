/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the bench dumps: target KIND NUMBER READY, where KIND is memory (MiB), processes, threads or files. It makes the
 * file READY and then sleeps for ever. */

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void fail(const char *what) {
  perror(what);
  exit(1);
}

/* Every page differs from every other, and from zero. */
static void fill_memory(size_t mib) {
  size_t size = mib << 20;
  unsigned long *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    fail("mmap");
  for (size_t i = 0; i < size / sizeof *p; i += 64)
    p[i] = i * 0x9e3779b97f4a7c15UL + 1;
}

static void make_processes(int n) {
  for (int i = 1; i < n; i++) {
    pid_t pid = fork();
    if (pid < 0)
      fail("fork");
    if (pid == 0) {
      (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;)
        (void)pause();
    }
  }
}

static void *sleep_for_ever(void *data) {
  for (;;)
    (void)pause();
  return data;
}

static void make_threads(int n) {
  pthread_attr_t attr;
  pthread_t thread;
  (void)pthread_attr_init(&attr);
  (void)pthread_attr_setstacksize(&attr, 64 * 1024);
  for (int i = 1; i < n; i++)
    if (pthread_create(&thread, &attr, sleep_for_ever, NULL) != 0)
      fail("pthread_create");
}

/* Of all sorts that an ordinary server has: a regular file each, all at different positions. */
static void open_files(int n, const char *ready) {
  struct rlimit limit;
  char path[4096];
  (void)getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
  (void)snprintf(path, sizeof path, "%s.file", ready);
  int first = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (first < 0 || ftruncate(first, n) < 0)
    fail(path);
  for (int i = 1; i < n; i++) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || lseek(fd, i, SEEK_SET) != i)
      fail(path);
  }
}

int main(int argc, char **argv) {
  if (argc != 4)
    return 2;
  int number = atoi(argv[2]);
  if (!strcmp(argv[1], "memory"))
    fill_memory((size_t)number);
  else if (!strcmp(argv[1], "processes"))
    make_processes(number);
  else if (!strcmp(argv[1], "threads"))
    make_threads(number);
  else if (!strcmp(argv[1], "files"))
    open_files(number, argv[3]);
  else
    return 2;
  int fd = open(argv[3], O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0)
    fail(argv[3]);
  (void)close(fd);
  for (;;)
    (void)pause();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files of /proc, /sys and cgroupfs that are open: of the program itself, of its child, of one that is gone, of nobody. */

#include "subject.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static _Atomic int tid;

static void *wait_in_thread(void *data) {
  tid = gettid();
  for (;;)
    pause();
  return data;
}

static int open_proc(pid_t pid, const char *name, int flags) {
  char path[128];
  (void)snprintf(path, sizeof path, "/proc/%d%s", pid, name);
  int fd = open(path, flags);
  check(fd >= 0, "%s: %s", path, strerror(errno));
  return fd;
}

static const char *read_all(int fd) {
  static char text[16384];
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  check(n >= 0, "fd %d cannot be read: %s", fd, strerror(errno));
  text[n] = 0;
  return text;
}

static void expect_number(const char *text, const char *key, int number) {
  const char *line = strstr(text, key);
  check(line && atoi(line + strlen(key)) == number, "%s is not %d", key, number);
}

static int entries_of(int directory) {
  int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY), n = 0;
  check_call(copy >= 0);
  DIR *d = fdopendir(copy);
  while (readdir(d))
    n++;
  closedir(d);
  return n - 2;
}

static bool has_ended(int fd) {
  char c;
  return read(fd, &c, 1) < 0 && errno == ESRCH;
}

static int tasks(void) {
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, wait_in_thread, NULL) == 0);
  while (!tid)
    subject_tick();
  pid_t child = fork(), gone = fork();
  if (child == 0 || gone == 0)
    for (;;)
      pause();
  static char secret[] = "found by its address";
  char name[64];
  int own = open("/proc/self/status", O_RDONLY), mem = open("/proc/self/mem", O_RDWR), fds = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  int of_child = open_proc(child, "/status", O_RDONLY | O_CLOEXEC), directory = open_proc(child, "", O_RDONLY | O_DIRECTORY);
  int path = open_proc(child, "/exe", O_PATH | O_NOFOLLOW);
  (void)snprintf(name, sizeof name, "/task/%d/comm", (int)tid);
  int of_thread = open_proc(getpid(), name, O_RDWR);
  int dead = open_proc(gone, "/stat", O_RDONLY), dead_directory = open_proc(gone, "", O_RDONLY | O_DIRECTORY);
  int dead_fds = open_proc(gone, "/fd", O_RDONLY | O_DIRECTORY), dead_ns = open_proc(gone, "/ns/net", O_RDONLY);
  int net = open("/proc/self/ns/net", O_RDONLY), mnt = open_proc(child, "/ns/mnt", O_RDONLY);
  check_call(kill(gone, SIGKILL) == 0 && waitpid(gone, NULL, 0) == gone);
  char first[64];
  check_call(read(own, first, 9) == 9 && lseek(mem, (off_t)(uintptr_t)secret, SEEK_SET) == (off_t)(uintptr_t)secret);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(lseek(own, 0, SEEK_CUR) == 9, "the position");
  expect_number(read_all(own), "\nPid:", getpid());
  expect_number(read_all(of_child), "\nPid:", child);
  check(fcntl(of_child, F_GETFD) == FD_CLOEXEC, "FD_CLOEXEC");
  int status = openat(directory, "status", O_RDONLY);
  check_call(status >= 0);
  expect_number(read_all(status), "\nPPid:", getpid());
  char buffer[PATH_MAX];
  check(read(mem, buffer, sizeof secret) == (ssize_t)sizeof secret && strcmp(buffer, secret) == 0, "/proc/self/mem");
  check(pwrite(mem, "F", 1, (off_t)(uintptr_t)secret) == 1 && secret[0] == 'F', "writing to /proc/self/mem");
  check(readlinkat(path, "", buffer, sizeof buffer) > 0 && strstr(buffer, "procfs"), "/proc/PID/exe");
  check_call(write(of_thread, "renamed", 7) == 7);
  check(strcmp(read_all(of_thread), "renamed\n") == 0, "the thread's name is %s", read_all(of_thread));
  check(entries_of(fds) > 10, "/proc/self/fd is another one");
  check(has_ended(dead) && openat(dead_directory, "stat", O_RDONLY) < 0 && openat(dead_fds, "0", O_RDONLY) < 0, "the dead one lives");
  struct stat a, b;
  check_call(fstat(net, &a) == 0 && stat("/proc/self/ns/net", &b) == 0 && a.st_ino == b.st_ino);
  check_call(fstat(dead_ns, &b) == 0 && a.st_ino == b.st_ino);
  check_call(fstat(mnt, &a) == 0 && stat("/proc/self/ns/mnt", &b) == 0 && a.st_ino == b.st_ino);
  check_call(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  check(has_ended(of_child), "the child's file outlives it");
  return subject_pass();
}

/* Of the machine. Positions: what was read stays read. */
static int machine(void) {
  static const char *const paths[] = {"/proc/meminfo", "/proc/sys/kernel/hostname", "/proc/mounts", "/sys/kernel/mm/transparent_hugepage/enabled",
      "/sys/class/net", "/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/tracing/trace_marker",
      "/proc", "/sys/fs/cgroup/cgroup.procs"};
  enum { N = sizeof paths / sizeof *paths };
  int fds[N];
  char c;
  for (size_t i = 0; i < N; i++) {
    fds[i] = open(paths[i], strstr(paths[i], "marker") ? O_WRONLY : O_RDONLY);
    if (fds[i] >= 0 && i < 4)
      check_call(pread(fds[i], &c, 1, 0) == 1 && lseek(fds[i], 5, SEEK_SET) == 5);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char own[64], link[PATH_MAX];
  for (size_t i = 0; i < N; i++) {
    if (fds[i] < 0)
      continue;
    (void)snprintf(own, sizeof own, "/proc/self/fd/%d", fds[i]);
    ssize_t n = readlink(own, link, sizeof link - 1);
    check(n > 0, "%s is gone", paths[i]);
    link[n] = 0;
    check(strcmp(link, paths[i]) == 0 || strstr(paths[i], "mounts"), "%s is %s", paths[i], link);
    check(i >= 4 || lseek(fds[i], 0, SEEK_CUR) == 5, "the position of %s", paths[i]);
  }
  return subject_pass();
}

static void *end_at_once(void *data) {
  tid = gettid();
  while (*(volatile int *)data)
    subject_tick();
  return NULL;
}

static int refused(const char *what) {
  if (strcmp(what, "outside") == 0) {
    (void)open_proc(1, "/stat", O_RDONLY);
  } else if (strcmp(what, "thread") == 0) {
    static volatile int go = 1;
    char name[64];
    pthread_t thread;
    check_call(pthread_create(&thread, NULL, end_at_once, (void *)&go) == 0);
    while (!tid)
      subject_tick();
    (void)snprintf(name, sizeof name, "/task/%d/stat", (int)tid);
    (void)open_proc(getpid(), name, O_RDONLY);
    go = 0;
    pthread_join(thread, NULL);
    check(subject_await(syscall(SYS_tgkill, getpid(), tid, 0) < 0), "the thread lives");
  } else {
    check_call(chdir("/proc/self") == 0);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  check(argc > 2, "which case?");
  return strcmp(argv[2], "tasks") == 0 ? tasks() : strcmp(argv[2], "machine") == 0 ? machine() : refused(argv[2]);
}

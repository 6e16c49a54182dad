/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Open files in every other state: flags, positions, owners, numbers, mounts. Each case is run alone: `files BASE CASE`. */

#include "subject.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

static char dir[3200];

static const char *in(const char *name) {
  static char paths[8][4400];
  static unsigned at;
  char *path = paths[at++ % 8];
  (void)snprintf(path, sizeof paths[0], "%s/%s", dir, name);
  return path;
}

static int make(const char *name, int flags) {
  int fd = open(in(name), flags | O_CREAT, 0600);
  check(fd >= 0, "%s with 0%o: %s", name, flags, strerror(errno));
  return fd;
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

/* Whatever F_GETFL shows; the runner compares that, here is tried what it does. */
static void flags(void) {
  static const int wanted[] = {O_RDONLY, O_WRONLY | O_APPEND, O_RDWR | O_SYNC, O_RDWR | O_DSYNC, O_RDWR | O_NOATIME, O_RDWR | O_DIRECT,
      O_RDWR | O_NONBLOCK, O_RDONLY | O_NOFOLLOW, O_RDWR | O_ASYNC, O_RDWR | O_TRUNC | O_EXCL, O_RDWR | O_LARGEFILE | O_CLOEXEC};
  enum { N = sizeof wanted / sizeof *wanted };
  int fds[N];
  for (size_t i = 0; i < N; i++) {
    char name[16];
    (void)snprintf(name, sizeof name, "f%zu", i);
    fds[i] = make(name, wanted[i]);
    int other = open(in(name), O_WRONLY | O_CLOEXEC);
    check_call(other >= 0 && write(other, "content", 7) == 7 && close(other) == 0);
  }
  check_call(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0 && lseek(fds[2], (off_t)1 << 43, SEEK_SET) > 0);
  check_call(ftruncate(fds[3], (off_t)1 << 42) == 0 && pwrite(fds[3], "far", 3, ((off_t)1 << 42) - 3) == 3);
  check_call(mkfifo(in("fifo"), 0600) == 0 && symlink("nowhere", in("link")) == 0 && mknod(in("tun"), S_IFCHR, makedev(10, 200)) == 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "s"};
  int bound = socket(AF_UNIX, SOCK_STREAM, 0);
  check_call(chdir(dir) == 0 && bind(bound, (void *)&address, sizeof address) == 0 && close(bound) == 0 && chdir("/") == 0);
  static const char *const paths[] = {"fifo", "link", "tun", "s", "f0", "."};
  int path[6];
  for (size_t i = 0; i < 6; i++)
    check_call((path[i] = open(in(paths[i]), O_PATH | (i == 1 ? O_NOFOLLOW : 0))) >= 0);
  int folder = open(dir, O_RDONLY), random = open("/dev/urandom", O_RDONLY), full = open("/dev/full", O_RDWR);
  DIR *d = fdopendir(dup(folder));
  check_call(random >= 0 && full >= 0 && d && readdir(d) && readdir(d) && readdir(d));
  off_t at = lseek(folder, 0, SEEK_CUR);
  wait_for_check();
  struct stat st, there;
  char buffer[16] = "";
  check(lseek(folder, 0, SEEK_CUR) == at, "the position in the directory");
  check(pread(fds[0], buffer, 7, 0) == 7 && strcmp(buffer, "content") == 0, "the content");
  check(lseek(fds[2], 0, SEEK_CUR) == (off_t)1 << 43, "the position beyond 2^40");
  check(pread(fds[3], buffer, 3, ((off_t)1 << 42) - 3) == 3 && memcmp(buffer, "far", 3) == 0, "the far end");
  check(write(fds[1], "more", 4) == 4 && fstat(fds[1], &st) == 0 && st.st_size == 11, "O_APPEND");
  check(fstat(fds[9], &st) == 0 && st.st_size == 7, "O_TRUNC has cut it again");
  for (size_t i = 0; i < 6; i++)
    check(fstat(path[i], &st) == 0 && lstat(in(paths[i]), &there) == 0 && st.st_ino == there.st_ino, "O_PATH of %s", paths[i]);
  check(openat(path[5], "f1", O_RDONLY) >= 0 && read(random, buffer, 8) == 8 && write(full, "x", 1) < 0 && errno == ENOSPC, "O_PATH, devices");
}

/* --- owners --- */

static int events[64][2];

static void count(int signo, siginfo_t *info, void *data) {
  if (info->si_fd >= 0 && info->si_fd < 64)
    events[info->si_fd][0]++, events[info->si_fd][1] = signo;
}

static void own(int fd, int signo) {
  struct f_owner_ex owner = {.type = F_OWNER_PID, .pid = getpid()};
  check(fcntl(fd, F_SETSIG, signo) == 0 && fcntl(fd, F_SETOWN_EX, &owner) == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0,
      "fd %d: %s", fd, strerror(errno));
}

static void owners(void) {
  int pipes[2], sockets[2], name, kinds[8], triggers[8];
  struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
  check_call(pipe(pipes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0 && mkfifo(in("fifo"), 0600) == 0);
  int file = make("file", O_RDWR);
  int master = posix_openpt(O_RDWR | O_NOCTTY), watch = inotify_init1(0), fifo = open(in("fifo"), O_RDWR);
  check_call(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0 && (name = open(ptsname(master), O_RDWR | O_NOCTTY)) >= 0);
  check_call(watch >= 0 && inotify_add_watch(watch, dir, IN_CREATE) > 0 && fifo >= 0);
  int writer = open(in("fifo"), O_WRONLY), udp = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_storage address = {.ss_family = AF_INET};
  socklen_t size = sizeof address;
  check_call(bind(udp, (void *)&address, 16) == 0 && getsockname(udp, (void *)&address, &size) == 0);
  const int k[] = {pipes[0], sockets[0], fifo, master, watch, udp}, t[] = {pipes[1], sockets[1], writer, name, -1, -1};
  for (int i = 0; i < 6; i++) {
    kinds[i] = k[i], triggers[i] = t[i];
    check_call(sigaction(SIGRTMIN + i, &action, NULL) == 0);
    own(kinds[i], SIGRTMIN + i);
  }
  struct f_owner_ex group = {.type = F_OWNER_PGRP, .pid = getpgrp()};
  check_call(fcntl(file, F_SETOWN_EX, &group) == 0 && fcntl(file, F_SETSIG, SIGUSR2) == 0);
  wait_for_check();
  for (int i = 0; i < 4; i++)
    check_call(write(triggers[i], "x\n", 2) == 2);
  (void)make("new", O_RDWR);
  int sender = socket(AF_INET, SOCK_DGRAM, 0);
  check_call(sendto(sender, "x", 1, 0, (void *)&address, size) == 1);
  for (int i = 0; i < 6; i++)
    for (int tries = 0; tries < 200 && !events[kinds[i]][0]; tries++)
      subject_tick();
  static const char *const names[] = {"a pipe", "a socket", "a FIFO", "a terminal", "inotify", "UDP"};
  for (int i = 0; i < 6; i++)
    check(events[kinds[i]][0] && events[kinds[i]][1] == SIGRTMIN + i, "%s sends no signal", names[i]);
  struct f_owner_ex owner;
  check(fcntl(file, F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PGRP && owner.pid == getpgrp() && fcntl(file, F_GETSIG) == SIGUSR2,
      "the owner of a file");
}

/* --- numbers --- */

/* A table full up to its limit, and one with descriptors above the limit that was lowered afterwards. */
static void numbers(void) {
  struct rlimit limit;
  check_call(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  int high = limit.rlim_max > 1000000 ? 999999 : (int)limit.rlim_max - 1;
  limit.rlim_cur = limit.rlim_max;
  int file = make("file", O_RDWR);
  check_call(setrlimit(RLIMIT_NOFILE, &limit) == 0 && dup2(file, high) == high && close(file) == 0);
  pid_t full = fork();
  if (full == 0) {
    limit.rlim_cur = limit.rlim_max = 64;
    check_call(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int n = 0;
    while (open("/dev/null", O_RDONLY) >= 0)
      n++;
    check(errno == EMFILE, "the table is not full");
    for (;;)
      pause();
  }
  limit.rlim_cur = limit.rlim_max = 8;
  check_call(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  while (access(in("file"), F_OK) == 0 && unlink(in("file")) < 0)
    ;
  struct timespec moment = {.tv_nsec = 100000000};
  nanosleep(&moment, NULL);
  wait_for_check();
  check_call(write(high, "x", 1) == 1 && fcntl(high, F_GETFD) == 0);
  check(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max == 8, "the limit");
  check_call(kill(full, 0) == 0 && kill(full, SIGKILL) == 0);
}

/* --- hundreds --- */

enum { HUNDREDS = 900 };

/* What lies at a number: every sort of gap, group and sharing between files that could be opened where they are. */
enum { SORT_FILE, SORT_OPEN_ON_EXEC, SORT_GAP, SORT_COPY, SORT_PIPE, SORT_EVENT, SORT_DELETED, SORT_PROC, SORT_DIRECTORY, N_SORTS };

static int sort_of(int i) {
  return i >= 300 && i < 400 ? SORT_FILE : i >= 400 && i < 500 ? SORT_GAP : (int)((unsigned)i * 2654435761u >> 20) % N_SORTS;
}

static int open_sort(int sort, int first) {
  int ends[2];
  if (sort == SORT_COPY)
    return dup(first);
  if (sort == SORT_EVENT)
    return eventfd(0, EFD_CLOEXEC);
  if (sort == SORT_PROC)
    return open("/proc/self/stat", O_RDONLY);
  if (sort == SORT_DIRECTORY)
    return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (sort == SORT_PIPE) { /* the other end lies above all others */
    check_call(pipe2(ends, O_CLOEXEC) == 0 && fcntl(ends[1], F_DUPFD, HUNDREDS + 16) > 0 && close(ends[1]) == 0);
    return ends[0];
  }
  const char *name = sort == SORT_DELETED ? "deleted" : "file";
  int fd = open(in(name), O_RDWR | O_CREAT | (sort == SORT_OPEN_ON_EXEC ? 0 : O_CLOEXEC), 0600);
  check_call(sort != SORT_DELETED || unlink(in(name)) == 0);
  return fd;
}

/* Files that are not copies are where they were put, each at a position of its own. */
static bool has_position(int sort) {
  return sort == SORT_FILE || sort == SORT_OPEN_ON_EXEC || sort == SORT_DELETED;
}

static void check_hundreds(int first, bool child) {
  for (int i = first + 1; i < HUNDREDS; i++) {
    int sort = child && i % 2 ? SORT_GAP : sort_of(i), flags = fcntl(i, F_GETFD);
    bool keeps = sort == SORT_OPEN_ON_EXEC || sort == SORT_COPY || sort == SORT_PROC;
    check(flags == (sort == SORT_GAP ? -1 : keeps ? 0 : FD_CLOEXEC), "descriptor %d: flags %d", i, flags);
    if (has_position(sort))
      check(lseek(i, 0, SEEK_CUR) == i, "descriptor %d: its position is %ld", i, (long)lseek(i, 0, SEEK_CUR));
    if (sort == SORT_COPY)
      check(lseek(i, 0, SEEK_CUR) == first, "descriptor %d is no copy", i);
  }
}

static void hundreds(void) {
  int first = make("file", O_RDWR | O_CLOEXEC);
  check_call(lseek(first, first, SEEK_SET) == first);
  for (int i = first + 1; i < HUNDREDS; i++) {
    int fd = open_sort(sort_of(i) == SORT_GAP ? SORT_EVENT : sort_of(i), first);
    check(fd == i, "descriptor %d at %d: %s", i, fd, strerror(errno));
    check_call(!has_position(sort_of(i)) || lseek(fd, i, SEEK_SET) == i);
  }
  for (int i = first + 1; i < HUNDREDS; i++)
    check_call(sort_of(i) != SORT_GAP || close(i) == 0);
  pid_t half = fork();
  if (half == 0) {
    for (int i = first + 1 + first % 2; i < HUNDREDS; i += 2)
      (void)close(i);
    while (!subject_checking())
      subject_tick();
    check_hundreds(first, true);
    _exit(0);
  }
  wait_for_check();
  int status = -1;
  check_hundreds(first, false);
  check_call(lseek(first, 0, SEEK_CUR) == first && waitpid(half, &status, 0) == half);
  check(status == 0, "the child ended with %x", status);
}

/* --- mounts --- */

static void clean_mounts(void) {
  (void)umount2(in("mnt"), MNT_DETACH);
  (void)umount2(in("other"), MNT_DETACH);
}

/* What the runner's temporary directory needs at the end: no mount in it. A watcher ends them when we die. */
static void mounted(const char *type, const char *data) {
  check_call(mkdir(in("mnt"), 0755) == 0 && mkdir(in("other"), 0755) == 0);
  if (mount("none", in("mnt"), type, 0, data) < 0)
    subject_skip("cannot mount here");
}

static void hidden(void) {
  check_call(mkdir(in("mnt"), 0755) == 0);
  (void)make("mnt/file", O_RDWR);
  if (mount("none", in("mnt"), "tmpfs", 0, NULL) < 0)
    subject_skip("cannot mount here");
  wait_for_check();
  clean_mounts();
}

static void lazy(void) {
  mounted("tmpfs", NULL);
  (void)make("mnt/file", O_RDWR);
  check_call(umount2(in("mnt"), MNT_DETACH) == 0);
  wait_for_check();
}

/* Only in a mount namespace that the program has left again. */
static void elsewhere(void) {
  check_call(mkdir(in("mnt"), 0755) == 0);
  int own_namespace = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), ends[2];
  int child_end[2];
  check_call(own_namespace >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && pipe(child_end) == 0);
  if (fork() == 0) {
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("none", in("mnt"), "tmpfs", 0, NULL) < 0)
      _exit(1);
    int file = make("mnt/file", O_RDWR);
    char control[CMSG_SPACE(sizeof file)] = {0};
    char mark = 0;
    struct iovec io = {.iov_base = &mark, .iov_len = 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(c), &file, sizeof file);
    _exit(sendmsg(ends[0], &m, 0) == 1 ? 0 : 1);
  }
  int status;
  check_call(wait(&status) > 0);
  if (status != 0)
    subject_skip("no mount namespaces here");
  char control[CMSG_SPACE(sizeof(int))], byte;
  struct iovec io = {.iov_base = &byte, .iov_len = 1};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  check_call(recvmsg(ends[1], &m, 0) == 1);
  (void)close(ends[0]), (void)close(ends[1]);
  wait_for_check();
}

/* The same file by two mounts; tmpfs with a ghost on it. */
static void bound(void) {
  mounted("tmpfs", NULL);
  check_call(mount(in("mnt"), in("other"), NULL, MS_BIND, NULL) == 0);
  int a = make("mnt/file", O_RDWR), b = open(in("other/file"), O_RDWR), c = make("other/gone", O_RDWR);
  check_call(b >= 0 && write(a, "written", 7) == 7 && write(c, "gone", 4) == 4 && unlink(in("mnt/gone")) == 0);
  wait_for_check();
  char buffer[8] = "";
  struct stat x, y;
  check(pread(b, buffer, 7, 0) == 7 && strcmp(buffer, "written") == 0 && fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino, "the file");
  check(pread(c, buffer, 4, 0) == 4 && memcmp(buffer, "gone", 4) == 0, "the deleted one");
  (void)close(a), (void)close(b), (void)close(c);
  clean_mounts();
}

/* Lower and upper files, one that was copied up while it was open, a deleted one; mapped, too. */
static void overlay(void) {
  check_call(mkdir(in("base"), 0755) == 0 && mount("none", in("base"), "tmpfs", 0, NULL) == 0);
  static const char *const names[] = {"base/lower", "base/upper", "base/work", "mnt"};
  for (size_t i = 0; i < 4; i++)
    check_call(mkdir(in(names[i]), 0755) == 0);
  int low = make("base/lower/low", O_RDWR), up = make("base/lower/up", O_RDWR), gone = make("base/lower/gone", O_RDWR);
  check_call(write(low, "low", 3) == 3 && write(up, "up", 2) == 2 && write(gone, "gone", 4) == 4);
  (void)close(low), (void)close(up), (void)close(gone);
  char options[9500];
  (void)snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", in("base/lower"), in("base/upper"), in("base/work"));
  if (mount("none", in("mnt"), "overlay", 0, options) < 0) {
    (void)umount2(in("base"), MNT_DETACH);
    subject_skip("no overlayfs here");
  }
  check_call((low = open(in("mnt/low"), O_RDONLY)) >= 0 && (up = open(in("mnt/up"), O_RDONLY)) >= 0);
  int upper = make("mnt/new", O_RDWR), writer = open(in("mnt/up"), O_RDWR), removed = open(in("mnt/gone"), O_RDWR), folder = open(in("mnt"), O_RDONLY);
  check_call(writer >= 0 && write(writer, "UP", 2) == 2 && write(upper, "new", 3) == 3 && removed >= 0 && folder >= 0);
  char *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, low, 0), *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, upper, 0);
  check_call(map != MAP_FAILED && shared != MAP_FAILED && unlink(in("mnt/gone")) == 0);
  wait_for_check();
  char buffer[8] = "";
  check(pread(low, buffer, 3, 0) == 3 && strcmp(buffer, "low") == 0 && strcmp(map, "low") == 0, "a lower file: %s", buffer);
  check(pread(writer, buffer, 2, 0) == 2 && memcmp(buffer, "UP", 2) == 0, "the file that was copied up");
  check(pread(upper, buffer, 3, 0) == 3 && memcmp(buffer, "new", 3) == 0 && memcmp(shared, "new", 3) == 0, "an upper file");
  check(pread(removed, buffer, 4, 0) == 4 && memcmp(buffer, "gone", 4) == 0, "the deleted file");
  memcpy(shared, "NEW", 3);
  check(pread(upper, buffer, 3, 0) == 3 && memcmp(buffer, "NEW", 3) == 0, "the shared mapping");
  clean_mounts();
  (void)umount2(in("base"), MNT_DETACH);
}

/* --- what is refused --- */

static void dnotify(void) {
  int folder = open(dir, O_RDONLY);
  check_call(folder >= 0);
  (void)signal(SIGIO, SIG_IGN);
  if (fcntl(folder, F_NOTIFY, DN_CREATE | DN_MULTISHOT) < 0)
    subject_skip("this kernel has no F_NOTIFY");
  wait_for_check();
}

/* It serves a file system, and has a file of it open: to ask that one for anything would wait for ever. */
static void fuse(void) {
  char options[64];
  int serving = open("/dev/fuse", O_RDWR);
  check_call(mkdir(in("mnt"), 0755) == 0);
  (void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", serving);
  if (serving < 0 || mount("none", in("mnt"), "fuse", 0, options) < 0)
    subject_skip("no FUSE here");
  check_call(open(in("mnt"), O_PATH) >= 0);
  wait_for_check();
  clean_mounts();
}

/* --- so many that two threads look at them, of every kind --- */

#define MIXED 3600
#define MIXED_FIRST 100

enum { OTHER_FILE, SAME_FILE, SAME_DESCRIPTION, PIPE_IN, PIPE_OUT, EVENT, DELETED, PATH_ONLY, DIRECTORY, MEMORY, OWNED, EIGHTY, MIXED_KINDS };

static int mixed_new(int i, int *last_pipe) {
  char name[32];
  int fd = -1, ends[2];
  (void)snprintf(name, sizeof name, "%d", i);
  switch (i % MIXED_KINDS) {
  case OTHER_FILE:
  case DELETED:
  case OWNED:
    fd = make(name, O_RDWR | O_CLOEXEC);
    check_call(write(fd, &i, sizeof i) == sizeof i);
    if (i % MIXED_KINDS == OWNED)
      check_call(fcntl(fd, F_SETOWN, getpid()) == 0 && fcntl(fd, F_SETSIG, SIGUSR1) == 0);
    return i % MIXED_KINDS == DELETED && unlink(in(name)) < 0 ? -1 : fd;
  case EIGHTY: /* the size of a message queue's descriptor */
    fd = make(name, O_RDWR);
    return ftruncate(fd, 80) < 0 ? -1 : fd;
  case SAME_FILE:
    fd = make("same", O_RDWR | O_APPEND);
    return lseek(fd, i, SEEK_SET) == i ? fd : -1;
  case SAME_DESCRIPTION:
    return dup(MIXED_FIRST + i - 1);
  case PIPE_IN:
    check_call(pipe(ends) == 0 && write(ends[1], &i, sizeof i) == sizeof i);
    *last_pipe = ends[1];
    return ends[0];
  case PIPE_OUT:
    return *last_pipe;
  case EVENT:
    return eventfd((unsigned)i, 0);
  case PATH_ONLY:
    return open(in("same"), O_PATH);
  case DIRECTORY:
    return open(dir, O_RDONLY | O_DIRECTORY);
  default:
    fd = memfd_create(name, 0);
    return write(fd, &i, sizeof i) == sizeof i ? fd : -1;
  }
}

static void mixed_check(int i, int fd) {
  int value = -1;
  uint64_t count = 0;
  struct stat st;
  switch (i % MIXED_KINDS) {
  case OTHER_FILE:
  case DELETED:
  case OWNED:
  case MEMORY:
    check(lseek(fd, 0, SEEK_CUR) == sizeof i && pread(fd, &value, sizeof value, 0) == sizeof value && value == i, "fd %d has %d", fd, value);
    check(fstat(fd, &st) == 0 && st.st_nlink == (i % MIXED_KINDS == DELETED || i % MIXED_KINDS == MEMORY ? 0 : 1), "names of fd %d", fd);
    check(i % MIXED_KINDS != OWNED || (fcntl(fd, F_GETOWN) == getpid() && fcntl(fd, F_GETSIG) == SIGUSR1), "the owner of fd %d", fd);
    break;
  case EIGHTY:
    check(fstat(fd, &st) == 0 && st.st_size == 80, "fd %d", fd);
    break;
  case SAME_FILE:
    check(lseek(fd, 0, SEEK_CUR) == i, "fd %d is at %ld", fd, (long)lseek(fd, 0, SEEK_CUR));
    break;
  case SAME_DESCRIPTION:
    check(lseek(fd, 1, SEEK_CUR) == i && lseek(fd - 1, 0, SEEK_CUR) == i, "fd %d is not the one before", fd);
    break;
  case PIPE_OUT:
    check(write(fd, "xxxx", 4) == 4 && read(fd - 1, &value, sizeof value) == 4 && value == i - 1 && read(fd - 1, &value, sizeof value) == 4, "pipe %d", fd);
    break;
  case EVENT:
    check(read(fd, &count, sizeof count) == sizeof count && count == (uint64_t)i, "fd %d counts %d", fd, (int)count);
    break;
  case PATH_ONLY:
    check((fcntl(fd, F_GETFL) & O_PATH) != 0, "fd %d can be used", fd);
    break;
  case DIRECTORY:
    check(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode), "fd %d", fd);
    break;
  }
}

static void mixed(void) {
  struct rlimit limit;
  int last_pipe = -1;
  check_call(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  check_call(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (int i = 0; i < MIXED; i++) {
    int fd = mixed_new(i, &last_pipe), flags = fcntl(fd, F_GETFD);
    check(fd >= 0 && flags >= 0, "kind %d: %s", i % MIXED_KINDS, strerror(errno));
    check(dup3(fd, MIXED_FIRST + i, flags ? O_CLOEXEC : 0) == MIXED_FIRST + i && close(fd) == 0, "fd %d is no free place", fd);
  }
  wait_for_check();
  for (int i = 0; i < MIXED; i++) {
    mixed_check(i, MIXED_FIRST + i);
    check(fcntl(MIXED_FIRST + i, F_GETFD) >= 0, "fd %d is closed", MIXED_FIRST + i);
  }
}

static void device(const char *path) {
  int fd = open(path, strcmp(path, "/dev/kmsg") == 0 ? O_RDONLY : O_RDWR);
  if (fd < 0)
    subject_skip(path);
  wait_for_check();
  struct stat st, there;
  check(fstat(fd, &st) == 0 && stat(path, &there) == 0 && st.st_rdev == there.st_rdev, "%s is another device", path);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"flags", flags}, {"owners", owners}, {"numbers", numbers}, {"hundreds", hundreds}, {"mixed", mixed}, {"hidden", hidden}, {"lazy", lazy}, {"elsewhere", elsewhere},
      {"bound", bound}, {"overlay", overlay}, {"dnotify", dnotify}, {"fuse", fuse}};
  subject_begin(argc, argv);
  check(argc > 2, "which case?");
  subject_path(dir, sizeof dir, "dir");
  check_call(mkdir(dir, 0777) == 0 || errno == EEXIST);
  umask(0);
  if (argv[2][0] == '/')
    device(argv[2]);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(argv[2], cases[i].name) == 0) {
      cases[i].run();
      return subject_pass();
    }
  return subject_pass();
}

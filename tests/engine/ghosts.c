/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is open and has lost its name. Each case is run alone: `ghosts BASE CASE`. */

#include "subject.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/socket.h>
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
  check_call(fd >= 0);
  return fd;
}

static void expect_text(int fd, off_t at, const char *text) {
  char buffer[64] = "";
  check_call(pread(fd, buffer, strlen(text), at) == (ssize_t)strlen(text));
  check(strcmp(buffer, text) == 0, "fd %d holds '%s', not '%s'", fd, buffer, text);
}

static void expect_link(int fd, const char *path) {
  char own[64], link[PATH_MAX + 64] = "", wanted[PATH_MAX + 64];
  (void)snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
  check_call(readlink(own, link, sizeof link - 1) > 0);
  (void)snprintf(wanted, sizeof wanted, "%s (deleted)", path);
  check(strcmp(link, wanted) == 0, "fd %d is %s, not %s", fd, link, wanted);
}

static bool same_file(int a, int b) {
  struct stat x, y;
  check_call(fstat(a, &x) == 0 && fstat(b, &y) == 0);
  return x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static struct stat stat_of(int fd) {
  struct stat st;
  check_call(fstat(fd, &st) == 0);
  return st;
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

/* Several names, all gone, each open; a child has descriptions of its own; with holes at both ends. */
static void links(void) {
  int a = make("a", O_RDWR);
  check_call(link(in("a"), in("b")) == 0);
  int b = open(in("b"), O_RDWR | O_APPEND), nofollow = open(in("a"), O_RDONLY | O_NOFOLLOW), path = open(in("b"), O_PATH);
  check_call(b >= 0 && nofollow >= 0 && path >= 0 && pwrite(a, "middle", 6, 1 << 20) == 6 && ftruncate(a, 4 << 20) == 0);
  check_call(unlink(in("a")) == 0 && unlink(in("b")) == 0 && lseek(a, (off_t)3 << 40, SEEK_SET) == (off_t)3 << 40);
  pid_t child = fork();
  if (child == 0) {
    char own[64];
    (void)snprintf(own, sizeof own, "/proc/self/fd/%d", a);
    int mine = open(own, O_RDWR);
    check_call(mine >= 0 && lseek(mine, 7, SEEK_SET) == 7);
    while (!subject_checking())
      subject_tick();
    check(same_file(mine, b) && lseek(mine, 0, SEEK_CUR) == 7, "the child's is another one");
    check_call(pwrite(mine, "child", 5, 100) == 5);
    _exit(0);
  }
  wait_for_check();
  int status;
  check(waitpid(child, &status, 0) == child && status == 0, "the child: %x", status);
  expect_text(b, 1 << 20, "middle");
  expect_text(a, 100, "child");
  check(same_file(a, b) && same_file(a, nofollow) && same_file(a, path), "several files");
  struct stat st = stat_of(a);
  check(st.st_nlink == 0 && st.st_size == 4 << 20 && st.st_blocks * 512 < 1 << 20, "%ld links, %ld bytes, %ld blocks", (long)st.st_nlink,
      (long)st.st_size, (long)st.st_blocks);
  check(lseek(a, 0, SEEK_CUR) == (off_t)3 << 40, "the position");
  expect_link(a, in("a"));
  expect_link(b, in("b"));
  expect_link(path, in("b"));
  check(fcntl(nofollow, F_GETFL) & O_NOFOLLOW && fcntl(b, F_GETFL) & O_APPEND, "the flags");
}

/* Mapped and nothing else, shared and private, also open. */
static void maps(void) {
  int a = make("a", O_RDWR), b = make("b", O_RDWR);
  check_call(ftruncate(a, 8192) == 0 && ftruncate(b, 8192) == 0 && pwrite(a, "file a", 6, 0) == 6 && pwrite(b, "file b", 6, 4096) == 6);
  char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
  char *private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, a, 0);
  char *only = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, b, 0);
  char *readonly = mmap(NULL, 4096, PROT_READ, MAP_SHARED, b, 4096);
  check_call(shared != MAP_FAILED && private != MAP_FAILED && only != MAP_FAILED && readonly != MAP_FAILED);
  check_call(close(b) == 0 && unlink(in("a")) == 0 && unlink(in("b")) == 0);
  strcpy(private + 4096, "copied");
  strcpy(shared + 100, "through the mapping");
  wait_for_check();
  expect_text(a, 100, "through the mapping");
  check(strcmp(private + 4096, "copied") == 0 && strcmp(private, "file a") == 0, "the private mapping");
  check(shared[4096] == 0, "the private write is in the file");
  check(strcmp(only + 4096, "file b") == 0 && strcmp(readonly, "file b") == 0, "the file that is only mapped");
  strcpy(only + 4096, "new");
  check(strcmp(readonly, "new") == 0, "two mappings of one file are two files");
  strcpy(shared, "new");
  expect_text(a, 0, "new");
  check(strcmp(private, "new") == 0, "the private mapping has lost its file");
}

/* Directories that are gone, one in the other, with a deleted file, a socket, a FIFO, a link and devices in them. */
static void directories(void) {
  check_call(mkdir(in("d"), 0700) == 0 && mkdir(in("d/e"), 01750) == 0 && chown(in("d/e"), 12, 34) == 0);
  int outer = open(in("d"), O_RDONLY | O_DIRECTORY), inner = open(in("d/e"), O_PATH), file = make("d/e/file", O_RDWR);
  check_call(write(file, "inside", 6) == 6 && mkfifo(in("d/e/fifo"), 0640) == 0 && symlink("to nowhere", in("d/e/link")) == 0);
  check_call(mknod(in("d/null"), S_IFCHR | 0666, makedev(1, 3)) == 0);
  int fifo = open(in("d/e/fifo"), O_RDWR | O_NONBLOCK), link = open(in("d/e/link"), O_PATH | O_NOFOLLOW);
  int null = open(in("d/null"), O_WRONLY), sock = -1, bound = socket(AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "d/s"};
  check_call(chdir(dir) == 0 && bind(bound, (void *)&address, sizeof address) == 0 && (sock = open("d/s", O_PATH)) >= 0);
  check_call(close(bound) == 0 && fifo >= 0 && link >= 0 && null >= 0 && write(fifo, "in the FIFO", 11) == 11 && chdir(in("d/e")) == 0);
  static const char *const names[] = {"d/e/file", "d/e/fifo", "d/e/link", "d/null", "d/s"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    check_call(unlink(in(names[i])) == 0);
  check_call(rmdir(in("d/e")) == 0 && rmdir(in("d")) == 0);
  wait_for_check();
  char buffer[PATH_MAX];
  struct stat st = stat_of(inner), up, here;
  check(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 01750 && st.st_uid == 12 && st.st_gid == 34 && st.st_nlink == 0, "the inner one");
  check_call(stat(".", &here) == 0 && stat("..", &up) == 0);
  check(here.st_ino == st.st_ino && up.st_ino == stat_of(outer).st_ino, "the directories are not in each other");
  check(open("new", O_CREAT | O_RDWR, 0600) < 0 && errno == ENOENT, "a file can be made in a deleted directory");
  expect_text(file, 0, "inside");
  check(read(fifo, buffer, sizeof buffer) == 11 && memcmp(buffer, "in the FIFO", 11) == 0, "the content of the FIFO");
  check(readlinkat(link, "", buffer, sizeof buffer) == 10 && memcmp(buffer, "to nowhere", 10) == 0, "the symbolic link");
  st = stat_of(null);
  check(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) && write(null, "x", 1) == 1, "the device");
  check(S_ISSOCK(stat_of(sock).st_mode), "the socket's file");
  static const char *const shown[] = {"d", "d/e", "d/e/file", "d/e/fifo", "d/e/link", "d/null", "d/s"};
  const int fds[] = {outer, inner, file, fifo, link, null, sock};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
    expect_link(fds[i], in(shown[i]));
  check(access(in("d"), F_OK) < 0, "a directory was left behind");
}

/* Two files and a directory that had the same name, one after the other. */
static void repeated(void) {
  int first = make("a", O_RDWR);
  check_call(write(first, "1", 1) == 1 && unlink(in("a")) == 0);
  int second = make("a", O_RDWR);
  check_call(write(second, "2", 1) == 1 && unlink(in("a")) == 0 && mkdir(in("a"), 0755) == 0);
  int third = open(in("a"), O_RDONLY);
  check_call(third >= 0 && rmdir(in("a")) == 0);
  wait_for_check();
  expect_text(first, 0, "1");
  expect_text(second, 0, "2");
  check(S_ISDIR(stat_of(third).st_mode), "the directory");
}

/* The names are taken by others, who must not be touched; /proc cannot say the old ones then. */
static void taken(void) {
  int file = make("a", O_RDWR), over = make("b", O_RDWR), kept = make("c", O_RDWR);
  check_call(mkdir(in("d"), 0700) == 0);
  int folder = open(in("d"), O_RDONLY);
  check_call(write(file, "old a", 5) == 5 && write(over, "old b", 5) == 5 && write(kept, "new b", 5) == 5);
  check_call(unlink(in("a")) == 0 && mkdir(in("a"), 0700) == 0 && rename(in("c"), in("b")) == 0 && rmdir(in("d")) == 0);
  int newer = make("d", O_RDWR);
  check_call(write(newer, "new d", 5) == 5);
  wait_for_check();
  struct stat st;
  expect_text(file, 0, "old a");
  expect_text(over, 0, "old b");
  expect_text(kept, 0, "new b");
  expect_text(newer, 0, "new d");
  check(stat(in("a"), &st) == 0 && S_ISDIR(st.st_mode), "the directory that has the name");
  check(stat(in("b"), &st) == 0 && st.st_ino == stat_of(kept).st_ino, "the file that has the name");
  check(S_ISDIR(stat_of(folder).st_mode) && stat_of(folder).st_nlink == 0, "the old directory");
  char own[64], link[PATH_MAX] = "";
  (void)snprintf(own, sizeof own, "/proc/self/fd/%d", kept);
  check(readlink(own, link, sizeof link) > 0 && strcmp(link, in("b")) == 0, "the file that has the name is %s", link);
}

/* Odd names: bytes that are no UTF-8, line ends, and the very words that the kernel appends. */
static void names(void) {
  static const char *const odd[] = {"x (deleted)", "y (deleted) (deleted)", "line\nend", "\x01\xff\xfe\\012 '\"%s",
      "blank at the end ", "link_remap.1"};
  enum { N = sizeof odd / sizeof *odd };
  int kept[N], gone[N];
  for (size_t i = 0; i < N; i++) {
    char name[64];
    (void)snprintf(name, sizeof name, "gone %s", odd[i]);
    kept[i] = make(odd[i], O_RDWR);
    gone[i] = make(name, O_RDWR);
    check_call(write(kept[i], odd[i], strlen(odd[i])) > 0 && write(gone[i], name, strlen(name)) > 0 && unlink(in(name)) == 0);
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, kept[i], 0);
    check_call(map != MAP_FAILED);
  }
  int renamed = make("before", O_RDWR);
  check_call(rename(in("before"), in("after")) == 0);
  wait_for_check();
  for (size_t i = 0; i < N; i++) {
    char name[64];
    struct stat st;
    (void)snprintf(name, sizeof name, "gone %s", odd[i]);
    expect_text(kept[i], 0, odd[i]);
    expect_text(gone[i], 0, name);
    expect_link(gone[i], in(name));
    check(stat(in(odd[i]), &st) == 0 && st.st_ino == stat_of(kept[i]).st_ino, "'%s' is another file", odd[i]);
  }
  char own[64], link[PATH_MAX] = "";
  (void)snprintf(own, sizeof own, "/proc/self/fd/%d", renamed);
  check(readlink(own, link, sizeof link) > 0 && strcmp(link, in("after")) == 0, "the renamed file is %s", link);
}

/* A name that is gone while others are left, which nobody tells: found by its handle. Also a nameless file that got a name. */
static void relinked(void) {
  int file = make("a", O_RDWR), nameless = open(dir, O_TMPFILE | O_RDWR, 0600);
  check_call(write(file, "other name", 10) == 10 && link(in("a"), in("b")) == 0 && unlink(in("a")) == 0);
  char own[64];
  (void)snprintf(own, sizeof own, "/proc/self/fd/%d", nameless);
  check_call(nameless >= 0 && linkat(AT_FDCWD, own, AT_FDCWD, in("named"), AT_SYMLINK_FOLLOW) == 0 && write(nameless, "named", 5) == 5);
  char *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
  check_call(map != MAP_FAILED);
  wait_for_check();
  struct stat st;
  expect_text(file, 0, "other name");
  expect_text(nameless, 0, "named");
  expect_link(file, in("a"));
  check(stat(in("b"), &st) == 0 && st.st_ino == stat_of(file).st_ino && st.st_nlink == 1, "it is another file, or has %d names", (int)st.st_nlink);
  check(stat(in("named"), &st) == 0 && st.st_ino == stat_of(nameless).st_ino && st.st_nlink == 1, "the nameless one");
  check(access(in("a"), F_OK) < 0 && strcmp(map, "other name") == 0, "the old name is there, or the mapping is of another file");
}

/* More on the disk than --ghost-limit lets through. */
static void limit(void) {
  int file = make("a", O_RDWR);
  static char block[1 << 16];
  memset(block, 'x', sizeof block);
  for (int i = 0; i < 32; i++)
    check_call(write(file, block, sizeof block) == sizeof block);
  check_call(unlink(in("a")) == 0);
  wait_for_check();
}

/* A program that was deleted, or replaced, as an upgrade does: it is a copy of itself that runs. */
static void program(const char *what) {
  wait_for_check();
  char link[PATH_MAX + 64] = "";
  check_call(readlink("/proc/self/exe", link, sizeof link - 1) > 0);
  check(strstr(link, "/copy") && strstr(link, " (deleted)"), "the program is %s", link);
  if (strcmp(what, "replaced") == 0)
    expect_text(open(in("copy"), O_RDONLY), 0, "a newer one");
  int fd = open("/proc/self/exe", O_RDONLY);
  expect_text(fd, 0, "\177ELF");
}

static void start_program(char **argv) {
  char command[9000];
  bool again = strcmp(argv[2], "upgrade") == 0;
  (void)snprintf(command, sizeof command, "cp /proc/%d/exe '%s'", getpid(), in("copy"));
  check_call(system(command) == 0);
  char gone[] = "removed", replaced[] = "replaced";
  char *args[] = {argv[0], argv[1], again ? replaced : gone, NULL};
  int fd = open(in("copy"), O_RDONLY | O_CLOEXEC);
  check_call(fd >= 0 && unlink(in("copy")) == 0);
  if (again) {
    int newer = make("copy", O_WRONLY | O_CLOEXEC);
    check_call(write(newer, "a newer one", 11) == 11);
  }
  (void)fexecve(fd, args, environ);
  check(false, "cannot execute the copy: %s", strerror(errno));
}

/* Deeper than a path can be. */
static void deep(void) {
  char name[201];
  memset(name, 'x', 200);
  name[200] = 0;
  int at = open(dir, O_RDONLY);
  for (int i = 0; i < 24; i++) {
    check_call(mkdirat(at, name, 0700) == 0);
    int next = openat(at, name, O_RDONLY | O_CLOEXEC);
    check_call(next >= 0 && close(at) == 0);
    at = next;
  }
  wait_for_check();
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"links", links}, {"maps", maps}, {"directories", directories}, {"repeated", repeated}, {"taken", taken}, {"names", names},
      {"relinked", relinked}, {"limit", limit}, {"deep", deep}};
  subject_begin(argc, argv);
  check(argc > 2, "which case?");
  subject_path(dir, sizeof dir, "dir");
  check_call(mkdir(dir, 0777) == 0 || errno == EEXIST);
  umask(0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (strcmp(argv[2], cases[i].name) == 0) {
      cases[i].run();
      return subject_pass();
    }
  if (strcmp(argv[2], "delete") == 0 || strcmp(argv[2], "upgrade") == 0)
    start_program(argv);
  program(argv[2]);
  return subject_pass();
}

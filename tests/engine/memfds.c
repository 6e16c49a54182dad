/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Every kind of memfd_create(2): seals, modes, names, several descriptions of one, holes, mapped by several tasks. */

#include "subject.h"
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MFD_NOEXEC_SEAL_ 8u
#define MFD_EXEC_ 16u
#define SEAL_EXEC 0x20
#define SEAL_FUTURE_WRITE 0x10

enum { PAGE = 4096, PAGES = 16, SIZE = PAGE * PAGES, RW = PROT_READ | PROT_WRITE };

typedef struct Case {
  const char *name;
  unsigned flags;
  int seals; /* added */
  mode_t mode;
} Case;

static const Case cases[] = {
    {"plain", 0, 0, 0},
    {"", MFD_ALLOW_SEALING, 0, 0},
    {"code", MFD_EXEC_, 0, 0},
    {"data", MFD_NOEXEC_SEAL_, 0, 0},
    {"data for good", MFD_NOEXEC_SEAL_, F_SEAL_SEAL, 0},
    {"code for good", MFD_ALLOW_SEALING | MFD_EXEC_, SEAL_EXEC, 0},
    {"shrink", MFD_ALLOW_SEALING, F_SEAL_SHRINK, 0},
    {"grow", MFD_ALLOW_SEALING, F_SEAL_GROW, 0},
    {"write", MFD_ALLOW_SEALING, F_SEAL_WRITE, 0},
    {"future", MFD_ALLOW_SEALING, SEAL_FUTURE_WRITE, 0},
    {"all", MFD_ALLOW_SEALING, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | SEAL_FUTURE_WRITE, 0},
    {"mine alone", 0, 0, 0600},
    {"nobody's", MFD_ALLOW_SEALING, 0, 0400},
    {"line\nend\\134 \"quoted\" \t", 0, 0, 0},
    {"gr\303\274n \342\202\254", 0, 0, 0},
    {"\377\376 no text", 0, 0, 0},
    {"was (deleted)", 0, 0, 0},
    {"/dev/zero", 0, 0, 0},
    {"//dev/zero", 0, 0, 0},
    {"/anon_hugepage", MFD_ALLOW_SEALING, 0, 0},
    {"memfd:memfd:", 0, 0, 0},
};
enum { N = sizeof cases / sizeof *cases };

static int fds[N];
static int seals[N];
static struct stat stats[N];
static unsigned char *future, *future_read, *written_once;
static int holes = -1, read_only = -1, appending = -1, path_only = -1;
static unsigned char *shared, *private, *mapped_only;

static void fill(unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    p[i] = (unsigned char)(i * 17 + seed);
}

static void verify(const char *what, const unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    check(p[i] == (unsigned char)(i * 17 + seed), "%s: byte %zu is %02x", what, i, p[i]);
}

static int reopened(int fd, int flags) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  int again = open(path, flags | O_CLOEXEC);
  check_call(again >= 0);
  return again;
}

static int make_one(unsigned i) {
  const Case *c = &cases[i];
  unsigned char page[PAGE];
  int fd = (int)syscall(SYS_memfd_create, c->name, c->flags | MFD_CLOEXEC);
  if (fd < 0 && errno == EINVAL) /* before 6.3 */
    fd = (int)syscall(SYS_memfd_create, c->name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
  check_call(fd >= 0);
  fill(page, i);
  check_call(write(fd, page, PAGE) == PAGE && ftruncate(fd, SIZE) == 0);
  if (c->mode)
    check_call(fchown(fd, 65534, 65533) == 0 && fchmod(fd, c->mode) == 0);
  if (strcmp(c->name, "future") == 0) {
    future = mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);
    check_call(future != MAP_FAILED);
  }
  if (c->seals)
    check(fcntl(fd, F_ADD_SEALS, c->seals) == 0 || (c->seals & SEAL_EXEC && errno == EINVAL), "seals %x: %s", (unsigned)c->seals, strerror(errno));
  if (strcmp(c->name, "future") == 0)
    future_read = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reopened(fd, O_RDONLY), 0);
  if (strcmp(c->name, "write") == 0)
    written_once = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
  seals[i] = fcntl(fd, F_GET_SEALS);
  check_call(fstat(fd, &stats[i]) == 0);
  return fd;
}

static void make_holes(void) {
  unsigned char page[PAGE];
  holes = (int)syscall(SYS_memfd_create, "holes", MFD_CLOEXEC);
  check_call(holes >= 0 && ftruncate(holes, (off_t)1 << 32) == 0);
  for (unsigned i = 0; i < 8; i++) {
    fill(page, 50 + i);
    check_call(pwrite(holes, page, PAGE, (off_t)i * PAGE) == PAGE);
  }
  fill(page, 60);
  check_call(pwrite(holes, page, PAGE, (off_t)3 << 30) == PAGE);
  check_call(fallocate(holes, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, 4 * PAGE) == 0);
  read_only = reopened(holes, O_RDONLY);
  appending = reopened(holes, O_WRONLY | O_APPEND | O_NONBLOCK);
  path_only = reopened(holes, O_PATH);
  check_call(lseek(read_only, 77, SEEK_SET) == 77 && lseek(holes, 99, SEEK_SET) == 99);
}

static void make_mappings(void) {
  int fd = (int)syscall(SYS_memfd_create, "mapped only", MFD_CLOEXEC);
  check_call(fd >= 0 && ftruncate(fd, SIZE) == 0);
  shared = mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);
  private = mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE, fd, 4 * PAGE);
  mapped_only = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 6 * PAGE);
  check_call(shared != MAP_FAILED && private != MAP_FAILED && mapped_only != MAP_FAILED && close(fd) == 0);
  for (unsigned i = 0; i < PAGES; i++)
    fill(shared + i * PAGE, 80 + i);
  fill(private + PAGE, 120);
}

static void verify_one(unsigned i) {
  unsigned char page[PAGE];
  char link[64], got[512] = "", want[512];
  struct stat st;
  check_call(fstat(fds[i], &st) == 0 && pread(fds[i], page, PAGE, 0) == PAGE);
  verify(cases[i].name, page, i);
  check(st.st_mode == stats[i].st_mode && st.st_uid == stats[i].st_uid && st.st_gid == stats[i].st_gid && st.st_size == SIZE,
      "%s: mode %o, owner %u, size %ld", cases[i].name, st.st_mode, st.st_uid, (long)st.st_size);
  check(fcntl(fds[i], F_GET_SEALS) == seals[i], "%s: the seals are %x, were %x", cases[i].name, (unsigned)fcntl(fds[i], F_GET_SEALS),
      (unsigned)seals[i]);
  (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fds[i]);
  (void)snprintf(want, sizeof want, "/memfd:%s (deleted)", cases[i].name);
  check(readlink(link, got, sizeof got - 1) > 0 && strcmp(got, want) == 0, "it is called %s instead of %s", got, want);
}

static void verify_holes(void) {
  unsigned char page[PAGE];
  struct stat st;
  check_call(fstat(holes, &st) == 0);
  check(st.st_size == (off_t)1 << 32 && st.st_blocks * 512 == 5 * PAGE, "%ld bytes in %ld blocks", (long)st.st_size, (long)st.st_blocks);
  check_call(pread(read_only, page, PAGE, 7 * PAGE) == PAGE);
  verify("before the hole", page, 57);
  check_call(pread(read_only, page, PAGE, (off_t)3 << 30) == PAGE);
  verify("far away", page, 60);
  check(lseek(holes, 0, SEEK_HOLE) == 2 * PAGE && lseek(holes, 2 * PAGE, SEEK_DATA) == 6 * PAGE, "the hole is elsewhere");
  check(write(read_only, "x", 1) < 0 && errno == EBADF, "it can be written to");
  check(fcntl(appending, F_GETFL) == (O_WRONLY | O_APPEND | O_NONBLOCK | O_LARGEFILE) || fcntl(appending, F_GETFL) == (O_WRONLY | O_APPEND | O_NONBLOCK | 0100000),
      "flags %o", (unsigned)fcntl(appending, F_GETFL));
  check(read(path_only, page, 1) < 0 && errno == EBADF, "O_PATH can be read");
  struct stat other;
  check_call(fstat(path_only, &other) == 0);
  check(other.st_ino == st.st_ino, "they are several memfds now");
}

static void verify_mappings(void) {
  for (unsigned i = 0; i < PAGES - 1; i++) /* the child writes to the last one */
    verify("shared", shared + i * PAGE, 80 + i);
  verify("private, its own", private + PAGE, 120);
  verify("private", private + 3 * PAGE, 87);
  verify("read only", mapped_only, 86);
  verify("written before the seal", future, 9);
  verify("mapped after the seal", future_read, 9);
  verify("sealed", written_once, 8);
}

/* A program that lies in a memfd (fexecve(3)), as container runtimes do it; with a child. */
static int run_program(char **argv) {
  extern char **environ;
  if (!getenv("MEMFDS_PROGRAM")) {
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), copy = (int)syscall(SYS_memfd_create, "program", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct stat st;
    check_call(program >= 0 && copy >= 0 && fstat(program, &st) == 0);
    for (off_t at = 0; at < st.st_size;)
      check_call(sendfile(copy, program, &at, (size_t)(st.st_size - at)) > 0);
    check_call(fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    check_call(setenv("MEMFDS_PROGRAM", "1", 1) == 0 && fexecve(copy, argv, environ) == 0);
  }
  pid_t child = fork();
  check_call(child >= 0);
  if (child)
    subject_ready();
  while (!subject_checking())
    subject_tick();
  char link[256] = "";
  int status = 0;
  check(readlink("/proc/self/exe", link, sizeof link - 1) > 0 && strcmp(link, "/memfd:program (deleted)") == 0, "the program is %s", link);
  if (!child)
    _exit(0);
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  char *again[] = {argv[0], NULL};
  child = fork();
  if (child == 0) /* says how it is used, and ends */
    _exit(execv("/proc/self/exe", again) < 0 ? 99 : 0);
  check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 2, "it cannot be run: %x", status);
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  if (argc > 2)
    return run_program(argv);
  for (unsigned i = 0; i < N; i++)
    fds[i] = make_one(i);
  make_holes();
  make_mappings();
  pid_t child = fork();
  check_call(child >= 0);
  if (child)
    subject_ready();
  while (!subject_checking())
    subject_tick();
  for (unsigned i = 0; i < N; i++)
    verify_one(i);
  verify_mappings();
  if (child == 0) {
    shared[15 * PAGE] = 0xaa;
    future[PAGE] = 0xbb;
    _exit(0);
  }
  int status = 0;
  check(lseek(read_only, 0, SEEK_CUR) == 77 && lseek(holes, 0, SEEK_CUR) == 99, "positions differ");
  verify_holes();
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  check(shared[15 * PAGE] == 0xaa && future[PAGE] == 0xbb, "it is not shared any more");
  check(mmap(NULL, PAGE, RW, MAP_SHARED, fds[9], 0) == MAP_FAILED && errno == EPERM, "a sealed one is mapped for writing");
  return subject_pass();
}

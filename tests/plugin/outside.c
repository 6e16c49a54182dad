/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A program with objects that only a plugin can bring back. Arguments after BASE: unix=PATH (a connection to the echo
 * server there), file=PATH (whose content comes back), device, perf (with a mapping), memory (which comes back as its
 * complement), fork. */

#include "subject.h"
#include <sched.h>
#include <sys/mount.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#define UNIX_FD 40
#define DEVICE_FD 41
#define PERF_FD 42
#define FILE_FD 43
#define MEMORY_AT ((unsigned char *)0x600000000000u)
#define MEMORY_SIZE (1u << 20)

static bool has_unix, has_device, has_perf, has_memory, has_fork, is_cut, has_mounts, has_file;
static volatile struct perf_event_mmap_page *perf_page;

static void place(int fd, int number) {
  check_call(fd >= 0 && dup3(fd, number, O_CLOEXEC) == number && close(fd) == 0);
}

static void setup_unix(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  (void)snprintf(a.sun_path, sizeof a.sun_path, "%.107s", path);
  int fd = socket(AF_UNIX, strstr(path, ".seqpacket") ? SOCK_SEQPACKET : SOCK_STREAM, 0);
  check_call(connect(fd, (const struct sockaddr *)&a, sizeof a) == 0);
  const struct timeval patience = {.tv_sec = 7};
  check_call(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
  place(fd, UNIX_FD);
}

static void setup_perf(void) {
  struct perf_event_attr attr = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK, .disabled = 1};
  int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
  if (fd < 0)
    subject_skip("no perf events here");
  place(fd, PERF_FD);
  perf_page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, PERF_FD, 0);
  check_call(perf_page != MAP_FAILED);
}

static void setup_memory(void) {
  check_call(mmap(MEMORY_AT, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
                 0) == MEMORY_AT);
  memset(MEMORY_AT, 0x5a, MEMORY_SIZE);
  check_call(mprotect(MEMORY_AT, MEMORY_SIZE, PROT_READ) == 0);
}

static void verify_unix(void) {
  char text[8] = "";
  struct timeval patience = {0};
  socklen_t size = sizeof patience;
  check_call(getsockopt(UNIX_FD, SOL_SOCKET, SO_RCVTIMEO, &patience, &size) == 0);
  check(patience.tv_sec == 7, "the time-out of the socket is %ld", (long)patience.tv_sec);
  if (is_cut) {
    check(read(UNIX_FD, text, 1) == 0, "the other end of the socket is not closed");
    return;
  }
  check_call(write(UNIX_FD, "ping", 4) == 4);
  check(read(UNIX_FD, text, 4) == 4 && strcmp(text, "pong") == 0, "the server answers '%s'", text);
}

static void verify_device(void) {
  struct stat st;
  check_call(fstat(DEVICE_FD, &st) == 0);
  check(S_ISCHR(st.st_mode) && major(st.st_rdev) == 10 && minor(st.st_rdev) == 237, "the device is another one");
  check(fcntl(DEVICE_FD, F_GETFL) & O_NONBLOCK, "the device has lost its flags");
  check(fcntl(DEVICE_FD, F_GETFD) == FD_CLOEXEC, "the device has lost close-on-exec");
}

static void verify_file(void) {
  char text[32] = "";
  check_call(pread(FILE_FD, text, sizeof text - 1, 0) >= 0);
  check(strcmp(text, "kept content") == 0, "the file has '%s'", text);
}

static void verify_perf(void) {
  char link[64] = "";
  check_call(readlink("/proc/self/fd/42", link, sizeof link - 1) > 0);
  check(strcmp(link, "anon_inode:[perf_event]") == 0, "fd 42 is %s", link);
  check(perf_page->size > 0, "the page of the counter is empty");
}

static void verify_memory(void) {
  for (unsigned i = 0; i < MEMORY_SIZE; i++)
    check(MEMORY_AT[i] == (i < 4096 ? 0 : 0xa5), "byte %u of the memory is %02x", i, MEMORY_AT[i]);
  char *maps = subject_read("/proc/self/maps", NULL);
  check(strstr(maps, "600000000000-600000100000 r--p"), "the memory has other rights");
  free(maps);
}

/* --- mounts: a directory and a file from outside, at other places --- */

static const char *below(const char *name) {
  static char paths[4][4096];
  static int turn;
  char *path = paths[turn++ % 4];
  (void)snprintf(path, 4096, "%.3000s.d/%.500s", subject_base, name);
  return path;
}

static void write_text(const char *path, const char *text) {
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  check_call(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void setup_mounts(void) {
  static const char *const names[] = {"", "a", "b", "plugged-a", "plugged-b"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    check_call(mkdir(below(names[i]), 0755) == 0);
  write_text(below("a/text"), "a");
  write_text(below("b/text"), "b");
  write_text(below("c"), "c");
  write_text(below("plugged-c"), "covered");
  check_call(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
  check_call(mount(below("a"), below("plugged-a"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(below("b"), below("plugged-b"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(NULL, below("plugged-b"), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
  check_call(mount(below("c"), below("plugged-c"), NULL, MS_BIND, NULL) == 0);
}

static void verify_text(const char *name, const char *text) {
  char *is = subject_read(below(name), NULL);
  check(strcmp(is, text) == 0, "%s has \"%s\", not \"%s\"", name, is, text);
  free(is);
}

static void verify_mounts(void) {
  verify_text("plugged-a/text", "a restored");
  verify_text("plugged-b/text", "b restored");
  verify_text("plugged-c", "c restored");
  check(open(below("plugged-b/text"), O_WRONLY) < 0 && errno == EROFS, "the second mount is not read-only");
  check(open(below("plugged-a/text"), O_WRONLY) >= 0, "the first mount is read-only");
}

static void verify(void) {
  if (has_unix)
    verify_unix();
  if (has_device)
    verify_device();
  if (has_perf)
    verify_perf();
  if (has_memory)
    verify_memory();
  if (has_mounts)
    verify_mounts();
  if (has_file)
    verify_file();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  for (int i = 2; i < argc; i++) {
    if (strncmp(argv[i], "unix=", 5) == 0)
      has_unix = true, setup_unix(argv[i] + 5);
    if (strncmp(argv[i], "file=", 5) == 0)
      has_file = true, place(open(argv[i] + 5, O_RDONLY), FILE_FD);
    has_device |= strcmp(argv[i], "device") == 0;
    has_perf |= strcmp(argv[i], "perf") == 0;
    has_memory |= strcmp(argv[i], "memory") == 0;
    has_fork |= strcmp(argv[i], "fork") == 0;
    is_cut |= strcmp(argv[i], "cut") == 0;
    has_mounts |= strcmp(argv[i], "mounts") == 0;
  }
  if (has_mounts)
    setup_mounts();
  if (has_device)
    place(open("/dev/loop-control", O_RDONLY | O_NONBLOCK), DEVICE_FD);
  if (has_perf)
    setup_perf();
  if (has_memory)
    setup_memory();
  pid_t child = has_fork ? fork() : 0;
  check_call(child >= 0);
  if (has_fork && child == 0) {
    has_perf = false; /* the kernel keeps that mapping from children */
    while (!subject_checking())
      subject_tick();
    verify();
    _exit(0);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  int status = 0;
  if (has_fork)
    check(waitpid(child, &status, 0) == child && status == 0, "the child failed");
  verify();
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Every kind of mapping, with its content, its protection, its flags, and what may be done with it afterwards. */

#include "subject.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

enum { PAGE = 4096, PAGES = 64, SIZE = PAGE * PAGES };

static char file_path[4096];
static int file_fd = -1;
static uint8_t *heap_end;

static uint8_t pattern(int seed, size_t at) {
  return (uint8_t)(seed * 37 + at * 11 + (at >> 12) * 101 + 3);
}

static void fill(uint8_t *p, int seed, size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    p[i] = pattern(seed, i);
}

static void verify(const char *what, const uint8_t *p, int seed, size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    check(p[i] == pattern(seed, i), "%s: byte %zu of page %zu is %02x, not %02x", what, i % PAGE, i / PAGE, p[i],
        pattern(seed, i));
}

static void verify_zero(const char *what, const uint8_t *p, size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    check(p[i] == 0, "%s: byte %zu of page %zu is %02x, not 0", what, i % PAGE, i / PAGE, p[i]);
}

static uint8_t *map(size_t size, int prot, int flags, int fd, off_t offset) {
  uint8_t *p = mmap(NULL, size, prot, flags, fd, offset);
  check(p != MAP_FAILED, "mmap: %s", strerror(errno));
  return p;
}

enum { RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static uint8_t *anon, *sparse, *relro, *file_private, *file_shared, *file_tail, *shared, *shared_moved, *memfd_shared,
    *memfd_private, *zero_private, *zero_shared, *none, *code, *grows, *locked, *locked_onfault, *guarded, *deleted,
    *read_only, *executable_only, *huge, *no_fork, *wipe, *no_dump, *mergeable, *random_order, *noreserve;

/* --- setting up --- */

static void make_file(void) {
  uint8_t *content = malloc(SIZE);
  (void)snprintf(file_path, sizeof file_path, "%s.file", subject_base);
  file_fd = open(file_path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  fill(content, 1, 0, SIZE);
  check_call(file_fd >= 0 && write(file_fd, content, SIZE) == SIZE);
  free(content);
}

static void make_file_mappings(void) {
  make_file();
  file_private = map(SIZE, RW, MAP_PRIVATE, file_fd, 0);
  fill(file_private, 2, 5 * PAGE, 9 * PAGE + 100);
  file_shared = map(SIZE / 2, RW, MAP_SHARED, file_fd, SIZE / 2);
  /* Written to, and then made read-only, as dynamic linkers do. */
  relro = map(4 * PAGE, RW, MAP_PRIVATE, file_fd, 0);
  fill(relro, 3, PAGE, 2 * PAGE);
  check_call(mprotect(relro, 4 * PAGE, PROT_READ) == 0);
  /* Reaches over the end of the file. */
  file_tail = map(4 * PAGE, RW, MAP_PRIVATE, file_fd, SIZE - 2 * PAGE);
  char path[4200];
  (void)snprintf(path, sizeof path, "%s.deleted", subject_base);
  int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  check_call(fd >= 0 && ftruncate(fd, 8 * PAGE) == 0 && unlink(path) == 0);
  deleted = map(8 * PAGE, RW, MAP_SHARED, fd, 0);
  fill(deleted, 4, 2 * PAGE, 6 * PAGE);
  (void)close(fd);
}

static void make_shared_mappings(void) {
  shared = map(SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fill(shared, 5, 3 * PAGE, 40 * PAGE);
  /* The same memory once more, from its eighth page on, somewhere else. */
  shared_moved = mremap(shared + 8 * PAGE, 0, 16 * PAGE, MREMAP_MAYMOVE);
  check_call(shared_moved != MAP_FAILED);
  int fd = (int)syscall(SYS_memfd_create, "subject memory", MFD_CLOEXEC);
  check_call(fd >= 0 && ftruncate(fd, SIZE) == 0);
  memfd_shared = map(SIZE, RW, MAP_SHARED, fd, 0);
  fill(memfd_shared, 6, 0, 20 * PAGE);
  memfd_private = map(SIZE, RW, MAP_PRIVATE, fd, 0);
  fill(memfd_private, 7, 10 * PAGE, 12 * PAGE);
  (void)close(fd);
  int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
  check_call(zero >= 0);
  zero_private = map(8 * PAGE, RW, MAP_PRIVATE, zero, 0);
  fill(zero_private, 8, PAGE, 3 * PAGE);
  zero_shared = map(8 * PAGE, RW, MAP_SHARED, zero, 0);
  fill(zero_shared, 9, PAGE, 3 * PAGE);
  (void)close(zero);
}

static uint8_t *advised(int advice, int seed) {
  uint8_t *p = map(SIZE, RW, ANON, -1, 0);
  check(madvise(p, SIZE, advice) == 0 || errno == EINVAL, "madvise %d: %s", advice, strerror(errno));
  fill(p, seed, 0, 8 * PAGE);
  return p;
}

static void make_private_mappings(void) {
  anon = map(SIZE, RW, ANON, -1, 0);
  fill(anon, 10, 0, SIZE);
  sparse = map((size_t)1 << 30, RW, ANON | MAP_NORESERVE, -1, 0);
  for (size_t i = 0; i < 16; i++)
    fill(sparse + (i << 26), 11, 0, PAGE);
  /* Touched by reading only. */
  for (size_t i = 0; i < 64; i++)
    check(((volatile uint8_t *)sparse)[(i << 20) + 2 * PAGE] == 0, "new memory is not zero");
  none = map(SIZE, RW, ANON, -1, 0);
  fill(none, 12, 0, SIZE);
  check_call(mprotect(none, SIZE, PROT_NONE) == 0);
  read_only = map(SIZE, RW, ANON, -1, 0);
  fill(read_only, 13, 0, SIZE);
  check_call(mprotect(read_only + 4 * PAGE, 8 * PAGE, PROT_READ) == 0);
  static const uint8_t instructions[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
  code = map(PAGE, RW, ANON, -1, 0);
  memcpy(code, instructions, sizeof instructions);
  check_call(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);
  executable_only = map(PAGE, RW, ANON, -1, 0);
  memcpy(executable_only, instructions, sizeof instructions);
  check_call(mprotect(executable_only, PAGE, PROT_EXEC) == 0);
  noreserve = map(SIZE, RW, ANON | MAP_NORESERVE, -1, 0);
  fill(noreserve, 14, 0, PAGE);
}

static void make_special_mappings(void) {
  /* Far from everything: the kernel keeps a gap below what grows. */
  uintptr_t far = sizeof far == 8 ? (uintptr_t)0x200000000000ULL : 0x20000000;
  grows = mmap((void *)far, 2 * PAGE, RW, ANON | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
  check_call(grows != MAP_FAILED);
  fill(grows, 15, 0, 2 * PAGE);
  locked = map(8 * PAGE, RW, ANON, -1, 0);
  locked_onfault = map(8 * PAGE, RW, ANON, -1, 0);
  check_call(mlock(locked, 8 * PAGE) == 0 && syscall(SYS_mlock2, locked_onfault, 8 * PAGE, MLOCK_ONFAULT) == 0);
  fill(locked, 16, 0, 8 * PAGE);
  fill(locked_onfault, 17, 0, 2 * PAGE);
  guarded = map(SIZE, RW, ANON, -1, 0);
  fill(guarded, 18, 0, SIZE);
  if (madvise(guarded + 4 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL) != 0)
    guarded = NULL;
  huge = advised(MADV_HUGEPAGE, 19);
  no_fork = advised(MADV_DONTFORK, 20);
  wipe = advised(MADV_WIPEONFORK, 21);
  no_dump = advised(MADV_DONTDUMP, 22);
  mergeable = advised(MADV_MERGEABLE, 23);
  random_order = advised(MADV_RANDOM, 24);
}

/* --- verifying --- */

static void verify_contents(void) {
  verify("private anonymous", anon, 10, 0, SIZE);
  for (size_t i = 0; i < 16; i++)
    verify("sparse", sparse + (i << 26), 11, 0, PAGE);
  verify_zero("sparse", sparse, PAGE, 1 << 20);
  verify("private file", file_private, 1, 0, 5 * PAGE);
  verify("private file, written", file_private, 2, 5 * PAGE, 9 * PAGE + 100);
  verify("private file", file_private, 1, 9 * PAGE + 100, SIZE);
  verify("read-only after writing", relro, 1, 0, PAGE);
  verify("read-only after writing", relro, 3, PAGE, 2 * PAGE);
  verify("deleted file", deleted, 4, 2 * PAGE, 6 * PAGE);
  verify_zero("deleted file", deleted, 0, 2 * PAGE);
  verify_zero("shared anonymous", shared, 0, 3 * PAGE);
  verify("shared anonymous", shared, 5, 3 * PAGE, 40 * PAGE);
  check(!memcmp(shared_moved, shared + 8 * PAGE, 16 * PAGE), "two mappings of the same memory differ");
  verify("shared memfd", memfd_shared, 6, 0, 20 * PAGE);
  verify("private memfd", memfd_private, 6, 0, 10 * PAGE);
  verify("private memfd, written", memfd_private, 7, 10 * PAGE, 12 * PAGE);
  verify("private memfd", memfd_private, 6, 12 * PAGE, 20 * PAGE);
  verify("/dev/zero, private", zero_private, 8, PAGE, 3 * PAGE);
  verify("/dev/zero, shared", zero_shared, 9, PAGE, 3 * PAGE);
  verify("partly read-only", read_only, 13, 0, SIZE);
  verify("no reserve", noreserve, 14, 0, PAGE);
  verify("grows down", grows, 15, 0, 2 * PAGE);
  verify("locked", locked, 16, 0, 8 * PAGE);
  verify("locked on fault", locked_onfault, 17, 0, 2 * PAGE);
  uint8_t *const advices[] = {huge, no_fork, wipe, no_dump, mergeable, random_order};
  for (int i = 0; i < 6; i++)
    verify("advised", advices[i], 19 + i, 0, 8 * PAGE);
}

/* True if the kernel can read the byte there for us; no signal handlers needed. */
static bool readable(const uint8_t *p) {
  int ends[2];
  check_call(pipe2(ends, O_CLOEXEC) == 0);
  ssize_t n = write(ends[1], p, 1);
  check(n == 1 || errno == EFAULT, "write: %s", strerror(errno));
  (void)close(ends[0]);
  (void)close(ends[1]);
  return n == 1;
}

static void verify_protections(void) {
  check(!readable(none) && !readable(none + SIZE - 1), "PROT_NONE can be read");
  check_call(mprotect(none, SIZE, PROT_READ) == 0);
  verify("PROT_NONE before", none, 12, 0, SIZE);
  check(((int (*)(void))code)() == 42 && ((int (*)(void))executable_only)() == 42, "code does not run");
  for (int i = 0; guarded && i < PAGES; i++)
    check(readable(guarded + i * PAGE) == (i < 4 || i > 6), "page %d of the guarded range: %d", i,
        readable(guarded + i * PAGE));
  if (guarded) {
    verify("before the guard", guarded, 18, 0, 4 * PAGE);
    verify("after the guard", guarded, 18, 7 * PAGE, SIZE);
  }
  check(readable(file_tail + PAGE) && !readable(file_tail + 3 * PAGE), "the mapping ends elsewhere than its file");
}

static void verify_sharing(void) {
  fill(shared_moved, 30, 0, PAGE);
  verify("through the other mapping", shared + 8 * PAGE, 30, 0, PAGE);
  uint8_t byte;
  file_shared[77] = 0xaa;
  check(
      pread(file_fd, &byte, 1, SIZE / 2 + 77) == 1 && byte == 0xaa, "a shared file mapping does not write to the file");
  byte = 0xbb;
  check(pwrite(file_fd, &byte, 1, SIZE / 2 + 78) == 1 && file_shared[78] == 0xbb,
      "a shared file mapping does not see the file");
  byte = 0xcc;
  check(
      pwrite(file_fd, &byte, 1, 12 * PAGE) == 1 && file_private[12 * PAGE] == 0xcc, "a private mapping lost its file");
  memfd_shared[15 * PAGE] ^= 0xff;
  check(memfd_private[15 * PAGE] == memfd_shared[15 * PAGE], "the private mapping of the memfd is of another one");
}

static int forked(const char **ret_what) {
  pid_t pid = fork();
  int status = 0;
  if (pid == 0) {
    if (readable(no_fork))
      _exit(1);
    for (int i = 0; i < 8 * PAGE; i++)
      if (wipe[i])
        _exit(2);
    for (int i = 0; i < 8 * PAGE; i++)
      if (anon[i] != pattern(10, (size_t)i) || huge[i] != pattern(19, (size_t)i))
        _exit(3);
    _exit(0);
  }
  static const char *const what[] = {"", "has memory marked DONTFORK", "has memory marked WIPEONFORK", "lacks memory"};
  check_call(waitpid(pid, &status, 0) == pid);
  *ret_what = WIFEXITED(status) ? what[WEXITSTATUS(status) & 3] : "died";
  return status;
}

static size_t deep(size_t bytes) {
  volatile uint8_t room[PAGE];
  room[0] = (uint8_t)bytes;
  return bytes <= PAGE ? room[0] : deep(bytes - PAGE) + room[0];
}

static void verify_growth(void) {
  for (int i = 1; i <= 16; i++)
    grows[-i * PAGE] = (uint8_t)i;
  (void)deep(4 << 20);
  check(sbrk(0) == heap_end, "the break is at %p, was at %p", sbrk(0), (void *)heap_end);
  check(sbrk(16 * PAGE) == heap_end, "the heap cannot grow: %s", strerror(errno));
  fill(heap_end, 31, 0, 16 * PAGE);
  verify("grown heap", heap_end, 31, 0, 16 * PAGE);
  for (int i = 1; i < 2000; i++) {
    uint8_t *p = malloc((size_t)i * 97);
    check_call(p != NULL);
    memset(p, i, (size_t)i * 97);
    if (i % 3)
      free(p);
  }
}

static int64_t nsec_of(struct timespec time) {
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void verify_vdso(void) {
  for (int i = 0; i < 100; i++) {
    struct timespec before, fast, after;
    check_call(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before) == 0 && clock_gettime(CLOCK_MONOTONIC, &fast) == 0 &&
               syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after) == 0);
    check(nsec_of(before) <= nsec_of(fast) && nsec_of(fast) <= nsec_of(after), "the vdso says %ld ns, between %ld and %ld", (long)nsec_of(fast),
        (long)nsec_of(before), (long)nsec_of(after));
    struct timeval now;
    check_call(syscall(SYS_clock_gettime, CLOCK_REALTIME, &before) == 0 && gettimeofday(&now, NULL) == 0);
    time_t seconds = time(NULL);
    check_call(syscall(SYS_clock_gettime, CLOCK_REALTIME, &after) == 0);
    check(before.tv_sec <= now.tv_sec && now.tv_sec <= after.tv_sec, "gettimeofday is off");
    check(before.tv_sec - 1 <= seconds && seconds <= after.tv_sec, "time is off");
  }
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  make_file_mappings();
  make_shared_mappings();
  make_private_mappings();
  make_special_mappings();
  free(malloc(100));
  heap_end = sbrk(0);
  subject_ready();
  while (!subject_checking() && !subject_failed()) {
    verify_contents();
    subject_tick();
  }
  const char *what;
  verify_contents();
  verify_protections();
  verify_sharing();
  int status = forked(&what);
  check(status == 0, "a forked child %s (%x)", what, status);
  verify_growth();
  verify_vdso();
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the kernel keeps about mappings beyond their protection and advice; a child shares them, copy on write.
 *   flags    droppable and sealed memory, policies of NUMA, names, the ends of the address space, what prctl(2) says
 *   future   mlockall(MCL_FUTURE), and no new code (PR_SET_MDWE)
 *   onfault  mlockall(MCL_FUTURE | MCL_ONFAULT)
 *   many     10,000 mappings
 *   pkeys    memory protection keys, one given back between two others */

#include "subject.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SYS_mseal_ 462
#define MAP_DROPPABLE_ 8
#define PR_SET_MDWE_ 65
#define PR_GET_MDWE_ 66
#define PR_SET_MEMORY_MERGE_ 67
#define PR_GET_MEMORY_MERGE_ 68
#define THP_EXCEPT_ADVISED 2
#define PR_SET_VMA_ 0x53564d61
#define MPOL_PREFERRED_ 1
#define MPOL_BIND_ 2
#define MPOL_F_STATIC_ (1 << 15)
#define MPOL_F_ADDR_ 2

enum { PAGE = 4096, PAGES = 16, SIZE = PAGE * PAGES, RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };
#define TOP ((unsigned char *)0x7fffffffe000)

static unsigned char *droppable, *sealed, *sealed_read, *bound, *named, *before_mdwe, *merged, *unmerged;
static bool is_child, has_mdwe, has_thp_flags, has_merge, has_name;

static void fill(volatile unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    p[i] = (unsigned char)(i * 7 + seed);
}

static void verify(const char *what, const volatile unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    check(p[i] == (unsigned char)(i * 7 + seed), "%s: byte %zu is %02x", what, i, p[i]);
}

static unsigned char *map_at(void *at, size_t size, int flags) {
  unsigned char *p = mmap(at, size, RW, flags | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static unsigned char *map(unsigned seed) {
  unsigned char *p = map_at(NULL, SIZE, ANON);
  check_call(p != NULL);
  fill(p, seed);
  return p;
}

/* VmFlags of the mapping that begins at @p. */
static bool has_flag(const void *p, const char *flag) {
  char start[32], flags[8];
  (void)snprintf(start, sizeof start, "%lx-", (unsigned long)p);
  (void)snprintf(flags, sizeof flags, " %s", flag);
  char *text = subject_read("/proc/self/smaps", NULL), *at = strstr(text, start);
  at = at ? strstr(at, "VmFlags:") : NULL;
  char *end = at ? strchr(at, '\n') : NULL;
  check(end, "no mapping begins at %p", p);
  *end = 0;
  bool found = strstr(at, flags);
  free(text);
  return found;
}

/* --- flags --- */

static volatile unsigned char *at_zero(void) {
  volatile uintptr_t zero = 0;
  return (volatile unsigned char *)zero;
}

static void make_flags(void) {
  droppable = map_at(NULL, SIZE, MAP_DROPPABLE_ | MAP_ANONYMOUS);
  if (droppable)
    fill(droppable, 1);
  sealed = map(2);
  sealed_read = map(3);
  check_call(mprotect(sealed_read, SIZE, PROT_READ) == 0);
  if (syscall(SYS_mseal_, sealed, SIZE, 0) < 0 || syscall(SYS_mseal_, sealed_read, SIZE, 0) < 0)
    sealed = NULL;
  unsigned long node = 1;
  bound = map(4);
  check_call(syscall(SYS_mbind, bound, SIZE, MPOL_BIND_ | MPOL_F_STATIC_, &node, 64ul, 0) == 0);
  check_call(syscall(SYS_set_mempolicy, MPOL_PREFERRED_, &node, 64ul) == 0);
  named = map(5);
  has_name = prctl(PR_SET_VMA_, 0, named, SIZE, "a name: of mine") == 0;
  check_call(mmap(NULL, PAGE, RW, ANON | MAP_FIXED, -1, 0) == NULL);
  fill(at_zero(), 6);
  check_call(map_at(TOP, PAGE, ANON) == TOP);
  fill(TOP, 7);
  has_thp_flags = prctl(PR_SET_THP_DISABLE, 1, THP_EXCEPT_ADVISED, 0, 0) == 0;
  if (!has_thp_flags)
    check_call(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
  merged = map(8);
  unmerged = map(9);
  has_merge = prctl(PR_SET_MEMORY_MERGE_, 1, 0, 0, 0) == 0;
  if (has_merge)
    check_call(madvise(unmerged, SIZE, MADV_UNMERGEABLE) == 0);
}

static void verify_flags(void) {
  if (droppable && !is_child)
    verify("droppable", droppable, 1); /* nobody is short of memory here */
  if (droppable && is_child) /* that kind is wiped by fork(2) */
    check(droppable[0] == 0, "droppable memory of the child is %x", droppable[0]);
  if (sealed) {
    verify("sealed", sealed, 2);
    verify("sealed", sealed_read, 3);
    check(munmap(sealed, SIZE) < 0 && errno == EPERM, "a seal is broken");
    check(mprotect(sealed_read, SIZE, RW) < 0 && errno == EPERM, "a seal is broken");
  }
  unsigned long nodes = 0;
  int mode = 0;
  verify("bound", bound, 4);
  check_call(syscall(SYS_get_mempolicy, &mode, &nodes, 64ul, bound, MPOL_F_ADDR_) == 0);
  check(mode == (MPOL_BIND_ | MPOL_F_STATIC_) && nodes == 1, "its policy is %x, its nodes %lx", mode, nodes);
  check_call(syscall(SYS_get_mempolicy, &mode, &nodes, 64ul, sealed_read, MPOL_F_ADDR_) == 0);
  check(mode == 0, "a mapping without a policy has got %x", mode);
  check_call(syscall(SYS_get_mempolicy, &mode, &nodes, 64ul, NULL, 0) == 0);
  check(mode == MPOL_PREFERRED_ && nodes == 1, "the thread's policy is %x, its nodes %lx", mode, nodes);
  verify("named", named, 5);
  char *maps = subject_read("/proc/self/maps", NULL);
  check(!has_name || strstr(maps, "[anon:a name: of mine]"), "the name is gone");
  free(maps);
  verify("address 0", at_zero(), 6);
  verify("the last page", TOP, 7);
  int thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
  check(thp == (has_thp_flags ? 1 | THP_EXCEPT_ADVISED : 1), "huge pages are disabled: %d", thp);
  if (has_merge) {
    check(prctl(PR_GET_MEMORY_MERGE_, 0, 0, 0, 0) == 1, "memory is not to be merged any more");
    check(has_flag(merged, "mg") && !has_flag(unmerged, "mg"), "other mappings are to be merged");
  }
}

/* --- future --- */

static void make_future(int onfault) {
  before_mdwe = mmap(NULL, SIZE, RW | PROT_EXEC, ANON, -1, 0);
  check_call(before_mdwe != MAP_FAILED);
  memcpy(before_mdwe, "\xb8\x2a\0\0\0\xc3", 6); /* return 42 */
  check_call(mlockall(MCL_FUTURE | onfault) == 0);
  if (!onfault)
    has_mdwe = prctl(PR_SET_MDWE_, 1, 0, 0, 0) == 0;
}

static void verify_future(int onfault) {
  unsigned char *p = map(10);
  check(has_flag(p, "lo") && (has_flag(p, "lf") || has_flag(p, "??")) == (onfault != 0), "new memory is locked otherwise");
  check(!has_flag(before_mdwe, "lo"), "old memory is locked now");
  check_call(munmap(p, SIZE) == 0);
  check(((int (*)(void))before_mdwe)() == 42, "code does not run");
  if (!has_mdwe)
    return;
  check(prctl(PR_GET_MDWE_, 0, 0, 0, 0) == 1, "PR_GET_MDWE gives %d", prctl(PR_GET_MDWE_, 0, 0, 0, 0));
  check(mmap(NULL, PAGE, RW | PROT_EXEC, ANON, -1, 0) == MAP_FAILED && errno == EACCES, "new code can be made");
}

/* --- many --- */

enum { MANY = 10000 };
static unsigned char *many;

static void make_many(void) {
  many = map_at(NULL, 2ul * MANY * PAGE, ANON | MAP_NORESERVE);
  check_call(many != NULL);
  for (size_t i = 0; i < MANY; i++) {
    check_call(mprotect(many + 2 * i * PAGE, PAGE, PROT_READ) == 0);
    if (i % 100 == 0)
      many[(2 * i + 1) * PAGE] = (unsigned char)(i / 100 + 1);
  }
}

static void verify_many(void) {
  for (size_t i = 0; i < MANY; i++)
    check(many[(2 * i + 1) * PAGE] == (i % 100 ? 0 : i / 100 + 1), "page %zu differs", i);
}

/* --- pkeys --- */

static int keys[3];
static unsigned char *kept[3];

/* Through the kernel, which goes by the thread's rights, too. */
static bool readable(const void *p) {
  int ends[2];
  check_call(pipe2(ends, O_CLOEXEC) == 0);
  bool ok = write(ends[1], p, 1) == 1;
  check_call((ok || errno == EFAULT) && close(ends[0]) == 0 && close(ends[1]) == 0);
  return ok;
}

static unsigned char *code_only;

static void make_pkeys(void) {
  /* the kernel has a key of its own for what can only be run */
  code_only = map(40);
  memcpy(code_only, "\xb8\x2a\0\0\0\xc3", 6); /* return 42 */
  check_call(mprotect(code_only, SIZE, PROT_EXEC) == 0);
  for (int i = 0; i < 3; i++) {
    keys[i] = pkey_alloc(0, 0);
    if (keys[i] < 0)
      subject_skip("this CPU has no memory protection keys");
    kept[i] = map(30 + (unsigned)i);
    check_call(i == 1 || pkey_mprotect(kept[i], SIZE, RW, keys[i]) == 0);
  }
  check_call(pkey_free(keys[1]) == 0 && pkey_set(keys[0], PKEY_DISABLE_ACCESS) == 0 && pkey_set(keys[2], PKEY_DISABLE_WRITE) == 0);
}

static void verify_pkeys(void) {
  check(pkey_get(keys[0]) == PKEY_DISABLE_ACCESS && pkey_get(keys[2]) == PKEY_DISABLE_WRITE, "the rights are %d, %d", pkey_get(keys[0]),
      pkey_get(keys[2]));
  check(!readable(kept[0]) && readable(kept[1]) && readable(kept[2]), "other memory can be read");
  check(!readable(code_only) && ((int (*)(void))code_only)() == 42, "code can be read, or not be run");
  check_call(pkey_set(keys[0], 0) == 0);
  for (unsigned i = 0; i < 3; i++)
    verify("keyed", kept[i], 30 + i);
  int next = pkey_alloc(0, 0);
  check(next == keys[1], "the next key is %d, not %d", next, keys[1]);
}

/* --- */

static const char *mode;

static void make(void) {
  if (strcmp(mode, "flags") == 0)
    make_flags();
  else if (strcmp(mode, "many") == 0)
    make_many();
  else if (strcmp(mode, "pkeys") == 0)
    make_pkeys();
  else
    make_future(strcmp(mode, "onfault") == 0 ? MCL_ONFAULT : 0);
}

static void verify_all(void) {
  if (strcmp(mode, "flags") == 0)
    verify_flags();
  else if (strcmp(mode, "many") == 0)
    verify_many();
  else if (strcmp(mode, "pkeys") == 0)
    verify_pkeys();
  else
    verify_future(strcmp(mode, "onfault") == 0 ? MCL_ONFAULT : 0);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  mode = argc > 2 ? argv[2] : "flags";
  make();
  pid_t child = fork(); /* what is to be locked in future is not inherited */
  check_call(child >= 0);
  if (child == 0) {
    is_child = true;
    if (strcmp(mode, "future") == 0 || strcmp(mode, "onfault") == 0)
      check_call(mlockall(MCL_FUTURE | (strcmp(mode, "onfault") == 0 ? MCL_ONFAULT : 0)) == 0);
    while (!subject_checking())
      subject_tick();
    verify_all();
    _exit(0);
  }
  subject_ready();
  while (!subject_checking())
    subject_tick();
  verify_all();
  int status = 0;
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  return subject_pass();
}

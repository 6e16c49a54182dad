/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Mappings as the kernel keeps them say what /proc/PID/smaps says, and what makes processes differ is seen. Needs root. */

#include "process-look.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, MANY = 1024, SIDES = 4 }; /* records that fit one read of the look, and some less and more */

typedef void SetUp(int arg);

static KernelTypes *types;
static ProcessLook *look;

static pid_t start(SetUp *set_up, int arg) {
  int ready[2];
  char byte;
  g_assert_cmpint(pipe2(ready, O_CLOEXEC), ==, 0);
  pid_t pid = fork();
  if (pid == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_up(arg);
    g_assert_cmpint(write(ready[1], "", 1), ==, 1);
    for (;;)
      (void)pause();
  }
  (void)close(ready[1]);
  g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
  (void)close(ready[0]);
  return pid;
}

static void end(pid_t pid) {
  g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
  g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void nothing(int unused) {
  (void)unused;
}

static unsigned char *map(size_t pages, int flags) {
  unsigned char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
  g_assert_true(p != MAP_FAILED);
  return p;
}

/* Each is separated from the next by a page nobody may touch. */
static void advise_all(int unused) {
  static const int advice[] = {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE,
      MADV_SEQUENTIAL, MADV_RANDOM};
  (void)unused;
  for (guint i = 0; i < 1u << G_N_ELEMENTS(advice); i++) {
    unsigned char *p = map(2, MAP_PRIVATE | MAP_ANONYMOUS);
    (void)mprotect(p + PAGE, PAGE, PROT_NONE);
    for (guint k = 0; k < G_N_ELEMENTS(advice); k++)
      if (i >> k & 1)
        (void)madvise(p, PAGE, advice[k]);
    if (i % 3 == 0)
      (void)mlock(p, PAGE);
    p[0] = 1;
  }
  (void)map(16, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
  (void)map(16, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  (void)map(16, MAP_SHARED | MAP_ANONYMOUS);
  (void)mlock2(map(16, MAP_PRIVATE | MAP_ANONYMOUS), 16 * PAGE, MLOCK_ONFAULT);
  (void)mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0); /* where there are some */
}

/* @n mappings in all, alternating ones. */
static void map_many(int n) {
  g_autoptr(GArray) have = proc_maps(getpid(), NULL);
  unsigned char *p = map((size_t)n + 2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  for (int i = (int)have->len - 1; i < n; i++)
    g_assert_cmpint(mprotect(p + (size_t)i * PAGE, PAGE, i & 1 ? PROT_READ : PROT_NONE), ==, 0);
}

static void compare(pid_t pid, guint at_least) {
  for (int i = 0; i < 2; i++) { /* the second time without the text */
    ProcessSight sight;
    bool seen = false;
    g_autoptr(GArray) ours = process_look_vmas(look, pid, &sight, &seen, NULL), theirs = proc_vmas(pid, NULL);
    g_assert_true(ours && theirs && seen);
    g_assert_cmpuint(ours->len, >=, at_least);
    g_assert_cmpuint(ours->len, ==, theirs->len);
    for (guint k = 0; k < ours->len; k++) {
      const ProcVma *a = &g_array_index(ours, ProcVma, k), *b = &g_array_index(theirs, ProcVma, k);
      g_assert_cmphex(a->start, ==, b->start);
      g_assert_cmphex(a->end, ==, b->end);
      g_assert_cmphex(a->flags, ==, b->flags);
      g_assert_cmpint(a->pkey, ==, b->pkey);
      g_assert_cmpstr(a->path, ==, b->path);
      if (b->flags & VMF_HUGETLB)
        g_assert_cmpuint(a->page_kb, ==, b->page_kb);
    }
  }
}

static void test_flags(void) {
  pid_t c = start(advise_all, 0);
  compare(c, 256);
  end(c);
}

static void test_many(void) {
  for (int n = MANY - SIDES; n <= MANY + SIDES; n++) {
    pid_t c = start(map_many, n);
    compare(c, (guint)n - 2);
    end(c);
  }
  for (int n = 3; n <= 5; n++) {
    pid_t c = start(map_many, n * MANY);
    compare(c, (guint)(n * MANY) - 2);
    end(c);
  }
}

static ProcessSight sight_of(pid_t pid) {
  ProcessSight s;
  bool seen = false;
  g_autoptr(GArray) vmas = process_look_vmas(look, pid, &s, &seen, NULL);
  g_assert_true(vmas && seen);
  return s;
}

static bool are_alike(SetUp *a, int arg_a, SetUp *b, int arg_b) {
  pid_t one = start(a, arg_a), other = start(b, arg_b);
  ProcessSight of_one = sight_of(one), of_other = sight_of(other);
  end(one);
  end(other);
  return memcmp(of_one.common, of_other.common, sizeof of_one.common) == 0;
}

static void unshare_it(int flags) {
  g_assert_cmpint(unshare(flags), ==, 0);
}

static void be_old(int unused) {
  (void)unused;
  g_assert_cmpint(personality(ADDR_NO_RANDOMIZE), >=, 0);
}

static void put_in(const char *file, const char *text) {
  int fd = open(file, O_WRONLY | O_CLOEXEC);
  g_assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  (void)close(fd);
}

static void adjust(int unused) {
  (void)unused;
  put_in("/proc/self/oom_score_adj", "77");
}

static void filter(int unused) {
  (void)unused;
  put_in("/proc/self/coredump_filter", "0x7f");
}

static void log_in(int unused) {
  (void)unused;
  put_in("/proc/self/loginuid", "4711");
}

static void test_differences(void) {
  g_assert_true(are_alike(nothing, 0, nothing, 0));
  static const int namespaces[] = {CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWPID, CLONE_NEWUSER};
  for (guint i = 0; i < G_N_ELEMENTS(namespaces); i++)
    g_assert_false(are_alike(nothing, 0, unshare_it, namespaces[i]));
  g_assert_false(are_alike(nothing, 0, be_old, 0));
  g_assert_false(are_alike(nothing, 0, adjust, 0));
  g_assert_false(are_alike(nothing, 0, filter, 0));
  g_autofree char *login = NULL;
  if (g_file_get_contents("/proc/self/loginuid", &login, NULL, NULL) && strcmp(login, "4294967295") == 0)
    g_assert_false(are_alike(nothing, 0, log_in, 0));
}

/* Who has unshared its children's pid namespace is not in it, and shares everything else with them. */
static void have_child(int report) {
  g_assert_cmpint(unshare(CLONE_NEWPID), ==, 0);
  pid_t pid = fork();
  if (pid == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
      (void)pause();
  }
  g_assert_cmpint(write(report, &pid, sizeof pid), ==, sizeof pid);
}

static void test_pid_namespace(void) {
  int ends[2];
  pid_t inner;
  g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
  pid_t outer = start(have_child, ends[1]);
  g_assert_cmpint(read(ends[0], &inner, sizeof inner), ==, sizeof inner);
  ProcessSight of_outer = sight_of(outer), of_inner = sight_of(inner);
  (void)close(ends[0]);
  (void)close(ends[1]);
  end(outer);
  g_assert_cmphex(of_outer.common[0], ==, of_inner.common[0]);
  g_assert_cmpint(memcmp(of_outer.common, of_inner.common, sizeof of_outer.common), !=, 0);
}

static void go_elsewhere(int unused) {
  (void)unused;
  g_assert_cmpint(chdir("/tmp"), ==, 0);
}

static void have_other_root(int unused) {
  (void)unused;
  g_assert_cmpint(chroot("/usr"), ==, 0);
}

/* A place is the same wherever one comes from; what was copied by fork(2) is not. */
static void test_places(void) {
  pid_t one = start(nothing, 0), other = start(nothing, 0), away = start(go_elsewhere, 0), rooted = start(have_other_root, 0);
  ProcessSight a = sight_of(one), b = sight_of(other), c = sight_of(away), d = sight_of(rooted);
  pid_t all[] = {one, other, away, rooted};
  for (guint i = 0; i < G_N_ELEMENTS(all); i++)
    end(all[i]);
  g_assert_cmpint(memcmp(a.cwd, b.cwd, sizeof a.cwd), ==, 0);
  g_assert_cmpint(memcmp(a.root, b.root, sizeof a.root), ==, 0);
  g_assert_cmphex(a.exe, ==, b.exe);
  g_assert_true(a.exe && a.cwd[0] && a.cwd[1] && a.root[0] && a.root[1]);
  g_assert_cmpint(memcmp(a.cwd, c.cwd, sizeof a.cwd), !=, 0);
  g_assert_cmpint(memcmp(a.root, c.root, sizeof a.root), ==, 0);
  g_assert_cmpint(memcmp(a.root, d.root, sizeof a.root), !=, 0);
  g_assert_cmpint(memcmp(a.cwd, d.cwd, sizeof a.cwd), ==, 0);
  g_assert_true(a.memory != b.memory && a.files != b.files && a.fs != b.fs);
}

static int wait_shared(void *ready) {
  g_assert_cmpint(write(*(int *)ready, "", 1), ==, 1);
  while (pause() < 0)
    ;
  return 0;
}

static void test_shared(void) {
  static _Alignas(64) unsigned char stacks[3][65536];
  static const int flags[] = {CLONE_VM, CLONE_FILES, CLONE_FS};
  int ready[2];
  g_assert_cmpint(pipe2(ready, O_CLOEXEC), ==, 0);
  ProcessSight own = sight_of(getpid());
  for (int i = 0; i < 3; i++) {
    char byte;
    pid_t pid = clone(wait_shared, stacks[i] + sizeof stacks[i], flags[i] | SIGCHLD, &ready[1]);
    g_assert_cmpint(pid, >, 0);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    ProcessSight s = sight_of(pid);
    end(pid);
    g_assert_cmpint(s.memory == own.memory, ==, flags[i] == CLONE_VM);
    g_assert_cmpint(s.files == own.files, ==, flags[i] == CLONE_FILES);
    g_assert_cmpint(s.fs == own.fs, ==, flags[i] == CLONE_FS);
  }
  (void)close(ready[0]);
  (void)close(ready[1]);
}

static void test_gone(void) {
  pid_t c = start(nothing, 0);
  ProcessSight sight;
  bool seen = true;
  g_autoptr(GError) error = NULL;
  end(c);
  g_assert_null(process_look_vmas(look, c, &sight, &seen, &error));
  g_assert_false(seen);
  g_assert_nonnull(error);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  types = kernel_types_open();
  look = types ? process_look_new(types) : NULL;
  if (!look) {
    g_print("1..0 # SKIP nobody may look at the kernel's own here (CAP_BPF, CAP_PERFMON, BTF)\n");
    return 0;
  }
  g_test_add_func("/process-look/flags", test_flags);
  g_test_add_func("/process-look/many", test_many);
  g_test_add_func("/process-look/differences", test_differences);
  g_test_add_func("/process-look/pid-namespace", test_pid_namespace);
  g_test_add_func("/process-look/places", test_places);
  g_test_add_func("/process-look/shared", test_shared);
  g_test_add_func("/process-look/gone", test_gone);
  int result = g_test_run();
  process_look_free(look);
  kernel_types_free(types);
  return result;
}

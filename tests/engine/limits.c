/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes at their limits. A dump needs one mapping more in each; where there is no room for it, it says what is in the way.
 *   space, data   near RLIMIT_AS and RLIMIT_DATA, with room for it: comes back
 *   full          at RLIMIT_AS: refused
 *   locked        at RLIMIT_MEMLOCK with everything to be locked in future: refused
 *   maps          as many mappings as vm.max_map_count allows: refused */

#include "subject.h"
#include <grp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { PAGE = 4096 };

static size_t status_kb(const char *key) {
  char *text = subject_read("/proc/self/status", NULL), *at = strstr(text, key);
  check(at, "no %s", key);
  size_t kb = strtoul(at + strlen(key), NULL, 10);
  free(text);
  return kb;
}

static void limit(__rlimit_resource_t which, size_t bytes) {
  struct rlimit r = {bytes, bytes};
  check_call(setrlimit(which, &r) == 0);
}

static void make_space(void) {
  limit(RLIMIT_AS, (status_kb("VmSize:") << 10) + (16 << 20));
}

static void make_data(void) {
  limit(RLIMIT_DATA, (status_kb("VmData:") << 10) + (64 << 10));
}

static void make_full(void) {
  limit(RLIMIT_AS, (status_kb("VmSize:") << 10) + PAGE);
}

static void make_locked(void) {
  check_call(setgroups(0, NULL) == 0 && setresgid(65534, 65534, 65534) == 0);
  limit(RLIMIT_MEMLOCK, 64 << 10);
  check_call(setresuid(65534, 65534, 65534) == 0);
  check_call(mlockall(MCL_FUTURE) == 0);
  while (mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
    ;
}

static void make_maps(void) {
  size_t most = strtoul(subject_read("/proc/sys/vm/max_map_count", NULL), NULL, 10);
  if (most > 100000)
    subject_skip("vm.max_map_count is too high");
  char *p = mmap(NULL, 2 * most * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check_call(p != MAP_FAILED);
  size_t i = 0;
  while (i < most && mprotect(p + 2 * i * PAGE, PAGE, PROT_READ) == 0)
    i++;
  check_call(errno == ENOMEM && i > most / 3);
  while (mmap(NULL, PAGE, i++ & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
    ;
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*make)(void);
  } cases[] = {{"space", make_space}, {"data", make_data}, {"full", make_full}, {"locked", make_locked}, {"maps", make_maps}};
  subject_begin(argc, argv);
  char path[4096];
  subject_path(path, sizeof path, "x");
  *strrchr(path, '/') = 0;
  check_call(chmod(path, 01777) == 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (argc > 2 && strcmp(argv[2], cases[i].name) == 0)
      cases[i].make();
  subject_say("ready", "");
  while (!subject_checking())
    subject_tick();
  return subject_pass();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes at their limits. A dump needs one mapping more in each; where there is no room for it, it says what is in the way.
 *   space, data   near RLIMIT_AS and RLIMIT_DATA, with room for it: comes back
 *   full          at RLIMIT_AS: refused
 *   locked        at RLIMIT_MEMLOCK with everything to be locked in future: refused
 *   maps          as many mappings as vm.max_map_count allows: refused
 *   among         at RLIMIT_AS, three of 40 children: refused, and none of the others keeps what it had been lent for that */

#include "subject.h"
#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

enum { CHILDREN = 40, FULL_EACH = 13 };
static pid_t children[CHILDREN];
static char maps_before[1 << 16];

static void read_maps(char *text, size_t size) {
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  size_t n = 0;
  for (ssize_t r; fd >= 0 && (r = read(fd, text + n, size - 1 - n)) > 0; n += (size_t)r)
    ;
  text[n] = '\0';
  (void)close(fd);
  check_call(n > 0);
}

/* Nothing here may map anything itself. */
static void live_among(int number, int ready) {
  static char now[sizeof maps_before];
  check_call(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
  if (number % FULL_EACH == FULL_EACH - 1)
    make_full();
  read_maps(maps_before, sizeof maps_before);
  check_call(write(ready, "", 1) == 1);
  while (!subject_checking())
    subject_tick();
  read_maps(now, sizeof now);
  check(strcmp(now, maps_before) == 0, "child %d: other mappings than before:\n%s", number, now);
  _exit(0);
}

static void make_among(void) {
  int ready[2];
  char byte;
  check_call(pipe2(ready, O_CLOEXEC) == 0);
  for (int i = 0; i < CHILDREN; i++) {
    children[i] = fork();
    check_call(children[i] >= 0);
    if (!children[i])
      live_among(i, ready[1]);
    check_call(read(ready[0], &byte, 1) == 1);
  }
}

static void check_among(void) {
  for (int i = 0; i < CHILDREN; i++) {
    int status;
    check_call(waitpid(children[i], &status, 0) == children[i]);
    check(status == 0, "child %d ended with 0x%x", i, (unsigned)status);
  }
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*make)(void);
  } cases[] = {{"space", make_space}, {"data", make_data}, {"full", make_full}, {"locked", make_locked}, {"maps", make_maps}, {"among", make_among}};
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
  if (children[0])
    check_among();
  return subject_pass();
}
